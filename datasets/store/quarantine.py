"""Recordings that can't be used: listed with their reasons, and too many of them an error."""

import csv
import io
from collections import Counter
from collections.abc import Mapping

from tuning.datasets import storage
from tuning.datasets.corpus import Corpus
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import DataSettings

SHOWN = 3  # reasons listed in an error


class QuarantineError(ValueError):
    """Too many recordings can't be used; `table` is the CSV that lists them."""

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


def write_quarantine(prepared: str, corpus: Corpus, mark: str, quarantine: Mapping[str, str]) -> str:
    """Write the table (clip, reason) below the folder `prepared` and say where; `mark` names the feature settings."""
    folder, name = storage.below(prepared, "quarantine"), f"{digest_of(corpus.root)[:8]}-{mark}.csv"
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["clip", "reason"])
    writer.writerows((clip.id, quarantine[clip.id]) for clip in corpus.clips if clip.id in quarantine)
    storage.write_bytes(folder, name, table.getvalue().encode())
    return storage.below(folder, name)


def check_quarantine(cells: Mapping[str, str], quarantine: Mapping[str, str], table: str, data: DataSettings) -> None:
    """Raise QuarantineError when too large a share, or a whole cell, can't be used."""
    kinds = Counter(reason.partition(":")[0] for reason in quarantine.values())
    common = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(SHOWN))
    share = len(quarantine) / len(cells)
    if share > data.max_quarantined_share:
        raise QuarantineError(
            f"data.max_quarantined_share: {len(quarantine)} of {len(cells)} recordings ({share:.1%}) can't be used, "
            f"allowed are {data.max_quarantined_share:.1%}; most often: {common}; all of them: {table}",
            table,
        )
    usable = {cell for clip, cell in cells.items() if clip not in quarantine}
    for cell in sorted(set(cells.values()) - usable):
        raise QuarantineError(f"data.root: no recording of '{cell}' can be used: {common}; all of them: {table}", table)
