import json
import warnings

import numpy as np
import pytest
import torch

from tuning.datasets.demo import lyrics as demo_lyrics
from tuning.datasets.demo import text_encoder as demo_encoder

HELD_OUT = [demo_lyrics.draw(1, 6, number) for number in range(500)]  # no seed of the songs' or of the encoder's


@pytest.fixture(scope="module")
def trained():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    tokenizer, model = demo_encoder.pretrain()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    return tokenizer, model


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    demo_encoder.write(str(folder), *trained)
    return folder


def loaded(folder):
    from transformers import AutoModel, AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, info = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return tokenizer, model.eval()


def pooled(tokenizer, model, texts):
    """Mean of the last hidden states over the tokens that are no padding [texts, hidden]."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    valid = tokens["attention_mask"][..., None]
    return ((states * valid).sum(1) / valid.sum(1)).numpy()


def test_it_loads_as_what_was_trained(trained, folder):
    config = json.loads((folder / "config.json").read_text())
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    assert [config[name] for name in sizes] == [32, 2, 2, 64, 128]
    tokenizer, model = loaded(folder)
    texts = [lyrics.text for lyrics in HELD_OUT[:20]]
    np.testing.assert_array_equal(pooled(tokenizer, model, texts), pooled(trained[0], trained[1].bert, texts))


def test_words_are_tokens_and_others_are_spelt(folder):
    tokenizer, _ = loaded(folder)
    assert tokenizer.tokenize("Sunshine and\nTEARS") == ["sunshine", "and", "tears"]
    assert tokenizer.tokenize("abc") == ["a", "##b", "##c"]
    ids = tokenizer("golden", "rain").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "golden", "[SEP]", "rain", "[SEP]"]
    assert tokenizer.model_max_length == 128
    assert len(tokenizer("rain " * 300, truncation=True).input_ids) == 128
    padded = tokenizer(["rain", "the rain"], padding=True)
    assert padded["attention_mask"] == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert padded["input_ids"][0][-1] == tokenizer.pad_token_id == 0


def test_frozen_states_tell_what_lyrics_say(folder):
    """Ridge regression in closed form on 300 lyrics, tested on 200 others; on shuffled labels nothing."""
    states = pooled(*loaded(folder), [lyrics.text for lyrics in HELD_OUT])
    inputs = (states - states[:300].mean(0)) / states[:300].std(0)
    labels = np.array([[lyrics.valence, lyrics.arousal] for lyrics in HELD_OUT])

    def r2(targets):
        mean = targets[:300].mean(0)
        gram = inputs[:300].T @ inputs[:300] + np.eye(32)
        weights = np.linalg.solve(gram, inputs[:300].T @ (targets[:300] - mean))
        residual = targets[300:] - mean - inputs[300:] @ weights
        return 1 - (residual**2).sum(0) / ((targets[300:] - targets[300:].mean(0)) ** 2).sum(0)

    valence, arousal = r2(labels)
    assert valence > 0.89  # 0.85 before any training: it knows the words, not what they have in common
    assert arousal > 0.7
    assert r2(np.random.default_rng(0).permutation(labels)).max() < 0.1


def test_it_guesses_masked_words_better_than_their_frequencies_do(trained):
    tokenizer, model = trained
    read = [demo_lyrics.draw(*demo_encoder.SEED, number).text.split() for number in range(500)]
    counts = {word: 1.0 for words in demo_lyrics.WORDS.values() for word in words}
    for word in (word for words in read for word in words):
        counts[word] += 1
    frequency = {word: count / sum(counts.values()) for word, count in counts.items()}
    rng = np.random.default_rng(0)
    losses, by_frequency = [], []
    for lyrics in HELD_OUT[:100]:
        words = lyrics.text.split()
        place = int(rng.integers(len(words)))
        hidden = [*words[:place], "[MASK]", *words[place + 1 :]]
        tokens = tokenizer(" ".join(hidden), return_tensors="pt")
        with torch.no_grad():
            scores = torch.log_softmax(model(**tokens).logits[0, 1 + place], dim=-1)
        losses.append(-scores[tokenizer.convert_tokens_to_ids(words[place])].item())
        by_frequency.append(-np.log(frequency[words[place]]))
    assert np.mean(losses) < np.mean(by_frequency) - 0.3


def test_masks_are_drawn_as_bert_does(trained):
    tokenizer, _ = trained
    words = tokenizer([lyrics.text for lyrics in HELD_OUT], padding=True, return_tensors="pt")["input_ids"]
    torch.manual_seed(0)
    seen, labels = demo_encoder.mask_words(words, tokenizer)
    guessed = labels != -100
    assert torch.equal(labels[guessed], words[guessed])
    assert torch.equal(seen[~guessed], words[~guessed])
    assert not guessed[words < 5].any()
    assert guessed[words >= 5].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert (seen == tokenizer.mask_token_id)[guessed].float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (seen == words)[guessed].float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_what_is_said_can_be_read():
    for lyrics in HELD_OUT:
        kinds = [kind for word in lyrics.text.split() for kind, words in demo_lyrics.WORDS.items() if word in words]
        count = {kind: kinds.count(kind) for kind in demo_lyrics.WORDS}
        assert len(kinds) == len(lyrics.text.split())
        assert count["neutral"] == len(kinds) / 3
        for high, low, value in (("happy", "sad", lyrics.valence), ("lively", "calm", lyrics.arousal)):
            phrases = (count[high] + count[low]) / 2
            assert abs((count[high] - count[low]) / (2 * phrases) - value) <= 1 / phrases + 1e-9


def test_words_of_a_kind_have_similar_states(folder):
    """Each word alone: the nearest by the cosine of centred states is often of its kind; by chance a fifth are."""
    tokenizer, model = loaded(folder)
    kinds = {word: kind for kind, words in demo_lyrics.WORDS.items() for word in words}
    with torch.no_grad():
        states = model(**tokenizer(list(kinds), return_tensors="pt")).last_hidden_state[:, 1].numpy()
    states -= states.mean(0)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    nearest = (states @ states.T - 2 * np.eye(len(states))).argmax(axis=1)
    names = list(kinds.values())
    alike = [names[index] == names[other] for index, other in enumerate(nearest)]
    assert np.mean(alike) > 0.4
