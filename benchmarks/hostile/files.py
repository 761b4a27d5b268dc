"""Files of a finished search and of a prepared store, each damaged in one way, then every command that reads it."""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.hostile.commands import Faults, Outcome, forked, progress, started
from benchmarks.report import table
from tuning.experiment.reading import REMEDIES

DAMAGES = ("bit", "cut", "empty", "other", "missing")
# What a command writes for a reader. It is compared byte by byte, but for the number that a page draws anew.
PRODUCTS = ("report.html", "history.png", "model.onnx")
# What a kill leaves, too, so that nothing could tell: times of which the last lines were not written, and a result that
# was not, which is then made of the trial's rows (its seconds are those of the epochs alone).
LEFT_BY_A_KILL = (("times.csv", "cut"), ("result.json", "missing"))
NONCE = re.compile(r"nonce[-=][\"']?[\w-]+")


def damage_file(file: Path, damage: str, draw: random.Random, folder: Path) -> None:
    """Damage a file below a folder in one way."""
    path = folder / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
        return
    if damage == "bit" and content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif damage == "cut":
        del content[draw.randrange(max(1, len(content) - 1)) :]
    elif damage == "empty":
        content.clear()
    elif damage == "other":
        content[:] = b"[1, 2]" if path.suffix in (".json", ".yaml", ".jsonl") else b"\xff\xfe a,b\n1\n"
    path.write_bytes(content)


@dataclass
class Told:
    """What a command did with a copy of a search: how it ended, what it wrote, and the files that it read."""

    outcome: Outcome
    products: dict[str, str]
    read: set[Path]

    def names(self, file: Path, calm: Told) -> bool:
        """Whether a file is named, in what is printed or in a page, more often than for an undamaged search."""
        return any(ours.count(file.name) > theirs.count(file.name) for ours, theirs in self._texts(calm))

    def accepted(self, file: Path, damage: str, calm: Told) -> str:
        """How a damage was accepted: as undamaged, told, without the file, as what a kill leaves, or silent."""
        if self.outcome.text == calm.outcome.text and self.products == calm.products:
            return "as undamaged"
        if self.names(file, calm):
            return "told"
        # Some files may be deleted, in the product's own words: then nothing is shown of them.
        if damage == "missing" and "or delete it" in REMEDIES.get(file.name, ""):
            return "without it"
        return "as by a kill" if (file.name, damage) in LEFT_BY_A_KILL else "silent"

    def _texts(self, calm: Told) -> list[tuple[str, str]]:
        pages = [(text, calm.products.get(name, "")) for name, text in self.products.items()]
        return [(self.outcome.text, calm.outcome.text), *pages]


def run_files(search: Path, recording: Path, draw: random.Random, folder: Path, repeats: int, faults: Faults) -> str:
    """The table of a search's files: each damaged in turn, then each command that reads it.

    A file that is gone may be missed by a command that only looks for it, so that all commands follow.
    """
    commands: dict[str, list[str]] = {
        "status": ["status", "SEARCH"], "report": ["report", "SEARCH"], "history": ["history", "SEARCH"],
        "predict": ["predict", "SEARCH/best", str(recording)],
        "predict by a checkpoint": ["predict", "SEARCH/trials/0001/checkpoints/best.pt", str(recording)],
        "export": ["export", "SEARCH/best"],
    }  # fmt: skip
    rows = {name: Counter[str]() for name in commands}
    files = sorted(path.relative_to(search) for path in search.rglob("*") if path.is_file())
    calm = {name: _run_on(search, folder / "place", words) for name, words in commands.items()}
    for name, told in calm.items():
        if told.outcome.kind != "accepted":
            faults.add(f"{name} on an undamaged search", told.outcome)
    for done, file in enumerate(files):
        progress("files of a search", done, len(files))
        for damage in draw.sample(DAMAGES, repeats):
            seed = draw.randrange(2**32)
            for name, words in commands.items():
                if damage != "missing" and file not in calm[name].read:
                    rows[name]["not read"] += 1
                    continue
                harm = partial(damage_file, file, damage, random.Random(seed))
                told = _run_on(search, folder / "place", words, harm)
                kind, named = told.outcome.kind, told.names(file, calm[name])
                how = told.accepted(file, damage, calm[name]) if kind == "accepted" else kind
                rows[name].update({kind, how})
                rows[name]["named"] += kind == "refused" and named
                if how in ("traceback", "hang", "silent") or (how in ("refused", "failed") and not named):
                    faults.add(f"{file}: {damage}; {name}, {how}", told.outcome)
    kinds = (
        "not read", "accepted", "as undamaged", "told", "without it", "as by a kill", "silent",
        "refused", "named", "failed", "traceback", "hang",
    )  # fmt: skip
    return table(["command", "damages", *kinds], [
        [name, str(len(files) * repeats), *(str(row[kind]) for kind in kinds)] for name, row in rows.items()
    ])  # fmt: skip


def _run_on(search: Path, place: Path, words: list[str], harm: Callable[[Path], None] | None = None) -> Told:
    """Run a command on a copy of a search, after the copy was damaged."""
    shutil.rmtree(place, ignore_errors=True)
    copied = shutil.copytree(search, place / search.name)
    for product in PRODUCTS:
        for file in copied.rglob(product):
            file.write_bytes(b"")  # so that what is compared was written by the command
    files = [path for path in copied.rglob("*") if path.is_file()]
    for file in files:
        os.utime(file, ns=(0, file.stat().st_mtime_ns))  # the time of its last access, which tells who reads it
    if harm is not None:
        harm(copied)
    outcome = forked([word.replace("SEARCH", search.name) for word in words], place)
    written = [file for product in PRODUCTS for file in copied.rglob(product) if file.stat().st_size]
    products = {str(file.relative_to(copied)): NONCE.sub("", file.read_text("latin-1")) for file in written}
    # On a file system that keeps no times of access all files count as read.
    read = [file for file in files if file.exists() and file.stat().st_atime_ns] or files
    return Told(outcome, products, {file.relative_to(copied) for file in read})


def run_store(prepared: Path, words: list[str], draw: random.Random, folder: Path, repeats: int, faults: Faults) -> str:
    """The table of a prepared store: each file damaged in turn, then a search over it; losses must not change untold.

    Of the recordings of the demo corpus in it one is enough: damaged recordings have a table of their own.
    """
    row: Counter[str] = Counter()
    files = sorted(path.relative_to(prepared) for path in prepared.rglob("*") if path.is_file())
    recordings = [file for file in files if file.suffix == ".wav"]
    files = [file for file in files if file.suffix != ".wav"] + draw.sample(recordings, 1)
    damages = [(file, damage) for file in files for damage in draw.sample(DAMAGES, repeats)]
    calm = _losses(
        started([*words, f"storage={folder / 'calm'}", f"data.prepared={prepared}"], folder), folder / "calm"
    )
    for index, (file, damage) in enumerate(damages):
        progress("files of a store", index, len(damages))
        broken, results = folder / "store", folder / f"store-{index}"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(prepared, broken)
        damage_file(file, damage, draw, broken)
        outcome = started([*words, f"storage={results}", f"data.prepared={broken}"], folder)
        losses = _losses(outcome, results)
        row[outcome.kind] += 1
        # A recording that is gone is left out, which its search's quarantine tells.
        named = file.name in outcome.text + "".join(path.read_text() for path in results.glob("*/quarantine.csv"))
        silent = outcome.kind == "accepted" and losses != calm and not named
        row["silent"] += silent
        row["other losses"] += outcome.kind == "accepted" and losses != calm
        row["healed"] += (broken / file).is_file() and (broken / file).read_bytes() == (prepared / file).read_bytes()
        row["named"] += named
        if outcome.kind in ("traceback", "hang") or silent:
            faults.add(f"{file}: {damage}; search", outcome)
        shutil.rmtree(results, ignore_errors=True)
    kinds = ("accepted", "healed", "named", "other losses", "silent", "refused", "failed", "traceback", "hang")
    return table(["damages of a store", *kinds], [[str(len(damages)), *(str(row[kind]) for kind in kinds)]])


def _losses(outcome: Outcome, results: Path) -> list[str]:
    boards = list(results.glob("*/leaderboard.csv"))
    if outcome.kind != "accepted" or not boards:
        return []
    return [row["val_loss"] for row in csv.DictReader(boards[0].read_text().splitlines())]
