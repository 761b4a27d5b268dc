"""Hash files by content; hashes are cached by size and time of change."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tuning.datasets import storage
from tuning.datasets.checksum import DamagedError, read_json, say_damaged, write_json

NUM_THREADS = 8  # hashing and reading release Python's global lock


def digest_of(*parts: bytes | str) -> str:
    """Hash the parts by blake2b, to 32 hexadecimal digits; where one part ends matters."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        hasher.update(len(content).to_bytes(8, "little"))
        hasher.update(content)
    return hasher.hexdigest()


def digest_files(
    root: str, names: Iterable[str], prepared: str, verify: bool = False
) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of the files under `root` by name, and the reasons for those that can't be read.

    Digests are cached in the folder `prepared`; a file is read again when its size or time of change differs, or with
    `verify` (data.verify).
    """
    names = list(names)
    folder, table = storage.below(prepared, "digests"), f"{digest_of(root)}.json"
    known = _read_cache(folder, table)
    stats = storage.stat_files(root, names)
    digests: dict[str, str] = {}
    reasons = {name: _why_missing(root, name) for name in names if name not in stats}
    stale = []
    for name, stat in stats.items():
        size, mtime_ns, digest = known.get(name, (-1, -1, ""))
        if not verify and (size, mtime_ns) == (stat.size, stat.mtime_ns):
            digests[name] = digest
        else:
            stale.append(name)

    def hash_one(name: str) -> str | OSError:
        try:
            return digest_of(storage.read_bytes(root, name))
        except OSError as error:
            return error

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for name, result in zip(stale, pool.map(hash_one, stale), strict=True):
            if isinstance(result, OSError):
                reasons[name] = f"cannot be read: {os.strerror(result.errno) if result.errno else result}"
            else:
                digests[name] = result
                known[name] = (stats[name].size, stats[name].mtime_ns, result)
    if stale:
        write_json(folder, table, known)
    return digests, reasons


def _why_missing(root: str, name: str) -> str:
    return "missing" if storage.is_uri(root) else storage.why_no_file(os.path.join(root, name)) or "missing"


def _read_cache(folder: str, table: str) -> dict[str, tuple[int, int, str]]:
    """The digests that were computed before; of a damaged table none."""
    try:
        table_of = read_json(folder, table)
        return {name: (int(size), int(time), str(digest)) for name, (size, time, digest) in table_of.items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, TypeError, ValueError) as error:
        say_damaged(folder, table, error.what if isinstance(error, DamagedError) else "no digests")
        return {}
