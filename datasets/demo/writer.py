"""Corpora that are made, not downloaded: sounds and a manifest under `data.prepared`, built where they are absent."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tuning.datasets import storage
from tuning.datasets.corpora.manifest import read_manifest
from tuning.datasets.corpus import Corpus
from tuning.datasets.settings import DataSettings

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.csv"


def load_made(data: DataSettings, targets: list[str], name: str, build: Callable[[str], None]) -> Corpus:
    """The corpus `name`, which `build` writes into a folder first where it is absent.

    Raises ValueError when `data.root` is set.
    """
    if data.root is not None:
        raise ValueError(
            f"data.root: the demo corpus makes its own, got '{data.root}'; did you mean data.corpus=manifest?"
        )
    root = storage.below(storage.absolute(data.prepared), "corpora", name)
    if not storage.exists(root, MANIFEST):
        build(root)
    return Corpus(data.corpus, root, read_manifest(root, data, targets))


class CorpusWriter:
    """Writes sounds one by one and the manifest last: without it the corpus is not there, and is made anew."""

    def __init__(self, root: str, columns: Sequence[str], sample_rate_hz: int) -> None:
        self.root, self.sample_rate_hz = root, sample_rate_hz
        self.table = io.StringIO()
        self.writer = csv.DictWriter(self.table, ["file", *columns], lineterminator="\n")
        self.writer.writeheader()

    def add(self, name: str, sound: "np.ndarray", values: dict[str, Any]) -> None:
        """Write a waveform [samples] as a WAV file of 16 bits under the root, and its row."""
        import soundfile

        content = io.BytesIO()
        soundfile.write(content, sound, self.sample_rate_hz, format="WAV", subtype="PCM_16")
        storage.write_bytes(self.root, name, content.getvalue())
        self.writer.writerow({"file": name, **values})

    def close(self) -> None:
        """Write the manifest."""
        storage.write_bytes(self.root, MANIFEST, self.table.getvalue().encode())
