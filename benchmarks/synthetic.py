"""Does training on a GAN's clips, too, help a ViT? Shares 0, 0.5 and 1 of them for each real clip, over seeds.

`python -m benchmarks.synthetic --seeds 42 43 44 data.corpus=manifest data.root=MUSIC/ data.group_column=artist`

Each seed is a search of its own (`synthetic-seed-S`) over the three shares, with a GAN of its own, on one split by
groups; a ViT of under a million weights that begins at random. Measured on the validation clips, real ones of other
artists, at the last of all epochs, which no look at them chose. The gain is a share's figure less that of share 0 with
the same seed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.report import machine, publish, table, whole_records
from tuning import run
from tuning.experiment.directory import SearchFolder

SHARES = (0.0, 0.5, 1.0)
METRICS = ("val_ccc", "val_ccc_valence", "val_ccc_arousal", "val_mae")
FIXED = (
    "space=vit_gan",
    "search.algorithm=grid",
    "search.num_trials=null",
    f"augment.synthetic_share={{grid: {list(SHARES)}}}",
    "augment.stretch_prob=0",
    "augment.pitch_prob=0",
    "features.num_frames=200",
    "gan.epochs=20",
    "gan.learning_rate=0.001",
    "gan.channels=[64, 32, 16, 8]",
    "gan.discriminator_channels=[8, 16, 32, 64]",
    "model.image_encoder=null",
    "model.pretrained=false",
    "model.unfreeze_epochs=[]",
    "model.image_size=96",
    "model.patch_size=8",
    "model.hidden_size=96",
    "model.num_layers=4",
    "model.num_heads=4",
    "loss.weights=[0.6, 0.4]",
    "optim.learning_rate=0.0005",
    "optim.encoder_learning_rate=null",
    "optim.restarts=none",
    "optim.warmup_epochs=3",
    "training.batch_size=16",
    "training.epochs=15",
    "training.patience=null",
    "training.keep=last",
)


def measured(folder: SearchFolder) -> dict[float, dict[str, float]]:
    """The metrics by share.

    Raises:
        SystemExit: a trial failed.
    """
    records = whole_records(folder, "val_ccc")
    return {float(record.params["augment.synthetic_share"]): record.metrics for record in records}


def describe(found: list[dict[float, dict[str, float]]]) -> str:
    """Markdown: each share's figures, their mean and spread over seeds, and the paired gain."""
    rows = []
    for metric in METRICS:
        for share in SHARES:
            values = [each[share][metric] for each in found]
            gains = [each[share][metric] - each[0.0][metric] for each in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells = [f"{statistics.mean(values):.3f}", f"{spread:.3f}", ", ".join(f"{value:.3f}" for value in values)]
            gain = f"{statistics.mean(gains):+.3f} ({', '.join(f'{g:+.3f}' for g in gains)})" if share else ""
            rows.append([metric.removeprefix("val_"), f"{share:g}", *cells, gain])
    return table(["metric", "share", "mean", "sd", "by seed", "gain over share 0"], rows)


def main() -> int:
    """Run the searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out", help="Markdown file to write")
    options, arguments = parser.parse_known_args()
    found = []
    for seed in options.seeds:
        name = f"synthetic-seed-{seed}"
        given = [*FIXED, *arguments, f"seed={seed}", f"name={name}", f"storage={options.storage}"]
        if code := run.main(given):
            return code
        found.append(measured(SearchFolder(Path(options.storage), name)))
    publish("\n".join([machine("torch", "ray"), "", describe(found)]), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
