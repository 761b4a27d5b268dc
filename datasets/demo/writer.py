"""Write demo corpora below `data.prepared`: WAV files and a manifest."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile

from tuning.datasets import storage
from tuning.datasets.corpora.manifest import read_manifest
from tuning.datasets.corpus import Corpus
from tuning.datasets.settings import DataSettings

MANIFEST = "manifest.csv"


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
        build(root)
    return Corpus(data.corpus, root, read_manifest(root, data, targets))


class CorpusWriter:
    """Writes sounds one by one and the manifest last; a corpus without manifest counts as missing."""

    def __init__(self, root: str, columns: Sequence[str], sample_rate_hz: int) -> None:
        self.root, self.sample_rate_hz = root, sample_rate_hz
        self.table = io.StringIO()
        self.writer = csv.DictWriter(self.table, ["file", *columns], lineterminator="\n")
        self.writer.writeheader()

    def add(self, name: str, sound: np.ndarray, values: dict[str, Any]) -> None:
        """Write a waveform [samples] as a WAV file (16 bit) below the root, and add its row to the manifest."""
        content = io.BytesIO()
        soundfile.write(content, sound, self.sample_rate_hz, format="WAV", subtype="PCM_16")
        storage.write_bytes(self.root, name, content.getvalue())
        self.writer.writerow({"file": name, **values})

    def close(self) -> None:
        """Write the manifest."""
        storage.write_bytes(self.root, MANIFEST, self.table.getvalue().encode())
