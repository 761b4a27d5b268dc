import io

import librosa
import numpy as np
import pytest
import soundfile

from tests.helpers.recordings import RATE, bad_recordings, encode, tone
from tuning.datasets.features.audio import BLOCK_FRAMES, AudioError, decode, excerpt
from tuning.datasets.settings import DataSettings

QUALITY = DataSettings()
BAD = {name: case for name, case in bad_recordings().items() if case[0] is not None}


@pytest.mark.parametrize("name", BAD)
def test_bad_recording_has_its_reason(name):
    raw, kind = BAD[name]
    with pytest.raises(AudioError) as caught:
        decode(raw, RATE, QUALITY)
    assert caught.value.kind == kind
    assert str(caught.value).startswith(f"{kind}: ")


def test_details_help_to_repair():
    with pytest.raises(AudioError, match=r"too short: 2 samples \(0.0003 s\), expected at least 0.1 s"):
        decode(BAD["click.wav"][0], RATE, QUALITY)
    with pytest.raises(AudioError, match=r"too many channels: 6, expected at most 2"):
        decode(BAD["surround.wav"][0], RATE, QUALITY)
    with pytest.raises(AudioError, match=r"silent: peak -10\d dBFS, expected at least -80 dBFS"):
        decode(BAD["whisper.wav"][0], RATE, QUALITY)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
def test_lossless_containers_give_their_samples(container):
    waveform = decode(encode(tone(1), container=container), RATE, QUALITY)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, tone(1), atol=2**-15)


@pytest.mark.parametrize("container", ["OGG", "MP3"])
def test_lossy_containers_are_whole(container):
    waveform = decode(encode(tone(3), container=container), RATE, QUALITY)
    assert abs(len(waveform) - 3 * RATE) <= 2 * 1152


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_written_to_a_pipe_is_not_taken_for_truncated(size):
    raw = bytearray(encode(tone(1)))
    place = raw.index(b"data") + 4
    raw[place : place + 4] = size.to_bytes(4, "little")
    assert len(decode(bytes(raw), RATE, QUALITY)) == RATE


def test_every_cut_of_an_ogg_file_is_seen():
    whole = encode(tone(2), container="OGG")
    decode(whole, RATE, QUALITY)
    for cut in [*range(1, len(whole), 97), whole.rindex(b"OggS")]:
        with pytest.raises(AudioError):
            decode(whole[:cut], RATE, QUALITY)


def test_channels_are_averaged():
    left, right = tone(1, seed=1), tone(1, seed=2)
    waveform = decode(encode(np.stack([left, right], axis=1), subtype="FLOAT"), RATE, QUALITY)
    np.testing.assert_allclose(waveform, (left + right) / 2, atol=1e-7)


def test_middle_is_kept_and_blocks_join(monkeypatch):
    sound = tone(2)
    monkeypatch.setattr("tuning.datasets.features.audio.BLOCK_FRAMES", 1000)
    whole = decode(encode(sound, subtype="FLOAT"), RATE, QUALITY)
    np.testing.assert_array_equal(whole, sound)
    cut = decode(encode(sound, subtype="FLOAT"), RATE, QUALITY, keep_samples=5000, segment="middle")
    np.testing.assert_array_equal(cut, sound[5500:10500])


@pytest.mark.slow
def test_resampling_only_the_middle_equals_resampling_the_whole():
    import librosa

    sound = tone(4, rate=44100)
    whole = librosa.resample(sound, orig_sr=44100, target_sr=16000, res_type="soxr_hq")
    keep = 16001
    cut = decode(encode(sound, 44100, subtype="FLOAT"), 16000, QUALITY, keep_samples=keep, segment="middle")
    start = (len(whole) - keep) // 2
    assert len(cut) == keep
    # The cut may stand a fraction of a sample away.
    assert np.corrcoef(cut, whole[start : start + keep])[0, 1] > 0.98


def test_damage_outside_the_middle_is_seen():
    sound = tone(4).copy()
    sound[5] = np.inf
    with pytest.raises(AudioError, match="non-finite"):
        decode(encode(sound, subtype="FLOAT"), RATE, QUALITY, keep_samples=RATE, segment="middle")


def test_silence_counts_where_the_model_listens():
    sound = np.concatenate([tone(1), np.zeros(4 * RATE, dtype=np.float32), tone(1)])
    decode(encode(sound), RATE, QUALITY)
    with pytest.raises(AudioError, match="silent: peak digital zero"):
        decode(encode(sound), RATE, QUALITY, keep_samples=RATE, segment="middle")


def test_silent_ends_are_cut_and_pauses_stay():
    sound, pause = tone(0.5), 1e-4 * tone(0.5)
    raw = encode(np.concatenate([pause, sound, pause, sound, pause]), subtype="FLOAT")
    assert len(decode(raw, RATE, QUALITY)) == 2.5 * RATE
    # A second and a half is left, and at each end what a window of 2048 samples sees of it.
    assert 1.5 * RATE <= len(decode(raw, RATE, QUALITY, trim_db=40.0)) <= 1.5 * RATE + 2 * 2048
    assert len(decode(encode(1e-2 * pause, subtype="FLOAT"), RATE, DataSettings(silence_dbfs=-200), trim_db=40.0))


@pytest.mark.parametrize(("segment", "begin"), [("middle", 4.5), ("start", 3.0)])
def test_silence_at_the_ends_does_not_decide_what_is_kept(segment, begin):
    sound = np.concatenate([1e-4 * tone(3), tone(4, seed=1)])
    waveform = decode(encode(sound, subtype="FLOAT"), RATE, QUALITY, RATE, segment, 40.0)
    found = excerpt(encode(sound, subtype="FLOAT"), RATE, QUALITY, RATE, segment, 40.0)
    np.testing.assert_array_equal(found.waveform, waveform)
    start = round(found.start_seconds * RATE)
    np.testing.assert_array_equal(waveform, sound[start : start + RATE])
    assert begin - 0.5 * 2048 / RATE <= found.start_seconds <= begin


@pytest.mark.parametrize("rate", [RATE, 11025])
@pytest.mark.parametrize("segment", ["middle", "start"])
@pytest.mark.parametrize("trim_db", [None, 40.0])
@pytest.mark.parametrize("seconds", [None, 1.0, 20.0])
def test_an_excerpt_says_where_in_the_recording_it_begins(rate, segment, trim_db, seconds):
    time = np.arange(6 * rate) / rate
    sound = np.where(time < 2, 2e-3, 1) * (0.1 + 0.1 * time)  # tells the time
    keep = None if seconds is None else round(seconds * RATE)
    waveform, start = excerpt(encode(sound, rate, subtype="FLOAT"), RATE, QUALITY, keep, segment, trim_db)
    place = len(waveform) // 2
    heard = start + place / RATE
    assert waveform[place] / (2e-3 if heard < 2 else 1) == pytest.approx(0.1 + 0.1 * heard, abs=1e-3)
    assert len(waveform) == (RATE if seconds == 1 else pytest.approx((6 - start) * RATE, abs=1))


def test_the_middle_of_an_mp3_without_its_last_frame_is_that_of_what_is_decoded():
    whole = encode(0.2 * np.random.default_rng(0).standard_normal(3 * 44100), 44100, "MP3")
    raw = whole[: whole.rindex(whole[:2])]  # of the last frame's header
    expected, _ = librosa.load(io.BytesIO(raw), sr=16000)
    assert len(expected) < 3 * 16000 * soundfile.info(io.BytesIO(raw)).frames / (3 * 44100) - 100
    start = (len(expected) - 16000) // 2
    found = decode(raw, 16000, DataSettings(), 16000, "middle")
    np.testing.assert_allclose(found, expected[start : start + 16000], atol=2e-4)


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("surplus", [1, 7, 100, 250, 370, 960])
def test_the_end_of_an_opus_file_is_right_where_a_short_block_would_be(rate, surplus):
    raw = encode(tone((BLOCK_FRAMES + surplus) / rate, rate=rate), rate, "OGG", "OPUS")
    expected, _ = soundfile.read(io.BytesIO(raw), dtype="float32")
    np.testing.assert_array_equal(decode(raw, rate, DataSettings()), expected)


def test_a_number_of_samples_is_kept_of_a_named_segment():
    with pytest.raises(TypeError, match="segment: expected middle or start with keep_samples, got none"):
        decode(encode(tone(1)), RATE, QUALITY, 5000)


@pytest.mark.parametrize("segment", ["middle", "start"])
@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_a_segment_is_that_part_of_the_whole_as_librosa_resamples_it(rate, segment):
    """Also where its first sample at the wanted rate lies between two of the recording's own."""
    rng = np.random.default_rng(rate)
    for length in (3 * rate + np.arange(3)).tolist():
        sound = 0.1 * rng.standard_normal(length).astype(np.float32)
        whole = librosa.resample(sound, orig_sr=rate, target_sr=16000, res_type="soxr_hq")
        found = decode(encode(sound, rate, subtype="FLOAT"), 16000, DataSettings(), 20001, segment)
        start = (len(whole) - 20001) // 2 if segment == "middle" else 0
        np.testing.assert_allclose(found, whole[start : start + 20001], atol=2e-4)
