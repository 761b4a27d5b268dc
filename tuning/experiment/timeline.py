"""Record when and where a trial ran: `times.csv` gets a line when it starts, after each row and at its end.

Lines are appended, so a kill loses nothing that was written before, and a trial that was interrupted keeps both
stretches. The times have no effect on the ranking.
"""

from __future__ import annotations

import csv
import datetime
from dataclasses import dataclass
from pathlib import Path

from tuning.experiment.faults import faults_name
from tuning.experiment.reading import read_moment, read_rows, understood

FILE = "times.csv"
BEGAN, ROW, ENDED = "began", "row", "ended"


@dataclass(frozen=True)
class Stretch:
    """A time in which a trial ran without interruption on one machine, in UTC.

    Args:
        began: when the trial started or resumed.
        seen: when it wrote its last line, for its last row or its end.
        worker: name of the machine; empty if no row came from it.
        ended: whether the trial ended or was stopped, rather than lost.
    """

    began: datetime.datetime
    seen: datetime.datetime
    worker: str = ""
    ended: bool = False


def note(folder: Path, event: str, worker: str = "") -> None:
    """Append a line to the times of the trial in `folder`. Raises OSError with the file's name."""
    file = folder / FILE
    with faults_name(file), file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if stream.tell() == 0:
            writer.writerow(["time", "event", "worker"])
        writer.writerow([datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"), event, worker])


def read_stretches(folder: Path) -> list[Stretch]:
    """The stretches of the trial in `folder`, in order; none if an earlier version ran it.

    Raises:
        DamagedFileError: the file can't be read.
    """
    file = folder / FILE
    if not file.exists():
        return []
    found: list[Stretch] = []
    for row in read_rows(file, ("time", "event", "worker")):
        with understood(file, "times in UTC"):
            moment, event = read_moment(row["time"]), row["event"]
        if event == BEGAN or not found:
            found.append(Stretch(moment, moment, row["worker"]))
        else:
            last = found[-1]
            found[-1] = Stretch(last.began, moment, row["worker"] or last.worker, event == ENDED)
    return found
