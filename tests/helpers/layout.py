"""Small trees in the published layouts of corpora, with recordings of no bytes unless others are given."""

from collections.abc import Iterable, Mapping
from pathlib import Path

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


def write_emodb(root: Path, names: Iterable[str] = EMODB_NAMES) -> Path:
    return write_tree(root, {f"wav/{name}.wav": b"" for name in names} | {"labsilb/03a01Fa.lablaut": b""})


def write_cremad(root: Path, names: Iterable[str] = CREMAD_NAMES) -> Path:
    return write_tree(root, {f"AudioWAV/{name}.wav": b"" for name in names} | {"README.md": b""})


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
    """MERGE's tables as published, and the recordings and lyrics but those whose paths are `missing`."""
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
