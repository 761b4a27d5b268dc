"""Wave effects for training clips: each a function of waveform, rate, random generator and settings."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tuning.datasets.features.audio import Segment, cut
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import AugmentSettings

if TYPE_CHECKING:
    import numpy as np

AUGMENTATION_VERSION = 1  # raised by hand when an effect gives other waveforms than before
WINDOW_SECONDS = 0.064  # of the phase vocoder: two to three periods of the lowest voice, as it needs
ENVELOPE_SECONDS = 0.002  # quefrencies that make the spectral envelope: below the period of a 500 Hz voice
MOST_GAIN_DB = 40.0  # that a moved envelope may amplify a frequency by
MOST_RATE = 2.0  # the highest tempo that settings allow


def stretch(
    waveform: "np.ndarray", sample_rate_hz: int, rng: "np.random.Generator", settings: AugmentSettings
) -> "np.ndarray":
    """Another tempo at the same pitch, by librosa's phase vocoder: a rate from `stretch_range`, 1.2 being shorter."""
    from librosa.effects import time_stretch

    rate = rng.uniform(*settings.stretch_range)
    window = _window(sample_rate_hz)
    stretched = time_stretch(_at_least(waveform, window), rate=rate, n_fft=window)
    return stretched[: max(1, round(len(waveform) / rate))]


def pitch(
    waveform: "np.ndarray", sample_rate_hz: int, rng: "np.random.Generator", settings: AugmentSettings
) -> "np.ndarray":
    """Another pitch at the same tempo (formants move along), by up to `pitch_semitones` up or down."""
    from librosa.effects import pitch_shift

    semitones = rng.uniform(-settings.pitch_semitones, settings.pitch_semitones)
    window = _window(sample_rate_hz)
    shifted = pitch_shift(
        _at_least(waveform, window), sr=sample_rate_hz, n_steps=semitones, res_type="soxr_hq", n_fft=window
    )
    return shifted[: len(waveform)]


def noise(
    waveform: "np.ndarray", sample_rate_hz: int, rng: "np.random.Generator", settings: AugmentSettings
) -> "np.ndarray":
    """White noise added, its rms a share from `noise_range` of the clip's peak.

    Relative to the peak, so that the ratio of signal to noise does not hang on how loud a corpus was recorded: 0.001
    of full scale would drown a quiet recording and be nothing beside a loud one.
    """
    import numpy as np

    level = rng.uniform(*settings.noise_range) * np.abs(waveform).max(initial=0.0)
    return waveform + np.float32(level) * rng.standard_normal(len(waveform), dtype=np.float32)


def speed(
    waveform: "np.ndarray", sample_rate_hz: int, rng: "np.random.Generator", settings: AugmentSettings
) -> "np.ndarray":
    """Played faster or slower by a factor from `speed_range`, tempo and pitch together (Ko et al. 2015)."""
    import librosa

    rate = rng.uniform(*settings.speed_range)
    length = max(1, round(len(waveform) / rate))
    played = librosa.resample(
        waveform, orig_sr=sample_rate_hz * rate, target_sr=sample_rate_hz, res_type="soxr_hq", fix=False
    )
    return _at_least(played[:length], length)


def room(
    waveform: "np.ndarray", sample_rate_hz: int, rng: "np.random.Generator", settings: AugmentSettings
) -> "np.ndarray":
    """Heard in a room: the direct sound and, of the same energy, noise that decays by 60 dB in `room_seconds`.

    The model of Polack (1988) at the critical distance. As long as before and at the same rms level.
    """
    import numpy as np
    from scipy.signal import fftconvolve

    seconds = rng.uniform(*settings.room_seconds)
    time = np.arange(1, math.ceil(seconds * sample_rate_hz) + 1) / sample_rate_hz
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = np.concatenate([[1.0], tail / np.sqrt((tail**2).sum())])
    wet = fftconvolve(waveform, response.astype(np.float32))[: len(waveform)]
    return _at_level_of(waveform, wet)


def formant(
    waveform: "np.ndarray", sample_rate_hz: int, rng: "np.random.Generator", settings: AugmentSettings
) -> "np.ndarray":
    """Formants moved by a factor from `formant_range`, pitch and rms level kept: a longer or shorter vocal tract.

    In each frame of the short-time Fourier transform the magnitudes are divided by their cepstral envelope
    (Oppenheim & Schafer) and multiplied by the envelope stretched along the frequency axis.
    """
    import librosa
    import numpy as np

    factor = rng.uniform(*settings.formant_range)
    window = _window(sample_rate_hz)
    spectrum = librosa.stft(_at_least(waveform, window), n_fft=window)
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
    most = MOST_GAIN_DB / 20 * math.log(10)
    gain = np.exp(np.clip(moved - envelope, -most, most))
    shifted = librosa.istft((spectrum * gain).astype(np.complex64), n_fft=window, length=max(len(waveform), window))
    return _at_level_of(waveform, shifted[: len(waveform)])


Effect = Callable[["np.ndarray", int, "np.random.Generator", AugmentSettings], "np.ndarray"]
EFFECTS: dict[str, Effect] = {
    "stretch": stretch,
    "pitch": pitch,
    "noise": noise,
    "speed": speed,
    "room": room,
    "formant": formant,
}
# The settings that an effect's waveforms depend on, beside `versions`.
DEPENDS_ON = {
    "stretch": "stretch_range",
    "pitch": "pitch_semitones",
    "noise": "noise_range",
    "speed": "speed_range",
    "room": "room_seconds",
    "formant": "formant_range",
}


def apply(
    effect: str,
    waveform: "np.ndarray",
    sample_rate_hz: int,
    rng: "np.random.Generator",
    settings: AugmentSettings,
    keep_samples: int,
    segment: Segment,
) -> "np.ndarray":
    """The waveform float32 [samples] after one effect, long enough for its segment of `keep_samples`, where it was.

    Of a long waveform only the segment is changed: as much as an effect that shortens it needs.
    """
    import numpy as np

    reach = {"stretch": settings.stretch_range[1], "speed": settings.speed_range[1]}.get(effect, 1.0)
    used = cut(waveform, math.ceil(keep_samples * max(1.0, reach)), segment)
    return np.ascontiguousarray(EFFECTS[effect](used, sample_rate_hz, rng, settings), dtype=np.float32)


def generator(digest: str, effect: str, version: int) -> "np.random.Generator":
    """Random numbers for one version of a recording under an effect: the same wherever and whenever it is made."""
    import numpy as np

    return np.random.default_rng(int(digest_of(digest, effect, str(version)), 16))


def _window(sample_rate_hz: int) -> int:
    """Samples of the analysis window: the power of two that is nearest to 64 ms."""
    return max(16, 1 << round(math.log2(WINDOW_SECONDS * sample_rate_hz)))


def _at_least(waveform: "np.ndarray", length: int) -> "np.ndarray":
    """The waveform, followed by silence up to `length`: librosa warns of one that is shorter than its window."""
    import numpy as np

    return np.pad(waveform, (0, max(0, length - len(waveform))))


def _at_level_of(reference: "np.ndarray", waveform: "np.ndarray") -> "np.ndarray":
    """The waveform with the rms level of another; silence stays silence."""
    import numpy as np

    ours, theirs = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (waveform, reference))
    return waveform * np.float32(theirs / ours) if ours > 0 else waveform
