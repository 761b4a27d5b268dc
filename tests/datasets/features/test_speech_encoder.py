import importlib.util
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.helpers.recordings import tone, write_corpus
from tests.helpers.tiny_bert import write_tokenizer
from tests.helpers.tiny_encoders import FIELD, HOP, KINDS, write_encoder
from tests.helpers.tiny_musicnn import SIZES, write_musicnn
from tests.helpers.tiny_whisper import write_whisper
from tuning.config.errors import UserError
from tuning.data.plan import make_plan, planned_points
from tuning.datasets.features import speech_encoder
from tuning.datasets.features.audio import cut_segment, decode
from tuning.datasets.features.frames import frames_in, num_samples
from tuning.datasets.features.spectral import extract
from tuning.datasets.features.speech_encoder import encode
from tuning.datasets.loaders.mixup import augment_data
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.store.augmentation_bank import prepare_bank
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import FeatureStatistics, read_part, read_versions
from tuning.datasets.store.shard_index import features_fingerprint
from tuning.datasets.store.worker import make_versions
from tuning.models.encoder_shapes import SpeechShape, check_speech_encoder, speech_shape
from tuning.models.musicnn import load_musicnn, log_mels
from tuning.models.pretrained import content_of

WRITERS = pytest.mark.parametrize("write", [write_encoder, write_musicnn])


def own_states(folder, kind, waveform):
    """All hidden states [layers + 1, frames, hidden] by the model itself."""
    import transformers

    model = getattr(transformers, f"{kind}Model").from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(torch.from_numpy(waveform)[None], output_hidden_states=True).hidden_states
    return np.stack([state[0].numpy() for state in states])


def normalised(waveform):
    return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)).astype(np.float32)


def exact(waveform, settings, num_frames):
    """As `extract`, before frames are rounded as they are stored."""
    (found,) = encode([cut_segment(waveform, num_samples(num_frames, settings), "middle")], settings, num_frames)
    return found


def test_frames_are_rounded_as_they_are_stored(tmp_path):
    settings = write_encoder(tmp_path / "tiny", "Wav2Vec2")
    sound = tone(0.5, rate=16000)
    (values, num_valid), (rounded, same) = exact(sound, settings, 40), extract(sound, settings, 40)
    assert (rounded.dtype, same) == (np.float16, num_valid)
    np.testing.assert_array_equal(rounded, values.astype(np.float16))
    pooled = settings.model_copy(update={"encoder_pooling": "mean", "num_frames": 1})
    assert extract(sound, pooled, 1)[0].dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stable", [False, True])
def test_equals_the_models_own_hidden_states(tmp_path, kind, stable):
    norm = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"} if stable else {}
    settings = write_encoder(tmp_path / "tiny", kind, **norm)
    waveform = 0.1 + tone((FIELD + 39 * HOP) / 16000, rate=16000)
    expected = own_states(tmp_path / "tiny", kind, normalised(waveform))
    assert expected.shape == (3, 40, 16)
    assert min(np.abs(expected[i] - expected[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    for layer, state in ((-1, expected[-1]), (0, expected[0]), (1, expected[1]), (2, expected[2])):
        features, num_valid = exact(waveform, settings.model_copy(update={"encoder_layers": layer}), 40)
        assert num_valid == 40
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, state, atol=1e-5)
    np.testing.assert_array_equal(extract(waveform, settings, 40)[0], extract(waveform, settings, 40)[0])


def whispers_states(folder, waveform, frames):
    """All hidden states [layers + 1, frames, hidden] by the model itself, with so many positions."""
    import transformers

    config = transformers.WhisperConfig.from_pretrained(folder, max_source_positions=frames)
    model = transformers.WhisperModel(config).eval()
    weights = transformers.WhisperModel.from_pretrained(folder).state_dict()
    weights["encoder.embed_positions.weight"] = weights["encoder.embed_positions.weight"][:frames]
    model.load_state_dict(weights)
    mels = transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)(
        np.pad(waveform[: 320 * frames], (0, 800)), sampling_rate=16000, padding="do_not_pad", return_tensors="pt"
    ).input_features[:, :, : 2 * frames]
    with torch.no_grad():
        return np.stack([s[0].numpy() for s in model.encoder(mels, output_hidden_states=True).hidden_states])


@pytest.mark.parametrize(("samples", "frames"), [(6400, 20), (2240, 7), (2559, 7), (320, 1), (100, 1)])
def test_whisper_hears_a_clip_alone(tmp_path, samples, frames):
    """Its states are those of a Whisper whose positions end with the clip."""
    settings, waveform = write_whisper(tmp_path), tone(1, rate=16000)[:samples]
    expected = whispers_states(tmp_path, np.pad(waveform, (0, max(0, 320 - samples))), frames)
    assert expected.shape == (3, frames, 16)
    for layer in range(3):
        features, num_valid = exact(waveform, settings.model_copy(update={"encoder_layers": layer}), 20)
        assert num_valid == frames
        np.testing.assert_allclose(features[:frames], expected[layer], atol=1e-4)
        assert (features[frames:] == 0).all()


def musicnns_states(folder, waveform):
    """The states [frames, values] of each layer, by the network itself."""
    with torch.inference_mode():
        return [s[0].numpy() for s in load_musicnn(folder)(log_mels(torch.from_numpy(waveform)[None]))]


@pytest.mark.parametrize(("samples", "frames"), [(10300, 40), (9983, 39), (9984, 40), (256, 2), (255, 1), (1, 1)])
@pytest.mark.parametrize(("layers", "numbers"), [("all", [0, 1, 2, 3, 4]), ([2, 0], [2, 0]), (-1, [4]), (0, [0])])
def test_musicnn_s_layers_differ_in_size(tmp_path, samples, frames, layers, numbers):
    """A frame is centred on each multiple of 256 samples, so that any sound has one."""
    settings = write_musicnn(tmp_path).model_copy(update={"encoder_layers": layers})
    waveform = tone(1, rate=16000)[:samples]
    start = max(0, (samples - 39 * 256) // 2)
    heard = waveform[start : start + 39 * 256]
    expected = np.concatenate([musicnns_states(tmp_path, heard)[layer] for layer in numbers], axis=1)
    features, num_valid = exact(waveform, settings, 40)
    assert settings.num_features == sum(SIZES[layer] for layer in numbers) == features.shape[1]
    assert (num_valid, len(features)) == (frames, 40)
    np.testing.assert_array_equal(features[:frames], expected)
    assert (features[frames:] == 0).all()


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_musicnn_s_layers_are_pooled_over_the_clip(tmp_path, pooling):
    write_musicnn(tmp_path)
    settings = FeatureSettings(
        name="encoder", encoder=str(tmp_path), encoder_layers=[3, 0], encoder_pooling=pooling, pooled_seconds=0.8,
        num_frames=1,
    )  # fmt: skip
    sound = tone(0.8, rate=16000)
    states, parts = musicnns_states(tmp_path, sound), [np.mean, np.std][: 1 + (pooling == "mean_std")]
    expected = np.concatenate([part(states[layer], axis=0) for layer in (3, 0) for part in parts])
    features, num_valid = extract(sound, settings, 1)
    assert (features.shape, num_valid) == ((1, len(parts) * (SIZES[3] + SIZES[0])), 1)
    np.testing.assert_allclose(features[0], expected, atol=1e-5)
    assert frames_in(num_samples(1, settings), settings) == 1


def test_musicnn_hears_a_clip_as_long_as_its_frames(tmp_path):
    settings = write_musicnn(tmp_path)
    assert speech_shape(str(tmp_path)) == SpeechShape(SIZES, 256, 0, False)
    for frames in (1, 2, 40):
        need = num_samples(frames, settings)
        assert (need, frames_in(need, settings)) == (max(1, 256 * (frames - 1)), frames)
        assert extract(tone(1, rate=16000)[:need], settings, 100)[1] == frames


@pytest.mark.parametrize(("layers", "numbers"), [("all", [0, 1, 2]), ([2, 0], [2, 0]), (-1, [2])])
@pytest.mark.parametrize("pooling", ["frames", "mean", "mean_std"])
def test_layers_stand_side_by_side_and_are_pooled_over_the_clip(tmp_path, layers, numbers, pooling):
    plain = write_encoder(tmp_path)
    seconds = (FIELD + 29 * HOP) / 16000
    settings = FeatureSettings(
        name="encoder", encoder=str(tmp_path), encoder_layers=layers, encoder_pooling=pooling, pooled_seconds=seconds,
        num_frames=40 if pooling == "frames" else 1,
    )  # fmt: skip
    sound = tone(1, rate=16000)
    need = num_samples(settings.num_frames, settings)
    if pooling != "frames":
        assert need == round(16000 * seconds)
        assert (frames_in(1, settings), frames_in(need, settings), frames_in(need + 1, settings)) == (1, 1, 2)
    start = (len(sound) - need) // 2
    states = own_states(tmp_path, "Wav2Vec2", normalised(sound[start : start + need]))[numbers]
    if pooling == "frames":
        expected = np.concatenate(list(states), axis=1)
    else:
        parts = [np.mean] if pooling == "mean" else [np.mean, np.std]
        expected = np.concatenate([part(state, axis=0) for state in states for part in parts])[None]
    features, num_valid = exact(sound, settings, settings.num_frames)
    assert (len(features), num_valid) == (settings.num_frames, len(expected))
    assert settings.num_features == expected.shape[1]
    np.testing.assert_allclose(features[:num_valid], expected, atol=1e-5)
    assert plain.num_features == 16


@WRITERS
def test_a_batch_of_a_gpu_has_the_states_of_its_clips_alone(tmp_path, monkeypatch, write):
    """Clips of one length are encoded at once; run on a CPU here."""
    settings, sound = write(tmp_path), tone(1, rate=16000)
    clips = [sound[:3000], sound[100:2100], sound[5000:8000], sound[:10], sound[1000:4000]]
    alone = [exact(clip, settings, 40) for clip in clips]
    monkeypatch.setattr(speech_encoder, "BATCH_SAMPLES", 6000)
    batches = speech_encoder._batches
    monkeypatch.setattr(speech_encoder, "_batches", lambda lengths, _: batches(lengths, "cuda"))
    assert list(batches([len(clip) for clip in clips], "cuda")) == [[3], [1], [0, 2], [4]]
    for (values, num_valid), (expected, count) in zip(encode(clips, settings, 40), alone, strict=True):
        assert num_valid == count
        np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("do_normalize", [None, True, False])
def test_normalises_as_the_model_says(tmp_path, do_normalize):
    settings = write_encoder(tmp_path, do_normalize=do_normalize, feat_extract_norm="layer")
    waveform = 0.2 + 0.1 * tone(0.3, rate=16000)
    heard = waveform if do_normalize is False else normalised(waveform)
    features, num_valid = exact(waveform, settings, 100)
    np.testing.assert_allclose(features[:num_valid], own_states(tmp_path, "Wav2Vec2", heard)[-1], atol=1e-5)


def test_the_feature_extractor_of_transformers_normalises_alike(tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    waveform = 0.2 + 0.1 * tone(0.3, rate=16000)
    theirs = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform, sampling_rate=16000).input_values[0]
    np.testing.assert_allclose(theirs, normalised(waveform), atol=1e-5)


def test_sizes_are_read_without_weights(tmp_path):
    settings = write_encoder(tmp_path)
    assert settings.widths == {"encoder": 16}
    assert settings.num_features == 16
    assert speech_shape(settings.encoder) == SpeechShape((16, 16, 16), HOP, FIELD, True)
    assert num_samples(40, settings) == FIELD + 39 * HOP
    # The published models': 320 samples of hop, 400 of field.
    published = {"conv_dim": [8] * 7, "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_kernel": [10, 3, 3, 3, 3, 2, 2]}
    settings = write_encoder(tmp_path / "published", num_feat_extract_layers=7, **published)
    assert num_samples(1, settings) == 400
    assert num_samples(50, settings) == 400 + 49 * 320


def test_middle_of_longer_clips(tmp_path):
    settings = write_encoder(tmp_path)
    sound, need = tone(1, rate=16000), num_samples(40, settings)
    start = (len(sound) - need) // 2
    features, num_valid = extract(sound, settings, 40)
    assert num_valid == 40
    np.testing.assert_array_equal(features, extract(sound[start : start + need], settings, 40)[0])


def test_shorter_clips_are_followed_by_zeros(tmp_path):
    settings = write_encoder(tmp_path)
    sound = tone((FIELD + 18 * HOP) / 16000, rate=16000)
    features, num_valid = extract(sound, settings, 40)
    assert num_valid == 19
    assert extract(sound[:-1], settings, 40)[1] == 18
    assert features.shape == (40, 16)
    assert (features[num_valid:] == 0).all()
    np.testing.assert_array_equal(features[:num_valid], extract(sound, settings, num_valid)[0])
    features, num_valid = extract(sound[: FIELD // 2], settings, 40)
    assert num_valid == 1
    assert np.isfinite(features).all()


def test_threads_are_left_as_they_were(tmp_path):
    settings, before = write_encoder(tmp_path), torch.get_num_threads()
    torch.set_num_threads(2)
    extract(tone(0.1, rate=16000), settings, 40)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_fingerprint_goes_by_content_layer_and_nothing_idle(tmp_path):
    settings, quality = write_encoder(tmp_path / "one"), DataSettings()
    mark = features_fingerprint(settings, 40, quality)

    def changed(**values):
        return features_fingerprint(settings.model_copy(update=values), 40, quality)

    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    write_encoder(tmp_path / "other", seed=1)
    assert changed(encoder=str(tmp_path / "copy")) == mark
    assert changed(hop_samples=10, num_mels=3, window_samples=99, encoder_layers=2) == mark
    (tmp_path / "copy" / "preprocessor_config.json").write_text('{"do_normalize": false}')
    values = [{"encoder": str(tmp_path / "other")}, {"encoder": str(tmp_path / "copy")}, {"encoder_layers": 1}]
    values += [{"trim_db": 40.0}, {"name": "mel"}]
    assert len({mark, features_fingerprint(settings, 41, quality), *(changed(**v) for v in values)}) == 7
    # An encoder that is not used changes nothing, and features made before there were encoders are found again.
    plain = FeatureSettings(name="mel")
    idle = plain.model_copy(update={"encoder": "x", "encoder_layers": 3})
    assert features_fingerprint(plain, 40, quality) == features_fingerprint(idle, 40, quality)


@pytest.mark.parametrize("normalises", [True, False])
def test_what_a_saved_processor_says_of_normalisation_counts(tmp_path, normalises):
    """Against transformers itself, which writes and reads the processor."""
    import transformers

    write_encoder(tmp_path, "WavLM")
    write_tokenizer(tmp_path)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalises)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert transformers.AutoFeatureExtractor.from_pretrained(tmp_path).do_normalize == normalises
    assert speech_shape(str(tmp_path)).normalised == normalises


@WRITERS
def test_a_replaced_model_is_loaded_anew(tmp_path, write):
    settings, sound = write(tmp_path), tone(0.1, rate=16000)
    before, mark = extract(sound, settings, 10)[0], features_fingerprint(settings, 10, DataSettings())
    write(tmp_path, seed=1)
    assert np.abs(extract(sound, settings, 10)[0] - before).max() > 1e-3
    assert features_fingerprint(settings, 10, DataSettings()) != mark


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "features.encoder: expected a hub name or a folder"),
        ({"encoder": "x", "sample_rate_hz": 22050}, "features.sample_rate_hz: expected 16000"),
        ({"encoder": "x", "deltas": 1}, "features.deltas: expected 0"),
        ({"encoder": "x", "padding": "silence"}, "features.padding: expected masked or zero with .*, got silence"),
        (
            {"encoder": "x", "encoder_layers": -2},
            "features.encoder_layers: expected one or .* from -1 on, got .-2",
        ),
        ({"encoder": "x", "encoder_layers": "[]"}, "features.encoder_layers: expected one or several"),
        ({"encoder": "x", "encoder_layers": "[1, 1]"}, r"features.encoder_layers: expected one .*, got \[1, 1\]"),
        (
            {"encoder": "TMP/tiny", "encoder_layers": "[2, -1]"},
            r"encoder_layers: expected different .*got \[2, -1\]",
        ),
        ({"encoder": "x", "encoder_layers": "most"}, "features.encoder_layers: expected .* one of all, got most"),
        (
            {"encoder": "TMP/whisper", "num_frames": 21},
            "features.num_frames .*: expected at most 20 .0.4 s., .* got 21",
        ),
        (
            {"encoder": "x", "name": "mel"},
            "features.encoder: expected only with features.name=encoder, got features.name=mel",
        ),
        ({"encoder": "x", "num_mels": 40}, "features.num_mels: expected only with features.name=mfcc or mel"),
        ({"encoder": "TMP/tinny"}, "got 'TMP/tinny'; did you mean 'TMP/tiny'"),
        ({"encoder": "TMP"}, "features.encoder: expected config.json and weights .* in 'TMP', found none of them"),
        (
            {"encoder": "TMP/tiny", "encoder_layers": 3},
            r"encoder_layers: expected -1 \(the last\) to 2 .*got 3",
        ),
        ({"encoder": "TMP/tiny", "encoder_layers": "{choice: [1, 2, 3]}"}, "features.encoder_layers: .* got 3"),
        (
            {"encoder": "TMP/tiny", "encoder_layers": "{choice: [1, 3], when: {training.batch_size: 16}}"},
            "features.encoder_layers: .* got 3",
        ),
        (
            {"encoder": "TMP/tiny", "encoder_pooling": "mean", "num_frames": 1},
            "model.name: expected mlp with .*, got ser",
        ),
        ({"encoder": "TMP/tiny", "pooled_seconds": 1e300}, "features.pooled_seconds: .* at most 3600"),
        (
            {"encoder": "TMP/text"},
            "features.encoder: expected one of hubert, wav2vec2, wavlm, whisper, musicnn, got .* a bert",
        ),
        ({"encoder": "TMP/musicnn", "encoder_layers": 5}, r"encoder_layers: expected -1 \(the last\) to 4 .*got 5"),
        ({"encoder": "TMP/musicn"}, "got 'TMP/musicn'; did you mean 'TMP/musicnn'"),
        ({"encoder": "musicnn/MSD_vgg"}, "features.encoder: expected musicnn/MSD_musicnn or musicnn/MTT_musicnn"),
        ({"encoder": "TMP/broken"}, "features.encoder: '.*broken' can't be loaded"),
    ],
)
def test_the_plan_says_what_is_wrong(tmp_path, values, message):
    write_encoder(tmp_path / "tiny")
    write_whisper(tmp_path / "whisper")
    write_musicnn(tmp_path / "musicnn")
    for name, content in (("text", '{"model_type": "bert"}'), ("broken", '{"model_type": "nothing"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    given = {"name": "encoder"} | values
    arguments = [f"features.{key}={str(value).replace('TMP', str(tmp_path))}" for key, value in given.items()]
    with pytest.raises(UserError, match=message.replace("TMP", str(tmp_path))):
        make_plan(["space=ser", *arguments])


def planned(tmp_path, *arguments):
    write_encoder(tmp_path)
    return make_plan(["space=ser_encoder", f"features.encoder={tmp_path}", *arguments])


def test_all_layers_are_planned_by_their_numbers_also_in_conditions(tmp_path):
    condition = "{choice: [null, learnt], when: {features.encoder_layers: all}}"
    plan = planned(tmp_path, f"model.layer_weights={condition}")
    assert plan.space.settings["features.encoder_layers"] == [0, 1, 2]
    drawn = {plan.space.config(point).model.layer_weights for point in planned_points(plan.space, plan.config)}
    assert drawn == {None, "learnt"}


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_one_layer_is_not_weighed_in_any_trial(tmp_path, algorithm):
    layers, weights = "{choice: [[0, 1], 2]}", "{choice: [null, learnt]}"
    with pytest.raises(UserError, match=r"model.layer_weights: expected null unless .* several encoder_layers.*=2"):
        planned(
            tmp_path, f"features.encoder_layers={layers}", f"model.layer_weights={weights}",
            f"search.algorithm={algorithm}",
        )  # fmt: skip


def test_numbers_are_asked_for_where_layers_that_are_weighed_are_searched(tmp_path):
    layers, weights = "{choice: [[0, 1], all]}", "{choice: [null, learnt]}"
    with pytest.raises(UserError, match=r"features.encoder_layers: expected numbers with model.layer_weights=learnt"):
        planned(tmp_path, f"features.encoder_layers={layers}", f"model.layer_weights={weights}")
    assert planned(tmp_path, f"features.encoder_layers={layers}", "model.layer_weights=null").total == 8


@pytest.mark.parametrize("weights", ["learnt", "{choice: [null, learnt]}"])
@pytest.mark.parametrize("layers", ["all", "[3, 0]", "{choice: [[1, 2], [0, 1]]}"])
def test_layers_of_different_sizes_are_not_weighed(tmp_path, weights, layers):
    write_musicnn(tmp_path)
    arguments = ["space=ser_encoder", f"features.encoder={tmp_path}", f"model.layer_weights={weights}"]
    with pytest.raises(UserError, match=r"^model.layer_weights: expected null, or features.encoder_layers of one size"):
        make_plan([*arguments, f"features.encoder_layers={layers}"])
    make_plan([*arguments, "features.encoder_layers=[1, 2, 3]"])
    make_plan([*arguments[:2], "model.layer_weights=null", f"features.encoder_layers={layers}"])


def test_what_is_pooled_is_no_longer_than_the_encoder_takes(tmp_path):
    write_whisper(tmp_path / "whisper")
    arguments = [f"features.encoder={tmp_path / 'whisper'}", "features.pooled_seconds=0.5"]
    with pytest.raises(UserError, match=r"\(features.pooled_seconds if .*: expected at most 20 \(0.4 s\), .*got 25"):
        make_plan(["space=ser_encoder", *arguments])


def test_masks_over_time_are_refused_for_one_frame(tmp_path):
    with pytest.raises(UserError, match=r"augment.time_masks: expected 0 with features.encoder_pooling=mean_std"):
        planned(tmp_path, "augment.enabled=true", "augment.time_masks=2")


def test_a_search_over_names_and_layers_is_planned(tmp_path):
    write_encoder(tmp_path)
    names = ["features.name='{choice: [mfcc, encoder]}'", "features.encoder_layers='{choice: [0, 1, 2]}'"]
    plan = make_plan(["space=ser", f"features.encoder={tmp_path}", *(name.replace("'", "") for name in names)])
    assert {"features.name", "features.encoder_layers"} <= plan.space.distributions.keys()


@pytest.fixture
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1, which is read when the package is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_hub_name_that_cannot_be_had_says_how_to_get_it(offline):
    with pytest.raises(
        ValueError, match=r"features.encoder: 'nobody/nothing' is no folder.*hf download nobody/nothing"
    ):
        check_speech_encoder("nobody/nothing", -1, 40)
    assert content_of("nobody/nothing") == "nobody/nothing"


def test_an_encoder_in_the_hub_s_cache_is_found_without_a_network(tmp_path, monkeypatch, offline):
    """Whether its waveforms are normalised is never guessed: the cache knows that the hub has no preprocessor."""
    place = tmp_path / "models--some--wavlm"
    settings = write_encoder(place / "snapshots" / ("0" * 40), "WavLM")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    for module in ("constants", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    with pytest.raises(ValueError, match=r"features.encoder: 'some/wavlm' is no folder.*hf download some/wavlm"):
        speech_shape("some/wavlm")
    (place / ".no_exist" / ("0" * 40)).mkdir(parents=True)
    for kind in ("preprocessor", "processor"):
        (place / ".no_exist" / ("0" * 40) / f"{kind}_config.json").touch()
    assert speech_shape("some/wavlm") == speech_shape(settings.encoder) == SpeechShape((16, 16, 16), HOP, FIELD, True)
    sound = tone(0.1, rate=16000)
    found = extract(sound, settings.model_copy(update={"encoder": "some/wavlm"}), 10)[0]
    np.testing.assert_array_equal(found, extract(sound, settings, 10)[0])


def test_trials_do_not_look_for_the_encoder():
    inner = SimpleNamespace(
        num_features=16,
        statistics=FeatureStatistics(np.zeros(16, np.float32), np.ones(16, np.float32)),
        train_batches=lambda *_: iter(()),
        augmented=lambda settings: inner,
    )
    settings = FeatureSettings(name="encoder", encoder="/nowhere")
    data = augment_data(inner, settings, AugmentSettings(time_masks=1, mixup_prob=0.5))
    assert data.num_features == 16
    assert data.statistics.mean.shape == (16,)
    assert list(data.train_batches(0, 4, 0)) == []
    with pytest.raises(ValueError, match=r"features.name=encoder, which has no mel bands"):
        augment_data(inner, settings, AugmentSettings(freq_masks=1))


def test_weights_that_lack_some_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    settings = write_encoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["masked_spec_embed"]  # only used in training
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    extract(tone(0.1, rate=16000), settings, 10)
    del weights["encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"features.encoder: .* 1 are missing, 'encoder.layers.1.attention"):
        extract(tone(0.1, rate=16000), settings, 10)


@WRITERS
def test_shards_and_bank_hold_hidden_states(tmp_path, ray_session, monkeypatch, write):
    quality = DataSettings(prepared=str(tmp_path / "prepared"))
    write(tmp_path / "tiny")
    corpus = write_corpus(tmp_path / "corpus", 3)
    monkeypatch.chdir(tmp_path)  # Ray's processes stay where they were
    settings = FeatureSettings(name="encoder", encoder="tiny", encoder_layers=1)
    cells = dict.fromkeys((clip.id for clip in corpus.clips), "train")
    prepared = prepare(corpus, cells, settings, 150, quality)
    assert (prepared.num_extracted, prepared.num_features, prepared.quarantine) == (3, 16, [])
    part = read_part(prepared, corpus.clips, sealed=())
    augment = AugmentSettings(speed_prob=0.5, versions=2)
    bank = prepare_bank(corpus, cells, corpus.clips, (), settings, 150, quality, augment, ["speed"])["speed"]
    changed = read_versions(bank, list(cells), sealed=())
    for place, clip in enumerate(part.ids.tolist()):
        raw = (tmp_path / "corpus" / clip).read_bytes()
        waveform = decode(raw, 16000, quality, 4 * num_samples(150, settings), "middle")
        expected, num_valid = extract(waveform, settings, 150)
        assert part.features.dtype == expected.dtype == changed.features.dtype == np.float16
        np.testing.assert_allclose(part.features[place], expected, atol=1e-5, rtol=1e-3)  # the last digit may differ
        assert part.num_frames[place] == num_valid
        counts, values = make_versions(waveform, prepared.digests[clip], ["speed"], settings, 150, augment)["speed"]
        there = list(cells).index(clip)
        np.testing.assert_allclose(changed.features[there], values, atol=1e-5, rtol=1e-3)
        np.testing.assert_array_equal(changed.num_frames[there], counts)
    assert prepare(corpus, cells, settings, 150, quality).num_extracted == 0


def test_the_package_s_musicnn_is_prepared_by_its_name(tmp_path, ray_session):
    if importlib.util.find_spec("musicnn") is None:
        pytest.skip("needs pip install --no-deps musicnn")
    corpus = write_corpus(tmp_path / "corpus", 3)
    settings = FeatureSettings(name="encoder", encoder="musicnn/MSD_musicnn", encoder_layers=[1, 3])
    quality = DataSettings(prepared=str(tmp_path / "prepared"))
    cells = dict.fromkeys((clip.id for clip in corpus.clips), "train")
    prepared = prepare(corpus, cells, settings, 60, quality)
    assert (prepared.num_extracted, prepared.num_features, prepared.quarantine) == (3, 128, [])
    part = read_part(prepared, corpus.clips, sealed=())
    for place, clip in enumerate(part.ids.tolist()):
        raw = (tmp_path / "corpus" / clip).read_bytes()
        waveform = decode(raw, 16000, quality, num_samples(60, settings), "middle")
        np.testing.assert_allclose(part.features[place], extract(waveform, settings, 60)[0], atol=1e-5)
    assert "tensorflow" not in sys.modules and "musicnn" not in sys.modules
