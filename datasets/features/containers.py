"""What the container of a recording says of its length and its damage, where libsndfile reads on without a word.

A container is any file format that soundfile reads. Many say how long their samples are, Ogg has a checksum for each
page, and the frames of an MP3 file follow one another. Programs that write to a pipe can't know the length: they write
0 or the largest number, and the samples end with the file. PAF, PVF, IRCAM and raw files say no length, MATLAB 5 files
of libsndfile a wrong one.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

UNKNOWN = 0x7FFFF000  # a length of 32 bits from here on was written to a pipe
HEADER_BYTES = 4096
MP3_SLACK_FRAMES = 4  # codec frames of sound that an encoder adds at both ends, and a decoder drops
UNREAD = (  # formats that soundfile does not read: where their mark is, the mark, and what they are
    (4, b"ftyp", "MPEG-4 audio (m4a, mp4)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media audio (wma)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM audio"),
    (0, b"#!AMR", "AMR audio"),
    (0, b"ADIF", "AAC audio"),
    (0, b"\xff\xf1", "AAC audio"),
    (0, b"\xff\xf9", "AAC audio"),
    (0, b"wvpk", "WavPack audio"),
    (0, b"APETAGEX", "audio behind an APE tag"),
    (0, b"MAC ", "Monkey's Audio"),
)


class ContainerError(ValueError):
    """A recording that is not whole. `kind` is truncated or damaged, `detail` says what is missing and where."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class _Bounded(io.BufferedIOBase):
    """A file whose ends no seek leaves, wherever a damaged header sends libsndfile."""

    name = ""  # from the ending of a name soundfile would take the format

    def __init__(self, file: Any) -> None:
        super().__init__(file)  # type: ignore[call-arg]
        self.size = super().seek(0, os.SEEK_END)
        super().seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place of the file, or to its nearest end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.size}[whence]
        return super().seek(min(max(base + offset, 0), self.size))


class _Content(_Bounded, io.BytesIO):
    pass


class _File(_Bounded, io.BufferedReader):
    pass


def opened(source: bytes | Path) -> BinaryIO:
    """Open a recording, given as its content or its file; a seek beyond an end stops there."""
    return cast("BinaryIO", _Content(source) if isinstance(source, bytes) else _File(source.open("rb", buffering=0)))


def whole(file: BinaryIO) -> BinaryIO:
    """Return a file that `opened` gave as it can be decoded: with its true length where the header says none.

    Raises ContainerError if the samples do not reach as far as the header says, or a page of an Ogg file is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    head = _at(file, 0, 16)
    if head[:4] == b"OggS":
        _check_ogg(file)
    samples = _samples(file, head, size)
    missing = 0 if samples is None or not samples.is_known else samples.start + samples.length - size
    missing = max(missing, _missing_of_blocks(file, head, size))
    file.seek(0)
    if missing > 0:
        raise ContainerError("truncated", f"{missing} bytes of samples are missing")
    if samples is not None and not samples.is_known:
        return cast("BinaryIO", _Patched(file, samples.field, samples.true_length(size)))
    return file


def check_frames(file: BinaryIO, container: str, num_frames: int, log: str) -> None:
    """Compare the frames that libsndfile decoded with what the recording says of them.

    `container` is soundfile's name of the format, `log` libsndfile's log of the file. Raises ContainerError.
    """
    if container == "MP3":
        _check_mp3(file, num_frames)
    stated = _stated_frames(_at(file, 0, HEADER_BYTES))
    if stated > num_frames:
        raise ContainerError("truncated", f"{num_frames} of {stated} frames are there")
    if container == "MAT4" and "seems to be truncated" in log:  # which is said of sound GSM 6.10, too
        raise ContainerError("truncated", f"{num_frames} frames are there, the header says more")


def unread_format(head: bytes) -> str:
    """What a file is that soundfile can't decode, and how to convert it; empty if its first bytes do not say."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the recording; 'git lfs pull' fetches it"
    name = next((name for place, mark, name in UNREAD if head[place : place + len(mark)] == mark), "")
    return f"{name}, which is not read; convert it: ffmpeg -i RECORDING RECORDING.flac" if name else ""


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    """The bytes from a place on; none from one beyond the end, to which a damaged header may lead."""
    file.seek(place)
    return file.read(size)


@dataclass(frozen=True)
class _Samples:
    """Where a header says that the samples are, in bytes, and the field that says it."""

    start: int
    length: int
    field: slice
    order: Literal["little", "big"]
    counted: int = 0  # bytes before the samples that the field counts, too
    is_known: bool = True

    def true_length(self, size: int) -> bytes:
        """The field of a file of `size` bytes whose samples reach to its end."""
        width = self.field.stop - self.field.start
        return min(size - self.start + self.counted, 256**width - 1).to_bytes(width, self.order)


class _Chunks(NamedTuple):
    """How a container cuts itself into chunks: where the first begins, and how name and length are written."""

    first: int
    name_bytes: int
    length_bytes: int
    order: Literal["little", "big"]
    wanted: bytes  # the chunk of samples
    counted: int = 0  # bytes of the chunk's header that its length counts, too
    aligned: int = 2
    before: int = 0  # bytes in the chunk before the samples


def _layout(head: bytes) -> _Chunks | None:
    if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RF64", b"BW64"):
        return _Chunks(12, 4, 4, "little", b"data")
    if head[:4] == b"RIFX" and head[8:12] == b"WAVE":
        return _Chunks(12, 4, 4, "big", b"data")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _Chunks(12, 4, 4, "big", b"SSND", before=8)
    if head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"):
        return _Chunks(12, 4, 4, "big", b"BODY")
    if head[:4] == b"riff":  # Sony Wave64: names are GUIDs, which begin with four letters
        return _Chunks(40, 16, 8, "little", b"data", counted=24, aligned=8)
    if head[:4] == b"caff":
        return _Chunks(8, 4, 8, "big", b"data", aligned=1, before=4)
    return None


def _samples(file: BinaryIO, head: bytes, size: int) -> _Samples | None:
    """Find the samples by the header; None if it says no length, or is not one that is known here."""
    if head[:4] in (b".snd", b"dns."):
        return _au_samples(head, size)
    layout = _layout(head)
    if layout is None:
        return None
    header = layout.name_bytes + layout.length_bytes
    place, in_ds64 = layout.first, 0
    while len(found := _at(file, place, header)) == header:
        name, length = found[:4], int.from_bytes(found[layout.name_bytes :], layout.order)
        start, field = place + header, slice(place + layout.name_bytes, place + header)
        if name == b"ds64":  # RF64 has the length of its samples here
            in_ds64 = start + 8
        if name == layout.wanted:
            if in_ds64 and length == 0xFFFFFFFF:
                field, length = slice(in_ds64, in_ds64 + 8), int.from_bytes(_at(file, in_ds64, 8), "little")
            is_known = _is_known(file, layout, length, field, start, size)
            return _Samples(start, length - layout.counted, field, layout.order, layout.counted, is_known)
        if length < layout.counted or not _is_name(name):
            return None  # libsndfile may still find its way
        place = start + length - layout.counted
        place += -(place - layout.first) % layout.aligned
    raise ContainerError("truncated", "the chunk of samples is missing")


def _is_known(file: BinaryIO, layout: _Chunks, length: int, field: slice, start: int, size: int) -> bool:
    """Whether the length of the chunk of samples is one, not what a program writes that does not know it."""
    if length >= (UNKNOWN if field.stop - field.start == 4 else 1 << 62):
        return False
    nothing = layout.counted + layout.before
    if length > nothing or size <= start + layout.before:
        return True
    # Truly empty if chunks follow one another from here to the end of the file.
    header = layout.name_bytes + layout.length_bytes
    place = start + length - layout.counted
    while len(found := _at(file, place, header)) == header and _is_name(found[:4]):
        place += max(header, header + int.from_bytes(found[layout.name_bytes :], layout.order) - layout.counted)
        place += -(place - layout.first) % layout.aligned
    return found == b"" and 0 <= place - size < layout.aligned


def _is_name(name: bytes) -> bool:
    """Whether four bytes can name a chunk."""
    return name.isascii() and name.decode("ascii").isprintable()


def _au_samples(head: bytes, size: int) -> _Samples:
    order: Literal["little", "big"] = "big" if head[:4] == b".snd" else "little"
    start, length = (int.from_bytes(head[place : place + 4], order) for place in (4, 8))
    return _Samples(start, length, slice(8, 12), order, is_known=length < UNKNOWN and (length > 0 or size <= start))


def _missing_of_blocks(file: BinaryIO, head: bytes, size: int) -> int:
    """The bytes that the blocks of a Creative Voice file reach beyond its end."""
    if head != b"Creative Voice F":
        return 0
    place = int.from_bytes(_at(file, 20, 2), "little")
    while len(header := _at(file, place, 4)) == 4 and header[0]:
        place += 4 + int.from_bytes(header[1:], "little")
    return place - size


class _Patched(io.RawIOBase):
    """A file with other bytes in one place."""

    def __init__(self, file: BinaryIO, place: slice, content: bytes) -> None:
        self.file, self.place, self.content = file, place, content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        begin = self.file.tell()
        found = bytearray(self.file.read(len(buffer)))
        for place, value in zip(range(self.place.start, self.place.stop), self.content, strict=True):
            if begin <= place < begin + len(found):
                found[place - begin] = value
        buffer[: len(found)] = found
        return len(found)


def _stated_frames(head: bytes) -> int:
    """The frames that a header counts, of containers without chunks; 0 if it counts none."""
    if head[:4] == b"2BIT":  # Audio Visual Research
        return int.from_bytes(head[26:30], "big")
    if head[:2] == b"\x01\x04" and len(head) >= 42 and head[2:19].isascii():  # Akai MPC 2000
        return int.from_bytes(head[30:34], "little")
    if head.startswith(b"ALawSoundFile**"):  # Psion
        return int.from_bytes(head[18:22], "big")
    count = re.search(rb"\nsample_count -i (\d+)", head) if head.startswith(b"NIST_1A") else None
    return int(count[1]) if count else 0


# Ogg (RFC 3533): pages of a header, a table of segment lengths and the segments.

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_checksum(page: bytes) -> int:
    """The checksum of an Ogg page whose checksum field is 0.

    It is zlib's CRC with every byte and the result in reversed order of bits, from 0 and without a last inversion.
    """
    found = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{found:032b}"[::-1], 2)


def _check_ogg(file: BinaryIO) -> None:
    """Raise ContainerError unless every page is there and matches its checksum, and each stream has its last page."""
    place = number = 0
    next_of: dict[bytes, int] = {}  # the number of the next page, by stream
    open_streams: set[bytes] = set()
    file.seek(0)
    while len(header := file.read(27)):
        if header[:4] != b"OggS":
            if not open_streams:
                return  # what a tagger wrote behind the last page
            raise ContainerError("damaged", f"no Ogg page at byte {place}, where page {number} should begin")
        table = file.read(header[26]) if len(header) == 27 else b""
        content = file.read(sum(table))
        if len(header) < 27 or len(table) < header[26] or len(content) < sum(table):
            raise ContainerError("truncated", "the last Ogg page is cut")
        page = header[:22] + b"\0\0\0\0" + header[26:] + table + content
        if ogg_checksum(page) != int.from_bytes(header[22:26], "little"):
            raise ContainerError("damaged", f"page {number} of the Ogg file, at byte {place}, has a wrong checksum")
        stream, sequence = header[14:18], int.from_bytes(header[18:22], "little")
        if next_of and not open_streams:
            raise ContainerError("chained", f"another Ogg stream begins at byte {place}, and only the first is read")
        if sequence != next_of.get(stream, sequence):
            raise ContainerError("damaged", f"Ogg pages are missing before byte {place}")
        next_of[stream] = sequence + 1
        open_streams.add(stream)
        if header[5] & 0x04:
            open_streams.discard(stream)
        place += len(page)
        number += 1
    if open_streams:
        raise ContainerError("truncated", "the Ogg stream has no last page")


# MPEG audio: frames of a four-byte header, which says how long the frame is.

_V1 = (
    (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)  # kbit/s of MPEG 1, layers I to III
_V2 = (
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)  # of MPEG 2 and 2.5
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


class _Frame(NamedTuple):
    """The header of an MPEG frame: length in bytes, samples, bit rate, and what all frames of a recording share."""

    num_bytes: int
    num_samples: int
    bits_per_second: int
    kind: tuple[int, int, int]  # version, layer, rate


def _frame(header: bytes) -> _Frame | None:
    """Read a frame's header; None if it is none, or one that says no length (free format)."""
    return _frame_of(header[:3]) if len(header) >= 4 else None


@lru_cache(maxsize=1024)  # a recording has a thousand frames in half a minute, and few headers
def _frame_of(header: bytes) -> _Frame | None:
    if header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index, bitrate_index, padding = header[2] >> 2 & 3, header[2] >> 4, header[2] >> 1 & 1
    if version == 1 or layer == 4 or rate_index == 3 or bitrate_index in (0, 15):
        return None
    rate = _RATES[version][rate_index]
    bits = 1000 * (_V1 if version == 3 else _V2)[layer - 1][bitrate_index]
    if layer == 1:
        return _Frame(4 * (12 * bits // rate + padding), 384, bits, (version, layer, rate))
    samples = 576 if layer == 3 and version != 3 else 1152
    return _Frame(samples // 8 * bits // rate + padding, samples, bits, (version, layer, rate))


def _check_mp3(file: BinaryIO, num_samples: int) -> None:
    """Raise ContainerError if frames of an MP3 file are missing, or if far fewer samples are decoded than it has."""
    stated, count, num_bytes, gap, end = None, 0, 0, 0, None
    frame, bit_rates = None, set()
    for place, frame in _mp3_frames(file):
        if end is None:
            stated = _xing_frames(_at(file, place, min(frame.num_bytes, 256)))
        count += 1
        bit_rates.add(frame.bits_per_second)
        num_bytes += frame.num_bytes
        gap += place - (place if end is None else end)
        end = place + frame.num_bytes
    if frame is None or count < 2:
        return
    if stated is None:
        missing = gap * count // num_bytes
    else:
        count -= 1  # the frame that says how many there are; some encoders count it
        missing = stated - count
    if missing > 1 or (missing == 1 and gap):
        raise ContainerError("damaged" if gap else "truncated", f"{missing} of {missing + count} frames are missing")
    if stated is None and len(bit_rates) > 1 and num_samples < (count - 1) * frame.num_samples:
        # libsndfile takes the first frame's bit rate for all of them.
        found = f"{num_samples} of {count * frame.num_samples} samples are decoded"
        raise ContainerError(
            "no length", f"bit rates vary, no frame says how many follow, {found}; ffmpeg -i RECORDING -c copy NEW.mp3"
        )
    if num_samples < (count - MP3_SLACK_FRAMES) * frame.num_samples:
        raise ContainerError("damaged", f"{num_samples} of {count * frame.num_samples} samples are decoded")


def _mp3_frames(file: BinaryIO) -> Iterator[tuple[int, _Frame]]:
    """Iterate over the frames of the first frame's kind, and their places in the file; tags are left out."""
    place, kind = 0, None
    while header := _at(file, place, 10):
        frame = _frame(header)
        if frame is not None and frame.kind == kind:
            yield place, frame
            place += frame.num_bytes
        elif header[:3] == b"ID3" and len(header) == 10:
            size = sum((byte & 0x7F) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))
            place += 10 + size + (10 if header[5] & 0x10 else 0)
        elif header[:3] == b"TAG" or header[:8] in (b"APETAGEX", b"LYRICSBE"):
            return
        else:
            place = _resync(file, place if kind is None else place + 1, kind)
            found = _frame(_at(file, place, 4)) if place >= 0 else None
            if found is None:
                return
            kind = found.kind


def _resync(file: BinaryIO, place: int, kind: tuple[int, int, int] | None) -> int:
    """The place of the next frame of a kind that another one follows, or -1."""
    while block := _at(file, place, 1 << 16):
        start = block.find(b"\xff")
        while start >= 0:
            frame = _frame(_at(file, place + start, 4))
            if frame is not None and kind in (None, frame.kind):
                after = _frame(_at(file, place + start + frame.num_bytes, 4))
                if after is not None and after.kind == frame.kind:
                    return place + start
            start = block.find(b"\xff", start + 1)
        place += len(block)
    return -1


def _xing_frames(frame: bytes) -> int | None:
    """The count of frames that an encoder wrote into the first one (Xing, Info), or None."""
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or len(frame) < place + 12:
        return None
    return int.from_bytes(frame[place + 8 : place + 12], "big") if frame[place + 7] & 1 else None
