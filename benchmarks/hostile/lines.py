"""Command lines and space files with one hostile word, value or byte."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.hostile.commands import Faults, forked
from benchmarks.report import table
from tuning.config.schema import known_fields
from tuning.config.terminal import visible

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
