"""Damage that libsndfile reads over: cut files of every format, flipped bits in Ogg and MP3, lengths left open."""

import io
import random
import struct
import sys

import numpy as np
import pytest
import soundfile

from tests.helpers.recordings import RATE, encode, tone
from tuning.datasets.features.audio import AudioError, decode
from tuning.datasets.features.containers import ogg_checksum
from tuning.datasets.settings import DataSettings

QUALITY = DataSettings()
SAYS_NO_LENGTH = ("RAW", "PAF", "PVF", "IRCAM", "MAT5")
NOT_READ = ("SD2", "XI", "SDS", "HTK")  # soundfile writes them to files of their own only, or does not read them here
FORMATS = [name for name in soundfile.available_formats() if name not in (*SAYS_NO_LENGTH, *NOT_READ)]


@pytest.mark.parametrize("container", FORMATS)
def test_a_whole_file_is_decoded_and_every_cut_one_is_refused(container):
    whole = encode(tone(3), container=container)
    assert abs(len(decode(whole, RATE, QUALITY)) - 3 * RATE) <= 2 * 1152
    rng = random.Random(1)
    for cut in (len(whole) * 6 // 10, *(rng.randrange(1, len(whole) - 4000) for _ in range(20))):
        with pytest.raises(AudioError):
            decode(whole[:cut], RATE, QUALITY)


@pytest.mark.parametrize("container", FORMATS)
def test_a_cut_file_is_told_from_one_that_is_none(container):
    whole = encode(tone(3), container=container)
    with pytest.raises(AudioError) as caught:
        decode(whole[: len(whole) * 6 // 10], RATE, QUALITY)
    assert caught.value.kind == ("cannot be decoded" if container == "FLAC" else "truncated")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_flipped_bit_of_an_ogg_file_is_seen_wherever_it_is(subtype):
    whole = encode(tone(3), container="OGG", subtype=subtype)
    assert len(decode(whole, RATE, QUALITY)) == pytest.approx(3 * RATE, abs=400)
    rng = random.Random(2)
    for _ in range(40):
        with pytest.raises(AudioError):
            decode(flipped(whole, rng), RATE, QUALITY)


def test_a_lost_page_of_an_ogg_file_is_seen():
    whole = encode(tone(6), container="OGG")
    second, third = [place for place in range(len(whole)) if whole[place : place + 4] == b"OggS"][2:4]
    with pytest.raises(AudioError, match="damaged: Ogg pages are missing before byte"):
        decode(whole[:second] + whole[third:], RATE, QUALITY)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_of_two_streams_is_refused_since_the_first_alone_is_read(subtype):
    streams = [encode(tone(seconds), container="OGG", subtype=subtype) for seconds in (2, 3)]
    with pytest.raises(AudioError, match=f"chained: another Ogg stream begins at byte {len(streams[0])}"):
        decode(b"".join(streams), RATE, QUALITY)
    assert len(decode(streams[0] + b"a tag", RATE, QUALITY)) == pytest.approx(2 * RATE, abs=400)


@pytest.mark.parametrize("loud", ["first", "last"])
def test_an_mp3_of_unknown_length_is_decoded_whole_or_refused(loud):
    """Of varying bit rates, without the frame that counts them: libsndfile takes the first one's rate for all."""
    sound = 0.2 * np.random.default_rng(0).standard_normal(20 * 44100)
    sound[slice(0, 441000) if loud == "last" else slice(441000, None)] *= 1e-4
    sink = io.BytesIO()
    soundfile.write(sink, sound, 44100, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")
    whole = sink.getvalue()
    assert len(decode(whole, 44100, QUALITY)) == pytest.approx(len(sound), abs=2 * 1152)
    uncounted = whole[whole.index(whole[:2], 200) :]
    if loud == "last":
        assert len(decode(uncounted, 44100, QUALITY)) == pytest.approx(len(sound), abs=3 * 1152)
    else:
        with pytest.raises(AudioError, match="no length: bit rates vary"):
            decode(uncounted, 44100, QUALITY)


def test_ogg_checksums_are_those_of_the_specification():
    """RFC 3533: polynomial 0x04c11db7, the highest bit first, from 0, without inversion; here bit by bit."""
    page = bytes(range(256)) * 3
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register & 0x80000000 else 0)
            register &= 0xFFFFFFFF
    assert ogg_checksum(page) == register


def test_a_tag_behind_an_ogg_file_is_no_damage():
    assert len(decode(encode(tone(2), container="OGG") + b"TAG" + bytes(125), RATE, QUALITY)) == 2 * RATE


def test_no_flipped_bit_of_an_mp3_file_loses_more_than_a_frame_unseen():
    whole = encode(tone(4), container="MP3")
    expected = decode(whole, RATE, QUALITY)
    rng = random.Random(3)
    seen = 0
    for _ in range(300):
        try:
            found = decode(flipped(whole, rng), RATE, QUALITY)
        except AudioError:
            seen += 1
        else:
            assert len(expected) - len(found) <= 576
            assert abs(found).max() <= 100
    assert seen


@pytest.mark.parametrize("lost", [slice(2000, 2400), slice(2000, 3500)])
def test_lost_frames_of_an_mp3_file_are_counted(lost):
    whole = encode(tone(6), container="MP3")
    with pytest.raises(AudioError, match=r"(damaged|truncated): \d+ of \d+ frames are missing"):
        decode(whole[: lost.start] + b"\x00" * 60 + whole[lost.stop :], RATE, QUALITY)


def test_tags_of_an_mp3_file_are_no_damage():
    whole = encode(tone(3), container="MP3")
    front = b"ID3\x03\x00\x00" + bytes([0, 0, 2, 0]) + b"\xff\xfb" * 128
    behind = b"APETAGEX" + bytes(90) + b"TAG" + bytes(125)
    np.testing.assert_array_equal(decode(front + whole + behind, RATE, QUALITY), decode(whole, RATE, QUALITY))


LENGTHS = {  # the field with the length of the samples: before it, and what a program writes that can't know it
    "WAV": (b"data", [b"\x00" * 4, b"\xff" * 4, struct.pack("<I", 0x7FFFFFFF)]),
    "RF64": (b"ds64\x1c\x00\x00\x00" + b"????????", [b"\x00" * 8, b"\xff" * 8]),
    "W64": (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", [b"\x00" * 8, b"\xff" * 8]),
    "AIFF": (b"SSND", [b"\x00" * 4, struct.pack(">I", 8), b"\xff" * 4]),
    "AU": (b".snd????", [b"\x00" * 4, b"\xff" * 4]),
    "CAF": (b"data", [b"\xff" * 8]),
}


@pytest.mark.parametrize(("container", "written"), [(k, w) for k, (_, ws) in LENGTHS.items() for w in ws])
def test_a_file_written_to_a_pipe_says_no_length_and_is_whole(container, written):
    whole = encode(tone(1), container=container)
    before = LENGTHS[container][0]
    place = whole.index(before.rstrip(b"?")) + len(before)
    piped = whole[:place] + written + whole[place + len(written) :]
    np.testing.assert_array_equal(decode(piped, RATE, QUALITY), decode(whole, RATE, QUALITY))


def test_a_wav_file_without_samples_is_empty_also_with_chunks_behind():
    empty = encode(np.zeros(0, dtype=np.float32))
    for raw in (empty, empty + b"LIST" + struct.pack("<I", 4) + b"INFO"):
        with pytest.raises(AudioError, match="empty: no samples"):
            decode(raw, RATE, QUALITY)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x00\x00\x00\x20ftypM4A ", "MPEG-4 audio (m4a, mp4), which is not read; convert it: ffmpeg -i"),
        (b"\x1a\x45\xdf\xa3", "Matroska or WebM audio"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer in place of the recording"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_the_remedy(head, words):
    with pytest.raises(AudioError) as caught:
        decode(head + bytes(2000), RATE, QUALITY)
    assert caught.value.kind == "cannot be decoded" and words in caught.value.detail


def flipped(raw, rng):
    place = rng.randrange(8 * len(raw))
    changed = bytearray(raw)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


@pytest.mark.parametrize("container", FORMATS)
def test_no_bit_of_a_header_leads_to_another_error(container, tmp_path, monkeypatch):
    """Lengths and places of 2^63 and more, and places before the file, are those of damaged headers, too."""
    unseen = []  # what a callback of libsndfile raises is only printed
    monkeypatch.setattr(sys, "unraisablehook", unseen.append)
    whole, file = encode(tone(0.3), container=container), tmp_path / "a.sound"
    found = set()
    for place in range(100):
        for bit in (0, 5, 6, 7):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            for source in (bytes(changed), file):
                try:
                    found.add(len(decode(source, RATE, QUALITY)) > 0)
                except AudioError as error:
                    found.add(error.kind)
    assert found - {True} and unseen == []


def test_wild_samples_and_absurd_rates_are_refused():
    for value, kind in ((1e30, "too loud"), (17_800.0, "too loud"), (101.0, "too loud"), (99.0, None), (1.2, None)):
        sound = tone(1).copy()
        sound[5] = -value
        raw = encode(sound, subtype="FLOAT")
        if kind is None:
            assert np.isfinite(decode(raw, RATE, QUALITY)).all()
        else:
            with pytest.raises(AudioError) as caught:
                decode(raw, RATE, QUALITY)
            assert caught.value.kind == kind
    for rate in (1, 500, 999, 2_000_000_000):
        with pytest.raises(AudioError, match=f"sample rate: {rate} Hz, expected 1000 to 1000000"):
            decode(encode(tone(1), rate), RATE, QUALITY)
    assert len(decode(encode(tone(1), 1000), RATE, QUALITY)) == 8 * RATE


def test_a_long_recording_is_decoded_as_it_is_asked_for(monkeypatch, tmp_path):
    """In slices it is what it is as a whole, trimmed or not, and little of it is held."""
    from tuning.datasets.features import audio

    silence = np.zeros(30_000, np.float32)
    sound = np.concatenate([silence, tone(20, rate=11025), silence])
    file = tmp_path / "long.wav"
    file.write_bytes(encode(sound, 11025))
    for trim_db in (None, 30.0):
        whole = audio.LongSound(file, RATE, QUALITY, trim_db)
        expected = decode(file.read_bytes(), RATE, QUALITY, trim_db=trim_db)
        np.testing.assert_array_equal(whole[:], expected)
        with monkeypatch.context() as patch:
            patch.setattr(audio, "KEPT_SAMPLES", 1000)
            patch.setattr(audio, "BLOCK_FRAMES", 4096)
            long = audio.LongSound(file, RATE, QUALITY, trim_db)
            assert (len(long), long.start_seconds) == (len(whole), whole.start_seconds)
            for start in [*range(0, len(long) - 900, 2500), len(long) - 900, 100]:
                np.testing.assert_array_equal(long[start : start + 900], expected[start : start + 900])
                assert len(long._held) < 20_000


def test_trimming_is_librosas():
    import librosa

    sound = np.concatenate([1e-3 * tone(2), tone(3, seed=1), 1e-3 * tone(1, seed=2)])
    expected, _ = librosa.effects.trim(decode(encode(sound, subtype="FLOAT"), RATE, QUALITY), top_db=40.0)
    np.testing.assert_array_equal(decode(encode(sound, subtype="FLOAT"), RATE, QUALITY, trim_db=40.0), expected)


def test_a_file_is_decoded_as_its_bytes_are(tmp_path):
    for container in ("WAV", "OGG", "MP3", "FLAC"):
        raw = encode(tone(2), container=container)
        (tmp_path / "sound").write_bytes(raw)
        np.testing.assert_array_equal(decode(tmp_path / "sound", RATE, QUALITY), decode(raw, RATE, QUALITY))
