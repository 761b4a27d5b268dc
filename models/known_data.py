"""What published encoders were trained on: the form of an entry in `known_data.yaml`, and who is listed.

Imports nothing heavy: a search is refused by it before anything else is done.
"""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from tuning.models.pretrained import CONFIG, located

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_IN_CACHE = "models--"  # models--ORGANISATION--NAME/snapshots/COMMIT is where the hub's cache has a checkpoint


class Entry(BaseModel):
    """Checkpoints that were trained on the same corpora, as one source says."""

    checkpoints: list[str] = Field(min_length=1, description="hub names")
    corpora: list[str] = Field(min_length=1, description="names of corpora, ours where there is an adapter")
    kind: Literal["pretraining audio", "emotion labels", "tags"] = Field(description="what of them it was trained with")
    source: str = Field(min_length=1, description="who says so: a model card, a paper")


@dataclass(frozen=True)
class Seen:
    """Corpora, of those asked for, that an encoder was trained on.

    Args:
        checkpoint: the encoder as it is listed.
        corpora: their names, as they were asked for.
        kind: what of them it was trained with.
        source: who says so.
    """

    checkpoint: str
    corpora: tuple[str, ...]
    kind: str
    source: str


def seen(encoder: str, corpora: Collection[str], table: Iterable[Entry]) -> list[Seen]:
    """Return which of these corpora an encoder was trained on, by each entry of a table that lists it.

    A folder counts as the checkpoint that it was downloaded as, that its config.json says it was made from, or whose
    name it has. Names of corpora may differ in case and punctuation: `CREMA-D` is `cremad`.
    """
    hub_names, last_names = _names(encoder)
    found = []
    for entry in table:
        known = {_plain(corpus) for corpus in entry.corpora}
        matching = tuple(corpus for corpus in corpora if _plain(corpus) in known)
        for checkpoint in entry.checkpoints if matching else ():
            name = checkpoint.strip("/").casefold()
            if name in hub_names or name.rpartition("/")[2] in last_names:
                found.append(Seen(checkpoint, matching, entry.kind, entry.source))
                break
    return found


def _names(encoder: str) -> tuple[set[str], set[str]]:
    """Return the hub names of an encoder, and the names that stand for whatever checkpoint has them as its last part.

    All are case-folded.
    """
    folder = Path(located(encoder))
    if not folder.is_dir():
        return {encoder.strip("/").casefold()}, set()
    places = [folder, folder.resolve()]
    hub_names, last_names = set(), {place.name for place in places}
    if made_from := _made_from(folder):
        places.append(Path(made_from))
        hub_names.add(made_from)
        if not _HUB_NAME.fullmatch(made_from):  # another organisation's model may have the same last name
            last_names.add(Path(made_from).name)
    for part in (part for place in places for part in place.parts if part.startswith(_IN_CACHE)):
        hub_names.add(part.removeprefix(_IN_CACHE).replace("--", "/"))
    return {name.casefold() for name in hub_names}, {name.casefold() for name in last_names}


def _made_from(folder: Path) -> str:
    """Return the checkpoint that a folder's config.json names; empty if it names none or can't be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = config.get("_name_or_path") if isinstance(config, dict) else None
    return name.rstrip("/") if isinstance(name, str) else ""


def _plain(corpus: str) -> str:
    return re.sub(r"[\W_]+", "", corpus.casefold())
