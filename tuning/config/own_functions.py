"""Functions of a user's own in place of built-in ones, and the settings that they bring along. Imports nothing heavy.

`loss.name=package.module:function` takes a loss from the user's code; an optimiser, a schedule or a scheduler is named
in the same way. The function's keyword-only parameters are settings of the section, with their annotations as types:

    def focal(outputs: Tensor, targets: Tensor, *, gamma: Annotated[float, Field(ge=0)] = 2.0) -> Tensor

gives `loss.gamma`. A parameter that is named as a setting of the section is that setting.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, get_args

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from tuning.datasets.dotted_path import imported
from tuning.datasets.settings import Only

# Settings that may name a function of the user's own, with the parameters that the caller gives: they are no settings.
GIVEN: dict[str, tuple[str, ...]] = {
    "loss.name": (),
    "optim.name": (),
    "optim.schedule": ("total_steps", "steps_per_epoch"),
    "search.scheduler": ("longest", "seed"),
}

# All settings that may name code of the user's own.
NAMING = ("data.corpus", "model.name", *GIVEN)

OwnFunctions = tuple[tuple[str, str], ...]  # pairs of a setting of `GIVEN` and the function's dotted path


def own_functions(flat: Mapping[str, Any]) -> OwnFunctions:
    """The user's own functions that settings by dotted path name; each is one function for all trials of a search."""
    named = ((setting, flat.get(setting)) for setting in GIVEN)
    return tuple((setting, name) for setting, name in named if isinstance(name, str) and ":" in name)


def named_code(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of a setting and the dotted path that it names, in settings that are flat or nested by section."""
    found = []
    for setting in NAMING:
        section, _, leaf = setting.partition(".")
        inside = tree.get(section)
        values = (tree.get(setting), inside.get(leaf) if isinstance(inside, Mapping) else None)
        found += [(setting, value) for value in values if isinstance(value, str) and ":" in value]
    return found


def allow_code_word(config: BaseModel) -> str:
    """What a later command needs in order to run the code that a configuration names; empty if it names none."""
    return " allow_code=true" if named_code(config.model_dump()) else ""


def chosen(setting: str, name: str, built_in: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The function that a setting names: a built-in one, or the user's own."""
    function: Callable[..., Any] = built_in[name] if name in built_in else imported(setting, name)
    return function


def options(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A function's keyword-only parameters among the values; those that are None keep the function's default."""
    return {name: values[name] for name in _parameters(function) if values[name] is not None}


def takes(setting: str, name: str, parameter: str) -> bool:
    """Say whether the user's own function has a keyword-only parameter; True for a built-in one."""
    return ":" not in name or parameter in _parameters(imported(setting, name))


def with_own(section: type[BaseModel], name: str, own: OwnFunctions) -> type[BaseModel]:
    """A section's settings with those of the user's own functions that its settings name.

    Raises:
        ValueError: no such function, or one with a parameter that has no default or no readable type.
    """
    fields = {leaf: copy.copy(field) for leaf, field in section.model_fields.items()}
    for setting, path in own:
        place, _, leaf = setting.partition(".")
        if place != name:
            continue
        fields[leaf].annotation = Literal[(*get_args(fields[leaf].annotation), path)]  # type: ignore[assignment]
        for parameter in _parameters(imported(setting, path)).values():
            if known := fields.get(parameter.name):
                known.metadata = [part.also(leaf, path) if isinstance(part, Only) else part for part in known.metadata]
            elif parameter.name not in GIVEN[setting]:
                fields[parameter.name] = _new_field(setting, path, parameter)
    changed: dict[str, Any] = {leaf: (field.annotation, field) for leaf, field in fields.items()}
    return create_model(section.__name__, __base__=section, **changed)


def _new_field(setting: str, path: str, parameter: inspect.Parameter) -> FieldInfo:
    """A parameter of the user's own function as a setting of its section."""
    if parameter.default is parameter.empty:
        raise ValueError(f"{setting}: expected a default for every setting of {path}, got none for '{parameter.name}'")
    annotation = parameter.annotation
    if annotation is parameter.empty:
        annotation = type(parameter.default)
    elif isinstance(annotation, str):
        # Those of other parameters may name what is imported for type checkers alone.
        with suppress(NameError):
            annotation = eval(annotation, getattr(imported(setting, path), "__globals__", {}))
    if isinstance(annotation, str) or annotation is type(None):
        raise ValueError(f"{setting}: expected a type for '{parameter.name}' of {path} that can be read, got none")
    field = FieldInfo.from_annotated_attribute(annotation, parameter.default)
    field.metadata.append(Only(setting.partition(".")[2], path))
    field.description = field.description or f"of {path}"
    return field


@functools.cache
def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters: Iterable[inspect.Parameter] = inspect.signature(function).parameters.values()
    return {parameter.name: parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
