"""Faults of a machine in place of a trial: a full or read-only disk. Imports nothing heavy."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

# What the operating system says when results can't be written although the program is right.
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)

# Where Ray's errors hold those that they stand for.
_WRAPPED = ("cause", "_base_exc", "controller_failure", "health_check_failure")

_IN_TEXT = re.compile(r"\[[Ee]rrno (\d+)\] (.*)")


class StorageError(Exception):
    """Results can't be written any more; what was written before is whole. The message has the path and the reason."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and every one behind it, through Ray's wrappers and those of its worker groups."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__, *(getattr(found, name, None) for name in _WRAPPED)]
        waiting += getattr(found, "worker_failures", {}).values()


def storage_fault(error: BaseException) -> str:
    """Path and reason where storage is behind an error, such as `/data/last.pt: No space left on device`, else empty.

    The path is missing where the operating system did not name it.
    """
    for found in causes(error):
        if isinstance(found, OSError) and found.errno in STORAGE_ERRORS:
            path = f"{os.fspath(found.filename)}: " if isinstance(found.filename, (str, Path)) else ""
            return f"{path}{os.strerror(found.errno)}"
    for found in causes(error):  # Ray passes on some errors as text alone
        for number, _ in _IN_TEXT.findall(str(found)):
            if int(number) in STORAGE_ERRORS:
                return os.strerror(int(number))
    return ""


def whole_lines(content: bytes) -> bytes:
    """Without what a kill, or a writer who is not done, left of a last line."""
    return content[: content.rfind(b"\n") + 1]


@contextmanager
def whole_or_absent(file: Path) -> Iterator[Path]:
    """A path to write to that becomes `file` at the end; a kill or a full disk leaves the earlier file.

    Raises:
        OSError: with the file's path; what was written of it is deleted, since it may be what fills the disk.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")  # not that of a process which is about to die
    try:
        with faults_name(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, file)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def recover_folder(folder: Path) -> None:
    """Put an earlier folder back where a kill came between the two renamings of `folder_anew`."""
    earlier = folder.with_name(f".{folder.name}.earlier")
    if earlier.exists() and not folder.exists():
        earlier.rename(folder)


@contextmanager
def folder_anew(folder: Path) -> Iterator[Path]:
    """An empty folder to fill that takes the place of `folder` at the end, with nothing of an earlier one left.

    An error, or a kill, leaves the earlier one as it was.
    """
    fresh, earlier = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "earlier"))
    recover_folder(folder)
    shutil.rmtree(earlier, ignore_errors=True)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        if folder.exists():
            folder.rename(earlier)
        fresh.rename(folder)
    finally:
        recover_folder(folder)
        for leftover in (fresh, earlier):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def faults_name(file: Path) -> Iterator[None]:
    """Within, an error of the storage is an OSError that names the file, which the operating system does not always.

    torch, too, has an error of its own for what the disk said.
    """
    try:
        yield
    except Exception as error:
        for found in causes(error):
            if isinstance(found, OSError) and found.errno in STORAGE_ERRORS:
                raise OSError(found.errno, os.strerror(found.errno), str(file)) from error
        raise


class QuietFile:
    """A text stream that drops what its disk does not take: a log must not be what ends a search."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, or not."""
        with suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        with suppress(OSError, ValueError):
            self.stream.flush()

    def close(self) -> None:
        """Close; what was not written is lost."""
        with suppress(OSError):
            self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
