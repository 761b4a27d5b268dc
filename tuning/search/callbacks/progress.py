"""Show the progress of a running search: one live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live

from tuning.config.terminal import visible
from tuning.experiment.directory import TrialRecord
from tuning.search.callbacks.progress_table import Standing, draw, where


class View:
    """A context that shows a search's progress with every event of its trials."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.began = time.monotonic()
        # Kept, because `sys.stdout` is redirected while Tune runs.
        self.out = sys.stdout
        self.console = Console(file=self.out, highlight=False)
        self.live: Live | None = None

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, record: TrialRecord, event: str) -> None:
        """Take the record of a trial after an event; off a terminal, print one line when the trial ends."""
        standing = self.standing
        standing.records[record.number] = record
        if event != "ended" or record.status == "running" or self.live is not None:
            return
        value = record.metrics.get(standing.metric)
        outcome = record.reason if value is None else f"{standing.metric} {value:.4f} {where(record)}"
        line = f"[{standing.ended}/{standing.total}] trial {record.number} {record.status}: {outcome}"
        line += f" ({record.epochs} {record.unit}{'s' if record.epochs != 1 else ''}, {record.seconds or 0:.0f} s)"
        if record.status == "failed" and value is not None:
            line += f": {record.reason}"
        print(visible(line), file=self.out, flush=True)

    def say(self, note: str) -> None:
        """Show a line that is not about one trial, such as that the search is stopping."""
        self.standing.note = note
        if self.live is None:
            print(visible(note), file=self.out, flush=True)

    def _panel(self) -> Any:
        self.standing.elapsed = time.monotonic() - self.began
        return draw(self.standing, self.console.height)
