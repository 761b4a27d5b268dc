"""Small trees in the published layouts of corpora, with recordings of no bytes unless others are given."""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SONG_LEVEL = "annotations/annotations averaged per song/song_level"
FIRST = f"{SONG_LEVEL}/static_annotations_averaged_songs_1_2000.csv"
SECOND = f"{SONG_LEVEL}/static_annotations_averaged_songs_2000_2058.csv"
Labels = Mapping[int, tuple[float | str, float | str]]  # valence and arousal by song


def write_tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def write_deam(root: Path, first: Labels, second: Labels, audio: Iterable[str] | Mapping[str, bytes]) -> Path:
    """DEAM's two tables as published, spaces in their headers and all, and the named files of MEMD_audio."""
    head = "song_id, valence_mean, valence_std, arousal_mean, arousal_std\n"
    lines = [f"{song},{valence},0.94,{arousal},0.63\n" for song, (valence, arousal) in first.items()]
    more_head = (
        "song_id, valence_mean, valence_std, valence_ max_mean, valence_max_std, valence_min_mean, valence_min_std, "
        "arousal_mean, arousal_std, arousal_max_mean, arousal_max_std, arousal_min_mean, arousal_min_std\n"
    )
    more = [f"{song},{v},0.98,5.0,1.41,2.2,0.98,{a},0.8,8.6,0.49,3.4,1.02\n" for song, (v, a) in second.items()]
    files = {FIRST: head + "".join(lines), SECOND: more_head + "".join(more)}
    return write_tree(root, files | {f"MEMD_audio/{name}": content for name, content in _contents(audio).items()})


def write_deam_archives(root: Path, *content: Any) -> Path:
    """Each archive in a folder of its name, with `_` in place of spaces."""
    write_deam(root, *content)
    (root / SONG_LEVEL).parent.rename(root / "annotations" / "annotations_averaged_per_song")
    for name, top in (("MEMD_audio", "DEAM_audio"), ("annotations", "DEAM_Annotations")):
        (root / top).mkdir()
        (root / name).rename(root / top / name)
    return root


# Artist by song, with an artist in two tables, a title with a hyphen that was split, one with a comma, and one song
# without artist.
DEAM_ARTISTS = {
    2: "Kevin MacLeod",
    3: "Kevin MacLeod-Night on the Docks",
    10: "The  Shut-Ins",
    1001: "Kevin MacLeod",
    1002: "",
    2001: "No, Really",
}
DEAM_GROUPS = {
    2: "Kevin MacLeod",
    3: "Kevin MacLeod",
    10: "The Shut-Ins",
    1001: "Kevin MacLeod",
    1002: "song 1002",
    2001: "No",
}


def write_deam_metadata(root: Path, artists: Mapping[int, str]) -> Path:
    """DEAM's three tables of metadata as published: tabs within quotes, labels without end, commas within titles."""
    lines = {
        2013: "song_id,file_name,Artist,Song title,start of the segment (min.sec),end of the segment (min.sec),Genre\n",
        2014: "Id,Artist,Album,Track,Genre,segment start,segment end,last.fm labels\n",
        2015: "id,Filename,title,artist,album,genre,\n",
    }
    for song, artist in artists.items():
        if song <= 1000:
            lines[2013] += f'{song},"\t{song}.mp3","{artist}\t","\tTitle\t","\t0.48\t","\t1.33\t","\tBlues\t"\n'
        elif song <= 2000:
            lines[2014] += f"{song},{artist},Baby, Please,Title,SoulRB-Blues,12.03426304,161.3986168,rock,indie,,,\n"
        else:
            lines[2015] += f"{song},80504,Hello, Goodbye,{artist},n/a,folk,vocal,male,,\n"
    return write_tree(root, {f"metadata/metadata_{year}.csv": text for year, text in lines.items()})


def write_pmemo(root: Path, labels: Labels, artists: Mapping[int, str], audio: Iterable[str]) -> Path:
    """PMEmo's annotations and metadata as published, and the named files of chorus."""
    annotations = [f"{song},{arousal},{valence}\n" for song, (valence, arousal) in labels.items()]
    metadata = [
        f'{song},{song}.mp3,"Title, {song}",{artist},Album,30.0,00:00,00:30\n' for song, artist in artists.items()
    ]
    files = {
        "annotations/static_annotations.csv": "musicId,Arousal(mean),Valence(mean)\n" + "".join(annotations),
        "metadata.csv": "musicId,fileName,title,artist,album,duration,chorus_start_time,chorus_end_time\n"
        + "".join(metadata),
    }
    return write_tree(root, files | {f"chorus/{name}": content for name, content in _contents(audio).items()})


def write_pmemo_2018(root: Path, labels: Labels, artists: Mapping[int, str], audio: Iterable[str]) -> Path:
    """PMEmo as it was published in 2018."""
    write_pmemo(root, labels, artists, audio)
    (root / "annotations" / "static_annotations.csv").unlink()
    (root / "annotations").rmdir()
    (root / "chorus").rename(root / "Chorus")
    arousal, valence = ("".join(f"{song},{both[index]},0.1\n" for song, both in labels.items()) for index in (1, 0))
    return write_tree(
        root,
        {
            "A_static.csv": f"musicId,mean_A,std_A\n{arousal}",
            "V_static.csv": f"musicId,mean_V,std_V\n{valence}",
            "Annotations/Arousal/1-A.csv": "",
            "Annotations/Valence/1-V.csv": "",
        },
    )


def _contents(audio: Iterable[str] | Mapping[str, bytes]) -> dict[str, str | bytes]:
    return dict(audio) if isinstance(audio, Mapping) else dict.fromkeys(audio, b"")


RAVDESS_NAMES = [
    f"Actor_{actor:02d}/03-01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, 25) for emotion in range(1, 9)
]
EMODB_NAMES = [
    f"{speaker}a01{emotion}a"
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
    for emotion in "AEFLNTW"
]
CREMAD_NAMES = [
    f"{actor}_DFA_{emotion}_XX" for actor in range(1001, 1092) for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
]


def write_ravdess(root: Path, names: Iterable[str] = RAVDESS_NAMES, top: str = "") -> Path:
    return write_tree(root, {f"{top}{name}.wav": b"" for name in names})


EMODB_CLASSES = {"A": "anxiety", "E": "disgust", "F": "happiness", "L": "boredom", "N": "neutral", "T": "sadness"}


def write_emodb(root: Path, names: Iterable[str] = EMODB_NAMES, top: str = "wav/", classes: bool = False) -> Path:
    """EmoDB's recordings, if wanted in a folder for each class."""
    folders = {name: f"{top}{EMODB_CLASSES.get(name[5:6], 'anger')}/" if classes else top for name in names}
    return write_tree(
        root, {f"{folder}{name}.wav": b"" for name, folder in folders.items()} | {"labsilb/03a01Fa.lablaut": b""}
    )


def write_cremad(root: Path, names: Iterable[str] = CREMAD_NAMES, top: str = "AudioWAV/", suffix: str = "wav") -> Path:
    return write_tree(root, {f"{top}{name}.{suffix}": b"" for name in names} | {"README.md": b""})


def emodb_lists(names: Iterable[str] = EMODB_NAMES) -> dict[str, dict[str, list[str]]]:
    """The test lists of five folds, in which each speaker and each emotion is."""
    of_fold: dict[str, list[str]] = {str(fold): [] for fold in range(1, 6)}
    speakers = list(dict.fromkeys(name[:2] for name in names))
    for name in names:
        of_fold[str(1 + (speakers.index(name[:2]) + "AEFLNTW".index(name[5])) % 5)].append(name)
    return {fold: {"test": tested} for fold, tested in of_fold.items()}


def cremad_lists(names: Iterable[str] = CREMAD_NAMES) -> dict[str, dict[str, list[str]]]:
    """One fold, which tests one clip of each actor, in all emotions."""
    emotions = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    tested = [name for name in names if emotions[int(name[:4]) % 6] in name]
    return {"1": {"train": [name for name in names if name not in tested], "test": tested}}


def write_emobox(
    root: Path,
    corpus: str,
    lists: Mapping[str, Mapping[str, Iterable[str]]],
    suffix: str = "jsonl",
    column: str = "wav",
) -> Path:
    """EmoBox's lists of a corpus, by fold and part, in `root`."""
    files = {}
    for fold, parts in lists.items():
        for part, names in parts.items():
            entries = {f"{corpus}-{name}": {column: f"downloads/{corpus}/{name}.wav", "emo": "?"} for name in names}
            lines = "".join(json.dumps({"key": key, **entry}) + "\n" for key, entry in entries.items())
            text = lines if suffix == "jsonl" else json.dumps(entries, indent=4)
            files[f"fold_{fold}/{corpus}_{part}_fold_{fold}.{suffix}"] = text
    return write_tree(root, files)


def iemocap_ratings() -> dict[str, str]:
    """Emotion by utterance: in each session an improvised and a scripted dialogue, in which both speak."""
    codes = iter(["neu", "hap", "sad", "ang", "exc", "fru", "fea", "sur", "dis", "oth", "xxx"] * 10)
    return {
        f"Ses0{session}{dialog}_{letter}{number:03d}": next(codes)
        for session in range(1, 6)
        for dialog in ("F_impro01", "M_script01_1b")
        for letter in "FM"
        for number in range(4)
    }


def write_iemocap(root: Path, ratings: Mapping[str, str], missing: Iterable[str] = (), top: str = "") -> Path:
    """IEMOCAP's recordings and tables of ratings as published, what macOS adds to the archive and all."""
    tables: dict[str, list[str]] = {}
    files: dict[str, str | bytes] = {}
    for name, code in ratings.items():
        session, dialog = f"{top}Session{name[4]}", name.rpartition("_")[0]
        table = f"{session}/dialog/EmoEvaluation/{dialog}.txt"
        head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        tables.setdefault(table, [head]).append(
            f"[6.2901 - 8.2357]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]\n"
            "C-E2:\tNeutral;\t()\nC-F1:\tNeutral; Sadness;\t(caf\u00e9)\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
        )
        files[table.replace(dialog, f"._{dialog}")] = b"\x00\x05\x16\x07\n[\x00"
        files[f"{session}/dialog/EmoEvaluation/Categorical/{dialog}_cat.txt"] = f"{name} :Neutral; ()\n"
        files[f"{session}/sentences/wav/{dialog}/._{name}.wav"] = b""
        if name not in missing:
            files[f"{session}/sentences/wav/{dialog}/{name}.wav"] = b""
    lines = {table: "".join(parts).encode("latin-1") for table, parts in tables.items()}
    return write_tree(root, files | lines)


MERGE_SPLIT = {  # part -> songs
    "train": ["A001", "A002", "A003", "A004", "A005"],
    "validate": ["A101"],
    "test": ["A102", "MT01"],
}
# Recording -> lyrics, quadrant, artist, arousal, valence.
MergeSongs = Mapping[str, tuple[str, str, str, float | str, float | str]]


def write_merge(
    root: Path,
    songs: MergeSongs,
    missing: Iterable[str] = (),
    splits: Mapping[str, Mapping[str, Iterable[str]]] | None = None,
    edition: str = "complete",
) -> Path:
    """MERGE Bimodal's tables as published, and the recordings and lyrics but those whose paths are `missing`."""
    prefix = f"merge_bimodal_{edition}"
    metadata = [
        f'{song},{lyric},{quadrant},MT{number},"{artist}","Title, {number}",3,2001\n'
        for number, (song, (lyric, quadrant, artist, _, _)) in enumerate(songs.items())
    ]
    # In another order than the metadata.
    values = [f"{song},{lyric},{arousal},{valence}\n" for song, (lyric, _, _, arousal, valence) in songs.items()][::-1]
    files: dict[str, str | bytes] = {
        f"{prefix}_metadata.csv": "Audio_Song,Lyric_Song,Quadrant,AllMusic Id,Artist,Title,Relevance,Year\n"
        + "".join(metadata),
        f"{prefix}_av_values.csv": "Audio_Song,Lyric_Song,Arousal,Valence\n" + "".join(values),
    }
    for split, parts in (splits or {"70_15_15": MERGE_SPLIT, "40_30_30": MERGE_SPLIT}).items():
        for part, members in parts.items():
            lines = [f"{song},{songs[song][1] if song in songs else 'Q1'}\n" for song in members]
            name = f"tvt_dataframes/tvt_{split}/tvt_{split}_{part}_bimodal_{edition}.csv"
            files[name] = "Song,Quadrant\n" + "".join(lines)
    for song, (lyric, quadrant, *_) in songs.items():
        files |= {f"audio/{quadrant}/{song}.mp3": b"", f"lyrics/{quadrant}/{lyric}.txt": f"la la {song}\n"}
    return write_tree(root, {name: content for name, content in files.items() if name not in set(missing)})


def write_merge_audio(root: Path, songs: MergeSongs, part: str = "audio", **options: Any) -> Path:
    """MERGE Audio, or with `part` MERGE Lyrics: as MERGE Bimodal, with one id and quadrants at the top."""
    write_merge(root, songs, **options)
    other = {"audio": "lyrics", "lyrics": "audio"}[part]
    for quadrant in sorted(path.name for path in (root / part).iterdir()):
        (root / part / quadrant).rename(root / quadrant)
    shutil.rmtree(root / part)
    shutil.rmtree(root / other)
    column = {"audio": 0, "lyrics": 1}[part]  # of both ids
    for table in root.glob("*.csv"):
        rows = list(csv.reader(io.StringIO(table.read_text())))
        rows = [["Song" if number == 0 else row[column], *row[2:]] for number, row in enumerate(rows)]
        with open(table, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    for table in root.rglob("*bimodal*.csv"):
        table.rename(table.with_name(table.name.replace("bimodal", part)))
    return root
