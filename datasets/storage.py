"""Read and write files in local folders and in buckets (s3://, gs://) by pyarrow's file systems."""

import contextlib
import os
import posixpath
import stat
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyarrow import fs


@dataclass(frozen=True)
class FileStat:
    """Size in bytes and time of the last change in nanoseconds."""

    size: int
    mtime_ns: int


def is_uri(location: str) -> bool:
    """Whether a location is a URI such as s3://bucket/folder, not a local path."""
    return "://" in location


def absolute(location: str) -> str:
    """A local path made absolute; a URI as it is."""
    return location if is_uri(location) else os.path.abspath(os.path.expanduser(location))


@lru_cache(maxsize=64)
def open_storage(folder: str) -> tuple[fs.FileSystem, str]:
    """pyarrow's file system for a folder or URI, and the path of the folder within it.

    Cached, because a new connection to an object store takes round trips.
    """
    if is_uri(folder):
        return fs.FileSystem.from_uri(folder)
    return fs.LocalFileSystem(), absolute(folder)


def below(folder: str, *names: str) -> str:
    """Join names to a folder or URI; options of the URI (?endpoint_override=...) stay at its end."""
    base, question_mark, options = folder.partition("?") if is_uri(folder) else (folder, "", "")
    return posixpath.join(base, *names) + question_mark + options


def read_bytes(folder: str, name: str) -> bytes:
    """Read a file. Raises OSError, such as FileNotFoundError."""
    filesystem, base = open_storage(folder)
    with filesystem.open_input_stream(posixpath.join(base, name)) as stream:
        return stream.read()


def read_buffer(folder: str, name: str) -> Any:
    """Read a file into a buffer of pyarrow. Raises OSError, such as FileNotFoundError."""
    filesystem, base = open_storage(folder)
    with filesystem.open_input_file(posixpath.join(base, name)) as source:
        return source.read_buffer()


def write_bytes(folder: str, name: str, content: Any) -> None:
    """Write bytes or a buffer to a file atomically: a reader sees all of it or nothing.

    Local files are written under another name and renamed; object stores show complete objects only.
    """
    filesystem, base = open_storage(folder)
    path = posixpath.join(base, name)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def exists(folder: str, name: str) -> bool:
    """Whether a file exists."""
    return bool(stat_files(folder, [name]))


def list_sizes(folder: str) -> dict[str, int]:
    """Bytes of the files in a folder by name; empty if there is no such folder."""
    filesystem, path = open_storage(folder)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return {info.base_name: info.size for info in infos if info.is_file}


def list_names(folder: str) -> set[str]:
    """Names of the files in a folder; empty if there is no such folder."""
    return set(list_sizes(folder))


def list_folder(folder: str, name: str = "") -> dict[str, bool]:
    """Names in the folder `name` below a folder or URI, and whether each is a folder; empty if there is none.

    `name` may have spaces, which a URI may not.
    """
    if not is_uri(folder):
        try:
            with os.scandir(os.path.join(absolute(folder), name)) as entries:
                return {entry.name: entry.is_dir() for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return {}
    filesystem, base = open_storage(folder)
    infos = filesystem.get_file_info(fs.FileSelector(posixpath.join(base, name), allow_not_found=True))
    return {info.base_name: not info.is_file for info in infos}


def stat_files(folder: str, names: Iterable[str]) -> dict[str, FileStat]:
    """Size and time of change of files below a folder, without missing ones and folders.

    In threads, because each file costs a round trip to an object store.
    """
    filesystem, base = open_storage(folder)
    names = list(names)
    chunks = [names[start : start + 50] for start in range(0, len(names), 50)]

    def stat_chunk(chunk: list[str]) -> dict[str, FileStat]:
        try:
            infos = filesystem.get_file_info([posixpath.join(base, name) for name in chunk])
        except (OSError, ValueError):  # a name that no file can have: too long, or with a NUL
            return (
                {} if len(chunk) == 1 else {name: found for each in chunk for name, found in stat_chunk([each]).items()}
            )
        found = zip(chunk, infos, strict=True)
        return {name: FileStat(info.size, info.mtime_ns or 0) for name, info in found if info.is_file}

    with ThreadPoolExecutor(16) as pool:
        return {name: found for part in pool.map(stat_chunk, chunks) for name, found in part.items()}


def why_no_file(path: str) -> str:
    """Why there is no file to read at a local path, without opening it, as FIFOs and devices block who opens them."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        return "missing: no file can have a NUL in its name"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    kinds = {
        "a folder": stat.S_ISDIR,
        "a FIFO": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    }
    kind = next((name for name, is_kind in kinds.items() if is_kind(mode)), "")
    return f"not a file: {kind}" if kind else ""


def list_files(folder: str) -> dict[str, FileStat]:
    """Files below a folder or URI by relative path, without unfinished ones; empty if there is no such folder."""
    filesystem, base = open_storage(folder)
    infos = filesystem.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    return {
        posixpath.relpath(info.path, base): FileStat(info.size, info.mtime_ns or 0)
        for info in infos
        if info.is_file and not info.base_name.endswith(".partial")
    }


def delete(folder: str, name: str) -> None:
    """Delete a file if it exists."""
    filesystem, base = open_storage(folder)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(posixpath.join(base, name))


def delete_folder(folder: str) -> None:
    """Delete a folder or URI with all its files, if it exists."""
    filesystem, base = open_storage(folder)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_dir(base)


def copy_within(folder: str, target: str, names: Iterable[str]) -> None:
    """Copy files to another folder of the same storage; an object store copies without a download."""
    filesystem, base = open_storage(folder)
    _, into = open_storage(target)

    def copy(name: str) -> None:
        filesystem.create_dir(posixpath.dirname(posixpath.join(into, name)))
        filesystem.copy_file(posixpath.join(base, name), posixpath.join(into, name))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(copy, names))
