"""Measure the cost of a text encoder: frozen with states computed once or at each step, and fine-tuned.

`python -m benchmarks.text_encoders --encoder FOLDER --out table.md`

The project's trainer trains the text half of the bimodal model, each variant in a process on one core. A second encoder
has the shape of BERT-base and random weights, on which its cost does not depend. The reference is the frozen encoder
that is computed at each step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import machine, publish, table

WAYS: dict[str, dict[str, Any]] = {
    "frozen, states computed once": {},
    "frozen, computed at each step": {"text_cache": False},
    "last layer trained": {"text_layers": 1},
    "fine-tuned": {"text_layers": -1},
}
REFERENCE = "frozen, computed at each step"
BATCH_SIZE = 8


def lyrics(number: int, num_words: int) -> str:
    """Random lyrics of `num_words` words."""
    from tuning.datasets.demo import lyrics as demo_lyrics

    words: list[str] = []
    part = 0
    while len(words) < num_words:
        words += demo_lyrics.draw(9, number, part).text.split()
        part += 1
    return " ".join(words[:num_words])


def measure(encoder: str, way: str, clips: int, tokens: int, epochs: int) -> dict[str, float]:
    """Measure one variant in this process: seconds of encoding in advance and of an epoch, and peak memory."""
    import numpy as np
    import torch

    from tuning.config.schema import parse_config
    from tuning.data.text import encode_text
    from tuning.datasets.loaders.in_memory import ResidentData
    from tuning.datasets.loaders.text import TextData, Texts
    from tuning.datasets.store.reader import FeatureStatistics, Part
    from tuning.models.bimodal import Bimodal
    from tuning.training.tasks import task_of
    from tuning.training.trainer import Trainer

    torch.set_num_threads(1)
    model = {"name": "bimodal", "modalities": "text", "text_encoder": encoder, "max_tokens": tokens, **WAYS[way]}
    config = parse_config(
        {
            "model": model,
            "training": {"batch_size": BATCH_SIZE, "epochs": epochs, "patience": None},
            "optim": {"encoder_learning_rate": 2e-5, "clip_norm": 1.0},
        }
    )
    ids = np.array([f"{number:04d}" for number in range(clips)])
    began = time.perf_counter()
    rows = [encode_text(lyrics(number, tokens), encoder, tokens, config.model.text_input) for number in range(clips)]
    before = time.perf_counter() - began
    texts = Texts.of(ids, rows)
    targets = np.random.default_rng(0).uniform(-1, 1, (clips, 2)).astype(np.float32)
    silence = np.zeros((clips, 1, 1), dtype=np.float32)
    part = Part(ids, silence, np.ones(clips, np.int32), targets)
    data = TextData(ResidentData(part, part, FeatureStatistics(np.zeros(1), np.ones(1)), 1), texts)
    training = Trainer(Bimodal(config.model, 1, 2), data, task_of(config), config, "min")
    seconds = []
    for epoch in range(1, epochs + 1):
        training.epoch = epoch
        began = time.perf_counter()
        training.train_epoch()
        seconds.append(time.perf_counter() - began)
    trained = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    return {
        "before": 0.0 if config.model.text_input == "tokens" else before,
        "epoch": statistics.median(seconds),
        "spread": max(seconds) - min(seconds),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": trained / 1e6,
    }


def random_bert(folder: Path, tokenizer_of: str) -> str:
    """Write an encoder of the shape of BERT-base with random weights and another encoder's tokenizer."""
    import torch
    import transformers

    from tuning.models.pretrained import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer(tokenizer_of)
    config = transformers.BertConfig(vocab_size=max(30522, len(tokenizer)))
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Measure every variant with both encoders, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", required=True, help="folder of a pretrained encoder, such as all-MiniLM-L6-v2")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", help="Markdown file to write")
    parser.add_argument("--way", choices=WAYS, help="measure one variant in this process, and print it as JSON")
    options = parser.parse_args()
    if options.way:
        found = measure(options.encoder, options.way, options.clips, options.tokens, options.epochs)
        print(json.dumps(found))
        return
    header = ["encoder", "variant", "trained, M", "in advance, s"]
    header += ["epoch, s", "spread, s", "**of the reference**", "MB"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        random = random_bert(Path(folder), options.encoder)
        for name, encoder in ((Path(options.encoder).name, options.encoder), ("BERT-base, random", random)):
            found = {way: _apart(encoder, way, options) for way in WAYS}
            for way, cells in found.items():
                ratio = cells["epoch"] / found[REFERENCE]["epoch"]
                rows.append(
                    [
                        name,
                        way,
                        f"{cells['parameters']:.2f}",
                        f"{cells['before']:.1f}",
                        f"{cells['epoch']:.3g}",
                        f"{cells['spread']:.2g}",
                        f"{ratio:.3g}",
                        f"{cells['megabytes']:.0f}",
                    ]
                )
    what = f"{options.clips} clips of {options.tokens} tokens, batches of {BATCH_SIZE}, one core a way."
    publish("\n".join([machine("torch", "transformers"), "", table(header, rows), "", what]), options.out)


def _apart(encoder: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.text_encoders", "--encoder", encoder, "--way", way]
    command += [f"--{name}={getattr(options, name)}" for name in ("clips", "tokens", "epochs")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
