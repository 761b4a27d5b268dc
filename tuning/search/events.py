"""TensorBoard events of a trial: curves, all searched settings, and the best metrics, also while it runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tuning.search.folder import TrialRecord

STATUS = {
    "done": api_pb2.Status.Value("STATUS_SUCCESS"),
    "stopped": api_pb2.Status.Value("STATUS_SUCCESS"),
    "failed": api_pb2.Status.Value("STATUS_FAILURE"),
    "running": api_pb2.Status.Value("STATUS_UNKNOWN"),
}


class TrialEvents:
    """One trial's event file; every call is on disk when it returns, for a TensorBoard that looks on."""

    def __init__(self, folder: Path, record: TrialRecord) -> None:
        self.writer = EventFileWriter(str(folder))
        self._write(hparams.hparams_pb(_shown(record.params), trial_id=folder.name), step=0)

    def epoch(self, row: dict[str, Any], best: dict[str, Any]) -> None:
        """Add an epoch's curves, and the best metrics where it is the best."""
        values = {f"train/{n}" if not n.startswith("val_") else f"val/{n[4:]}": v for n, v in row.items()}
        values = {name: v for name, v in values.items() if name not in ("train/epoch", "train/best_epoch")}
        values |= {f"best/{name}": value for name, value in best.items()}
        if best:
            values["best/epoch"] = row["epoch"]
        summary = Summary(value=[Summary.Value(tag=name, simple_value=float(v)) for name, v in values.items()])
        self._write(summary, step=row["epoch"])

    def close(self, status: str) -> None:
        """Say how the trial ended, and close the file."""
        end = plugin_data_pb2.SessionEndInfo(status=STATUS[status], end_time_secs=time.time())
        content = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(content))
        value.tensor.CopyFrom(metadata.NULL_TENSOR)
        self._write(Summary(value=[value]), step=0)
        self.writer.close()

    def _write(self, summary: Any, step: int) -> None:
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        self.writer.flush()


def write_experiment(folder: Path, params: dict[str, list[Any] | None], metrics: list[str]) -> None:
    """Declare the columns of TensorBoard's HParams table for the whole search.

    Args:
        folder: root of the search, above its trials.
        params: searched settings, each with its values where they are listed.
        metrics: validation metrics, the ranking one first.
    """
    infos = [hparams.HParam(name, _domain(values)) for name, values in params.items()]
    columns = [hparams.Metric(f"best/{name}", display_name=f"best {name}") for name in metrics]
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(wall_time=time.time(), step=0, summary=hparams.hparams_config_pb(infos, columns)))
    writer.close()


def _shown(params: dict[str, Any]) -> dict[str, Any]:
    return {name: _scalar(value) for name, value in params.items()}


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _domain(values: list[Any] | None) -> Any:
    shown = [_scalar(value) for value in values or []]
    return hparams.Discrete(shown) if shown and len({type(value) for value in shown}) == 1 else None
