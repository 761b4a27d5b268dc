"""Write one HTML page of a search: ranking, learning curves, effects of settings, timeline and test.

gather.py    reads the folder into plain data    study.py     makes an Optuna study of the records
figures.py   plots the trials' scores            settings.py  plots the effects of settings (by Optuna)
timeline.py  plots when and where trials ran     tables.py    makes rows and cells
page.py      fills page.html.jinja, page.css and page.js
"""

from __future__ import annotations

import logging
from pathlib import Path

from tuning.experiment.directory import SearchFolder, write_text

FILE = "report.html"


def write_report(folder: SearchFolder) -> Path:
    """Write `report.html` of a search, finished or not, and return its path.

    Raises:
        UserError: the search's configuration can't be read.
        OSError: the page can't be written.
    """
    # Imported here, since Plotly and Optuna take a second and every search imports this package.
    from tuning.evaluation.report.gather import gather
    from tuning.evaluation.report.page import render

    file = folder.path / FILE
    gathered = gather(folder)
    write_text(file, render(gathered))
    for each in gathered.damaged:
        print(f"note      {each}")
    return file


def write_or_note(folder: SearchFolder) -> Path | None:
    """Write the page, or print one line if that fails: it must not fail the search."""
    try:
        return write_report(folder)
    except Exception as error:  # the ranking and the model are written all the same
        logging.getLogger("tuning.evaluation.report").exception("no report.html")
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"note: no {folder.path / FILE} could be written ({reason})")
        return None
