"""Hide credentials in what is written and printed. Imports nothing heavy.

A URI may hold them: `http://user:secret@host`, `s3://key:secret@bucket`, `s3://bucket?secret_key=...`. Files of a
search are given to others, so they are written without them; where a recorded location is used again, its credentials
come from the environment or the command line.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

# Repetitions have bounds: whole pages are searched, and the time must grow as they do.
_URI = re.compile(r"""[a-z][a-z0-9+.-]{0,31}://(?:[^\s'"<>]|'(?=[^\s"<>]{0,999}[@=]))+""", re.IGNORECASE)
# User and password before a host, also where the password has a / that should have been encoded; a port is none.
_USER = re.compile(r"(?<=://)(?:[^/?#@]*:(?!\d{1,5}(?:[/?#]|$)).*|[^/?#@]+)@")
# The value of an option of a URI whose name says that it is secret.
_OPTION = re.compile(
    r"(?<=[?&;])([\w.%-]{0,99}(?:secret|passw|token|credential|signature|access_?key|account_?key|api_?key|private_?key)[\w.%-]{0,99}|"
    r"sig|pwd|key|auth)=[^&#;]+",
    re.IGNORECASE,
)
_HIDDEN_OPTION = re.compile(r"[?&][\w.%-]+=" + re.escape(HIDDEN) + r"(?=&|$)")


def redacted(text: str) -> str:
    """The text with `***` in place of credentials in URIs."""
    return _URI.sub(lambda uri: _OPTION.sub(rf"\1={HIDDEN}", _USER.sub(f"{HIDDEN}@", uri[0])), text)


def redacted_tree(value: Any) -> Any:
    """Lists and dictionaries with every text in them redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: redacted_tree(each) for name, each in value.items()}
    return [redacted_tree(each) for each in value] if isinstance(value, list) else value


def without_redacted(value: Any) -> Any:
    """Recorded settings whose URIs can be used again: without what was redacted in them."""
    if isinstance(value, dict):
        return {name: without_redacted(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_redacted(each) for each in value]
    if not isinstance(value, str) or HIDDEN not in value or "://" not in value:
        return value
    base, mark, options = value.replace(f"://{HIDDEN}@", "://").partition("?")
    kept = _HIDDEN_OPTION.sub("", mark + options)
    return base + (f"?{kept[1:]}" if kept else "")
