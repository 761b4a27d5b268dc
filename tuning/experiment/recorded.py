"""Read a search back from its folder: its space and the configurations of its trials."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tuning.config.errors import UserError
from tuning.config.schema import Config, flattened, nested
from tuning.config.space import Space
from tuning.datasets.settings import Loading
from tuning.experiment.directory import DAMAGED, PARAMS, SearchFolder, read_record
from tuning.experiment.reading import read_config, read_json, read_recorded, understood


def folder_of(place: str | Path) -> SearchFolder:
    """The folder of a search on disk.

    Raises:
        UserError: there is no search at that path.
    """
    path = Path(place)
    if not is_search({found.name for found in path.iterdir()} if path.is_dir() else ()):
        raise not_a_search(path)
    return SearchFolder(path.parent, path.name)


def is_search(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a search; that of a saved model has a config.yaml, too."""
    return "config.yaml" in names and ("trials" in names or "fingerprint.json" in names)


def not_a_search(place: str | Path, got: str = "") -> UserError:
    """The error for a path or URI that is not a search."""
    return UserError(f"{place}: expected the folder of a search{f', got: {got}' if got else ' (with its config.yaml)'}")


def space_of(folder: SearchFolder) -> Space:
    """The space that was searched. It is complete, so no defaults of the corpus are added."""
    return read_recorded(folder.path / "config.yaml")


def loading_of(folder: SearchFolder) -> Loading | None:
    """How the trials so far read their clips, resident or streamed; None if there are none, or none recorded it."""
    for record in folder.records():
        if record.status == DAMAGED:
            continue
        loading = config_of(folder, record.number).data.loading
        if loading != "auto":
            return loading
    return None


def config_of(folder: SearchFolder, number: int) -> Config:
    """The configuration of a trial; that of its best epoch if a population changed it.

    Raises:
        UserError: its record is damaged, or names code that this user did not name.
    """
    file = folder.trial(number) / PARAMS
    best, params = read_record(folder.trial(number)).params, read_json(file, dict)
    config = read_config(file, params["config"])
    if best == params["searched"]:
        return config
    space = space_of(folder)
    with understood(file, "settings of a trial"):
        then, now = (flattened(space.config(each).model_dump(mode="json")) for each in (best, params["searched"]))
        changed = {path: value for path, value in then.items() if value != now[path]}
        return read_config(file, nested(flattened(params["config"]) | changed))
