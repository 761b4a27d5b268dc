import codecs

import pytest

from tests.helpers.recordings import write_corpus
from tuning.datasets.corpus import Clip, load_classes, load_corpus
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


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("file,valence,valence", "'valence' in columns 2 and 3"),
        ("file,valence,file", "'file' in columns 1 and 3"),
        ("file,valence,note, note ,note", "'note' in columns 3, 4 and 5"),
    ],
)
def test_a_name_of_two_columns_is_refused_with_their_places(tmp_path, header, message):
    (tmp_path / "manifest.csv").write_text(f"{header}\na.wav,0.1{',x' * (header.count(',') - 1)}\n")
    with pytest.raises(ValueError, match=rf"data.manifest: expected columns of different names in .*, got {message}"):
        load(tmp_path, targets=["valence"])


def test_columns_without_a_name_may_be_several(tmp_path):
    assert len(load(tmp_path, "file,valence,,\na.wav,1,,\n", ["valence"]).clips) == 1


def test_columns_that_are_there_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no column 'file' in .*; it has: path, valence"):
        load(tmp_path, "path;valence\na.wav;0.1\n", ["valence"])


MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", MARKS)
def test_marked_encodings_and_separators_are_read(tmp_path, encoding, separator):
    text = 'file,valence,arousal,artist\r\nü.wav,0.5,-0.5,"Ni, na; é"\r\n'
    rows = [line.split(",", 3) for line in text.splitlines()]
    written = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "manifest.csv").write_bytes(MARKS[encoding] + written.encode(encoding))
    assert load(tmp_path, group_column="artist").clips == [Clip("ü.wav", (0.5, -0.5), "Ni, na; é")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file,valence\na.wav,1\nMüller.wav,1\n".encode("latin-1"),
            r"expected UTF-8 text in .*csv, got other bytes in line 3, as Windows-1252 writes 'Müller.wav,1'; "
            r"save it as UTF-8.*iconv -f WINDOWS-1252 -t UTF-8",
        ),
        ("file,valence\na.wav,1\n".encode("utf-16-le"), r"got UTF-16 without a byte order mark; save it as UTF-8"),
        (b"PK\x03\x04 a workbook", r"expected a CSV file in .*, got an Excel workbook; save it as CSV UTF-8"),
        (b"file,valence\n\x00\x01,1\n", r"expected UTF-8 text in .*, got NUL bytes"),
        (b"file;valence\na.wav;0,5\n", r"expected a number in column 'valence', got '0,5' at .*:2; .* 0.5"),
        (codecs.BOM_UTF16_LE + b"abc", r"expected UTF-16 text, as its byte order mark says, in .*csv"),
    ],
)
def test_other_encodings_are_refused_with_what_was_found_and_how_to_save_it(tmp_path, content, message):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, targets=["valence"])


@pytest.mark.parametrize(
    ("header", "proposed"),
    [
        ("file,emotion,speaker", "; did you mean data.label_column=emotion? it has: file, emotion, speaker"),
        ("file,Label,speaker", "; did you mean data.label_column=Label? it has: file, Label, speaker"),
        ("file,class,speaker", "; did you mean data.label_column=class? it has: file, class, speaker"),
        ("file,mood,artist", "; did you mean data.label_column=mood? it has: file, mood, artist"),
        ("file,class,emotion", "; it has: file, class, emotion"),
        ("file,one,two", "; it has: file, one, two"),
    ],
)
def test_the_column_of_classes_is_proposed_by_name(tmp_path, header, proposed):
    rows = [f"{n}.wav,{'sad' if n % 2 else 'happy'},{'x' if n < 6 else 'y'}" for n in range(12)]
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]))
    with pytest.raises(ValueError, match=r"data.label_column: expected the column .* class, got nothing") as caught:
        load_classes(DataSettings(corpus="manifest", root=str(tmp_path)), None, {}, False)
    assert str(caught.value).endswith(proposed)


def test_classes_in_place_of_numbers_are_proposed(tmp_path):
    text = "file,emotion\n" + "".join(f"{n}.wav,{'sad' if n % 2 else 'happy'}\n" for n in range(6))
    with pytest.raises(ValueError, match=r"no column 'valence'.*: task.name=classification data.label_column=emotion"):
        load(tmp_path, text)
