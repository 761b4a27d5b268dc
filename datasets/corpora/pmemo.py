"""PMEmo: choruses of 794 pop songs, 767 of them rated for valence and arousal, 0 to 1.

Zhang, Zhang, Li, Yang & Sun (2018), "The PMEmo dataset for music emotion recognition", ICMR. Layout of 2019:

    chorus/<musicId>.mp3
    annotations/static_annotations.csv      musicId,Arousal(mean),Valence(mean)
    metadata.csv                            musicId,fileName,title,artist,album,...

and of 2018, whose folder Annotations/ has ratings over time only:

    Chorus/<musicId>.mp3
    A_static.csv                            musicId,mean_A,std_A
    V_static.csv                            musicId,mean_V,std_V
    metadata.csv
"""

from tuning.datasets.corpora import layout
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

AUDIO = "chorus"
ANNOTATIONS = "annotations/static_annotations.csv"
ANNOTATIONS_2018 = ("A_static.csv", "V_static.csv")
METADATA = "metadata.csv"
COLUMNS = {"valence": "Valence(mean)", "arousal": "Arousal(mean)"}
COLUMNS_2018 = {"valence": "mean_V", "arousal": "mean_A"}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the rated songs in the order of the annotations.

    Columns of groups, folds and splits may be in the annotations or in the metadata. Spellings of an artist are
    one group; a song without artist is a group of its own, with a note. Missing recordings, missing labels and errors
    are as in `tuning.datasets.corpora.deam`.
    """
    layout.refuse_settings(data, "folds", "fold_lists")
    root = layout.check_root(data)
    folder = layout.find(root, AUDIO)
    place = layout.find(root, ANNOTATIONS, ANNOTATIONS_2018[0])
    is_old = place.casefold() == ANNOTATIONS_2018[0].casefold()
    columns = layout.target_columns(data, targets, COLUMNS_2018 if is_old else COLUMNS)
    table = _both_tables(root) if is_old else layout.read_table(root, place)
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
    return Corpus(
        data.corpus, root, layout.unify_groups(clips), notes + layout.note_unlabelled(recordings, songs, folder)
    )


def _both_tables(root: str) -> layout.Table:
    """The two tables of 2018 side by side. Raises ValueError for a song that only one of them lists."""
    first, second = (layout.read_table(root, layout.find(root, name)) for name in ANNOTATIONS_2018)
    rated = layout.by_number([first], "musicId"), layout.by_number([second], "musicId")
    if single := sorted(rated[0].keys() ^ rated[1].keys()):
        place = next(songs[single[0]][0] for songs in rated if single[0] in songs)
        raise ValueError(f"data.root: expected musicId {single[0]} in {first.path} and {second.path}, got only {place}")
    rows = [(f"{at}, {rated[1][song][0]}", row | rated[1][song][1]) for song, (at, row) in rated[0].items()]
    added = [column for column in second.header if column not in first.header]
    return layout.Table(f"{first.path} and {second.path}", [*first.header, *added], rows)


def _join_metadata(root: str, songs: dict[str, layout.Row], wanted: list[tuple[str, str]]) -> list[str]:
    """Add columns of the metadata to the songs' rows in place; return notes."""
    try:
        metadata = layout.read_table(root, layout.find(root, METADATA))
    except ValueError as error:
        raise layout.without_metadata(error, wanted) from None
    metadata.require(wanted)
    return layout.join(songs, layout.by_number([metadata], "musicId"), wanted, METADATA)
