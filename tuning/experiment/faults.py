"""Handle full and read-only disks, and write files so that a kill or such a fault leaves them whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tuning.datasets.redaction import redacted

# Errors of the operating system that say that results can't be written, through no fault of the program.
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)

# Attributes of Ray's errors that hold the error that they wrap.
_WRAPPED = ("cause", "_base_exc", "controller_failure", "health_check_failure")

_IN_TEXT = re.compile(r"\[[Ee]rrno (\d+)\] (.*)")


class StorageError(Exception):
    """Results can't be written any more. What was written before is whole; the message has the path and the reason."""


class NoRayError(Exception):
    """Ray can't be started or reached. What was written before is whole; the message says what happened."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and all errors that caused it, also those inside of Ray's wrappers and worker groups."""
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
    """Describe the storage fault behind an error, such as `/data/last.pt: No space left on device`; empty if none.

    The path is missing if the operating system did not name it.
    """
    for found in causes(error):
        if isinstance(found, OSError) and found.errno in STORAGE_ERRORS:
            path = f"{os.fspath(found.filename)}: " if isinstance(found.filename, (str, Path)) else ""
            return f"{path}{os.strerror(found.errno)}"
    for found in causes(error):  # Ray passes some errors on as text
        for number, _ in _IN_TEXT.findall(str(found)):
            if int(number) in STORAGE_ERRORS:
                return os.strerror(int(number))
    return ""


def whole_lines(content: bytes) -> bytes:
    """The content up to its last line break: without a line that is still being written, or that a kill cut off."""
    return content[: content.rfind(b"\n") + 1]


@contextmanager
def whole_or_absent(file: Path) -> Iterator[Path]:
    """A context with a path to write to, which replaces `file` at the end; a kill or an error leaves the earlier file.

    Raises:
        OSError: with the file's path. What was written is deleted, since it may be what fills the disk.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")  # a dying process may still write to its own
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
    """Restore the earlier folder if a kill came between the two renamings of `folder_anew`."""
    earlier = folder.with_name(f".{folder.name}.earlier")
    if earlier.exists() and not folder.exists():
        earlier.rename(folder)


@contextmanager
def folder_anew(folder: Path) -> Iterator[Path]:
    """A context with an empty folder to fill, which replaces `folder` at the end.

    An error or a kill leaves the earlier folder as it was.
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
    """A context in which a storage fault is an OSError that names the file.

    The operating system does not always name it, and torch raises an error of its own.
    """
    try:
        yield
    except Exception as error:
        for found in causes(error):
            if isinstance(found, OSError) and found.errno in STORAGE_ERRORS:
                raise OSError(found.errno, os.strerror(found.errno), str(file)) from error
        raise


class QuietFile:
    """A text stream that drops credentials, and what can't be written: a full disk must not end a search by its log."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write if possible."""
        with suppress(OSError, ValueError):
            self.stream.write(redacted(text))
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        with suppress(OSError, ValueError):
            self.stream.flush()

    def close(self) -> None:
        """Close the stream; what could not be written is lost."""
        with suppress(OSError):
            self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
