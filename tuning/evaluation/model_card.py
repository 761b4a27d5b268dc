"""Write MODEL_CARD.md: what a finalised model is, how it was trained and tested, and how to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuning.config.distributions import plain
from tuning.config.own_functions import allow_code_word
from tuning.config.schema import Config
from tuning.datasets.corpus import Corpus
from tuning.datasets.splits.split import Split
from tuning.evaluation.final_test_files import PRINTED, Tested
from tuning.evaluation.intervals import basis
from tuning.experiment.directory import SearchFolder, TrialRecord, environment, write_text


def write_card(
    best: Path,
    folder: SearchFolder,
    config: Config,
    winner: TrialRecord,
    corpus: Corpus,
    split: Split,
    tested: Tested,
    repeated: dict[str, Any] | None,
    num_parameters: int,
) -> None:
    """Write MODEL_CARD.md into `best`, the folder that becomes the search's best/."""
    clips = {name: (len(part), len({clip.group for clip in part if clip.group})) for name, part in _parts(split)}
    lines = [f"# {folder.name}: {config.model.name} for {config.task.name}", ""]
    lines += ["## What it is", "", *_what(config, tested, num_parameters), ""]
    lines += ["## Trained on", "", f"Corpus `{corpus.name}`, split `{split.method}`.", ""]
    lines += ["| part | clips | speakers or artists |", "| :-- | --: | --: |"]
    lines += [f"| {name} | {count} | {groups or 'unknown'} |" for name, (count, groups) in clips.items()]
    lines += ["", *(f"- {note}" for note in [*corpus.notes, *split.notes]), ""]
    lines += ["## How it was chosen", "", *_choice(folder, config, winner, repeated), ""]
    lines += ["## Test", "", *_test(config, tested), ""]
    lines += ["## Limits", "", *_limits(tested), ""]
    use = f"tuning predict {folder.path / 'best'} FILES...{allow_code_word(config)}"
    lines += ["## Use", "", f"    {use}", ""]
    packages = environment()["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    lines += [f"Made with Python {environment()['python']}, {versions}.", ""]
    write_text(best / "MODEL_CARD.md", "\n".join(lines))


def _parts(split: Split) -> list[tuple[str, Any]]:
    return [("training", split.train + split.val), ("test, sealed until the end", split.test)]


def _what(config: Config, tested: Tested, num_parameters: int) -> list[str]:
    names = config.task.classes if config.task.name == "classification" else config.task.targets
    features = config.features
    seconds = (features.num_frames - 1) * features.hop_samples / features.sample_rate_hz
    part = "beginning" if features.segment == "start" else "middle"
    length = "" if features.name == "encoder" else f", about {seconds:.1f} s, the {part} of a longer recording"
    lines = [f"- Says: {', '.join(names or [])}.", f"- Hears: {features.num_frames} frames of {features.name}{length}."]
    lines.append(f"- {num_parameters:,} trainable parameters; every setting is in `config.yaml`.")
    if len(tested.trials) > 1:
        lines.append(f"- {len(tested.trials)} models predict together (trials {', '.join(map(str, tested.trials))}).")
    return lines


def _choice(folder: SearchFolder, config: Config, winner: TrialRecord, repeated: dict[str, Any] | None) -> list[str]:
    metric = config.search.metric
    in_the_mean = " in the repetitions, on average" if repeated is not None else ""
    lines = [
        f"- Trial {winner.number} of {len(folder.records())} ({config.search.algorithm}, scheduler "
        f"{config.search.scheduler}), chosen by {metric} on validation: {winner.metrics[metric]:.4f}. The test clips "
        "were in files that the search never opened.",
        f"- Retrained on training and validation clips for as many epochs as its best took{in_the_mean}.",
    ]
    if repeated is not None:
        n, others = len(repeated["seeds"]), repeated["not_told_apart"]
        mean = sum(repeated["scores"][str(winner.number)]) / n
        lines.append(f"- Repeated with {n} other seeds: mean {metric} {mean:.4f}.")
        told = f"not told apart from trials {', '.join(map(str, others))}" if others else "better than the others"
        lines.append(f"- Among the {len(repeated['scores'])} repeated trials it is {told} (95 %).")
    lines += [f"- {path}: {plain(value)}" for path, value in winner.params.items()]
    return lines


def _test(config: Config, tested: Tested) -> list[str]:
    lines = ["| metric | test | 95 % interval | constant |", "| :-- | --: | --: | --: |"]
    for name, value in tested.metrics.items():
        short = name.removeprefix("test_")
        if (short if config.task.name == "classification" else short.split("_")[0]) not in PRINTED[config.task.name]:
            continue
        interval, constant = tested.intervals.get(name), tested.constant.get(name)
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        lines.append(f"| {short} | {value:.3f} | {shown} | {'' if constant is None else f'{constant:.3f}'} |")
    return [*lines, "", f"Note: {basis(tested.groups)}."]


def _limits(tested: Tested) -> list[str]:
    lines = ["- The figures hold for recordings like the test clips; other rooms, languages or styles were not tested."]
    if not tested.intervals:
        lines.append("- The test is too small for intervals: other speakers or artists may give quite other figures.")
    lines.append("- The labels are emotions that raters perceived or actors showed, not what a person feels.")
    return lines
