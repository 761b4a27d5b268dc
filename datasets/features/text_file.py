"""Decode text files of unknown encoding."""

import codecs
import unicodedata

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MAX_CONTROL_SHARE = 0.02  # of the characters; a page of lyrics may hold a stray one


class TextError(ValueError):
    """A text that can't be used. `kind` is what the summary counts, `detail` helps to repair the file."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


def decode_text(raw: bytes) -> str:
    """Decode the bytes of a text file; lines end in \\n, white space around the text is stripped.

    UTF-8 with or without a byte order mark, UTF-16 with one, else Windows-1252 (common for lyrics from the web), else
    Latin-1. Raises TextError when the text is empty, binary (NUL bytes, many control characters) or has no letter.
    """
    if not raw:
        raise TextError("empty", "no bytes")
    text = _decode(raw).replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise TextError("no text", "NUL bytes")
    controls = sum(unicodedata.category(character) == "Cc" and character not in "\t\n\f" for character in text)
    if controls > MAX_CONTROL_SHARE * len(text):
        raise TextError("no text", f"{controls} control characters of {len(text)}")
    text = text.strip()
    if not text:
        raise TextError("empty", "nothing but white space")
    if not any(character.isalpha() for character in text):
        raise TextError("no words", f"no letter in {len(text)} characters")
    return text


def _decode(raw: bytes) -> str:
    for mark, encoding in BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            try:
                return raw.removeprefix(mark).decode(encoding)
            except UnicodeDecodeError as error:
                reason = f"marked as {encoding.upper()}, {error.reason} at byte {error.start}"
                raise TextError("no text", reason) from None
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")
