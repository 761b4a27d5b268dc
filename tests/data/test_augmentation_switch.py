"""`augment.enabled`: one switch for all augmentation, or a decision by the number of training clips."""

import csv
import json

import numpy as np
import pytest

from tests.helpers.command import run
from tests.helpers.recordings import RATE, encode, tone
from tuning.config.errors import UserError
from tuning.data.keys import searched_combinations
from tuning.data.plan import make_plan, print_augmentation, with_augmentation
from tuning.datasets.settings import AugmentSettings
from tuning.experiment.reading import read_recorded

EFFECTS = ("stretch", "pitch", "noise", "speed", "room", "formant")
SEARCHED = ("augment.noise_prob={uniform: [0.2, 0.5]}", "augment.mixup_prob={choice: [0.0, 0.5]}")


def test_off_is_off_for_every_reader_of_the_settings():
    everything = {f"{effect}_prob": 0.5 for effect in EFFECTS} | {
        "time_masks": 2, "freq_masks": 2, "mixup_prob": 0.5, "synthetic_share": 1.0,
    }  # fmt: skip
    off = AugmentSettings(enabled=False, **everything)
    assert off.effects() == {} and off.combinations() == []
    assert (off.time_masks, off.freq_masks, off.mixup_prob, off.synthetic_share) == (0, 0, 0.0, 0.0)
    assert AugmentSettings(**everything).mixup_prob == AugmentSettings(enabled="auto", **everything).mixup_prob == 0.5


@pytest.mark.parametrize("space", ["ser", "ser_ablation", "ser_ensemble", "ser_grid", "vit_gan"])
def test_without_augmentation_no_trial_varies_in_it(space):
    corpus = {"vit_gan": "demo"}.get(space, "demo_speech")
    plan = make_plan([f"space={space}", f"data.corpus={corpus}", "augment.enabled=false"])
    assert not [path for path in plan.space.distributions if path.startswith(("augment.", "gan."))]
    assert searched_combinations(plan.space) == [] and plan.space.largest("augment.synthetic_share") == 0
    defaults = AugmentSettings(enabled=False)
    for params in plan.space.samples(plan.config.seed):
        assert plan.space.config(params).augment == defaults
        break
    whole = make_plan([f"space={space}", f"data.corpus={corpus}"])
    gone = [path for path in whole.space.distributions if path.startswith(("augment.", "gan."))]
    assert list(plan.fixed) == gone


def test_points_that_are_tried_first_lose_what_is_not_searched():
    points = (
        "search.points_to_evaluate=[{augment: {noise_prob: 0.3}, optim.learning_rate: 0.001}, "
        "{augment.noise_prob: 0.2, optim.learning_rate: 0.001}, {augment.noise_prob: 0.4}]"
    )
    rate = "optim.learning_rate={loguniform: [0.0001, 0.01]}"
    plan = make_plan([*SEARCHED, rate, points, "search.num_trials=4", "augment.enabled=false"])
    assert plan.config.search.points_to_evaluate == [{"optim.learning_rate": 0.001}]


def test_a_grid_has_no_trials_for_what_is_off():
    grid = ("search.algorithm=grid", "search.num_trials=null", "space=crnn_lr")
    searched = ("augment.noise_prob={grid: [0.0, 0.2, 0.4]}",)
    assert make_plan([*grid, *searched]).total == 12
    assert make_plan([*grid, *searched, "augment.enabled=false"]).total == 4


def test_where_nothing_is_left_to_search_it_is_said():
    only = ["space=crnn_lr", "search.num_trials=5", "search.algorithm=optuna", "optim.learning_rate=0.001", SEARCHED[0]]
    with pytest.raises(UserError, match="expected grid or random where nothing is searched, got optuna"):
        make_plan([*only, "augment.enabled=false"])
    with pytest.raises(UserError, match=r"^augment.enabled: expected true, false or auto for all trials, got ch"):
        make_plan([*SEARCHED, "augment.enabled={choice: [true, false]}"])


@pytest.mark.parametrize(("num_clips", "on"), [(1, True), (4999, True), (5000, False), (20000, False)])
def test_auto_goes_by_the_number_of_training_clips(num_clips, on):
    plan = make_plan([*SEARCHED, "augment.enabled=auto"])
    decided = with_augmentation(plan, num_clips)
    assert decided.config.augment.enabled is on
    assert ("augment.noise_prob" in decided.space.distributions) is on
    assert with_augmentation(decided, 3 * num_clips) is decided
    assert decided.augmentation.startswith(f"{'on' if on else 'off'}: {num_clips:,} training clips, ")


@pytest.mark.parametrize("begun", [True, False])
def test_a_search_that_was_begun_does_not_flip(begun):
    plan = make_plan([*SEARCHED, "augment.enabled=auto"])
    then = with_augmentation(plan, 4999 if begun else 5000).space
    for num_clips in (10, 10_000):
        assert with_augmentation(plan, num_clips, then).space.written() == then.written()
    # One from before there was this setting had its augmentation on.
    assert with_augmentation(plan, 10_000, make_plan([*SEARCHED]).space).config.augment.enabled is True


TINY = (
    "space=crnn_lr", "data.corpus=manifest", "task.targets=[valence]", "split.seed=1", "optim.learning_rate=0.001",
    "training.epochs=1", "features.num_frames=8", "features.window_samples=256", "features.hop_samples=200",
    "features.num_mels=16", "features.num_mfcc=8", "model.conv_filters=[2]", "model.conv_dropout=[0.1]",
    "model.lstm_units=[2]", "augment.noise_prob={choice: [0.2, 0.4]}", "augment.versions=1", "training.batch_size=4",
    "features.sample_rate_hz=8000", "search.algorithm=random", "augment.enabled=auto",
)  # fmt: skip


def test_search_extension_dry_run_and_record_agree(tmp_path, monkeypatch, ray_session):
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "songs").mkdir()
    for number in range(24):
        (tmp_path / "songs" / f"{number}.wav").write_bytes(encode(tone(0.3, seed=number), RATE))
        rows.append([f"{number}.wav", rng.uniform(-1, 1)])
    with (tmp_path / "songs" / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "valence"], *rows])
    given = (
        *TINY, f"data.root={tmp_path / 'songs'}", f"storage={tmp_path}", f"data.prepared={tmp_path / 'prepared'}",
    )  # fmt: skip
    on, off = ("augment   on: 16 training clips, fewer than", "augment   off: 16 training clips, at least")
    assert on in run("--dry-run", *given, "search.num_trials=1")
    monkeypatch.setattr("tuning.data.plan.FEW_CLIPS", 16)  # as if there were 5,000
    assert off in run("--dry-run", *given, "search.num_trials=1")
    output = run(*given, "search.num_trials=1", "name=large")
    assert off in output and "versions made" not in output
    assert "note      augment.noise_prob, augment.versions: without effect, since augmentation is off" in output
    recorded = read_recorded(tmp_path / "large" / "config.yaml")
    assert recorded.fixed().augment == AugmentSettings(enabled=False)
    (params,) = (tmp_path / "large" / "trials").glob("*/params.json")
    assert json.loads(params.read_text())["config"]["augment"]["noise_prob"] == 0.0
    monkeypatch.undo()
    # Now it would be on: but this search was begun without.
    assert "augment   off: as this search was begun" in run(*given, "search.num_trials=2", "name=large")
    assert not (tmp_path / "prepared" / "augmented").exists()
    output = run(*given, "search.num_trials=1", "name=small")
    assert on in output and "16 versions made" in output


@pytest.mark.parametrize("off", ["preset=large", "augment.enabled=false"])
def test_what_the_command_line_asks_for_is_named_where_it_is_without_effect(off, capsys):
    print_augmentation(make_plan(["space=ser", "augment.mixup_prob=0.3", off]))
    (note,) = capsys.readouterr().out.splitlines()
    assert "augment.mixup_prob" in note and note.endswith("without effect, since augmentation is off")
    decided = with_augmentation(make_plan(["space=ser", "augment.mixup_prob=0.3"]), 5000)
    assert "augment.mixup_prob" in decided.fixed
    assert "augment.mixup_prob" not in with_augmentation(make_plan(["space=ser", "augment.mixup_prob=0.3"]), 4999).fixed
