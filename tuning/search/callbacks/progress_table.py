"""Draw the progress of a search on one screen, for its own process and for `tuning status`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Group
from rich.text import Text

from tuning.config.distributions import plain, short_names
from tuning.config.terminal import visible
from tuning.experiment.directory import DAMAGED, TrialRecord
from tuning.experiment.ranking import rank
from tuning.training.ranking import Mode

BAR_LETTERS = 24


@dataclass
class Standing:
    """The progress of a search.

    Args:
        name: of the search.
        total: number of trials of the whole search.
        metric: that ranks the trials.
        mode: its direction.
        epochs: the most epochs of a trial, if their number is not searched itself.
        resources: what a trial takes and how many run at once, in words.
        records: of the trials that have started, by number.
        earlier: number of trials that had ended before this run of the search.
        elapsed: seconds since this run of the search began; None if no process is running it.
        note: a line that is not about one trial.
    """

    name: str
    total: int
    metric: str
    mode: Mode
    epochs: int
    resources: str
    records: dict[int, TrialRecord] = field(default_factory=dict)
    earlier: int = 0
    elapsed: float | None = None
    note: str = ""

    def trials(self) -> list[TrialRecord]:
        """The records as a new list, since another thread may add to them."""
        return list(self.records.values())

    @property
    def ended(self) -> int:
        """Number of trials that have ended."""
        return sum(record.is_final for record in self.trials())

    def best(self) -> TrialRecord | None:
        """The best trial so far; None before one has a value."""
        ranked = rank(self.trials(), self.metric, self.mode)
        return ranked[0] if ranked and ranked[0].value(self.metric) is not None else None

    def trials_per_hour(self) -> float | None:
        """Trials that ended in this run, for each hour of it; None before the first."""
        ended = self.ended - self.earlier
        return ended / self.elapsed * 3600 if ended and self.elapsed else None

    def seconds_left(self) -> float | None:
        """Seconds to the end of the search at the same pace; None before the first trial of this run has ended."""
        pace = self.trials_per_hour()
        return (self.total - self.ended) / pace * 3600 if pace else None


def draw(standing: Standing, height: int = 24) -> Group:
    """Draw at most `height` lines, none of which wraps: trials, time, resources, the best and the running trials."""

    def line(*parts: str | tuple[str, str], style: str = "") -> Text:
        safe = (visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts)
        return Text.assemble(*safe, style=style, no_wrap=True, overflow="ellipsis")

    working = standing.elapsed is not None
    records = standing.trials()
    states = Counter("ended" if record.status in ("done", "stopped") else record.status for record in records)
    filled = round(BAR_LETTERS * standing.ended / max(standing.total, 1))
    lines = [
        line((f"{standing.name}  {standing.ended}/{standing.total} trials", "bold"), _counts(states, working)),
        line("█" * filled + "░" * (BAR_LETTERS - filled), style="green"),
    ]
    if working:
        lines.append(line(_times(standing)))
    if standing.resources:
        lines.append(line(standing.resources, style="dim"))
    leader = standing.best()
    if leader is not None:
        names = short_names(leader.params)
        params = "  ".join(f"{names[path]}={plain(value)}" for path, value in leader.params.items())
        best = f"best {standing.metric} {leader.metrics[standing.metric]:.4f}  trial {leader.number}"
        lines += [line(f"{best}, {where(leader)}", style="bold green"), line(f"     {params}", style="dim")]
    running = [_progress(standing, record) for record in records if record.status == "running"]
    failed = [f"trial {record.number:4d}  failed: {record.reason}" for record in records if record.status == "failed"]
    # Running and failed trials get what room the screen has left; one line is for the cursor.
    room = max(2, height - len(lines) - bool(standing.note) - 1)
    shown_failed = failed[-min(3, room // 2) :]
    room -= len(shown_failed)
    if len(running) > room:
        running = [*running[: room - 1], f"and {len(running) - room + 1} more"]
    lines += [line(each) for each in running] + [line(each, style="red") for each in shown_failed]
    if standing.note:
        lines.append(line(standing.note, style="yellow"))
    return Group(*lines)


def where(record: TrialRecord) -> str:
    """Say which epoch, or how many folds, a trial's metrics are from."""
    if record.folds is None:
        return f"in epoch {record.best_epoch}"
    return f"as the mean over {record.epochs} of {record.folds} folds"


def clock(seconds: float) -> str:
    """Write seconds as `1:02:03`, or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _counts(states: Counter[str], working: bool) -> str:
    unfinished = f"  {states['running']} {'running' if working else 'cut off'}" if working or states["running"] else ""
    damaged = f"  {states[DAMAGED]} damaged" if states[DAMAGED] else ""
    return f"{unfinished}  {states['failed']} failed{damaged}"


def _times(standing: Standing) -> str:
    left, pace = standing.seconds_left(), standing.trials_per_hour()
    words = f"elapsed {clock(standing.elapsed or 0)}"
    if left is None or pace is None:
        return f"{words}  time left and throughput: known after the first trial"
    rate = f"{pace / 60:.1f} trials a minute" if pace >= 120 else f"{pace:.1f} trials an hour"
    return f"{words}  left about {clock(left)}  {rate}"


def _progress(standing: Standing, record: TrialRecord) -> str:
    value = record.metrics.get(standing.metric)
    now = f"  {standing.metric} {value:.4f}" if value is not None else ""
    most = record.folds or record.params.get("training.epochs", standing.epochs)
    return f"trial {record.number:4d}  {record.unit} {record.epochs}/{most}{now}"
