"""Digests of recordings, and of what is none: named with the reason, and never opened."""

import os
import socket

import pytest

from tuning.datasets.hashing import digest_files, digest_of


def test_what_is_no_file_is_named_and_never_opened(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "sound.wav").write_bytes(b"sound")
    os.mkfifo(root / "fifo.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s.wav"))
    (root / "zero.wav").symlink_to("/dev/zero")
    (root / "pipe.wav").symlink_to(root / "fifo.wav")
    (root / "folder.wav").mkdir()
    (root / "loop.wav").symlink_to("loop.wav")
    long, deep = "a" * 300 + ".wav", "/".join(["b" * 200] * 30)
    expected = {
        "fifo.wav": "not a file: a FIFO",
        "pipe.wav": "not a file: a FIFO",
        "s.wav": "not a file: a socket",
        "zero.wav": "not a file: a device",
        "folder.wav": "not a file: a folder",
        "loop.wav": "cannot be read: Too many levels of symbolic links",
        "none.wav": "missing",
        "sound.wav/below.wav": "missing",
        "nul\0.wav": "missing: no file can have a NUL in its name",
        long: "cannot be read: File name too long",
        deep: "cannot be read: File name too long",
    }
    digests, reasons = digest_files(str(root), ["sound.wav", *expected], str(tmp_path / "prepared"))
    assert digests == {"sound.wav": digest_of(b"sound")}
    assert reasons == expected


@pytest.mark.parametrize(
    "content", [b"", b"[1, 2]", b"\xff\xfe", b'{"sound.wav": 3}', b'{"sound.wav": [1, 2]}', b"null"]
)
def test_a_damaged_table_of_digests_is_named_and_made_again(tmp_path, capsys, content):
    (tmp_path / "sound.wav").write_bytes(b"sound")
    arguments = (str(tmp_path), ["sound.wav"], str(tmp_path / "prepared"))
    expected = digest_files(*arguments)
    (table,) = (tmp_path / "prepared" / "digests").iterdir()
    whole = table.read_bytes()
    table.write_bytes(content)
    assert digest_files(*arguments) == expected and table.read_bytes() == whole
    assert f"{table} is damaged" in capsys.readouterr().out
