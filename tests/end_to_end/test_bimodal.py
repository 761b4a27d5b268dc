"""Songs with lyrics through the whole job: search, folds, finalize, reproduce, predict, and what must not happen."""

import csv
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.command import run
from tests.helpers.ranking import ranking
from tests.helpers.tiny_bert import write_encoder
from tuning.cli.predict import main as predict
from tuning.config.errors import UserError
from tuning.config.loader import load
from tuning.config.schema import parse_config
from tuning.data import text as text_stage
from tuning.data.plan import make_plan, read_corpus
from tuning.data.text import encode_text, prepare_texts
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.demo import songs as demo_bimodal
from tuning.datasets.demo import text_encoder as demo_encoder
from tuning.datasets.features import library_versions as versions
from tuning.datasets.loaders.text import Texts
from tuning.experiment.directory import read_progress
from tuning.run import main as tune

SMALL = (
    "space=bimodal", "model.channels=[2, 4]", "model.se_reduction=2", "model.convs_per_block=1",
    "model.audio_units=[8, 8]", "model.text_units=8", "model.head_units=[]", "training.epochs=3",
    "features.num_frames=32", "features.num_mels=16", "resources.gpus_per_worker=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Where few songs are made and prepared; what their encoder learns is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_bimodal, "NUM_ARTISTS", 8)
        patch.setattr(demo_encoder, "STEPS", 2)
        patch.setattr(demo_encoder, "NUM_LYRICS", 50)
        folder = tmp_path_factory.mktemp("prepared")
        read_corpus(make_plan(["space=bimodal", f"data.prepared={folder}"]).config)
    return folder


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory, prepared):
    """A search over all that a text may be read as."""
    folder = tmp_path_factory.mktemp("results")
    kinds = "{choice: [concat, gated, cross_attention]}"
    layers, cached = "model.text_layers={choice: [0, 1, -1]}", "model.text_pooling={choice: [cls, mean]}"
    drawn = [
        {"model.text_layers": 0, "model.fusion": "cross_attention", "model.text_pooling": "mean"},
        {"model.text_layers": 0, "model.fusion": "concat", "model.text_pooling": "cls"},
        {
            "model.text_layers": -1, "model.fusion": "gated", "model.text_pooling": "mean",
            "optim.encoder_learning_rate": 1e-4,
        },
    ]  # fmt: skip
    points = f"search.points_to_evaluate={json.dumps(drawn)}"
    given = (*SMALL, f"model.fusion={kinds}", layers, cached, points, "search.num_trials=3")
    output = run(*given, f"storage={folder}", f"data.prepared={prepared}", "name=songs")
    return folder / "songs", given, output


def test_every_way_of_reading_texts_trains_and_is_prepared_once(searched, prepared):
    folder, given, output = searched
    rows = list(csv.DictReader((folder / "leaderboard.csv").open()))
    assert sorted(row["status"] for row in rows) == ["done"] * 3
    assert "80 recordings prepared, 0 reused" in output
    # States of all tokens, of the first, their mean, and the tokens themselves; for each of 80 songs.
    assert "320 lyrics prepared in 4 variants, 0 reused" in output
    points = next(a for a in given if a.startswith("search.points_to_evaluate="))
    first = json.dumps(json.loads(points.partition("=")[2])[:1])
    fewer = (*(a for a in given[:-1] if a != points), f"search.points_to_evaluate={first}", "search.num_trials=1")
    again = run(*fewer, f"storage={folder.parent}", f"data.prepared={prepared}", "name=again")
    assert "nothing to prepare: all 80 recordings are reused, all 320 lyrics in 4 variants are reused" in again
    (found,) = ranking(folder.parent / "again")
    first = next(row for row in ranking(folder) if row["trial"] == "1")  # with a column of settings that it has not
    assert found == {name: first[name] for name in found} | {"rank": "1"}


@pytest.mark.slow
def test_lyrics_of_test_clips_are_sealed(searched, prepared, tmp_path):
    folder, given, _ = searched
    kept = tmp_path / "prepared"
    shutil.copytree(prepared, kept)
    sealed = list((kept / "texts").glob("*/test-*.parquet"))
    assert len(sealed) == 4
    for shard in sealed:
        shard.write_bytes(b"sealed")
    run(*given, f"storage={tmp_path}", f"data.prepared={kept}", "name=blind")
    assert ranking(tmp_path / "blind") == ranking(folder)


def test_the_best_epochs_weights_are_kept_not_the_lasts(searched):
    """`state_dict().copy()` would hold the last epoch's tensors under the best one's name."""
    folder, _, _ = searched
    seen = 0
    for trial in sorted((folder / "trials").glob("0*")):
        rows = read_progress(trial)
        best = torch.load(trial / "checkpoints" / "best.pt", weights_only=True)
        last = torch.load(trial / "checkpoints" / "last.pt", weights_only=True)
        losses = [float(row["val_loss"]) for row in rows]
        assert best["row"]["epoch"] == int(np.argmin(losses)) + 1
        assert best["row"]["val_loss"] == min(losses)
        equal = all(torch.equal(best["model"][name], last["model"][name]) for name in last["model"])
        assert equal == (best["row"]["epoch"] == len(rows))
        seen += not equal
    config = json.loads((folder / "trials" / "0001" / "params.json").read_text())["config"]
    assert config["optim"]["clip_norm"] == 1.0


def test_winner_is_retrained_tested_reproduced_and_predicts(searched, prepared, tmp_path, capsys):
    from tuning.cli.finalize import main as finalize
    from tuning.cli.reproduce import main as reproduce

    folder, _, _ = searched
    for number in ("1", "3"):  # cached states; an encoder that is trained
        assert reproduce([str(folder), number]) == 0
        assert "equal     to the last bit" in capsys.readouterr().out
    assert finalize([str(folder)]) == 0
    best = folder / "best"
    config = parse_config(json.loads(json.dumps(_yaml(best / "config.yaml"))))
    weights = load_file(best / "model.safetensors")
    assert any("text.encoder" in name for name in weights) == (config.model.text_input == "tokens")
    # Without the corpus's own encoder: what it takes to read lyrics lies in best/.
    moved = tmp_path / "best"
    shutil.copytree(best, moved)
    rows = list(csv.DictReader((best / "test_predictions.csv").open()))
    corpus = prepared / "corpora" / "demo_bimodal-1"
    capsys.readouterr()
    clip = rows[0]["clip"]
    song, words = tmp_path / "song.wav", tmp_path / "song.txt"
    shutil.copy(corpus / clip, song)
    lyrics = (corpus / "lyrics" / clip.removeprefix("audio/")).with_suffix(".txt")
    shutil.copy(lyrics, words)
    hidden = corpus / "encoder"
    hidden.rename(corpus / "away")
    try:
        assert predict([str(moved), str(song), "format=json"]) == 0
        found = json.loads(capsys.readouterr().out)[0]
        for target in ("valence", "arousal"):
            assert found[target] == pytest.approx(float(rows[0][f"predicted_{target}"]), abs=1e-5)
        words.write_text("sorrow grief tears\n" * 10)
        assert predict([str(moved), str(song), "format=json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["valence"] != found["valence"]
        assert predict([str(moved), str(song), f"lyrics={tmp_path / 'nowhere'}"]) == 2
        assert "lyrics: expected a folder" in capsys.readouterr().err
        words.unlink()
        assert predict([str(moved), str(song)]) == 2
        assert "song.wav: expected its lyrics in" in capsys.readouterr().err
    finally:
        (corpus / "away").rename(hidden)


def _yaml(file):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(file))


@pytest.mark.slow
def test_cross_validation_classes_and_latency(ray_session, prepared, tmp_path):
    given = (*SMALL, "model.fusion=cross_attention", "model.text_layers=0", "search.num_trials=1")
    classes = ("task.name=classification", "loss.name=cross_entropy", "search.metric=val_uar", "split.inner_folds=2")
    second = "search.second_metric=latency_ms"
    run(*given, *classes, second, f"storage={tmp_path}", f"data.prepared={prepared}", "name=folds")
    [row] = csv.DictReader((tmp_path / "folds" / "leaderboard.csv").open())
    assert row["status"] == "done" and 0 < float(row["val_uar"]) <= 1 and float(row["latency_ms"]) > 0


@pytest.mark.slow
def test_songs_without_audio_or_lyrics_are_quarantined_with_the_reason(ray_session, prepared, tmp_path):
    from tuning.datasets.demo.songs import encoder_folder
    from tuning.datasets.settings import DataSettings

    corpus = tmp_path / "songs"
    shutil.copytree(prepared / "corpora" / "demo_bimodal-1", corpus)
    rows = list(csv.DictReader((corpus / "manifest.csv").open()))
    (corpus / rows[0]["file"]).unlink()
    (corpus / rows[1]["lyrics"]).unlink()
    (corpus / rows[2]["lyrics"]).write_bytes(b"RIFF\x00\x00\x01\x02WAVE\x00")
    (corpus / rows[3]["lyrics"]).write_bytes(b" \n ")
    (corpus / rows[4]["lyrics"]).write_bytes("Où es-tu, «chérie»?".encode("cp1252"))
    encoder = encoder_folder(DataSettings(prepared=str(prepared)))
    manifest = (
        "data.corpus=manifest", f"data.root={corpus}", "data.text_column=lyrics", "data.group_column=artist",
        f"model.text_encoder={encoder}", "model.max_tokens=32",
    )  # fmt: skip
    given = (*SMALL, "model.fusion=concat", "model.text_layers=0", "search.num_trials=1", "training.epochs=1")
    given = tuple(a for a in given if a != "training.epochs=3")
    run(*given, *manifest, f"storage={tmp_path}", f"data.prepared={tmp_path / 'prepared'}", "name=gaps")
    table = {row["clip"]: row["reason"] for row in csv.DictReader((tmp_path / "gaps" / "quarantine.csv").open())}
    expected = ["missing", "lyrics missing", "lyrics no text: NUL bytes", "lyrics empty: nothing but white space"]
    assert table == {row["file"]: reason for row, reason in zip(rows, expected, strict=False)}


def test_states_are_those_of_the_encoder_itself(tmp_path):
    """Against transformers' own forward, and pooled by a literal formula."""
    import transformers

    encoder = write_encoder(tmp_path / "bert")
    text = "the quick brown fox jumps over the lazy dog " * 9
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    wanted = tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        states = model(**wanted).last_hidden_state[0].numpy()
    count, tokens = encode_text(text, encoder, 24, "tokens", "cpu")
    assert tokens[:count, 0].tolist() == wanted["input_ids"][0].tolist() and not tokens[count:].any()
    count, found = encode_text(text, encoder, 24, "states", "cpu")
    assert count == len(states) == 24 and np.allclose(found, states, atol=1e-6)
    short, found = encode_text("the fox", encoder, 24, "states", "cpu")
    assert short < 24 and found.shape[0] == 24 and not found[short:].any()
    assert np.allclose(encode_text(text, encoder, 24, "cls", "cpu")[1], states[:1], atol=1e-6)
    assert np.allclose(encode_text(text, encoder, 24, "mean", "cpu")[1], states.sum(0)[None] / 24, atol=1e-6)


def test_a_replaced_encoder_is_loaded_anew(tmp_path):
    before = encode_text("the fox", write_encoder(tmp_path), 24, "mean", "cpu")[1]
    found = encode_text("the fox", write_encoder(tmp_path, seed=1), 24, "mean", "cpu")[1]
    assert np.abs(found - before).max() > 0.1


def test_exchanged_lyrics_of_one_size_and_time_are_read_anew_with_verify(ray_session, tmp_path):
    texts = {"a.txt": "the quick brown fox", "b.txt": "the lazy brown dog."}

    def write(*names):
        for name, text in zip(names, texts.values(), strict=True):
            (tmp_path / name).write_text(text)
            os.utime(tmp_path / name, (1, 1))

    write("a.txt", "b.txt")
    corpus = Corpus("own", str(tmp_path), [Clip(f"{n}.wav", (0.0, 0.0), text=f"{n}.txt") for n in "ab"])
    given = [*SMALL, f"model.text_encoder={write_encoder(tmp_path / 'bert')}", "model.max_tokens=8"]
    given += ["model.fusion=concat", "model.text_layers=-1", f"data.prepared={tmp_path / 'prepared'}"]

    def tokens(*more):
        prepared = prepare_texts(corpus, {"a.wav": "train", "b.wav": "train"}, load([*given, *more])[1].fixed())
        return Texts.read(prepared, {"a.wav", "b.wav"}, sealed=()).values.tolist()

    first, second = tokens()
    assert first != second
    write("b.txt", "a.txt")
    assert tokens() == [first, second]  # as documented
    assert tokens("data.verify=true") == [second, first]
    assert tokens() == [second, first]


@pytest.mark.parametrize("library", ["transformers", "tokenizers", "torch"])
def test_texts_of_another_library_are_prepared_anew(tmp_path, monkeypatch, library):
    encoder = write_encoder(tmp_path / "bert")
    settings = [SimpleNamespace(max_tokens=8, text_input=way) for way in ("tokens", "states")]
    tokens, states = (text_stage._fingerprint(encoder, one, "cpu") for one in settings)
    installed = versions.installed
    monkeypatch.setattr(versions, "installed", lambda name: "99.0" if name == library else installed(name))
    assert (text_stage._fingerprint(encoder, settings[0], "cpu") == tokens) == (library == "torch")
    assert text_stage._fingerprint(encoder, settings[1], "cpu") != states


BAD = {
    "wrong folder": (["model.text_encoder=./nowhere"], "model.text_encoder: expected a hub name or a folder"),
    "no weights": (["model.text_encoder=TMP/bare"], "model.text_encoder: expected weights"),
    "no network": (["model.text_encoder=nobody/nothing"], "hf download nobody/nothing"),
    "demo elsewhere": (["model.text_encoder=demo"], "which data.corpus=demo_bimodal brings along"),
    "too many tokens": (["model.text_encoder=TMP/bert", "model.max_tokens=4096"], "model.max_tokens: expected at most"),
    "too many tokens in some trials": (
        [
            "model.text_encoder=TMP/bert",
            "model.max_tokens=${training.batch_size}",
            "training.batch_size={choice: [16, 4096]}",
        ],
        "got 4096",
    ),
    "too many layers": (["model.text_encoder=TMP/bert", "model.text_layers=9"], "model.text_layers: expected -1"),
    "mixup": (["model.text_encoder=TMP/bert", "augment.mixup_prob=0.5"], "augment.mixup_prob: expected 0 with"),
    "random and frozen": (
        ["model.text_encoder=TMP/bert", "model.text_pretrained=false", "model.text_layers=0"],
        "text_pretrained: expected true where text_layers is 0",
    ),
    "continuous": (["model.text_encoder=TMP/bert", "model.text_layers={int: [0, 2]}"], "expected grid or choice"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_said_before_anything_is_computed(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_encoder(tmp_path / "bert")
    bare = tmp_path / "bare"
    shutil.copytree(tmp_path / "bert", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    changes, message = BAD[case]
    songs = tmp_path / "songs"
    songs.mkdir()
    (songs / "manifest.csv").write_text("file,valence,arousal\na.wav,0,0\n")
    corpus = ["data.corpus=manifest", f"data.root={songs}", "model.max_tokens=16"]
    given = dict(a.split("=", 1) for a in [*corpus, *(c.replace("TMP", str(tmp_path)) for c in changes)])
    arguments = [
        "space=bimodal",
        *(f"{key}={value}" for key, value in given.items()),
        f"storage={tmp_path / 'results'}",
    ]
    assert tune(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "results").exists()


def test_a_corpus_without_lyrics_is_refused(tmp_path):
    encoder = write_encoder(tmp_path / "bert")
    config = make_plan(
        ["space=bimodal", "data.corpus=demo", f"model.text_encoder={encoder}", "model.max_tokens=16",
         f"data.prepared={tmp_path}"]
    ).config  # fmt: skip
    with pytest.raises(UserError, match=r"data.corpus: expected lyrics for every clip with model.name=bimodal"):
        read_corpus(config)
