"""Read space files and `key=value` arguments into checked settings and distributions. Imports nothing heavy."""

import codecs
import importlib.resources
import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from tuning.config.distributions import KINDS, LISTED, Distribution, is_distribution, parse, plain
from tuning.config.errors import UserError, cast, expectation, nearest, shown, unknown_setting
from tuning.config.own_functions import GIVEN, named_code
from tuning.config.references import refuse_lookups
from tuning.config.schema import (
    PREPARED,
    SEARCHABLE,
    SECTIONS,
    Parts,
    RunSettings,
    default_places,
    flattened,
    known_fields,
    without_effect,
)
from tuning.config.space import Space, brought_along, refers
from tuning.config.yaml_text import read_yaml, text_settings
from tuning.datasets import CORPORA, is_demo
from tuning.datasets.corpus import did_you_mean
from tuning.datasets.dotted_path import allow

# Known-good points, which a space file writes for its own distributions.
POINTS = "search.points_to_evaluate"

# The dotted path of a user's own class or function.
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


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
        text = _text_of("space", space)
    else:
        known = known_spaces()
        if space not in known:
            raise UserError(f"space: expected a known space or a path, got '{space}'{nearest(space, known)}")
        text = importlib.resources.files("tuning.search_spaces").joinpath(f"{space}.yaml").read_text(encoding="utf-8")
    tree = _parsed("space", text, space, text_settings())
    if not isinstance(tree, dict):
        raise UserError(f"space: expected sections with settings in '{space}', got {plain(tree)}")
    return tree


def read_yaml_file(setting: str, path: str) -> Any:
    """Read a YAML file that a setting names: plain values, whatever their form.

    Raises:
        UserError: no such file, or no YAML.
    """
    return _parsed(setting, _text_of(setting, path), path, ())


def _parsed(setting: str, text: str, path: str, texts: Collection[str]) -> Any:
    try:
        return read_yaml(text, texts)
    except Exception as error:  # OmegaConf passes the YAML parser's own errors on
        raise UserError(f"{setting}: expected YAML in '{path}', got: {_one_line(error)}") from None


def _text_of(setting: str, path: str) -> str:
    """The text of a file in UTF-8 that a setting names.

    Raises:
        UserError: no such file, or one that is no text in UTF-8.
    """
    file, why = Path(path), "no such file"
    try:
        content = file.read_bytes() if file.is_file() else None
    except OSError as error:
        content, why = None, error.strerror or str(error)
    if content is None:
        raise UserError(f"{setting}: expected the path of a YAML file, got '{shown(path)}' ({why})")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"byte 0x{content[error.start]:02x} in line {line}"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            found = "UTF-16"
        raise UserError(f"{setting}: expected text in UTF-8, got {found}; save it as UTF-8: '{path}'") from None


def _one_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))


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
            found = read_yaml(f"value: {text}", ["value"] if key in text_settings() else [])
        except Exception as error:  # OmegaConf passes the YAML parser's own errors on
            raise UserError(f"{key}: expected a value in YAML, got '{shown(text)}' ({_one_line(error)})") from None
        if len(found) > 1:
            raise UserError(f"{key}: expected one value, got several lines: {shown(text)}")
        overrides[key] = found["value"]
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
            elif refers(value):
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
    return f"{wanted}, got {shown(value)}{nearest(next(iter(value), ''), KINDS) if value else ''}"


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
    if kind in LISTED and len({json.dumps(plain(value)) for value in values}) < len(values):  # 1 and 1.0 became one
        raise UserError(f"{path}: {kind}: expected different values, got {plain(list(distribution.values))}")
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
    for setting in ("model.name", "data.corpus", *GIVEN):
        _check_name(setting, named.get(setting))
    try:
        return known_fields(Parts.of(named))
    except ValueError as error:
        raise UserError(str(error)) from None


def _check_name(setting: str, name: Any) -> None:
    """Check the form of a setting that may name a user's own class or function, before anything is imported.

    Raises:
        UserError: a distribution where one value serves all trials, or a dotted path of another form.
    """
    if not isinstance(name, str):
        if name is not None and setting in ("model.name", "data.corpus"):
            raise UserError(f"{setting}: expected a plain value, got {shown(name)}")
    elif ":" in name and not _DOTTED.fullmatch(name):
        kind = "class" if setting == "model.name" else "function"
        raise UserError(f"{setting}: expected a {kind} as package.module:name, got '{shown(name)}'")


def _check_corpus(name: str) -> None:
    if ":" not in name and name not in CORPORA:
        known = f"one of {', '.join(sorted(CORPORA))} or a dotted path 'package.module:function'"
        raise UserError(f"data.corpus: expected {known}, got '{shown(name)}'{did_you_mean(name, CORPORA)}")


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
        is_default = path in space.settings and space.settings[path] == space.default(path)  # as in a complete file
        if path in given or (path in file and not is_default and needed.partition("=")[0] not in later):
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
    _check_corpus(str(named["data.corpus"]))
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
