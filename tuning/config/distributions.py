"""Distributions over one setting: how they are written, checked, sampled and counted. Imports nothing heavy."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

LISTED = ("grid", "choice")
RANGED = ("uniform", "loguniform", "int", "logint")
KINDS = LISTED + RANGED
# Last parts of a path that say nothing alone.
VAGUE = ("name",)


@dataclass(frozen=True)
class Distribution:
    """One searched setting.

    Args:
        kind: one of `KINDS`. `grid` and `choice` list their values; the others are a range, whose integer
            kinds include both ends.
        values: the listed values, or (low, high).
        when: conditions by dotted path, each the values under which this setting is searched; where they do
            not hold the setting keeps its default.
    """

    kind: str
    values: tuple[Any, ...]
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.kind}[{', '.join(plain(value) for value in self.values)}]"
        if self.when:
            conditions = (f"{path}={'|'.join(plain(value) for value in values)}" for path, values in self.when.items())
            text += f" when {' and '.join(conditions)}"
        return text

    def at(self, fraction: float) -> Any:
        """Return the value at a fraction in [0, 1) of the distribution: a uniform number gives a sample."""
        if self.kind in LISTED:
            return self.values[int(fraction * len(self.values))]
        low, high = self.values
        if self.kind == "uniform":
            return low + fraction * (high - low)
        if self.kind == "loguniform":
            return min(low * (high / low) ** fraction, high)
        if self.kind == "int":
            return low + int(fraction * (high - low + 1))
        # logint: log-uniform over [low - 1/2, high + 1/2], rounded, so that both ends have their full share.
        edge_low, edge_high = math.log(low - 0.5), math.log(high + 0.5)
        return min(max(round(math.exp(edge_low + fraction * (edge_high - edge_low))), low), high)

    @property
    def size(self) -> float:
        """Number of values; infinite for a range of fractions."""
        if self.kind in LISTED:
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.kind in ("int", "logint") else math.inf

    def every(self) -> Sequence[Any]:
        """Return all values, of a range of integers from low to high."""
        assert self.size < math.inf, "a range of fractions has no list of values"
        return self.values if self.kind in LISTED else range(self.values[0], self.values[1] + 1)

    def contains(self, value: Any) -> bool:
        """Say whether the value can be drawn."""
        if self.kind in LISTED:
            return value in self.values
        return isinstance(value, (int, float)) and self.values[0] <= value <= self.values[1]

    def as_setting(self) -> dict[str, Any]:
        """Return the distribution in the form of a space file."""
        setting: dict[str, Any] = {self.kind: list(self.values)}
        if self.when:
            setting["when"] = {path: list(values) for path, values in self.when.items()}
        return setting


def counted(number: int, noun: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "epoch"), counted(2, "epoch")
    ('1 epoch', '2 epochs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Names for tables and figures: the last part of each dotted path, or the whole path where that is ambiguous."""
    paths = list(dict.fromkeys(paths))
    last = {path: path.rpartition(".")[2] for path in paths}
    count = Counter(last.values())
    return {path: path if count[name] > 1 or name in VAGUE else name for path, name in last.items()}


def plain(value: Any) -> str:
    """Return a value on one line, as a user would type it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def is_distribution(value: Any) -> bool:
    """Say whether a value from YAML has the form of a distribution: one known kind, perhaps with `when`."""
    return isinstance(value, dict) and len(value) > 0 and set(value) <= {*KINDS, "when"}


def parse(value: dict[str, Any]) -> Distribution:
    """Read a distribution from its form in a space file.

    Raises:
        ValueError: no kind or several, no list, a range that is not two ascending numbers.
    """
    kinds = [kind for kind in value if kind in KINDS]
    if len(kinds) != 1:
        raise ValueError(f"expected one of {', '.join(KINDS)}, got {', '.join(value)}")
    kind = kinds[0]
    values = value[kind]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{kind}: expected a list, got {plain(values)}")
    if kind in RANGED:
        _check_range(kind, values)
    elif len({json.dumps(entry) for entry in values}) < len(values):
        raise ValueError(f"{kind}: expected different values, got {plain(values)}")
    conditions = value.get("when", {})
    if not isinstance(conditions, dict):
        raise ValueError(f"when: expected settings by dotted path, got {plain(conditions)}")
    when = {path: tuple(v) if isinstance(v, list) else (v,) for path, v in conditions.items()}
    return Distribution(kind, tuple(values), when)


def _check_range(kind: str, values: list[Any]) -> None:
    wanted = "two integers" if "int" in kind else "two numbers"
    if len(values) != 2:
        raise ValueError(f"{kind}: expected {wanted} [low, high], got {plain(values)}")
    try:
        low, high = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{kind}: expected {wanted} [low, high], got {plain(values)}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{kind}: expected low below high, got {plain(values)}")
    if kind.startswith("log") and low <= 0:
        raise ValueError(f"{kind}: expected low above 0, got {plain(values)}")


def fraction(seed: int, number: int, attempt: int, path: str) -> float:
    """Return the uniform random number of one setting in one trial.

    Each seed, trial and setting has its own: an extended search, or a space in which one setting is fixed, keeps the
    other values. Python guarantees that `random.Random.random` is the same in all versions.
    """
    return random.Random(f"{seed}/{number}/{attempt}/{path}").random()
