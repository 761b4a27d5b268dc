"""Write MODEL_CARD.md: what a finalised model is, how it was trained and tested, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuning.config.distributions import plain
from tuning.config.own_functions import allow_code_word
from tuning.config.schema import Config
from tuning.datasets.corpus import Corpus
from tuning.datasets.features.frames import num_samples
from tuning.datasets.settings import FeatureSettings
from tuning.datasets.splits.split import Split
from tuning.evaluation.final_test_files import PRINTED, Tested
from tuning.evaluation.greedy_selection import Selection
from tuning.evaluation.intervals import basis
from tuning.evaluation.leaderboard import read_baseline
from tuning.evaluation.score_notes import metric_of_test, score_notes, tested_notes
from tuning.experiment.directory import SearchFolder, TrialRecord, environment, write_text
from tuning.experiment.ranking import kept_epoch
from tuning.experiment.recorded import space_of
from tuning.training.ranking import Mode, check_metric


def write_card(
    best: Path,
    folder: SearchFolder,
    config: Config,
    members: Sequence[tuple[TrialRecord, Mapping[str, Any]]],
    corpus: Corpus,
    split: Split,
    tested: Tested,
    repeated: dict[str, Any] | None,
    num_parameters: int,
    selection: Selection | None = None,
) -> None:
    """Write MODEL_CARD.md into `best`, the folder that becomes the search's best/.

    Args:
        best: the folder to write to.
        folder: of the search.
        config: of the winner.
        members: the record and the retraining (trial, seed, epochs) of each model, the winner first.
        corpus: the clips.
        split: who trained, and who was sealed for the test.
        tested: the result of the test.
        repeated: the scores of the best trials with other seeds, if they were repeated.
        num_parameters: of the winner.
        selection: how the models of an ensemble were chosen, if not as the best.
    """
    winner, (mode, baseline) = members[0][0], _measured(folder)
    notes = score_notes(tested.cautions, winner, baseline, config.search.metric, mode)
    on_test = tested_notes(tested.metrics, tested.constant, *metric_of_test(config, mode))
    clips = {name: (len(part), len({clip.group for clip in part if clip.group})) for name, part in _parts(split)}
    lines = [f"# {folder.name}: {config.model.name} for {config.task.name}", ""]
    lines += ["## What it is", "", *_what(config, tested, num_parameters), ""]
    lines += ["## Trained on", "", f"Corpus `{corpus.name}`, split `{split.method}`.", ""]
    lines += ["| part | clips | speakers or artists |", "| :-- | --: | --: |"]
    lines += [f"| {name} | {count} | {groups or 'unknown'} |" for name, (count, groups) in clips.items()]
    lines += ["", *(f"- {note}" for note in [*corpus.notes, *split.notes]), ""]
    lines += ["## How it was chosen", "", *_choice(folder, config, winner, repeated), *_notes(notes), ""]
    if len(members) > 1:
        chosen = [f"They were {selection.sentence()}.", ""] if selection is not None else []
        lines += ["## Members", "", *chosen, *_members(config, members), ""]
    lines += ["## Test", "", *_test(config, tested), *_notes([*tested.cautions, *on_test]), ""]
    lines += ["## Limits", "", *_limits(tested), ""]
    use = f"tuning predict {folder.path / 'best'} FILES...{allow_code_word(config)}"
    lines += ["## Use", "", f"    {use}", ""]
    packages = environment()["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    lines += [f"Made with Python {environment()['python']}, {versions}.", ""]
    write_text(best / "MODEL_CARD.md", "\n".join(lines))


def _parts(split: Split) -> list[tuple[str, Any]]:
    return [("training", split.train + split.val), ("test, sealed until the end", split.test)]


def _heard(features: FeatureSettings) -> str:
    if features.name == "encoder":  # whose files may not be at hand
        layers = features.encoder_layers
        numbers = ", ".join(map(str, layers)) if isinstance(layers, list) else layers
        states = f"layers {numbers} of the encoder {features.encoder}"
        if not features.is_pooled:
            return f"{features.num_frames} frames of {states}"
        spread = " and standard deviation" if features.encoder_pooling == "mean_std" else ""
        return f"mean{spread} over at most {features.pooled_seconds:g} s of {states}"
    if features.name == "egemaps":
        return f"88 statistics (eGeMAPS) over at most {features.pooled_seconds:g} s"
    seconds = num_samples(features.num_frames, features) / features.sample_rate_hz
    part = "beginning" if features.segment == "start" else "middle"
    return f"{features.num_frames} frames of {features.name}, about {seconds:.1f} s, the {part} of a longer recording"


def _what(config: Config, tested: Tested, num_parameters: int) -> list[str]:
    names = config.task.classes if config.task.name == "classification" else config.task.targets
    lines = [f"- Says: {', '.join(names or [])}.", f"- Hears: {_heard(config.features)}."]
    lines.append(f"- {num_parameters:,} trainable parameters; every setting is in `config.yaml`.")
    if len(tested.trials) > 1:
        lines.append(f"- {len(tested.trials)} models predict together (trials {', '.join(map(str, tested.trials))}).")
    return lines


def _choice(folder: SearchFolder, config: Config, winner: TrialRecord, repeated: dict[str, Any] | None) -> list[str]:
    metric = config.search.metric
    in_the_mean = " in the repetitions, on average" if repeated is not None else ""
    kept = kept_epoch([config.training.keep])
    lines = [
        f"- Trial {winner.number} of {len(folder.records())} ({config.search.algorithm}, scheduler "
        f"{config.search.scheduler}), chosen by {metric} on validation: {winner.metrics[metric]:.4f}. The test clips "
        "were in files that the search never opened.",
        "- Retrained on training and validation clips for as many epochs as the search trained it to its "
        f"{kept}{in_the_mean}.",
    ]
    if repeated is not None:
        n, others = len(repeated["seeds"]), repeated["not_told_apart"]
        mean = sum(repeated["scores"][str(winner.number)]) / n
        lines.append(f"- Repeated with {n} other seeds: mean {metric} {mean:.4f}.")
        told = f"not told apart from trials {', '.join(map(str, others))}" if others else "better than the others"
        lines.append(f"- Among the {len(repeated['scores'])} repeated trials it is {told} (95 %).")
    lines += [f"- {path}: {plain(value)}" for path, value in winner.params.items()]
    return lines


def _measured(folder: SearchFolder) -> tuple[Mode, dict[str, float]]:
    """The direction of the search's ranking metric, and the constant predictor's metrics as far as recorded."""
    space = space_of(folder)
    return check_metric(space, space.fixed()), read_baseline(folder)


def _notes(notes: Sequence[str]) -> list[str]:
    return ["", *(f"- Note: {note}." for note in notes)] if notes else []


def _members(config: Config, members: Sequence[tuple[TrialRecord, Mapping[str, Any]]]) -> list[str]:
    """A table of all models that predict together, with the settings that were searched."""
    metric = config.search.metric
    paths = list(dict.fromkeys(path for record, _ in members for path in record.params))
    lines = ["| " + " | ".join(["trial", metric, "seed", "epochs", *paths]) + " |"]
    lines.append("|" + " --: |" * 4 + " :-- |" * len(paths))
    for record, trained in members:
        value = record.value(metric)
        cells = [str(record.number), "" if value is None else f"{value:.4f}", str(trained["seed"])]
        cells += [str(trained["epochs"]), *(plain(record.params[p]) if p in record.params else "" for p in paths)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _test(config: Config, tested: Tested) -> list[str]:
    together = len(tested.trials) > 1
    alone = (" the winner alone |", " --: |") if together else ("", "")
    lines = [f"| metric |{alone[0]} test | 95 % interval | constant |", f"| :-- |{alone[1]} --: | --: | --: |"]
    for name, value in tested.metrics.items():
        short = name.removeprefix("test_")
        if (short if config.task.name == "classification" else short.split("_")[0]) not in PRINTED[config.task.name]:
            continue
        interval, constant = tested.intervals.get(name), tested.constant.get(name)
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        single = tested.winner_alone.get(name)
        first = f" {'' if single is None else f'{single:.3f}'} |" if together else ""
        lines.append(f"| {short} |{first} {value:.3f} | {shown} | {'' if constant is None else f'{constant:.3f}'} |")
    return [*lines, "", f"Note: {basis(tested.groups)}."]


def _limits(tested: Tested) -> list[str]:
    lines = ["- The figures hold for recordings like the test clips; other rooms, languages or styles were not tested."]
    if not tested.intervals:
        lines.append("- The test is too small for intervals: other speakers or artists may give quite other figures.")
    lines.append("- The labels are emotions that raters perceived or actors showed, not what a person feels.")
    return lines
