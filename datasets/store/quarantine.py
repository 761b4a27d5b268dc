"""List recordings that can't be used with their reasons, and stop when there are too many."""

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
    """Too many recordings can't be used; `table` is the CSV file that lists them."""

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


def write_quarantine(prepared: str, corpus: Corpus, fingerprint: str, quarantine: Mapping[str, str]) -> str:
    """Write a CSV of clips and reasons below the folder `prepared`, and return its location."""
    folder, name = storage.below(prepared, "quarantine"), f"{digest_of(corpus.root)[:8]}-{fingerprint}.csv"
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["clip", "reason"])
    writer.writerows((clip.id, quarantine[clip.id]) for clip in corpus.clips if clip.id in quarantine)
    storage.write_bytes(folder, name, table.getvalue().encode())
    return storage.below(folder, name)


def check_quarantine(
    partitions: Mapping[str, str], quarantine: Mapping[str, str], table: str, data: DataSettings
) -> None:
    """Raise QuarantineError when too large a share of the recordings, or a whole partition, can't be used."""
    kinds = Counter(reason.partition(":")[0] for reason in quarantine.values())
    common = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(SHOWN))
    share = len(quarantine) / len(partitions)
    if share > data.max_quarantined_share:
        raise QuarantineError(
            f"data.max_quarantined_share: {len(quarantine)} of {len(partitions)} recordings ({share:.1%}) can't be "
            f"used, allowed are {data.max_quarantined_share:.1%}; most often: {common}; all of them: {table}",
            table,
        )
    usable = {partition for clip, partition in partitions.items() if clip not in quarantine}
    for partition in sorted(set(partitions.values()) - usable):
        raise QuarantineError(
            f"data.root: no recording of '{partition}' can be used: {common}; all of them: {table}", table
        )
