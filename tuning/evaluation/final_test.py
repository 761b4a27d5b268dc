"""Retrain the winner of a search and test it once."""

from __future__ import annotations

import datetime
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.config.schema import Config, RunSettings
from tuning.config.space import Space
from tuning.config.terminal import visible
from tuning.data.data_module import DataModule
from tuning.data.plan import Plan
from tuning.data.source import DataSource
from tuning.datasets.loaders.generated import steps_per_epoch
from tuning.datasets.loaders.in_memory import TrialData
from tuning.datasets.splits.split import Split
from tuning.evaluation import report
from tuning.evaluation.final_test_files import Tested, draw, print_scores, write_model, write_test
from tuning.evaluation.greedy_selection import POOL, select
from tuning.evaluation.intervals import group_intervals
from tuning.evaluation.model_card import write_card
from tuning.evaluation.repeated_seeds import Candidate, Replicate, candidates, choose, listed, replicate, written
from tuning.evaluation.saved_model import load_best, member_folders, rows_of, validation_outputs
from tuning.evaluation.score_notes import cautions_of_trials
from tuning.experiment.directory import TEST_LOOKS, SearchFolder, read_looks, read_progress, write_json
from tuning.experiment.exploits import exploits, params_in
from tuning.experiment.faults import folder_anew, recover_folder
from tuning.experiment.recorded import space_of
from tuning.models.pretrained import snapshot_of
from tuning.search.compute import assigned_to_task, compute
from tuning.search.lazy_start import when_needed
from tuning.search.resources import start_ray
from tuning.search.shared_places import check_places
from tuning.training.cross_validation import FoldResults, median_rates, rounded_mean
from tuning.training.encoders import encoder_of, located
from tuning.training.ranking import check_metric
from tuning.training.schedules import base_rates
from tuning.training.tasks import task_of
from tuning.training.trainer import Trainer
from tuning.training.trial import make_trainer


@dataclass(frozen=True)
class Course:
    """The plan of a training without validation clips.

    Args:
        epochs: number of epochs.
        base_rates: learning rate of each epoch before warm-up, for a plateau schedule, which needs validation clips to
            choose it; else empty.
        steps: number of steps in an epoch of the search, which had fewer clips; the mean over inner folds.
    """

    epochs: int
    base_rates: list[float]
    steps: float


@dataclass(frozen=True)
class TestedModel:
    """The test of a retrained model on N clips: labels [N, targets], outputs [N, K]."""

    number: int  # of the trial
    seed: int
    epochs: int
    ids: list[str]
    targets: np.ndarray
    outputs: np.ndarray
    constant: dict[str, float]
    num_parameters: int
    note: str = ""  # a remark on the training

    def training(self) -> dict[str, Any]:
        """How it was trained, for the record."""
        told = {"note": self.note} if self.note else {}
        return {"trial": self.number, "seed": self.seed, "epochs": self.epochs} | told

    def outputs_for(self, ids: list[str]) -> np.ndarray:
        """The model's outputs for these clips, in their order."""
        return self.outputs[rows_of(ids, self.ids)]


def finalize(
    folder: SearchFolder,
    again: bool = False,
    ensemble: int = 1,
    top: int = 1,
    seeds: int = 3,
    greedy: bool = False,
) -> dict[str, float]:
    """Retrain the winner of a search, test it once, and write `best/`.

    Args:
        folder: of the search.
        again: whether the test clips may be used a second time.
        ensemble: number of the best configurations to retrain; they predict together by the mean of their outputs, for
            classes of their probabilities.
        top: number of the best configurations to repeat with other seeds; the winner is the one with the best mean.
            Trials of equal settings are one configuration.
        seeds: number of other seeds.
        greedy: whether the ensemble is chosen by what trials say together of the validation clips; it may then be
            smaller.

    Returns:
        The metrics of the test.

    Raises:
        UserError: the search is not finished, has fewer trials than asked for, another corpus or no test clips, or its
            test clips were used before.
    """
    recover_folder(folder.path / "best")
    looks_file = folder.path / TEST_LOOKS
    looks = read_looks(folder.path)
    if looks and not again:
        raise UserError(
            f"{folder.path}: expected a search whose test clips nobody has looked at, got one tested on "
            f"{looks[-1]['when']} (trial {looks[-1]['trial']}); again=true looks once more and records it"
        )
    space = space_of(folder)
    found = _distinct(folder, space, "top" if top > ensemble else "ensemble", max(ensemble, top))
    chosen = found[: max(ensemble, top)]
    check_places(chosen[0].config, folder.remote or str(folder.path.parent))
    known = DataModule.of_search(folder, space, chosen[0].config)
    known.prepare_features(when_needed(space.fixed()))
    if not known.split.test:
        raise UserError(f"{folder.path}: expected clips that are sealed for the test, got none (split.method)")
    start_ray(space.fixed())

    # The trainings from which a configuration's course is derived: the one in the search, or its replicates.
    runs = {candidate.number: [Replicate(candidate.record, folder)] for candidate in chosen}
    repeated = None
    if top > 1:
        in_order, replicates, repeated = _repeat(folder, chosen[:top], seeds, known)
        chosen, runs = in_order + chosen[top:], runs | replicates
    selection = None
    if greedy:
        mode = check_metric(space, chosen[0].config)
        # A trial that was stopped after some inner folds has no model for the others.
        whole = [each for each in found if each.record.is_whole]
        if not whole:
            raise UserError(
                f"{folder.path}: expected a trial whose inner folds are all done with select=greedy, got none"
            )
        selection = select(folder.remote or str(folder.path), whole[:POOL], ensemble, known, mode)
        chosen = selection.chosen
        print(f"ensemble  {listed([each.number for each in chosen])}, {selection.sentence()}")
        runs = {each.number: [Replicate(each.record, folder)] for each in chosen}
    chosen = chosen[:ensemble]
    winner, config = chosen[0].record, chosen[0].config
    task = task_of(config)
    notes = cautions_of_trials(folder, [candidate.config for candidate in chosen], known.split)
    with folder_anew(folder.path / "best") as best:
        courses = {each.number: course_of(each.config, runs[each.number], known.split) for each in chosen}
        members = train_members(best, chosen, courses, known)
        first = members[best]
        ids, targets = first.ids, first.targets
        outputs = task.mean_outputs([members[place].outputs_for(ids) for place in member_folders(best)])
        metrics = {f"test_{name}": value for name, value in task.metrics(targets, outputs).items()}
        alone = {f"test_{name}": value for name, value in task.metrics(targets, first.outputs).items()}
        numbers = [candidate.number for candidate in chosen]
        looks.append({"when": _now(), "trial": winner.number, "ensemble": numbers, "metrics": metrics})
        # Recorded before anything is shown, so that it counts even if a later step fails.
        write_json(looks_file, looks)
        folder.flush()
        constant = {f"test_{name.removeprefix('val_')}": value for name, value in first.constant.items()}
        group_of = {clip.id: clip.group for clip in known.split.test}
        groups = [group_of[clip] for clip in ids]
        intervals, num_groups = group_intervals(targets, outputs, groups, task.metrics, config.seed)
        intervals = {f"test_{name}": interval for name, interval in intervals.items()}
        tested = Tested(ids, groups, targets, outputs, metrics, constant, numbers, alone, intervals, num_groups, notes)
        trained = [each.training() for each in members.values()]
        write_test(best, config, winner, trained, tested, repeated, selection, folder.num_ended)
        draw(best, config, winner, folder.trial(winner.number), tested)
        records = [candidate.record for candidate in chosen]
        models = list(zip(records, trained, strict=True))
        write_card(
            best, folder, config, models, known.corpus, known.split, tested, repeated, first.num_parameters, selection
        )
    # Printed last: if the terminal is gone, the model is already saved.
    times = "once" if len(looks) == 1 else f"{len(looks)} times"
    print(f"test      {len(ids)} sealed clips, looked at {times} and recorded in {looks_file}")
    print_scores(config, winner, tested)
    for note in tested.cautions:
        print(visible(f"note      {note}"))
    report.write_or_note(folder)
    print(f"model     {folder.path / 'best'}")
    return metrics


def _repeat(
    folder: SearchFolder, chosen: list[Candidate], seeds: int, known: DataModule
) -> tuple[list[Candidate], dict[int, list[Replicate]], dict[str, Any]]:
    """Train replicates; return the candidates, best mean first, their replicates by number, and both for the record."""
    config = known.space.fixed()
    mode = check_metric(known.space, config)
    plan = Plan(RunSettings(name=folder.name), known.space, config, mode, {}, 0)
    replicates = replicate(folder, plan, chosen, seeds, known)
    decision = choose(chosen, replicates, config.search.metric, mode)
    by_number = {candidate.number: row for candidate, row in zip(chosen, replicates, strict=True)}
    return [chosen[index] for index in decision.order], by_number, written(chosen, replicates, decision, config)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _distinct(folder: SearchFolder, space: Space, option: str, count: int) -> list[Candidate]:
    """All distinct configurations of the trials, best first; at least the `count` that an `option` asks for."""
    found = candidates(folder, space)
    running = [record.number for record in folder.records() if record.status == "running"]
    if running or not found:
        raise UserError(
            f"{folder.path}: expected a finished search with a winner, got "
            f"{f'trials that have not ended ({running})' if running else 'no trial with a result'}"
        )
    if len(found) < count:
        different = " and settings that no better one has" if any(each.repeats for each in found) else ""
        raise UserError(f"{option}: expected at most the {len(found)} trials with a result{different}, got {count}")
    for candidate in found[:count]:
        if candidate.repeats and count > 1:
            print(f"note      {listed((candidate.number, *candidate.repeats))} have equal settings: one candidate")
    return found


def train_members(
    best: Path, chosen: Sequence[Candidate], courses: Mapping[int, Course], known: DataModule
) -> dict[Path, TestedModel]:
    """Retrain, save and test the chosen configurations, the first in `best`, the others in best/members/.

    A configuration that differs only by settings without effect is trained with another seed, since an ensemble needs
    different networks.

    Returns:
        The tests by folder.
    """
    found: dict[Path, TestedModel] = {}
    for candidate in chosen:
        place = best / "members" / f"{candidate.number:04d}" if found else best
        course, config = courses[candidate.number], candidate.config
        member = _train_member(place, candidate.number, config, course, known)
        others = found.values()
        twin = next((each for each in others if np.array_equal(each.outputs_for(member.ids), member.outputs)), None)
        if twin is not None:
            seed = config.seed + len(found)
            print(f"note      trial {candidate.number} has the network of trial {twin.number}: again with seed {seed}")
            member = _train_member(place, candidate.number, config, course, known, seed)
        found[place] = member
    return found


def _train_member(
    place: Path, number: int, config: Config, course: Course, known: DataModule, seed: int | None = None
) -> TestedModel:
    """Train a model, save it, and test the saved one. Another `seed` changes the weights, not the data."""
    source = known.final_source(config)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    count = len(source.split.train)
    print(f"retrain   trial {number} for {counted(course.epochs, 'epoch')} on {count} clips", flush=True)
    heard_by = snapshot_of(str(config.features.encoder)) if config.features.name == "encoder" else ""
    found, files = compute(config, train_and_test, number, config, encoder_of(config), course, source, heard_by)
    if found.note:
        print(f"note      trial {number}: {found.note}")
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return found


def train_and_test(
    number: int, config: Config, encoder: str, course: Course, source: DataSource, heard_by: str = ""
) -> tuple[TestedModel, dict[str, bytes]]:
    """Train a model, save it, and test the saved one, in this process; return the test and the content of its files.

    `encoder` is the absolute location of its pretrained encoder; `heard_by` identifies that of its features. They are
    empty if it has none.

    Raises:
        UserError: outputs that are not finite.
    """
    data = source.open()
    trainer = retrain(located(config, encoder), data, course, *assigned_to_task())
    loader: Any = trainer.data
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_model(place, config, encoder, trainer.model, loader.statistics, data.frames, heard_by)
        saved = load_best(place)
        files = {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}
    outputs = validation_outputs(saved, loader)
    if wild := int((~np.isfinite(outputs).all(axis=1)).sum()):
        raise UserError(
            f"trial {number}: expected a retraining whose model gives finite outputs, got NaN or infinite ones for "
            f"{wild} of {len(outputs)} test clips; nothing is saved, and the test clips count as not looked at"
        )
    tested = TestedModel(
        number,
        config.seed,
        course.epochs,
        data.val_ids.tolist(),
        data.val_targets,
        outputs,
        trainer.task.constant_baseline(data.train_targets, data.val_targets),
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        trainer.note,
    )
    return tested, files


def retrain(
    config: Config, data: TrialData, course: Course, device: torch.device | None = None, splits: bool = True
) -> Trainer:
    """Train for the whole course, without validation clips; `device` and `splits` as of `Trainer`."""
    # The exponential schedule counts steps, and an epoch over more clips, or on one worker, has more of them.
    steps = steps_per_epoch(data.num_train, config.training.batch_size, config.augment.synthetic_share)
    torch.set_num_threads(config.resources.cpus_per_worker)
    trainer = make_trainer(config, data, None, device, splits=splits, longer=steps / course.steps)
    trainer.follow(course.epochs, course.base_rates)
    return trainer


def _rates_of(run: Replicate, rows: Sequence[Mapping[str, str]], config: Config) -> list[float]:
    """The learning rates of a training's epochs, scaled to the learning rate of a configuration.

    Only a trial of a population may have had another learning rate in earlier epochs.
    """
    rates, path = [float(row["learning_rate"]) for row in rows], run.folder.trial(run.record.number)
    if not exploits(path):
        return rates
    space = space_of(run.folder)
    then = [space.config(params_in(path, int(row["epoch"]))).optim.learning_rate for row in rows]
    return [rate / had * config.optim.learning_rate for rate, had in zip(rates, then, strict=True)]


def course_of(config: Config, runs: Sequence[Replicate], split: Split) -> Course:
    """Derive the course of a configuration's retraining from the records of its trainings; each inner fold is one.

    The number of epochs is the mean of their best epochs, a half rounded up. The learning rate of each epoch is the
    median of theirs; a training that had ended counts with its last one.
    """
    best_epochs, curves = [], []
    for run in runs:
        path = run.folder.trial(run.record.number)
        rows = read_progress(path)
        if run.record.folds is None:
            assert run.record.best_epoch is not None
            best_epochs.append(run.record.best_epoch)
            curves.append(_rates_of(run, rows, config))
        else:
            best_epochs += [int(row["fold_epochs"]) for row in rows]
            curves += FoldResults(run.record.folds, file=path / "checkpoints" / FoldResults.FILE).rates
    epochs, bases = rounded_mean(best_epochs), []
    if config.optim.schedule == "plateau":
        bases = median_rates([base_rates(rates, config.optim, config.training.epochs) for rates in curves], epochs)
    trained = [split.train] if config.split.inner_folds is None else [train for train, _ in split.inner_parts()]
    batch, workers = config.training.batch_size, config.resources.workers_per_trial
    steps = statistics.mean(
        steps_per_epoch(len(clips), batch, config.augment.synthetic_share, workers) for clips in trained
    )
    return Course(epochs, bases, steps)
