"""A GAN as a stage of a search: trained on training clips alone, once, shown, and shared by the trials."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.command import run
from tests.helpers.ranking import ranking
from tuning.config.schema import parse_config
from tuning.data.plan import make_plan, read_corpus
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.store.reader import FeatureStatistics, Part
from tuning.run import main as tune
from tuning.training.trial import cropped_data

TINY = (
    "space=vit_gan", "search.algorithm=grid", "search.num_trials=null", "augment.synthetic_share={grid: [0.0, 1.0]}",
    "augment.stretch_prob=0", "augment.pitch_prob=0", "features.num_frames=24", "features.num_mels=16",
    "gan.epochs=2", "gan.channels=[8, 8, 4, 4]", "gan.discriminator_channels=[4, 4, 8, 8]", "gan.latent_dim=8",
    "model.unfreeze_epochs=[]", "model.image_size=16", "model.patch_size=8", "model.hidden_size=16",
    "model.num_layers=1", "model.num_heads=2", "loss.weights=[0.6, 0.4]", "optim.restarts=none",
    "training.batch_size=32", "training.epochs=2", "resources.gpus_per_worker=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan")
    given = (*TINY, f"data.prepared={folder / 'prepared'}", f"storage={folder / 'results'}")
    return folder, given, run(*given, "name=one")


def synthetic(folder):
    (found,) = (folder / "prepared" / "synthetic").iterdir()
    return found


@pytest.mark.slow
def test_it_is_trained_once_and_its_clips_make_a_difference(searched):
    folder, given, output = searched
    assert "gan       1 trained, 0 reused; quality of 100:" in output
    rows = ranking(folder / "results" / "one")
    assert [row["status"] for row in rows] == ["done"] * 2
    assert rows[0]["val_ccc"] != rows[1]["val_ccc"]
    before = (synthetic(folder) / "synthetic.parquet").stat().st_mtime_ns
    again = run(*given, "name=two")
    assert "gan       0 trained, 1 reused" in again
    assert (synthetic(folder) / "synthetic.parquet").stat().st_mtime_ns == before
    assert ranking(folder / "results" / "two") == rows


@pytest.mark.slow
def test_it_saw_the_training_clips_and_no_others(searched, tmp_path):
    folder, given, _ = searched
    corpus, split = read_corpus(make_plan(list(given)).config)
    provenance = json.loads((synthetic(folder) / "provenance.json").read_text())
    assert sorted(provenance["trained_on"]) == sorted(clip.id for clip in split.train)
    assert provenance["clips"] == len(split.train)
    # With every shard of validation and test made rubbish, it is trained again to the same bytes.
    kept = tmp_path / "prepared"
    shutil.copytree(folder / "prepared", kept)
    mark = synthetic(folder).name
    made = (kept / "synthetic" / mark / "synthetic.parquet").read_bytes()
    shutil.rmtree(kept / "synthetic")
    prepared = _prepared([*given, f"data.prepared={kept}"], corpus, split)
    sealed = [shard for shard in (kept / "features").glob("*/*.parquet") if not shard.name.startswith("train-")]
    assert len(sealed) >= 2
    for shard in sealed:
        shard.write_bytes(b"sealed")
    from tuning.data.generated_clips import prepare_generated_clips

    config = make_plan([a for a in given if "prepared" not in a] + [f"data.prepared={kept}"]).config
    place = prepare_generated_clips(prepared, config, split)
    assert place == str(kept / "synthetic" / mark)
    assert (kept / "synthetic" / mark / "synthetic.parquet").read_bytes() == made


def _prepared(given, corpus, split):
    from tuning.data.data_module import DataModule

    plan = make_plan([a for a in given[:-1] if "data.prepared" not in a] + [given[-1]])
    data = DataModule(plan.space, corpus, split)
    data.prepare_features(lambda done, total: None)
    (found,) = data.features.values()
    return found


@pytest.mark.slow
def test_pictures_sounds_and_curves_are_shown(searched):
    folder, _, _ = searched
    (place,) = (folder / "results" / "one" / "gan").iterdir()
    sounds = sorted(place.glob("*.wav"))
    assert [file.stem for file in sounds] == [
        "angry_tense", "content_relaxed", "happy_energetic", "neutral", "sad_calm",
    ]  # fmt: skip
    for file in sounds:
        waveform, rate = soundfile.read(file)
        assert rate == 16000 and len(waveform) > 0.9 * 23 * 800
        assert np.isfinite(waveform).all() and np.abs(waveform).max() > 1e-4
        assert file.with_name(f"{file.stem}_spectrogram.png").exists()
    assert {"samples.png", "profiles.png", "amplitudes.png", "evolution.png", "quality.png", "training.png"} <= {
        file.name for file in place.iterdir()
    }
    events = EventAccumulator(str(place))
    events.Reload()
    tags = events.Tags()
    assert {"gan/generator_loss", "gan/discriminator_loss", "gan/accuracy_real", "gan/loss_ratio"} <= set(
        tags["scalars"]
    )
    assert [event.step for event in events.Scalars("gan/generator_loss")] == [1, 2]
    score = json.loads((place / "quality.json").read_text())["score"]
    assert events.Scalars("quality/score")[0].value == pytest.approx(score)
    assert "gan/samples" in tags["images"] and len(tags["audio"]) == 5
    assert events.Audio("gan/neutral")[0].encoded_audio_string == (place / "neutral.wav").read_bytes()


@pytest.mark.slow
def test_the_winner_is_reproduced_and_tested(searched, capsys):
    from tuning.cli.finalize import main as finalize
    from tuning.cli.reproduce import main as reproduce

    folder, _, _ = searched
    for number in ("1", "2"):
        assert reproduce([str(folder / "results" / "one"), number]) == 0
        assert "equal     to the last bit" in capsys.readouterr().out
    assert finalize([str(folder / "results" / "one")]) == 0
    assert (folder / "results" / "one" / "best" / "model.safetensors").exists()


def test_a_gan_that_was_cut_off_goes_on(tmp_path):
    """From its state after the first epoch, to the same clips."""
    import torch

    from tuning.data.gan_worker import train

    config = parse_config({"gan": {"epochs": 3, "channels": [4, 4, 4, 4], "discriminator_channels": [4, 4, 4, 4]}})
    rng = np.random.default_rng(0)
    features, targets = rng.uniform(-1, 1, (12, 16, 16)).astype(np.float32), np.zeros((12, 2), np.float32)
    part = Part(np.arange(12), features, np.full(12, 16, np.int32), targets)
    device = torch.device("cpu")
    whole = train(str(tmp_path / "whole"), config, part, device)
    short = config.model_copy(update={"gan": config.gan.model_copy(update={"epochs": 1})})
    train(str(tmp_path / "cut"), short, part, device)
    went_on = train(str(tmp_path / "cut"), config, part, device)
    assert went_on.rows == whole.rows
    wanted = part.targets, part.num_frames, 1
    assert (went_on.generate(*wanted) == whole.generate(*wanted)).all()


def short_recordings(beyond):
    """Clips of 3 to 16 frames, each with a label of its own and `beyond` after its end."""
    rng = np.random.default_rng(0)
    ends = np.array([16, 3, 9, 12, 5, 16, 7, 11, 4, 6, 14, 8], np.int32)
    features = rng.uniform(-60, -5, (12, 16, 16)).astype(np.float32)
    features[np.arange(16) >= ends[:, None]] = beyond
    return Part(np.arange(12), features, ends, np.linspace(-1, 1, 24).reshape(12, 2).astype(np.float32))


def test_a_gan_of_short_recordings_is_of_what_sounds_alone(tmp_path):
    from tuning.data.gan_worker import train_and_generate
    from tuning.datasets.loaders.generated import GeneratedClips

    config = parse_config(
        {
            "features": {"name": "mel", "num_mels": 16, "num_frames": 16},
            "gan": {"epochs": 2, "channels": [4, 4, 4, 4], "discriminator_channels": [4, 4, 4, 4], "batch_size": 4},
        }
    )
    tree, real = config.model_dump(mode="json"), short_recordings(config.features.db_floor)
    train_and_generate(str(tmp_path / "silence"), tree, real, 24, {})
    train_and_generate(str(tmp_path / "noise"), tree, short_recordings(3.0), 24, {})
    for name in ("synthetic.parquet", "quality.json", "curves.json", "neutral.wav", "profiles.png"):
        assert (tmp_path / "silence" / name).read_bytes() == (tmp_path / "noise" / name).read_bytes(), name
    made = GeneratedClips.read(str(tmp_path / "silence"))
    # Each is as long as the training clip whose label it was asked with, which has a little noise.
    nearest = np.abs(made.targets[:, None] - real.targets).sum(-1).argmin(1)
    assert (made.num_frames == real.num_frames[nearest]).mean() > 0.8
    assert sorted(made.num_frames) == sorted([*real.num_frames, *real.num_frames])
    beyond = np.arange(16) >= made.num_frames[:, None]
    assert (made.features[beyond] == config.features.db_floor).all()
    assert (made.features[~beyond] > config.features.db_floor).all()
    frames = soundfile.info(tmp_path / "silence" / "neutral.wav").frames
    assert frames == (int(np.median(real.num_frames)) - 1) * config.features.hop_samples


FOLLOWS = ("augment.synthetic_share=${augment.mask_prob}", "augment.mask_prob={grid: [0.0, 0.5]}")


def test_a_share_that_follows_a_searched_setting_has_a_gan(tmp_path):
    settings = [a for a in TINY if "synthetic_share" not in a]
    output = run("--dry-run", *settings, *FOLLOWS, f"storage={tmp_path}")
    assert "a GAN, trained once on the training clips; up to 0.5 of its clips for each real one" in output


def test_a_share_without_generated_clips_is_an_error():
    config = parse_config({"augment": {"synthetic_share": 0.5}, "features": {"name": "mel", "num_frames": 4}})
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, config.features.num_features)).astype(np.float32)
    part = Part(np.arange(3), values, np.full(3, 4, np.int32), np.zeros((3, 2), np.float32))
    data = ResidentData(part, part, FeatureStatistics.of([(part.num_frames, part.features)]), 4)
    with pytest.raises(ValueError, match=r"augment.synthetic_share: expected 0 where no clips were generated, got 0.5"):
        cropped_data(data, config)


BAD = {
    "folds": (["split.inner_folds=3"], "augment.synthetic_share: expected 0 with split.inner_folds"),
    "no spectrogram": (
        ["features.name=mfcc", "features.num_mfcc=8"],
        "features.name: expected mel without deltas with augment.synthetic_share",
    ),
    "lyrics": (["space=bimodal"], "augment.synthetic_share: expected 0 with model.name=bimodal"),
    "channels": (["gan.channels=[8, 8]"], "gan.channels: expected"),
    "a range of epochs": (["gan.epochs={int: [2, 3]}"], "gan.epochs: expected grid or choice"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_ends_before_work_starts(case, tmp_path, capsys):
    changes, message = BAD[case]
    given = dict(a.split("=", 1) for a in (*TINY, *changes, f"storage={tmp_path / 'results'}"))
    if given["space"] == "bimodal":
        given = {"space": "bimodal", "storage": given["storage"]}
    given["augment.synthetic_share"] = "1.0"
    given["search.algorithm"], given["search.num_trials"] = "random", "1"
    assert tune([f"{key}={value}" for key, value in given.items()]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "results").exists()
