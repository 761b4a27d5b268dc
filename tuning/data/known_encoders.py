"""Pretrained encoders that were trained on the corpus that they are judged on: refused, or named with every score."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.config.errors import UserError, cast, nearest, shown
from tuning.config.loader import read_yaml_file
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.config.yaml_text import read_yaml
from tuning.models.encoder_shapes import IMAGE, SPEECH, TEXT
from tuning.models.known_data import Entry, Seen, seen

TABLE = "known_data.yaml"
SETTING = "data.known_table"


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder whose training a configuration's predictions depend on, and the setting that names it."""

    setting: str
    name: str


def of_features(config: Config) -> Encoder | None:
    """The encoder of a configuration's features, if they are of one."""
    features = config.features
    return Encoder(SPEECH, features.encoder) if features.name == "encoder" and features.encoder else None


def of_model(config: Config) -> Encoder | None:
    """The encoder of a configuration's model, if it has one and is not trained from random weights."""
    model: Any = config.model
    name = model.encoder_setting
    if name is None or (model.text_input is not None and not model.needs_text):
        return None
    is_pretrained = getattr(model, "text_pretrained" if name == "text_encoder" else "pretrained", True)
    return Encoder(f"model.{name}", str(getattr(model, name))) if is_pretrained else None


# Where there may be an encoder, with the settings that decide which.
PLACES: dict[Callable[[Config], Encoder | None], tuple[str, ...]] = {
    of_features: ("features.name", SPEECH),
    of_model: (TEXT, IMAGE, "model.text_pretrained", "model.pretrained", "model.modalities"),
}


def check_known_encoders(space: Space) -> None:
    """Refuse encoders that were trained on the corpus, in any trial, unless `data.known_encoders` is `mark`.

    Raises:
        UserError: names the encoder, the corpus, the source and the way out; a table of the user's that can't be read.
    """
    data = space.fixed().data
    _users(data.known_table)
    if data.known_encoders == "mark":
        return
    for of, deciding in PLACES.items():
        found = dict.fromkeys(each for config in space.variants(deciding) for each in _seen(of(config), config))
        told = [f"'{e.name}', trained on {_corpora(by)} ({by.kind}: {by.source})" for e, by in found]
        if told:
            setting = next(iter(found))[0].setting
            raise UserError(
                f"{setting}: expected an encoder that was not trained on the corpus that it is judged on, got "
                f"{'; '.join(told)}; data.known_encoders=mark searches all the same, and marks every score"
            )


def known_encoder_cautions(of: Callable[[Config], Encoder | None], config: Config) -> list[str]:
    """Say that an encoder was trained on the corpus that it is judged on, once for each source."""
    cautions = []
    for encoder, by in _seen(of(config), config):
        listed = "" if by.checkpoint == encoder.name else f" ({by.checkpoint})"
        cautions.append(
            f"{encoder.setting} '{encoder.name}'{listed} was trained on {_corpora(by)} ({by.kind}), on which it is "
            f"judged here: expect lower scores on other recordings; source: {by.source}"
        )
    return cautions


def _seen(encoder: Encoder | None, config: Config) -> list[tuple[Encoder, Seen]]:
    if encoder is None:
        return []
    corpora = dict.fromkeys([config.data.corpus, *(config.data.known_as or ())])
    return [(encoder, by) for by in seen(encoder.name, corpora, _table(config.data.known_table))]


def _corpora(found: Seen) -> str:
    return " and ".join(found.corpora)


def _table(file: str | None) -> list[Entry]:
    """The entries of our own table, and of the user's."""
    return [*_built_in(), *_users(file)]


@functools.cache
def _built_in() -> list[Entry]:
    text = importlib.resources.files("tuning.models").joinpath(TABLE).read_text(encoding="utf-8")
    return _checked(TABLE, read_yaml(text, ()))


def _users(file: str | None) -> list[Entry]:
    if file is None:
        return []
    try:
        changed = Path(file).stat().st_mtime_ns
    except OSError:
        changed = 0  # it can't be read, which is told then
    return _read(file, changed)


@functools.lru_cache(maxsize=2)  # it is asked for each of a thousand variants
def _read(file: str, changed: int) -> list[Entry]:
    return _checked(f"{SETTING}: '{file}'", read_yaml_file(SETTING, file))


def _checked(where: str, read: Any) -> list[Entry]:
    fields = Entry.model_fields
    if not isinstance(read, list):
        raise UserError(f"{where}: expected a list of entries with {', '.join(fields)}, got {shown(read)}")
    entries = []
    for number, written in enumerate(read, start=1):
        place = f"{where}: entry {number}"
        if not isinstance(written, dict):
            raise UserError(f"{place}: expected {', '.join(fields)}, got {shown(written)}")
        if "checkpoints" in written:
            place += f" ({shown(written['checkpoints'])})"
        for name in written:
            if name not in fields:
                raise UserError(f"{place}: {name}: expected no such name{nearest(name, fields)}")
        for name in fields:
            if name not in written:
                raise UserError(f"{place}: {name}: expected a value, got none")
        entries.append(Entry(**{name: cast(f"{place}: {name}", written[name], fields[name]) for name in fields}))
    return entries
