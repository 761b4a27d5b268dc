"""A search as its folder has it, for the commands that come after it."""

from __future__ import annotations

import json
from pathlib import Path

from tuning.config.errors import UserError
from tuning.config.schema import Config, flattened, nested, parse_config
from tuning.config.space import Space, read_recorded
from tuning.experiment.directory import SearchFolder, read_record


def folder_of(place: str | Path) -> SearchFolder:
    """A search on disk by its path.

    Raises:
        UserError: there is none.
    """
    path = Path(place)
    if not (path / "config.yaml").exists():
        raise not_a_search(path)
    return SearchFolder(path.parent, path.name)


def not_a_search(place: str | Path, got: str = "") -> UserError:
    """The error for a place that is no search."""
    return UserError(f"{place}: expected the folder of a search{f', got: {got}' if got else ' (with its config.yaml)'}")


def space_of(folder: SearchFolder) -> Space:
    """The space as it was searched: a whole one, so that no corpus default is laid over it."""
    return read_recorded(folder.path / "config.yaml")


def config_of(folder: SearchFolder, number: int) -> Config:
    """A trial's configuration; of one that a population changed on the way, that of its best epoch."""
    params = json.loads((folder.trial(number) / "params.json").read_text(encoding="utf-8"))
    best = read_record(folder.trial(number)).params
    if best == params["searched"]:
        return parse_config(params["config"])
    space = space_of(folder)
    then, now = (flattened(space.config(each).model_dump(mode="json")) for each in (best, params["searched"]))
    changed = {path: value for path, value in then.items() if value != now[path]}
    return parse_config(nested(flattened(params["config"]) | changed))
