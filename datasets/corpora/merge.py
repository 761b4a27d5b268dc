"""MERGE: excerpts of 30 s and lyrics of 2,216 songs, with a quadrant each, and valence and arousal, 0 to 1.

Louro, Redinho, Santos, Malheiro, Panda & Paiva (2024), "MERGE: a bimodal dataset for static music emotion
recognition", arXiv 2407.06060; Zenodo 13939205. Layout of MERGE_Bimodal_Complete, and of MERGE_Bimodal_Balanced with
`balanced` in place of `complete`:

    audio/Q1/<Audio_Song>.mp3       to Q4
    lyrics/Q1/<Lyric_Song>.txt      to Q4
    merge_bimodal_complete_metadata.csv         Audio_Song,Lyric_Song,Quadrant,AllMusic Id,...,Artist,Title,...
    merge_bimodal_complete_av_values.csv        Audio_Song,Lyric_Song,Arousal,Valence
    tvt_dataframes/tvt_70_15_15/tvt_70_15_15_train_bimodal_complete.csv         Song,Quadrant; also validate, test

`Song` in the splits is an `Audio_Song`; the default split has 1,552, 332 and 332 songs. MERGE_Audio_Complete and
MERGE_Audio_Balanced (3,554 and 3,232 excerpts) have no lyrics, quadrants at the top, and one id:

    Q1/<Song>.mp3                   to Q4
    merge_audio_complete_metadata.csv           Song,Quadrant,AllMusic Id,...,Artist,Title,...
    merge_audio_complete_av_values.csv          Song,Arousal,Valence
    tvt_dataframes/tvt_70_15_15/tvt_70_15_15_train_audio_complete.csv           Song,Quadrant; also validate, test

MERGE_Lyrics_Complete and MERGE_Lyrics_Balanced have no recordings and are refused.
"""

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuning.datasets.corpora import labels as emotions
from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus, did_you_mean
from tuning.datasets.settings import DataSettings

QUADRANTS = ("Q1", "Q2", "Q3", "Q4")
EDITIONS = ("complete", "balanced")
METADATA = [f"merge_{kind}_{edition}_metadata.csv" for kind in ("bimodal", "audio") for edition in EDITIONS]
LYRICS_ALONE = [f"merge_lyrics_{edition}_metadata.csv" for edition in EDITIONS]
SPLITS = ("70_15_15", "40_30_30")  # shares of train, val and test
PARTS = {"train": "train", "validate": "val", "test": "test"}
COLUMNS = {"valence": "Valence", "arousal": "Arousal"}
ARTIST = "Artist"
Songs = dict[str, layout.Row]  # rows by the recording's id


@dataclass(frozen=True)
class Archive:
    """One of the published archives: its name in file names, and where its parts are below the root."""

    name: str  # such as bimodal_complete
    metadata: str
    audio: str  # the folder of the recordings' quadrants, "" for the root itself
    lyrics: str | None  # the folder of the lyrics' quadrants
    song: str  # the column with the recordings' ids


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the songs in the order of the metadata, with lyrics and their part of the published split `data.folds`.

    With `targets` songs have numbers, else quadrants. A song without recording or lyrics is listed with the expected
    path, and preparation quarantines it; songs without numbers, part or metadata, and recordings without metadata, are
    left out, with a note; spellings of an artist are one group. Raises ValueError naming the setting at fault: a
    missing folder, table or column, an unknown split, an unknown quadrant, a label that is not a number or outside
    `data.target_range`, a song listed twice, and an archive of lyrics alone.
    """
    layout.refuse_settings(data, "text_column", "label_column", "fold_column", "fold_lists", "split_column")
    split = _split_name(data)
    columns = layout.target_columns(data, targets, COLUMNS) if targets else []
    root = layout.check_root(data)
    archive = _archive(root)
    lyric, quadrant = ("data.root", "Lyric_Song"), ("data.root", "Quadrant")
    wanted = [quadrant, *([lyric] if archive.lyrics else []), *layout.named_columns(data)]
    songs = _by_song(root, archive.metadata, wanted, archive.song)
    numbers = _by_song(root, f"merge_{archive.name}_av_values.csv", columns, archive.song) if columns else songs
    part_of = _parts(root, split, archive.name)
    folder_of = {
        song: emotions.decode(QUADRANTS, row["Quadrant"], "a quadrant", at) for song, (at, row) in songs.items()
    }
    stem_of = {song: f"{folder}/{song}" for song, folder in folder_of.items()}
    recordings = _recordings(root, archive.audio)
    lyrics = {name: layout.as_written(root, f"{archive.lyrics}/{name}") for name in QUADRANTS if archive.lyrics}
    clips = [
        Clip(
            id=recordings.get(stem_of[song], posixpath.join(archive.audio, f"{stem_of[song]}.mp3")),
            targets=_targets(numbers[song], columns, data),
            group=_group(song, row, data),
            split=part_of[song],
            label=None if targets else folder_of[song],
            text=f"{lyrics[folder_of[song]]}/{layout.text_cell(row, *lyric, at)}.txt" if lyrics else None,
        )
        for song, (at, row) in songs.items()
        if song in numbers and song in part_of
    ]
    if not clips:
        raise ValueError(
            f"data.root: none of the {len(songs)} songs in {archive.metadata} has numbers and a part of {split}"
        )
    notes = [
        *_left_out([song for song in songs if song not in numbers], "have no valence and arousal"),
        *_left_out([song for song in songs if song not in part_of], f"are in no part of the published split {split}"),
        *_without_metadata({song: part for song, part in part_of.items() if song not in songs}, split),
        *layout.note_unlabelled(recordings, stem_of.values(), archive.audio or root),
        *_artist_notes(
            [songs[song][1] | {"part": part} for song, part in part_of.items() if song in songs], split, data
        ),
    ]
    return Corpus(data.corpus, root, layout.unify_groups(clips), notes)


def _archive(root: str) -> Archive:
    """The archive that was unpacked into the root. Raises ValueError for none, and for one without recordings."""
    if layout.has(root, *LYRICS_ALONE) and not layout.has(root, *METADATA):
        raise ValueError(
            f"data.root: expected an archive of MERGE with recordings, MERGE_Bimodal_* or MERGE_Audio_*, got lyrics "
            f"alone in {root}"
        )
    metadata = layout.find(root, *METADATA)
    _, kind, edition, _ = metadata.lower().split("_")
    if kind == "audio":
        return Archive(f"audio_{edition}", metadata, "", None, "Song")
    audio, lyrics = layout.find(root, "audio"), layout.find(root, "lyrics")
    return Archive(f"bimodal_{edition}", metadata, audio, lyrics, "Audio_Song")


def _split_name(data: DataSettings) -> str:
    name = data.folds or SPLITS[0]
    if name not in SPLITS:
        raise ValueError(f"data.folds: expected one of {', '.join(SPLITS)}, got '{name}'{did_you_mean(name, SPLITS)}")
    return name


def _by_song(root: str, name: str, columns: Sequence[tuple[str, str]], key: str) -> Songs:
    """Rows of a table by the recording's id. Raises ValueError for one listed twice."""
    table = layout.read_table(root, layout.find(root, name))
    table.require([("data.root", key), *columns])
    return layout.by_name([table], key)


def _parts(root: str, split: str, archive: str) -> dict[str, str]:
    """The part of each song by the recording's id. Raises ValueError for a song in two of them."""
    found: dict[str, tuple[str, str]] = {}
    for name, part in PARTS.items():
        table = f"tvt_dataframes/tvt_{split}/tvt_{split}_{name}_{archive}.csv"
        for song, (place, _) in _by_song(root, table, [], "Song").items():
            if song in found:
                raise ValueError(f"data.root: Song {song} is in two parts, at {found[song][1]} and {place}")
            found[song] = (part, place)
    return {song: part for song, (part, _) in found.items()}


def _recordings(root: str, folder: str) -> dict[str, str]:
    """Paths relative to the root by quadrant and stem. Raises ValueError when there are none."""
    found = {
        f"{quadrant}/{stem}": path
        for quadrant in QUADRANTS
        for stem, path in layout.audio_files(root, layout.as_written(root, posixpath.join(folder, quadrant))).items()
    }
    if not found:
        where = layout.location(root, folder)
        raise ValueError(f"data.root: no recordings in the folders {', '.join(QUADRANTS)} of {where}")
    return found


def _targets(numbers: layout.Row, columns: Sequence[tuple[str, str]], data: DataSettings) -> tuple[float, ...]:
    place, row = numbers
    return tuple(layout.parse_label(row[column], column, place, data.target_range) for _, column in columns)


def _group(song: str, row: Mapping[str, str], data: DataSettings) -> str | None:
    """The artist if `data.group_column` is set; a song without artist is a group of its own."""
    return None if data.group_column is None else row[data.group_column].strip() or f"song {song}"


def _left_out(songs: Sequence[str], why: str) -> list[str]:
    return [f"{len(songs)} songs {why} and are left out: {layout.first_names(songs)}"] if songs else []


def _without_metadata(part_of: Mapping[str, str], split: str) -> list[str]:
    """A note on songs of the published split that the metadata lack, by part."""
    counts = ", ".join(f"{count} of {part}" for part, count in Counter(part_of.values()).items())
    what = f"of the published split {split} are not in the metadata and are left out, {counts}"
    return [f"{len(part_of)} songs {what}: {layout.first_names(list(part_of))}"] if part_of else []


def _artist_notes(rows: Sequence[Mapping[str, str]], split: str, data: DataSettings) -> list[str]:
    """Notes on songs without artist, or on artists in several parts of the published split."""
    if data.group_column is not None:
        alone = sum(not row[data.group_column].strip() for row in rows)
        return [f"{alone} songs have no '{data.group_column}': each is a group of its own"] if alone else []
    parts: dict[str, set[str]] = {}
    for row in rows:
        if artist := row.get(ARTIST, "").strip():
            parts.setdefault(layout.name_key(artist), set()).add(row["part"])
    crossing = sum(len(of_artist) > 1 for of_artist in parts.values())
    if not crossing:
        return []
    return [
        f"{crossing} of {len(parts)} artists have songs in several parts of the published split {split}; to keep them "
        f"apart: data.group_column={ARTIST} split.method=grouped"
    ]
