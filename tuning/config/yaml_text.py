"""Read YAML as users mean it: numbers are plain numbers, and where text is expected it is kept. Imports nothing heavy.

YAML 1.1, which its parsers for Python read, takes 1:30 for 90, 010 for 8, no for false and 03 for 3, and knows tags
(`!!binary`) for values that no setting has.
"""

import functools
import re
import types
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from tuning.config.schema import RunSettings, known_fields

if TYPE_CHECKING:
    from yaml import SafeLoader
    from yaml.nodes import Node

_TAG = "tag:yaml.org,2002:"
TEXT, NULL = f"{_TAG}str", f"{_TAG}null"
_TAGS = {f"{_TAG}{name}" for name in ("str", "null", "bool", "int", "float", "map", "seq", "merge")}

# What is read as another type than text, as in YAML 1.2. All else is text, which a setting casts: no to false, 010 to
# 10. So are whole numbers of more digits than any setting takes.
_PLAIN = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]{0,18})|0x[0-9a-fA-F]{1,15}", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
)

# A file of a few lines may stand for more values than any memory holds, by anchors within anchors.
MOST_VALUES = 100_000


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
    """Read a document of plain values, but keep text as it is written below the dotted paths (or keys) in `texts`.

    Raises what the YAML parser or OmegaConf raises, and ValueError for tags, a key given twice or too many values.
    """
    from omegaconf import OmegaConf

    loader = _loader()(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return {}
        _check(root, {})
        for scalar in [scalar for path, node in _settings(root) if path in texts for scalar in _scalars(node)]:
            scalar.tag = TEXT
        read = loader.construct_document(root)
    finally:
        loader.dispose()
    if not isinstance(read, dict | list):
        return read
    return OmegaConf.to_container(OmegaConf.create(read), resolve=False)  # which checks that references can be read


@functools.cache
def _loader() -> "type[SafeLoader]":
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    for name, pattern, first in _PLAIN:
        letters = [*first, *([""] if name == "null" else [])]
        Loader.add_implicit_resolver(f"{_TAG}{name}", re.compile(rf"(?:{pattern})\Z"), letters)
    return Loader


def _check(node: "Node", sizes: dict[int, int]) -> int:
    """Check tags, keys and number of a node's values, and return the number; `sizes` has those of nodes seen before.

    Raises:
        ValueError: with the line.
    """
    if (known := sizes.get(id(node))) is not None:
        return known
    where = f"line {node.start_mark.line + 1}: "
    if node.tag not in _TAGS:
        raise ValueError(f"{where}expected plain values, got the tag {node.tag.replace(_TAG, '!!')}")
    sizes[id(node)] = size = 1
    keys = set()
    for child in node.value if isinstance(node.value, list) else ():
        pair = child if isinstance(child, tuple) else (child,)
        size += sum(_check(part, sizes) for part in pair)
        if len(pair) == 2 and isinstance(key := pair[0].value, str):
            if key in keys:
                raise ValueError(f"line {pair[0].start_mark.line + 1}: expected '{key}' once, got it twice")
            keys.add(key)
        if size > MOST_VALUES:
            raise ValueError(f"{where}expected at most {MOST_VALUES:,} values")
    sizes[id(node)] = size
    return size


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
