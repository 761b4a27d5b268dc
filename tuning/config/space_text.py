"""A space file as text: every setting with its value, what it means, and its documented distribution as a comment.

Imports nothing heavy.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from tuning.config.help import takes
from tuning.config.loader import POINTS, flatten, known_spaces, load, parse_overrides
from tuning.config.schema import SECTIONS, flattened, without_effect
from tuning.config.space import Space, brought_along
from tuning.models import MODELS

# Corpora whose clips have classes and no numbers.
OF_CLASSES = frozenset({"cremad", "demo_speech", "emodb", "iemocap", "ravdess"})
NUM_TRIALS = 20  # where the documented space is a grid, or there is none
WIDTH = 110

HEADER = """\
{title}
# Every setting has the documented value, or its default where no document has one. To search one, put the
# distribution that stands below it, or another, in its place: choice, uniform, loguniform, int, logint. What is
# commented out otherwise counts only for another choice, as it says.
#
#     python -m tuning.run space=THIS_FILE.yaml --dry-run
"""


def space_text(arguments: list[str], header: str | None = None, searched: bool = False) -> str:
    """Return a space file for the model and the corpus that the settings of a command line name.

    Args:
        arguments: settings, and `space=NAME` for another space than the model's own.
        header: comment lines at the top; by default they say that nothing is searched yet.
        searched: whether the space's distributions and fixed points are searched, and not comments.

    Raises:
        UserError: as a search of these settings.
    """
    given = parse_overrides(arguments)
    model, corpus = str(given.get("model.name", "crnn")), str(given.get("data.corpus", "demo"))
    with tempfile.TemporaryDirectory() as folder:
        if "space" not in given:
            arguments = [f"space={_template(model, Path(folder))}", *arguments]
        _, space, _ = load(arguments)
        if "data.corpus" in given and "task.name" not in given:
            wanted = _of_task(space, corpus)
            arguments = [*arguments, *(f"{path}={value}" for path, value in wanted.items() if path not in given)]
            _, space, _ = load(arguments)
    values = _values(space, given, searched)
    what = f"model.name={values['model.name']} data.corpus={values['data.corpus']}"
    header = HEADER.format(title=f"# Searches: nothing yet; {what}.") if header is None else header
    active = [path for path in space.distributions if searched or path in given]
    return "\n".join([header, *_sections(space, values, active)])


def _template(model: str, folder: Path) -> str:
    """The space with the documented values of a model; one without any for a model of the user's own."""
    known = known_spaces()
    if model not in MODELS and ":" in model:
        file = folder / "own.yaml"
        file.write_text(f"search: {{num_trials: {NUM_TRIALS}}}\n", encoding="utf-8")
        return str(file)
    return next((name for name in (f"{model}_full", model) if name in known), "crnn")


def _of_task(space: Space, corpus: str) -> dict[str, str]:
    """Settings of the task that a corpus has labels for, where the documented space has another one."""
    name = "classification" if corpus in OF_CLASSES else "regression"
    if corpus == "manifest" or space.fixed().task.name == name:
        return {}
    loss, metric = ("cross_entropy", "val_uar") if name == "classification" else ("mse", "val_loss")
    return {"task.name": name, "loss.name": loss, "search.metric": metric}


def _values(space: Space, given: dict[str, Any], searched: bool) -> dict[str, Any]:
    """Every setting: the first point of the space, its fixed settings, and defaults, with what the corpus brings."""
    points = space.settings.get(POINTS) or [{}]
    values = flattened(space.config(space.completed(flatten(points[0], space.fields))).model_dump(mode="json"))
    brought = brought_along(values["data.corpus"], values["model.name"], space.fields)
    values |= {path: value for path, value in brought.items() if path not in given}
    if searched:  # a setting that follows another one goes on following it
        return values | {path: text for path, text in space.settings.items() if isinstance(text, str) and "${" in text}
    # Nothing is searched, so there are no points to try first and nothing for Optuna to propose.
    values |= {POINTS: [], "search.algorithm": "random"}
    values["search.num_trials"] = values["search.num_trials"] or NUM_TRIALS
    return values


def _sections(space: Space, values: dict[str, Any], shown: list[str]) -> Iterator[str]:
    """The lines of every section; distributions of the paths in `shown` are active, others are comments."""
    searched = {path: distribution.as_setting() for path, distribution in space.distributions.items()}
    active = values | {path: setting for path, setting in searched.items() if path in shown}
    unread = without_effect(active)
    section = ""
    for path, field in space.fields.items():
        name, dot, leaf = path.rpartition(".")
        if name != section or not dot:
            section = name
            yield ""
        if dot and leaf == next(iter(_leaves(space.fields, name))):
            yield f"# {(SECTIONS[name].__doc__ or '').strip().splitlines()[0]}"
            yield f"{name}:"
        indent = "  " if dot else ""
        yield from _comment(f"{field.description} ({takes(f'{name}.' if dot else '', field)})", indent)
        line = f"{leaf}: {_flow(active[path])}"
        yield f"{indent}# {line}" if path in unread else f"{indent}{line}"
        if path in searched and path not in shown:
            yield f"{indent}# {leaf}: {_flow(searched[path])}"
    yield ""


def _leaves(fields: dict[str, FieldInfo], section: str) -> list[str]:
    return [path.partition(".")[2] for path in fields if path.startswith(f"{section}.")]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    dumped: str = yaml.safe_dump(
        [value], default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return dumped.strip()[1:-1]
