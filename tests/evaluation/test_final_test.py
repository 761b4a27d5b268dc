"""After the search: the winner retrained, tested once on clips that the search could not read, and recorded."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import r2_score

from tests.helpers.command import TINY, run
from tuning.cli import finalize
from tuning.config.errors import UserError
from tuning.evaluation.final_test import finalize as finalize_search
from tuning.experiment.directory import SearchFolder
from tuning.experiment.reading import read_config, with_new_names
from tuning.experiment.recorded import config_of, space_of


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory, prepared):
    """Folder of a finished search on the demo corpus."""
    folder = tmp_path_factory.mktemp("job")
    arguments = (f"storage={folder}", f"data.prepared={prepared}", "search.num_trials=2", *TINY)
    run(*arguments)
    return folder / "crnn"


def test_the_winner_is_tested_once_and_the_look_is_recorded(finished, capsys):
    assert finalize.main([str(finished)]) == 0
    output = capsys.readouterr().out
    assert "on 200 clips" in output and "40 sealed clips" in output
    best = finished / "best"
    names = {"config.yaml", "model.safetensors", "labels.json", "features.json", "metrics.json", "test_predictions.csv"}
    names |= {"history.png", "scatter.png", "MODEL_CARD.md"}
    assert {path.name for path in best.iterdir()} == names
    metrics = json.loads((best / "metrics.json").read_text())
    first = next(csv.DictReader((finished / "leaderboard.csv").open()))
    assert metrics["trial"] == int(first["trial"]) and metrics["epochs"] == int(first["best_epoch"])
    rows = list(csv.DictReader((best / "test_predictions.csv").open()))
    wanted, found = (np.array([float(row[name]) for row in rows]) for name in ("arousal", "predicted_arousal"))
    assert metrics["test"]["test_r2_arousal"] == pytest.approx(r2_score(wanted, found), abs=1e-5)
    card = (best / "MODEL_CARD.md").read_text()
    few = "no interval: 4 speakers or artists in the test, at least 10 needed"
    assert few in output.splitlines() and few in card
    assert metrics["bootstrap"] == {"groups": 4, "confidence": 0.95, "intervals": {}, "basis": few}
    assert f"| r2_arousal | {metrics['test']['test_r2_arousal']:.3f} |  |" in card
    assert "| training | 200 | 20 |" in card and "None" not in card
    assert finalize.main([str(finished)]) == 2
    assert "nobody has looked at, got one tested on" in capsys.readouterr().err
    assert finalize.main([str(finished), "again=true"]) == 0
    looks = json.loads((finished / "test_looks.json").read_text())
    assert len(looks) == 2 and looks[0]["metrics"] == looks[1]["metrics"]  # the same seed, the same model


def test_saved_weights_give_the_saved_predictions(finished, prepared):
    import torch
    from omegaconf import OmegaConf
    from safetensors.torch import load_file

    from tuning.config.schema import parse_config
    from tuning.datasets.features.audio import decode
    from tuning.datasets.features.frames import num_samples
    from tuning.datasets.features.spectral import extract
    from tuning.training.trial import build_model

    if not (finished / "best").exists():
        finalize.main([str(finished)])
    best = finished / "best"
    config = parse_config(OmegaConf.to_container(OmegaConf.load(best / "config.yaml")))
    features = json.loads((best / "features.json").read_text())
    model = build_model(config, len(features["mean"]))
    model.load_state_dict(load_file(best / "model.safetensors"))
    model.eval()
    row = next(csv.DictReader((best / "test_predictions.csv").open()))
    file = next((prepared / "corpora").glob("demo-*")) / row["clip"]
    keep = num_samples(config.features.num_frames, config.features)
    waveform = decode(file.read_bytes(), config.features.sample_rate_hz, config.data, keep, "middle")
    values, _ = extract(waveform, config.features, config.features.num_frames)
    normal = (values - np.array(features["mean"])) / np.array(features["std"])
    with torch.no_grad():
        valence, arousal = model(torch.from_numpy(normal.astype(np.float32))[None])[0].tolist()
    assert valence == pytest.approx(float(row["predicted_valence"]), abs=1e-4)
    assert arousal == pytest.approx(float(row["predicted_arousal"]), abs=1e-4)


def test_several_trials_predict_their_mean(finished, capsys):
    if not (finished / "best").exists():
        finalize.main([str(finished)])
    alone = predictions(finished)
    assert finalize.main([str(finished), "ensemble=2", "again=true"]) == 0
    first, second = (int(row["trial"]) for row in csv.DictReader((finished / "leaderboard.csv").open()))
    assert f"trials {first}, {second} predict together" in capsys.readouterr().out
    together = predictions(finished)
    other = 2 * together - alone  # what the second one must have said
    assert np.abs(other - alone).max() > 1e-3
    metrics = json.loads((finished / "best" / "metrics.json").read_text())
    assert metrics["ensemble"] == [first, second]
    looks = json.loads((finished / "test_looks.json").read_text())
    assert metrics["winner_alone"] == looks[0]["metrics"] and looks[-1]["ensemble"] == [first, second]
    assert (finished / "best" / "members" / f"{second:04d}" / "model.safetensors").exists()
    assert finalize.main([str(finished), "ensemble=3", "again=true"]) == 2
    assert "ensemble: expected at most the 2 trials with a result, got 3" in capsys.readouterr().err
    assert finalize.main([str(finished), "ensemble=x"]) == 2


def test_a_search_of_an_earlier_version_is_read_by_the_names_of_then(finished, tmp_path):
    shutil.copytree(finished, copy := tmp_path / "crnn", ignore=shutil.ignore_patterns("best"))
    for file in (copy / "config.yaml", *copy.glob("trials/*/params.json")):
        text = file.read_text()
        assert "pooled_seconds" in text and "encoder_layers" in text
        file.write_text(text.replace("pooled_seconds", "encoder_seconds").replace("encoder_layers", "encoder_layer"))
    then, now = (SearchFolder(path.parent, "crnn") for path in (copy, finished))
    number = now.records()[0].number
    assert space_of(then) == space_of(now) and config_of(then, number) == config_of(now, number)
    assert [record.params for record in then.records()] == [record.params for record in now.records()]
    saved = read_config("config.yaml", {"features": {"name": "encoder", "encoder": "x", "encoder_layer": 3}})
    assert saved.features.encoder_layers == 3
    searched = {"features.encoder_layer": {"choice": [1, 2]}, "optim": {"learning_rate": 1}}
    points = {"search": {"points_to_evaluate": [{"features": {"encoder_seconds": 3}}, {"features.encoder_seconds": 4}]}}
    assert with_new_names(searched | points) == {
        "features.encoder_layers": {"choice": [1, 2]},
        "optim": {"learning_rate": 1},
        "search": {"points_to_evaluate": [{"features": {"pooled_seconds": 3}}, {"features.pooled_seconds": 4}]},
    }


@pytest.mark.slow
def test_the_best_trials_are_repeated_with_other_seeds(finished, tmp_path, capsys):
    shutil.copytree(finished, copy := tmp_path / "crnn", ignore=shutil.ignore_patterns("best", "test_looks.json"))
    assert finalize.main([str(copy), "top=2", "seeds=2"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((copy / "best" / "metrics.json").read_text())
    repeated = metrics["repeated"]
    assert repeated["seeds"] == [43, 44]
    records = {record.number: record for record in SearchFolder(tmp_path, "crnn").records()}
    means = {number: np.mean(scores) for number, scores in repeated["scores"].items()}
    assert str(metrics["trial"]) == str(repeated["winner"]) == min(means, key=means.get)
    for number, scores in repeated["scores"].items():
        assert len(scores) == 2 and len({*scores, records[int(number)].metrics["val_loss"]}) == 3
        assert f"trial {number}: val_loss {means[number]:.4f} ± " in printed
    own = next((copy / "replicates").glob("*/trials"))
    configs = [json.loads((own / f"{n:04d}" / "params.json").read_text())["config"] for n in (1, 2, 3, 4)]
    assert [config["seed"] for config in configs] == [43, 44, 43, 44]
    first = next(iter(repeated["scores"]))
    as_searched = json.loads((copy / "trials" / f"{int(first):04d}" / "params.json").read_text())["config"]
    sections = ("features", "model", "optim", "loss", "training")
    assert all(configs[0][section] == as_searched[section] for section in sections)

    written = {path: path.stat().st_mtime_ns for path in own.rglob("result.json")}
    assert len(written) == 4
    assert finalize.main([str(copy), "top=2", "seeds=2", "again=true"]) == 0
    assert {path: path.stat().st_mtime_ns for path in own.rglob("result.json")} == written
    assert metrics["bootstrap"]["groups"] == 4 and not metrics["bootstrap"]["intervals"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("top=3", "top: expected at most the 2 trials with a result, got 3"),
        ("top=x", "top: expected a number from 1, got 'x'"),
        ("seeds=3", "seeds: expected top=K with at least 2 trials to repeat, got none"),
        ("tops=3", "tops: no such option; did you mean 'top'?"),
    ],
)
def test_wrong_options_are_refused(finished, tmp_path, capsys, option, message):
    import shutil

    shutil.copytree(finished, copy := tmp_path / "crnn", ignore=shutil.ignore_patterns("best", "test_looks.json"))
    assert finalize.main([str(copy), option]) == 2
    assert message in capsys.readouterr().err


def predictions(folder):
    rows = list(csv.DictReader((folder / "best" / "test_predictions.csv").open()))
    return np.array([[float(row[f"predicted_{name}"]) for name in ("valence", "arousal")] for row in rows])


def test_what_is_no_finished_search_is_refused(tmp_path, capsys):
    assert finalize.main([str(tmp_path)]) == 2
    assert "expected the folder of a search" in capsys.readouterr().err
    assert finalize.main([]) == 2


def test_an_unfinished_search_is_refused(finished, tmp_path):
    import shutil

    from tuning.experiment.directory import SearchFolder

    copy = tmp_path / "crnn"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("best", "test_looks.json"))
    (copy / "trials" / "0002" / "result.json").unlink()
    progress = copy / "trials" / "0002" / "progress.csv"
    progress.write_text("".join(progress.read_text().splitlines(keepends=True)[:-1]))  # its last epoch is not there
    with pytest.raises(UserError, match=r"trials that have not ended \(\[2\]\)"):
        finalize_search(SearchFolder(tmp_path, "crnn"))


def test_a_retraining_that_diverges_leaves_nothing(finished, tmp_path, monkeypatch, capsys):
    import shutil

    import torch

    from tuning.evaluation import final_test

    copy = tmp_path / "crnn"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("best", "test_looks.json"))
    before = {file.relative_to(copy) for file in copy.rglob("*")}
    monkeypatch.setattr(final_test, "compute", lambda config, function, *arguments: function(*arguments))
    monkeypatch.setattr(final_test, "assigned_to_task", lambda: (torch.device("cpu"), True))
    real = final_test.validation_outputs
    monkeypatch.setattr(final_test, "validation_outputs", lambda best, data: real(best, data) * np.nan)
    assert finalize.main([str(copy)]) == 2
    printed = capsys.readouterr()
    assert (
        "expected a retraining whose model gives finite outputs, got NaN or infinite ones for 40 of 40" in printed.err
    )
    left = {str(file.relative_to(copy)) for file in copy.rglob("*")} - {str(name) for name in before}
    assert not [name for name in left if "best" in name or "looks" in name], left
