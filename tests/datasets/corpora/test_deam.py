import random
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.layout import (
    DEAM_ARTISTS,
    DEAM_GROUPS,
    FIRST,
    SECOND,
    write_deam,
    write_deam_metadata,
    write_tree,
)
from tests.helpers.recordings import SMALL, encode, tone
from tuning.datasets.corpus import Clip, Corpus, load_corpus
from tuning.datasets.settings import CORPUS_DEFAULTS, DataSettings, SplitSettings
from tuning.datasets.splits.split import partition_of, split_clips, without
from tuning.datasets.splits.stratification import quadrants
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import read_part

TARGETS = ["valence", "arousal"]
LABELS = {2: (3.1, 3), 3: (3.5, 3.3), 10: (9, 1)}
MORE = {2001: (3.2, 6.6)}
AUDIO = ["2.mp3", "3.mp3", "10.mp3", "2001.mp3"]


def defaults(section):
    return {
        path.removeprefix(f"{section}."): value
        for path, value in CORPUS_DEFAULTS["deam"].items()
        if path.startswith(f"{section}.")
    }


def load(root, targets=TARGETS, **settings):
    return load_corpus(DataSettings(corpus="deam", root=str(root), **(defaults("data") | settings)), targets)


@pytest.fixture
def tree(tmp_path):
    return write_deam(tmp_path / "deam", LABELS, MORE, AUDIO)


@pytest.fixture(scope="module")
def all_songs(tmp_path_factory):
    """As many songs as are published, 1,744 and 58, with labels spread as there: around 5, valence with arousal."""
    rng = np.random.default_rng(0)
    arousal = rng.normal(4.8, 1.3, size=1802)
    valence = 0.6 * arousal + rng.normal(2.0, 0.95, size=1802)
    labels = np.clip(np.stack([valence, arousal], axis=1), 1, 9).round(2).tolist()
    numbers = sorted(rng.choice(np.arange(2, 2001), 1744, replace=False).tolist()) + list(range(2001, 2059))
    songs = dict(zip(numbers, map(tuple, labels), strict=True))
    first = {song: label for song, label in songs.items() if song <= 2000}
    second = {song: label for song, label in songs.items() if song > 2000}
    return write_deam(tmp_path_factory.mktemp("deam"), first, second, [f"{song}.mp3" for song in songs])


def test_both_tables_are_read_and_labels_centred(tree):
    corpus = load(tree)
    assert (corpus.name, corpus.root, corpus.notes) == ("deam", str(tree), [])
    assert [clip.id for clip in corpus.clips] == [f"MEMD_audio/{name}" for name in AUDIO]
    published = [*LABELS.values(), *MORE.values()]
    np.testing.assert_allclose([clip.targets for clip in corpus.clips], (np.array(published) - 5) / 4, atol=1e-12)
    assert all((clip.group, clip.fold, clip.split) == (None, None, None) for clip in corpus.clips)


def test_targets_by_name_in_their_order_or_by_column(tree):
    assert [clip.targets for clip in load(tree, ["arousal"]).clips][2] == (-1.0,)
    deviation = load(tree, ["spread"], target_columns=["valence_std"], target_range=None)
    assert [clip.targets for clip in deviation.clips] == [(0.94,), (0.94,), (0.94,), (0.98,)]


def test_recordings_are_matched_by_stem_whatever_their_extension(tmp_path):
    audio = ["2.wav", "3.FLAC", "10.ogg", "2001.mp3", "._2.mp3", "2.txt", "Thumbs.db"]
    corpus = load(write_deam(tmp_path, LABELS, MORE, audio))
    assert [clip.id for clip in corpus.clips] == [f"MEMD_audio/{name}" for name in audio[:4]]
    assert corpus.notes == []


def test_songs_without_recording_stay_and_recordings_without_label_go_with_a_note(tmp_path):
    corpus = load(write_deam(tmp_path, LABELS, MORE, ["2.wav", "2001.mp3", "77.mp3", "new.wav"]))
    names = ["2.wav", "3.mp3", "10.mp3", "2001.mp3"]
    assert [clip.id for clip in corpus.clips] == [f"MEMD_audio/{name}" for name in names]
    assert corpus.notes == ["2 recordings in MEMD_audio have no label and are left out: 77.mp3, new.wav"]


@pytest.fixture
def with_artists(tmp_path):
    songs = dict.fromkeys(DEAM_ARTISTS, (5, 5))
    first = {song: songs[song] for song in songs if song <= 2000}
    second = {song: songs[song] for song in songs if song > 2000}
    root = write_deam(tmp_path / "deam", first, second, [f"{song}.mp3" for song in songs])
    return write_deam_metadata(root, DEAM_ARTISTS)


def test_artists_come_from_the_metadata(with_artists):
    corpus = load(with_artists, group_column="artist")
    assert {int(Path(clip.id).stem): clip.group for clip in corpus.clips} == DEAM_GROUPS
    assert corpus.notes == ["1 songs have no artist in metadata: each is a group of its own"]
    genres = {int(Path(clip.id).stem): clip.group for clip in load(with_artists, group_column="genre").clips}
    assert genres == {2: "Blues", 3: "Blues", 10: "Blues", 1001: "SoulRB-Blues", 1002: "SoulRB-Blues", 2001: "folk"}
    assert all(clip.group is None for clip in load(with_artists).clips)


HEADERS = {
    2013: "song_id,file_name,Artist,Song title,start of the segment (min.sec),end of the segment (min.sec),Genre",
    2014: "Id,Artist,Album,Track,Genre,segment start,segment end,last.fm labels",
    2015: "id,Filename,title,artist,album,genre,",
}
LINES = {  # line by song -> its artist and its genre as a reader sees them; None where a line has several readings
    "2,2.mp3,Ann,One,0.45,1.30,Rock": ("Ann", "Rock"),
    "3,3.mp3,Ann,10,000,0.45,1.30,Rock": ("Ann", None),
    "4,4.mp3,Ann,One, two, three,0.45,1.30,Rock": ("Ann", "Rock"),
    "5,5.mp3,Ann,90,0.45,1.30,Rock": ("Ann", "Rock"),
    "1001,Ben,Album, part two,Song,Pop,0,45,a,b": ("Ben", "Pop"),
    "1002,Ben,Album,Song,Pop,0,45": ("Ben", "Pop"),
    "1003,Ben,One,two,Song,Pop,0,45,2007,2008": ("Ben", None),
    "1004,Ben, violin; Eve, piano,Album,1,2,Classical,0.5,45.5,,,": ("Ben", None),
    "1005,Ben, violin,Album,99,Classical,0.5,45.5, GO!,x,,,": ("Ben", None),
    "2001,a.mp3,Hello, Goodbye,Cat,Best,Jazz,": ("Cat", "Jazz"),
    "2002,b.mp3,Hello,Goodbye,Cat,Best,Jazz,": (None, None),
    "2003,c.mp3,Again,Cat,n/a,Jazz,": ("Cat", "Jazz"),
    '2004,d.mp3,"Hello,Goodbye",Cat,"One, two",Jazz,': ("Cat", "Jazz"),
    "2005,80504,Hello,Goodbye,Cat,n/a,folk,vocal,male,,,": (None, None),
    "2006,80504,Again,Cat,Best, of all,groove,indie,vocal,,,": ("Cat", "groove"),
    "2007,80504,Again,No, Really,n/a,folk,,": ("No", "folk"),
    "2008,80504,Hello,Goodbye,Cat,n/a,": (None, None),
    "2009,80504,Rap,Rock,Pop,Jazz,Cat,Best,folk,male,": (None, None),
    "2010,80504,Again,Cat": (None, None),
}


@pytest.mark.parametrize("column", ["artist", "genre"])
def test_a_comma_within_a_name_gives_no_other_cell_for_an_artist_or_genre(tmp_path, column):
    seen = {int(line.split(",")[0]): line for line in LINES}
    first, second = ({song: (5, 5) for song in seen if (song > 2000) == late} for late in (False, True))
    root = write_deam(tmp_path, first, second, [f"{song}.mp3" for song in seen])
    for year, header in HEADERS.items():
        lines = [line for song, line in seen.items() if 1000 * (year - 2013) < song <= 1000 * (year - 2012)]
        write_tree(root, {f"metadata/metadata_{year}.csv": "\n".join([header, *lines, ""])})
    corpus = load(root, group_column=column)
    wanted = {song: LINES[line][column == "genre"] for song, line in seen.items()}
    assert {int(Path(clip.id).stem): clip.group for clip in corpus.clips} == {
        song: value or f"song {song}" for song, value in wanted.items()
    }
    doubtful = [song for song, value in wanted.items() if value is None]
    known = {"artist": "metadata_2015.csv:3, metadata_2015.csv:6, ", "genre": "metadata_2013.csv:3, "}[column]
    assert len(corpus.notes) == 2
    assert corpus.notes[0] == f"{len(doubtful)} songs have no {column} in metadata: each is a group of its own"
    assert corpus.notes[1].startswith(
        f"{len(doubtful)} lines of the metadata do not fit its columns, as with a comma within a name, so that their "
        f"{column} is not known: {known}"
    )


def test_spellings_of_one_artist_are_one_group(tmp_path):
    artists = {
        2: "Ergo Phizmiz",
        3: "ergo phizmiz",
        4: "Jean\u2013Luc Ponty",
        1001: "Jean-Luc  Ponty",
        1002: "Digi G\u2019Alessio",
        1003: "Digi G'Alessio",
        1004: "circus marcus\u2013Aux puces",
        1005: "Circus Marcus",
        1006: "Circus Marcus-Valse",
        1007: "Har You",
        1008: "Har-You",
        1009: "Har-Mony",
        2001: "ERGO PHIZMIZ",
        2002: "!!!",
        2003: "???",
    }
    first, second = ({song: (5, 5) for song in artists if (song > 2000) == late} for late in (False, True))
    root = write_deam(tmp_path, first, second, [f"{song}.mp3" for song in artists])
    corpus = load(write_deam_metadata(root, artists), group_column="artist")
    songs_of = {}
    for clip in corpus.clips:
        songs_of.setdefault(clip.group, []).append(int(Path(clip.id).stem))
    assert songs_of == {
        "Ergo Phizmiz": [2, 3, 2001],
        "Jean\u2013Luc Ponty": [4, 1001],
        "Digi G\u2019Alessio": [1002, 1003],
        "circus marcus": [1004, 1005, 1006],
        "Har": [1007, 1008, 1009],
        "!!!": [2002],
        "???": [2003],
    }


def test_wrong_metadata_is_told(with_artists):
    with pytest.raises(
        ValueError, match=r"data.group_column: no column 'Artist' in .*_2013.csv; did you mean 'artist'"
    ):
        load(with_artists, group_column="Artist")
    (with_artists / "metadata" / "metadata_2014.csv").unlink()
    with pytest.raises(
        ValueError,
        match=r"data.root: expected the file 'metadata_2014.csv' in .*/metadata, found metadata_2013.csv, .*; it holds "
        r"'artist'; to go without: data.group_column=null",
    ):
        load(with_artists, group_column="artist")


def test_no_artist_is_on_two_sides_of_a_split_by_artist(all_songs):
    """As many songs as published by 600 artists, of whom a few have many songs."""
    rng = np.random.default_rng(1)
    numbers = [int(Path(clip.id).stem) for clip in load(all_songs).clips]
    artists = {song: f"artist {int(600 * rng.random() ** 2)}" for song in numbers}
    write_deam_metadata(all_songs, artists)
    clips = load(all_songs, group_column="artist").clips
    settings = SplitSettings(**(defaults("split") | {"method": "grouped"}))
    parts = split_clips(clips, settings).parts()
    groups = {name: {artists[int(Path(clip.id).stem)] for clip in part} for name, part in parts.items()}
    assert not groups["train"] & groups["val"] | groups["train"] & groups["test"] | groups["val"] & groups["test"]
    assert [len(part) for part in parts.values()] == pytest.approx([1261, 270, 271], abs=5)
    with pytest.raises(ValueError, match=r"split.method: 'random' puts \d+ groups into more than one part.*=grouped"):
        split_clips(clips, SplitSettings(**defaults("split")))


@pytest.mark.parametrize(
    ("labels", "more", "audio", "settings", "message"),
    [
        (
            LABELS | {3: (9.2, 3)},
            MORE,
            AUDIO,
            {},
            r"data.target_range: expected 1 to 9 in column 'valence_mean', got 9.2 at .*songs_1_2000.csv:3$",
        ),
        (LABELS, {2001: (5, 0)}, AUDIO, {}, r"expected 1 to 9 in column 'arousal_mean', got 0 at .*2000_2058.csv:2$"),
        (LABELS | {3: ("", 3)}, MORE, AUDIO, {}, r"expected a number in column 'valence_mean', got '' at .*csv:3$"),
        (LABELS, MORE | {3: (5, 5)}, AUDIO, {}, r"song_id 3 is listed twice, at .*1_2000.csv:3 and .*2000_2058.csv:3$"),
        (LABELS | {"02": (5, 5)}, MORE, AUDIO, {}, r"data.root: song_id 2 is listed twice, at .*csv:2 and .*csv:5$"),
        (
            LABELS | {"2a": (5, 5)},
            MORE,
            AUDIO,
            {},
            r"expected a whole number in column 'song_id', got '2a' at .*csv:5$",
        ),
        (
            LABELS,
            MORE,
            [*AUDIO, "3.wav"],
            {},
            r"data.root: expected one recording of '3' in .*MEMD_audio, got 3.mp3 and 3.wav$",
        ),
        (LABELS, MORE, ["readme.txt"], {}, r"data.root: no recordings \(.*\.mp3.*\) in .*MEMD_audio$"),
        (
            LABELS,
            MORE,
            ["song2.mp3"],
            {},
            r"none of the 1 recordings in MEMD_audio has a label; expected names such as '2.mp3', got 'song2.mp3'",
        ),
        (
            LABELS,
            MORE,
            AUDIO,
            {"group_column": "artist"},
            r"data.root: expected the folder 'metadata' in .*; it holds 'artist'; to go without: data.group_column=nu",
        ),
        (LABELS, MORE, AUDIO, {"target_columns": ["x"]}, r"data.target_columns: expected one column for each of task"),
        (
            LABELS,
            MORE,
            AUDIO,
            {"target_columns": ["valence_mean", "arousal_men"]},
            r"data.target_columns: no column 'arousal_men' in .*csv; did you mean 'arousal_mean'",
        ),
    ],
)
def test_errors_name_the_setting_and_the_place(tmp_path, labels, more, audio, settings, message):
    root = write_deam(tmp_path, labels, more, audio)
    with pytest.raises(ValueError, match=message):
        load(root, **settings)


def test_what_is_missing_of_the_layout_is_named_with_what_is_there(tree):
    (tree / "MEMD_audio").rename(tree / "MEMD-audio")
    with pytest.raises(
        ValueError,
        match=r"data.root: expected one of the folders 'MEMD_audio', .* in .*/deam, found MEMD-audio, annotations; "
        r"did you mean 'MEMD-audio'\?$",
    ):
        load(tree)
    (tree / "MEMD-audio").rename(tree / "MEMD_audio")
    (tree / SECOND).rename(tree / "songs_2000_2058.csv")
    with pytest.raises(
        ValueError,
        match=r"expected the file 'static_annotations_averaged_songs_2000_2058.csv' in .*/song_level, "
        r"found static_annotations_averaged_songs_1_2000.csv",
    ):
        load(tree)
    (tree / "songs_2000_2058.csv").rename(tree / SECOND)
    (tree / FIRST).write_text((tree / FIRST).read_text().replace(" valence_mean", " valence"))
    with pytest.raises(ValueError, match=r"data.root: no column 'valence_mean' in .*; did you mean 'valence"):
        load(tree)


def test_the_documented_split_of_all_songs(all_songs):
    corpus = load(all_songs)
    settings = SplitSettings(**defaults("split"))
    split = split_clips(corpus.clips, settings)
    assert (split.method, settings.seed) == ("random", 42)
    assert [len(part) for part in split.parts().values()] == [1261, 270, 271]
    assert any("nothing keeps them apart" in note for note in split.notes)
    quadrant_of = dict(zip((clip.id for clip in corpus.clips), quadrants(corpus.clips, "zero"), strict=True))
    for clip in corpus.clips:
        assert quadrant_of[clip.id] == (clip.targets[0] >= 0) + 2 * (clip.targets[1] >= 0)
    overall = np.bincount(list(quadrant_of.values()), minlength=4)
    assert overall.min() < 0.7 * overall.max()  # not what the medians would give by themselves
    for part in split.parts().values():
        counts = np.bincount([quadrant_of[clip.id] for clip in part], minlength=4)
        np.testing.assert_allclose(counts, overall * len(part) / 1802, atol=1.5)


def test_the_split_is_the_same_in_any_order_and_with_any_extension(all_songs):
    clips = load(all_songs).clips
    split = split_clips(clips, SplitSettings(**defaults("split")))
    other_clips = [Clip(clip.id.replace(".mp3", ".wav"), clip.targets) for clip in clips]
    other = split_clips(random.Random(1).sample(other_clips, len(clips)), SplitSettings(**defaults("split")))
    for name, part in split.parts().items():
        assert {Path(clip.id).stem for clip in part} == {Path(clip.id).stem for clip in other.parts()[name]}


def test_prepared_from_recordings_with_one_missing(tmp_path, ray_session):
    rng = np.random.default_rng(0)
    songs = {song: tuple(rng.uniform(1, 9, size=2).round(1)) for song in [*range(2, 12), 2001, 2002]}
    first = {song: label for song, label in songs.items() if song <= 2000}
    second = {song: label for song, label in songs.items() if song > 2000}
    audio = {f"{song}.wav": encode(tone(0.8, seed=song)) for song in songs if song != 7}
    root = write_deam(tmp_path / "deam", first, second, audio)
    data = DataSettings(
        corpus="deam",
        root=str(root),
        prepared=str(tmp_path / "prepared"),
        max_quarantined_share=0.1,
        **defaults("data"),
    )
    corpus: Corpus = load_corpus(data, TARGETS)
    split = split_clips(corpus.clips, SplitSettings(**defaults("split")))
    assert [len(part) for part in split.parts().values()] == [8, 1, 3]
    prepared = prepare(corpus, partition_of(corpus.clips, split), SMALL, 24, data)
    assert prepared.quarantine == [("MEMD_audio/7.mp3", "missing")]
    assert Path(prepared.quarantine_table).read_text() == "clip,reason\nMEMD_audio/7.mp3,missing\n"
    assert prepared.num_extracted == 11
    left = without(split, ["MEMD_audio/7.mp3"])
    part = read_part(prepared, left.train, sealed=[clip.id for clip in left.test])
    assert set(part.ids.tolist()) == {clip.id for clip in left.train}
    published = [songs[int(Path(clip).stem)] for clip in part.ids.tolist()]
    np.testing.assert_allclose(part.targets, (np.array(published) - 5) / 4, atol=1e-6)
