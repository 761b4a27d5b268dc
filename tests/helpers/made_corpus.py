"""What holds of every corpus that is made: same bytes each time, built once, whole or not there."""

import hashlib
from pathlib import Path

import pytest

from tuning.datasets import storage


def digest(root):
    hasher = hashlib.sha256()
    for path in sorted(Path(root).rglob("*.*")):
        hasher.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return hasher.hexdigest()


def check_built_once(load, module, corpus, folder, monkeypatch):
    """`load(folder)` makes what `corpus` is, byte by byte, and builds nothing when called again."""
    again = load(folder)
    assert again.clips == corpus.clips
    assert digest(again.root) == digest(corpus.root)
    monkeypatch.setattr(module, "build", lambda root: pytest.fail("built twice"))
    load(folder)


def check_killed_writer(load, corpus, folder, monkeypatch):
    """Killed at its 30th file, `load(folder)` makes it whole the next time."""
    real, written = storage.write_bytes, []

    def killed(folder, name, content):
        written.append(name)
        if len(written) == 30:
            raise KeyboardInterrupt
        real(folder, name, content)

    monkeypatch.setattr(storage, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    monkeypatch.setattr(storage, "write_bytes", real)
    assert digest(load(folder).root) == digest(corpus.root)
