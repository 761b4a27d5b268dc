"""Release what worker groups of dead trials reserved; Ray would keep it until the job ends.

A placement group outlives the actor that made it. Ray Train has a watcher for that: one more process for each trial,
which asks the dashboard. It gives up for good where two Rays run on one machine or the dashboard is slow; the next
trial then waits for ever. So the search looks for such groups itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tuning.experiment.periodic import Repeated
from tuning.search.ray_internals import release_orphans

log = logging.getLogger("tuning.search")

INTERVAL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0  # for the last trials' processes to end


@contextmanager
def orphans_released() -> Iterator[None]:
    """Release the groups of dead trials while a search runs, and the last ones at its end."""
    repeated = Repeated("groups of dead trials", _look)
    repeated.start()
    try:
        yield
    finally:
        repeated.stop()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while release_orphans() and time.monotonic() < deadline:
            time.sleep(0.2)  # until they are dead


def _look() -> float:
    try:
        release_orphans()
    except Exception:  # the search's own calls to Ray will say what is wrong with it
        log.debug("groups not looked at", exc_info=True)
    return INTERVAL_SECONDS
