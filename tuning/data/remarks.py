"""Say what is suspicious about a corpus before anything is prepared. Imports nothing heavy.

Names that look alike, classes that are tied to speakers, and recordings that are not there or can't be read. Each is
told with its remedy; a corpus may be meant as it is.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.datasets import is_demo, storage
from tuning.datasets.corpora.layout import as_written, first_names
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features.containers import unread_format
from tuning.datasets.settings import DataSettings

SHOWN = 3  # sets of names that look alike, and speakers, in a remark
# Of a speaker with fewer clips, one class may be chance.
FEW_CLIPS = 5
# Goodman and Kruskal's lambda from which classes count as tied to speakers.
TIED = 0.8
# Share of the clips that are by such speakers, from which that is said.
MOST = 0.5
# Formats that libsndfile does not read.
UNREAD = (".3gp", ".aac", ".amr", ".m4a", ".mkv", ".mp4", ".webm", ".wma")
POINTER, POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024


def remarks(corpus: Corpus) -> list[str]:
    """What to know of the names and classes of a corpus, a sentence each; empty if there is nothing."""
    clips, found = corpus.clips, []
    group_of = Counter(clip.group for clip in clips if clip.group is not None)
    if alike := look_alikes(group_of):
        found.append(
            f"speakers or artists that look alike count as different ones: {_sets(alike, group_of)}; if they are one, "
            "write one name, or clips of one speaker may be in two splits"
        )
    classes = Counter(clip.label for clip in clips if clip.label is not None)
    if alike := look_alikes(classes):
        merge = ", ".join(f"{other}: {first}" for first, *others in alike for other in others)
        found.append(
            f"classes that look alike count as different ones: {_sets(alike, classes)}; if they are one: "
            f"task.merge_classes='{{{merge}}}'"
        )
    folds = Counter(clip.fold for clip in clips if clip.fold is not None)
    if folds != group_of and (alike := look_alikes(folds)):
        found.append(f"folds that look alike count as different ones: {_sets(alike, folds)}")
    return found + _of_classes([clip for clip in clips if clip.label is not None and clip.group is not None])


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """The sets of names that differ only in case, spaces, leading zeros or in how Unicode writes a letter."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        alike[_key(name)].append(name)
    return [found for found in alike.values() if len(found) > 1]


def _key(name: str) -> str:
    """What names that look alike have in common."""
    seen = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")  # marks without width
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    joined = re.sub(r"(?<!\d)[\s_]+|[\s_]+(?!\d)", "", folded)  # but s1_12 is not s11_2
    return re.sub(r"(?<![\d.,])0+(?=\d)", "", re.sub(r"\.0+$", "", joined))


def _sets(alike: list[list[str]], counts: Mapping[str, int]) -> str:
    shown = []
    for number, names in enumerate(alike[:SHOWN]):
        first = counted(counts[names[0]], "clip") if number == 0 else str(counts[names[0]])
        shown.append(", ".join([f"'{names[0]}' ({first})", *(f"'{name}' ({counts[name]})" for name in names[1:])]))
    more = [f"and {len(alike) - SHOWN} more"] if len(alike) > SHOWN else []
    return "; ".join([*shown, *more])


def _of_classes(clips: list[Clip]) -> list[str]:
    """Remarks on classes that a model might tell by the voice of a speaker, not by the emotion."""
    by_group: dict[str, Counter[str]] = defaultdict(Counter)
    by_class: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        by_group[str(clip.group)][str(clip.label)] += 1
        by_class[str(clip.label)][str(clip.group)] += 1
    known = {group: counts for group, counts in by_group.items() if counts.total() >= FEW_CLIPS}
    if len(by_class) < 2 or len(known) < 2:
        return []
    found = []
    # Of a few prolific speakers among many nothing is said about the corpus.
    covered = sum(counts.total() for counts in known.values()) / len(clips)
    tied, share = _tied(list(known.values())) if covered >= MOST else (0.0, 0.0)
    if tied >= TIED:
        found.append(
            f"the speaker or artist tells the class of {100 * share:.0f} % of the clips (Goodman and Kruskal's lambda "
            f"{tied:.2f}): a model can learn voices in place of classes, and a split that keeps speakers apart can't "
            "show which"
        )
    elif single := [group for group, counts in known.items() if len(counts) == 1]:
        names = first_names([f"'{group}' ({next(iter(known[group]))})" for group in single])
        has = "has" if len(single) == 1 else "have"
        found.append(f"{len(single)} of {len(by_group)} speakers or artists {has} clips of one class only: {names}")
    for name, counts in by_class.items() if tied < TIED and len(by_group) > 2 else ():
        group, most = counts.most_common(1)[0]
        if counts.total() >= FEW_CLIPS and most > counts.total() / 2:
            found.append(
                f"'{group}' has {most} of the {counts.total()} clips of {name}: what is learned and measured of it is "
                "mostly that one speaker or artist"
            )
    return found


def _tied(tables: list[Counter[str]]) -> tuple[float, float]:
    """Goodman and Kruskal's lambda (1954) of classes by speaker, and the share of clips that the speaker tells.

    Lambda is the part of the errors of always guessing the largest class that guessing by speaker avoids.
    """
    total = sum(counts.total() for counts in tables)
    largest = max(sum(tables, Counter()).values())
    told = sum(max(counts.values()) for counts in tables)
    return (told - largest) / (total - largest) if largest < total else 0.0, told / total


def with_file_remarks(corpus: Corpus, data: DataSettings) -> Corpus:
    """The corpus with notes on its files, where so many recordings may be left out.

    Those of a demo corpus were just written, and those in a bucket are asked for one by one in the preparation.

    Raises:
        UserError: more than `data.max_quarantined_share` of the recordings are not there or can't be read.
    """
    if is_demo(data.corpus) or storage.is_uri(corpus.root):
        return corpus
    found = _faults(corpus)
    told, unusable = _told(corpus, found), {clip for clips in found.values() for clip in clips}
    if len(unusable) > data.max_quarantined_share * len(corpus.clips):
        allowed = f"data.max_quarantined_share allows {data.max_quarantined_share:.1%} of them"
        raise UserError(f"data.root: {'; '.join(told)}; {allowed}")
    return replace(corpus, notes=[*corpus.notes, *told])


def file_remarks(corpus: Corpus) -> list[str]:
    """What is wrong with the files of recordings as far as names and sizes tell, with the remedy, a sentence each."""
    return _told(corpus, _faults(corpus))


def _told(corpus: Corpus, found: Mapping[str, list[str]]) -> list[str]:
    told = []
    for what, clips in found.items():
        if clips:
            is_or_are = "is" if len(clips) == 1 else "are"
            of = f"{len(clips)} of {counted(len(corpus.clips), 'recording')} {is_or_are}"
            told.append(f"{of} {what}: {first_names(clips)}{_remedy(corpus.root, what, clips)}")
    return told


ABSENT, POINTERS, FORMAT = "not in {root}", "a pointer of Git LFS, not the sound", "in a format that can't be read"


def _faults(corpus: Corpus) -> dict[str, list[str]]:
    """Clips by what is wrong with their file."""
    names, root = [clip.id for clip in corpus.clips], corpus.root
    stats = storage.stat_files(root, names)
    small = [name for name, stat in stats.items() if len(POINTER) <= stat.size <= POINTER_BYTES]
    pointers = [name for name in small if storage.read_bytes(root, name).startswith(POINTER)]
    formats = [name for name in stats if name.lower().endswith(UNREAD) and unread_format(_head(root, name))]
    endings = ", ".join(sorted({posixpath.splitext(name)[1].lower() for name in formats}))
    return {
        ABSENT.format(root=root): [name for name in names if name not in stats],
        POINTERS: pointers,
        f"{FORMAT} ({endings})": formats,
    }


def _head(root: str, name: str) -> bytes:
    with Path(root, name).open("rb") as file:
        return file.read(32)


def _remedy(root: str, what: str, clips: list[str]) -> str:
    first = clips[0]
    if what == POINTERS:
        return "; `git lfs pull` fetches it"
    if what.startswith(FORMAT):
        return f"; convert such files, as by `ffmpeg -i {first} {posixpath.splitext(first)[0]}.flac`, and list those"
    turned = [name.replace("\\", "/") for name in clips if "\\" in name]
    if there := len(storage.stat_files(root, turned)):
        it_is = "it is" if there == 1 else f"{there} of them are"
        return f"; written with / in place of \\, {it_is} there"
    written = as_written(root, first)
    return f"; did you mean '{written}'?" if written != first else ""
