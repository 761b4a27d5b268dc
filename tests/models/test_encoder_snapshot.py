"""Which files of a pretrained model's folder tell it from another, and the commit that a hub name stands for."""

import os
import shutil

import pytest

from tuning.models.pretrained import content_of, snapshot_of

# As models are published: whole and sharded weights, vocabularies of WordPiece, BPE, SentencePiece and others.
READ = [
    "config.json", "preprocessor_config.json", "model.safetensors", "model-00001-of-00002.safetensors",
    "model.safetensors.index.json", "pytorch_model.bin", "weights.pt", "tokenizer.json", "vocab.txt", "merges.txt",
    "bpe.codes", "spiece.model", "source.spm", "chat_template.jinja",
]  # fmt: skip
NOT_READ = ["README.md", ".gitattributes", "onnx/model.onnx"]


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    for name in (*READ, *NOT_READ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize("name", READ)
def test_a_file_that_loading_may_read_is_part_of_the_content(model, name):
    before = content_of(str(model))
    (model / name).write_bytes(b"something else")
    changed = content_of(str(model))
    (model / name).unlink()
    assert len({before, changed, content_of(str(model))}) == 3


def test_neither_the_folders_name_nor_times_nor_other_files_are(model, tmp_path):
    before = content_of(str(model))
    copy = tmp_path / "elsewhere"
    shutil.copytree(model, copy)
    for name in READ:
        os.utime(copy / name, (1, 1))
    for name in NOT_READ:
        (copy / name).unlink()
    assert content_of(str(copy)) == before == snapshot_of(str(model))


def test_a_hub_name_counts_with_the_commit_that_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert (content_of("some/bert"), snapshot_of("some/bert")) == ("some/bert", "")
    for commit in ("a" * 40, "b" * 40):
        repository = tmp_path / "models--some--bert"
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        assert (content_of("some/bert"), snapshot_of("some/bert")) == (f"some/bert@{commit}", commit)


def test_a_folder_that_is_gone_is_not_looked_for_on_the_hub(tmp_path):
    assert snapshot_of(str(tmp_path / "gone")) == "" and content_of("../gone") == "../gone"
