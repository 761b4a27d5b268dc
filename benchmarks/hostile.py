"""Hand the commands hostile input, and count what they make of it.

`python -m benchmarks.hostile --lines 500 --recordings 200 --seed 0 --out table.md`

Three tables. Command lines and space files: a good one with one hostile word, value or byte, each run with `--dry-run`.
Recordings: sound in every container that can be written, damaged in one way, then prepared, decoded and predicted.
Files: every file of a finished search, and of a prepared store, damaged in one way, then every command.

No command may end in a traceback, hang, or exit otherwise than with 0, 1 or 2; a refusal names what it refuses. A
recording that is accepted although its sound is not the one that was written is a silent change, unless its container
has neither a checksum nor a length that could tell. Whatever falls short is printed in full.

The commands run in forks of one process, so that torch is imported once; those that start Ray run as processes.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.report import machine, publish, table
from tuning.config.schema import known_fields
from tuning.config.terminal import visible
from tuning.datasets.features.audio import decode
from tuning.datasets.settings import DataSettings

TIMEOUT = 120.0
TRACEBACK = "Traceback (most recent call last)"


@dataclass
class Outcome:
    """What a command did: its exit code, None where it did not end in time, and all that it printed."""

    code: int | None
    text: str

    @property
    def kind(self) -> str:
        """One of accepted, refused, failed, and the two that must not be: traceback and hang."""
        if self.code is None:
            return "hang"
        if TRACEBACK in self.text or self.code not in (0, 1, 2):
            return "traceback"
        return ("accepted", "failed", "refused")[self.code]


@dataclass
class Faults:
    """What falls short, for the list below the tables."""

    lines: list[str] = field(default_factory=list)

    def add(self, what: str, outcome: Outcome) -> None:
        """Keep what was done and the end of what was printed."""
        tail = "\n".join(outcome.text.strip().splitlines()[-4:])
        self.lines.append(f"- {what}: exit code {outcome.code}\n\n```\n{tail}\n```")
        print(self.lines[-1], file=sys.stderr)


def forked(words: list[str], folder: Path) -> Outcome:
    """Run a command as a fork of this process, in a folder."""
    output = folder / ".output"
    output.touch()
    child = os.fork()
    if not child:
        _as_command(words, folder, output)
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Outcome(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Outcome(None, output.read_text(errors="replace"))


def _as_command(words: list[str], folder: Path, output: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(out, number)
        sys.argv = ["tuning", *words]
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", False), "utf-8")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", False), "utf-8", "backslashreplace")
        code = importlib.import_module("tuning.cli.app").main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 255)


def started(words: list[str], folder: Path) -> Outcome:
    """Run a command as a process, in a folder."""
    environment = os.environ | {"RAY_ADDRESS": "local"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tuning", *words], cwd=folder, env=environment, timeout=5 * TIMEOUT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return Outcome(None, (error.stdout or b"").decode(errors="replace"))
    return Outcome(done.returncode, done.stdout)


# Command lines and space files.

VALUES = (
    "", "null", "nan", "inf", "-inf", "-1", "0", "1e400", "9" * 400, "0x10", "010", "1:30", "1_000", "true", "yes",
    "off", "[]", "[1, [2]]", "{}", "{a: 1}", "{choice: []}", "{choice: [1, a, null]}", "{uniform: [1, 0]}",
    "{uniform: [0]}", "{loguniform: [0, 1]}", "{grid: 3}", "{quniform: [0, 1, 0]}", "{unknown: [1, 2]}",
    "{choice: [1], uniform: [0, 1]}", "..:x", ":", "a:", "os:system", "os.path:join", "nothing.there:Model",
    "${oc.env:HOME}", "${optim.learning_rate}", "${", "!!binary aGk=", "!!python/object/apply:os.system [true]",
    "&a [*a]", "*a", "[", "{", "'", '"', "- a", "# a", "a: b: c", "[red]x[/red]", "[/y]", "\x1b[31mred", "\u202eevil",
    "\udcff", "ä", "名", "a" * 5000, "../../etc/passwd", "/proc", "/dev/null", "s3:/bucket", "s3://", "s3://a b/c",
    "file://", "http://user:secret@host", " ", "\t", "a\nb", "C:\\data", "~nobody/x",
)  # fmt: skip

SPACES = ("crnn", "crnn_grid", "ser", "ser_demo", "bimodal", "vit")


def hostile_line(draw: random.Random) -> tuple[str, list[str]]:
    """A command line with one hostile word, and what that word is."""
    space = f"space={draw.choice(SPACES)}"
    key = draw.choice([*known_fields(), "name", "storage", "space", "data.root", "data.corpus", "model.name"])
    value = draw.choice(VALUES)
    kind = draw.choice(("value", "value", "value", "key", "word"))
    if kind == "value":
        return f"{key}={value}", [space, f"{key}={value}"]
    if kind == "key":
        at = draw.randrange(len(key))
        wrong = draw.choice(
            (key[:at] + key[at + 1 :], key + ".x", key.upper(), f".{key}", value.replace("=", "") or "x")
        )
        return f"{wrong}=1", [space, f"{wrong}=1"]
    return value, [space, value]


def hostile_space(draw: random.Random, folder: Path, sources: list[Path]) -> tuple[str, list[str]]:
    """A command line whose space file is damaged, and how."""
    source = draw.choice(sources)
    content = source.read_bytes()
    at = draw.randrange(len(content))
    lines = content.split(b"\n")
    line = draw.randrange(len(lines))
    damages: dict[str, Callable[[], bytes]] = {
        "a byte is flipped": lambda: content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :],
        "cut": lambda: content[:at],
        "Latin-1": lambda: "# Größe\n".encode("latin-1") + content,
        "UTF-16": lambda: content.decode().encode("utf-16"),
        "binary": lambda: bytes(draw.randrange(256) for _ in range(200)),
        "a line is twice there": lambda: b"\n".join([*lines[: line + 1], *lines[line:]]),
        "a line is gone": lambda: b"\n".join(lines[:line] + lines[line + 1 :]),
        "a line is moved in": lambda: b"\n".join([*lines[:line], b"   " + lines[line], *lines[line + 1 :]]),
        "a hostile value": lambda: (
            content + b"\noptim:\n  learning_rate: " + draw.choice(VALUES).encode("utf-8", "replace")
        ),
        "nested a thousand times": lambda: content + b"\noptim: " + b"[" * 1000,
        "aliases that grow": lambda: _billion_laughs(),
    }
    name = draw.choice(list(damages))
    path = folder / f"space{draw.randrange(10**9)}.yaml"
    path.write_bytes(damages[name]())
    return f"{source.name}: {name}", [f"space={path.name}"]


def _billion_laughs() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines).encode()


def run_lines(number: int, draw: random.Random, folder: Path, faults: Faults) -> str:
    """The table of command lines and space files."""
    sources = sorted(Path("search_spaces").resolve().glob("*.yaml"))
    rows: dict[str, Counter[str]] = {"command lines": Counter(), "space files": Counter()}
    for index in range(number):
        name = "space files" if index % 3 == 2 else "command lines"
        what, words = hostile_space(draw, folder, sources) if index % 3 == 2 else hostile_line(draw)
        words = [word.replace("\0", "") for word in words]
        outcome = forked(["run", *words, "--dry-run"], folder)
        rows[name][outcome.kind] += 1
        named = "error" in outcome.text and (index % 3 == 2 or _key(words[-1]) in outcome.text)
        rows[name]["named"] += outcome.kind == "refused" and named
        if outcome.kind in ("traceback", "hang") or (outcome.kind == "refused" and not named):
            faults.add(f"`{what[:200]!r}`", outcome)
    kinds = ("accepted", "refused", "named", "failed", "traceback", "hang")
    body = [
        [name, str(number), *(str(row[kind]) for kind in kinds)] for name, row in rows.items() for number in [_all(row)]
    ]
    return table(["input", "number", *kinds], body)


def _all(row: Counter[str]) -> int:
    return sum(count for kind, count in row.items() if kind != "named")


def _key(word: str) -> str:
    """The part of a word that a refusal has to name: the last part of the setting, or a word's beginning."""
    name = re.split(r"[=\n]", word)[0].strip()
    return visible(name.rpartition(".")[2][:20].strip())


# Recordings.

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
SMALL = (
    "space=crnn", "features.num_frames=64", "model.conv_filters=[8, 8]", "model.lstm_units=[8, 4]",
    "training.epochs=2", "search.num_trials=3",
)  # fmt: skip


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
    for file, (what, expected) in kinds.items():
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


# Files of a search and of a prepared store.


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


DAMAGES = ("bit", "cut", "empty", "other", "missing")


def run_files(search: Path, recording: Path, draw: random.Random, folder: Path, repeats: int, faults: Faults) -> str:
    """The table of a search's files: each damaged in turn, then each command that reads searches."""
    commands: dict[str, list[str]] = {
        "status": ["status", "SEARCH"], "report": ["report", "SEARCH"], "history": ["history", "SEARCH"],
        "predict": ["predict", "SEARCH/best", str(recording)], "export": ["export", "SEARCH/best"],
    }  # fmt: skip
    rows = {name: Counter[str]() for name in commands}
    files = sorted(path.relative_to(search) for path in search.rglob("*") if path.is_file())
    calm = {name: _run_on(search, folder / "calm", words) for name, words in commands.items()}
    for name, outcome in calm.items():
        if outcome.kind != "accepted":
            faults.add(f"{name} on an undamaged search", outcome)
    for file in files:
        for damage in draw.sample(DAMAGES, repeats):
            for name, words in commands.items():
                outcome = _run_on(search, folder / "broken", words, partial(damage_file, file, damage, draw))
                rows[name][outcome.kind] += 1
                named = file.name in outcome.text or file.parent.name in outcome.text
                rows[name]["named"] += outcome.kind == "refused" and named
                same = outcome.text == calm[name].text
                rows[name]["as if undamaged" if same else "told"] += outcome.kind == "accepted"
                if outcome.kind in ("traceback", "hang") or (outcome.kind == "refused" and not named):
                    faults.add(f"{file}: {damage}; {name}", outcome)
    kinds = ("accepted", "as if undamaged", "told", "refused", "named", "failed", "traceback", "hang")
    return table(["command", "damages", *kinds], [
        [name, str(len(files) * repeats), *(str(row[kind]) for kind in kinds)] for name, row in rows.items()
    ])  # fmt: skip


def _run_on(search: Path, place: Path, words: list[str], harm: Callable[[Path], None] | None = None) -> Outcome:
    """Run a command on a copy of a search, after the copy was damaged."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(search, place / search.name)
    if harm is not None:
        harm(place / search.name)
    return forked([word.replace("SEARCH", search.name) for word in words], place)


def run_store(prepared: Path, words: list[str], draw: random.Random, folder: Path, repeats: int, faults: Faults) -> str:
    """The table of a prepared store: each file damaged in turn, then a search over it; losses must not change."""
    row: Counter[str] = Counter()
    files = sorted(path.relative_to(prepared) for path in prepared.rglob("*") if path.is_file())
    calm = _losses(
        started([*words, f"storage={folder / 'calm'}", f"data.prepared={prepared}"], folder), folder / "calm"
    )
    for index, (file, damage) in enumerate(
        (file, damage) for file in files for damage in draw.sample(DAMAGES, repeats)
    ):
        broken, results = folder / "store", folder / f"store-{index}"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(prepared, broken)
        damage_file(file, damage, draw, broken)
        outcome = started([*words, f"storage={results}", f"data.prepared={broken}"], folder)
        losses = _losses(outcome, results)
        row[outcome.kind] += 1
        row["silent"] += outcome.kind == "accepted" and losses != calm
        row["healed"] += (broken / file).is_file() and (broken / file).read_bytes() == (prepared / file).read_bytes()
        row["named"] += file.name in outcome.text
        if outcome.kind in ("traceback", "hang") or (outcome.kind == "accepted" and losses != calm):
            faults.add(f"{file}: {damage}; search", outcome)
        shutil.rmtree(results, ignore_errors=True)
    kinds = ("accepted", "healed", "named", "refused", "failed", "silent", "traceback", "hang")
    return table(["damages", *kinds], [[str(len(files) * repeats), *(str(row[kind]) for kind in kinds)]])


def _losses(outcome: Outcome, results: Path) -> list[str]:
    boards = list(results.glob("*/leaderboard.csv"))
    if outcome.kind != "accepted" or not boards:
        return []
    return [row["val_loss"] for row in csv.DictReader(boards[0].read_text().splitlines())]


def _on_a_search(options: argparse.Namespace, folder: Path, faults: Faults) -> Iterator[str]:
    """The tables that need a finished search with its model."""
    words = ["run", *SMALL]
    places = [f"storage={folder / 'results'}", f"data.prepared={folder / 'prepared'}"]
    for command in ([*words, *places], ["finalize", str(folder / "results/crnn")]):
        outcome = started(command, folder)
        if outcome.kind != "accepted":
            raise SystemExit(outcome.text)
    search, recording = folder / "results/crnn", next((folder / "prepared").rglob("*.wav"))
    if options.recordings:
        draw = random.Random(options.seed + 1)
        yield run_recordings(options.recordings, draw, folder, search / "best", faults)
    if options.files:
        draw = random.Random(options.seed + 2)
        yield run_files(search, recording, draw, folder, options.files, faults)
        yield run_store(folder / "prepared", words, draw, folder, options.files, faults)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=500, help="command lines and space files")
    parser.add_argument("--recordings", type=int, default=200)
    parser.add_argument("--files", type=int, default=1, help="damages of each file of a search and a store, 0 to 5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    options = parser.parse_args()
    for module in ("tuning.cli.app", "tuning.api", "tuning.cli.predict", "tuning.cli.report", "librosa", "torch"):
        importlib.import_module(module)
    faults, parts = Faults(), [machine("numpy", "soundfile", "torch")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.lines:
            parts.append(run_lines(options.lines, random.Random(options.seed), folder, faults))
        if options.recordings or options.files:
            parts += _on_a_search(options, folder, faults)
    parts.append("\n".join(faults.lines) or "Nothing falls short.")
    publish("\n\n".join(parts), options.out)


if __name__ == "__main__":
    main()
