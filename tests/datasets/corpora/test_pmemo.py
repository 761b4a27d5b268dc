import pytest

from tests.helpers.layout import write_pmemo, write_pmemo_2018
from tuning.datasets.corpus import Clip, load_corpus
from tuning.datasets.settings import CORPUS_DEFAULTS, DataSettings

TARGETS = ["valence", "arousal"]
LABELS = {1: (0.5, 0.4), 4: (0, 1), 5: (0.75, 0.25)}
ARTISTS = {1: "Nina", 4: "Miles", 5: "Nina", 6: "Miles"}
AUDIO = ["1.mp3", "4.mp3", "5.wav"]


def load(root, targets=TARGETS, **settings):
    brought = {
        path.removeprefix("data."): value
        for path, value in CORPUS_DEFAULTS["pmemo"].items()
        if path.startswith("data.")
    }
    return load_corpus(DataSettings(corpus="pmemo", root=str(root), **(brought | settings)), targets)


def test_labels_are_centred_and_artists_are_groups(tmp_path):
    corpus = load(write_pmemo(tmp_path, LABELS, ARTISTS, AUDIO))
    assert corpus.clips[0].targets == pytest.approx((0.0, -0.2))
    assert corpus.clips[1:] == [
        Clip("chorus/4.mp3", (-1.0, 1.0), "Miles"),
        Clip("chorus/5.wav", (0.5, -0.5), "Nina"),
    ]
    assert corpus.notes == []


def test_recordings_and_labels_that_miss_each_other(tmp_path):
    corpus = load(write_pmemo(tmp_path, LABELS, ARTISTS, ["1.mp3", "4.mp3", "6.mp3"]))
    assert [clip.id for clip in corpus.clips] == ["chorus/1.mp3", "chorus/4.mp3", "chorus/5.mp3"]
    assert corpus.notes == ["1 recordings in chorus have no label and are left out: 6.mp3"]


def test_the_tables_of_2018(tmp_path):
    root = write_pmemo_2018(tmp_path, LABELS, ARTISTS, AUDIO)
    assert load(root).clips[1:] == [
        Clip("Chorus/4.mp3", (-1.0, 1.0), "Miles"),
        Clip("Chorus/5.wav", (0.5, -0.5), "Nina"),
    ]
    spread = load(root, ["spread"], target_columns=["std_V"])
    assert [clip.targets for clip in spread.clips] == [pytest.approx((-0.8,))] * 3
    with pytest.raises(
        ValueError, match=r"data.target_columns: no column 'Valence\(mean\)' in .*A_static.csv and .*V_st"
    ):
        load(root, ["spread"], target_columns=["Valence(mean)"])
    table = root / "V_static.csv"
    table.write_text(table.read_text().replace("5,0.75,", "5,75,"))
    with pytest.raises(
        ValueError, match=r"expected 0 to 1 in column 'mean_V', got 75 at .*A_static.csv:4, .*V_static.csv:4"
    ):
        load(root)
    table.write_text(table.read_text().replace("5,75,", "6,0.75,"))
    with pytest.raises(
        ValueError, match=r"expected musicId 5 in .*A_static.csv and .*V_static.csv, got only .*A_st.*csv:4"
    ):
        load(root)
    table.unlink()
    with pytest.raises(
        ValueError, match=r"data.root: expected the file 'V_static.csv' in .*, found A_static.csv, Annot"
    ):
        load(root)


def test_songs_without_artist_are_groups_of_their_own(tmp_path):
    corpus = load(write_pmemo(tmp_path, LABELS, {1: " ", 4: "Miles"}, AUDIO))
    assert [clip.group for clip in corpus.clips] == ["song 1", "Miles", "song 5"]
    assert corpus.notes == ["2 songs have no artist in metadata.csv: each is a group of its own"]


def test_spellings_of_one_artist_are_one_group(tmp_path):
    corpus = load(write_pmemo(tmp_path, LABELS, {1: "Ke\u2010Sha", 4: "Miles", 5: "KE-SHA"}, AUDIO))
    assert [clip.group for clip in corpus.clips] == ["Ke\u2010Sha", "Miles", "Ke\u2010Sha"]


def test_without_groups_the_metadata_is_not_needed(tmp_path):
    root = write_pmemo(tmp_path, LABELS, ARTISTS, AUDIO)
    (root / "metadata.csv").unlink()
    assert [clip.group for clip in load(root, group_column=None).clips] == [None] * 3
    with pytest.raises(
        ValueError,
        match=r"data.root: expected the file 'metadata.csv' in .*, found annotations, chorus; it holds 'artist'; "
        r"to go without: data.group_column=null",
    ):
        load(root)


@pytest.mark.parametrize(
    ("labels", "audio", "settings", "message"),
    [
        (
            LABELS | {5: (0.5, 1.01)},
            AUDIO,
            {},
            r"data.target_range: expected 0 to 1 in column 'Arousal\(mean\)', got 1.01 at .*static_annotations.csv:4$",
        ),
        (LABELS | {5: ("?", 1)}, AUDIO, {}, r"expected a number in column 'Valence\(mean\)', got '\?' at .*csv:4$"),
        (LABELS | {"04": (0, 1)}, AUDIO, {}, r"data.root: musicId 4 is listed twice, at .*csv:3 and .*csv:5$"),
        (LABELS, [*AUDIO, "1.ogg"], {}, r"expected one recording of '1' in .*chorus, got 1.mp3 and 1.ogg$"),
        (
            LABELS,
            AUDIO,
            {"group_column": "artits"},
            r"data.group_column: no column 'artits' in .*metadata.csv; did you mean 'artist'",
        ),
    ],
)
def test_errors_name_the_setting_and_the_place(tmp_path, labels, audio, settings, message):
    root = write_pmemo(tmp_path, labels, ARTISTS, audio)
    with pytest.raises(ValueError, match=message):
        load(root, **settings)


def test_what_is_missing_of_the_layout_is_named_with_what_is_there(tmp_path):
    root = write_pmemo(tmp_path / "PMEmo2019", LABELS, ARTISTS, AUDIO)
    (root / "annotations" / "static_annotations.csv").rename(root / "annotations" / "static_annotation.csv")
    with pytest.raises(
        ValueError,
        match=r"expected the file 'static_annotations.csv' in .*/annotations, found static_annotation.csv; did you",
    ):
        load(root)
