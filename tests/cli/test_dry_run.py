"""`--dry-run`: what it says, and that it leaves nothing behind."""

from tests.helpers.command import refusals, run
from tests.helpers.recordings import write_corpus
from tests.search.test_estimate import made
from tuning.cli.dry_run import print_estimate


def test_a_random_search_lists_its_trials(tmp_path):
    output = run("--dry-run", f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared")
    assert "crnn: 20 trials (random, scheduler none)" in output and "1 CPU per trial" in output
    assert "model.lstm_dropout: uniform[0.2, 0.5]" in output
    assert "\n    20  model.conv_filters=" in output and "\n    21  " not in output
    assert list(tmp_path.iterdir()) == []


def test_optuna_shows_distributions_and_the_points_tried_first():
    points = "search.points_to_evaluate=[{optim.learning_rate: 0.002}]"
    output = run("--dry-run", "search.algorithm=optuna", "search.num_trials=30", points)
    assert "30 trials (optuna" in output
    first = output.partition("tried first\n")[2].splitlines()[0]
    assert "optim.learning_rate=0.002" in first and "training.batch_size=32" in first
    assert "\n     2  " not in output


def test_a_searched_number_of_epochs_is_said_by_its_largest(capsys):
    output = run("--dry-run", "search.num_trials=2", "training.epochs={choice: [2, 80, 30]}")
    assert "at most 80 epochs" in output
    print_estimate(made(longest=[2, 10, 10]))
    assert "a trial with its 2 to 10 epochs: 5 to 41 s" in capsys.readouterr().out
    print_estimate(made(models=3, longest=[30, 30, 30]))
    assert "a trial with all 10 epochs: 21 to 41 s for each of 3 models" in capsys.readouterr().out


def test_what_is_told_of_a_corpus_stands_in_a_dry_run_and_what_a_search_refuses_is_refused(tmp_path):
    corpus = write_corpus(tmp_path, num_clips=24, seconds=0.2)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",g1", ",G0", 1))
    words = ["data.corpus=manifest", f"data.root={tmp_path}", "data.group_column=artist"]
    (tmp_path / corpus.clips[5].id).unlink()
    output = run("--dry-run", *words)
    assert "note: speakers or artists that look alike count as different ones: 'g0' (6 clips), 'G0' (1)" in output
    assert f"note: 1 of 24 recordings is not in {tmp_path}: clip_05.wav" in output
    (tmp_path / corpus.clips[6].id).unlink()
    message = f"error: data.root: 2 of 24 recordings are not in {tmp_path}: clip_05.wav, clip_06.wav; "
    message += "data.max_quarantined_share allows 5.0% of them\n"
    storage = (f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared")
    assert run("--dry-run", *words, code=2).endswith(message)
    assert refusals([[*words, *storage]]) == [(2, "", message)]
    assert not (tmp_path / "results").exists() and not (tmp_path / "prepared").exists()
