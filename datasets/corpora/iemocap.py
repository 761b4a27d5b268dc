"""IEMOCAP: ten actors in five dialogue sessions of two, 10,039 utterances rated by listeners.

Busso et al. (2008), "IEMOCAP: interactive emotional dyadic motion capture database", Language Resources and
Evaluation 42(4). Layout, also below IEMOCAP_full_release/, as the archive is called:

    Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
    Session1/dialog/EmoEvaluation/Ses01F_impro01.txt        [6.2901 - 8.2357]<tab>Ses01F_impro01_F000<tab>neu<tab>[...]
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace

from tuning.datasets import storage
from tuning.datasets.corpora import labels as emotions
from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

SESSIONS = ("1", "2", "3", "4", "5")
SPEAKERS = [f"Ses0{session}{letter}" for session in SESSIONS for letter in "FM"]
FOLDS = {"sessions": {speaker: speaker[4] for speaker in SPEAKERS}}
TOPS = ("", "IEMOCAP_full_release/")
SUMMARY = re.compile(r"\[\s*[\d.]+\s*-\s*[\d.]+\s*\]\s+(?P<name>\S+)\s+(?P<emotion>\S+)\s+\[[^\]]*\]")
LABELS = {
    "ang": "angry",
    "dis": "disgust",
    "exc": "excited",
    "fea": "fearful",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "oth": "other",
    "sad": "sad",
    "sur": "surprised",
    "xxx": "undecided",
}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the utterances in the order of the tables, with emotion, the speaker as group and the fold of `data.folds`.

    An utterance without recording is listed with its expected path, and preparation quarantines it; a recording without
    label is left out, with a note. Raises ValueError naming the setting at fault: a missing session or speaker, an
    unknown emotion, an utterance of another session or listed twice.
    """
    layout.refuse_settings(
        data, "text_column", "label_column", "group_column", "fold_column", "fold_lists", "split_column"
    )
    folds = emotions.folds_of_speakers(data, SPEAKERS, FOLDS)
    root = layout.check_root(data)
    top = posixpath.dirname(layout.find(root, *(f"{top}Session1" for top in TOPS)))
    clips: dict[str, Clip] = {}
    places: dict[str, str] = {}
    recordings: dict[str, str] = {}
    for session in SESSIONS:
        folder = layout.find(root, posixpath.join(top, f"Session{session}", "sentences", "wav"))
        recordings |= (found := _recordings(root, folder))
        tables = layout.find(root, posixpath.join(top, f"Session{session}", "dialog", "EmoEvaluation"))
        for name, label, place in _labels(root, tables):
            if name in places:
                raise ValueError(f"data.root: utterance '{name}' is listed twice, at {places[name]} and {place}")
            places[name] = place
            clip = _clip(name, label, session, place, found, folder)
            clips[name] = replace(clip, fold=folds[str(clip.group)])
    emotions.check_speakers((str(clip.group) for clip in clips.values()), SPEAKERS, root)
    notes = layout.note_unlabelled(recordings, clips, posixpath.join(top, "Session*/sentences/wav"))
    return Corpus(data.corpus, root, list(clips.values()), notes)


def _recordings(root: str, folder: str) -> dict[str, str]:
    """Paths of a session's recordings by utterance."""
    found: dict[str, str] = {}
    for dialog, is_folder in sorted(storage.list_folder(root, folder).items()):
        if is_folder:
            found |= layout.audio_files(root, posixpath.join(folder, dialog))
    if not found:
        raise ValueError(f"data.root: expected recordings <dialog>/<utterance>.wav in {storage.below(root, folder)}")
    return found


def _labels(root: str, folder: str) -> Iterator[tuple[str, str, str]]:
    """Yield utterance, emotion and place of each summary line in a session's tables."""
    for table in sorted(name for name, is_folder in storage.list_folder(root, folder).items() if not is_folder):
        if not table.lower().endswith(".txt") or table.startswith("."):  # macOS adds files such as ._Ses01F_impro01.txt
            continue
        raw = storage.read_bytes(root, posixpath.join(folder, table))
        for number, line in enumerate(raw.decode("utf-8", errors="replace").splitlines(), start=1):
            if not re.match(r"\s*\[\s*\d[\d.]*\s*-", line):  # header, single ratings, comments, nothing
                continue
            place = f"{storage.below(root, folder, table)}:{number}"
            if not (parts := SUMMARY.fullmatch(line.strip())):
                raise ValueError(
                    f"data.root: expected '[start - end] utterance emotion [valence, activation, dominance]', "
                    f"got '{line.strip()}' at {place}"
                )
            yield parts["name"], emotions.decode(LABELS, parts["emotion"], "the emotion", place), place


def _clip(name: str, label: str, session: str, place: str, found: dict[str, str], folder: str) -> Clip:
    """The clip of an utterance of this session."""
    # F or M in the dialogue is who wore the motion-capture markers, in the utterance who speaks.
    parts = re.fullmatch(rf"((Ses0{session})[FM]_\w+)_([FM])\d+", name)
    if not parts:
        raise ValueError(
            f"data.root: expected an utterance such as Ses0{session}F_impro01_F000, got '{name}' at {place}"
        )
    dialog, prefix, letter = parts.groups()
    path = found.get(name, posixpath.join(folder, dialog, f"{name}.wav"))
    return Clip(path, group=prefix + letter, label=label)
