"""Measure what each component of a system gains: a space of fixed configurations over several seeds, on one split.

`python -m benchmarks.ablation --name ravdess --seeds 42 43 44 data.corpus=ravdess data.root=RAVDESS/ split.test_fold=1`

Each seed is a search (`NAME-seed-S`) over the same configurations, of `ser_ablation` (the SER network),
`encoder_ablation` or `encoder_versions` (heads on a pretrained speech encoder), of which the first is the reference.
With `split.inner_folds=5` a result is the mean over inner folds, which each seed deals anew with `--deal`. Each result
is that of the last epoch, which no look at the validation clips chose.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.report import machine, publish, table, whole_records
from tuning import run
from tuning.config.errors import UserError
from tuning.config.loader import flatten, read_space_file
from tuning.data.plan import make_plan, planned_points
from tuning.evaluation.score_notes import search_notes
from tuning.experiment.directory import SearchFolder

METRIC = "val_uar"

# The rows after the reference, in the order of the space's points. `ser_ablation` leaves a component out, and its table
# has the documented expectation of the gain in accuracy, in percentage points; the others change one.
WITHOUT = {
    2: ("data augmentation", "5 to 10"),
    3: ("residual connections", "2 to 3"),
    4: ("multi-head attention", "1 to 2"),
    5: ("attention pooling", "1 to 2"),
    6: ("deeper architecture", "2 to 3"),
    7: ("cosine schedule", "3 to 5"),
    8: ("label smoothing", "1 to 2"),
    9: ("class weights", "5 to 15 on minorities"),
    10: ("all of them (the baseline)", "12 to 17"),
}
INSTEAD = {
    "encoder_ablation": {
        2: ("last layer alone",),
        3: ("mean over time alone",),
        4: ("each speaker normalised by his own clips",),
        5: ("a hidden layer of 128",),
        6: ("no dropout of inputs",),
        7: ("Glorot's first weights",),
    },
    "encoder_versions": {
        2: ("versions at other speeds",),
        3: ("versions with other formants",),
        4: ("versions of both kinds",),
    },
}


def check_points(space: str, words: list[str]) -> None:
    """Refuse settings with which a trial is not the row of its number: those that the points of the space decide.

    Raises:
        SystemExit: a point has other settings than the file of the space gives it.
        UserError: as a search.
    """
    plan = make_plan([f"space={space}", *words])
    written = [flatten(point, plan.space.fields) for point in read_space_file(space)["search"]["points_to_evaluate"]]
    planned = planned_points(plan.space, plan.config)
    for number, point in enumerate(written, start=1):
        trial = planned[number - 1] if number <= len(planned) else {}
        if other := [path for path in point if path not in trial or trial[path] != point[path]]:
            raise SystemExit(f"{other[0]}: expected as the points of {space} have it, since a row is a point")


def measured(folder: SearchFolder) -> dict[int, float]:
    """The ranking metric by trial number.

    Raises:
        SystemExit: a trial failed.
    """
    return {record.number: record.metrics[METRIC] for record in whole_records(folder, METRIC)}


def describe(found: list[dict[int, float]], space: str = "ser_ablation") -> str:
    """Markdown: the reference, and each component's gain with its spread over seeds.

    Args:
        found: the metric by trial, of each seed.
        space: of the trials. Those of an encoder have what the reference has not, so that the gain is theirs.
    """
    whole = [100 * values[1] for values in found]
    rows = []
    instead = space in INSTEAD
    components: dict[int, tuple[str, ...]] = {**INSTEAD.get(space, WITHOUT)}
    for number, (name, *expected) in components.items():
        gains = [100 * (values[number] - values[1]) * (1 if instead else -1) for values in found]
        other = statistics.mean(100 * values[number] for values in found)
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        rows.append([name, f"{other:.1f}", f"{statistics.mean(gains):+.1f}", f"{spread:.1f}", *expected])
    header = ["component", "UAR with it" if instead else "UAR without it", "measured gain", "sd over seeds"]
    header += [] if instead else ["documented expectation"]
    return (
        f"{'Reference' if instead else 'Whole system'}: UAR {statistics.mean(whole):.1f} % "
        f"(seeds: {', '.join(f'{v:.1f}' for v in whole)}).\n\n" + table(header, rows)
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="searches are called NAME-seed-S")
    parser.add_argument("--space", choices=("ser_ablation", *INSTEAD), default="ser_ablation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--deal", action="store_true", help="deal the clips by each seed, too (split.seed)")
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out", help="also write the table to this file")
    options, overrides = parser.parse_known_args(arguments)
    try:
        check_points(options.space, overrides)
    except UserError as error:
        parser.error(str(error))
    found: list[dict[int, float]] = []
    cautions: dict[str, None] = {}  # of all seeds, each once
    for seed in options.seeds:
        name = f"{options.name}-seed-{seed}"
        dealt = [f"split.seed={seed}"] if options.deal else []
        code = run.main(
            [f"space={options.space}", f"seed={seed}", *dealt, f"name={name}", f"storage={options.storage}", *overrides]
        )
        if code:
            return code
        folder = SearchFolder(Path(options.storage), name)
        found.append(measured(folder))
        cautions |= dict.fromkeys(search_notes(folder, [], {}, METRIC, "max"))
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    notes = "".join(f"- Note: {caution}.\n" for caution in cautions)
    notes += f"- Command: `python -m benchmarks.ablation {given}`. {machine('torch', 'ray')}"
    gains = describe(found, options.space)
    publish(f"## {options.name}: what each component gains\n\n{gains}\n\n{notes}\n", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
