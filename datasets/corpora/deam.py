"""DEAM, the MediaEval Database for Emotional Analysis in Music: 1,802 songs rated for valence and arousal, 1 to 9.

Aljanaki, Yang & Soleymani (2017), "Developing a benchmark for emotional analysis of music", PLoS ONE 12(3).
Layout of the two archives unpacked into one folder, or each into a folder of its name (as on Kaggle):

    MEMD_audio/<song_id>.mp3
    annotations/annotations averaged per song/song_level/       also annotations_averaged_per_song
        static_annotations_averaged_songs_1_2000.csv        song_id, valence_mean, valence_std, arousal_mean, ...
        static_annotations_averaged_songs_2000_2058.csv     the same and more columns

and, for a split by artist, the archive of metadata:

    metadata/metadata_2013.csv      song_id,file_name,Artist,Song title,start of the segment (min.sec),...,Genre
    metadata/metadata_2014.csv      Id,Artist,Album,Track,Genre,segment start,segment end,last.fm labels
    metadata/metadata_2015.csv      id,Filename,title,artist,album,genre,

Lines of 2014 and 2015 end with any number of labels, and names in them have commas without quotes: `Baby, Please Don't
Go` is two cells, and what follows is one column further to the right.
"""

import posixpath
import re
from collections import defaultdict

from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

AUDIO = ("MEMD_audio", "DEAM_audio/MEMD_audio")
SONG_LEVEL = "annotations/annotations averaged per song/song_level"
TABLES = ("static_annotations_averaged_songs_1_2000.csv", "static_annotations_averaged_songs_2000_2058.csv")
METADATA = ("metadata_2013.csv", "metadata_2014.csv", "metadata_2015.csv")
NAMES = ("artist", "title", "song title", "album", "track")  # columns that may have commas
GENRES_2015 = (
    *("acoustic", "blues", "classical", "electronic", "electronic/fusion", "folk", "groove", "hiphop", "jazz", "pop"),
    *("rap", "reggae", "rock", "singer/songwriter", "world", "world/folk"),
)
COLUMNS = {"valence": "valence_mean", "arousal": "arousal_mean"}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the songs in the order of both tables.

    Columns of groups, folds and splits may be in the tables or in the metadata, there in lower case: artist, genre.
    Spellings of an artist are one group; a song whose artist can't be told is a group of its own, with a note. A song
    without recording is listed with its expected path, and preparation quarantines it; a recording without label
    is left out, with a note. Raises ValueError naming the setting at fault: a missing folder, table or column, a label
    that is not a number or outside `data.target_range`, a song listed twice, two recordings of one song.
    """
    layout.refuse_settings(data, "folds", "fold_lists")
    root = layout.check_root(data)
    columns = layout.target_columns(data, targets, COLUMNS)
    folder = layout.find(root, *AUDIO)
    places = [layout.find(root, f"{SONG_LEVEL}/{name}", f"DEAM_Annotations/{SONG_LEVEL}/{name}") for name in TABLES]
    tables = [layout.read_table(root, place) for place in places]
    for table in tables:
        table.require(columns)
    named = layout.named_columns(data)
    elsewhere = [wanted for wanted in named if any(wanted[1] not in table.header for table in tables)]
    songs = layout.by_number(tables, "song_id")
    notes = _join_metadata(root, songs, elsewhere) if elsewhere else []
    recordings = layout.recordings(root, folder)
    clips = [
        Clip(
            id=recordings.get(song, f"{folder}/{song}.mp3"),
            targets=tuple(layout.parse_label(row[column], column, place, data.target_range) for _, column in columns),
            **layout.named_cells(row, data, place),
        )
        for song, (place, row) in songs.items()
    ]
    return Corpus(
        data.corpus, root, layout.unify_groups(clips), notes + layout.note_unlabelled(recordings, songs, folder)
    )


def _join_metadata(root: str, songs: dict[str, layout.Row], wanted: list[tuple[str, str]]) -> list[str]:
    """Add columns of the metadata to the songs' rows in place; return notes."""
    try:
        tables = [
            layout.read_table(root, layout.find(root, f"metadata/{name}"), row_of=_certain_cells).lower()
            for name in METADATA
        ]
    except ValueError as error:
        raise layout.without_metadata(error, wanted) from None
    for table in tables:
        table.require([*wanted, ("data.root", "artist")])
    metadata: dict[str, layout.Row] = {}
    for table in tables:
        metadata |= layout.by_number([table], "song_id" if "song_id" in table.header else "id")
    _restore_artists(metadata)
    notes = layout.join(songs, metadata, wanted, "metadata")
    for _, column in wanted:
        lines = [metadata[song] for song in songs if song in metadata]
        if places := [posixpath.basename(place) for place, row in lines if column not in row]:
            notes.append(
                f"{len(places)} lines of the metadata do not fit its columns, as with a comma within a name, so that "
                f"their {column} is not known: {layout.first_names(places)}"
            )
    return notes


def _certain_cells(header: list[str], cells: list[str]) -> dict[str, str]:
    """The cells of a line of metadata that are their column's whatever commas its names have.

    A cell that begins with a space continues the one before it. If the line fits the columns then, it is whole, else
    what stands up to the first name.
    """
    joined: list[str] = []
    for cell in cells:
        if joined and cell.startswith(" "):
            joined[-1] += f",{cell}"
        else:
            joined.append(cell)
    for reading in [joined, cells] if len(cells) == len(header) else [joined]:
        if _fits(header, reading):
            return dict(zip(header, reading, strict=False))
    first_name = next((place for place, column in enumerate(header) if column.lower() in NAMES), 0)
    return dict(zip(header[: first_name + 1], cells, strict=False))


def _fits(header: list[str], cells: list[str]) -> bool:
    """Whether a line shows that each cell is under its column.

    In 2013 and 2014 the segment's start and end are in their columns, and no numbers side by side come after them. In
    2015 the genre is a published one, and only labels, words in lower case, come after it.
    """
    columns = [column.lower() for column in header]
    if segment := [place for place, column in enumerate(columns) if "segment" in column]:
        numbers = [re.fullmatch(r"[\d.:]+", cell.strip()) is not None for cell in cells]
        pairs = [place for place in range(len(cells) - 1) if numbers[place] and numbers[place + 1]]
        return pairs[-1:] == segment[:1]
    genre = columns.index("genre") if "genre" in columns else len(cells)
    labels = [cell.strip() for cell in cells[genre + 1 :]]
    return (
        len(cells) > genre
        and cells[genre].strip().casefold() in GENRES_2015
        and all(re.fullmatch(r"[a-z0-9]*", label) for label in labels)
    )


def _restore_artists(metadata: dict[str, layout.Row]) -> None:
    """Cut titles off artists, in place: "Advent Chamber Orchestra-Dvorak" is the Advent Chamber Orchestra.

    A published title with a hyphen was split at the last one. What stands before the first hyphen is the artist where
    other songs have it, too. A name with a comma ends there, as it does in lines without quotes. So two artists may be
    taken for one, but one never for two.
    """
    named = [row for _, row in metadata.values() if "artist" in row]
    names_of = defaultdict(set)
    for row in named:
        row["artist"] = " ".join(row["artist"].split(",")[0].split())
        names_of[layout.name_key(_before_hyphen(row["artist"]))].add(layout.name_key(row["artist"]))
    artist_of = {}
    for row in named:
        begin = _before_hyphen(row["artist"])
        if begin and len(names_of[layout.name_key(begin)]) > 1:
            artist_of[layout.name_key(row["artist"])] = begin
    for row in named:
        row["artist"] = artist_of.get(layout.name_key(row["artist"]), row["artist"])


def _before_hyphen(name: str) -> str:
    return re.split(r"[-\u2010-\u2015\u2212]", name)[0].strip()
