"""Write TensorBoard events of a trial while it runs: curves, all searched settings, and the best metrics.

`torch.utils.tensorboard.SummaryWriter` is not used: it has a thread for every file, which prints a traceback when the
disk is full, and is nine times as slow.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.record_writer import RecordWriter

from tuning.config.distributions import Distribution
from tuning.experiment.directory import TrialRecord
from tuning.experiment.exploits import first_params
from tuning.experiment.faults import faults_name

STATUS = {
    "done": api_pb2.Status.Value("STATUS_SUCCESS"),
    "stopped": api_pb2.Status.Value("STATUS_SUCCESS"),
    "failed": api_pb2.Status.Value("STATUS_FAILURE"),
    "running": api_pb2.Status.Value("STATUS_UNKNOWN"),
}


NUMBERS = itertools.count()


class EventFile:
    """An event file in which every event is on disk when `add` returns."""

    def __init__(self, folder: Path) -> None:
        who = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(NUMBERS)}"
        self.path = folder / f"events.out.tfevents.{who}"
        with faults_name(self.path):
            self.stream = self.path.open("wb", buffering=0)
        self.writer = RecordWriter(self.stream)
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, event: Event) -> None:
        """Write an event. Raises OSError."""
        with faults_name(self.path):
            self.writer.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


class TrialEvents:
    """The event file of one trial; every call is on disk when it returns, so that TensorBoard can follow the trial."""

    def __init__(self, folder: Path, record: TrialRecord) -> None:
        self.file = EventFile(folder)
        self._write(hparams.hparams_pb(_shown(first_params(folder, record.params)), trial_id=folder.name), step=0)

    def epoch(self, row: dict[str, Any], best: dict[str, Any]) -> None:
        """Add the values of an epoch, and the best metrics if this epoch is the best one."""
        values = {_tag(name): value for name, value in row.items() if name not in ("epoch", "best_epoch")}
        values |= {f"best/{name}": value for name, value in best.items()}
        if best:
            values["best/epoch"] = row["epoch"]
        summary = Summary(value=[Summary.Value(tag=name, simple_value=float(v)) for name, v in values.items()])
        self._write(summary, step=row["epoch"])

    def close(self, status: str) -> None:
        """Record how the trial ended, and close the file."""
        end = plugin_data_pb2.SessionEndInfo(status=STATUS[status], end_time_secs=time.time())
        content = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(content))
        value.tensor.CopyFrom(metadata.NULL_TENSOR)
        try:
            self._write(Summary(value=[value]), step=0)
        finally:
            self.file.close()

    def _write(self, summary: Any, step: int) -> None:
        self.file.add(Event(wall_time=time.time(), step=step, summary=summary))


def _tag(name: str) -> str:
    if name.startswith("val_"):
        return f"val/{name.removeprefix('val_')}"
    return f"train/{name.removeprefix('train_')}"


def write_experiment(folder: Path, searched: dict[str, Distribution], metrics: list[str]) -> None:
    """Declare the columns of TensorBoard's HParams table for the whole search.

    Args:
        folder: the folder of the search.
        searched: the searched settings by dotted path.
        metrics: names of validation metrics, the ranking one first.
    """
    infos = [hparams.HParam(path, _domain(distribution)) for path, distribution in searched.items()]
    columns = [hparams.Metric(f"best/{name}", display_name=f"best {name}") for name in metrics]
    file = EventFile(folder)
    file.add(Event(wall_time=time.time(), step=0, summary=hparams.hparams_config_pb(infos, columns)))
    file.close()


def _shown(params: dict[str, Any]) -> dict[str, Any]:
    return {name: _scalar(value) for name, value in params.items()}


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _domain(distribution: Distribution) -> Any:
    if distribution.kind in ("uniform", "loguniform"):
        return hparams.RealInterval(*(float(end) for end in distribution.values))
    if distribution.kind in ("int", "logint"):
        return hparams.IntInterval(*distribution.values)
    shown = [_scalar(value) for value in distribution.values]
    return hparams.Discrete(shown) if len({type(value) for value in shown}) == 1 else None
