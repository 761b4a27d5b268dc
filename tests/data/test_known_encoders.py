"""Encoders that were trained on the corpus are refused before anything else; a table of the user's is checked."""

import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.command import refusals
from tuning.config.errors import UserError
from tuning.config.loader import load
from tuning.config.schema import Config
from tuning.data.known_encoders import PLACES, check_known_encoders, known_encoder_cautions, of_features, of_model
from tuning.experiment.directory import setting_differences

PROJECT = Path(__file__).parents[2]
SUPERB, EHC = "superb/hubert-base-superb-er", "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition"
SPEECH = ["space=ser_encoder", "data.root=/nowhere"]
VIT = "google/vit-base-patch16-224-in21k"
OWN = f"""
- checkpoints: [bert-base-uncased, {VIT}]
  corpora: [merge, deam]
  kind: emotion labels
  source: our own training
"""


EXPECTED = "expected an encoder that was not trained on the corpus that it is judged on, got "


def write_table(folder, text=OWN):
    (folder / "mine.yaml").write_text(text)
    return f"data.known_table={folder / 'mine.yaml'}"


def check(*words):
    check_known_encoders(load(list(words))[1])


def test_listed_encoders_are_refused_before_torch_and_without_a_network(tmp_path):
    own = write_table(tmp_path)
    cases = {
        (*SPEECH, "data.corpus=iemocap", f"features.encoder={SUPERB.upper()}"): (
            f"error: features.encoder: {EXPECTED}'{SUPERB.upper()}', trained on iemocap "
            f"(emotion labels: https://huggingface.co/{SUPERB}); "
            "data.known_encoders=mark searches all the same, and marks every score\n"
        ),
        (*SPEECH, "data.corpus=ravdess", f"features.encoder={{choice: [openai/whisper-base, {SUPERB}, {EHC}]}}"): EHC,
        (*SPEECH, "data.corpus=manifest", "data.known_as=[IEMOCAP]", f"features.encoder={SUPERB}"): "on IEMOCAP",
        ("space=bimodal", "data.corpus=merge", "data.root=/nowhere", "model.text_encoder=bert-base-uncased", own): (
            f"model.text_encoder: {EXPECTED}'bert-base-uncased', trained on merge (emotion labels: our own training)"
        ),
        ("space=vit", "data.corpus=deam", "data.root=/nowhere", own): f"model.image_encoder: {EXPECTED}'{VIT}'",
    }
    places = [f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared"]
    for (code, output, error), message in zip(
        refusals([[*words, *places] for words in cases]), cases.values(), strict=True
    ):
        assert (code, output) == (2, "") and message in error and error.count("\n") == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_encoder_that_some_trial_uses_is_refused(tmp_path):
    searched = f"features.encoder={{choice: [{SUPERB}], when: {{features.name: [encoder]}}}}"
    words = ["space=ser", "data.corpus=iemocap", "features.name={choice: [mfcc, encoder]}", searched]
    with pytest.raises(UserError, match=f"features.encoder: .*'{SUPERB}'"):
        check(*words)
    file = tmp_path / "own.yaml"
    file.write_text(f"search: {{num_trials: 2}}\nfeatures: {{name: encoder, encoder: {SUPERB}}}\n")
    check(f"space={file}", "data.corpus=iemocap", "task.name=classification", "features.name=mfcc")


def test_what_is_not_trained_on_the_corpus_or_not_used_is_allowed(tmp_path):
    own = write_table(tmp_path)
    speech = ["space=ser_encoder", f"features.encoder={SUPERB}"]
    check(*speech, "data.corpus=ravdess")
    check(*speech, "data.corpus=iemocap", "data.known_encoders=mark")
    bert = ["space=bimodal", "data.corpus=merge", "model.text_encoder=bert-base-uncased", own]
    with pytest.raises(UserError, match=r"model\.text_encoder"):
        check(*bert)
    check(*bert, "model.modalities=audio")
    check(*bert, "model.text_layers=2", "model.text_pretrained=false")
    vit = ["space=vit", "data.corpus=deam", own]
    check(*vit, "model.pretrained=false", "model.unfreeze_epochs=[]")
    check(*vit, "model.pretrained=false", "model.unfreeze_epochs=[]", "model.image_encoder=null")


def test_our_table_names_each_checkpoint_once_with_a_source_and_plain_corpora():
    entries = yaml.safe_load((PROJECT / "models" / "known_data.yaml").read_text())
    names = [name for entry in entries for name in entry["checkpoints"]]
    assert len(names) == len({name.lower() for name in names}) >= 50
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+", name) for name in names)
    assert all(re.fullmatch(r"[a-z0-9_]+", corpus) for entry in entries for corpus in entry["corpora"])
    assert all(entry["source"].startswith("https://") for entry in entries)


def test_our_table_has_the_corpora_that_we_read():
    listed = {}
    for corpus in ("ravdess", "cremad", "emodb", "iemocap", "deam", "pmemo", "emotify", "msp_podcast"):
        config = Config.model_validate({"data": {"corpus": "manifest", "known_as": [corpus]}})
        for name in (SUPERB, EHC, "amiriparian/ExHuBERT", "m-a-p/MERT-v0-public", "amaai-lab/music2emo"):
            features = config.features.model_copy(update={"name": "encoder", "encoder": name})
            told = known_encoder_cautions(of_features, config.model_copy(update={"features": features}))
            assert all(re.search(r"; source: https?://", each) for each in told)
            listed.setdefault(corpus, set()).update({name} if told else ())
    assert listed == {
        "ravdess": {EHC, "amiriparian/ExHuBERT"},
        "cremad": {"amiriparian/ExHuBERT"},
        "emodb": {"amiriparian/ExHuBERT"},
        "iemocap": {SUPERB, "amiriparian/ExHuBERT"},
        "deam": {"m-a-p/MERT-v0-public", "amaai-lab/music2emo"},
        "pmemo": {"amaai-lab/music2emo"},
        "emotify": set(),
        "msp_podcast": set(),
    }


ENTRY = "{checkpoints: [a/b], corpora: [merge], kind: tags, source: x}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a list of entries with checkpoints, corpora, kind, source, got {}"),
        ("a/b: [merge]", 'expected a list of entries with checkpoints, corpora, kind, source, got {"a/b": ["merge"]}'),
        (f"- {ENTRY}\n- a/b", "entry 2: expected checkpoints, corpora, kind, source, got a/b"),
        (f"- {ENTRY.replace('kind: tags', 'kind: tag')}", 'entry 1 (["a/b"]): kind: expected one of pretraining'),
        (f"- {ENTRY.replace('kind: tags', 'kind: tag')}", "got tag; did you mean 'tags'?"),
        (f"- {ENTRY.replace('kind: tags, ', '')}", 'entry 1 (["a/b"]): kind: expected a value, got none'),
        (f"- {ENTRY.replace('corpora', 'corpus')}", "entry 1 ([\"a/b\"]): corpus: expected no such name; did you mean"),
        (f"- {ENTRY.replace('[merge]', 'merge')}", "corpora: expected list of texts of length at least 1, got merge"),
        (f"- {ENTRY.replace('[merge]', '[]')}", "corpora: expected list of texts of length at least 1, got []"),
        (f"- {ENTRY.replace('[merge]', '[null]')}", "corpora: expected list of texts of length at least 1, got [null]"),
        (f"- {ENTRY.replace('source: x', 'source: ~')}", "source: expected text of length at least 1, got null"),
        (f"- {ENTRY.replace('kind: tags', 'kind: tags, kind: tags')}", "expected 'kind' once, got it twice"),
        ("- {", "expected YAML in 'PLACE', got: "),
        (None, "expected the path of a YAML file, got 'PLACE' (no such file)"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_its_file_and_entry_even_if_no_encoder_is_used(tmp_path, text, message):
    word = f"data.known_table={tmp_path}/none.yaml" if text is None else write_table(tmp_path, text)
    with pytest.raises(UserError) as refused:
        check("space=crnn", word)
    place = word.partition("=")[2]
    assert message.replace("PLACE", place) in str(refused.value)
    assert str(refused.value).startswith("data.known_table: ") and place in str(refused.value)


def test_a_changed_table_is_read_again(tmp_path):
    words = ["space=bimodal", "data.corpus=merge", "model.text_encoder=bert-base-uncased"]
    own = write_table(tmp_path, OWN.replace("merge", "pmemo"))
    check(*words, own)
    write_table(tmp_path, OWN)
    with pytest.raises(UserError, match="our own training"):
        check(*words, own)


def test_a_search_that_was_begun_goes_on_when_more_is_known_but_not_as_another_corpus(tmp_path):
    def space(*words):
        return load(["space=ser_encoder", "data.corpus=iemocap", f"features.encoder={SUPERB}", *words])[1]

    begun = space()
    later = space("data.known_encoders=mark", write_table(tmp_path))
    assert setting_differences(begun, later) == []
    assert setting_differences(begun, space("data.known_as=[tess]")) == ['data.known_as: null -> ["tess"]']


def test_the_places_of_encoders_are_told_apart():
    assert [*PLACES] == [of_features, of_model]
    speech, lyrics = (load([f"space={name}"])[1].fixed() for name in ("ser_encoder", "bimodal"))
    assert of_features(speech).setting == "features.encoder" and of_model(speech) is None
    assert of_model(lyrics).setting == "model.text_encoder" and of_features(lyrics) is None
