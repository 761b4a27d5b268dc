"""TensorBoard, report.html and optuna-dashboard as headless Chromium shows them: what stands in the pages.

SCREENSHOTS=folder keeps the pictures.
"""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.command import TINY, run
from tests.helpers.waiting import PATIENCE
from tests.helpers.written_search import write_search

pytestmark = pytest.mark.slow

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--force-device-scale-factor=1", "--window-size=1280,900"),
)
# What a page may ask for; the browser's own empty tab is chrome:.
INSIDE = ("file:", "data:", "blob:", "chrome:")
# TensorBoard's tables lie in shadow roots.
DEEP_TEXT = """
const text = (node) => node.nodeType === 3 ? node.data
  : ["STYLE", "SCRIPT"].includes(node.tagName) ? ""
  : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(text).join(" ");
return text(document.body);
"""


@pytest.fixture
def browser(tmp_path):
    if not BROWSER or not DRIVER:
        pytest.skip("no chromium with chromedriver here (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def search(ray_session, tmp_path_factory, prepared):
    root = tmp_path_factory.mktemp("pages")
    output = run(
        "space=crnn", f"storage={root}", f"data.prepared={prepared}", *TINY, "search.num_trials=4", "name=pages"
    )
    assert f"report    {root / 'pages' / 'report.html'}" in output
    return root / "pages"


def ranking(folder):
    with (folder / "leaderboard.csv").open() as stream:
        return list(csv.DictReader(stream))


def wait_for(driver, condition, what):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, PATIENCE, 0.3).until(condition, f"no {what}")


def picture(driver, name):
    if os.environ.get("SCREENSHOTS"):
        driver.save_screenshot(str(Path(os.environ["SCREENSHOTS"]) / f"{name}.png"))


def scroll_to(driver, section):
    script = "document.querySelector('#' + arguments[0]).scrollIntoView();"
    driver.execute_script(script, section)
    wait_for(
        driver,
        lambda d: d.execute_script("return !!document.querySelector('#' + arguments[0] + ' .main-svg')", section),
        section,
    )


class Server:
    """A program that prints the address that it serves."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.address = None
        for line in self.process.stdout:
            if found := re.search(r"http://(localhost|127\.0\.0\.1):\d+", line):
                self.address = found.group()
                return

    def __enter__(self):
        assert self.address, f"ended with {self.process.wait()}"
        return self.address

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def test_the_report(browser, search):
    rows = ranking(search)
    browser.get((search / "report.html").as_uri())
    shown = browser.find_elements("css selector", "#trials tbody tr")
    assert len(shown) == len(rows) == 4
    summary = browser.find_element("id", "summary").text
    assert "4 (4 done)" in summary and f"val_loss {float(rows[0]['val_loss']):.4f}: trial {rows[0]['trial']}" in summary
    headings = browser.find_elements("css selector", "#trials th")
    index = [each.get_attribute("data-name") for each in headings].index("val_loss")
    for wanted in (False, True):  # already ascending: the first click sorts so, the second the other way
        headings[index].find_element("tag name", "button").click()
        cells = browser.find_elements("css selector", f"#trials td:nth-child({index + 1})")
        values = [float(cell.text) for cell in cells]
        assert values == sorted(values, reverse=wanted) and len(values) == 4
    for section in ("history", "curves", "coordinates", "slices", "timeline"):
        scroll_to(browser, section)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), section
    assert os.uname().nodename in browser.find_element("id", "timeline").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert asked_of_a_network(browser) == []


def asked_of_a_network(driver):
    """Addresses that the page asked for, beyond itself."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert any(address.startswith("file:") for address in sent), "the log has nothing"
    return [address for address in sent if not address.startswith(INSIDE)]


def test_a_report_of_a_thousand_trials_runs_no_text_of_the_user(browser, tmp_path):
    evil = "<img src=x onerror='window.harmed=1'></script><script>window.harmed=1</script>"
    folder, _ = write_search(tmp_path, "space=crnn_full", count=1000, epochs=60, name="thousand")
    params = json.loads((folder.trial(1) / "params.json").read_text())
    params["searched"]["model.conv_activation"] = evil
    (folder.trial(1) / "params.json").write_text(json.dumps(params))
    from tuning.evaluation.report import write_report

    browser.get(write_report(folder).as_uri())
    assert len(browser.find_elements("css selector", "#trials tbody tr")) == 1000
    picture(browser, "thousand-ranking")
    for section in ("history", "curves", "importance", "coordinates", "slices", "timeline"):
        scroll_to(browser, section)
        picture(browser, f"thousand-{section}")
    assert browser.execute_script("return window.harmed") is None
    assert asked_of_a_network(browser) == []


def asked(address):
    """What a server answers; None while it is not there yet."""
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.URLError:
        return None


def test_optuna_dashboard(browser, search):
    rows = ranking(search)
    command = "from optuna_dashboard._cli import main; main()"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with Server(sys.executable, "-c", command, str(search / "study.journal"), "--port", port) as address:
        (study,) = wait_for(browser, lambda _: asked(f"{address}/api/studies"), "list of studies")["study_summaries"]
        browser.get(f"{address}/dashboard/studies/{study['study_id']}")
        best = f"{float(rows[0]['val_loss']):.4f}"[:-1]
        wait_for(browser, lambda d: best in d.find_element("tag name", "body").text, "best value")
        text = browser.find_element("tag name", "body").text
        assert "pages" in text
        wait_for(browser, lambda d: d.execute_script(DEEP_TEXT).count("val_loss"), "name of the value")
        picture(browser, "optuna-dashboard")
        browser.get(f"{address}/dashboard/studies/{study['study_id']}/trials")
        wait_for(browser, lambda d: "Trial 3" in d.find_element("tag name", "body").text, "last trial")
        text = browser.find_element("tag name", "body").text
        assert set(re.findall(r"Trial (\d+)", text)) == {"0", "1", "2", "3"}


def test_tensorboard(browser, search):
    rows = ranking(search)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(search), "--port", "0", "--load_fast", "false"]
    with Server(*command) as address:
        # it answers before it has read every run, and the page asks once
        wait_for(browser, lambda _: len(asked(f"{address}/data/plugin/scalars/tags") or ()) == 4, "four runs")
        browser.set_window_size(1900, 900)
        browser.get(f"{address}/#hparams")
        best = f"{float(rows[0]['val_loss']):.4f}"

        def whole(driver):
            for frame in [None, *driver.find_elements("tag name", "iframe")]:
                driver.switch_to.default_content()
                if frame is not None:
                    driver.switch_to.frame(frame)
                text = driver.execute_script(DEEP_TEXT)
                if "best val_loss" in text and best in text:
                    return text
            driver.switch_to.default_content()
            return None

        text = wait_for(browser, whole, "table of hyperparameters")
        picture(browser, "tensorboard")
    assert set(re.findall(r"(?<![\d.])0\d{3}(?![\d.])", text)) == {"0001", "0002", "0003", "0004"}
    for name in rows[0]:
        if "." in name:
            assert name in text, f"no column {name}"
