"""Write demo corpora below `data.prepared`: WAV files and a manifest."""

import csv
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import soundfile

from tuning.datasets import storage
from tuning.datasets.corpora.manifest import read_manifest
from tuning.datasets.corpus import Corpus
from tuning.datasets.settings import DataSettings

MANIFEST = "manifest.csv"

_DESCRIBED = ContextVar("described", default=False)


@contextmanager
def only_described() -> Iterator[None]:
    """A context in which a demo corpus that is missing is read as it would be made, without sounds; nothing is kept."""
    token = _DESCRIBED.set(True)
    try:
        yield
    finally:
        _DESCRIBED.reset(token)


def load_demo(data: DataSettings, targets: list[str], name: str, build: Callable[[str], None]) -> Corpus:
    """Read the corpus `name`; `build` writes it into a folder first if it is missing.

    Raises ValueError when `data.root` is set.
    """
    if data.root is not None:
        raise ValueError(
            f"data.root: expected nothing for a demo corpus, got '{data.root}'; did you mean data.corpus=manifest?"
        )
    root = storage.below(storage.absolute(data.prepared), "corpora", name)
    if not storage.exists(root, MANIFEST):
        if _DESCRIBED.get():
            with tempfile.TemporaryDirectory() as folder:
                build(folder)
                try:
                    return Corpus(data.corpus, root, read_manifest(folder, data, targets))
                except ValueError as error:  # which names the manifest
                    raise ValueError(str(error).replace(folder, root)) from None
        build(root)
    return Corpus(data.corpus, root, read_manifest(root, data, targets))


class CorpusWriter:
    """Writes sounds one by one and the manifest last; a corpus without manifest counts as missing."""

    def __init__(self, root: str, columns: Sequence[str], sample_rate_hz: int) -> None:
        self.root, self.sample_rate_hz = root, sample_rate_hz
        self.has_sounds = not _DESCRIBED.get()
        self.table = io.StringIO()
        self.writer = csv.DictWriter(self.table, ["file", *columns], lineterminator="\n")
        self.writer.writeheader()

    def add(self, name: str, render: Callable[[], np.ndarray], values: dict[str, Any]) -> None:
        """Write a waveform [samples] as a WAV file (16 bit) below the root, and add its row to the manifest."""
        if self.has_sounds:
            content = io.BytesIO()
            soundfile.write(content, render(), self.sample_rate_hz, format="WAV", subtype="PCM_16")
            storage.write_bytes(self.root, name, content.getvalue())
        self.writer.writerow({"file": name, **values})

    def close(self) -> None:
        """Write the manifest."""
        storage.write_bytes(self.root, MANIFEST, self.table.getvalue().encode())
