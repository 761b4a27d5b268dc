import librosa
import numpy as np
import pytest
import scipy.signal
from pydantic import ValidationError

from tests.helpers.recordings import tone
from tuning.datasets.features.waveform_effects import DEPENDS_ON, EFFECTS, apply, version_rng
from tuning.datasets.settings import AugmentSettings

RATE = 16000


def sine(hz, seconds=2.0, rate=RATE):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def peak_hz(waveform, rate=RATE):
    """Frequency of the strongest bin of one long FFT, between bins by a parabola through the logarithms."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) + 1e-12
    top = int(spectrum[1:-1].argmax()) + 1
    left, middle, right = np.log(spectrum[top - 1 : top + 2])
    return (top + 0.5 * (left - right) / (left - 2 * middle + right)) * rate / len(waveform)


def changed(effect, waveform, rate=RATE, seed=0, **settings):
    return EFFECTS[effect](waveform, rate, np.random.default_rng(seed), AugmentSettings(**settings))


def rms(waveform):
    return np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))


@pytest.mark.parametrize("rate", [0.8, 1.0, 1.25])
def test_stretch_changes_the_duration_and_not_the_pitch(rate):
    stretched = changed("stretch", sine(440), stretch_range=(rate, rate))
    assert len(stretched) == round(2 * RATE / rate)
    assert peak_hz(stretched) == pytest.approx(440, rel=0.003)


@pytest.mark.parametrize("seed", range(4))
def test_pitch_moves_by_the_semitones_drawn(seed):
    # The first uniform number of the generator is the one that decides.
    semitones = np.random.default_rng(seed).uniform(-2, 2)
    shifted = changed("pitch", sine(440), seed=seed)
    assert len(shifted) == 2 * RATE
    assert peak_hz(shifted) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.003)


@pytest.mark.parametrize("rate", [0.9, 1.1])
def test_speed_changes_duration_and_pitch_together(rate):
    played = changed("speed", sine(440), speed_range=(rate, rate))
    assert len(played) == round(2 * RATE / rate)
    assert peak_hz(played) == pytest.approx(440 * rate, rel=1e-4)
    # A faster tone is the tone of that frequency, away from the ends of the filter.
    expected = sine(440 * rate, len(played) / RATE)[: len(played)]
    np.testing.assert_allclose(played[1000:-1000], expected[1000:-1000], atol=2e-3)


@pytest.mark.parametrize("loudness", [1.0, 0.01])
def test_noise_is_white_and_its_rms_a_share_of_the_peak(loudness):
    waveform = np.float32(loudness) * sine(440, 4)
    added = changed("noise", waveform, noise_range=(0.01, 0.01)) - waveform
    assert rms(added) == pytest.approx(0.01 * 0.3 * loudness, rel=0.02)
    _, density = scipy.signal.welch(added, RATE, nperseg=256)
    assert density[1:-1].max() / density[1:-1].min() < 2
    correlation = np.corrcoef(added, waveform)[0, 1]
    assert abs(correlation) < 0.02


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.5])
def test_reverberation_time_by_schroeder_integration(seconds):
    impulse = np.zeros(RATE, dtype=np.float32)
    impulse[0] = 1
    response = changed("room", impulse, room_seconds=(seconds, seconds))
    tail = response[1:].astype(np.float64)
    # What is left of the energy after each moment (Schroeder 1965); the slope from -5 to -25 dB, as in ISO 3382.
    left = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2) + 1e-12)
    used = (left <= -5) & (left >= -25)
    slope = np.polyfit(np.flatnonzero(used) / RATE, left[used], 1)[0]
    assert -60 / slope == pytest.approx(seconds, rel=0.1)
    assert response[0] ** 2 == pytest.approx((tail**2).sum(), rel=1e-3)  # direct sound as strong as the room


def test_a_room_keeps_length_level_and_onset():
    waveform = np.concatenate([np.zeros(RATE // 2, dtype=np.float32), tone(1, rate=RATE)])
    wet = changed("room", waveform)
    assert len(wet) == len(waveform)
    assert rms(wet) == pytest.approx(rms(waveform), rel=1e-3)
    assert np.abs(wet[: RATE // 2 - 1]).max() < 1e-5


def vowel(formant_hz, pitch_hz=120, seconds=1.5, rate=RATE):
    """A pulse train through one resonance."""
    pulses = np.zeros(round(seconds * rate))
    pulses[:: rate // pitch_hz] = 1
    radius = np.exp(-np.pi * 120 / rate)
    poles = [1, -2 * radius * np.cos(2 * np.pi * formant_hz / rate), radius**2]
    return (0.05 * scipy.signal.lfilter([1], poles, pulses)).astype(np.float32)


def resonance_hz(waveform, rate=RATE):
    """The pole of a linear prediction of order 2."""
    pole = np.roots(librosa.lpc(waveform.astype(np.float64), order=2))
    return abs(np.angle(pole[0])) * rate / (2 * np.pi)


def pitch_hz(waveform, rate=RATE):
    """The lag of the strongest autocorrelation between 50 and 400 Hz."""
    correlation = scipy.signal.correlate(waveform, waveform, method="fft")[len(waveform) - 1 :]
    lags = np.arange(rate // 400, rate // 50)
    return rate / lags[correlation[lags].argmax()]


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_formants_move_and_the_pitch_stays(factor):
    waveform = vowel(1000)
    assert resonance_hz(waveform) == pytest.approx(1000, rel=0.03)
    shifted = changed("formant", waveform, formant_range=(factor, factor))
    assert resonance_hz(shifted) / resonance_hz(waveform) == pytest.approx(factor, rel=0.03)
    assert pitch_hz(shifted) == pytest.approx(pitch_hz(waveform), rel=0.01)
    assert len(shifted) == len(waveform)
    assert rms(shifted) == pytest.approx(rms(waveform), rel=1e-3)


def test_a_factor_of_one_leaves_the_sound_as_it_is():
    waveform = vowel(1000)
    assert rms(changed("formant", waveform, formant_range=(1, 1)) - waveform) < 1e-3 * rms(waveform)
    np.testing.assert_allclose(changed("speed", waveform, speed_range=(1, 1)), waveform, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("num_samples", [1, 2, 100, 1023, 1024, 5000])
def test_short_and_silent_clips_stay_finite(effect, num_samples):
    for waveform in (tone(1, rate=RATE)[:num_samples], np.zeros(num_samples, dtype=np.float32)):
        found = apply(effect, waveform, RATE, np.random.default_rng(0), AugmentSettings(), 10_000, "middle")
        assert found.dtype == np.float32
        assert found.ndim == 1 and len(found) >= 1
        assert np.isfinite(found).all()
        if not waveform.any():
            assert not found.any()


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_same_seed_gives_the_same_sound_and_leaves_the_recording_alone(effect):
    waveform = tone(0.5, rate=RATE)
    before = waveform.copy()
    one, again, other, elsewhere = (
        apply(effect, waveform, RATE, version_rng(digest, effect, version), AugmentSettings(), RATE, "middle")
        for digest, version in (("a", 0), ("a", 0), ("a", 1), ("b", 0))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, elsewhere)
    assert not np.array_equal(one, waveform)
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize(("effect", "name"), [("stretch", "stretch_range"), ("speed", "speed_range")])
def test_a_shortened_long_clip_still_fills_the_frames(effect, name):
    keep = RATE
    settings = AugmentSettings(**{name: (1.2, 1.2)})
    found = apply(effect, tone(3, rate=RATE), RATE, np.random.default_rng(0), settings, keep, "middle")
    assert keep <= len(found) <= keep + 2


def test_every_effect_has_a_probability_and_its_settings():
    settings = AugmentSettings(**{f"{effect}_prob": 0.1 for effect in EFFECTS})
    assert settings.effects() == dict.fromkeys(EFFECTS, 0.1)
    assert DEPENDS_ON.keys() == EFFECTS.keys()
    assert set(DEPENDS_ON.values()) <= set(AugmentSettings.model_fields)
    assert AugmentSettings().effects() == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pitch_prob": 1.5}, "pitch_prob"),
        ({"stretch_range": (1.2, 0.8)}, r"stretch_range: expected .* from 0.5 to 2, got \[1.2, 0.8\]"),
        ({"speed_range": (0.1, 1.0)}, "speed_range: expected"),
        ({"room_seconds": (0.0, 1.0)}, "room_seconds: expected"),
        ({"versions": 0}, "versions"),
    ],
)
def test_impossible_settings_are_named(wrong, message):
    with pytest.raises(ValidationError, match=message):
        AugmentSettings(**wrong)


def test_probabilities_may_use_up_everything():
    assert sum(AugmentSettings(**{f"{effect}_prob": 1 / 6 for effect in EFFECTS}).effects().values()) <= 1 + 1e-9
