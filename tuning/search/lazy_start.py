"""Start Ray only when something is to be computed."""

from __future__ import annotations

from collections.abc import Callable

from tuning.config.schema import Config
from tuning.search.resources import start_ray


def when_needed(config: Config, say: Callable[[int, int], None] | None = None) -> Callable[[int, int], None]:
    """Return a progress function (clips done, in total) that starts Ray when the first clips are left to do.

    `say(missing, total)` is called before that.
    """
    started = False

    def on_progress(done: int, total: int) -> None:
        nonlocal started
        if done < total and not started:
            started = True
            if say is not None:
                say(total - done, total)

            start_ray(config)

    return on_progress
