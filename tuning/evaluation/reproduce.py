"""Train a trial again from its record, and compare every loss and metric of every epoch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.config.terminal import visible
from tuning.evaluation.leaderboard import with_results
from tuning.experiment.directory import DAMAGED, SearchFolder, TrialRecord, environment, read_progress
from tuning.experiment.reading import DamagedFileError, read_json, understood
from tuning.experiment.recorded import config_of, space_of
from tuning.experiment.trial_spec import TrialSpec
from tuning.search.compute import assigned_to_task, compute
from tuning.search.resources import start_ray
from tuning.search.shared_places import check_places
from tuning.training.encoders import encoder_of

if TYPE_CHECKING:
    from tuning.data.source import DataSource

COMPARED = ("train_loss", "penalty", "learning_rate")  # and all values of the validation


class _Enough(Exception):  # noqa: N818
    """As many rows were trained as were recorded."""


def chosen(folder: SearchFolder, number: str | None) -> TrialRecord:
    """The record of the trial with that number, or of the best one. Raises UserError if there is none."""
    if number is not None:
        records = folder.records()
        found = next((record for record in records if str(record.number) == number), None)
        if found is None:
            known = f"1 to {len(records)}" if records else "none yet"
            raise UserError(f"{folder.path}: expected the number of a trial ({known}), got '{number}'")
        if found.status == DAMAGED:
            raise UserError(found.reason)
        return found
    ranked = with_results(folder, space_of(folder))
    if not ranked:
        raise UserError(f"{folder.path}: expected a search with a trial that has a result, got none")
    return ranked[0]


def recorded_rows(folder: SearchFolder, record: TrialRecord) -> list[dict[str, str]]:
    """The rows of a trial's progress. Raises UserError if there are none."""
    rows = read_progress(folder.trial(record.number))
    if not rows:
        file = folder.trial(record.number) / "progress.csv"
        raise UserError(f"{file}: expected a trial with a finished epoch, got none")
    return rows


def say_what_changed(folder: SearchFolder) -> None:
    """Print which packages have other versions than in the search, the usual reason for another score."""
    file, now = folder.path / "environment.json", environment()
    try:
        with understood(file, "versions of packages"):
            then = read_json(file, dict)
            before = {"python": then["python"], **then["packages"]}
    except DamagedFileError as error:
        print(f"note      {error}")
        return
    current = {**now["packages"], "python": now["python"]}
    names = [*(name for name in before if name != "python"), "python"]
    changed = [f"{name} {before[name]} -> {current.get(name)}" for name in names if current.get(name) != before[name]]
    if changed:
        print(visible(f"note      not the environment of the search: {', '.join(changed)}"))


def reproduce(folder: SearchFolder, record: TrialRecord, count: int) -> list[dict[str, Any]]:
    """Train a trial's configuration again for `count` epochs or inner folds; return its rows.

    Raises:
        UserError: the corpus is not that of the search.
    """
    # Imported after the command line was checked, so that errors come at once.
    from tuning.data.data_module import DataModule

    space = space_of(folder)
    config = config_of(folder, record.number)
    if config.resources.workers_per_trial > 1:
        print("note      trained by several workers: sums in another order, so figures may differ in the last digits")
    check_places(config, folder.remote or str(folder.path.parent))
    module = DataModule.of_search(folder, space, config)
    start_ray(config)
    module.prepare()
    source, spec = module.source(config), TrialSpec(config.model_dump(mode="json"), encoder=encoder_of(config))
    unit = record.unit + ("s" if count > 1 else "")
    print(f"train     trial {record.number} again for {count} {unit}", flush=True)
    return compute(config, train_rows, spec, source, count)


def train_rows(spec: TrialSpec, source: DataSource, count: int) -> list[dict[str, Any]]:
    """Train a trial in this process until it has reported `count` rows, at most to its end; return them."""
    from tuning.training.trial import train

    rows: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        if len(rows) >= count:
            raise _Enough

    device, splits = assigned_to_task()
    with contextlib.suppress(_Enough):
        train(spec, source.open(), report, device=device, splits=splits)
    return rows


def compare(
    folder: SearchFolder, record: TrialRecord, recorded: list[dict[str, str]], rows: list[dict[str, Any]]
) -> bool:
    """Compare rows with the recorded ones and print the largest difference; return whether all bits are equal."""
    metric = config_of(folder, record.number).search.metric
    largest, description, count = 0.0, "", 0
    missing: list[int] = []
    now_of = {row["epoch"]: row for row in rows}
    for old in recorded:
        number = int(old["epoch"])
        if (new := now_of.get(number)) is None:
            missing.append(number)
            continue
        for name, value in old.items():
            if not value or not (name in COMPARED or name.startswith(("val_", "learning_rate_"))):
                continue
            count += 1
            found = new.get(name)
            difference = abs(float(value) - found) if found is not None else float("inf")
            if difference > largest:
                largest, description = difference, f"{name} in {record.unit} {number}: {value} recorded, {found} now"
    recorded_of = {int(row["epoch"]): row for row in recorded}
    best = max(recorded_of) if record.folds else record.best_epoch or max(recorded_of)
    print(visible(f"recorded  {metric} {recorded_of[best][metric]} in {record.unit} {best}"))
    print(f"now       {metric} {now_of[best][metric] if best in now_of else None}")
    if missing or len(rows) < len(recorded):
        without = f", none of {record.unit} {', '.join(map(str, missing))}" if missing else ""
        print(f"differ    {len(recorded)} {record.unit}s recorded, {len(rows)} now{without}")
        return False
    if largest:
        print(visible(f"differ    at most by {largest:.3g}, {description}"))
        return False
    print(f"equal     to the last bit: {count} values of {counted(len(rows), record.unit)}")
    return True
