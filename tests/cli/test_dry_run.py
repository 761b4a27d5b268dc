"""`--dry-run`: what it says, and that it leaves nothing behind."""

import pytest

from tests.helpers.command import ONE_AT_A_TIME, refusals, run
from tests.helpers.recordings import write_corpus
from tests.helpers.written_search import write_search
from tests.search.test_estimate import made
from tuning.cli.dry_run import print_estimate
from tuning.data.plan import make_plan, read_corpus


def test_a_random_search_lists_its_trials(tmp_path):
    output = run("--dry-run", f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared")
    assert "crnn: 20 trials (random, scheduler none)" in output and "1 CPU per trial" in output
    assert "model.lstm_dropout: uniform[0.2, 0.5]" in output
    assert "\n    20  model.conv_filters=" in output and "\n    21  " not in output
    assert list(tmp_path.iterdir()) == []


def test_optuna_shows_distributions_and_the_points_tried_first(tmp_path):
    points = "search.points_to_evaluate=[{optim.learning_rate: 0.002}]"
    output = run("--dry-run", "search.algorithm=optuna", "search.num_trials=30", points, f"storage={tmp_path}")
    assert "30 trials (optuna" in output
    first = output.partition("tried first\n")[2].splitlines()[0]
    assert "optim.learning_rate=0.002" in first and "training.batch_size=32" in first
    assert "\n     2  " not in output


def test_a_searched_number_of_epochs_is_said_by_its_largest(tmp_path, capsys):
    epochs = "training.epochs={choice: [2, 80, 30]}"
    output = run("--dry-run", "search.num_trials=2", epochs, f"storage={tmp_path}")
    assert "at most 80 epochs" in output
    print_estimate(made(longest=[2, 10, 10]))
    assert "a trial with its 2 to 10 epochs: 5 to 41 s" in capsys.readouterr().out
    print_estimate(made(models=3, longest=[30, 30, 30]))
    assert "a trial with all 10 epochs: 21 to 41 s for each of 3 models" in capsys.readouterr().out


REFUSED = {
    "split.test_fold=1": "split.method: 'folds' needs data.fold_column",
    "split.dev_groups=[nobody]": "split.",
    "data.group_column=artits": "did you mean 'artist'?",
    "data.corpus=demo_speech task.name=classification task.classes=[angry,hapy]": "did you mean 'happy'?",
    "data.corpus=demo_bimodal space=bimodal data.text_column=lyric": "did you mean 'lyrics'?",
    "data.root=TMP": "data.root: expected nothing for a demo corpus",
    "data.corpus=manifest data.root=TMP/none": "data.root: expected a folder",
    "storage=TMP name=written": "name: expected the space and corpus that 'written' was begun with",
    "storage=file://TMP name=written": "name: expected the space and corpus that 'written' was begun with",
    f"storage={'x' * 300}": "(File name too long)",
    f"data.corpus=manifest data.root={'x' * 300}": "xxx",
    f"data.corpus=ravdess task.name=classification data.root={'x' * 300}": "xxx",
    "storage=TMP/file/below": "storage: expected a folder to write in, got 'TMP/file/below' (Not a directory)",
    "storage=/proc": "storage: expected a folder to write in, got '/proc'",
    "storage=s3:/bucket": "got 's3:/bucket'; did you mean 's3://bucket'?",
    "storage=http:/server": "storage: expected a folder, or a URI like s3://bucket/folder",
    "data.root=S3:/bucket/x data.corpus=manifest": "data.root: expected a folder, or a URI like",
    "data.prepared=gs:bucket": "did you mean 'gs://bucket'?",
    "data.prepared=TMP/file": "data.prepared: expected a folder to write in, got 'TMP/file'",
    "resources.cpus_per_worker=6400": "resources: expected at most what the machines have",
}


def test_a_dry_run_refuses_what_the_run_refuses_without_torch_or_ray(tmp_path):
    write_search(tmp_path, "seed=7", count=1)
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    commands = []
    for words in REFUSED:
        given = words.replace("TMP", str(tmp_path)).split()
        places = {"storage": tmp_path / "results", "data.prepared": tmp_path / "prepared"}
        named = {word.partition("=")[0] for word in given}
        given += [f"{name}={place}" for name, place in places.items() if name not in named]
        commands += [[*given, "--dry-run"], given]
    found = refusals(commands)
    for words, dry, real in zip(REFUSED, found[::2], found[1::2], strict=True):
        assert dry == real and dry[0] == 2 and dry[1] == "", (words, dry, real)
        assert REFUSED[words].replace("TMP", str(tmp_path)) in dry[2] and "Traceback" not in dry[2]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_shows_the_demo_corpus_as_it_will_be_made_and_as_it_is(tmp_path):
    given = ("--dry-run", f"storage={tmp_path}/results", f"data.prepared={tmp_path}", "search.num_trials=1")
    first = run(*given)
    assert "crnn: 1 trial (random" in first and "240 clips of 24 groups" in first and "made on the first run" in first
    read_corpus(make_plan([*given[1:]]).config)
    assert run(*given) == first.replace("          made on the first run\n", "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["augment.noise_prob=0.5"], "augment   a bank of 2 versions of each of 160 training clips"),
        (["data.loading=streamed"], "loading   clips are streamed (data.loading=streamed)"),
        ([], "loading   clips are resident if they fit into memory, else streamed (data.loading=auto)"),
        (["search.num_trials=1500"], "  and 500 more"),
        (["data.group_column=null"], "note: no speaker or artist is known"),
    ],
)
def test_what_else_a_dry_run_says(tmp_path, settings, said):
    lines = run("--dry-run", f"storage={tmp_path}", f"data.prepared={tmp_path}", *settings).splitlines()
    assert any(said in line for line in lines)


def test_a_dry_run_of_a_search_that_was_begun_says_so(tmp_path):
    write_search(tmp_path, count=1)
    given = ("--dry-run", f"storage={tmp_path}", "name=written", f"data.prepared={tmp_path}", ONE_AT_A_TIME)
    assert "20 trials (random, scheduler none); begun before, and resumed" in run(*given)
    assert "begun before" not in run(*given, "fresh=true")


def test_what_is_told_of_a_corpus_stands_in_a_dry_run_and_what_a_search_refuses_is_refused(tmp_path):
    corpus = write_corpus(tmp_path, num_clips=24, seconds=0.2)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",g1", ",G0", 1))
    words = ["data.corpus=manifest", f"data.root={tmp_path}", "data.group_column=artist"]
    (tmp_path / corpus.clips[5].id).unlink()
    storage = (f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared")
    output = run("--dry-run", *words, *storage)
    assert "note: speakers or artists that look alike count as different ones: 'g0' (6 clips), 'G0' (1)" in output
    assert f"note: 1 of 24 recordings is not in {tmp_path}: clip_05.wav" in output
    (tmp_path / corpus.clips[6].id).unlink()
    message = f"error: data.root: 2 of 24 recordings are not in {tmp_path}: clip_05.wav, clip_06.wav; "
    message += "data.max_quarantined_share allows 5.0% of them\n"
    assert run("--dry-run", *words, *storage, code=2).endswith(message)
    assert refusals([[*words, *storage]]) == [(2, "", message)]
    assert not (tmp_path / "results").exists() and not (tmp_path / "prepared").exists()
