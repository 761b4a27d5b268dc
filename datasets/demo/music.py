"""The demo corpus: short synthesised pieces of music with valence and arousal.

A piece is a chord progression with a melody and drums. As in listeners' ratings (Gabrielsson & Lindström 2010, "The
role of structure in the musical expression of emotions"), arousal follows tempo, loudness, drums and brightness, and
valence follows the mode (major or minor), the register, staccato and the tempo. Each artist has a timbre and a bias in
the ratings, so that artists have to be kept on one side of a split, as with real recordings.
"""

import functools
from dataclasses import dataclass

import numpy as np

from tuning.datasets.corpus import Corpus
from tuning.datasets.demo.writer import CorpusWriter, load_demo
from tuning.datasets.settings import DataSettings

VERSION = 1  # raise when the sound or the labels change
SAMPLE_RATE_HZ = 16000
CLIP_SECONDS = 4
NUM_ARTISTS = 24
CLIPS_PER_ARTIST = 10
LABEL_NOISE = 0.05  # standard deviation of the ratings
ARTIST_BIAS = 0.12  # standard deviation of the raters' bias for an artist
PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4), (0, 4, 5, 3))  # degrees of the scale
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones above the tonic
COLUMNS = ("valence", "arousal", "artist", "mode", "tempo_bpm", "loudness_db", "brightness")


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the corpus; build it first if it is missing. Raises ValueError when `data.root` is set."""
    return load_demo(data, targets, f"demo-{VERSION}", build)


def build(root: str) -> None:
    """Write 240 WAV files (16 bit, 16 kHz, 4 s) and the manifest under `root`; about 2 s on one core."""
    corpus = CorpusWriter(root, COLUMNS, SAMPLE_RATE_HZ)
    for artist in range(NUM_ARTISTS):
        timbre = draw_timbre(artist)
        for number in range(CLIPS_PER_ARTIST):
            piece = draw_piece(artist, number, timbre)
            values = {
                "valence": f"{piece.valence:.4f}",
                "arousal": f"{piece.arousal:.4f}",
                "artist": f"artist_{artist + 1:02d}",
                "mode": piece.mode,
                "tempo_bpm": f"{piece.tempo_bpm:.1f}",
                "loudness_db": f"{piece.loudness_db:.1f}",
                "brightness": f"{piece.brightness:.3f}",
            }
            name = f"artist_{artist + 1:02d}/piece_{number + 1:02d}.wav"
            corpus.add(name, functools.partial(render, piece, timbre), values)
    corpus.close()


@dataclass(frozen=True)
class Timbre:
    """The sound of an artist."""

    rolloff: float  # harmonic n has amplitude n ** -rolloff
    even: float  # amplitude of even harmonics, relative to odd ones
    attack_seconds: float
    vibrato: float  # depth as a share of the frequency
    gain_db: float
    bias: tuple[float, float]  # added to valence and arousal


@dataclass(frozen=True)
class Piece:
    """A piece of music and its labels; brightness to arousal are from -1 to 1."""

    seed: tuple[int, ...]
    mode: str
    tonic_hz: float
    tempo_bpm: float
    loudness_db: float
    brightness: float
    drums: float
    staccato: float
    valence: float
    arousal: float


def draw_timbre(artist: int) -> Timbre:
    """Draw the sound of an artist."""

    rng = np.random.default_rng([VERSION, artist])
    return Timbre(
        rolloff=rng.uniform(1.0, 1.6),
        even=rng.uniform(0.4, 1.0),
        attack_seconds=rng.uniform(0.005, 0.03),
        vibrato=rng.uniform(0, 0.004),
        gain_db=rng.uniform(-2, 2),
        bias=tuple(rng.normal(0, ARTIST_BIAS, size=2)),
    )


def draw_piece(artist: int, number: int, timbre: Timbre) -> Piece:
    """Draw a piece of an artist, and derive its labels from the music."""

    seed = (VERSION, artist, number)
    rng = np.random.default_rng(seed)
    happy, lively = rng.uniform(-1, 1, size=2)

    def near(value: float, spread: float) -> float:
        return float(np.clip(value + rng.normal(0, spread), -1, 1))

    mode = "major" if happy + rng.normal(0, 0.3) > 0 else "minor"
    tempo, loudness, brightness, drums = (near(0.9 * lively, 0.2) for _ in range(4))
    register, staccato = (near(0.9 * happy, 0.25) for _ in range(2))
    valence = 0.4 * (1 if mode == "major" else -1) + 0.3 * register + 0.2 * staccato + 0.1 * tempo
    arousal = 0.35 * tempo + 0.3 * loudness + 0.2 * drums + 0.15 * brightness
    felt = np.array([valence, arousal]) + timbre.bias + rng.normal(0, LABEL_NOISE, size=2)
    valence, arousal = np.clip(felt, -1, 1).tolist()
    return Piece(
        seed=seed,
        mode=mode,
        tonic_hz=261.63 * 2 ** ((4 * register + rng.integers(-1, 2)) / 12),
        tempo_bpm=110 * 2 ** (0.7 * tempo),
        loudness_db=-22 + 10 * loudness,
        brightness=brightness,
        drums=drums,
        staccato=staccato,
        valence=valence,
        arousal=arousal,
    )


def render(piece: Piece, timbre: Timbre, seconds: int = CLIP_SECONDS) -> np.ndarray:
    """The waveform float64 [samples] of a piece: on each beat a chord, two melody notes and two drum hits."""

    rng = np.random.default_rng([*piece.seed, 1])
    beat = 60 / piece.tempo_bpm
    num_beats = int(seconds / beat) + 1
    scale = SCALES[piece.mode]
    progression = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    cycle = _cycle(timbre, piece.brightness)
    sound = np.zeros(seconds * SAMPLE_RATE_HZ)
    length = beat * (0.75 - 0.4 * piece.staccato)

    def pitch(degree: int) -> float:
        octave, step = divmod(degree, 7)
        return piece.tonic_hz * 2 ** (octave + scale[step] / 12)

    for index in range(num_beats):
        root = progression[index // 2 % 4]
        for degree in (root, root + 2, root + 4):
            _add(sound, index * beat, 0.3 * _note(pitch(degree), length, cycle, timbre))
        for half in range(2):
            degree = root + 7 + int(rng.choice([0, 2, 4]))
            _add(sound, (index + half / 2) * beat, 0.4 * _note(pitch(degree), length / 2, cycle, timbre))
    sound *= 10 ** ((piece.loudness_db + timbre.gain_db) / 20) / np.sqrt(np.mean(sound**2))
    drum_level = 10 ** ((piece.loudness_db - 12 + 8 * piece.drums) / 20)
    for hit in range(2 * num_beats):
        _add(sound, hit * beat / 2, drum_level * _drum(rng, heavy=hit % 2 == 0))
    return np.tanh(sound)  # a soft limiter, so that nothing clips


def _cycle(timbre: Timbre, brightness: float) -> np.ndarray:
    """One period of an artist's tone [2048]; brightness raises the upper harmonics."""

    harmonics = np.arange(1, 9)
    amplitudes = harmonics ** -(timbre.rolloff - 0.5 * brightness) * np.where(harmonics % 2, 1.0, timbre.even)
    phase = 2 * np.pi * np.arange(2048) / 2048
    return amplitudes @ np.sin(np.outer(harmonics, phase)) / np.sqrt(np.sum(amplitudes**2))


def _note(frequency_hz: float, seconds: float, cycle: np.ndarray, timbre: Timbre) -> np.ndarray:

    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    turns = frequency_hz * (time + timbre.vibrato / 35 * np.sin(35 * time))  # vibrato of 5.6 Hz
    envelope = np.minimum(1, time / timbre.attack_seconds) * np.exp(-1.5 * time / seconds)
    envelope *= np.minimum(1, (seconds - time) / 0.01)
    return envelope * cycle[(turns * len(cycle)).astype(np.int64) % len(cycle)]


def _drum(rng: np.random.Generator, heavy: bool) -> np.ndarray:
    """A drum hit: noise, with a low thump if heavy."""

    time = np.arange(int(0.12 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    stroke = rng.standard_normal(len(time)) * np.exp(-time / 0.02)
    return stroke + 2 * np.sin(2 * np.pi * 70 * time) * np.exp(-time / 0.04) if heavy else 0.6 * stroke


def _add(sound: np.ndarray, start_seconds: float, note: np.ndarray) -> None:
    """Add a note to the sound in place, cut at the end."""
    start = int(start_seconds * SAMPLE_RATE_HZ)
    note = note[: max(0, len(sound) - start)]
    sound[start : start + len(note)] += note
