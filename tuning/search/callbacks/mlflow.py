"""A search in MLflow, beside what its folder holds: one run for each trial, written by a thread that only reads."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

from tuning.config.distributions import plain
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress, write_json
from tuning.experiment.exploits import first_params

log = logging.getLogger("tuning.search")

# Between two looks at the trials' folders, and after a failure; seconds that the end of a search waits for the last.
SECONDS, AFTER_FAILURE, LAST_SECONDS = 2.0, 30.0, 20.0
# Of one request, for which MLflow's own defaults wait for minutes; and nobody is told that it is used.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
}  # fmt: skip
STATUS = {"done": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
# Columns of progress.csv that are no figures of an epoch.
EVERY_ROW = "seconds"  # stands in every row
NO_METRICS = ("epoch", "fold", "finished", "fold_epochs")
# MLflow refuses more in one request.
MOST_METRICS, LONGEST_PARAM = 1000, 500


class Tracking:
    """Brings MLflow up to what the folder says, again and again; `with` starts and ends it.

    What was logged is asked of MLflow itself where an earlier process may have been killed, so nothing is logged twice.
    A failure is said once, tried again later, and never ends or holds up the search.

    Args:
        uri: of the tracking server or store; None to do nothing.
        folder: the search's.
        say: shows a note.
    """

    def __init__(self, uri: str | None, folder: SearchFolder, say: Callable[[str], None]) -> None:
        self.uri, self.folder, self.say = uri, folder, say
        self.runs: dict[int, str] = {}
        self.rows: dict[int, int] = {}
        self.ended: set[int] = set()
        self._client: Any = None
        self._said = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def __enter__(self) -> Tracking:
        if self.uri:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.uri:
            self._stop.set()
            # A daemon: what hangs beyond that ends with the process, and the next run of the search makes it good.
            self._thread.join(LAST_SECONDS)

    def _work(self) -> None:
        last = False
        while True:
            pause = SECONDS
            try:
                self.bring_up_to_date(closing=last)
            except Exception as error:  # of MLflow, its store or the network: whatever it is, the search goes on
                pause = AFTER_FAILURE
                log.warning("mlflow: %s", error)
                if not self._said:
                    self._said = True
                    reason = " ".join(str(error).split())[:200]
                    self.say(f"mlflow: not logged, tried again later: {reason}")
            if last:
                return
            last = self._stop.wait(pause)

    def bring_up_to_date(self, closing: bool = False) -> None:
        """Log what is new in the trials' folders. `closing`: trials that have not ended are cut off."""
        self._connect()
        for record in self.folder.records():
            if record.number in self.ended:
                continue
            # The end first: rows that come after it was read are logged at the next look.
            final = self.folder.is_written(record)
            self._log_trial(record)
            if final or closing:
                self._client.set_terminated(self.runs[record.number], STATUS.get(record.status, "KILLED"))
                self._client.set_tag(self.runs[record.number], "status", record.status)
                self._client.set_tag(self.runs[record.number], "reason", record.reason[:LONGEST_PARAM])
            if final:
                self.ended.add(record.number)

    def _connect(self) -> None:
        if self._client is not None:
            return
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        for name in ("mlflow", "alembic"):  # a new store's tables are not the search's news
            logging.getLogger(name).setLevel(logging.WARNING)
        client = mlflow.MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.folder.name)
        experiment = found.experiment_id if found else client.create_experiment(self.folder.name)
        search, token = self._identity(), None
        while True:
            page = client.search_runs([experiment], f"tags.search_id = '{search}'", page_token=token)
            for run in page:
                self._take_over(client, run)
            token = page.token
            if not token:
                break
        self._experiment, self._search, self._client = experiment, search, client

    def _take_over(self, client: Any, run: Any) -> None:
        """A run that an earlier process began: how many rows it has, and whether it ended."""
        number = int(run.data.tags["trial"])
        self.runs[number] = run.info.run_id
        if run.data.tags.get("status") in STATUS:
            self.ended.add(number)
            return
        client.update_run(run.info.run_id, status="RUNNING")
        if EVERY_ROW in run.data.metrics:
            self.rows[number] = max(entry.step for entry in client.get_metric_history(run.info.run_id, EVERY_ROW))

    def _identity(self) -> str:
        """Of this search, so that another of the same name is not taken for it."""
        file = self.folder.path / "mlflow.json"
        if not file.exists():
            write_json(file, {"search_id": uuid.uuid4().hex})
        return str(json.loads(file.read_text(encoding="utf-8"))["search_id"])

    def _log_trial(self, record: TrialRecord) -> None:
        from mlflow.entities import Metric, Param

        number = record.number
        if number not in self.runs:
            tags = {"search": self.folder.name, "search_id": self._search, "trial": str(number)}
            name = f"{self.folder.name}-{number:04d}"
            self.runs[number] = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
            began = first_params(self.folder.trial(number), record.params)
            params = [Param(path, plain(value)[:LONGEST_PARAM]) for path, value in began.items()]
            self._client.log_batch(self.runs[number], params=params)
        start = self._client.get_run(self.runs[number]).info.start_time
        for row in read_progress(self.folder.trial(number)):
            step = int(row["epoch"])
            if step <= self.rows.get(number, 0):
                continue
            cells = {name: cell for name, cell in row.items() if name not in NO_METRICS and cell}
            figures = {name: float(cell) for name, cell in cells.items() if _is_number(cell)}
            metrics = [Metric(name, value, start + step, step) for name, value in figures.items()]
            for first in range(0, len(metrics), MOST_METRICS):
                self._client.log_batch(self.runs[number], metrics=metrics[first : first + MOST_METRICS])
            self.rows[number] = step


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
