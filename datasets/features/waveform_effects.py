"""Augmentations of waveforms: each a function of waveform [samples], rate in Hz, random generator and settings.

Several are applied one after the other, in the order of `WAVE_EFFECTS`: what the speaker does (speed, stretch, pitch,
formant), then the room that he speaks in, then noise, which is not heard through the room.
"""

import math
from collections.abc import Callable, Sequence

import librosa
import numpy as np
import scipy

from tuning.datasets.features.audio import cut_segment, resampled
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import WAVE_EFFECTS, AugmentSettings, Segment

# Raise when an effect gives other waveforms than before. Version 2 applies several effects, to a longer segment.
AUGMENTATION_VERSION = 2
WINDOW_SECONDS = 0.064  # of the phase vocoder, which needs two to three periods of the lowest voice
ENVELOPE_SECONDS = 0.002  # quefrencies that make the spectral envelope: below the period of a 500 Hz voice
MAX_GAIN_DB = 40.0  # limit on how much a moved envelope amplifies a frequency
MAX_RATE = 4.0  # the highest tempo that settings allow, by speed and stretch together


def stretch(
    waveform: np.ndarray, sample_rate_hz: int, rng: np.random.Generator, settings: AugmentSettings
) -> np.ndarray:
    """Change the tempo, not the pitch, by a rate from `stretch_range`; a rate above 1 shortens. A phase vocoder."""
    rate = rng.uniform(*settings.stretch_range)
    stretched = _stretched(_pad_to(waveform, _window(sample_rate_hz)), sample_rate_hz, rate)
    return stretched[: max(1, round(len(waveform) / rate))]


def pitch(waveform: np.ndarray, sample_rate_hz: int, rng: np.random.Generator, settings: AugmentSettings) -> np.ndarray:
    """Change the pitch, not the tempo, by up to `pitch_semitones` up or down; formants move along."""
    rate = 2.0 ** (-rng.uniform(-settings.pitch_semitones, settings.pitch_semitones) / 12)
    longer = _stretched(_pad_to(waveform, _window(sample_rate_hz)), sample_rate_hz, rate)
    played = resampled(longer, sample_rate_hz / rate, sample_rate_hz)
    return librosa.util.fix_length(played, size=len(waveform))


def _stretched(waveform: np.ndarray, sample_rate_hz: int, rate: float) -> np.ndarray:
    """Play a waveform of at least a window at another tempo.

    As `librosa.effects.time_stretch`, which in librosa 1.0 warns of its own call of the phase vocoder.
    """
    window = _window(sample_rate_hz)
    # librosa 1.0 reads memory that nobody has written and overwrites it; a NaN that it finds there must not warn.
    with np.errstate(invalid="ignore"):
        spectrum = librosa.phase_vocoder(librosa.stft(waveform, n_fft=window), rate=rate)
    return librosa.istft(spectrum, n_fft=window, dtype=waveform.dtype, length=round(len(waveform) / rate))


def noise(waveform: np.ndarray, sample_rate_hz: int, rng: np.random.Generator, settings: AugmentSettings) -> np.ndarray:
    """Add white noise whose rms is a share from `noise_range` of the clip's peak.

    Relative to the peak, so that the signal-to-noise ratio does not depend on how loud a corpus was recorded.
    """
    level = rng.uniform(*settings.noise_range) * np.abs(waveform).max(initial=0.0)
    return waveform + np.float32(level) * rng.standard_normal(len(waveform), dtype=np.float32)


def speed(waveform: np.ndarray, sample_rate_hz: int, rng: np.random.Generator, settings: AugmentSettings) -> np.ndarray:
    """Play faster or slower by a factor from `speed_range`: tempo and pitch change together (Ko et al. 2015)."""
    rate = rng.uniform(*settings.speed_range)
    length = max(1, round(len(waveform) / rate))
    played = librosa.resample(
        waveform, orig_sr=sample_rate_hz * rate, target_sr=sample_rate_hz, res_type="soxr_hq", fix=False
    )
    return _pad_to(played[:length], length)


def room(waveform: np.ndarray, sample_rate_hz: int, rng: np.random.Generator, settings: AugmentSettings) -> np.ndarray:
    """Add reverberation: noise with the energy of the direct sound that decays by 60 dB in `room_seconds`.

    Polack's model (1988) at the critical distance. Length and rms level stay.
    """
    seconds = rng.uniform(*settings.room_seconds)
    time = np.arange(1, math.ceil(seconds * sample_rate_hz) + 1) / sample_rate_hz
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = np.concatenate([[1.0], tail / np.sqrt((tail**2).sum())])
    wet = scipy.signal.fftconvolve(waveform, response.astype(np.float32))[: len(waveform)]
    return _match_level(waveform, wet)


def formant(
    waveform: np.ndarray, sample_rate_hz: int, rng: np.random.Generator, settings: AugmentSettings
) -> np.ndarray:
    """Move formants by a factor from `formant_range`, as a longer or shorter vocal tract would; pitch and level stay.

    In each frame of the short-time Fourier transform the magnitudes are divided by their cepstral envelope
    (Oppenheim & Schafer) and multiplied by the same envelope stretched along the frequency axis.
    """
    factor = rng.uniform(*settings.formant_range)
    window = _window(sample_rate_hz)
    spectrum = librosa.stft(_pad_to(waveform, window), n_fft=window)
    logs = np.log(np.abs(spectrum) + 1e-6 * np.abs(spectrum).max() + 1e-20)
    cepstra = np.fft.irfft(logs, axis=0)
    kept = max(2, round(ENVELOPE_SECONDS * sample_rate_hz))
    cepstra[kept : len(cepstra) - kept + 1] = 0
    envelope = np.fft.rfft(cepstra, axis=0).real
    bins = np.arange(len(envelope))
    source = np.minimum(bins / factor, len(envelope) - 1)
    below = np.minimum(source.astype(int), len(envelope) - 2)
    share = (source - below)[:, None]
    moved = (1 - share) * envelope[below] + share * envelope[below + 1]
    most = MAX_GAIN_DB / 20 * math.log(10)
    gain = np.exp(np.clip(moved - envelope, -most, most))
    shifted = librosa.istft((spectrum * gain).astype(np.complex64), n_fft=window, length=max(len(waveform), window))
    return _match_level(waveform, shifted[: len(waveform)])


Effect = Callable[[np.ndarray, int, np.random.Generator, AugmentSettings], np.ndarray]
EFFECTS: dict[str, Effect] = {
    "speed": speed,
    "stretch": stretch,
    "pitch": pitch,
    "formant": formant,
    "room": room,
    "noise": noise,
}
# The setting that an effect's waveforms depend on, apart from `versions`.
DEPENDS_ON = {
    "speed": "speed_range",
    "stretch": "stretch_range",
    "pitch": "pitch_semitones",
    "formant": "formant_range",
    "room": "room_seconds",
    "noise": "noise_range",
}
TEMPO = ("speed", "stretch")  # effects that may shorten a clip; they come first
Made = dict[tuple[Sequence[str], Sequence[str]], np.ndarray]  # waveforms by effects of tempo, and by effects so far


def effects_of(combination: str) -> tuple[str, ...]:
    """The effects of a combination such as stretch+noise, in the order in which they are applied."""
    effects = tuple(combination.split("+"))
    assert effects == tuple(effect for effect in WAVE_EFFECTS if effect in effects), combination
    return effects


def apply(
    combination: str,
    waveform: np.ndarray,
    sample_rate_hz: int,
    rng_of: Callable[[str], np.random.Generator],
    settings: AugmentSettings,
    keep_samples: int,
    segment: Segment,
    made: Made | None = None,
) -> np.ndarray:
    """Apply effects one after the other to the segment of `keep_samples` of a waveform; returns float32 [samples].

    Effects that shorten get a longer segment, so that enough is left; what is left over is cut before the other
    effects. `rng_of` gives the random generator of an effect. `made` keeps the waveforms in between: with the same one,
    `stretch+noise` goes on from the waveform of `stretch`.
    """
    effects = effects_of(combination)
    made = {} if made is None else made
    tempo = tuple(effect for effect in effects if effect in TEMPO)
    reach = math.prod(max(1.0, getattr(settings, DEPENDS_ON[effect])[1]) for effect in tempo)
    current = cut_segment(waveform, math.ceil(keep_samples * reach), segment)
    for number, effect in enumerate(effects, start=1):
        key = (tempo, effects[:number])
        if key not in made:
            changed = EFFECTS[effect](current, sample_rate_hz, rng_of(effect), settings)
            changed = cut_segment(changed, keep_samples, segment) if number == len(tempo) else changed
            made[key] = np.ascontiguousarray(changed, dtype=np.float32)
        current = made[key]
    return current


def version_rng(digest: str, effect: str, version: int) -> np.random.Generator:
    """Random generator for one version of a recording under an effect, the same on every machine."""
    return np.random.default_rng(int(digest_of(digest, effect, str(version)), 16))


def _window(sample_rate_hz: int) -> int:
    """Samples of the analysis window: the power of two nearest to 64 ms."""
    return max(16, 1 << round(math.log2(WINDOW_SECONDS * sample_rate_hz)))


def _pad_to(waveform: np.ndarray, length: int) -> np.ndarray:
    """Pad with silence up to `length`; librosa warns of a waveform that is shorter than its window."""
    return np.pad(waveform, (0, max(0, length - len(waveform))))


def _match_level(reference: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """Scale a waveform to the rms level of another; silence stays silence."""
    ours, theirs = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (waveform, reference))
    return waveform * np.float32(theirs / ours) if ours > 0 else waveform
