import pytest

from tests.helpers.layout import MERGE_SPLIT, write_merge, write_merge_audio
from tuning.data.plan import make_plan
from tuning.datasets.corpus import Clip, load_classes, load_corpus
from tuning.datasets.settings import CORPUS_DEFAULTS, DataSettings, SplitSettings
from tuning.datasets.splits.split import split_clips

TARGETS = ["valence", "arousal"]
SONGS = {
    "A001": ("L041", "Q1", "Nina", 0.75, 1),
    "A002": ("L002", "Q2", "Miles", 0.9, 0.25),
    "A003": ("L003", "Q3", "Nina", 0, 0.1),
    "A004": ("MT77", "Q4", "Björk", 0.2, 0.8),
    "A005": ("L005", "Q4", "Björk", 0.3, 0.9),
    "A101": ("L101", "Q1", "Miles", 0.6, 0.6),
    "A102": ("L102", "Q2", "Billie", 0.6, 0.4),
    "MT01": ("L099", "Q3", "Nina", 0.4, 0.4),
}
CROSSING = (
    "2 of 4 artists have songs in several parts of the published split 70_15_15; to keep them apart: "
    "data.group_column=Artist split.method=grouped"
)
PATHS = {song: (f"audio/{row[1]}/{song}.mp3", f"lyrics/{row[1]}/{row[0]}.txt") for song, row in SONGS.items()}


def settings(root, **changed):
    brought = {
        path.removeprefix("data."): value
        for path, value in CORPUS_DEFAULTS["merge"].items()
        if path.startswith("data.")
    }
    return DataSettings(corpus="merge", root=str(root), **(brought | changed))


def load(root, targets=TARGETS, **changed):
    return load_corpus(settings(root, **changed), targets)


def test_recordings_and_lyrics_are_paired_by_the_metadata(tmp_path):
    corpus = load(write_merge(tmp_path, SONGS))
    assert [(clip.id, clip.text) for clip in corpus.clips] == list(PATHS.values())
    assert corpus.clips[0] == Clip("audio/Q1/A001.mp3", (1.0, 0.5), split="train", text="lyrics/Q1/L041.txt")
    for clip, (_, _, _, arousal, valence) in zip(corpus.clips, SONGS.values(), strict=True):
        assert clip.targets == pytest.approx((2 * valence - 1, 2 * arousal - 1))
    assert [clip.split for clip in corpus.clips] == ["train"] * 5 + ["val", "test", "test"]
    assert corpus.notes == [CROSSING]
    assert load(tmp_path, ["arousal"]).clips[0].targets == (0.5,)


def test_quadrants_are_the_classes(tmp_path):
    corpus = load_classes(settings(write_merge(tmp_path, SONGS)), None, {}, drop_others=False)
    assert corpus.classes == ["Q1", "Q2", "Q3", "Q4"]
    assert [clip.label for clip in corpus.clips] == [row[1] for row in SONGS.values()]
    assert corpus.clips[3] == Clip("audio/Q4/A004.mp3", (3.0,), split="train", label="Q4", text="lyrics/Q4/MT77.txt")


def test_the_published_split_that_is_named(tmp_path):
    other = {"train": ["A001", "A002"], "validate": ["A003", "A004"], "test": ["A005", "A101", "A102", "MT01"]}
    root = write_merge(tmp_path, SONGS, splits={"70_15_15": MERGE_SPLIT, "40_30_30": other})
    corpus = load(root, folds="40_30_30")
    split = split_clips(corpus.clips, SplitSettings())
    assert split.method == "column"
    assert {name: len(part) for name, part in split.parts().items()} == {"train": 2, "val": 2, "test": 4}
    assert any("split 40_30_30" in note for note in corpus.notes)
    # YAML would read a number.
    assert make_plan(["data.corpus=merge", "data.folds=40_30_30"]).config.data.folds == "40_30_30"


def test_artists_as_groups(tmp_path):
    root = write_merge(tmp_path, SONGS | {"A004": ("MT77", "Q4", " ", 0.2, 0.8)})
    corpus = load(root, group_column="Artist")
    groups = ["Nina", "Miles", "Nina", "song A004", "Björk", "Miles", "Billie", "Nina"]
    assert [clip.group for clip in corpus.clips] == groups
    assert corpus.notes == ["1 songs have no 'Artist': each is a group of its own"]
    with pytest.raises(ValueError, match=r"puts 2 groups into more than one part: 'Miles' \(train, val\), 'Nina'"):
        split_clips(corpus.clips, SplitSettings())
    parts = split_clips(corpus.clips, SplitSettings(method="grouped", val_share=0.2, test_share=0.2)).parts().values()
    groups = [{clip.group for clip in part} for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5


def test_what_is_missing_on_the_disk_is_listed_and_what_no_table_has_is_left_out(tmp_path):
    parts = MERGE_SPLIT | {"train": ["A001", "A002", "A003", "A005", "B900"]}  # B900 has no metadata, A004 no part
    root = write_merge(
        tmp_path, SONGS, [PATHS["A001"][0], PATHS["A002"][1]], {"70_15_15": parts, "40_30_30": MERGE_SPLIT}
    )
    (root / "audio/Q2/A102.mp3").rename(root / "audio/Q2/A102.ogg")
    (root / "audio/Q4/C001.mp3").touch()
    values = root / "merge_bimodal_complete_av_values.csv"
    values.write_text("".join(line for line in values.read_text().splitlines(True) if not line.startswith("A003")))
    corpus = load(root)
    assert [clip.id for clip in corpus.clips] == [
        *(PATHS[song][0] for song in ("A001", "A002", "A005", "A101")),
        "audio/Q2/A102.ogg",
        PATHS["MT01"][0],
    ]
    assert corpus.clips[1].text == PATHS["A002"][1]
    assert corpus.notes == [
        "1 songs have no valence and arousal and are left out: A003",
        "1 songs are in no part of the published split 70_15_15 and are left out: A004",
        "1 songs of the published split 70_15_15 are not in the metadata and are left out, 1 of train: B900",
        "1 recordings in audio have no label and are left out: C001.mp3",
        CROSSING,
    ]


def test_songs_of_the_split_without_metadata_are_counted_by_part(tmp_path):
    parts = MERGE_SPLIT | {
        "train": [*MERGE_SPLIT["train"], *(f"B{number:03d}" for number in range(10))],
        "test": ["A102", "C900", "MT01", "C901"],
    }
    corpus = load(write_merge_audio(tmp_path, SONGS, splits={"70_15_15": parts}))
    assert len(corpus.clips) == len(SONGS)
    assert corpus.notes == [
        "12 songs of the published split 70_15_15 are not in the metadata and are left out, 10 of train, 2 of test: "
        "B000, B001, B002, B003, B004, B005, B006, B007 and 4 more",
        CROSSING,
    ]


def test_spellings_of_one_artist_are_one_artist(tmp_path):
    other = {"A003": "NINA", "A101": "miles", "MT01": "nina"}
    songs = {song: (*row[:2], other.get(song, row[2]), *row[3:]) for song, row in SONGS.items()}
    root = write_merge(tmp_path, songs)
    assert load(root).notes == [CROSSING]
    groups = [clip.group for clip in load(root, group_column="Artist").clips]
    assert groups == ["Nina", "Miles", "Nina", "Bj\u00f6rk", "Bj\u00f6rk", "Miles", "Billie", "Nina"]


def test_recordings_alone_have_no_lyrics(tmp_path):
    root = write_merge_audio(tmp_path / "MERGE_Audio_Complete", SONGS)
    (root / "Q2" / "A102.mp3").unlink()
    (root / "Q2" / "A900.mp3").touch()
    corpus = load(root)
    assert [clip.id for clip in corpus.clips] == [f"{row[1]}/{song}.mp3" for song, row in SONGS.items()]
    assert {clip.text for clip in corpus.clips} == {None}
    assert corpus.clips[0] == Clip("Q1/A001.mp3", (1.0, 0.5), split="train")
    assert corpus.notes == [f"1 recordings in {root} have no label and are left out: A900.mp3", CROSSING]
    classes = load_classes(settings(root), None, {}, drop_others=False)
    assert [clip.label for clip in classes.clips] == [row[1] for row in SONGS.values()]


def test_lyrics_alone_are_refused_by_name(tmp_path):
    root = write_merge_audio(tmp_path / "MERGE_Lyrics_Complete", SONGS, part="lyrics")
    assert (root / "Q1" / "L041.txt").is_file() and (root / "merge_lyrics_complete_metadata.csv").is_file()
    with pytest.raises(
        ValueError,
        match=r"data.root: expected an archive of MERGE with recordings, MERGE_Bimodal_\* or MERGE_Audio_\*, got "
        r"lyrics alone in .*/MERGE_Lyrics_Complete$",
    ):
        load(root)


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"A002": ("L002", "Q2", "", 1.2, 0)}, {}, r"data.target_range: expected 0 to 1 in column 'Arousal', got 1.2 "),
        ({"A002": ("L002", "Q2", "", 0.5, "")}, {}, r"expected a number in column 'Valence', got '' at .*av_values"),
        (
            {"A002": ("L002", "Q5", "", 0.5, 0.5)},
            {},
            r"a quadrant, one of Q1, Q2, Q3, Q4, got 'Q5' in .*metadata.csv:3",
        ),
        ({"A002": (" ", "Q2", "", 0.5, 0.5)}, {}, r"data.root: expected text in column 'Lyric_Song', .*metadata.csv:3"),
        ({}, {"folds": "70_15_1"}, r"data.folds: expected one of 70_15_15, 40_30_30, got '70_15_1'; did you mean '70"),
        ({}, {"group_column": "artist"}, r"data.group_column: no column 'artist' in .*metadata.csv; did you mean 'Art"),
        ({}, {"text_column": "Lyric_Song"}, r"data.text_column: expected nothing for data.corpus=merge"),
        ({}, {"split_column": "Song"}, r"data.split_column: expected nothing for data.corpus=merge"),
    ],
)
def test_errors_name_the_setting_and_the_place(tmp_path, changed, options, message):
    root = write_merge(tmp_path, SONGS | changed)
    with pytest.raises(ValueError, match=message):
        load(root, **options)


def test_a_song_that_stands_twice(tmp_path):
    root = write_merge(tmp_path, SONGS)
    test = root / "tvt_dataframes/tvt_70_15_15/tvt_70_15_15_test_bimodal_complete.csv"
    text = test.read_text()
    test.write_text(text + "A001,Q1\n")
    with pytest.raises(ValueError, match=r"data.root: Song A001 is in two parts, at .*train.*csv:2 and .*test.*csv:4$"):
        load(root)
    test.write_text(text + "A102,Q1\n")
    with pytest.raises(ValueError, match=r"data.root: Song A102 is listed twice, at .*test.*csv:2 and .*test.*csv:4$"):
        load(root)
    test.write_text(text)
    metadata = root / "merge_bimodal_complete_metadata.csv"
    metadata.write_text(metadata.read_text() + "A003,L003,Q3,MT2,Nina,Title,3,2001\n")
    with pytest.raises(ValueError, match=r"data.root: Audio_Song A003 is listed twice, at .*csv:4 and .*csv:10$"):
        load(root)


def test_what_is_missing_of_the_layout_is_named_with_what_is_there(tmp_path):
    root = write_merge(tmp_path / "MERGE_Bimodal_Complete", SONGS)
    (root / "tvt_dataframes/tvt_40_30_30").rename(root / "tvt_dataframes/tvt_403030")
    load(root)
    with pytest.raises(ValueError, match=r"expected the folder 'tvt_40_30_30' in .*, found tvt_403030, tvt_70_15_15; "):
        load(root, folds="40_30_30")
    (root / "lyrics").rename(root / "lyric")
    with pytest.raises(ValueError, match=r"expected the folder 'lyrics' in .*; did you mean 'lyric'\?"):
        load(root)
    (root / "lyric").rename(root / "lyrics")
    for path in root.glob("audio/*/*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"data.root: no recordings in the folders Q1, Q2, Q3, Q4 of .*/audio"):
        load(root)
