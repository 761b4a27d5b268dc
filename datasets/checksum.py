"""Checksums of the files that preparation keeps, and the error that names one that is not as it was written.

CRC-32, which zlib computes at a fraction of the time that reading a shard takes, finds every flip of a few bits and
all but one of four billion other damages. Files of earlier versions have none and are taken as they are.
"""

from __future__ import annotations

import json
import posixpath
import zlib
from typing import Any, NamedTuple

from tuning.datasets import storage

CHECKSUM = "//checksum"  # no shard and no recording has such a name
CHUNK_BYTES = 1 << 23  # read at a time


class DamagedError(ValueError):
    """A prepared file that is not as it was written: it is damaged, cut, empty or missing. Names it, and what it is."""

    def __init__(self, folder: str, name: str, what: str) -> None:
        super().__init__(folder, name, what)  # what a pickle makes it of again
        self.folder, self.name, self.what = folder, name, what

    def __str__(self) -> str:
        place = storage.below(self.folder, self.name)
        return f"{place}: expected the file as it was written, got {self.what}; the same command makes it again"


class Checksum(NamedTuple):
    """Size of a shard's file, and CRC-32 of the whole and of its last part, which says where the others are."""

    num_bytes: int
    whole: int
    footer: int

    @classmethod
    def of(cls, content: memoryview) -> Checksum:
        """Compute them for the content of a Parquet file."""
        return cls(len(content), zlib.crc32(content), zlib.crc32(content[-footer_bytes(content[-8:-4]) :]))


def footer_bytes(length: bytes | memoryview) -> int:
    """The size of a Parquet file's footer, by the four bytes that say its length, before the last four of the file."""
    return int.from_bytes(length, "little") + 8


def of_file(folder: str, name: str) -> tuple[int, int]:
    """Size and CRC-32 of a file, which is read in small parts. Raises DamagedError if there is none."""
    filesystem, base = storage.open_storage(folder)
    size = found = 0
    try:
        with filesystem.open_input_stream(posixpath.join(base, name)) as stream:
            while part := stream.read(CHUNK_BYTES):
                size, found = size + len(part), zlib.crc32(part, found)
    except FileNotFoundError:
        raise DamagedError(folder, name, "no such file") from None
    return size, found


def check_file(folder: str, name: str, num_bytes: int, checksum: int) -> None:
    """Read a file in small parts and raise DamagedError unless it is what was written."""
    _compare(folder, name, (num_bytes, checksum), of_file(folder, name))


def check_content(folder: str, name: str, expected: Checksum, content: Any) -> None:
    """Raise DamagedError unless the content of a file is what was written."""
    _compare(folder, name, expected[:2], (len(content), zlib.crc32(content)))


def _compare(folder: str, name: str, expected: tuple[int, int], found: tuple[int, int]) -> None:
    if found[0] != expected[0]:
        raise DamagedError(folder, name, f"{found[0]} of {expected[0]} bytes")
    if found != expected:
        raise DamagedError(folder, name, "another content of the same size")


def write_json(folder: str, name: str, content: dict[str, Any]) -> None:
    """Write a table as JSON with its checksum."""
    storage.write_bytes(folder, name, json.dumps({**content, CHECKSUM: _of_json(content)}).encode())


def read_json(folder: str, name: str) -> Any:
    """Read what `write_json` wrote, or JSON of an earlier version.

    Raises FileNotFoundError, and DamagedError if it is not what was written.
    """
    raw = storage.read_bytes(folder, name)
    try:
        content = json.loads(raw)
    except ValueError:
        raise DamagedError(folder, name, "an empty file" if not raw else "no JSON") from None
    if isinstance(content, dict):
        written = content.pop(CHECKSUM, None)
        if written is not None and written != _of_json(content):
            raise DamagedError(folder, name, "another content than was written")
    return content


def _of_json(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


def say_damaged(folder: str, name: str, what: str) -> None:
    """Print which file is damaged, and that it is made again."""
    print(f"note      {storage.below(folder, name)} is damaged ({what}) and is made again", flush=True)
