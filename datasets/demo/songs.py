"""The demo corpus of songs with lyrics: neither music nor lyrics alone tell the labels.

The music is that of `tuning.datasets.demo.music`; the lyrics, of `tuning.datasets.demo.lyrics`, are independent.
Valence and arousal are weighted means of both (Ali & Peynircioglu 2006, "Songs and emotions: are lyrics and melodies
equal partners?"). The corpus has a small text encoder that was pretrained on other lyrics of the same words.
"""

import functools
from dataclasses import replace

import numpy as np

from tuning.datasets import storage
from tuning.datasets.corpus import Corpus
from tuning.datasets.demo import lyrics as demo_lyrics
from tuning.datasets.demo import music
from tuning.datasets.demo.writer import CorpusWriter, load_demo
from tuning.datasets.settings import DataSettings

VERSION = 1  # raise when the sound, the words, the labels or the encoder change
NAME = f"demo_bimodal-{VERSION}"
ENCODER = "encoder"  # folder of the text encoder below the corpus root
CLIP_SECONDS = 3
NUM_ARTISTS = 20
CLIPS_PER_ARTIST = 10
FIRST_ARTIST = 100  # other artists than those of the demo corpus
LYRICS, BIAS, NOISE = 3, 4, 5  # first number of their seeds; 1 is that of the encoder's lyrics
VALENCE_WEIGHTS, AROUSAL_WEIGHTS = (0.5, 0.5), (0.7, 0.3)  # of music and lyrics
ARTIST_BIAS = 0.04  # standard deviation of the raters' bias for an artist
LABEL_NOISE = 0.04  # standard deviation of the ratings
FACTORS = ("music_valence", "music_arousal", "lyric_valence", "lyric_arousal")
COLUMNS = ("lyrics", "valence", "arousal", "quadrant", "artist", *FACTORS)


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the songs, with numbers if there are `targets`, else with quadrants; build them first if they are missing.

    Raises ValueError when `data.root` is set.
    """
    if targets:
        data = data.model_copy(update={"label_column": None})
    return load_demo(data, targets, NAME, build)


def encoder_folder(data: DataSettings) -> str:
    """Folder or URI of the text encoder, in Hugging Face's format; it exists once the corpus was loaded."""
    return storage.below(storage.absolute(data.prepared), "corpora", NAME, ENCODER)


def build(root: str) -> None:
    """Write 200 WAV files (16 bit, 16 kHz, 3 s), their lyrics, the encoder and the manifest; about 10 s on one core."""
    corpus = CorpusWriter(root, COLUMNS, music.SAMPLE_RATE_HZ)
    for artist in range(NUM_ARTISTS):
        for number in range(CLIPS_PER_ARTIST):
            _add_song(corpus, artist, number)
    if corpus.has_sounds:
        from tuning.datasets.demo.text_encoder import build_encoder  # torch

        build_encoder(storage.below(root, ENCODER))
    corpus.close()


def _add_song(corpus: CorpusWriter, artist: int, number: int) -> None:
    """Draw music and lyrics independently, and write the song with the labels of both."""
    timbre = replace(music.draw_timbre(FIRST_ARTIST + artist), bias=(0.0, 0.0))
    piece = music.draw_piece(FIRST_ARTIST + artist, number, timbre)
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
    corpus.add(f"audio/{name}.wav", functools.partial(music.render, piece, timbre, CLIP_SECONDS), values)


def quadrant(valence: float, arousal: float) -> str:
    """Russell's quadrant: Q1 happy, Q2 tense, Q3 sad, Q4 calm; zero counts as positive."""
    if arousal >= 0:
        return "Q1" if valence >= 0 else "Q2"
    return "Q4" if valence >= 0 else "Q3"
