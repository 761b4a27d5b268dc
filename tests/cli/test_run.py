"""The main job from the command line, on the demo corpus: what is printed, kept, refused and gone on with."""

import csv
import json
import signal
import subprocess
import sys

import pytest

from tests.helpers.command import TINY, refusals, run, start
from tests.helpers.waiting import PATIENCE, wait_until
from tests.helpers.written_search import write_search


def ranking(folder):
    return list(csv.DictReader((folder / "leaderboard.csv").open()))


@pytest.fixture(scope="module")
def grid(ray_session, tmp_path_factory, prepared):
    """A sixth of the documented grid on the demo corpus, with few frames and epochs; storage, arguments and output."""
    storage = tmp_path_factory.mktemp("results")
    short = ("features.num_frames=16", "training.epochs=2", "model.conv_filters=[8, 8]", "model.lstm_units=[8, 4]")
    fewer = ("optim.learning_rate=0.001",)
    arguments = ("space=crnn_grid", f"storage={storage}", f"data.prepared={prepared}", *short, *fewer)
    return storage, arguments, run(*arguments)


@pytest.mark.parametrize("whole", [True, False])
def test_a_grid_is_exactly_its_trials(grid, whole, tmp_path):
    arguments, count = (["space=crnn_grid", f"storage={tmp_path}"], 24) if whole else (grid[1], 4)
    dry = run(*arguments, "--dry-run")
    assert f"crnn_grid: {count} trials" in dry
    listed = dry.split("trials\n")[1].splitlines()
    assert [int(line.split()[0]) for line in listed] == list(range(1, count + 1))
    assert len({line.split(maxsplit=1)[1] for line in listed}) == count


def test_every_configuration_of_a_grid_is_trained_once(grid):
    rows = ranking(grid[0] / "crnn_grid")
    trained = {tuple(v for k, v in row.items() if "." in k) for row in rows}
    assert len(rows) == len(trained) == 4
    assert {row["status"] for row in rows} == {"done"}


def test_a_finished_search_leaves_what_is_documented(grid):
    storage, _, output = grid
    folder = storage / "crnn_grid"
    for name in ("config.yaml", "overrides.yaml", "environment.json", "fingerprint.json", "study.journal"):
        assert (folder / name).stat().st_size > 0
    for name in ("search.log", "leaderboard.csv", "leaderboard.md", "quarantine.csv"):
        assert (folder / name).exists()
    trial = folder / "trials" / "0001"
    assert {path.name for path in (trial / "checkpoints").iterdir()} == {"best.pt", "last.pt"}
    assert json.loads((trial / "result.json").read_text())["epochs"] == 2
    assert json.loads((folder / "run.json").read_text())["resources"].endswith("; clips resident")  # for tuning status
    assert "; clips resident; 1 CPU per trial" in output
    losses = [float(row["val_loss"]) for row in ranking(folder)]
    assert losses == sorted(losses)
    assert "constant" in output and "sealed" in output and "tensorboard --logdir" in output
    assert "features.num_frames 80 in place of 600" not in output  # overridden, so nothing is shortened
    assert not (folder / ".ray").exists()


def test_the_same_command_prints_the_ranking_without_ray(grid):
    storage, arguments, first = grid
    before = (storage / "crnn_grid" / "trials" / "0001" / "result.json").stat().st_mtime_ns
    script = (
        "import sys; from tuning.run import main; code = main(sys.argv[1:]);"
        "assert not {'ray', 'torch'} & set(sys.modules), 'heavy imports'; sys.exit(code)"
    )
    again = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert "all 4 trials were done before" in again.stdout
    table = [line for line in first.splitlines() if line.strip()[:2].strip().isdigit()]
    assert table and all(line in again.stdout for line in table)
    assert (storage / "crnn_grid" / "trials" / "0001" / "result.json").stat().st_mtime_ns == before


def test_a_changed_space_is_refused_with_the_difference(grid):
    storage, arguments, _ = grid
    output = run(*arguments, "model.dense_l2={grid: [0.1, 0.2, 0.3]}", "seed=7", code=2)
    assert 'model.dense_l2: {"grid": [0.001, 0.01]} -> {"grid": [0.1, 0.2, 0.3]}' in output
    assert "seed: 42 -> 7" in output and "fresh=true" in output
    assert len(ranking(storage / "crnn_grid")) == 4


@pytest.mark.slow
def test_another_search_prepares_nothing_and_a_changed_feature_prepares_anew(ray_session, tmp_path):
    common = (f"storage={tmp_path}", f"data.prepared={tmp_path / 'prepared'}", *TINY)
    both = ("features.num_mfcc={choice: [20, 40]}", "search.num_trials=2")
    assert "240 recordings prepared, 0 reused" in run(*common, "name=one", "search.num_trials=1")
    output = run(*common, "name=both", *both)
    assert "240 recordings prepared in 2 variants, 240 reused" in output
    assert {row["features.num_mfcc"] for row in ranking(tmp_path / "both")} <= {"20", "40"}
    output = run(*common, "name=again", *both)
    assert "nothing to prepare: all 480 recordings in 2 variants are reused" in output
    output = run(*common, "name=split", "search.num_trials=1", "split.val_share=0.25")
    assert "sorted anew by this split: all 240 recordings are reused" in output


def test_fresh_archives_the_earlier_search(ray_session, tmp_path, prepared):
    common = (f"storage={tmp_path}", f"data.prepared={prepared}", "search.num_trials=1", *TINY)
    earlier, _ = write_search(tmp_path, *common, count=1, name="crnn")
    written = {path.relative_to(earlier.path): path.read_bytes() for path in earlier.path.rglob("*.json")}
    run(*common, "seed=1", "fresh=true")
    (archived,) = (path for path in tmp_path.iterdir() if path.name.startswith("crnn-archived-"))
    assert {path.relative_to(archived): path.read_bytes() for path in archived.rglob("*.json")} == written
    assert [row["status"] for row in ranking(tmp_path / "crnn")] == ["done"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_good_order_and_the_same_command_goes_on(ray_session, tmp_path, prepared, number):
    common = (f"storage={tmp_path}", f"data.prepared={prepared}", "search.num_trials=2", *TINY[:-1], "name=cut")
    arguments = (*common, "training.epochs=60", "training.patience=null")
    process = start(*arguments)
    progress = tmp_path / "cut" / "trials" / "0001" / "progress.csv"
    wait_until(lambda: progress.exists() and len(progress.read_text().splitlines()) > 3, process)
    second = run(*arguments, code=2)
    assert (
        "name: expected a search that no process is running, got 'cut'" in second and f"process {process.pid}" in second
    )
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "to resume: python -m tuning.run" in output
    (cut,) = [row for row in ranking(tmp_path / "cut") if row["status"] != "done"]  # the first, or already the second
    assert (cut["status"], cut["reason"]) == ("running", "interrupted") and 0 < int(cut["epochs"]) < 60
    run(*arguments)
    rows = ranking(tmp_path / "cut")
    assert [row["status"] for row in rows] == ["done"] * 2
    progress = tmp_path / "cut" / "trials" / f"{int(cut['trial']):04d}" / "progress.csv"
    epochs = [int(row["epoch"]) for row in csv.DictReader(progress.open())]
    assert epochs == list(range(1, 61))


def test_same_seed_same_losses_at_any_concurrency(grid):
    storage, arguments, _ = grid
    run(*arguments, "name=two", "search.max_concurrent=2")
    one, two = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in ranking(storage / name)]
        for name in ("crnn_grid", "two")
    )
    assert one == two  # as text: to the last bit
    progress = [(storage / name / "trials" / "0002" / "progress.csv").read_text() for name in ("crnn_grid", "two")]
    without_seconds = [[{**row, "seconds": ""} for row in csv.DictReader(text.splitlines())] for text in progress]
    assert without_seconds[0] == without_seconds[1] and len(without_seconds[0]) == 2


def test_wrong_input_ends_before_torch_or_ray_are_imported(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.csv").write_text("file,valence,arousal,artist\na.wav,0.1,0.2,x\n")
    cases = {
        "space=crn": "did you mean 'crnn'?",
        "optim.learning_rat=1": "did you mean 'learning_rate'?",
        "training.epochs=many": "expected integer at least 1, got many",
        "training.epochs=0": "expected integer at least 1, got 0",
        f"data.corpus=manifest data.root={tmp_path}/corpsu": "did you mean 'corpus'?",
        f"data.corpus=manifest data.root={tmp_path}/corpus data.group_column=artits": "did you mean 'artist'?",
        "data.corpus=dem": "did you mean 'demo'?",
        "data.corpus=manifest": "data.root: expected",
        "features.num_mfcc=200": "features.num_mfcc: expected at most num_mels (128), got 200",
    }
    commands = [[*arguments.split(), f"storage={tmp_path}/results"] for arguments in cases]
    for (code, output, error), message in zip(refusals(commands), cases.values(), strict=True):
        assert code == 2 and message in error and "Traceback" not in error and output == "", error
    assert not (tmp_path / "results").exists()


def test_help_lists_every_setting_and_imports_nothing_heavy():
    from tuning.config.schema import known_fields

    script = (
        "import sys; from tuning.run import main; code = main(['--help']);"
        "heavy = {'ray', 'torch', 'pandas', 'pyarrow', 'optuna', 'librosa', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for path, field in known_fields().items():
        assert f"  {path}=" in result.stdout
        assert field.description in result.stdout


def test_a_trial_that_does_not_fit_is_refused_before_an_earlier_search_is_put_aside(tmp_path, prepared, capsys):
    from tuning.run import main

    folder, _ = write_search(tmp_path, count=1)
    before = sorted(folder.path.rglob("*"))
    arguments = ["space=crnn", f"storage={tmp_path}", f"name={folder.name}", "fresh=true", f"data.prepared={prepared}"]
    assert main([*arguments, "resources.cpus_per_worker=64", "search.num_trials=1"]) == 2
    assert "resources: expected at most what the machines have" in capsys.readouterr().err
    assert sorted(folder.path.rglob("*")) == before and not list(tmp_path.glob("*archived*"))
