"""Measure the gain of each component of the SER system: the space `ser_ablation` over several seeds, on one split.

`python -m benchmarks.ablation --name ravdess --seeds 42 43 44 data.corpus=ravdess data.root=RAVDESS/ split.test_fold=1`

Each seed is a search (`NAME-seed-S`) over the same ten configurations. The gain of a component is the validation UAR of
the whole system minus that without the component, with the same seed; the table has its mean and standard deviation.
Each is that of the last epoch, which no look at the validation clips chose.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.report import machine, publish, table, whole_records
from tuning import run
from tuning.experiment.directory import SearchFolder

# In the order of the space's points; the documented expectation of the gain in accuracy, in percentage points.
COMPONENTS = {
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
METRIC = "val_uar"


def measured(folder: SearchFolder) -> dict[int, float]:
    """The ranking metric by trial number.

    Raises:
        SystemExit: a trial failed.
    """
    return {record.number: record.metrics[METRIC] for record in whole_records(folder, METRIC)}


def describe(found: list[dict[int, float]]) -> str:
    """Markdown: the whole system, and each component's gain with its spread over seeds."""
    whole = [100 * values[1] for values in found]
    rows = []
    for number, (name, expected) in COMPONENTS.items():
        gains = [100 * (values[1] - values[number]) for values in found]
        without = statistics.mean(100 * values[number] for values in found)
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        rows.append([name, f"{without:.1f}", f"{statistics.mean(gains):+.1f}", f"{spread:.1f}", expected])
    header = ["component", "UAR without it", "measured gain", "sd over seeds", "documented expectation"]
    return (
        f"Whole system: UAR {statistics.mean(whole):.1f} % (seeds: {', '.join(f'{v:.1f}' for v in whole)}).\n\n"
        + table(header, rows)
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="searches are called NAME-seed-S")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out", help="also write the table to this file")
    options, overrides = parser.parse_known_args(arguments)
    found = []
    for seed in options.seeds:
        name = f"{options.name}-seed-{seed}"
        code = run.main(
            ["space=ser_ablation", f"seed={seed}", f"name={name}", f"storage={options.storage}", *overrides]
        )
        if code:
            return code
        found.append(measured(SearchFolder(Path(options.storage), name)))
    notes = f"- Command: `{' '.join(overrides)}`. {machine('torch', 'ray')}"
    publish(f"## {options.name}: what each component gains\n\n{describe(found)}\n\n{notes}\n", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
