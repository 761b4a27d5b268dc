"""A space: the settings and distributions of a search, its grid, its samples, its trials. Imports nothing heavy."""

import itertools
import math
import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeGuard

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tuning.config.distributions import LISTED, Distribution, fraction
from tuning.config.errors import UserError, cast, validation_message
from tuning.config.schema import Config, Parts, flattened, known_fields, nested, parse_config
from tuning.datasets.settings import CORPUS_DEFAULTS
from tuning.models import MODELS

# A trial that equals an earlier one is drawn again so many times before one that is left is taken.
MAX_REDRAWS = 200
MOST_REDRAWS = 100_000  # where a part of an infinite space is used up

# What is prepared or checked for every combination of values takes no more of them: each is a millisecond, or hours.
MOST_VARIANTS = 1000
MOST_COUNTED = 100_000

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_WORD = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class Space:
    """Settings and distributions of a search, by dotted path.

    Args:
        settings: the values that were set; `${path}` within text is replaced by the value at that path.
        distributions: the searched settings, in the order of the file.
    """

    settings: dict[str, Any]
    distributions: dict[str, Distribution]

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """All settings, by dotted path."""
        return known_fields(Parts.of(self.settings | self.distributions))

    def fixed(self) -> Config:
        """Return the configuration with every searched setting at its first or lowest value, if its conditions hold."""
        return self.config(next(self.grid(varied=())))

    def config(self, params: dict[str, Any]) -> Config:
        """Return a trial's configuration: the space with the searched settings at `params`.

        Raises:
            UserError: the values are not allowed together, with path and expectation.
        """
        try:
            return parse_config(nested(self._resolved(params)))
        except ValidationError as error:
            raise UserError(validation_message(error)) from None

    def dependencies(self, path: str) -> list[str]:
        """Return the searched settings that a setting depends on, by itself, by reference or by a condition.

        Empty for a setting that is the same in all trials.
        """
        found: list[str] = []
        seen, waiting = set(), [path]
        while waiting:
            current = waiting.pop(0)
            if current in seen:
                continue
            seen.add(current)
            if current in self.distributions:
                found.append(current)
                waiting += self.distributions[current].when
            else:
                waiting += self._referred(current)
        return found

    def varied(self, prefixes: str | tuple[str, ...] = "") -> dict[str, list[str]]:
        """Return the settings with these prefixes that differ between trials, each with its `dependencies`."""
        paths = (path for path in [*self.settings, *self.distributions] if path.startswith(prefixes))
        return {path: searched for path in paths if (searched := self.dependencies(path))}

    def values(self, path: str) -> list[Any]:
        """Return the values that a setting may have: of a range both ends; the default where conditions may fail."""
        if distribution := self.distributions.get(path):
            return [*distribution.values, *([self.default(path)] if distribution.when else [])]
        names = self._referred(path)
        points = itertools.product(*(self.values(name) for name in names))
        return [self._value(path, dict(zip(names, point, strict=True))) for point in points]

    def largest(self, path: str) -> Any:
        """Return the largest value that a number may have in a trial; None if it is null in all."""
        return max((value for value in self.values(path) if value is not None), default=None)

    def variants(self, prefixes: str | tuple[str, ...]) -> Iterator[Config]:
        """Yield a configuration for each combination of listed values that settings with these prefixes depend on.

        All other searched settings are at their first or lowest value.

        Raises:
            UserError: as `config`; too many combinations to go through, or to prepare.
        """
        searched = {path for found in self.varied(prefixes).values() for path in found}
        listed = {path for path in searched if self.distributions[path].kind in LISTED}
        if (count := self.size(listed)) > MOST_VARIANTS:
            names = ", ".join(path for path in self.distributions if path in listed)
            raise UserError(
                f"{names}: expected at most {MOST_VARIANTS:,} combinations of values that are prepared or checked "
                f"before a search, got {count:,}"
            )
        return (self.config(point) for point in self.grid(listed))

    def _referred(self, path: str) -> list[str]:
        """Return the settings that a plain one refers to, also within a longer text or as `${.sibling}`."""
        text = self.settings.get(path)
        if not refers(text):
            return []
        found: dict[str, None] = {}
        fields, section = self.fields, path.rpartition(".")[0]
        for word in _WORD.findall(text.replace("[", ".").replace("]", "")):
            name = f"{section}{word}" if re.match(r"\.\w", word) else word.lstrip(".")
            setting = ".".join(name.split(".")[:2])  # what follows is a place in a list
            if setting in fields:
                found[setting] = None
        return list(found)

    def default(self, path: str) -> Any:
        """Return what the schema says of a setting that is set nowhere."""
        return self.fields[path].get_default(call_default_factory=True)

    def _value(self, path: str, params: dict[str, Any]) -> Any:
        """Return a setting's value with the searched ones at `params`: its default if it is set nowhere."""
        if path not in params and path not in self.settings:
            return self.default(path)
        value = params.get(path, self.settings.get(path))
        return cast(path, self._resolved(params)[path], self.fields[path]) if refers(value) else value

    def _resolved(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return all values by dotted path, with the searched settings at `params` and references replaced."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        flat = {**self.settings, **params}
        found = self._looked_up(flat)
        if found is not None or not any(refers(value) for value in self.settings.values()):
            return found or flat
        try:
            whole = OmegaConf.merge(OmegaConf.create(nested(self._defaults())), OmegaConf.create(nested(flat)))
            resolved: Any = OmegaConf.to_container(whole, resolve=True)
            return {path: flattened(resolved)[path] for path in flat}
        except OmegaConfBaseException as error:
            path = getattr(error, "full_key", None) or "space"
            raise UserError(f"{path}: expected a reference to a setting, got: {str(error).splitlines()[0]}") from None

    def _looked_up(self, flat: dict[str, Any]) -> dict[str, Any] | None:
        """Replace references that are plain paths of other values; None if there are others, which OmegaConf resolves.

        OmegaConf merges every setting of every section first, which takes a hundred times as long.
        """
        found = dict(flat)
        for path, value in flat.items():
            for _ in flat:  # a reference may lead to another, but not for ever
                reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
                if reference is None or reference[1] not in flat:
                    break
                value = flat[reference[1]]
            if "${" in str(value):
                return None
            found[path] = value
        return found

    def is_active(self, path: str, params: dict[str, Any]) -> bool:
        """Say whether a distribution's conditions hold for the values drawn so far."""
        conditions = self.distributions[path].when.items()
        return all(self._value(condition, params) in allowed for condition, allowed in conditions)

    def in_order(self) -> list[str]:
        """Return the searched paths, each after those that its conditions depend on."""
        ordered: list[str] = []
        waiting = list(self.distributions)
        conditions = {
            path: {searched for condition in distribution.when for searched in self.dependencies(condition)}
            for path, distribution in self.distributions.items()
        }
        while waiting:
            ready = [path for path in waiting if conditions[path].isdisjoint(waiting)]
            if not ready:
                raise UserError(f"{waiting[0]}: when: expected no circle of conditions, got {', '.join(waiting)}")
            ordered += ready
            waiting = [p for p in waiting if p not in ready]
        return ordered

    def grid(self, varied: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the product of all values, conditional settings only where active; the first path varies slowest.

        `varied`: the paths to vary, the others at their first or lowest value; default: all.
        """
        order = self.in_order()

        def below(place: int, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if place == len(order):
                yield point
            elif not self.is_active(path := order[place], point):
                yield from below(place + 1, point)
            else:
                for value in self._varied_values(path, varied):
                    yield from below(place + 1, {**point, path: value})

        return below(0, {})

    def highest(self) -> Iterator[dict[str, Any]]:
        """Yield the trial with each setting at its last or highest value, by every choice that conditions depend on."""
        deciding = {path for path in self._deciding() if self.distributions[path].kind in LISTED}
        if self.size(deciding) > MOST_VARIANTS:
            deciding = set()
        top = {path: distribution.at(1 - 1e-9) for path, distribution in self.distributions.items()}
        for point in self.grid(deciding):
            yield self.completed(top | {path: value for path, value in point.items() if path in deciding})

    def size(self, varied: Collection[str] | None = None) -> float:
        """Return the number of points of `grid`, infinite where a range of fractions is active, without making them.

        Where more than `MOST_COUNTED` combinations decide which conditions hold, they are not counted: infinite, too.
        """
        order = self.in_order()
        counts = {path: self.distributions[path].size if varied is None or path in varied else 1 for path in order}
        deciding = self._deciding()
        if math.prod(counts[path] for path in deciding) > MOST_COUNTED:
            return math.inf

        def below(place: int, point: dict[str, Any]) -> float:
            if place == len(order):
                return 1
            path = order[place]
            if not self.is_active(path, point):
                return below(place + 1, point)
            if path not in deciding:
                return counts[path] * below(place + 1, point)
            return sum(below(place + 1, {**point, path: value}) for value in self._varied_values(path, varied))

        return below(0, {})

    def _deciding(self) -> set[str]:
        """Return the searched settings that decide which conditions hold."""
        conditions = {condition for distribution in self.distributions.values() for condition in distribution.when}
        return {path for condition in conditions for path in self.dependencies(condition)}

    def _varied_values(self, path: str, varied: Collection[str] | None) -> Sequence[Any]:
        distribution = self.distributions[path]
        return distribution.every() if varied is None or path in varied else (distribution.at(0.0),)

    def completed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return a trial with the given values of searched settings, and the others at their defaults.

        Defaults are those of the schema with this model and task, and those that the corpus brings along. A setting
        whose conditions do not hold is not part of the trial. Whether values can be drawn is not checked.

        Raises:
            UserError: a setting without a value and without a default.
        """
        point: dict[str, Any] = {}
        for path in self.in_order():
            if self.is_active(path, point):
                point[path] = given[path] if path in given else self._usual(path)
        return point

    def samples(self, seed: int, first: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
        """Yield random trials, no two alike, until a finite space is used up.

        Args:
            seed: the same seed gives the same trials.
            first: the first trials.
        """
        seen: set[Hashable] = set()
        for point in first:
            if (key := point_key(point)) not in seen:
                seen.add(key)
                yield point
        order, size = self.in_order(), self.size()
        is_finite = size < math.inf
        rest = self.grid() if is_finite else iter(())
        for number in itertools.count(len(first) + 1):
            if len(seen) >= size:
                return
            for attempt in range(MAX_REDRAWS if is_finite else MOST_REDRAWS):
                point = {}
                for path in order:
                    if self.is_active(path, point):
                        point[path] = self.distributions[path].at(fraction(seed, number, attempt, path))
                if (key := point_key(point)) not in seen:
                    break
            else:  # few are left: the next one in order
                left = next((point for point in rest if point_key(point) not in seen), None)
                if left is None and is_finite:
                    return
                if left is None:
                    why = f"{MOST_REDRAWS:,} draws gave no other trial"
                    raise UserError(f"search.num_trials: expected at most {len(seen)} here, since {why}")
                point, key = left, point_key(left)
            seen.add(key)
            yield point

    def written(self) -> dict[str, Any]:
        """Return all settings by dotted path, distributions in the form of a space file."""
        searched = {path: distribution.as_setting() for path, distribution in self.distributions.items()}
        return self._defaults() | self.settings | searched

    def _defaults(self) -> dict[str, Any]:
        """Return the default of every setting with this model and task; where there is none, the space's first value.

        Raises:
            UserError: the space has no value either.
        """
        return flattened(self._default_config().model_dump(mode="json"))

    def _usual(self, path: str) -> Any:
        """Return what a setting is unless the user says otherwise: the corpus's value for it, or its default."""
        corpus, model = (str(self._value(name, {})) for name in ("data.corpus", "model.name"))
        brought = brought_along(corpus, model, self.fields)
        if path in brought:
            return cast(path, brought[path], self.fields[path])
        if self.fields[path].is_required():
            raise UserError(f"{path}: expected a value, since it has no default")
        return attrgetter(path)(self._default_config())

    def _default_config(self) -> Config:
        given = self.settings | {path: distribution.at(0.0) for path, distribution in self.distributions.items()}
        named = {
            path: given[path]
            for path, setting in self.fields.items()
            if path in given and (setting.is_required() or path in ("task.name", "model.name"))
        }
        try:
            return parse_config(nested(named))
        except ValidationError as error:
            raise UserError(validation_message(error)) from None


def point_key(point: dict[str, Any]) -> Hashable:
    """Return what is equal for equal trials, whatever the order of their settings."""
    return _frozen(point)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset((name, _frozen(entry)) for name, entry in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def refers(value: Any) -> TypeGuard[str]:
    """Say whether a written value refers to others."""
    return isinstance(value, str) and "${" in value


def brought_along(corpus: str, model: str, fields: dict[str, FieldInfo]) -> dict[str, object]:
    """Return the settings that a corpus brings along, for built-in models with their sizes."""
    found = CORPUS_DEFAULTS.get(corpus, {})
    is_own = model not in MODELS
    return {p: v for p, v in found.items() if p in fields and not (is_own and p.startswith("model."))}
