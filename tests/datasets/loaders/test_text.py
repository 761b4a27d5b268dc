"""The bimodal guide's spectrogram against librosa, on real recordings; the forms it corrects fail the same checks."""

import io

import librosa
import numpy as np
import pytest
import soundfile

from tuning.datasets.features.audio import decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import extract
from tuning.datasets.loaders.in_memory import collate
from tuning.datasets.settings import DataSettings, FeatureSettings
from tuning.datasets.store.reader import FeatureStatistics

RATE, HOP, FRAMES = 22050, 512, 1292
GUIDE = {"name": "mel", "sample_rate_hz": RATE, "window_samples": 2048, "hop_samples": HOP, "num_mels": 128}


def features(raw, frames=FRAMES, **changes):
    settings = FeatureSettings(**GUIDE, num_frames=frames, **changes)
    wave = decode(raw, RATE, DataSettings(), num_samples(frames, settings), settings.segment)
    values, num_valid = extract(wave, settings, frames)
    return values.T, num_valid


def literal(wave, frames=FRAMES, *, reference=1.0, top_db=None, padding=-80.0):
    """The guide's function in its own words, [mels, frames], with what it corrects as arguments."""
    mel = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=2048, hop_length=HOP, n_mels=128, pad_mode="constant")
    decibels = np.maximum(librosa.power_to_db(mel, ref=reference, amin=1e-8, top_db=top_db), -80.0)
    missing = frames - decibels.shape[1]
    return np.pad(decibels, ((0, 0), (0, max(0, missing))), constant_values=padding)


@pytest.fixture
def songs(recordings):
    return [file.read_bytes() for file in sorted((recordings / "emotify").rglob("*.ogg"))[:40:8]]


def whole(raw):
    """The recording at the guide's rate, by librosa alone."""
    wave, rate = soundfile.read(io.BytesIO(raw), dtype="float32", always_2d=True)
    return librosa.resample(wave.mean(1), orig_sr=rate, target_sr=RATE, res_type="soxr_hq")


def heard(raw, **changes):
    settings = FeatureSettings(**GUIDE, num_frames=FRAMES, **changes)
    return decode(raw, RATE, DataSettings(), num_samples(FRAMES, settings), settings.segment)


def close(found, expected):
    """Within 0.03 dB: single precision, 80 dB below a frame's loudest band."""
    return np.allclose(found, expected, atol=0.03)


def error(wave, begin, song):
    """Of a segment as a share of the song's that begins there; resampling a part moves it by less than a sample."""
    expected = song[begin : begin + len(wave)]
    return np.sqrt(np.mean((wave - expected) ** 2) / np.mean(expected**2))


def test_values_are_librosas_and_the_corrected_forms_are_not(songs):
    for raw in songs:
        found, num_valid = features(raw)
        assert found.shape == (128, FRAMES) and num_valid == FRAMES
        assert close(found, literal(heard(raw)))
        assert not close(found, literal(heard(raw), reference=np.max))
        assert not close(found, literal(heard(raw), top_db=80.0, reference=np.max))
        assert not close(found, literal(heard(raw, segment="start")))


def test_the_segment_is_the_middle(songs):
    for raw in songs:
        song, kept = whole(raw), (FRAMES - 1) * HOP
        middle = (len(song) - kept) // 2
        assert len(heard(raw)) == kept and middle > RATE
        assert error(heard(raw), middle, song) < 0.2 < 0.9 < error(heard(raw), 0, song)
        assert error(heard(raw, segment="start"), 0, song) < 0.01


def test_the_changes_that_the_ablation_takes_back(songs):
    for raw in songs[:2]:
        assert close(features(raw, db_reference="peak")[0], literal(heard(raw), reference=np.max))
        assert close(features(raw, segment="start")[0], literal(heard(raw, segment="start")))


def test_the_floor_is_exactly_80_db_whatever_the_loudest_passage():
    rng = np.random.default_rng(0)
    wave = np.zeros(RATE * 4)
    wave[RATE : 2 * RATE] = 0.5 * rng.standard_normal(RATE)
    wave[3 * RATE :] = 1e-4 * rng.standard_normal(RATE)
    for gain in (0.5, 0.05):
        raw = io.BytesIO()
        soundfile.write(raw, gain * wave, RATE, format="WAV", subtype="FLOAT")
        found, _ = features(raw.getvalue(), frames=170)
        assert found.min() == -80.0
        silent = found[:, 90:125]  # between the two sounds
        assert (silent == -80.0).all()
        mel = librosa.feature.melspectrogram(y=gain * wave, sr=RATE, n_fft=2048, hop_length=HOP, n_mels=128)
        # librosa's default hangs the floor on the loudest passage: 80 dB below it, wherever that is.
        moving = librosa.power_to_db(mel, ref=1.0)
        assert abs(moving.min() - (moving.max() - 80)) < 1e-3 and abs(moving.min() + 80) > 1


def test_a_short_song_is_followed_by_silence_that_the_model_hears(songs):
    wave = whole(songs[0])[: 10 * RATE]
    raw = io.BytesIO()
    soundfile.write(raw, wave, RATE, format="WAV", subtype="FLOAT")
    found, num_valid = features(raw.getvalue())
    assert num_valid == 1 + len(wave) // HOP
    assert close(found, literal(wave)) and (found[:, num_valid:] == -80.0).all()
    statistics = FeatureStatistics(np.full(128, -30, np.float32), np.full(128, 10, np.float32))

    def batch(padding):
        made = collate([(0, num_valid, found.T)], np.zeros((1, 1), np.float32), statistics, FRAMES, padding, "middle")
        return made["features"][0, num_valid:].numpy(), int(made["num_frames"])

    after, counted = batch("silence")
    assert counted == FRAMES and np.allclose(after, (-80 + 30) / 10)
    # The guide's earlier form: 0 dB, louder than any of the song, in the place of silence.
    after, counted = batch("zero")
    assert counted == FRAMES and np.allclose(after, (0 + 30) / 10) and not close(found, literal(wave, padding=0.0))
    after, counted = batch("masked")
    assert counted == num_valid and (after == 0).all()


def test_what_was_prepared_before_these_settings_is_found_again():
    from tuning.datasets.store.shard_index import features_fingerprint

    plain = FeatureSettings(**GUIDE)
    known = features_fingerprint(plain, FRAMES, DataSettings())
    assert features_fingerprint(FeatureSettings(**GUIDE, padding="silence"), FRAMES, DataSettings()) == known
    for change in ({"db_reference": "peak"}, {"segment": "start"}):
        assert features_fingerprint(FeatureSettings(**GUIDE, **change), FRAMES, DataSettings()) != known
