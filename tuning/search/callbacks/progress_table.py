"""How a search stands, drawn on one screen: for the live view of its own process and for one that looks on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tuning.config.distributions import plain
from tuning.experiment.directory import TrialRecord
from tuning.training.tasks import Mode, better

if TYPE_CHECKING:
    from rich.console import Group

BAR = 24


@dataclass
class Standing:
    """How a search stands.

    Args:
        name: the search's.
        total: number of trials of the whole search.
        metric: what ranks the trials.
        mode: its direction.
        epochs: most epochs of a trial whose number of epochs is not searched itself.
        resources: what a trial takes and how many run at once, in words.
        records: the trials that were begun, by number.
        earlier: number of trials that an earlier run brought to their end.
        elapsed: seconds since this run of the search began; None where nobody works on it.
        note: what is going on beside the trials.
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
        """The trials that were begun: a list of its own, since another thread may add to the records."""
        return list(self.records.values())

    @property
    def ended(self) -> int:
        """Number of trials that came to their end."""
        return sum(record.is_final for record in self.trials())

    def best(self) -> TrialRecord | None:
        """The leading trial so far; one with all its folds leads one with fewer."""
        leader: TrialRecord | None = None
        for record in self.trials():
            if record.status == "failed" or self.metric not in record.metrics:
                continue
            if leader is not None and record.is_whole != leader.is_whole:
                leader = record if record.is_whole else leader
            elif better(self.mode, record.metrics[self.metric], leader.metrics[self.metric] if leader else None):
                leader = record
        return leader

    def trials_per_hour(self) -> float | None:
        """Trials that ended in this run, by its time; None before the first."""
        ended = self.ended - self.earlier
        return ended / self.elapsed * 3600 if ended and self.elapsed else None

    def seconds_left(self) -> float | None:
        """Time to the end at the same pace; None before the first trial ended in this run."""
        pace = self.trials_per_hour()
        return (self.total - self.ended) / pace * 3600 if pace else None


def draw(standing: Standing, height: int = 24) -> Group:
    """At most `height` lines, none of which wraps: trials, time and throughput, resources, the best, those that run."""
    from rich.console import Group
    from rich.text import Text

    def line(*parts: str | tuple[str, str], style: str = "") -> Text:
        return Text.assemble(*parts, style=style, no_wrap=True, overflow="ellipsis")

    working = standing.elapsed is not None
    records = standing.trials()
    states = Counter("ended" if record.status in ("done", "stopped") else record.status for record in records)
    filled = round(BAR * standing.ended / max(standing.total, 1))
    lines = [
        line((f"{standing.name}  {standing.ended}/{standing.total} trials", "bold"), _counts(states, working)),
        line("█" * filled + "░" * (BAR - filled), style="green"),
    ]
    if working:
        lines.append(line(_times(standing)))
    if standing.resources:
        lines.append(line(standing.resources, style="dim"))
    leader = standing.best()
    if leader is not None:
        params = "  ".join(f"{path.split('.', 1)[1]}={plain(value)}" for path, value in leader.params.items())
        best = f"best {standing.metric} {leader.metrics[standing.metric]:.4f}  trial {leader.number}"
        lines += [line(f"{best}, {where(leader)}", style="bold green"), line(f"     {params}", style="dim")]
    running = [_progress(standing, record) for record in records if record.status == "running"]
    failed = [f"trial {record.number:4d}  failed: {record.reason}" for record in records if record.status == "failed"]
    # Of what there may be many of, as much as the screen has room for; one line is the cursor's.
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
    """Which epoch, or how many folds, a trial's figures are of."""
    if record.folds is None:
        return f"in epoch {record.best_epoch}"
    return f"as the mean over {record.epochs} of {record.folds} folds"


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _counts(states: Counter[str], working: bool) -> str:
    unfinished = f"  {states['running']} {'running' if working else 'cut off'}" if working or states["running"] else ""
    return f"{unfinished}  {states['failed']} failed"


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
