"""Tensors of a TensorFlow checkpoint without TensorFlow: its two files are parsed, nothing of them is run.

`.index` is a table of LevelDB: blocks of sorted keys, each block with a CRC-32C, in whose values are the messages
`BundleHeaderProto` and `BundleEntryProto` of Protocol Buffers. `.data-00000-of-00001` is the tensors' bytes one after
another; the index has place, shape and CRC-32C of each. Source: tensorflow/core/util/tensor_bundle and lib/io/table.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INDEX, DATA = ".index", ".data-00000-of-00001"

_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57
_TRAILER = 5  # bytes after each block: kind of compression, masked CRC-32C
_MOST_BYTES = 1 << 26  # of an index: one of a hundred thousand tensors has less
_FLOAT32 = 1  # DT_FLOAT
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}  # wire types of Protocol Buffers; bytes of the fixed ones


@dataclass(frozen=True)
class Entry:
    """Where a tensor is.

    Args:
        dtype: number of its type, as TensorFlow counts them.
        shape: its sizes.
        offset: where in the data its bytes begin.
        num_bytes: how many there are.
        checksum: their masked CRC-32C.
    """

    dtype: int
    shape: tuple[int, ...]
    offset: int
    num_bytes: int
    checksum: int


def read_entries(folder: Path) -> dict[str, Entry]:
    """Return the entries of all tensors of the checkpoint in a folder by name, without reading their bytes.

    Raises:
        ValueError: a file that is missing, damaged or too short, or a checkpoint in several parts.
    """
    index, data = folder / INDEX, folder / DATA
    try:
        if (size := index.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"{size:,} bytes")
        rows = dict(_table(index.read_bytes()))
        if _Message(rows.pop(b"", b"")).number(1) != 1:
            raise ValueError("none of a checkpoint in one part")
        entries = {name.decode(): _entry(value) for name, value in rows.items()}
        size, wanted = data.stat().st_size, max((e.offset + e.num_bytes for e in entries.values()), default=0)
    except OSError as error:
        raise ValueError(f"'{error.filename}' can't be read: {error.strerror}") from None
    except (ValueError, IndexError) as error:
        raise ValueError(f"'{index}': expected the index of a TensorFlow checkpoint, got {error}") from None
    if size < wanted:
        raise ValueError(f"'{data}': expected {wanted:,} bytes as {INDEX} says, got {size:,}")
    return entries


def read_tensor(folder: Path, name: str, entry: Entry) -> bytes:
    """Return the bytes of a tensor of float32, little-endian and row by row.

    Raises:
        ValueError: a file that is missing or damaged, or a tensor of another type.
    """
    data = folder / DATA
    if entry.dtype != _FLOAT32:
        raise ValueError(f"'{data}': expected float32 for '{name}', got TensorFlow's type {entry.dtype}")
    try:
        with open(data, "rb") as stream:
            stream.seek(entry.offset)
            content = stream.read(entry.num_bytes)
    except OSError as error:
        raise ValueError(f"'{data}' can't be read: {error.strerror}") from None
    if masked(crc32c(content)) != entry.checksum:
        raise ValueError(f"'{data}': expected '{name}' as its checksum says, got other bytes")
    return content


def crc32c(content: bytes) -> int:
    """CRC-32C of some bytes: 0.2 s for two million of them.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _REMAINDERS[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """A checksum as these files have it: rotated and shifted, so that one of bytes with checksums is not weak."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _remainder(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, the highest power last
    return crc


_REMAINDERS = [_remainder(byte) for byte in range(256)]


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, in order."""
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("a file with another end")
    metadata, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    list(_block(content, *metadata))  # nothing, but with a checksum
    for _, handle in _block(content, *index):
        yield from _block(content, *_handle(handle, 0)[0])


def _handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Place and size of a block, and where the next value begins."""
    offset, at = _varint(content, at)
    size, at = _varint(content, at)
    return (offset, size), at


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block: a key says how many bytes of the last one it begins with."""
    end = offset + size
    if end + _TRAILER > len(content):
        raise ValueError(f"{len(content):,} bytes in place of {end + _TRAILER:,} or more")
    if masked(crc32c(content[offset : end + 1])) != int.from_bytes(content[end + 1 : end + _TRAILER], "little"):
        raise ValueError("a block with another checksum")
    if content[end]:
        raise ValueError("a compressed block")
    block = content[offset:end]
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        new, at = _varint(block, at)
        length, at = _varint(block, at)
        key, value = key[:shared] + block[at : at + new], block[at + new : at + new + length]
        at += new + length
        yield key, value


def _entry(content: bytes) -> Entry:
    """A tensor's entry from its message."""
    message = _Message(content)
    if message.number(3) or message.texts(7):
        raise ValueError("a tensor in another part or in slices")
    sizes = [size for shape in message.texts(2) for size in _Message(shape).texts(2)]
    shape = tuple(_Message(size).number(1) for size in sizes)
    entry = Entry(message.number(1), shape, message.number(4), message.number(5), message.number(6))
    if entry.dtype == _FLOAT32 and entry.num_bytes != 4 * math.prod(shape):
        raise ValueError(f"{entry.num_bytes:,} bytes for a tensor of shape {shape}")
    return entry


class _Message:
    """A message of Protocol Buffers; a field that it lacks is 0."""

    def __init__(self, content: bytes) -> None:
        self._numbers: dict[int, int] = {}
        self._texts: list[tuple[int, bytes]] = []
        at = 0
        while at < len(content):
            tag, at = _varint(content, at)
            field, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                self._numbers[field], at = _varint(content, at)
            elif kind == _BYTES:
                size, at = _varint(content, at)
                self._texts.append((field, content[at : at + size]))
                at += size
            elif kind in _FIXED:
                self._numbers[field] = int.from_bytes(content[at : at + _FIXED[kind]], "little")
                at += _FIXED[kind]
            else:
                raise ValueError(f"a field of the unknown kind {kind}")

    def number(self, field: int) -> int:
        """The field's number."""
        return self._numbers.get(field, 0)

    def texts(self, field: int) -> list[bytes]:
        """The bytes of each occurrence of the field."""
        return [content for number, content in self._texts if number == field]


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits in each byte, lowest first, and where the next value begins."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
