"""Log a search to MLflow, one run for each trial, from a thread that reads the search's folder.

Ray's `MLflowLoggerCallback` is not used: it knows nothing of the runs that an earlier process of the search began, and
a server that is out of reach delays the search for minutes, or ends it.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

from tuning.config.distributions import plain
from tuning.datasets.redaction import redacted
from tuning.experiment.directory import DAMAGED, SearchFolder, TrialRecord, read_progress, write_json
from tuning.experiment.exploits import first_params
from tuning.experiment.reading import read_json, understood

log = logging.getLogger("tuning.search")

PAUSE_SECONDS = 2.0  # between two looks at the trials' folders
FAILURE_PAUSE_SECONDS = 30.0  # before another attempt after a failure
CLOSING_SECONDS = 20.0  # that the end of a search waits for the last values to be logged
# MLflow's own defaults wait for minutes, and report its use to its makers.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
}  # fmt: skip
STATUS = {"done": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
EVERY_ROW = "seconds"  # a column of progress.csv that has a value in every row
NO_METRICS = ("epoch", "fold", "finished", "fold_epochs")  # columns of progress.csv that are not metrics
MAX_METRICS, MAX_LETTERS = 1000, 500  # in one request, and in one text: MLflow refuses more


class Tracking:
    """A context in which a thread logs to MLflow whatever is new in the search's folder.

    MLflow itself is asked what an earlier process has logged, so that nothing is logged twice. A failure is shown once
    and tried again later; it never ends or delays the search.

    Args:
        uri: of the tracking server or store; None to do nothing.
        folder: the search's folder.
        say: shows a line to the user.
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
            # A daemon: one that still hangs ends with the process, and the next run of the search logs the rest.
            self._thread.join(CLOSING_SECONDS)

    def _work(self) -> None:
        last = False
        while True:
            pause = PAUSE_SECONDS
            try:
                self.bring_up_to_date(closing=last)
            except Exception as error:  # of MLflow, its store or the network: none of them may end the search
                pause = FAILURE_PAUSE_SECONDS
                log.warning("mlflow: %s", redacted(str(error)))
                if not self._said:
                    self._said = True
                    reason = " ".join(redacted(str(error)).split())[:200]
                    self.say(f"mlflow: not logged, tried again later: {reason}")
            if last:
                return
            last = self._stop.wait(pause)

    def bring_up_to_date(self, closing: bool = False) -> None:
        """Log what is new in the trials' folders; with `closing`, end the runs of unfinished trials as killed."""
        self._connect()
        for record in self.folder.records():
            if record.number in self.ended or record.status == DAMAGED:
                continue
            # Read first whether the trial ended: rows that are written after that are logged at the next look.
            final = self.folder.is_written(record)
            self._log_trial(record)
            if final or closing:
                self._client.set_terminated(self.runs[record.number], STATUS.get(record.status, "KILLED"))
                self._client.set_tag(self.runs[record.number], "status", record.status)
                self._client.set_tag(self.runs[record.number], "reason", record.reason[:MAX_LETTERS])
            if final:
                self.ended.add(record.number)

    def _connect(self) -> None:
        if self._client is not None:
            return
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        for name in ("mlflow", "alembic"):  # else they tell of every table that they make in a new store
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
        """Continue a run of an earlier process: find out how many rows it has, and whether it ended."""
        number = int(run.data.tags["trial"])
        self.runs[number] = run.info.run_id
        if run.data.tags.get("status") in STATUS:
            self.ended.add(number)
            return
        client.update_run(run.info.run_id, status="RUNNING")
        if EVERY_ROW in run.data.metrics:
            self.rows[number] = max(entry.step for entry in client.get_metric_history(run.info.run_id, EVERY_ROW))

    def _identity(self) -> str:
        """The search's own identifier, which tells it from another search of the same name."""
        file = self.folder.path / "mlflow.json"
        if not file.exists():
            write_json(file, {"search_id": uuid.uuid4().hex})
        with understood(file, "the identifier of a search"):
            return str(read_json(file, dict)["search_id"])

    def _log_trial(self, record: TrialRecord) -> None:
        from mlflow.entities import Metric, Param

        number = record.number
        if number not in self.runs:
            tags = {"search": self.folder.name, "search_id": self._search, "trial": str(number)}
            name = f"{self.folder.name}-{number:04d}"
            self.runs[number] = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
            initial = first_params(self.folder.trial(number), record.params)
            params = [Param(path, plain(value)[:MAX_LETTERS]) for path, value in initial.items()]
            self._client.log_batch(self.runs[number], params=params)
        start = self._client.get_run(self.runs[number]).info.start_time
        for row in read_progress(self.folder.trial(number)):
            step = int(row["epoch"])
            if step <= self.rows.get(number, 0):
                continue
            texts = {name: text for name, text in row.items() if name not in NO_METRICS and text}
            values = {name: float(text) for name, text in texts.items() if _is_number(text)}
            metrics = [Metric(name, value, start + step, step) for name, value in values.items()]
            for first in range(0, len(metrics), MAX_METRICS):
                self._client.log_batch(self.runs[number], metrics=metrics[first : first + MAX_METRICS])
            self.rows[number] = step


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
