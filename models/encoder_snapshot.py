"""What the folder of a pretrained model holds, by content: one rule for encoders of speech, texts and images."""

import hashlib
from functools import lru_cache
from pathlib import Path

Signature = tuple[tuple[str, int, int], ...]  # name, size, time of change in ns of each file


def content_of(name: str) -> str:
    """What fingerprints have of a model: a hash of its folder's files, or the hub name with the commit, if known."""
    snapshot = snapshot_of(name)
    if Path(name).is_dir():
        return snapshot
    return f"{name}@{snapshot}" if snapshot else name


def snapshot_of(name: str) -> str:
    """Which weights, settings and words a name stands for now: a hash of a folder's files, whatever it is called and
    when they were written; of a hub name the commit in the hub's cache. Empty where neither is at hand."""
    folder = Path(name)
    return _hash(name, signature(folder)) if folder.is_dir() else _commit(name)


def signature(folder: Path) -> Signature:
    """Names, sizes and times of the files that loading a model may read, sorted by name.

    Those are all that lie in the folder itself: tokenizers read files of any ending (bpe.codes, spiece.model,
    merges.txt). Hidden files and pages of text about the model (*.md) are left out.
    """
    files = (file for file in folder.iterdir() if file.is_file())
    read = sorted(file for file in files if not file.name.startswith(".") and file.suffix != ".md")
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file in read for stat in [file.stat()])


@lru_cache(maxsize=8)
def _hash(name: str, found: Signature) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for file, _, _ in found:
        with open(Path(name) / file, "rb") as stream:
            hasher.update(file.encode() + b"\0" + hashlib.file_digest(stream, "blake2b").digest())
    return hasher.hexdigest()


def _commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name that the hub could have, such as the path of a folder that is gone
        return ""
    return Path(file).parent.name if isinstance(file, str) else ""
