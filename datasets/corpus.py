"""Corpora: labelled clips under one root. Imports nothing heavy."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from tuning.datasets import CORPORA
from tuning.datasets.dotted_path import did_you_mean as did_you_mean
from tuning.datasets.dotted_path import imported
from tuning.datasets.settings import DataSettings


@dataclass(frozen=True)
class Clip:
    """One labelled recording."""

    id: str  # the recording's path relative to the corpus root, with forward slashes
    targets: tuple[float, ...] = ()
    group: str | None = None  # speaker or artist
    fold: str | None = None
    split: str | None = None  # train, val or test, where the corpus publishes a split
    label: str | None = None  # the class, for a classification; `targets` then has its index
    text: str | None = None  # the path of its lyrics relative to the corpus root, with forward slashes


@dataclass(frozen=True)
class Corpus:
    """A source of clips: `root` is an absolute folder or a URI."""

    name: str
    root: str
    clips: list[Clip]
    notes: list[str] = field(default_factory=list)  # remarks for the user, one sentence each
    classes: list[str] = field(default_factory=list)  # names by index, for a classification
    dev_groups: dict[str, list[str]] = field(default_factory=dict)  # fold -> its published validation groups
    folds_share_groups: str = ""  # what its folds are called, if they are published with groups in several of them


def load_corpus(data: DataSettings, targets: list[str]) -> Corpus:
    """Read a corpus with numeric labels: `data.corpus` is a known name or a path 'package.module:function'.

    The function takes `(data, targets)` and returns a `Corpus`. Classes that clips have as well are dropped. Raises
    ValueError, which begins with the setting at fault, when the name, the folder or the manifest is wrong, and when
    clips have classes only.
    """
    corpus = _read(data, targets)
    if any(clip.label is not None and not clip.targets for clip in corpus.clips):
        raise ValueError(
            f"task.name: expected classification for data.corpus={data.corpus}, whose clips have classes, "
            "got regression"
        )
    return replace(corpus, clips=[replace(clip, label=None) for clip in corpus.clips])


def load_classes(data: DataSettings, classes: list[str] | None, merge: Mapping[str, str], drop_others: bool) -> Corpus:
    """Read a corpus with classes; a clip's one target becomes the index of its class.

    `merge` (task.merge_classes) renames classes first. `classes` (task.classes) is the order of the outputs, by default
    all classes, sorted; with `drop_others` (task.drop_other_classes) clips of other classes are left out. Raises
    ValueError as `load_corpus` does, when clips have numbers only, for an unknown class, a clip of a class that is not
    listed, fewer than two classes, and a class with a single clip, which can't both train and validate.
    """
    corpus = _read(data, [])
    if all(clip.label is None for clip in corpus.clips):
        raise ValueError(
            f"task.name: expected regression for data.corpus={data.corpus}, whose clips have numbers, "
            "got classification"
        )
    label_of = _merged(corpus, merge)
    clips = [replace(clip, label=label_of[clip.id]) for clip in corpus.clips]
    counts = Counter(label_of.values())
    names = sorted(counts) if classes is None else _listed(classes, counts, merge)
    others = {name: count for name, count in counts.most_common() if name not in names}
    if others and not drop_others:
        first = next(clip for clip in clips if clip.label in others)
        raise ValueError(
            f"task.classes: expected one of {', '.join(names)}, got '{first.label}' of '{first.id}'"
            f"{did_you_mean(str(first.label), names)}; to leave such clips out: task.drop_other_classes=true"
        )
    if len(names) < 2:
        raise ValueError(f"task.classes: expected at least 2 classes, got {len(names)}: {', '.join(names)}")
    if single := [name for name in names if counts[name] == 1]:
        only = next(clip.id for clip in clips if clip.label == single[0])
        raise ValueError(
            f"task.classes: expected at least 2 clips of '{single[0]}', to train and to validate, got {only}"
        )
    index_of = {name: (float(index),) for index, name in enumerate(names)}
    kept = [replace(clip, targets=index_of[str(clip.label)]) for clip in clips if clip.label in index_of]
    notes = list(corpus.notes)
    if others:
        left_out = ", ".join(f"{count} {name}" for name, count in others.items())
        notes.append(
            f"{sum(others.values())} clips of other classes are left out (task.drop_other_classes): {left_out}"
        )
    return replace(corpus, clips=kept, classes=names, notes=notes)


def _merged(corpus: Corpus, merge: Mapping[str, str]) -> dict[str, str]:
    """Renamed class of each clip by its id. Raises ValueError for a clip without class and an unknown name."""
    labels: dict[str, str] = {}
    for clip in corpus.clips:
        if not clip.label:
            raise ValueError(f"data.corpus: expected a class for every clip, got none for '{clip.id}'")
        labels[clip.id] = clip.label
    known = sorted(set(labels.values()))
    for name, other in merge.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"; the classes are {', '.join(known)}"
            raise ValueError(f"task.merge_classes: no clip has class '{name}'{hint}")
        if merge.get(other, other) != other:
            raise ValueError(
                f"task.merge_classes: '{name}' becomes '{other}', which itself becomes '{merge[other]}'; "
                f"expected '{name}: {merge[other]}'"
            )
    return {clip: merge.get(label, label) for clip, label in labels.items()}


def _listed(classes: list[str], counts: Mapping[str, int], merge: Mapping[str, str]) -> list[str]:
    """A copy of `classes`. Raises ValueError for one that is listed twice or that no clip has."""
    for position, name in enumerate(classes):
        if name in classes[:position]:
            raise ValueError(f"task.classes: '{name}' is listed twice")
        if name not in counts:
            hint = did_you_mean(name, counts) or f"; the classes are {', '.join(sorted(counts))}"
            merged = f" (task.merge_classes makes it '{merge[name]}')" if name in merge else ""
            raise ValueError(f"task.classes: no clip has class '{name}'{merged}{hint}")
    return list(classes)


def _read(data: DataSettings, targets: list[str]) -> Corpus:
    path = CORPORA.get(data.corpus, data.corpus)
    if ":" not in path:
        raise ValueError(
            f"data.corpus: expected one of {', '.join(sorted(CORPORA))} or a dotted path 'package.module:function', "
            f"got '{data.corpus}'{did_you_mean(data.corpus, CORPORA)}"
        )
    corpus = _loader(path)(data, targets)
    if not isinstance(corpus, Corpus):
        raise ValueError(f"data.corpus: expected a Corpus from '{path}', got {type(corpus).__name__}")
    if data.folds is not None and all(clip.fold is None and clip.split is None for clip in corpus.clips):
        raise ValueError(f"data.folds: expected nothing for data.corpus={data.corpus}, got '{data.folds}'")
    return corpus


def _loader(path: str) -> Callable[[DataSettings, list[str]], Corpus]:
    """The function that a path names. Raises ValueError for one that is no corpus; it is not called."""
    found = imported("data.corpus", path)
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # some that are built into Python have none
        signature = inspect.Signature()
    names = [name.lstrip("_") for name in signature.parameters]
    returned = str(getattr(signature.return_annotation, "__name__", signature.return_annotation))
    if names[:2] != ["data", "targets"] and returned.rpartition(".")[2] != Corpus.__name__:
        raise ValueError(
            f"data.corpus: expected a function (data, targets) that returns a Corpus, got '{path}' "
            f"({', '.join(names) or 'no parameters'})"
        )
    return cast("Callable[[DataSettings, list[str]], Corpus]", found)
