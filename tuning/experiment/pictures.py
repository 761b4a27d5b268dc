"""Draw with matplotlib in one style, without a display."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.experiment.faults import whole_or_absent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# parse_math: a class called "a$b$" is no formula.
STYLE: Any = {
    "font.size": 10,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
TRAIN_COLOUR, VAL_COLOUR, BEST_COLOUR = "tab:blue", "tab:orange", "0.35"


@contextmanager
def picture(file: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A context with a figure of the given size in inches, which is written as PNG at the end, whole or not at all."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with whole_or_absent(file) as partial, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # names in other scripts become boxes
            figure.savefig(partial, format="png", dpi=130, bbox_inches="tight", pad_inches=0.15)
