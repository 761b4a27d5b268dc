"""What a search says while it runs: one quiet live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tuning.distributions import plain
from tuning.search.folder import TrialRecord
from tuning.tasks import Mode, better


class View:
    """Trials done, running and failed, the best so far, and the time left.

    Args:
        total: number of trials of the whole search.
        metric: what ranks the trials.
        mode: its direction.
        epochs: most epochs of a trial.
        resources: what a trial takes and how many run at once, in words.
        records: trials that an earlier run brought to their end.
    """

    def __init__(
        self, total: int, metric: str, mode: Mode, epochs: int, resources: str, records: list[TrialRecord]
    ) -> None:
        self.total, self.metric, self.mode, self.epochs, self.resources = total, metric, mode, epochs, resources
        self.records = {record.number: record for record in records}
        self.earlier = sum(record.is_final for record in records)
        self.began = time.monotonic()
        # Held, because Tune's own printing is led elsewhere while it runs.
        self.out = sys.stdout
        self.console = Console(file=self.out, highlight=False)
        self.live: Live | None = None
        self.note = ""

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, record: TrialRecord, event: str) -> None:
        """Take a trial's news; off a terminal, one line per trial at its end."""
        self.records[record.number] = record
        if event != "ended" or record.status == "running":
            return
        value = record.metrics.get(self.metric)
        outcome = record.reason if value is None else f"{self.metric} {value:.4f} {_where(record)}"
        line = f"[{self.ended}/{self.total}] trial {record.number} {record.status}: {outcome}"
        line += f" ({record.epochs} {record.unit}{'s' if record.epochs != 1 else ''}, {record.seconds or 0:.0f} s)"
        if record.status == "failed" and value is not None:
            line += f": {record.reason}"
        if self.live is None:
            print(line, file=self.out, flush=True)
        elif record.status == "failed":
            self.live.console.print(Text(line, style="red"))

    def say(self, note: str) -> None:
        """Show what is going on beside the trials, such as the stop of the search."""
        self.note = note
        if self.live is None:
            print(note, file=self.out, flush=True)

    @property
    def ended(self) -> int:
        """Number of trials that came to their end."""
        return sum(record.is_final for record in self.records.values())

    def best(self) -> TrialRecord | None:
        """The leading trial so far; one with all its folds leads one with fewer."""
        leader: TrialRecord | None = None
        for record in self.records.values():
            if record.status == "failed" or self.metric not in record.metrics:
                continue
            if leader is not None and record.is_whole != leader.is_whole:
                leader = record if record.is_whole else leader
            elif better(self.mode, record.metrics[self.metric], leader.metrics[self.metric] if leader else None):
                leader = record
        return leader

    def seconds_left(self) -> float | None:
        """Estimate from the trials that ended in this run, at the same pace."""
        ended = self.ended - self.earlier
        return (time.monotonic() - self.began) / ended * (self.total - self.ended) if ended else None

    def _panel(self) -> Any:
        states = Counter("ended" if r.status in ("done", "stopped") else r.status for r in self.records.values())
        left = self.seconds_left()
        head = Text.assemble(
            (f"{self.ended}/{self.total} trials", "bold"),
            f"  {states['running']} running  {states['failed']} failed",
            f"  elapsed {_clock(time.monotonic() - self.began)}",
            f"  left about {_clock(left)}" if left is not None else "  left: known after the first trial",
            (f"  {self.resources}", "dim"),
        )
        width = 24
        filled = round(width * self.ended / max(self.total, 1))
        lines = [head, Text("█" * filled + "░" * (width - filled), style="green")]
        leader = self.best()
        if leader is not None:
            params = "  ".join(f"{path.split('.', 1)[1]}={plain(value)}" for path, value in leader.params.items())
            best = f"best {self.metric} {leader.metrics[self.metric]:.4f}  trial {leader.number}"
            lines.append(Text(f"{best}, {_where(leader)}", style="bold green"))
            lines.append(Text(f"     {params}", style="dim", no_wrap=True, overflow="ellipsis"))
        running = [record for record in self.records.values() if record.status == "running"]
        for record in running[-8:]:
            value = record.metrics.get(self.metric)
            now = f"  {self.metric} {value:.4f}" if value is not None else ""
            progress = f"{record.unit} {record.epochs}/{record.folds or self.epochs}"
            lines.append(Text(f"trial {record.number:4d}  {progress}{now}", no_wrap=True))
        if self.note:
            lines.append(Text(self.note, style="yellow"))
        return Group(*lines)


def _where(record: TrialRecord) -> str:
    if record.folds is None:
        return f"in epoch {record.best_epoch}"
    return f"as the mean over {record.epochs} of {record.folds} folds"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
