"""A small corpus of songs with lyrics that is made, not downloaded: neither the music nor the words alone decide.

The music is that of `tuning.datasets.demo.music`, the words are those of `tuning.datasets.demo.lyrics`, drawn
independently of it. What is felt is a mean of both (Ali & Peynircioglu 2006, "Songs and emotions: are lyrics and
melodies equal partners?"): half and half in valence, more of the music in arousal. Beside the songs lies a small text
encoder that has read other lyrics of the same words.
"""

from dataclasses import replace

from tuning.datasets import storage
from tuning.datasets.corpus import Corpus
from tuning.datasets.demo import lyrics as demo_lyrics
from tuning.datasets.demo import music as demo
from tuning.datasets.demo.writer import CorpusWriter, load_made
from tuning.datasets.settings import DataSettings

VERSION = 1  # raised by hand when the sound, the words, the labels or the encoder change
NAME = f"demo_bimodal-{VERSION}"
ENCODER = "encoder"  # folder of the text encoder, beside the songs
CLIP_SECONDS = 3
NUM_ARTISTS = 20
CLIPS_PER_ARTIST = 10
FIRST_ARTIST = 100  # the music is not that of the demo's artists
LYRICS, BIAS, NOISE = 3, 4, 5  # first number of their seeds; 1 is of what the encoder reads
VALENCE_WEIGHTS, AROUSAL_WEIGHTS = (0.5, 0.5), (0.7, 0.3)  # of music and lyrics
ARTIST_BIAS = 0.04  # standard deviation of what raters hear into an artist's songs
LABEL_NOISE = 0.04  # standard deviation, as raters do not quite agree
FACTORS = ("music_valence", "music_arousal", "lyric_valence", "lyric_arousal")
COLUMNS = ("lyrics", "valence", "arousal", "quadrant", "artist", *FACTORS)


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """The songs with numbers where there are targets, else with quadrants; built first where they are absent.

    Raises ValueError when `data.root` is set.
    """
    if targets:
        data = data.model_copy(update={"label_column": None})
    return load_made(data, targets, NAME, build)


def encoder_folder(data: DataSettings) -> str:
    """Folder or URI of the text encoder, in the format of Hugging Face; there once the corpus is loaded."""
    return storage.below(storage.absolute(data.prepared), "corpora", NAME, ENCODER)


def build(root: str) -> None:
    """Write 200 WAV files (16 bit, 16 kHz, 3 s), their lyrics, the encoder and the manifest; about 10 s on one core."""
    from tuning.datasets.demo.text_encoder import build_encoder

    corpus = CorpusWriter(root, COLUMNS, demo.SAMPLE_RATE_HZ)
    for artist in range(NUM_ARTISTS):
        for number in range(CLIPS_PER_ARTIST):
            _add_song(corpus, artist, number)
    build_encoder(storage.below(root, ENCODER))
    corpus.close()


def _add_song(corpus: CorpusWriter, artist: int, number: int) -> None:
    """Draw music and words apart from each other, and write what is felt of both."""
    import numpy as np

    timbre = replace(demo.draw_timbre(FIRST_ARTIST + artist), bias=(0.0, 0.0))
    piece = demo.draw_piece(FIRST_ARTIST + artist, number, timbre)
    lyrics = demo_lyrics.draw(VERSION, LYRICS, artist, number)
    bias = np.random.default_rng([VERSION, BIAS, artist]).normal(0, ARTIST_BIAS, size=2)
    noise = np.random.default_rng([VERSION, NOISE, artist, number]).normal(0, LABEL_NOISE, size=2)
    both = np.array([[piece.valence, lyrics.valence], [piece.arousal, lyrics.arousal]])
    felt = (both * [VALENCE_WEIGHTS, AROUSAL_WEIGHTS]).sum(axis=1) + bias + noise
    valence, arousal = np.clip(felt, -1, 1).round(4).tolist()
    name = f"artist_{artist + 1:02d}/song_{number + 1:02d}"
    storage.write_bytes(corpus.root, f"lyrics/{name}.txt", lyrics.text.encode())
    values = {
        "lyrics": f"lyrics/{name}.txt",
        "valence": f"{valence:.4f}",
        "arousal": f"{arousal:.4f}",
        "quadrant": quadrant(valence, arousal),
        "artist": f"artist_{artist + 1:02d}",
    }
    factors = (piece.valence, piece.arousal, lyrics.valence, lyrics.arousal)
    values |= {factor: f"{value:.4f}" for factor, value in zip(FACTORS, factors, strict=True)}
    corpus.add(f"audio/{name}.wav", demo.render(piece, timbre, CLIP_SECONDS), values)


def quadrant(valence: float, arousal: float) -> str:
    """Russell's quadrant: Q1 happy, Q2 tense, Q3 sad, Q4 calm; zero counts as above."""
    if arousal >= 0:
        return "Q1" if valence >= 0 else "Q2"
    return "Q4" if valence >= 0 else "Q3"
