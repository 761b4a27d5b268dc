"""References of a space file to other settings: `${model.lstm_dropout}`. Imports nothing heavy."""

import re
from typing import Any

from tuning.config.distributions import plain
from tuning.config.errors import UserError

_TO_A_SETTING = re.compile(r"\$\{[^{}:]*\}")


def refuse_lookups(path: str, value: Any) -> None:
    """Refuse what OmegaConf would look up elsewhere, such as `${oc.env:HOME}`: a file may be somebody else's.

    Raises:
        UserError: the value, or one within it, has such a reference.
    """
    if isinstance(value, dict | list | tuple):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        for each in inner:
            refuse_lookups(path, each)
    if not isinstance(value, str) or "${" not in value:
        return
    rest = value
    while (shorter := _TO_A_SETTING.sub("", rest)) != rest:  # inner references first
        rest = shorter
    if "${" in rest and ":" in rest:
        raise UserError(
            f"{path}: expected a value or a reference to a setting, such as ${{model.lstm_dropout}}, got {plain(value)}"
        )
