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
"""

from collections import defaultdict

from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

AUDIO = ("MEMD_audio", "DEAM_audio/MEMD_audio")
SONG_LEVEL = "annotations/annotations averaged per song/song_level"
TABLES = ("static_annotations_averaged_songs_1_2000.csv", "static_annotations_averaged_songs_2000_2058.csv")
METADATA = ("metadata_2013.csv", "metadata_2014.csv", "metadata_2015.csv")
COLUMNS = {"valence": "valence_mean", "arousal": "arousal_mean"}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the songs in the order of both tables.

    Columns of groups, folds and splits may be in the tables or in the metadata, there in lower case: artist, genre. A
    song without recording is listed with its expected path, and preparation quarantines it; a recording without label
    is left out, with a note. Raises ValueError naming the setting at fault: a missing folder, table or column, a label
    that is not a number or outside `data.target_range`, a song listed twice, two recordings of one song.
    """
    layout.refuse_settings(data, "folds")
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
    return Corpus(data.corpus, root, clips, notes + layout.note_unlabelled(recordings, songs, folder))


def _join_metadata(root: str, songs: dict[str, layout.Row], wanted: list[tuple[str, str]]) -> list[str]:
    """Add columns of the metadata to the songs' rows in place; return notes."""
    try:
        # Lines of 2014 and 2015 end with any number of labels, and a comma in a title or album shifts those alone.
        tables = [
            layout.read_table(root, layout.find(root, f"metadata/{name}"), open_ended=True).lower() for name in METADATA
        ]
    except ValueError as error:
        raise layout.without_metadata(error, wanted) from None
    for table in tables:
        table.require([*wanted, ("data.root", "artist")])
    metadata: dict[str, layout.Row] = {}
    for table in tables:
        metadata |= layout.by_number([table], "song_id" if "song_id" in table.header else "id")
    _restore_artists(metadata)
    return layout.join(songs, metadata, wanted, "metadata")


def _restore_artists(metadata: dict[str, layout.Row]) -> None:
    """Cut titles off artists, in place: "Advent Chamber Orchestra-Dvorak" is the Advent Chamber Orchestra.

    A published title with a hyphen was split at the last one. What stands before the first hyphen is the artist where
    other songs have it, too; so two artists may be taken for one, but one never for two.
    """
    names_of = defaultdict(set)
    for _, row in metadata.values():
        row["artist"] = " ".join(row["artist"].split())
        names_of[row["artist"].split("-")[0].strip()].add(row["artist"])
    for _, row in metadata.values():
        begin = row["artist"].split("-")[0].strip()
        if begin and len(names_of[begin]) > 1:
            row["artist"] = begin
