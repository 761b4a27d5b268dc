"""Pretrained models by folder and by hub name: what comes out is transformers' own, and every lack has a name."""

import json
from contextlib import suppress

import pytest
import torch

from tests.helpers.tiny_bert import SONGS, write_encoder
from tuning.models.encoder_shapes import TextShape, text_shape
from tuning.models.pretrained import layers_of, load_config, load_encoder, load_tokenizer

NOBODY = "nobody/nothing-of-this-name"


@pytest.fixture
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1, which is read when the package is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "MPNet", "Electra", "DistilBert"])
def test_states_are_the_models_own(tmp_path, kind):
    import transformers

    name = write_encoder(tmp_path, kind)
    texts = load_tokenizer(name)(SONGS, padding=True, return_tensors="pt")
    inputs = {"input_ids": texts["input_ids"], "attention_mask": texts["attention_mask"]}
    theirs = getattr(transformers, f"{kind}Model").from_pretrained(name).eval()
    ours = load_encoder(name)
    assert not ours.training and all(p.dtype == torch.float32 for p in ours.parameters())
    assert not any("pooler" in key for key in ours.state_dict())
    with torch.no_grad():
        expected, states = theirs(**inputs)[0], ours(**inputs)[0]
        assert states.std() > 0.1
        torch.testing.assert_close(states, expected, rtol=0, atol=0)
        # The layers are in order and whole: the last one's output is the model's.
        seen = []
        for layer in layers_of(ours):
            layer.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        ours(**inputs)
    assert len(seen) == 2 and torch.equal(seen[-1], expected) and not torch.equal(seen[0], expected)


def test_modernbert_s_layers_are_found(tmp_path):
    from transformers import ModernBertConfig, ModernBertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    ModernBertModel(ModernBertConfig(**sizes, **ids, vocab_size=40)).save_pretrained(tmp_path)
    assert text_shape(str(tmp_path)).num_layers == len(layers_of(load_encoder(str(tmp_path)))) == 3


@pytest.mark.parametrize(
    ("kind", "longest"), [("Bert", 64), ("Electra", 64), ("DistilBert", 64), ("Roberta", 62), ("MPNet", 62)]
)
def test_the_longest_text_is_what_the_model_takes_and_no_more(tmp_path, kind, longest):
    name = write_encoder(tmp_path, kind, pad_token_id=1)
    shape = text_shape(name)
    assert shape == TextShape(32, 2, longest, kind.lower())
    encoder = load_encoder(name)
    tokens = torch.full((1, longest), 7)
    assert encoder(input_ids=tokens)[0].shape == (1, longest, 32)
    with pytest.raises((IndexError, RuntimeError)):
        encoder(input_ids=torch.full((1, longest + 1), 7))


def test_sizes_are_read_without_weights_and_anew_when_the_folder_changes(tmp_path):
    name = write_encoder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert text_shape(name) == TextShape(32, 2, 64, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 320}))
    assert text_shape(name).hidden_size == 320


def test_a_folder_of_sentence_transformers_is_one_too(tmp_path):
    name = write_encoder(tmp_path)
    expected = load_encoder(name).state_dict()
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}'
    )
    (tmp_path / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert text_shape(name).hidden_size == 32
    assert all(torch.equal(value, expected[key]) for key, value in load_encoder(name).state_dict().items())
    assert load_tokenizer(name)(SONGS[0])["input_ids"][0] == 2


def test_half_precision_and_a_model_with_a_head_are_read_as_float32(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, vocab_size=40)
    model = BertForMaskedLM(config).half()
    model.save_pretrained(tmp_path)
    weights = load_encoder(str(tmp_path)).state_dict()
    for key, value in model.bert.state_dict().items():
        assert weights[key].dtype == torch.float32 and torch.equal(weights[key], value.float())


def test_random_weights_come_only_when_asked_for_and_by_the_global_seed(tmp_path):
    name = write_encoder(tmp_path)
    saved, drawn = load_encoder(name).state_dict(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(load_encoder(name, pretrained=False).state_dict()["embeddings.word_embeddings.weight"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], saved["embeddings.word_embeddings.weight"])
    (tmp_path / "model.safetensors").unlink()
    assert load_encoder(name, pretrained=False) is not None
    with pytest.raises(ValueError, match=r"^model.text_encoder: expected weights .* found config.json, tokenizer"):
        load_encoder(name)


def test_weights_that_lack_some_are_refused_unless_it_is_the_pooler(tmp_path):
    from safetensors.torch import load_file, save_file

    name = write_encoder(tmp_path)
    weights = {key: value for key, value in load_file(tmp_path / "model.safetensors").items() if "pooler" not in key}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_encoder(name)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"^a.b: .* 1 are missing, 'encoder.layer.1.output.dense.weight'"):
        load_encoder(name, "a.b")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"^a.b: '.*' can't be loaded: "):
        load_encoder(name, "a.b")


def test_a_missing_tokenizer_is_no_empty_one(tmp_path):
    name = write_encoder(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"^model.text_encoder: expected a tokenizer .* found config.json, model.safe"):
        load_tokenizer(name)


@pytest.mark.parametrize("function", [text_shape, load_encoder, load_tokenizer])
def test_a_path_that_is_no_model_is_named_and_the_nearest_one(tmp_path, function):
    write_encoder(tmp_path / "minilm")
    with pytest.raises(ValueError, match=r"^x.y: .* got '.*/minilmm'; did you mean '.*/minilm'\?"):
        function(str(tmp_path / "minilmm"), "x.y")
    (tmp_path / "minil").mkdir()
    with pytest.raises(
        ValueError, match=r"^x.y: expected config.json and weights .*, found none of them; did you mean"
    ):
        function(str(tmp_path / "minil"), "x.y")


@pytest.mark.parametrize("function", [text_shape, load_encoder, load_tokenizer])
def test_a_hub_name_that_is_not_there_says_how_to_get_it(offline, function):
    with pytest.raises(ValueError, match=f"^model.text_encoder: '{NOBODY}' .*`hf download {NOBODY}`.*config.json"):
        function(NOBODY)


def test_without_a_way_to_the_hub_nothing_is_tried_again_and_again(monkeypatch):
    import huggingface_hub.constants
    import huggingface_hub.utils

    class Nowhere:
        asked = 0

        def head(self, *_, **__):
            Nowhere.asked += 1
            raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Nowhere)
    for offline in (False, True):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(ValueError, match="hf download"):
            load_tokenizer(NOBODY)
        assert Nowhere.asked == 1, "offline it is not asked at all"


def test_what_lies_in_the_hub_s_cache_is_found_without_a_network(tmp_path, monkeypatch, offline):
    from huggingface_hub import constants

    # The cache's layout: a branch names a commit, whose files lie in its snapshot.
    place = tmp_path / "models--some--bert"
    name = write_encoder(place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    for module in ("constants", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    expected = load_encoder(name).state_dict()
    assert text_shape("some/bert").hidden_size == 32
    assert all(torch.equal(value, expected[key]) for key, value in load_encoder("some/bert").state_dict().items())
    assert load_tokenizer("some/bert")(SONGS[0]) == load_tokenizer(name)(SONGS[0])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Wav2Vec2", "a wav2vec2, which takes input_values"),
        ("T5", "a t5, which has a decoder"),
        ("Bart", "a bart, which has a decoder"),
        ("ViT", "a vit, without vocab_size"),
        ("CLIP", "a clip, without hidden_size"),
    ],
)
def test_what_is_no_encoder_of_text_is_refused(tmp_path, kind, message):
    import transformers

    getattr(transformers, f"{kind}Config")().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"^model.text_encoder: expected an encoder of text such as BERT.*{message}"):
        text_shape(str(tmp_path))


def test_an_unknown_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ValueError, match=r"^model.text_encoder: '.*' can't be loaded: .*nothing"):
        text_shape(str(tmp_path))
    with pytest.raises(ValueError, match=r"^model.text_layers: expected a model like BERT.*got Linear"):
        layers_of(torch.nn.Linear(2, 2))


def test_transformers_settings_of_its_messages_are_left_as_they_were(tmp_path, capfd):
    from transformers.utils import logging

    name = write_encoder(tmp_path)
    logging.set_verbosity_warning()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_encoder(name)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("function", [load_config, load_encoder, load_tokenizer])
def test_code_that_an_encoder_brings_along_is_not_run(tmp_path, monkeypatch, function):
    """transformers would ask on the terminal, and run it after a y."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    write_encoder(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    classes = {"AutoConfig": "own_code.Config", "AutoModel": "own_code.Net", "AutoTokenizer": ["own_code.Words", None]}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config | {"model_type": "x", "auto_map": classes}))
    (tmp_path / "encoder" / "own_code.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    with suppress(ValueError):  # a tokenizer is read without it
        function("encoder", "model.text_encoder")
    assert not (tmp_path / "ran").exists()
