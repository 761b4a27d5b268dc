"""What every place for files does: a local folder, a URI of one, and a bucket of an S3-compatible server."""

import itertools

import pytest

from tests.helpers.s3 import s3_server
from tuning.datasets import storage


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log"):
        yield


COUNT = itertools.count()


@pytest.fixture(params=["folder", "file", "s3"])
def place(request, tmp_path):
    """A folder that is not there yet."""
    if request.param == "s3":
        request.getfixturevalue("server")
        return f"s3://emotion/place{next(COUNT)}/some/folder"
    return f"{'file://' if request.param == 'file' else ''}{tmp_path}/some/folder"


def sizes(folder):
    return {name: found.size for name, found in storage.list_files(folder).items()}


def test_where_nothing_was_written_nothing_is(place):
    assert storage.list_names(place) == set() and storage.list_folder(place) == {} and sizes(place) == {}
    assert not storage.exists(place, "a") and storage.stat_files(place, ["a", "b/c"]) == {}
    storage.delete(place, "a")
    storage.delete_folder(place)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(place, "a")


def test_what_is_written_is_read_and_listed(place):
    content = {"a/b.txt": b"text", "a/c d.bin": bytes(range(256)), "empty": b"", "top": b"x" * 100_000}
    for name, each in content.items():
        storage.write_bytes(place, name, each)
    assert {name: storage.read_bytes(place, name) for name in content} == content
    assert sizes(place) == {name: len(each) for name, each in content.items()}
    assert storage.list_names(place) == {"empty", "top"}
    assert storage.list_folder(place) == {"a": True, "empty": False, "top": False}
    assert storage.list_folder(place, "a") == {"b.txt": False, "c d.bin": False}
    assert all(found.mtime_ns > 0 for found in storage.list_files(place).values())
    assert all(storage.exists(place, name) for name in content) and not storage.exists(place, "a")
    assert storage.read_bytes(storage.below(place, "a"), "b.txt") == b"text"


def test_a_file_is_replaced_whole(place):
    storage.write_bytes(place, "file", b"a longer text")
    storage.write_bytes(place, "file", b"short")
    assert storage.read_bytes(place, "file") == b"short" and sizes(place) == {"file": 5}


def test_files_of_many_are_looked_up_by_name(place):
    for number in range(3):
        storage.write_bytes(place, f"{number}", bytes(number))
    found = storage.stat_files(place, [str(number) for number in range(120)])
    assert {name: stat.size for name, stat in found.items()} == {"0": 0, "1": 1, "2": 2}


def test_what_is_deleted_is_gone_and_nothing_else(place):
    for name in ("a/b", "a/c", "d"):
        storage.write_bytes(place, name, b"x")
    storage.delete(place, "a/b")
    storage.delete(place, "a/b")
    assert set(sizes(place)) == {"a/c", "d"}
    storage.delete_folder(storage.below(place, "a"))
    assert set(sizes(place)) == {"d"}
    storage.delete_folder(place)
    assert sizes(place) == {}


def test_copies_lie_in_another_folder_of_the_same_storage(place):
    other = storage.below(place, "..", "other") if not storage.is_uri(place) else place.replace("/folder", "/other")
    for name in ("a/b", "c", "left"):
        storage.write_bytes(place, name, name.encode())
    storage.copy_within(place, other, ["a/b", "c"])
    assert set(sizes(other)) == {"a/b", "c"} and storage.read_bytes(other, "a/b") == b"a/b"
    storage.delete_folder(place)
    assert set(sizes(other)) == {"a/b", "c"}
