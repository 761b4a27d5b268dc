"""What a corpus is: clips with labels under one root. Imports nothing heavy."""

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from datasets import CORPORA
from datasets.settings import DataSettings


@dataclass(frozen=True)
class Clip:
    """One labelled recording."""

    id: str  # the recording's path relative to the corpus root, with forward slashes
    targets: tuple[float, ...]
    group: str | None = None  # speaker or artist
    fold: str | None = None
    split: str | None = None  # train, val or test, where the corpus publishes a split


@dataclass(frozen=True)
class Corpus:
    """A source of clips: `root` is an absolute folder or a URI."""

    name: str
    root: str
    clips: list[Clip]
    notes: list[str] = field(default_factory=list)  # what to know about it, one sentence each


def load_corpus(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the clips of `data.corpus`, a known layout or a dotted path 'package.module:function'.

    The function takes `(data, targets)` and returns a `Corpus`. Raises ValueError, which begins with the
    setting at fault, when the name, the folder or the manifest is wrong.
    """
    path = CORPORA.get(data.corpus, data.corpus)
    if ":" not in path:
        raise ValueError(
            f"data.corpus: expected one of {', '.join(sorted(CORPORA))} or a dotted path 'package.module:function', "
            f"got '{data.corpus}'{did_you_mean(data.corpus, CORPORA)}"
        )
    return _import(path)(data, targets)


def _import(path: str) -> Callable[[DataSettings, list[str]], Corpus]:
    module_name, _, function_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A package missing inside the user's module is the module's own error.
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ValueError(f"data.corpus: no module '{error.name}' for '{path}'") from None
    if not callable(function := getattr(module, function_name, None)):
        hint = did_you_mean(function_name, vars(module))
        raise ValueError(f"data.corpus: no function '{function_name}' in {module_name}{hint}")
    return function


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" with the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
