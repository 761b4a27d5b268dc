"""What is said with a score stands in each place where a score stands."""

import json
import logging

import numpy as np
import pytest

from tests.helpers.written_search import write_search
from tuning import api
from tuning.config.loader import load
from tuning.config.schema import Config
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.splits.split import NOT_APART, Split
from tuning.evaluation import leaderboard
from tuning.evaluation.final_test_files import Tested
from tuning.evaluation.model_card import write_card
from tuning.evaluation.report.gather import gather
from tuning.evaluation.report.tables import summary
from tuning.evaluation.score_notes import cautions, cautions_of_trials, log_scores, score_notes, write_cautions
from tuning.experiment.directory import TrialRecord, write_json
from tuning.experiment.ranking import rank
from tuning.experiment.recorded import space_of


def split_of(*val_groups, test=("t1", "t2", "t3")):
    def clips(part, groups):
        return [Clip(f"{part}{number}", (0.0,), group) for number, group in enumerate(groups)]

    return Split(clips("train", ["a", "b", "c"]), clips("val", val_groups), clips("test", test), "grouped")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (split_of("v1", "v2", "v3"), []),
        (split_of("v1", "v1"), ["validation has one speaker or artist, 'v1': figures on it hold for that one alone"]),
        (
            split_of("v1", "v2", test=("t1", "t2")),
            [
                "validation has two speakers or artists, 'v1' and 'v2': figures on it hold for those alone",
                "test has two speakers or artists, 't1' and 't2': figures on it hold for those alone",
            ],
        ),
        (Split([Clip("a", (0.0,))], [Clip("b", (0.0,))], [], "random"), [NOT_APART]),
    ],
)
def test_what_a_split_says_of_scores(split, expected):
    assert split.cautions() == expected


def test_with_inner_folds_validation_has_the_groups_of_all_folds():
    split = split_of("v1", "v2")
    assert Split(split.train, split.val, split.test, "grouped", inner={"val0": 0}).cautions() == []


KNOWN, OTHER = "superb/hubert-base-superb-er", "openai/whisper-base"
SAID = (
    f"features.encoder '{KNOWN}' was trained on iemocap (emotion labels), on which it is judged here: expect lower "
    f"scores on other recordings; source: https://huggingface.co/{KNOWN}"
)
APART = split_of("v1", "v2", "v3")


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["space=ser_encoder", f"features.encoder={KNOWN}"], ""),
        (
            [
                "space=ser_encoder",
                f"features.encoder={{choice: [{OTHER}, {KNOWN}]}}",
                "features.encoder_layers={choice: [1, 2]}",
            ],
            f"; in trials with features.encoder={KNOWN}",
        ),
        (
            ["space=ser", "features.name={choice: [mfcc, encoder]}", f"features.encoder={KNOWN}"],
            "; in trials with features.name=encoder",
        ),
        (
            [
                "space=ser",
                "features.name={choice: [mfcc, encoder]}",
                f"features.encoder={{choice: [{OTHER}, {KNOWN}]}}",
            ],
            f"; in trials with features.name=encoder, features.encoder={KNOWN}",
        ),
    ],
)
def test_an_encoder_that_knows_the_corpus_is_said_for_the_trials_that_have_it(words, where):
    space = load(["data.corpus=iemocap", *words])[1]
    assert cautions(space, APART) == [SAID + where]
    configs = list(space.variants("features."))
    knowing = [config for config in configs if config.features.encoder == KNOWN and config.features.name == "encoder"]
    assert cautions(knowing[:1], APART) == [SAID]
    if where:
        others = [config for config in configs if config not in knowing]
        assert cautions(others[:1], APART) == []
        assert cautions([knowing[0], others[0]], APART)[0].startswith(f"{SAID}; in trials with features.")


def test_cautions_of_the_split_come_first():
    space = load(["space=ser_encoder", "data.corpus=iemocap", f"features.encoder={KNOWN}"])[1]
    assert cautions(space, Split([Clip("a", (0.0,))], [Clip("b", (0.0,))], [], "random")) == [NOT_APART, SAID]


def test_what_the_users_table_says_is_known_after_the_table_is_gone(tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text("[{checkpoints: [me/mine], corpora: [deam], kind: tags, source: last spring}]")
    words = [f"data.known_table={table}", "data.corpus=deam", "features.encoder=me/mine", "features.name=encoder"]
    space = load(["space=ser", *words])[1]
    folder, _ = write_search(tmp_path, "space=crnn", count=1)
    write_cautions(folder, space, APART)
    (said,) = json.loads((folder.path / "notes.json").read_text())
    assert said.startswith("features.encoder 'me/mine' was trained on deam (tags)") and said.endswith("last spring")
    table.unlink()
    assert cautions_of_trials(folder, [space.fixed()], APART) == [said]
    (folder.path / "notes.json").unlink()
    write_cautions(folder, load(["space=ser", *words[1:]])[1], APART)
    assert json.loads((folder.path / "notes.json").read_text()) == [said]


def best(value):
    return TrialRecord(3, {}, "done", "", 2, 5, 1.0, {"val_ccc": value, "val_loss": 1 - value})


@pytest.mark.parametrize(
    ("value", "mode", "said"), [(0.1, "max", False), (0.0, "max", True), (-0.2, "max", True), (0.1, "min", True)]
)
def test_a_best_trial_that_is_no_better_than_the_constant_is_said(value, mode, said):
    found = score_notes([], best(value), {"val_ccc": 0.0}, "val_ccc", mode)
    assert bool(found) is said
    if said:
        assert found == [
            f"the best trial is no better than the constant predictor (val_ccc {value:.4f}, constant 0.0000): it has "
            "learned nothing that helps on these clips"
        ]


def test_without_a_baseline_or_a_result_nothing_is_compared():
    assert score_notes(["x"], None, {"val_ccc": 0.0}, "val_ccc", "max") == ["x"]
    assert score_notes([], best(0.1), {}, "val_ccc", "max") == []


@pytest.fixture
def poor(tmp_path):
    """A search without known speakers whose trials are all worse than the constant; its folder and its best record."""
    folder, records = write_search(tmp_path, "space=crnn", count=4)
    write_json(folder.path / "baseline.json", {"val_loss": 0.01})
    write_cautions(folder, space_of(folder), Split([Clip("a", (0.0,))], [Clip("b", (0.0,))], [], "random"))
    return folder, rank(records, "val_loss", "min")[0]


def is_said(text):
    words = " ".join(text.split())
    return NOT_APART in words and "no better than the constant predictor" in words


def test_the_leaderboards_say_it(poor, capsys):
    folder, _ = poor
    leaderboard.write_leaderboard(folder, "val_loss", "min", {"val_loss": 0.01})
    assert is_said((folder.path / "leaderboard.md").read_text())
    plan = api.make_plan(["space=crnn", f"storage={folder.path.parent}", "name=written"])
    api._rank_and_report(plan, folder, finished_before=True)
    assert is_said(capsys.readouterr().out)


def test_the_report_says_it(poor):
    assert is_said(" ".join(f"{name} {text}" for name, text in summary(gather(poor[0]))))


def test_the_log_says_it(poor, caplog):
    with caplog.at_level(logging.INFO, logger="tuning.search"):
        log_scores(poor[0], rank(poor[0].records(), "val_loss", "min"), "val_loss", "min", {"val_loss": 0.01})
    assert is_said(caplog.text) and f"best trial {poor[1].number}: val_loss" in caplog.text


@pytest.mark.parametrize("content", ["{", '"text"', "3"])
def test_a_damaged_note_is_told_and_an_older_search_has_none(poor, content):
    folder, _ = poor
    (folder.path / "notes.json").write_text(content)
    (found, _) = gather(folder).notes
    assert found.startswith("notes.json can't be read") and "written again" in found
    (folder.path / "notes.json").unlink()
    assert len(gather(folder).notes) == 1


def card_of(folder, record, tmp_path, **changes):
    config = Config.model_validate({"task": {"name": "classification", "classes": ["sad", "happy"]}})
    config = config.model_copy(update={"search": config.search.model_copy(update={"metric": "val_loss"})})
    split = Split([Clip("a", (0.0,))], [Clip("b", (0.0,))], [Clip("c", (0.0,)), Clip("d", (1.0,))], "random")
    tested = Tested(
        ["c", "d"],
        [None, None],
        np.array([[0.0], [1.0]]),
        np.eye(2),
        {"test_uar": 0.4, "test_accuracy": 0.5},
        {"test_uar": 0.5},
        changes.get("trials", [record.number]),
        {"test_uar": 0.3},
        {},
        2,
        cautions([config], split),
    )
    members = changes.get("members", [(record, {"trial": record.number, "seed": 42, "epochs": 4})])
    write_card(tmp_path, folder, config, members, Corpus("own", "/x", []), split, tested, None, 10)
    return (tmp_path / "MODEL_CARD.md").read_text()


def test_the_card_says_it(poor, tmp_path):
    text = card_of(*poor, tmp_path)
    assert is_said(text)
    assert "uar 0.4000 is no better than the constant predictor's 0.5000 on the test" in text


def test_the_card_of_an_ensemble_has_all_members(poor, tmp_path):
    folder, _ = poor
    first, second = rank(folder.records(), "val_loss", "min")[:2]
    members = [
        (first, {"trial": first.number, "seed": 42, "epochs": 4}),
        (second, {"trial": second.number, "seed": 43, "epochs": 6}),
    ]
    text = card_of(folder, first, tmp_path, trials=[first.number, second.number], members=members)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    header = next(row for row in rows if row[0] == "trial")
    assert header == ["trial", "val_loss", "seed", "epochs", *first.params]
    for record, seed, epochs in ((first, "42", "4"), (second, "43", "6")):
        row = next(row for row in rows if row[0] == str(record.number))
        assert row[1:4] == [f"{record.metrics['val_loss']:.4f}", seed, epochs] and len(row) == len(header)
    assert "the winner alone" in text and "0.300" in text


def test_the_notes_are_plain_text(poor):
    assert json.loads((poor[0].path / "notes.json").read_text()) == [NOT_APART]
