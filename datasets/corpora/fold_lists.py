"""Folds that EmoBox publishes as lists of files, of which the user has a copy: those of CREMA-D and EmoDB.

Ma et al. (2024), "EmoBox: multilingual multi-corpus speech emotion recognition toolkit and benchmark", Interspeech;
github.com/emo-box/EmoBox. Layout of `data.fold_lists`, also below `cremad/` or `data/cremad/` in it:

    fold_1/cremad_test_fold_1.jsonl     a line for each file: {"key": ..., "wav": "downloads/.../1052_WSI_ANG_XX.wav"}
    fold_1/cremad_train_fold_1.jsonl    or `audio` in place of `wav`; or .json: {key: {"wav": ...}, ...}

Clips are dealt, not speakers: each speaker is in training and in the test.
"""

import json
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tuning.datasets import storage
from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus, did_you_mean
from tuning.datasets.settings import DataSettings

EMOBOX = "emobox"
SETTING = "data.fold_lists"
VALIDATES = 5  # of the speakers of a training list, in the order of their names, every fifth


def with_listed_folds(corpus: Corpus, data: DataSettings, num_folds: int) -> Corpus:
    """The corpus with EmoBox's folds, which share speakers, if `data.folds` names them; else as it is.

    A clip's fold is the one whose test list has it. Where there is one fold alone, its test list is the test. No
    validation is published for it: of the speakers of its training list, in the order of their names, every fifth
    validates, and the others train. (EmoBox itself takes a random fifth of the training clips.)

    Raises ValueError, which begins with `data.fold_lists`: it is set without being read, no such folder, a missing or
    damaged list, a file that is listed twice or that the corpus lacks, and a clip that no list has.
    """
    if data.folds != EMOBOX:
        if data.fold_lists is not None:
            raise ValueError(f"{SETTING}: expected nothing without data.folds={EMOBOX}, got '{data.fold_lists}'")
        return corpus
    lists, folder = _lists(data, num_folds)
    list_of = _listed(lists, folder)
    _check_same(corpus, list_of, folder)
    found = {clip.id: list_of[_stem(clip.id)][0] for clip in corpus.clips}
    corpus = replace(corpus, folds_share_groups=f"the folds '{EMOBOX}' of {corpus.name}")
    if num_folds > 1:
        return replace(corpus, clips=[replace(clip, fold=found[clip.id]) for clip in corpus.clips])
    speakers = sorted({str(clip.group) for clip in corpus.clips if found[clip.id] == "train"})
    validating = speakers[VALIDATES - 1 :: VALIDATES]

    def part_of(clip: Clip) -> str:
        return "val" if found[clip.id] == "train" and clip.group in validating else found[clip.id]

    note = (
        f"{len(validating)} of the {len(speakers)} speakers of EmoBox's training list validate, every fifth in the "
        "order of their names, since it names none"
    )
    clips = [replace(clip, split=part_of(clip)) for clip in corpus.clips]
    return replace(corpus, clips=clips, notes=[*corpus.notes, note])


def _lists(data: DataSettings, num_folds: int) -> tuple[dict[str, str], str]:
    """The paths of the lists below `data.fold_lists` by fold, or of a single fold by part; and that folder."""
    name = data.corpus
    if data.fold_lists is None:
        raise ValueError(
            f"{SETTING}: expected the folder or URI of EmoBox's lists, such as EmoBox/data/{name}, with "
            f"data.folds={EMOBOX}, got nothing; github.com/emo-box/EmoBox has them"
        )
    root = layout.check_folder(SETTING, data.fold_lists)
    tops = ("", f"{name}/", f"data/{name}/")
    top = posixpath.dirname(layout.find(root, *(f"{top}fold_1" for top in tops), setting=SETTING))

    def find(part: str, fold: int) -> str:
        folder = layout.find(root, posixpath.join(top, f"fold_{fold}"), setting=SETTING)
        file = posixpath.join(folder, f"{name}_{part}_fold_{fold}")
        return layout.find(root, f"{file}.jsonl", f"{file}.json", setting=SETTING)

    if num_folds == 1:
        return {part: find(part, 1) for part in ("train", "test")}, root
    return {str(fold): find("test", fold) for fold in range(1, num_folds + 1)}, root


def _listed(lists: dict[str, str], root: str) -> dict[str, tuple[str, str]]:
    """The list of each file and its place there, by the file's stem. Raises ValueError for one that is listed twice."""
    found: dict[str, tuple[str, str]] = {}
    for name, file in lists.items():
        for stem, place in _stems(root, file):
            if stem in found:
                raise ValueError(
                    f"{SETTING}: expected each file once in all lists, got '{stem}' at {found[stem][1]} and {place}"
                )
            found[stem] = (name, place)
    return found


def _stems(root: str, file: str) -> Iterator[tuple[str, str]]:
    """Yield the stem of each file in a list, and its place. Raises ValueError for what is no list of files."""
    for place, entry in _entries(root, file):
        paths = [entry.get(name) for name in ("wav", "audio")] if isinstance(entry, dict) else []
        path = next((path for path in paths if isinstance(path, str) and _stem(path)), None)
        if path is None:
            got = json.dumps(entry, ensure_ascii=False)[: layout.LINE_SHOWN]
            raise ValueError(f"{SETTING}: expected an object with a path in 'wav' or 'audio', got '{got}' at {place}")
        yield _stem(path), place


def _entries(root: str, file: str) -> Iterator[tuple[str, Any]]:
    """Yield the place and content of each entry of a list, one in a line or all in an object."""
    path = storage.below(root, file)
    text = storage.read_bytes(root, file).decode("utf-8-sig", errors="replace")
    if file.lower().endswith(".json"):
        entries = _parsed(text, path, 1)
        if not isinstance(entries, dict):
            raise ValueError(f"{SETTING}: expected a JSON object of the files in {path}, got {type(entries).__name__}")
        yield from ((f"{path}, '{key}'", entry) for key, entry in entries.items())
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line, path, number)


def _parsed(text: str, path: str, first: int) -> Any:
    """The JSON in a text that begins at a line of a file. Raises ValueError with the line that is damaged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        number, why = getattr(error, "lineno", 1), getattr(error, "msg", str(error))
        line = text.split("\n")[number - 1].strip()[: layout.LINE_SHOWN]
        raise ValueError(f"{SETTING}: expected JSON, got '{line}' ({why}) at {path}:{first + number - 1}") from None


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0]


def _check_same(corpus: Corpus, list_of: dict[str, tuple[str, str]], root: str) -> None:
    """Raise ValueError unless the lists have the recordings of the corpus and no others."""
    unlisted = {_stem(clip.id): clip.id for clip in corpus.clips if _stem(clip.id) not in list_of}
    known = {_stem(clip.id) for clip in corpus.clips}
    if unknown := [stem for stem in list_of if stem not in known]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"{SETTING}: expected files that are in {corpus.root}, got '{unknown[0]}' at {list_of[unknown[0]][1]}{more}"
            f"{did_you_mean(unknown[0], unlisted)}"
        )
    if unlisted:
        raise ValueError(
            f"{SETTING}: expected every recording in a list below {root}, got none with "
            f"{layout.first_names(list(unlisted.values()))}"
        )
