"""RAVDESS, speech: 24 actors say two statements in eight emotions, 1,440 clips.

Livingstone & Russo (2018), "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13(5). Layout:

    Actor_01/03-01-05-02-01-02-01.wav       also below Audio_Speech_Actors_01-24/, the archive's name

The name is modality, vocal channel, emotion, intensity, statement, repetition, actor.
"""

import posixpath
import re

from tuning.datasets import storage
from tuning.datasets.corpora import labels as emotions
from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

ACTORS = tuple(f"{actor:02d}" for actor in range(1, 25))
TOPS = ("", "Audio_Speech_Actors_01-24/")
CODES: dict[str, dict[str, str] | tuple[str, ...]] = {
    "the modality": {"03": "audio"},  # video has archives of its own
    "the vocal channel": {"01": "speech", "02": "song"},
    "the emotion": {
        "01": "neutral",
        "02": "calm",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fearful",
        "07": "disgust",
        "08": "surprised",
    },
    "the intensity": {"01": "normal", "02": "strong"},
    "the statement": {"01": "kids", "02": "dogs"},
    "the repetition": {"01": "first", "02": "second"},
    "the actor": ACTORS,
}
# Published actor-disjoint folds: the test actors of each, and validation actors if the protocol names them.
# reslstm: the five of ResLSTM-SER; emobox: the six of EmoBox (Ma et al. 2024, Interspeech), without validation actors.
FOLDS: dict[str, dict[str, tuple[int, ...]]] = {
    "reslstm": {
        "1": (2, 5, 14, 15, 16),
        "2": (3, 6, 7, 13, 18),
        "3": (10, 11, 12, 19, 20),
        "4": (8, 17, 21, 23, 24),
        "5": (1, 4, 9, 22),
    },
    "emobox": {
        "1": (1, 11, 20, 21),
        "2": (4, 10, 12, 14),
        "3": (8, 9, 19, 23),
        "4": (3, 5, 7, 24),
        "5": (2, 15, 16, 18),
        "6": (6, 13, 17, 22),
    },
}
DEV_ACTORS: dict[str, dict[str, tuple[int, ...]]] = {
    "reslstm": {"1": (3, 6), "2": (10, 11), "3": (8, 17), "4": (1, 14), "5": (2, 5)},
}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the speech clips by actor, with emotion, the actor as group and the fold of `data.folds`.

    Songs are left out, with a note. Raises ValueError naming the setting at fault: an unknown protocol, an actor
    without clips, a name that is not RAVDESS's, an actor in another's folder.
    """
    layout.refuse_settings(
        data, "text_column", "label_column", "group_column", "fold_column", "fold_lists", "split_column"
    )
    folds, dev_groups = _protocol(data)
    root = layout.check_root(data)
    top = posixpath.dirname(layout.find(root, *(f"{top}Actor_01" for top in TOPS)))
    clips: list[Clip] = []
    songs = 0
    for folder, folder_actor in _actor_folders(root, top).items():
        for stem, path in layout.audio_files(root, folder).items():
            codes = _parse(stem, storage.below(root, path))
            if codes["the vocal channel"] == "song":
                songs += 1
                continue
            actor = codes["the actor"]
            if actor != folder_actor:
                raise ValueError(
                    f"data.root: expected actor {folder_actor}, got '{actor}' in {storage.below(root, path)}"
                )
            clips.append(Clip(path, group=actor, fold=folds[actor], label=codes["the emotion"]))
    emotions.check_speakers((str(clip.group) for clip in clips), ACTORS, root)
    notes = [f"{songs} songs are left out: their names say channel 02"] if songs else []
    return Corpus(data.corpus, root, clips, notes, dev_groups=dev_groups)


def _protocol(data: DataSettings) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The fold of each actor, and the validation actors of each fold, if published."""
    published = {
        name: {f"{actor:02d}": fold for fold, actors in folds.items() for actor in actors}
        for name, folds in FOLDS.items()
    }
    dev_actors = DEV_ACTORS.get(data.folds or next(iter(FOLDS)), {})
    dev_groups = {fold: [f"{actor:02d}" for actor in actors] for fold, actors in dev_actors.items()}
    return emotions.folds_of_speakers(data, ACTORS, published), dev_groups


def _actor_folders(root: str, top: str) -> dict[str, str]:
    """The actor of each existing folder Actor_01 to Actor_24, in their order and in any case.

    Raises ValueError for another Actor_, and for two folders of one actor.
    """
    name_of: dict[str, str] = {}
    for name in sorted(name for name, is_folder in storage.list_folder(root, top).items() if is_folder):
        if not (parts := re.fullmatch(r"actor_(.*)", layout.plain(name))):
            continue
        if (actor := parts[1]) not in ACTORS:
            folder = storage.below(root, posixpath.join(top, name))
            raise ValueError(f"data.root: expected folders Actor_01 to Actor_24, got {folder}")
        if actor in name_of:
            where = layout.location(root, top)
            raise ValueError(
                f"data.root: expected one folder of actor {actor} in {where}, got {name_of[actor]} and {name}"
            )
        name_of[actor] = name
    return {posixpath.join(top, name): actor for actor, name in sorted(name_of.items())}


def _parse(stem: str, path: str) -> dict[str, str]:
    """The meanings of the seven codes in a file name, by what they encode."""
    codes = stem.split("-")
    if not re.fullmatch(r"\d\d(-\d\d){6}", stem):
        raise ValueError(f"data.root: expected a name of seven codes such as 03-01-05-02-01-02-01.wav, got {path}")
    return {
        what: emotions.decode(known, code, what, path) for (what, known), code in zip(CODES.items(), codes, strict=True)
    }
