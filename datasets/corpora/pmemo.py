"""PMEmo (2019): choruses of 794 pop songs, 767 of them rated for valence and arousal, 0 to 1.

Zhang, Zhang, Li, Yang & Sun (2018), "The PMEmo dataset for music emotion recognition", ICMR. Layout:

    chorus/<musicId>.mp3
    annotations/static_annotations.csv      musicId,Arousal(mean),Valence(mean)
    metadata.csv                            musicId,fileName,title,artist,album,...
"""

from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

AUDIO = "chorus"
ANNOTATIONS = "annotations/static_annotations.csv"
METADATA = "metadata.csv"
COLUMNS = {"valence": "Valence(mean)", "arousal": "Arousal(mean)"}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the rated songs in the order of the annotations.

    Columns of groups, folds and splits may be in the annotations or in the metadata. A song without artist is a group
    of its own, with a note. Missing recordings, missing labels and errors are as in `tuning.datasets.corpora.deam`.
    """
    layout.refuse_settings(data, "folds")
    root = layout.check_root(data)
    columns = layout.target_columns(data, targets, COLUMNS)
    folder = layout.find(root, AUDIO)
    table = layout.read_table(root, layout.find(root, ANNOTATIONS))
    table.require(columns)
    songs = layout.by_number([table], "musicId")
    labels = {
        song: tuple(layout.parse_label(row[column], column, place, data.target_range) for _, column in columns)
        for song, (place, row) in songs.items()
    }
    elsewhere = [(setting, column) for setting, column in layout.named_columns(data) if column not in table.header]
    notes = _join_metadata(root, songs, elsewhere) if elsewhere else []
    recordings = layout.recordings(root, folder)
    clips = [
        Clip(
            id=recordings.get(song, f"{folder}/{song}.mp3"),
            targets=labels[song],
            **layout.named_cells(row, data, place),
        )
        for song, (place, row) in songs.items()
    ]
    return Corpus(data.corpus, root, clips, notes + layout.note_unlabelled(recordings, songs, folder))


def _join_metadata(root: str, songs: dict[str, layout.Row], wanted: list[tuple[str, str]]) -> list[str]:
    """Add columns of the metadata to the songs' rows in place; return notes."""
    settings = " ".join(f"{setting}=null" for setting, _ in wanted)
    try:
        metadata = layout.read_table(root, layout.find(root, METADATA))
    except ValueError as error:
        columns = ", ".join(f"'{column}'" for _, column in wanted)
        raise ValueError(f"{error}; it holds {columns}; to go without: {settings}") from None
    metadata.require(wanted)
    rows = layout.by_number([metadata], "musicId")
    alone = 0
    for song, (place, row) in songs.items():
        where, known = rows.get(song, (f"no line of {METADATA}", {}))
        for setting, column in wanted:
            row[column] = known.get(column, "").strip()
            if setting == "data.group_column" and not row[column]:
                row[column], alone = f"song {song}", alone + 1
        songs[song] = (f"{place}, {where}", row)
    return [f"{alone} songs have no artist in {METADATA}: each is a group of its own"] if alone else []
