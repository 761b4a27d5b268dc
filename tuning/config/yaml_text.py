"""Read YAML whose names look like numbers: fold `03` stays `03` where a setting takes text. Imports nothing heavy."""

import functools
import types
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from tuning.config.schema import RunSettings, known_fields

if TYPE_CHECKING:
    from yaml.nodes import Node

# Otherwise YAML 1.1 would read 03 as 3, 1.10 as 1.1, 12:30 as 750 and no as false. Null stays null.
TEXT, NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


@functools.cache
def text_settings() -> frozenset[str]:
    """Return the dotted paths of all settings that take text, a list of texts, or texts by name."""
    fields = RunSettings.model_fields | known_fields()
    return frozenset(path for path, field in fields.items() if _takes_text(field.annotation))


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) in (list, dict, Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        return bool(inner) and all(_takes_text(part) for part in inner)
    return annotation is str


def read_yaml(text: str, texts: Collection[str]) -> Any:
    """Read a document with OmegaConf, but keep text as it is written below the dotted paths (or keys) in `texts`.

    Raises what the YAML parser or OmegaConf raises.
    """
    import yaml
    from omegaconf import OmegaConf

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    changed: list[Any] = [scalar for path, node in _settings(root) if path in texts for scalar in _scalars(node)]
    for scalar in changed:
        scalar.tag, scalar.style = TEXT, "'"
    if changed:
        text = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=float("inf"))
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def _settings(node: "Node | None", above: str = "") -> "Iterator[tuple[str, Node]]":
    """Yield every value of a mapping with its dotted path: sections and their leaves."""
    from yaml.nodes import MappingNode

    if not isinstance(node, MappingNode):
        return
    for key, value in node.value:
        path = f"{above}{key.value}"
        yield path, value
        if not above:
            yield from _settings(value, f"{path}.")


def _scalars(node: "Node") -> "Iterator[Node]":
    """Yield every scalar at or below a node, except null."""
    from yaml.nodes import ScalarNode

    if isinstance(node, ScalarNode):
        if node.tag != NULL:
            yield node
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            yield from _scalars(part)
