"""Searches with EmoBox's folds of CREMA-D and EmoDB: that their folds share speakers is said wherever a score is."""

import html
import json

import pytest

from tests.helpers.command import run
from tests.helpers.layout import CREMAD_NAMES, EMODB_NAMES, cremad_lists, emodb_lists, write_emobox, write_tree
from tests.helpers.recordings import encode, tone
from tuning import api
from tuning.cli import class_balance, folds

TINY = (
    "features.num_frames=16", "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]", "training.epochs=1",
    "features.sample_rate_hz=8000", "features.window_samples=256", "features.hop_samples=200", "features.num_mels=32",
    "features.num_mfcc=13", "search.max_concurrent=1", "task.name=classification",
)  # fmt: skip
HIGHER = "so that scores on them are higher than on new speakers; data.folds=speakers_5 keeps them apart"
CREMAD = (
    "the folds 'emobox' of cremad share speakers: 91 of the 91 in the test are in training or validation, too, "
    f"{HIGHER}"
)
EMODB = (
    "the folds 'emobox' of emodb share speakers: 10 of the 10 in validation are in training, too, and 10 of the 10 in "
    f"the test are in training or validation, too, {HIGHER}"
)


def write_sounds(root, folder, names):
    return write_tree(root, {f"{folder}/{name}.wav": encode(tone(0.3, seed=n)) for n, name in enumerate(names)})


def words(tmp_path, corpus, lists="lists"):
    places = (f"data.root={tmp_path}/corpus", f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared")
    return [f"data.corpus={corpus}", "data.folds=emobox", f"data.fold_lists={tmp_path}/{lists}", *places, *TINY]


def said(text, caution):
    """How often a text says the caution, however it is wrapped."""
    return " ".join(html.unescape(text).replace("│", " ").split()).count(caution)


@pytest.mark.slow
def test_a_search_says_with_every_score_that_speakers_are_shared(tmp_path, ray_session, capsys):
    write_sounds(tmp_path / "corpus", "AudioWAV", CREMAD_NAMES)
    write_emobox(tmp_path / "lists", "cremad", cremad_lists())
    output = run(*words(tmp_path, "cremad"), "name=leaks", "search.num_trials=1")
    start, _, end = output.partition("search    leaks:")
    assert said(start, f"note: {CREMAD}") == 1 and said(end, CREMAD) == 1
    folder = tmp_path / "results" / "leaks"

    def written():
        notes = json.loads((folder / "notes.json").read_text())
        log = (folder / "search.log").read_text()
        page = api.report(folder).read_text()
        return notes == [CREMAD], *(said(text, CREMAD) for text in ((folder / "leaderboard.md").read_text(), log, page))

    assert written() == (True, 1, 1, 1)
    # Continued from its record of the split, with the lists elsewhere.
    (tmp_path / "lists").rename(tmp_path / "moved")
    (folder / "notes.json").unlink()
    output = run(*words(tmp_path, "cremad", "moved"), "name=leaks", "search.num_trials=2")
    assert said(output, CREMAD) == 2 and written() == (True, 1, 2, 1)
    api.finalize(folder)
    assert said(capsys.readouterr().out, CREMAD) == 1
    card = (folder / "best" / "MODEL_CARD.md").read_text()
    chosen, tested = card.partition("## How it was chosen")[2].split("## Test")
    assert said(chosen, CREMAD) == said(tested, CREMAD) == 1


@pytest.mark.slow
def test_the_table_of_all_folds_says_that_speakers_are_shared(tmp_path, ray_session, capsys):
    write_sounds(tmp_path / "corpus", "wav", EMODB_NAMES)
    write_emobox(tmp_path / "lists" / "emodb", "emodb", emodb_lists())
    given = [*words(tmp_path, "emodb"), "name=all", "search.num_trials=1"]
    assert folds.main([*given, "--dry-run"]) == 0
    assert said(capsys.readouterr().out, f"note: {EMODB}") == 1
    assert folds.main(given) == 0
    output = capsys.readouterr().out
    assert said(output.rpartition("fold      5: 5 of 5")[2].partition("svm")[2], EMODB) == 1
    place = tmp_path / "results" / "all-folds"
    assert said((place / "folds.md").read_text(), f"- Note: {EMODB}.") == 1
    assert json.loads((place / "folds.json").read_text())["notes"].count(EMODB) == 1
    for fold in "12345":
        search = tmp_path / "results" / f"all-fold-{fold}"
        assert json.loads((search / "notes.json").read_text()) == [EMODB]
        assert said((search / "best" / "MODEL_CARD.md").read_text(), EMODB) == 2


def test_folds_of_cremad_are_dealt_and_the_published_split_is_not_used(tmp_path, capsys):
    write_sounds(tmp_path / "corpus", "AudioWAV", CREMAD_NAMES)
    write_emobox(tmp_path / "lists", "cremad", cremad_lists())
    assert folds.main([*words(tmp_path, "cremad"), "split.num_folds=3", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "3 by split.method=group_folds" in output and "share speakers" not in output
    assert "note: the published split of cremad is not used, since every clip is tested once" in output


def test_the_table_of_classes_says_it_before_a_search(tmp_path, capsys):
    write_sounds(tmp_path / "corpus", "wav", EMODB_NAMES)
    write_emobox(tmp_path / "lists", "emodb", emodb_lists())
    assert class_balance.main(words(tmp_path, "emodb")) == 0
    assert said(capsys.readouterr().out, f"hint {EMODB}") == 1
    assert said(run(*words(tmp_path, "emodb"), "search.num_trials=1", "--dry-run"), f"note: {EMODB}") == 1
