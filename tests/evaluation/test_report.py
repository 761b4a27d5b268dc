"""report.html: its numbers are the leaderboard's, whatever the search; it loads nothing and runs no text."""

import csv
import datetime
import html.parser
import itertools
import json
import re
import subprocess
import sys
import time

import pytest

from tests.helpers.written_search import write_search
from tuning.cli.report import main
from tuning.config.distributions import short_names
from tuning.evaluation.leaderboard import write_leaderboard
from tuning.evaluation.report import write_or_note, write_report
from tuning.evaluation.report.figures import value_range
from tuning.evaluation.report.gather import gather
from tuning.evaluation.report.settings import Settings
from tuning.evaluation.report.study import make_study
from tuning.evaluation.report.timeline import UNKNOWN, bars_of
from tuning.experiment import timeline as times
from tuning.experiment.directory import write_json, write_text
from tuning.experiment.ranking import rank

LIMIT = 8_000_000


class Page(html.parser.HTMLParser):
    """What a browser would read: tables by section, texts, figures, and everything that is loaded."""

    def __init__(self, file):
        super().__init__()
        self.tables, self.texts, self.figures, self.scripts, self.loads = {}, {}, {}, [], []
        self.section, self.tag, self.kind = "", "", ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tag, self.kind = tag, attrs.get("type", "")
        if tag == "section":
            self.section = attrs["id"]
        if tag == "script":
            self.scripts.append(attrs)
        self.loads += [attrs[name] for name in ("src", "srcset", "data", "poster") if name in attrs]
        self.loads += [attrs["href"] for _ in [0] if tag == "link"]
        self.loads += ["event handler" for name in attrs if name.startswith("on")]
        rows = self.tables.setdefault(self.section, [])
        if tag == "tr":
            rows.append([])
        if tag in ("td", "th"):
            rows[-1].append(attrs.get("data-v") or attrs.get("data-name") or "")
            self.given = bool(rows[-1][-1])

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, text):
        if self.tag == "script" and self.kind == "application/json":
            self.figures.setdefault(self.section, []).append(json.loads(text))
        elif self.tag not in ("script", "style"):
            self.texts[self.section] = self.texts.get(self.section, "") + text
            rows = self.tables.get(self.section)
            if self.tag in ("td", "th", "button") and rows and rows[-1] and not self.given:
                rows[-1][-1] += text


def board(page):
    header, *rows = page.tables["leaderboard"]
    return [dict(zip(header, row, strict=True)) for row in rows]


def assert_equals_the_leaderboard(folder, page):
    search = gather(folder)
    write_leaderboard(folder, search.metric, search.mode, search.baseline)
    with (folder.path / "leaderboard.csv").open() as stream:
        expected = list(csv.DictReader(stream))
    shown = board(page)
    assert len(shown) == len(expected)
    for row, wanted in zip(shown, expected, strict=True):
        assert set(row) == set(wanted)
        for name, value in wanted.items():
            try:
                assert float(row[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-9), name
            except ValueError:
                assert row[name] == value, name


SEARCHES = [
    ("space=crnn",),
    ("space=crnn_full",),
    ("space=ser",),
    ("space=ser", "split.inner_folds=4"),
    ("space=crnn_grid",),
    ("space=crnn", "search.second_metric=parameters"),
]


@pytest.mark.parametrize("arguments", SEARCHES, ids=" ".join)
def test_the_page_has_the_leaderboards_numbers(tmp_path, arguments):
    folder, records = write_search(tmp_path, *arguments, count=24)
    page = Page(write_report(folder))
    assert_equals_the_leaderboard(folder, page)
    search = gather(folder)
    best = rank(records, search.metric, search.mode)[0]
    assert f"{search.metric} {best.metrics[search.metric]:.4f}: trial {best.number}" in page.texts[""]
    assert "24 (" in page.texts[""] and "Not all trials have ended" in page.texts[""]
    assert ("higher is better" in page.texts[""]) == (arguments[0] == "space=ser")
    drawn = {trace["name"]: trace for trace in page.figures["curves"][0]["data"] if "name" in trace}
    assert f"rank 1: trial {best.number}" in drawn
    axis = page.figures["curves"][0]["layout"]["xaxis"]["title"]["text"]
    assert axis == ("folds done" if "split.inner_folds=4" in arguments else "epoch")
    assert {"history", "coordinates", "slices", "timeline"} <= set(page.figures)
    assert "could not be drawn" not in " ".join(page.texts.values())
    assert "bad.wavsilent throughout" in page.texts["quarantine"].replace("\n", "")
    assert "too</b> large" in page.texts["failed"] and "python3." not in page.texts["failed"]
    assert "optuna" in page.texts["environment"] and "finalize" in page.texts["test"]


def test_nothing_is_loaded_and_only_the_pages_own_scripts_run(tmp_path):
    folder, _ = write_search(tmp_path, "space=crnn")
    file = write_report(folder)
    page, text = Page(file), file.read_text()
    assert page.loads == [] and "@import" not in text.split("</style>")[0] and "url(" not in text.split("</style>")[0]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1).replace("&#39;", "'")
    nonce = re.search(r"'nonce-([^']+)'", policy).group(1)
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert all(script["nonce"] == nonce for script in page.scripts)


EVIL = "</script><script>alert(1)</script>"


def test_texts_of_the_user_stay_texts(tmp_path):
    folder, _ = write_search(tmp_path, "space=crnn", "model.conv_activation={choice: [relu, gelu]}")
    clean = len(Page(write_report(folder)).scripts)
    for number in (1, 2):
        file = folder.trial(number) / "params.json"
        params = json.loads(file.read_text())
        params["searched"]["model.conv_activation"] = EVIL
        write_json(file, params)
    write_text(folder.trial(11) / "error.txt", f"ValueError: {EVIL}\n")
    result = json.loads((folder.trial(11) / "result.json").read_text())
    write_json(folder.trial(11) / "result.json", result | {"reason": EVIL})
    write_text(folder.path / "quarantine.csv", f"clip,reason\n{EVIL}.wav,<img src=x onerror=alert(1)>\n")
    page = Page(write_report(folder))
    assert len(page.scripts) == clean and page.loads == []
    assert EVIL in page.texts["failed"] and f"{EVIL}.wav" in page.texts["quarantine"]
    assert sum(row["model.conv_activation"] == EVIL for row in board(page)) == 2
    assert EVIL in json.dumps(page.figures["slices"]) and EVIL in json.dumps(page.figures["coordinates"])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_search_that_hardly_began(tmp_path, count):
    folder, _ = write_search(tmp_path, "space=crnn", count=count)
    (folder.path / "baseline.json").unlink()
    page = Page(write_report(folder))
    assert len(board(page)) == count if count else "No trial has started" in page.texts["leaderboard"]
    assert "too few" in page.texts["importance"] or "no setting has two values" in page.texts["importance"]


def test_a_row_cut_off_by_a_kill_and_a_loss_that_is_not_finite(tmp_path):
    folder, _ = write_search(tmp_path, "space=crnn")
    with (folder.trial(12) / "progress.csv").open("a") as stream:
        stream.write("5,2.5,,0.1")
    result = json.loads((folder.trial(4) / "result.json").read_text())
    (folder.trial(4) / "result.json").write_text(json.dumps(result | {"metrics": {"val_loss": float("inf")}}))
    page = Page(write_report(folder))
    assert next(row for row in board(page) if row["trial"] == "12")["epochs"] == "4"
    assert "could not be drawn" not in " ".join(page.texts.values())


def test_the_test_of_the_winner(tmp_path):
    folder, records = write_search(tmp_path, "space=crnn")
    figures = {"trial": 2, "epochs": 7, "validation": records[1].metrics, "test": {"test_loss": 0.51, "test_r2": 0.4}}
    bootstrap = {
        "intervals": {"test_loss": [0.4, 0.6]},
        "basis": "intervals by bootstrap over the 12 clips of the test",
    }
    figures |= {"bootstrap": bootstrap, "constant": {"test_loss": 1.1}}
    write_json(folder.path / "best" / "metrics.json", figures)
    write_json(
        folder.path / "test_looks.json", [{"when": "2026-03-02", "trial": 2}, {"when": "2026-03-03", "trial": 2}]
    )
    page = Page(write_report(folder))
    header, loss, r2 = page.tables["test"]
    assert header == ["metric", "validation", "test", "95 % interval", "constant"]
    assert loss == ["loss", f"{records[1].metrics['val_loss']:.4f}", "0.5100", "0.4000 to 0.6000", "1.1000"]
    assert r2 == ["r2", "", "0.4000", "", ""]
    text = " ".join(page.texts["test"].split())
    assert "looked at 2 times, last on 2026-03-03" in text
    assert "Intervals by bootstrap over the 12 clips of the test." in text


def test_an_ensemble_stands_beside_its_winner_and_classes_have_their_confusions(tmp_path):
    folder, records = write_search(tmp_path, "space=ser", count=6)
    figures = {"trial": 2, "epochs": 7, "validation": records[1].metrics, "test": {"test_uar": 0.6}}
    figures |= {"constant": {"test_uar": 0.5}, "ensemble": [2, 1], "winner_alone": {"test_uar": 0.55}}
    figures |= {"bootstrap": {"intervals": {}, "basis": "no interval: 3 clips in the test, at least 10 needed"}}
    write_json(folder.path / "best" / "metrics.json", figures)
    write_text(folder.path / "best" / "confusion.csv", "true,<b>sad</b>,happy\n<b>sad</b>,3,1\nhappy,0,4\n")
    page = Page(write_report(folder))
    header, uar, confused, sad, happy = page.tables["test"]
    assert header == ["metric", "validation", "winner alone", "test", "95 % interval", "constant"]
    assert uar[2:4] == ["0.5500", "0.6000"]
    assert confused == ["true class", "<b>sad</b>", "happy", "clips"]
    assert sad == ["<b>sad</b>", "3", "1", "4"] and happy == ["happy", "0", "4", "4"]


@pytest.mark.parametrize("content", ["true,sad,happy\nsad,3\n", "true,sad\nsad,x\n", "true,sad,happy\nsad,1,2\n"])
def test_damaged_confusions_are_named_and_the_rest_is_shown(tmp_path, content):
    folder, _ = write_search(tmp_path, "space=ser", count=3)
    write_text(folder.path / "best" / "confusion.csv", content)
    page = Page(write_report(folder))
    assert "best/confusion.csv: expected a square table of counts" in page.texts[""] and len(board(page)) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 12, 40])
def test_the_axis_of_trials_has_whole_numbers(tmp_path, count):
    page = Page(write_report(write_search(tmp_path, "space=crnn", count=count)[0]))
    axis = page.figures["history"][0]["layout"]["xaxis"]
    assert axis["tickformat"] == "d" and (axis.get("dtick") == 1) is (count <= 20)
    if count <= 20:
        assert axis["range"] == [0.5, count + 0.5]


@pytest.mark.slow
def test_a_thousand_trials_fit(tmp_path):
    folder, _ = write_search(tmp_path, "space=crnn_full", count=1000, epochs=100)
    began = time.monotonic()
    file = write_report(folder)
    print(f"1000 trials: {file.stat().st_size / 1e6:.2f} MB in {time.monotonic() - began:.1f} s")
    assert file.stat().st_size < LIMIT
    page = Page(file)
    assert len(board(page)) == 1000
    assert len(page.figures["coordinates"][0]["data"]) <= 202
    assert len(page.figures["curves"][0]["data"]) < 50
    # The formula's values depend on the rate alone.
    assert page.figures["importance"][0]["data"][0]["y"][-1] == "learning_rate"


def test_what_mattered_is_found_and_is_the_same_each_time(tmp_path):
    folder, _ = write_search(tmp_path, "space=crnn_full", count=60)
    one, other = Settings(gather(folder)), Settings(gather(folder))
    assert one.importance == other.importance and next(iter(one.importance)) == "learning_rate"
    assert sum(share for share, _, _ in one.importance.values()) == pytest.approx(1)
    share, low, high = one.importance["learning_rate"]
    assert 0 < low <= high <= 1 and share > 0.15
    assert Settings(gather(write_search(tmp_path, "space=crnn", count=12, name="few")[0])).why_not.startswith("11 ")


def test_trials_keep_their_numbers_and_values_in_optunas_plots(tmp_path):
    folder, records = write_search(tmp_path, "space=crnn_full", count=24)
    search = gather(folder)
    study = make_study(search.comparable, search.value, search.mode, search.space.distributions)
    found = {t.number: t.value for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"}
    assert found == {r.number: r.metrics["val_loss"] for r in records if r.status != "failed"}


def test_the_front_has_every_trial_that_none_beats_in_both(tmp_path):
    folder, records = write_search(tmp_path, "space=ser", "search.second_metric=latency_ms", count=40)
    page = Page(write_report(folder))
    scored = [r.metrics for r in records if r.metrics and r.status != "failed"]
    points = [(metrics["latency_ms"], metrics["val_uar"]) for metrics in scored]
    front = {(c, v) for c, v in points if not any(o != (c, v) and o[0] <= c and o[1] >= v for o in points)}
    line = next(trace for trace in page.figures["front"][0]["data"] if trace["name"] == "Pareto front")
    assert set(zip(line["x"], line["y"], strict=True)) == front and 1 < len(front) < len(points)
    rows = board(page)
    assert {(float(r["latency_ms"]), float(r["val_uar"])) for r in rows if r["pareto"] == "yes"} == front


def test_trials_without_all_their_folds_do_not_compare(tmp_path):
    folder, records = write_search(tmp_path, "space=ser", "split.inner_folds=4", count=24)
    whole = {record.number for record in records if record.epochs == 4}
    assert {record.number for record in Settings(gather(folder)).records} == whole
    assert len(whole) < len(gather(folder).scored)


def test_names_and_ranges():
    assert short_names(["model.lstm_dropout", "optim.name", "a.x", "b.x"]) == {
        "model.lstm_dropout": "lstm_dropout", "optim.name": "optim.name", "a.x": "a.x", "b.x": "b.x"
    }  # fmt: skip
    assert value_range([0.1 * n for n in range(50)], "min") is None
    low, high = value_range([*(0.01 * n for n in range(50)), 1e6], "min")
    assert low < 0 and 0.45 < high < 0.6
    low, high = value_range([*(0.01 * n for n in range(50)), -1e6], "max")
    assert -0.1 < low < 0.1 and 0.48 < high < 0.6


def test_lanes_never_overlap_and_stretches_stay_apart(tmp_path):
    folder, _ = write_search(tmp_path, "space=crnn", count=24)
    bars = bars_of(gather(folder))
    assert {bar.lane.rpartition("  ")[0] for bar in bars} == {"node-a", "node-b", UNKNOWN}
    for lane in {bar.lane for bar in bars}:
        own = sorted((bar.stretch.began, bar.stretch.seen) for bar in bars if bar.lane == lane)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(own))
    cut = [bar for bar in bars if bar.record.number == 1]
    assert [(bar.part, bar.parts, bar.is_cut) for bar in cut] == [(1, 2, True), (2, 2, False)]
    assert cut[0].stretch.seen < cut[1].stretch.began


def test_times_survive_a_kill(tmp_path):
    for event, worker in [("began", ""), ("row", "a"), ("began", ""), ("row", "b"), ("ended", "")]:
        times.note(tmp_path, event, worker)
    with (tmp_path / times.FILE).open("a") as stream:
        stream.write("2026-03-01T08")
    first, second = times.read_stretches(tmp_path)
    assert (first.worker, first.ended, second.worker, second.ended) == ("a", False, "b", True)
    assert first.began <= first.seen <= second.began <= second.seen
    assert first.began.utcoffset() == datetime.timedelta(0)


def test_a_search_of_an_earlier_version_shows_what_its_study_knows(tmp_path):
    from tuning.search.searcher import open_study

    folder, records = write_search(tmp_path, "space=crnn", timed=False)
    assert bars_of(gather(folder)) == []
    study = open_study(folder.path / "study.journal", "written", "min")
    for _ in records[:3]:
        study.tell(study.ask(), 0.5)
    before = (folder.path / "study.journal").read_bytes()
    bars = bars_of(gather(folder))
    assert {bar.record.number for bar in bars} == {1, 2, 3}
    assert (folder.path / "study.journal").read_bytes() == before
    now = datetime.datetime.now(datetime.UTC)
    assert all(abs(now - bar.stretch.began) < datetime.timedelta(minutes=10) for bar in bars)


def test_the_command(tmp_path, capsys):
    folder, _ = write_search(tmp_path, "space=crnn")
    assert main([str(folder.path)]) == 0
    assert str(folder.path / "report.html") in capsys.readouterr().out
    for arguments in ([], [str(tmp_path)], [str(tmp_path / "none")], ["one", "two"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert main(["--help"]) == 0


def test_a_page_that_can_not_be_written_is_one_line(tmp_path, capsys):
    folder, _ = write_search(tmp_path, "space=crnn")
    (folder.path / "config.yaml").write_text("{")
    assert write_or_note(folder) is None
    out = capsys.readouterr().out
    assert out.startswith("note: no ") and out.count("\n") == 1


def test_plotly_comes_late():
    code = "import sys, tuning.run, tuning.cli.finalize, tuning.cli.report as m; m.main(['--help']);"
    code += "print([n for n in ('plotly', 'jinja2', 'optuna', 'ray', 'torch') if n in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip().endswith("[]")
