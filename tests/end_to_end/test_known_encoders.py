"""An encoder that knows the corpus: refused, or searched, and then named wherever a score is."""

import html
import json

import pytest

from tests.helpers.command import run
from tests.helpers.tiny_whisper import write_whisper
from tuning import api
from tuning.cli import folds
from tuning.cli.finalize import main as finalize

KNOWN = "firdhokk/speech-emotion-recognition-with-openai-whisper-large-v3"
WORDS = [
    "space=ser_encoder", "augment.enabled=false",
    "data.known_as=[tess]", "features.encoder_layers=1", "features.pooled_seconds=0.4",
    "model.layer_weights=null", "model.hidden_units=[8]", "model.input_dropout=0", "model.dropout=0",
    "loss.label_smoothing=0", "optim.learning_rate=0.001", "optim.weight_decay=0", "training.epochs=2",
    "search.max_concurrent=1", "storage=results", "data.prepared=prepared",
]  # fmt: skip
SEARCHED = "features.encoder={choice: [known, unknown]}"
MARK = "data.known_encoders=mark"
SAID = f"features.encoder 'known' ({KNOWN}) was trained on tess (emotion labels), on which it is judged here"
WHERE = "; in trials with features.encoder=known"


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_session):
    place = tmp_path_factory.mktemp("known")
    for name in ("known", "unknown"):
        write_whisper(place / name)
    config = json.loads((place / "known" / "config.json").read_text())
    (place / "known" / "config.json").write_text(json.dumps(config | {"_name_or_path": KNOWN}))
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    yield place
    patch.undo()


def line(text):
    return " ".join(text.split())


@pytest.mark.slow
def test_a_marked_search_says_it_with_every_score(place, capsys):
    words = [*WORDS, SEARCHED, "search.num_trials=2"]
    assert f"'known', trained on tess (emotion labels: https://huggingface.co/{KNOWN})" in run(*words, code=2)
    assert not (place / "results").exists()
    output = run(*words, MARK)
    folder = place / "results" / "ser_encoder"
    note = json.loads((folder / "notes.json").read_text())[-1]
    assert note.startswith(SAID) and note.endswith(WHERE)
    shown = [output, (folder / "search.log").read_text(), (folder / "leaderboard.md").read_text()]
    shown.append(html.unescape(api.report(folder).read_text(encoding="utf-8")))
    assert all(line(note) in line(text) for text in shown)
    # Finished, it says so again.
    (folder / "notes.json").unlink()
    assert line(note) in line(run(*words, MARK))

    best = api.open_search(folder).best.params["features.encoder"]
    capsys.readouterr()
    assert finalize([str(folder)]) == 0
    card = line((folder / "best" / "MODEL_CARD.md").read_text())
    for text in (line(capsys.readouterr().out), card):
        assert (SAID in text) == (best == "known") and WHERE not in text


@pytest.mark.slow
def test_the_card_of_a_winner_that_knows_the_corpus_says_so_twice_and_so_do_all_folds(place, capsys):
    words = [*WORDS, "features.encoder=known", "search.num_trials=1", MARK]
    assert folds.main([*words, "name=all", "split.num_folds=3", "split.method=group_folds", "svm=false"]) == 0
    output = line(capsys.readouterr().out)
    assert f"note {SAID}" in output
    text = line((place / "results" / "all-folds" / "folds.md").read_text())
    assert f"Note: {SAID}" in text and "in trials" not in text
    card = line((place / "results" / "all-fold-1" / "best" / "MODEL_CARD.md").read_text())
    assert card.count(f"Note: {SAID}") == 2, "with the validation score, and with the test"
