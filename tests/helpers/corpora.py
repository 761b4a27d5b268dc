"""A small whole tree of every corpus that has a layout, for what all of them have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers import layout
from tuning.datasets.corpus import Corpus, load_classes, load_corpus
from tuning.datasets.settings import CORPUS_DEFAULTS, DataSettings

TARGETS = ("valence", "arousal")


@dataclass(frozen=True)
class Case:
    """How a corpus is written, and what of it can be missing or damaged."""

    write: Callable[[Path], Path]
    part: str  # a folder or file of the layout, relative to the root; empty: folders may have any name
    damage: Callable[[Path], object]  # makes one label or name wrong
    wrong: str  # what the message says then, as a regular expression
    num_clips: int
    num_groups: int  # different groups; 0: the corpus names none
    classes: tuple[str, ...] = ()  # those of the clips that are written; empty: the labels are numbers
    settings: Mapping[str, Any] = field(default_factory=dict)
    named_folds: bool = False  # whether it has folds or splits by name
    known: tuple[str, ...] = ()  # what the message about a wrong root names besides `part`
    layouts: Mapping[str, Callable[[Path], Path]] = field(default_factory=dict)  # of the same clips, by a name each


def load(name: str, root: str | Path | None, targets: tuple[str, ...] = TARGETS, **changed: Any) -> Corpus:
    """The corpus as a search with its defaults reads it."""
    brought = {
        path.removeprefix("data."): value
        for path, value in CORPUS_DEFAULTS.get(name, {}).items()
        if path.startswith("data.")
    }
    given = brought | dict(CASES[name].settings) | changed
    data = DataSettings(corpus=name, root=None if root is None else str(root), **given)
    if CASES[name].classes:
        return load_classes(data, None, {}, drop_others=False)
    return load_corpus(data, list(targets))


def in_lower_case(root: Path) -> Path:
    """Rename all folders below the root."""
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):  # inner ones first
        folder.rename(folder.with_name(folder.name.lower()))
    return root


def replaced(root: Path, name: str, old: str, new: str) -> None:
    file = root / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


SONGS = {number: (1 + number % 8, 1 + (3 * number) % 8) for number in (2, 3, 10, 14, 15, 16)}
SHARES = {song: (valence / 10, arousal / 10) for song, (valence, arousal) in SONGS.items()}
ARTISTS = {song: f"artist {song % 4}" for song in SONGS}
MERGE_SONGS = {
    f"A{number:03d}": (f"L{number:03d}", f"Q{1 + number % 4}", f"artist {number}", number / 10, 1 - number / 10)
    for number in range(1, 9)
}
MERGE_PARTS = {"train": ["A001", "A002", "A003", "A004"], "validate": ["A005", "A006"], "test": ["A007", "A008"]}
MERGE_SPLITS = {"70_15_15": MERGE_PARTS, "40_30_30": MERGE_PARTS}
DEAM = (SONGS, {2001: (3.2, 6.6)}, [f"{song}.mp3" for song in (*SONGS, 2001)])
PMEMO = (SHARES, ARTISTS, [f"{song}.mp3" for song in SHARES])
ROWS = "".join(f"{n}.wav,{n / 10},{-n / 10},artist {n % 3}\n" for n in range(9))

CASES: dict[str, Case] = {
    "cremad": Case(
        layout.write_cremad, "AudioWAV", lambda root: (root / "AudioWAV/1001_DFA_HPA_XX.wav").touch(),
        "'HPA' in .*1001_DFA_HPA_XX.wav; did you mean 'HAP'", 546, 91,
        ("angry", "disgust", "fearful", "happy", "neutral", "sad"), named_folds=True,
        known=("AudioMP3", "without such a folder"),
        layouts={
            "AudioMP3": lambda root: layout.write_cremad(root, top="AudioMP3/", suffix="mp3"),
            "the folder itself": lambda root: layout.write_cremad(root, top=""),
        },
    ),
    "deam": Case(
        lambda root: layout.write_deam(root, *DEAM),
        layout.SECOND, lambda root: replaced(root, layout.FIRST, "\n3,4,", "\n3,9.2,"),
        r"data.target_range: expected 1 to 9 in column 'valence_mean', got 9.2 at .*songs_1_2000.csv:3$", 7, 0,
        known=("MEMD_audio", "DEAM_audio/MEMD_audio"),
        layouts={"archives in folders of their names": lambda root: layout.write_deam_archives(root, *DEAM)},
    ),
    "emodb": Case(
        layout.write_emodb, "", lambda root: (root / "wav/03a01Xa.wav").touch(), "got 'X' in .*03a01Xa", 70, 10,
        ("angry", "bored", "disgust", "fearful", "happy", "neutral", "sad"), named_folds=True,
        known=("without such a folder",),
        layouts={
            "classes below wav": lambda root: layout.write_emodb(root, classes=True),
            "classes": lambda root: layout.write_emodb(root, top="", classes=True),
            "the folder itself": lambda root: layout.write_emodb(root, top=""),
        },
    ),
    "iemocap": Case(
        lambda root: layout.write_iemocap(root, layout.iemocap_ratings()), "Session3",
        lambda root: layout.write_tree(root, {"Session1/dialog/EmoEvaluation/Ses01F_impro02.txt": "[1 - 2]\tx\tneu\n"}),
        r"got '\[1 - 2\]\tx\tneu' at .*Ses01F_impro02.txt:1", 80, 10,
        ("angry", "disgust", "excited", "fearful", "frustrated", "happy", "neutral", "other", "sad", "surprised",
         "undecided"), named_folds=True,
        known=("Session1", "IEMOCAP_full_release/Session1"),
        layouts={
            "IEMOCAP_full_release":
            lambda root: layout.write_iemocap(root, layout.iemocap_ratings(), top="IEMOCAP_full_release/"),
        },
    ),
    "manifest": Case(
        lambda root: layout.write_tree(root, {"manifest.csv": f"file,valence,arousal,artist\n{ROWS}"}
                                       | {f"{n}.wav": b"" for n in range(9)}),
        "manifest.csv", lambda root: replaced(root, "manifest.csv", "3.wav,0.3", "3.wav,nan"),
        r"expected a number in column 'valence', got 'nan' at .*manifest.csv:5", 9, 3,
        settings={"group_column": "artist"}, known=("manifest.csv",),
    ),
    "merge": Case(
        lambda root: layout.write_merge(root, MERGE_SONGS, splits=MERGE_SPLITS),
        "lyrics", lambda root: replaced(root, "merge_bimodal_complete_metadata.csv", ",Q2,", ",Q5,"),
        r"a quadrant, one of Q1, Q2, Q3, Q4, got 'Q5' in .*metadata.csv:2", 8, 8,
        settings={"group_column": "Artist"}, named_folds=True,
        known=("merge_bimodal_complete_metadata.csv", "merge_bimodal_balanced_metadata.csv",
               "merge_audio_complete_metadata.csv", "merge_audio_balanced_metadata.csv"),
        layouts={
            "Bimodal_Balanced":
            lambda root: layout.write_merge(root, MERGE_SONGS, splits=MERGE_SPLITS, edition="balanced"),
            "Audio_Complete": lambda root: layout.write_merge_audio(root, MERGE_SONGS, splits=MERGE_SPLITS),
            "Audio_Balanced":
            lambda root: layout.write_merge_audio(root, MERGE_SONGS, splits=MERGE_SPLITS, edition="balanced"),
        },
    ),
    "pmemo": Case(
        lambda root: layout.write_pmemo(root, *PMEMO), "chorus",
        lambda root: replaced(root, "annotations/static_annotations.csv", "\n3,", "\n3,7"),
        r"data.target_range: expected 0 to 1 in column 'Arousal\(mean\)', got 70.* at .*static_annotations.csv:3$",
        6, 3, known=("chorus",), layouts={"2018": lambda root: layout.write_pmemo_2018(root, *PMEMO)},
    ),
    "ravdess": Case(
        layout.write_ravdess, "Actor_01", lambda root: (root / "Actor_01/03-01-09-01-01-01-01.wav").touch(),
        "got '09' in .*-09-01-.*wav", 192, 24,
        ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"), named_folds=True,
        known=("Actor_01", "Audio_Speech_Actors_01-24/Actor_01"),
        layouts={
            "Audio_Speech_Actors_01-24": lambda root: layout.write_ravdess(root, top="Audio_Speech_Actors_01-24/"),
            "in lower case": lambda root: layout.write_ravdess(root, top="audio_speech_actors_01-24/"),
            "all in lower case":
            lambda root: in_lower_case(layout.write_ravdess(root, top="Audio_Speech_Actors_01-24/")),
            "twice": lambda root: layout.write_ravdess(layout.write_ravdess(root), top="audio_speech_actors_01-24/"),
        },
    ),
}  # fmt: skip
