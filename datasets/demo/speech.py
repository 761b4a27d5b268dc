"""The demo corpus of speech: synthesised utterances of twelve speakers in five emotions.

The voice is a pulse train, vowels are resonances (Peterson & Barney 1952), breath and consonants are noise. As in acted
speech (Juslin & Laukka 2003, "Communication of emotions in vocal expression"), anger is loud, fast and bright;
happiness high, wide and fast; sadness low, flat, slow and breathy; surprise high and rising. Emotions overlap and vary
in strength. Each speaker has a pitch, vocal tract, voice and microphone, so that speakers have to be kept on one side
of a split, as with real recordings.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from tuning.datasets.corpus import Corpus
from tuning.datasets.demo.writer import CorpusWriter, load_demo
from tuning.datasets.settings import DataSettings

VERSION = 1  # raise when the sound or the labels change
SAMPLE_RATE_HZ = 16000
NUM_SPEAKERS = 12
CLIPS_PER_EMOTION = 6  # per speaker: two statements, three times each
STATEMENTS = ("aiueoaei", "ouaieuoa")  # a vowel per syllable
VOWELS_HZ = {  # the first four formants of an adult man
    "a": (730, 1090, 2440, 3400),
    "e": (530, 1840, 2480, 3500),
    "i": (270, 2290, 3010, 3600),
    "o": (570, 840, 2410, 3300),
    "u": (300, 870, 2240, 3300),
}
BANDWIDTHS_HZ = (70, 100, 140, 200)
SYLLABLE_SECONDS = 0.22
PAUSE_SECONDS = 0.1  # before and after the speech
# Pitch above the speaker's own, its range and its slope from begin to end (semitones), change of the rate (share),
# loudness (dB), brightness and breathiness (-1 to 1).
EMOTIONS = {
    "angry": (2.5, 4.0, -3.0, 0.15, 6.0, 1.0, -0.8),
    "happy": (4.5, 6.0, 0.0, 0.15, 2.5, 0.3, 0.0),
    "neutral": (0.0, 2.0, -2.0, 0.0, 0.0, 0.0, 0.0),
    "sad": (-1.0, 1.0, -2.5, -0.2, -5.0, -0.7, 1.0),
    "surprised": (6.0, 6.0, 7.0, -0.05, 2.0, -0.1, 0.8),
}
SPREAD = (1.0, 0.6, 1.0, 0.05, 1.2, 0.15, 0.2)  # standard deviations of these seven
COLUMNS = ("emotion", "speaker", "gender", "statement", "strength", "pitch_hz", "rate", "loudness_db")


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the corpus; build it first if it is missing. Raises ValueError when `data.root` is set."""
    return load_demo(data, targets, f"demo_speech-{VERSION}", build)


def build(root: str) -> None:
    """Write 360 WAV files (16 bit, 16 kHz, about 2 s) and the manifest under `root`; about 3 s on one core."""
    corpus = CorpusWriter(root, COLUMNS, SAMPLE_RATE_HZ)
    takes = itertools.product(range(NUM_SPEAKERS), EMOTIONS, range(CLIPS_PER_EMOTION))
    for number, emotion, take in takes:
        speaker = _speaker(number)
        speech = _speech(number, speaker, emotion, take)
        values = {
            "emotion": emotion,
            "speaker": f"speaker_{number + 1:02d}",
            "gender": speaker.gender,
            "statement": speech.statement + 1,
            "strength": f"{speech.strength:.2f}",
            "pitch_hz": f"{speech.pitch_hz:.1f}",
            "rate": f"{speech.rate:.2f}",
            "loudness_db": f"{speech.loudness_db:.1f}",
        }
        name = f"speaker_{number + 1:02d}/{emotion}_{take + 1}.wav"
        corpus.add(name, functools.partial(_render, speech, speaker), values)
    corpus.close()


@dataclass(frozen=True)
class Speaker:
    """The voice and the microphone of a speaker."""

    gender: str
    pitch_hz: float
    tract: float  # factor on all formants, higher for a shorter vocal tract
    rolloff: float  # harmonic n of the voice has amplitude n ** -rolloff
    breath: float  # share of noise in the voice
    rate: float
    gain_db: float
    expression: float  # factor on the changes by an emotion
    microphone: tuple[float, float]  # slope in dB per octave, and its centre in Hz
    noise_db: float  # of the room, relative to the speech


@dataclass(frozen=True)
class Speech:
    """One utterance: what is said, and how."""

    seed: tuple[int, ...]
    statement: int
    strength: float  # of the emotion
    pitch_hz: float
    range_semitones: float
    slope_semitones: float
    rate: float  # 1 is SYLLABLE_SECONDS per syllable
    loudness_db: float
    rolloff: float
    breath: float


def _speaker(number: int) -> Speaker:

    rng = np.random.default_rng([VERSION, number])
    female = number % 2 == 1
    return Speaker(
        gender="F" if female else "M",
        pitch_hz=float((200 if female else 115) * 2 ** (rng.normal(0, 2) / 12)),
        tract=float((1.15 if female else 1.0) * (1 + rng.normal(0, 0.05))),
        rolloff=rng.uniform(0.9, 1.5),
        breath=rng.uniform(0.02, 0.1),
        rate=float(1 + rng.normal(0, 0.08)),
        gain_db=rng.uniform(-3, 3),
        expression=rng.uniform(0.7, 1.2),
        microphone=(rng.uniform(-1.5, 1.5), rng.uniform(800, 2500)),
        noise_db=rng.uniform(-50, -38),
    )


def _speech(number: int, speaker: Speaker, emotion: str, take: int) -> Speech:
    """Draw one utterance of a speaker in an emotion."""

    seed = (VERSION, number, list(EMOTIONS).index(emotion), take)
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.8, 1.2)
    neutral = np.array(EMOTIONS["neutral"])
    acted = neutral + strength * speaker.expression * (np.array(EMOTIONS[emotion]) - neutral)
    pitch, width, slope, rate, loudness, brightness, breathiness = (acted + rng.normal(0, SPREAD)).tolist()
    return Speech(
        seed=seed,
        statement=take % len(STATEMENTS),
        strength=strength,
        pitch_hz=speaker.pitch_hz * 2 ** (pitch / 12),
        range_semitones=max(0.3, width),
        slope_semitones=slope,
        rate=speaker.rate * max(0.5, 1 + rate),
        loudness_db=-24 + loudness + speaker.gain_db,
        rolloff=max(0.4, speaker.rolloff - 0.4 * brightness),
        breath=min(0.5, speaker.breath * 2 ** (2 * breathiness)),
    )


def _render(speech: Speech, speaker: Speaker) -> np.ndarray:
    """The waveform float64 [samples] of an utterance."""

    rng = np.random.default_rng([*speech.seed, 1])
    vowels = STATEMENTS[speech.statement]
    lengths = SYLLABLE_SECONDS / speech.rate * rng.uniform(0.8, 1.2, size=len(vowels))
    starts = PAUSE_SECONDS + np.concatenate([[0], np.cumsum(lengths)])
    sound = np.zeros(int((starts[-1] + PAUSE_SECONDS) * SAMPLE_RATE_HZ))
    voice = _voice(speech, rng, len(sound))
    for vowel, start, seconds in zip(vowels, starts, lengths, strict=False):
        first, size = int(start * SAMPLE_RATE_HZ), int(1.15 * seconds * SAMPLE_RATE_HZ)  # syllables overlap
        piece = voice[first : first + size]
        envelope = np.sin(np.pi * (np.arange(len(piece)) + 0.5) / size) ** 0.6 * rng.uniform(0.7, 1.0)
        _add(sound, first, _resonate(piece * envelope, vowel, speaker.tract * (1 + rng.normal(0, 0.02))))
        _add(sound, first, _consonant(rng))
    sound = _microphone(sound, speaker)
    sound *= 10 ** (speech.loudness_db / 20) / np.sqrt(np.mean(sound**2))
    noise_level = 10 ** ((-24 + speaker.gain_db + speaker.noise_db) / 20)
    return np.tanh(sound + noise_level * rng.standard_normal(len(sound)))  # a soft limiter, so that nothing clips


def _voice(speech: Speech, rng: np.random.Generator, size: int) -> np.ndarray:
    """The voice before the vocal tract: pulses that follow the pitch, and breath."""

    share = np.arange(size) / size
    accents = rng.uniform(2, 3.5)
    melody = np.sin(2 * np.pi * (accents * share + rng.uniform())) * (0.6 + 0.4 * rng.uniform())
    semitones = 0.5 * speech.range_semitones * melody + speech.slope_semitones * (share - 0.5)
    pitch_hz = speech.pitch_hz * 2 ** (semitones / 12)
    pitch_hz *= 1 + 0.01 * np.interp(share, np.linspace(0, 1, 60), rng.standard_normal(60))  # never quite steady
    harmonics = np.arange(1, int(0.47 * SAMPLE_RATE_HZ / np.max(pitch_hz)) + 1)
    amplitudes = harmonics**-speech.rolloff
    cycle = amplitudes @ np.cos(2 * np.pi * np.outer(harmonics, np.arange(2048) / 2048))
    cycle /= np.sqrt(np.sum(amplitudes**2) / 2)
    turns = np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    pulses = cycle[(turns * len(cycle)).astype(np.int64) % len(cycle)]
    return (1 - speech.breath) * pulses + speech.breath * rng.standard_normal(size)


def _resonate(sound: np.ndarray, vowel: str, tract: float) -> np.ndarray:
    """Filter a sound by the formants of a vowel; it gets longer, to fade out."""

    size = 1 << (len(sound) + 512).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    response = np.ones(len(frequency), dtype=complex)
    for formant, bandwidth in zip(VOWELS_HZ[vowel], BANDWIDTHS_HZ, strict=True):
        centre = formant * tract
        response /= 1 - (frequency / centre) ** 2 + 1j * frequency * bandwidth / centre**2
    response *= (1 + frequency / 500) ** 2  # radiation from the lips, and higher formants
    return np.fft.irfft(np.fft.rfft(sound, size) * response, size)


def _consonant(rng: np.random.Generator) -> np.ndarray:
    """A short burst of high-passed noise."""

    size = int(rng.uniform(0.02, 0.06) * SAMPLE_RATE_HZ)
    hiss = np.diff(rng.standard_normal(size + 1)) * np.hanning(size)
    return rng.uniform(0.1, 0.6) * hiss


def _microphone(sound: np.ndarray, speaker: Speaker) -> np.ndarray:

    slope, centre = speaker.microphone
    size = 1 << len(sound).bit_length()
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ), 60) / centre)
    return np.fft.irfft(np.fft.rfft(sound, size) * 10 ** (slope * octaves / 20), size)[: len(sound)]


def _add(sound: np.ndarray, start: int, piece: np.ndarray) -> None:
    """Add a piece to the sound in place, cut at the end."""
    piece = piece[: max(0, len(sound) - start)]
    sound[start : start + len(piece)] += piece
