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
