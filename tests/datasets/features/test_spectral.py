import warnings

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch

from tests.helpers.recordings import SMALL, tone
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import FrontEnd, extract
from tuning.datasets.settings import FeatureSettings

DEFAULTS = FeatureSettings()


def slaney_mel(hz):
    return np.where(hz < 1000, hz / (200 / 3), 15 + np.log(np.maximum(hz, 1e-9) / 1000) / (np.log(6.4) / 27))


def slaney_hz(mel):
    return np.where(mel < 15, mel * (200 / 3), 1000 * np.exp((mel - 15) * (np.log(6.4) / 27)))


def literal_filters(settings):
    """Triangles between neighbouring mel points, each of unit area in Hz (Slaney 1998)."""
    fmax = settings.fmax_hz or settings.sample_rate_hz / 2
    edges = slaney_hz(np.linspace(slaney_mel(settings.fmin_hz), slaney_mel(fmax), settings.num_mels + 2))
    bins = np.arange(settings.window_samples // 2 + 1) * settings.sample_rate_hz / settings.window_samples
    filters = np.zeros((settings.num_mels, len(bins)))
    for band in range(settings.num_mels):
        low, centre, high = edges[band : band + 3]
        rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
        filters[band] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return filters


def literal_decibels(waveform, settings, num_frames):
    """Frame by frame: periodic Hann window, squared magnitude of the FFT, mel, dB above a fixed floor."""
    half = settings.window_samples // 2
    padded = np.concatenate([np.zeros(half), waveform.astype(np.float64), np.zeros(half)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(settings.window_samples) / settings.window_samples)
    filters = literal_filters(settings)
    out = np.empty((num_frames, settings.num_mels))
    for frame in range(num_frames):
        start = frame * settings.hop_samples
        power = np.abs(np.fft.rfft(window * padded[start : start + settings.window_samples])) ** 2
        out[frame] = np.maximum(10 * np.log10(np.maximum(filters @ power, 1e-300)), settings.db_floor)
    return out


@pytest.mark.parametrize(
    "settings",
    [DEFAULTS, DEFAULTS.model_copy(update={"fmin_hz": 50.0, "fmax_hz": 6000.0, "num_mels": 64, "num_mfcc": 20}), SMALL],
)
@pytest.mark.parametrize("name", ["mel", "mfcc"])
def test_equals_the_literal_formula(settings, name):
    settings = settings.model_copy(update={"name": name})
    num_frames = 20
    waveform = tone(num_samples(num_frames, settings) / settings.sample_rate_hz, rate=settings.sample_rate_hz)
    features, num_valid = extract(waveform, settings, num_frames)
    expected = literal_decibels(waveform, settings, num_frames)
    if name == "mfcc":
        expected = scipy.fft.dct(expected, type=2, norm="ortho", axis=1)[:, : settings.num_mfcc]
    assert num_valid == num_frames
    assert features.dtype == np.float32
    assert features.flags.c_contiguous
    np.testing.assert_allclose(features, expected, atol=2e-3)


def by_librosa(waveform, settings, num_frames):
    """Every kind of features as librosa computes them, called directly."""
    s = settings
    num_valid = min(num_frames, 1 + len(waveform) // s.hop_samples)
    waveform = np.pad(waveform, (0, s.window_samples % 2))  # librosa pads one sample too few for its own last frame
    frames = {"n_fft": s.window_samples, "hop_length": s.hop_samples, "sr": s.sample_rate_hz, "pad_mode": "constant"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=")  # of a waveform that is shorter than its window
        mel = librosa.feature.melspectrogram(y=waveform, n_mels=s.num_mels, fmin=s.fmin_hz, fmax=s.fmax_hz, **frames)
        chroma = librosa.feature.chroma_stft(y=waveform, tuning=0.0, **frames)[:, :num_valid]
    mel = mel[:, :num_valid]
    if s.db_reference == "peak":
        mel = mel / mel.max()
    decibels = librosa.power_to_db(mel, ref=1.0, amin=10 ** (s.db_floor / 10), top_db=None)
    decibels = np.pad(decibels, ((0, 0), (0, num_frames - num_valid)), constant_values=s.db_floor)
    padded = {
        "mel": decibels,
        "mfcc": librosa.feature.mfcc(S=decibels, n_mfcc=s.num_mfcc),
        "chroma": np.pad(chroma, ((0, 0), (0, num_frames - num_valid))),
    }
    blocks = [np.concatenate([padded[part] for part in s.parts])]
    for order in range(1, s.deltas + 1):
        slope = librosa.feature.delta(blocks[0][:, :num_valid], order=order, mode="nearest")
        blocks.append(np.pad(slope, ((0, 0), (0, num_frames - num_valid))))
    return np.concatenate(blocks).T


KINDS = {
    "mfcc": {}, "mel": {"fmin_hz": 50.0, "fmax_hz": 6000.0, "num_mels": 64}, "chroma": {}, "mel+mfcc": {"deltas": 1},
    "mel+chroma": {"db_reference": "peak"}, "mfcc+chroma": {"deltas": 2}, "mel+mfcc+chroma": {"deltas": 2},
}  # fmt: skip
LENGTHS = (1, 2, 159, 160, 161, 399, 2047, 2048, 3200, 16000, 40001)  # samples, below and above window and hop


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("rate", "window", "hop"),
    [(16000, 2048, 800), (16000, 400, 160), (16000, 1024, 256), (16000, 401, 160), (11025, 512, 200), (22051, 255, 99)],
)
def test_every_kind_of_every_length_equals_librosa(name, rate, window, hop):
    changed = {"fmax_hz": 5500.0} if rate == 11025 and "fmax_hz" in KINDS[name] else {}
    settings = FeatureSettings(
        name=name, sample_rate_hz=rate, window_samples=window, hop_samples=hop, num_mfcc=20, **(KINDS[name] | changed)
    )
    num_frames, rng = 40, np.random.default_rng(0)
    for length in LENGTHS:
        waveform = (tone(length / 16000, rate=16000)[:length] + 0.01 * rng.standard_normal(length)).astype(np.float32)
        features, _ = extract(waveform[: num_samples(num_frames, settings)], settings, num_frames)
        expected = by_librosa(waveform[: num_samples(num_frames, settings)], settings, num_frames)
        np.testing.assert_allclose(features, expected, atol=1e-3, rtol=3e-6, err_msg=f"{length} samples")


@pytest.mark.parametrize(("setting", "value"), [("num_frames", 1), ("db_floor", -370.0)])
def test_features_of_no_sound_and_levels_below_float32_are_refused(setting, value):
    with pytest.raises(
        ValueError, match=f"(?s){setting}.*greater than or equal to -200|{setting}: expected at least 2"
    ):
        FeatureSettings(name="mel", **{setting: value})


def test_a_batch_has_the_values_of_its_waveforms_alone():
    settings = FeatureSettings(name="mel+mfcc+chroma", deltas=2, hop_samples=400)
    waveforms, lengths = torch.rand(5, 19 * 400) - 0.5, torch.tensor([7600, 1, 400, 3999, 7599])
    front_end = FrontEnd(settings, 20)
    together, num_valid = front_end(waveforms, lengths)
    assert num_valid.tolist() == [20, 1, 2, 10, 19]
    for row, (waveform, length) in enumerate(zip(waveforms, lengths, strict=True)):
        alone, _ = extract(waveform[:length].numpy(), settings, 20)
        np.testing.assert_array_equal(together[row].numpy(), alone)
    # As on a GPU and in an exported model: sums over a whole batch are rounded otherwise.
    is_sound = torch.arange(waveforms.shape[1]) < lengths[:, None]
    at_once, again = front_end._features(waveforms * is_sound, lengths)
    assert torch.equal(again, num_valid)
    torch.testing.assert_close(at_once, together, atol=2e-4, rtol=3e-6)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_the_waveform_and_are_finite(name):
    settings = FeatureSettings(name=name, hop_samples=400, **KINDS[name])
    waveforms = torch.zeros(2, 8000)
    waveforms[0] = torch.from_numpy(tone(0.5, rate=16000))
    waveforms.requires_grad_()
    features, _ = FrontEnd(settings, 21)(waveforms, torch.tensor([8000, 4000]))
    features.square().sum().backward()
    assert waveforms.grad.isfinite().all()
    assert waveforms.grad[0].abs().max() > 0 and (waveforms.grad[1, 4000:] == 0).all()


def test_a_window_of_an_odd_length_has_all_frames():
    settings = FeatureSettings(name="mel", window_samples=401, hop_samples=160, num_mels=20)
    waveform = tone(0.2, rate=16000)[: num_samples(20, settings)]
    features, num_valid = extract(waveform, settings, 20)
    assert num_valid == 20 and (features.max(axis=1) > -60).all()


def test_a_loud_passage_leaves_silent_frames_alone():
    quiet = 1e-4 * tone(4, rate=16000)
    loud = quiet.copy()
    loud[-16000:] = tone(1, rate=16000)
    alone, beside = (extract(sound, DEFAULTS, 81)[0] for sound in (quiet, loud))
    untouched = (len(quiet) - 16000 - 1024) // 800
    np.testing.assert_array_equal(alone[:untouched], beside[:untouched])
    # librosa's own dB scale would have moved them, or this test would show nothing.
    clipped = [librosa.feature.mfcc(y=sound, sr=16000, n_fft=2048, hop_length=800) for sound in (quiet, loud)]
    assert np.abs(clipped[0][:, :untouched] - clipped[1][:, :untouched]).max() > 1


def test_middle_of_longer_clips():
    settings, num_frames = SMALL, 11
    sound = tone(2)
    need = num_samples(num_frames, settings)
    start = (len(sound) - need) // 2
    expected, _ = extract(sound[start : start + need], settings, num_frames)
    features, num_valid = extract(sound, settings, num_frames)
    assert num_valid == num_frames
    np.testing.assert_array_equal(features, expected)


@pytest.mark.parametrize("name", ["mel", "mfcc"])
def test_shorter_clips_are_followed_by_silence(name):
    settings = SMALL.model_copy(update={"name": name})
    features, num_valid = extract(tone(0.5), settings, 30)
    assert num_valid == 1 + 4000 // 200
    assert features.shape == (30, settings.num_features)
    silence, _ = extract(np.zeros(num_samples(30, settings), dtype=np.float32), settings, 30)
    np.testing.assert_allclose(features[num_valid:], silence[num_valid:], atol=1e-3, rtol=1e-6)  # sums of other order
    if name == "mel":
        assert (features[num_valid:] == -80).all()


@pytest.mark.filterwarnings("error")
def test_clip_shorter_than_the_window():
    features, num_valid = extract(tone(0.02), SMALL, 5)
    assert num_valid == 1
    assert np.isfinite(features).all()
    one_frame, _ = extract(tone(1), SMALL, 1)
    assert one_frame.shape == (1, SMALL.num_features)


def test_floor_is_exact():
    features, _ = extract(np.zeros(4000, dtype=np.float32), SMALL.model_copy(update={"name": "mel"}), 20)
    assert features.dtype == np.float32
    assert (features == -80).all()


def test_parts_stand_side_by_side_in_the_order_of_their_name():
    waveform = tone(1.5, rate=16000)
    whole, num_valid = extract(waveform, DEFAULTS.model_copy(update={"name": "mel+mfcc+chroma"}), 40)
    parts = [extract(waveform, DEFAULTS.model_copy(update={"name": name}), 40)[0] for name in ("mel", "mfcc", "chroma")]
    assert num_valid == 31
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))
    assert whole.shape == (40, 128 + 40 + 12)


def test_chroma_equals_librosa_and_names_the_note():
    settings = DEFAULTS.model_copy(update={"name": "chroma", "window_samples": 4096})
    waveform = librosa.tone(440, sr=16000, length=16000)
    features, num_valid = extract(waveform, settings, 30)
    expected = librosa.feature.chroma_stft(
        y=waveform, sr=16000, n_fft=4096, hop_length=800, tuning=0.0, pad_mode="constant"
    )
    np.testing.assert_allclose(features[:num_valid], expected.T, atol=1e-5)
    assert (features[5:15].argmax(axis=1) == 9).all()  # A, counted from C
    assert (features[num_valid:] == 0).all()


@pytest.mark.parametrize("seconds", [3.0, 0.15])
def test_deltas_are_savitzky_golay_slopes_of_the_valid_frames(seconds):
    settings = DEFAULTS.model_copy(update={"deltas": 2})
    features, num_valid = extract(tone(seconds, rate=16000), settings, 50)
    static, first, second = np.split(features, 3, axis=1)
    for order, found in ((1, first), (2, second)):
        expected = scipy.signal.savgol_filter(
            static[:num_valid], 9, polyorder=order, deriv=order, axis=0, mode="nearest"
        )
        np.testing.assert_allclose(found[:num_valid], expected, atol=1e-3)
        assert (found[num_valid:] == 0).all()
    assert settings.num_features == features.shape[1] == 120


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_features_do_not_depend_on_how_many_threads_the_process_has(threads):
    """A prediction on a terminal has as many as there are cores, preparation one for each of its processes."""
    waveform = np.random.default_rng(0).normal(0, 0.1, num_samples(800, FeatureSettings())).astype(np.float32)
    settings = FeatureSettings(name="mel", num_mels=80, num_frames=800)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        values, _ = extract(waveform, settings, 800)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(values, extract(waveform, settings, 800)[0])
