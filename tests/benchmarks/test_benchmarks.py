"""The references that the benchmarks compare with are what they say they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from benchmarks import ablation, bare, baselines, recurrent
from tests.helpers.written_search import write_search
from tuning.config.loader import load, read_space_file
from tuning.config.schema import Config
from tuning.datasets.corpus import Clip
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.settings import FeatureSettings, Segment
from tuning.datasets.store.build import Prepared, ShardInfo
from tuning.datasets.store.reader import FeatureStatistics, Part
from tuning.datasets.store.shard_index import Record, write_shard
from tuning.evaluation.svm import clip_statistics, fit_and_predict, statistics_of
from tuning.experiment.directory import SearchFolder, write_json
from tuning.experiment.recorded import space_of
from tuning.models.lstm import LSTM
from tuning.training.tasks import task_of
from tuning.training.trainer import Trainer
from tuning.training.trial import build_model

FRAMES, FEATURES = 16, 5


def part(num_clips: int, seed: int) -> Part:
    """Clips of 3 to 16 frames whose first feature tells their targets."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 2, size=(num_clips, FRAMES, FEATURES)).astype(np.float32)
    num_frames = rng.integers(3, FRAMES + 1, size=num_clips).astype(np.int32)
    targets = rng.uniform(-1, 1, size=(num_clips, 2)).astype(np.float32)
    features[:, :, :2] += 4 * targets[:, None]
    return Part(np.array([f"{seed}-{clip}" for clip in range(num_clips)]), features, num_frames, targets)


@pytest.fixture
def data() -> ResidentData:
    train = part(33, seed=1)  # in batches of 8 a single clip is left over
    return ResidentData(train, part(130, seed=2), FeatureStatistics.of([(train.num_frames, train.features)]), FRAMES)


@pytest.mark.parametrize(("frames", "segment"), [(FRAMES, "middle"), (9, "middle"), (9, "start")])
def test_bare_loop_has_the_losses_of_a_trial(data: ResidentData, frames: int, segment: Segment) -> None:
    config = Config.model_validate(
        {
            "features": {"num_frames": frames},
            "model": {"name": "crnn", "conv_filters": [4, 6], "lstm_units": [6, 5], "dense_units": [4]},
            "optim": {"learning_rate": 0.01},
            "training": {"batch_size": 8, "epochs": 4, "patience": None},
            "resources": {"gpus_per_worker": 0},
        }
    )
    rows: list[dict] = []
    torch.manual_seed(config.seed)
    model = build_model(config, FEATURES)
    Trainer(model, data.crop(frames, "masked", segment), task_of(config), config, "min").fit(rows.append)
    losses = bare.train(config, bare.normalised(data, frames, segment))
    assert losses == [row["val_loss"] for row in rows]
    assert len(set(losses)) == 4


def test_clip_statistics_follow_their_formula() -> None:
    values = np.array([[1.0, 0.0], [3.0, 4.0], [2.0, -1.0]], dtype=np.float32)
    found = clip_statistics(values).reshape(5, 2)
    np.testing.assert_allclose(found[0], [2.0, 1.0])
    np.testing.assert_allclose(found[1], [np.sqrt(2 / 3), np.sqrt((1 + 9 + 4) / 3)])
    np.testing.assert_allclose(found[2], [1.2, -0.8])  # a fifth of the way from the lowest to the middle value
    np.testing.assert_allclose(found[3], [2.8, 3.2])
    np.testing.assert_allclose(found[4], [(2 + 1) / 2, (4 + 5) / 2])


def prepared_in(folder: Path, part: Part, groups: int = 1) -> tuple[Prepared, list[Clip]]:
    """Clips in a shard, dealt to groups in turn."""
    record = Record("all", "val", [(clip, clip) for clip in part.ids.tolist()], {}, len(part))
    write_shard(str(folder), record, part.num_frames, part.features)
    shards = [ShardInfo("all.parquet", "val", record.kept)]
    prepared = Prepared(str(folder), "", shards, [], "", {}, 0, 0, FRAMES, FEATURES)
    rows = enumerate(zip(record.kept, part.targets.tolist(), strict=True))
    return prepared, [Clip(clip, tuple(targets), str(place % groups)) for place, (clip, targets) in rows]


@pytest.mark.parametrize("segment", ["middle", "start"])
def test_the_svr_is_given_what_a_trial_sees(data: ResidentData, segment: Segment, tmp_path: Path) -> None:
    prepared, clips = prepared_in(tmp_path, data.val)
    found = statistics_of(prepared, clips, FeatureSettings(num_frames=6, segment=segment))
    batch = next(data.crop(6, "masked", segment).val_batches(130))
    for place, seen in enumerate(batch["features"].numpy()):
        heard = seen[: batch["num_frames"][place]] * data.statistics.std + data.statistics.mean
        np.testing.assert_allclose(found[clips[place].id], clip_statistics(heard), atol=1e-4)


def test_each_group_is_normalised_by_its_own_clips_where_a_trial_s_is(data: ResidentData, tmp_path: Path) -> None:
    prepared, clips = prepared_in(tmp_path, data.val, groups=3)
    settings = FeatureSettings(num_frames=FRAMES, normalise="group")
    found = statistics_of(prepared, clips, settings)
    plain = statistics_of(prepared, clips, settings.model_copy(update={"normalise": "train"}))
    for group in "012":
        own = np.stack([plain[clip.id] for clip in clips if clip.group == group])
        expected = (own - own.mean(axis=0)) / own.std(axis=0)
        np.testing.assert_allclose([found[c.id] for c in clips if c.group == group], expected, atol=1e-9)
    known, test = clips[:100], clips[100:]
    predicted = fit_and_predict(prepared, known, test, settings, classes=False)
    train = np.stack([found[clip.id] for clip in known]), data.val.targets[:100]
    assert predicted == pytest.approx(baselines.svr_outputs(train, np.stack([found[c.id] for c in test])), abs=1e-5)


def test_svr_is_sklearns_on_standardised_statistics_and_labels(data: ResidentData) -> None:
    parts = [
        (np.stack([clip_statistics(v[:n]) for v, n in zip(p.features, p.num_frames, strict=True)]), p.targets)
        for p in (data.train, data.val)
    ]
    (statistics, targets), (val_statistics, val_targets) = parts
    outputs = baselines.svr_outputs((statistics, targets), val_statistics)
    scaler = StandardScaler().fit(statistics)
    for k in range(2):
        mean, std = targets[:, k].mean(dtype=np.float64), targets[:, k].std(dtype=np.float64)
        svr = SVR(kernel="rbf", C=1.0, epsilon=0.1)
        svr.fit(scaler.transform(statistics), (targets[:, k].astype(np.float64) - mean) / std)
        expected = svr.predict(scaler.transform(val_statistics)) * std + mean
        assert outputs[:, k] == pytest.approx(expected, abs=1e-9)
        assert np.corrcoef(outputs[:, k], val_targets[:, k])[0, 1] > 0.7


def test_a_search_of_classes_is_compared_with_a_constant_and_an_svc(data: ResidentData, tmp_path: Path) -> None:
    classes = ("task.name=classification", "task.classes=[calm, happy, sad]", "search.metric=val_uar")
    write_search(tmp_path, "data.corpus=manifest", *classes, count=3)
    search = baselines.read_search("written", str(tmp_path))
    train, val = (
        (
            np.stack([clip_statistics(v[:n]) for v, n in zip(p.features, p.num_frames, strict=True)]),
            np.digitize(p.targets[:, :1], [-0.3, 0.3]).astype(np.float32),
        )
        for p in (data.train, data.val)
    )
    outputs = baselines.svm_outputs(search.config, train, val[0])
    scaler = StandardScaler().fit(train[0])
    expected = SVC(kernel="rbf", C=1.0, class_weight="balanced").fit(scaler.transform(train[0]), train[1][:, 0])
    predicted = expected.predict(scaler.transform(val[0]))
    assert outputs.shape == (130, 3) and (outputs.argmax(axis=1) == predicted).all()
    found = baselines.compare(search, train, val, outputs)
    assert found["SVC"]["val_uar"] == balanced_accuracy_score(val[1][:, 0], predicted) > 0.5
    assert found["constant"]["val_uar"] == pytest.approx(1 / 3)
    write_json(search.folder.path / "notes.json", ["these clips are known"])
    text = baselines.describe(search, found, train, val)
    assert text.endswith("\n- Note: these clips are known.")
    assert "| class | predictor | uar | accuracy | f1 | recall |" in text and "| sad | SVC |" in text


def test_a_folder_that_is_no_search_is_refused_with_exit_code_2(tmp_path: Path, capsys: Any) -> None:
    assert baselines.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: expected the folder of a search")


def test_a_searchs_space_is_read_as_it_was_searched(tmp_path: Path) -> None:
    # The demo corpus brings 80 frames along; they must not be laid over what the search was told.
    _, space, overrides = load(["space=crnn", "features.num_frames=200", "features.num_mfcc={choice: [13, 20]}"])
    SearchFolder(tmp_path, "some").create(space, overrides, {"corpus": "", "num_clips": 0})
    read = space_of(SearchFolder(tmp_path, "some"))
    assert read.fixed() == space.fixed()
    assert read.fixed().features.num_frames == 200
    assert read.distributions == space.distributions


def test_the_loops_beside_recurrent_dropout_are_the_layer(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--frames=7", "--units=5", "--channels=4", "--batch=3", "--repeats=1"]
    assert recurrent.main(sizes) == 0
    assert "loop, recurrent dropout on the state" in capsys.readouterr().out
    layer, sequence = LSTM(4, 5, recurrent_dropout=0.5).train(), torch.randn(3, 7, 4)

    def without_dropout(values: torch.Tensor) -> torch.Tensor:
        return LSTM(4, 5)(values)

    with pytest.raises(SystemExit, match="a loop is not the layer"):
        recurrent.check([layer, without_dropout], sequence)


def test_gains_are_paired_by_seed() -> None:
    seeds = [dict.fromkeys(range(1, 11), 0.5) | {1: whole, 2: without} for whole, without in ((0.6, 0.5), (0.7, 0.4))]
    text = ablation.describe(seeds)
    assert "Whole system: UAR 65.0 % (seeds: 60.0, 70.0)" in text
    assert "| data augmentation | 45.0 | +20.0 | 14.1 | 5 to 10 |" in text


OTHER = {
    "last layer alone": {"features.encoder_layers": -1},
    "mean over time alone": {"features.encoder_pooling": "mean"},
    "each speaker normalised by his own clips": {"features.normalise": "group"},
    "a hidden layer of 128": {"model.hidden_units": [128]},
    "no dropout of inputs": {"model.input_dropout": 0.0},
    "Glorot's first weights": {"model.output_init_gain": 1.0},
    "versions at other speeds": {"augment.speed_prob": 0.5},
    "versions with other formants": {"augment.formant_prob": 0.5},
    "versions of both kinds": {"augment.speed_prob": 0.5, "augment.formant_prob": 0.5},
    "residual connections": {"model.residual": False},
    "multi-head attention": {"model.attention_heads": 0},
    "attention pooling": {"model.pooling": "mean"},
    "cosine schedule": {"optim.schedule": "constant"},
    "label smoothing": {"loss.label_smoothing": 0.0},
    "class weights": {"loss.class_weights": "none"},
}


@pytest.mark.parametrize(("space", "rows"), [("ser_ablation", ablation.WITHOUT), *ablation.INSTEAD.items()])
def test_each_row_of_an_ablation_is_the_point_that_differs_from_the_first_by_its_name(space, rows) -> None:
    points = read_space_file(space)["search"]["points_to_evaluate"]
    assert sorted(rows) == list(range(2, len(points) + 1))
    for number, (name, *_) in rows.items():
        changed = {path: value for path, value in points[number - 1].items() if value != points[0][path]}
        assert changed == OTHER.get(name, changed) and changed


def test_a_setting_that_decides_a_row_can_not_be_given() -> None:
    ablation.check_points("ser_ablation", ["optim.learning_rate=0.001"])
    for word in ("model.residual=true", "augment.enabled=false"):
        with pytest.raises(SystemExit, match="expected as the points of ser_ablation have it"):
            ablation.check_points("ser_ablation", [word])


def test_gains_of_what_is_added_are_those_of_the_other_trials() -> None:
    seeds = [dict.fromkeys(range(1, 9), 0.5) | {1: plain, 4: by_group} for plain, by_group in ((0.7, 0.8), (0.6, 0.8))]
    text = ablation.describe(seeds, "encoder_ablation")
    assert "Reference: UAR 65.0 % (seeds: 70.0, 60.0)" in text
    assert "| each speaker normalised by his own clips | 80.0 | +15.0 | 7.1 |" in text
    assert "expectation" not in text
