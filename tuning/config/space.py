"""Read space files and `key=value` arguments into checked settings and distributions. Imports nothing heavy."""

import importlib.resources
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeGuard, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tuning.config.distributions import KINDS, LISTED, Distribution, fraction, is_distribution, parse, plain
from tuning.config.errors import UserError, cast, expectation, nearest, unknown_setting, validation_message
from tuning.config.own_functions import named_code
from tuning.config.references import refuse_lookups
from tuning.config.schema import (
    PREPARED,
    SEARCHABLE,
    SECTIONS,
    Config,
    Parts,
    RunSettings,
    default_places,
    flattened,
    known_fields,
    nested,
    parse_config,
    without_effect,
)
from tuning.config.yaml_text import read_yaml, text_settings
from tuning.datasets import is_demo
from tuning.datasets.dotted_path import allow
from tuning.datasets.settings import CORPUS_DEFAULTS
from tuning.models import MODELS

# A trial that equals an earlier one is drawn again so many times before the space counts as used up.
MAX_REDRAWS = 200

# Known-good points, which a space file writes for its own distributions.
POINTS = "search.points_to_evaluate"

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
        """Return the configuration with every searched setting at its first or lowest value."""
        return self.config({path: d.at(0.0) for path, d in self.distributions.items()})

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
            return [*distribution.values, *([self._default(path)] if distribution.when else [])]
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
            UserError: as `config`.
        """
        searched = {path for found in self.varied(prefixes).values() for path in found}
        listed = {path for path in searched if self.distributions[path].kind in LISTED}
        return (self.config(point) for point in self.grid(listed))

    def _referred(self, path: str) -> list[str]:
        """Return the settings that a plain one refers to, also within a longer text or as `${.sibling}`."""
        text = self.settings.get(path)
        if not _refers(text):
            return []
        found: dict[str, None] = {}
        fields, section = self.fields, path.rpartition(".")[0]
        for word in _WORD.findall(text.replace("[", ".").replace("]", "")):
            name = f"{section}{word}" if re.match(r"\.\w", word) else word.lstrip(".")
            setting = ".".join(name.split(".")[:2])  # what follows is a place in a list
            if setting in fields:
                found[setting] = None
        return list(found)

    def _default(self, path: str) -> Any:
        return self.fields[path].get_default(call_default_factory=True)

    def _value(self, path: str, params: dict[str, Any]) -> Any:
        """Return a setting's value with the searched ones at `params`: its default if it is set nowhere."""
        if path not in params and path not in self.settings:
            return self._default(path)
        value = params.get(path, self.settings.get(path))
        return cast(path, self._resolved(params)[path], self.fields[path]) if _refers(value) else value

    def _resolved(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return all values by dotted path, with the searched settings at `params` and references replaced."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        flat = {**self.settings, **params}
        found = self._looked_up(flat)
        if found is not None or not any(_refers(value) for value in self.settings.values()):
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

    def grid(self, varied: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Return the product of all values, conditional settings only where active; the first path varies slowest.

        `varied`: the paths to vary, the others at their first or lowest value; default: all.
        """
        points: list[dict[str, Any]] = [{}]
        for path in self.in_order():
            distribution = self.distributions[path]
            values = distribution.values if varied is None or path in varied else (distribution.at(0.0),)
            points = [
                {**point, **({path: value} if active else {})}
                for point in points
                for active in [self.is_active(path, point)]
                for value in (values if active else values[:1])
            ]
        return points

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
        seen: list[dict[str, Any]] = []
        for point in first:
            if point not in seen:
                seen.append(point)
                yield point
        order = self.in_order()
        for number in itertools.count(len(first) + 1):
            for attempt in range(MAX_REDRAWS):
                point = {}
                for path in order:
                    if self.is_active(path, point):
                        point[path] = self.distributions[path].at(fraction(seed, number, attempt, path))
                if point not in seen:
                    break
            else:
                return
            seen.append(point)
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


def _refers(value: Any) -> TypeGuard[str]:
    """Say whether a written value refers to others."""
    return isinstance(value, str) and "${" in value


def known_spaces() -> list[str]:
    """Return the names of the built-in spaces."""
    folder = importlib.resources.files("tuning.search_spaces")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_space_file(space: str) -> dict[str, Any]:
    """Read a space file by name or path.

    Raises:
        UserError: no such file, or no YAML mapping.
    """
    if space.endswith((".yaml", ".yml")) or "/" in space:
        file = Path(space)
        if not file.is_file():
            raise UserError(f"space: expected the path of a YAML file, got '{space}' (no such file)")
        text = file.read_text(encoding="utf-8")
    else:
        known = known_spaces()
        if space not in known:
            raise UserError(f"space: expected a known space or a path, got '{space}'{nearest(space, known)}")
        text = importlib.resources.files("tuning.search_spaces").joinpath(f"{space}.yaml").read_text(encoding="utf-8")
    try:
        tree = read_yaml(text, text_settings())
    except Exception as error:  # OmegaConf passes the YAML parser's own errors on
        raise UserError(f"space: expected YAML in '{space}', got: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"space: expected sections with settings in '{space}', got {plain(tree)}")
    return tree


def read_preset(preset: str | None, fields: dict[str, FieldInfo]) -> dict[str, Any]:
    """Return a preset's values by dotted path; empty for no preset.

    Raises:
        UserError: no such preset, or one with a setting that the model does not have.
    """
    if preset is None:
        return {}
    text = importlib.resources.files("tuning.search_spaces").joinpath("presets.yml").read_text(encoding="utf-8")
    known = read_yaml(text, [])
    if preset not in known:
        raise UserError(f"preset: expected one of {', '.join(known)}, got '{preset}'{nearest(preset, known)}")
    flat = {f"{section}.{name}": value for section, leaves in known[preset].items() for name, value in leaves.items()}
    if missing := [path for path in flat if path not in fields]:
        raise UserError(f"preset: '{preset}' sets {', '.join(missing)}, which the space's model does not have")
    return flat


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """Read `key=value` arguments, each value as YAML.

    Raises:
        UserError: no `=`, a value that is no YAML, a key given twice.
    """
    overrides: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise UserError(f"{argument}: expected key=value or a flag (--dry-run, --help)")
        if key in overrides:
            raise UserError(f"{key}: expected once, got twice")
        try:
            overrides[key] = read_yaml(f"value: {text}", ["value"] if key in text_settings() else [])["value"]
        except Exception as error:  # OmegaConf passes the YAML parser's own errors on
            reason = " ".join(str(error).split())
            raise UserError(f"{key}: expected a value in YAML, got '{text}' ({reason})") from None
    return overrides


def flatten(tree: dict[str, Any], fields: dict[str, FieldInfo]) -> dict[str, Any]:
    """Return a space file's settings by dotted path; unknown names are errors."""
    flat: dict[str, Any] = {}
    problems = []
    for key, value in tree.items():
        if key in SECTIONS and not isinstance(value, dict):
            problems.append(f"{key}: expected a section with settings, got {plain(value)}")
            continue
        leaves = {f"{key}.{leaf}": v for leaf, v in value.items()} if key in SECTIONS else {str(key): value}
        for path, leaf_value in leaves.items():
            if path not in fields:
                problems.append(unknown_setting(path, fields))
            elif path in flat:
                problems.append(f"{path}: expected once, got twice")
            flat[path] = leaf_value
    if problems:
        raise UserError("\n".join(problems))
    return flat


def build_space(flat: dict[str, Any], fields: dict[str, FieldInfo]) -> Space:
    """Check values and distributions, and cast each to the type of its setting.

    Raises:
        UserError: everything that is wrong, a line each.
    """
    settings: dict[str, Any] = {}
    distributions: dict[str, Distribution] = {}
    problems = []
    for path, value in flat.items():
        try:
            refuse_lookups(path, value)
            if is_distribution(value):
                distributions[path] = _checked(path, parse_at(path, value), fields)
            elif isinstance(value, dict) and get_origin(fields[path].annotation) is not dict:
                raise UserError(_no_distribution(path, value, fields))
            elif _refers(value):
                settings[path] = value
            else:
                settings[path] = cast(path, value, fields[path])
        except UserError as error:
            problems.append(str(error))
    space = Space(settings, distributions)
    problems = problems or [found for path in flat if (found := _unfit(path, space))]
    if problems:
        raise UserError("\n".join(problems))
    return space


def parse_at(path: str, value: dict[str, Any]) -> Distribution:
    """Parse a distribution; errors name the setting."""
    try:
        return parse(value)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _no_distribution(path: str, value: dict[str, Any], fields: dict[str, FieldInfo]) -> str:
    wanted = f"{path}: expected {expectation(fields[path])}, or one of {', '.join(KINDS)} over such values"
    return f"{wanted}, got {plain(value)}{nearest(next(iter(value), ''), KINDS) if value else ''}"


_PLAIN = f"expected a plain value (searched may be {', '.join(SEARCHABLE)})"
_PREPARED_FIRST = "expected grid or choice, since every variant is prepared first"


def _checked(path: str, distribution: Distribution, fields: dict[str, FieldInfo]) -> Distribution:
    section, kind = path.split(".")[0], distribution.kind
    if section not in SEARCHABLE:
        raise UserError(f"{path}: {_PLAIN}, got {kind}")
    if path.startswith(PREPARED) and kind not in LISTED:
        raise UserError(f"{path}: {_PREPARED_FIRST}, got {kind}")
    fitting: tuple[str, ...] = LISTED
    if fields[path].annotation is int:
        fitting += ("int", "logint")
    elif fields[path].annotation in (float, float | None):
        fitting += ("uniform", "loguniform")
    if kind not in fitting:
        raise UserError(f"{path}: expected {', '.join(fitting)} for this setting, got {kind}")
    values = tuple(cast(f"{path}: {kind}", value, fields[path]) for value in distribution.values)
    when = {}
    for condition, allowed in distribution.when.items():
        if condition not in fields:
            raise UserError(f"{path}: when: {unknown_setting(condition, fields)}")
        when[condition] = tuple(cast(f"{path}: when: {condition}", value, fields[condition]) for value in allowed)
    return Distribution(kind, values, when)


def _unfit(path: str, space: Space) -> str:
    """Say why a setting may not depend on searched ones; empty if it may."""
    for searched in space.dependencies(path):
        got = f"one that depends on {searched} ({space.distributions[searched].kind})"
        if path.split(".")[0] not in SEARCHABLE:
            return f"{path}: {_PLAIN}, got {got}"
        if path.startswith(PREPARED) and space.distributions[searched].kind not in LISTED:
            return f"{path}: {_PREPARED_FIRST}, got {got}"
    return ""


def fields_of(tree: dict[str, Any], given: dict[str, Any]) -> dict[str, FieldInfo]:
    """Every setting of a space file with what the command line gives in its place, by dotted path.

    Raises:
        UserError: no such model, or no such function of the user's own.
    """
    sections = {key: value for key, value in tree.items() if isinstance(value, dict) or key not in SECTIONS}
    named = flattened(sections) | given
    if not isinstance(model := named.get("model.name", "crnn"), str):
        raise UserError(f"model.name: expected a plain value, got {plain(model)}")
    try:
        return known_fields(Parts.of(named))
    except ValueError as error:
        raise UserError(str(error)) from None


def brought_along(corpus: str, model: str, fields: dict[str, FieldInfo]) -> dict[str, object]:
    """Return the settings that a corpus brings along, for built-in models with their sizes."""
    found = CORPUS_DEFAULTS.get(corpus, {})
    is_own = model not in MODELS
    return {p: v for p, v in found.items() if p in fields and not (is_own and p.startswith("model."))}


def _check_choices(space: Space, file: Collection[str], later: Collection[str], given: Collection[str]) -> None:
    """Refuse settings that count only for choices that are not made.

    Args:
        space: all of it.
        file: the settings of its file, which may stay where something else has made another choice.
        later: the settings of corpus, preset and command line.
        given: the settings of the command line.

    Raises:
        UserError: such settings, with the choices that each needs.
    """
    problems = []
    if "task.name" in later:
        later = {*later, "loss.name"}  # whose default it decides
    for path, (needed, got) in without_effect(space.written()).items():
        if path in given or (path in file and needed.partition("=")[0] not in later):
            problems.append(f"{path}: expected only with {needed}, got {got}")
    if problems:
        raise UserError("\n".join(problems))


def _as_far_as_searched(space: Space, later: Collection[str]) -> list[dict[str, Any]]:
    """Return a file's points to be tried first, where corpus, preset or command line have set some of their settings.

    What is fixed there is part of a point no longer. A point is left out whose value, or default, a distribution from
    there does not have, or a distribution that counts because of a choice made there.
    """
    kept = []
    for point in space.settings[POINTS]:
        flat = flatten(point, space.fields)
        free = {path: value for path, value in flat.items() if path in space.distributions or path not in later}
        trial = space.completed(free)
        from_there = {path for path in trial if path in later}
        from_there |= {path for path in trial.keys() - free.keys() if space.distributions[path].when.keys() & later}
        if all(space.distributions[path].contains(trial[path]) for path in from_there):
            kept.append(free if len(free) < len(flat) else point)
    return kept


def load(arguments: list[str]) -> tuple[RunSettings, Space, dict[str, Any]]:
    """Read the command line's `key=value` arguments; return run settings, the checked space, and the arguments' values.

    Later ones win: defaults, places that the environment names (`PLACES`), space file, settings that the corpus brings
    along (`CORPUS_DEFAULTS`), preset, arguments.

    Raises:
        UserError: with path, expectation, what came and the nearest known name.
    """
    overrides = parse_overrides(arguments)
    run_fields = RunSettings.model_fields
    places = default_places()
    run_values = {k: v for k, v in places.items() if k in run_fields}
    run_values |= {k: cast(k, v, run_fields[k]) for k, v in overrides.items() if k in run_fields}
    run = RunSettings(**run_values)
    tree = read_space_file(run.space)
    given = {k: v for k, v in overrides.items() if k not in run_fields}
    allow(path for _, path in named_code(tree) + named_code(given))
    fields = fields_of(tree, given)
    unknown = [unknown_setting(k, [*run_fields, *fields]) for k in given if k not in fields]
    if unknown:
        raise UserError("\n".join(unknown))
    from_file = flatten(tree, fields)
    named = {"data.corpus": "demo", "model.name": "crnn"} | from_file | given
    brought = brought_along(str(named["data.corpus"]), str(named["model.name"]), fields)
    if "augment.synthetic_share" not in from_file | given:  # then no GAN is trained
        brought = {path: value for path, value in brought.items() if not path.startswith("gan.")}
    preset = read_preset(run.preset, fields)
    places = {k: v for k, v in places.items() if k in fields}
    if is_demo(str(named["data.corpus"])):  # made below data.prepared
        places.pop("data.root", None)
    flat = places | from_file | brought | preset | given
    space = build_space(flat, fields)
    later = {**brought, **preset, **given}
    if POINTS in from_file and POINTS not in later:
        space = replace(space, settings=space.settings | {POINTS: _as_far_as_searched(space, later)})
    _check_choices(space, from_file, later, given)
    name = run.name or Path(run.space).stem
    return run.model_copy(update={"name": name}), space, overrides
