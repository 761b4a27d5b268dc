import pytest

from tests.helpers.recordings import write_corpus
from tuning.datasets.corpus import Clip, load_corpus
from tuning.datasets.settings import DataSettings

TARGETS = ["valence", "arousal"]
ROWS = "file,valence,arousal,artist,fold,part\na.wav,0.5,-0.5, Nina ,1,train\nsub/b.wav,1,0,Miles,2,test\n"


def load(root, text=None, targets=TARGETS, **settings):
    if text is not None:
        (root / "manifest.csv").write_text(text, encoding="utf-8")
    return load_corpus(DataSettings(corpus="manifest", root=str(root), **settings), targets)


def test_reads_named_columns_in_the_order_of_the_targets(tmp_path):
    corpus = load(tmp_path, ROWS, group_column="artist", fold_column="fold", split_column="part")
    assert corpus.root == str(tmp_path)
    assert corpus.clips == [
        Clip("a.wav", (0.5, -0.5), "Nina", "1", "train"),
        Clip("sub/b.wav", (1.0, 0.0), "Miles", "2", "test"),
    ]
    swapped = load(tmp_path, target_columns=["arousal", "valence"])
    assert swapped.clips[0] == Clip("a.wav", (-0.5, 0.5))


def test_texts_by_a_named_column(tmp_path):
    text = "file,valence,lyrics\na.wav,1, words//a.txt \nb.wav,0,./words/b.txt\nc.wav,0,words/b.txt\n"
    clips = load(tmp_path, text, ["valence"], text_column="lyrics").clips
    assert clips[0] == Clip("a.wav", (1.0,), text="words/a.txt")
    assert [clip.text for clip in clips] == ["words/a.txt", "words/b.txt", "words/b.txt"]
    assert load(tmp_path, None, ["valence"]).clips[0].text is None


def test_byte_order_mark_blank_lines_and_spellings_of_a_path(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("\ufefffile,valence\r\n./x//ü.wav,1\r\n,\r\n".encode())
    assert load(tmp_path, targets=["valence"]).clips == [Clip("x/ü.wav", (1.0,))]


def test_range_maps_to_one_below_and_above_zero(tmp_path):
    corpus = load(tmp_path, "file,v\na.wav,1\nb.wav,5\nc.wav,9\n", ["v"], target_range=(1, 9))
    assert [clip.targets for clip in corpus.clips] == [(-1.0,), (0.0,), (1.0,)]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            ROWS,
            {"group_column": "artits"},
            r"data.group_column: no column 'artits' in .*manifest.csv; did you mean 'artist'",
        ),
        (ROWS, {"target_columns": ["valence"]}, r"data.target_columns: expected one column for each of task.targets"),
        (
            ROWS,
            {"target_range": (0, 1)},
            r"data.target_range: expected 0 to 1 in column 'arousal', got -0.5 at .*csv:2",
        ),
        (ROWS.replace("test", "exam"), {"split_column": "part"}, r"data.split_column: .* got 'exam' at .*csv:3"),
        (ROWS.replace("Miles", " "), {"group_column": "artist"}, r"data.group_column: expected text .*csv:3"),
        (ROWS.replace("Miles", " "), {"text_column": "artist"}, r"data.text_column: expected text .*csv:3"),
        (ROWS.replace("Miles", "../m.txt"), {"text_column": "artist"}, r"data.text_column: expected a path below .*:3"),
        (ROWS, {"text_column": "artits"}, r"data.text_column: no column 'artits' in .*; did you mean 'artist'"),
        (
            ROWS.replace("0.5,", "high,"),
            {},
            r"data.target_columns: expected a number in column 'valence', got 'high' at .*:2",
        ),
        (ROWS.replace("0.5,", "nan,"), {}, r"expected a number"),
        (ROWS.replace("0.5,", "inf,"), {}, r"expected a number"),
        (ROWS.replace("sub/b.wav", "./a.wav"), {}, r"data.manifest: 'a.wav' is listed twice, at .*csv:2 and .*csv:3"),
        (
            ROWS.replace("sub/b.wav", "../b.wav"),
            {},
            r"data.file_column: expected a path below data.root, got '../b.wav'",
        ),
        (ROWS.replace("sub/b.wav", "/b.wav"), {}, r"data.file_column: expected a path below data.root"),
        (ROWS.replace("sub/b.wav", "sub/.."), {}, r"data.file_column: expected a path below data.root"),
        (ROWS.replace(",2,test", ""), {}, r"expected 6 cells, got 4 at .*csv:3"),
        (ROWS.splitlines()[0], {}, r"data.manifest: no recordings in"),
        ("", {}, r"data.manifest: no recordings in"),
        ('file,valence,arousal\n"a.wav,1,2\n', {}, r"data.manifest: unexpected end of data at .*csv:2"),
    ],
)
def test_errors_name_the_setting_and_the_place(tmp_path, text, settings, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text, **settings)


def test_wrong_places_get_a_near_name(tmp_path):
    (tmp_path / "emotify").mkdir()
    (tmp_path / "emotify" / "manifests.csv").touch()
    with pytest.raises(ValueError, match=r"data.manifest: no file .*manifest.csv, found .*; did you mean 'mani"):
        load(tmp_path / "emotify")
    with pytest.raises(ValueError, match=r"data.root: expected a folder, .*\(not a folder\)"):
        load(tmp_path / "emotify" / "manifests.csv")
    (tmp_path / "emotify" / "manifest.csv").write_bytes(b"file,valence\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"data.manifest: expected UTF-8 text"):
        load(tmp_path / "emotify")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "manifets",
            r"data.corpus: expected one of cremad, deam, demo, .*, ravdess or a dotted path .*did you mean 'manifest'",
        ),
        ("nowhere.at_all:load", r"data.corpus: expected a function, got 'nowhere.at_all:load' \(no module 'nowhere'\)"),
        (
            "tuning.datasets.corpora.manifest:lod",
            r"data.corpus: expected a function, .* \(no 'lod' in tuning.datasets.corpora.manifest\); did you mean 'lo",
        ),
    ],
)
def test_unknown_corpus(named_code, name, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(DataSettings(corpus=name), TARGETS)


def test_own_corpus_by_dotted_path(tmp_path, named_code):
    corpus = write_corpus(tmp_path)
    data = DataSettings(corpus="tuning.datasets.corpora.manifest:load", root=str(tmp_path), group_column="artist")
    assert load_corpus(data, TARGETS).clips == corpus.clips


@pytest.mark.parametrize("column", ["valence", "file"])
def test_a_column_that_stands_twice_is_no_column(tmp_path, column):
    (tmp_path / "manifest.csv").write_text(f"file,valence,{column}\na.wav,0.1,0.9\n")
    with pytest.raises(ValueError, match=rf"expected one column '{column}' in .*manifest.csv, got several"):
        load_corpus(DataSettings(corpus="manifest", root=str(tmp_path)), ["valence"])


def test_columns_that_are_there_are_named(tmp_path):
    (tmp_path / "manifest.csv").write_text("file;valence\na.wav;0.1\n")
    with pytest.raises(ValueError, match=r"no column 'file' in .*; it has: file;valence"):
        load_corpus(DataSettings(corpus="manifest", root=str(tmp_path)), ["valence"])
