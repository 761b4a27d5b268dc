"""DEAM, the MediaEval Database for Emotional Analysis in Music: 1,802 songs rated for valence and arousal, 1 to 9.

Aljanaki, Yang & Soleymani (2017), "Developing a benchmark for emotional analysis of music", PLoS ONE 12(3).
Layout of the two archives unpacked into one folder, or each into a folder of its name (as on Kaggle):

    MEMD_audio/<song_id>.mp3
    annotations/annotations averaged per song/song_level/
        static_annotations_averaged_songs_1_2000.csv        song_id, valence_mean, valence_std, arousal_mean, ...
        static_annotations_averaged_songs_2000_2058.csv     the same and more columns
"""

from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

AUDIO = ("MEMD_audio", "DEAM_audio/MEMD_audio")
SONG_LEVEL = "annotations/annotations averaged per song/song_level"
TABLES = ("static_annotations_averaged_songs_1_2000.csv", "static_annotations_averaged_songs_2000_2058.csv")
COLUMNS = {"valence": "valence_mean", "arousal": "arousal_mean"}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the songs in the order of both tables.

    A song without recording is listed with its expected path, and preparation quarantines it; a recording without label
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
        table.require([*columns, *layout.named_columns(data)])
    songs = layout.by_number(tables, "song_id")
    recordings = layout.recordings(root, folder)
    clips = [
        Clip(
            id=recordings.get(song, f"{folder}/{song}.mp3"),
            targets=tuple(layout.parse_label(row[column], column, place, data.target_range) for _, column in columns),
            **layout.named_cells(row, data, place),
        )
        for song, (place, row) in songs.items()
    ]
    return Corpus(data.corpus, root, clips, layout.note_unlabelled(recordings, songs, folder))
