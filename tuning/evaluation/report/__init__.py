"""One HTML page of a search: ranking, curves, what mattered, what ran when and where, and the test.

gather.py   the folder -> plain data           study.py    records -> an Optuna study in memory
figures.py  what the trials scored             settings.py what the settings did (Optuna's own plots)
timeline.py when and where they ran            tables.py   rows and cells
page.py     all of it -> page.html.jinja, page.css, page.js -> report.html
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuning.experiment.directory import SearchFolder

FILE = "report.html"


def write_report(folder: SearchFolder) -> Path:
    """Write a search's `report.html`, finished or not; its path.

    Raises:
        UserError: the search's configuration can't be read.
        OSError: the page can't be written.
    """
    from tuning.evaluation.report.gather import gather
    from tuning.evaluation.report.page import render
    from tuning.experiment.directory import write_text

    file = folder.path / FILE
    write_text(file, render(gather(folder)))
    return file


def write_or_note(folder: SearchFolder) -> Path | None:
    """Write the page; where that fails, one line says so: a search is not worth less without it."""
    try:
        return write_report(folder)
    except Exception as error:  # whatever it is, the ranking and the model are written
        logging.getLogger("tuning.evaluation.report").exception("no report.html")
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"note: no {folder.path / FILE} could be written ({reason})")
        return None
