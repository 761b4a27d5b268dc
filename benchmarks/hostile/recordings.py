"""Recordings, sound in every container that can be written and damaged in one way: prepared, decoded, predicted."""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.hostile.commands import Faults, forked, progress, started
from benchmarks.report import table
from tuning.datasets.features.audio import decode
from tuning.datasets.settings import DataSettings

RATE, SECONDS = 16_000, 4.0
# Container, encoding of soundfile, suffix, and whether the format has a checksum over its sound.
FORMATS = (
    ("WAV", "PCM_16", "wav", False), ("WAV", "FLOAT", "wav", False), ("WAVEX", "PCM_24", "wav", False),
    ("RF64", "PCM_16", "wav", False), ("W64", "PCM_16", "w64", False), ("AIFF", "PCM_16", "aiff", False),
    ("AU", "PCM_16", "au", False), ("CAF", "PCM_16", "caf", False), ("FLAC", "PCM_16", "flac", True),
    ("OGG", "VORBIS", "ogg", True), ("OGG", "OPUS", "opus", True), ("MP3", "MPEG_LAYER_III", "mp3", False),
)  # fmt: skip


def clean_sound(draw: random.Random) -> np.ndarray:
    """Four seconds of a gliding tone with overtones and noise, mono, below full scale."""
    noise = np.random.default_rng(draw.randrange(2**32))
    seconds = np.arange(int(RATE * SECONDS)) / RATE
    tone = sum(np.sin(2 * np.pi * f * (220 * seconds + 40 * seconds**2)) / f for f in (1, 2, 3))
    return np.asarray(0.2 * tone + 0.01 * noise.standard_normal(len(seconds)), np.float32)


def damaged_recording(path: Path, draw: random.Random, harm: bool) -> tuple[str, str]:
    """Write a recording with one damage, or without; the damage and what may be expected: clean, told, or silent.

    `silent` is a damage that nothing in the file could tell: a bit of sound in a container without a checksum.
    """
    container, encoding, suffix, checksum = draw.choice(FORMATS)
    path = path.with_suffix(f".{suffix}")
    sound = clean_sound(draw)
    damage = draw.choice(("none", "cut", "cut", "bit", "bit", "empty", "garbage", "wild", "nan", "silence", "low rate"))
    if not harm:
        damage = "none"
    if damage in ("wild", "nan"):
        container, encoding, suffix = "WAV", "FLOAT", "wav"
        path = path.with_suffix(".wav")
        sound[draw.randrange(len(sound))] = {"wild": 1e30, "nan": np.nan}[damage]
    if damage == "silence":
        sound[:] = 0
    rate = 500 if damage == "low rate" and encoding not in ("VORBIS", "OPUS", "MPEG_LAYER_III") else RATE
    soundfile.write(path, sound, rate, format=container, subtype=encoding)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[draw.randrange(len(content) // 10, len(content) * 9 // 10) :]
    elif damage == "bit":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif damage == "empty":
        content.clear()
    elif damage == "garbage":
        content[:] = bytes(draw.randrange(256) for _ in range(2000))
    path.write_bytes(content)
    if damage == "none" or (damage == "low rate" and rate == RATE):
        return f"{container} {encoding}: none", "clean"
    return f"{container} {encoding}: {damage}", "silent" if damage == "bit" and not checksum else "told"


SETTINGS = (
    "space=crnn",
    "data.corpus=manifest",
    "features.num_frames=64",
    "training.epochs=1",
    "search.num_trials=1",
)


def run_recordings(number: int, draw: random.Random, folder: Path, best: Path, faults: Faults) -> str:
    """The table of recordings: prepared for a search, decoded, and predicted one by one."""
    root = folder / "corpus"
    root.mkdir()
    kinds = dict(_write_corpus(number, draw, root))
    words = [
        *SETTINGS,
        f"data.root={root}",
        "data.max_quarantined_share=1",
        f"storage={folder / 'results'}",
        "name=heard",
    ]
    outcome = started(["run", *words, f"data.prepared={folder / 'prepared'}"], folder)
    if outcome.kind != "accepted":
        faults.add("a search over damaged recordings", outcome)
    reasons = dict(csv.reader((folder / "results/heard/quarantine.csv").read_text().splitlines()[1:]))
    rows: dict[str, Counter[str]] = {}
    for done, (file, (what, expected)) in enumerate(kinds.items()):
        if done % 20 == 0:
            progress("recordings", done, len(kinds))
        row = rows.setdefault(what.partition(": ")[2], Counter())
        row["number"] += 1
        row["quarantined"] += file in reasons
        heard = (
            "quarantined"
            if file in reasons
            else _heard(root / file, next((root / ".clean").glob(f"{Path(file).stem}.*")))
        )
        row[heard if heard == "equal" else "else"] += heard != "quarantined"
        outcome = forked(["predict", str(best), str(root / file), "format=json"], folder)
        row["refused"] += outcome.kind == "refused"
        agrees = outcome.kind == ("refused" if file in reasons else "accepted")
        has_nan = outcome.kind == "accepted" and re.search(r"\b(nan|inf)\b", outcome.text, re.IGNORECASE)
        silent = expected == "told" and heard not in ("quarantined", "equal")
        row["silent"] += silent
        if silent or (expected == "clean" and heard != "equal") or not agrees or has_nan:
            faults.add(f"{file}, {what}, {heard}{': ' + reasons[file] if file in reasons else ''}; predict", outcome)
    kinds_shown = ("number", "quarantined", "equal", "else", "silent", "refused")
    header = [
        "damage",
        "recordings",
        "quarantined",
        "the same sound",
        "other sound",
        "of which could be told",
        "predict refuses",
    ]
    return table(header, [[name, *(str(row[kind]) for kind in kinds_shown)] for name, row in sorted(rows.items())])


def _write_corpus(number: int, draw: random.Random, root: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Write a manifest of damaged recordings beside forty good ones, each undamaged in `.clean`, too."""
    (root / ".clean").mkdir()
    lines = ["file,valence,arousal,artist"]
    for index in range(number + 40):
        state = draw.getstate()
        what, expected = damaged_recording(root / f"{index}", draw, harm=index < number)
        draw.setstate(state)
        damaged_recording(root / ".clean" / f"{index}", draw, harm=False)
        file = next(path.name for path in root.glob(f"{index}.*"))
        lines.append(f"{file},{draw.uniform(-1, 1)},{draw.uniform(-1, 1)},{index % 20}")
        yield file, (what, expected)
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")


def _heard(file: Path, clean: Path) -> str:
    """How a recording sounds beside the undamaged one: equal (an error 60 dB below it), shorter, longer, or other."""
    ours, theirs = (decode(path.read_bytes(), RATE, DataSettings()).astype(float) for path in (file, clean))
    if len(ours) != len(theirs):
        return "shorter" if len(ours) < len(theirs) else "longer"
    return "equal" if np.square(ours - theirs).sum() <= 1e-6 * np.square(theirs).sum() else "other"
