"""From the bytes of a text file to its text, or to the reason why it is unusable."""

import codecs
import unicodedata

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
MAX_CONTROL_SHARE = 0.02  # of the characters; a page of lyrics may hold a stray one


class TextError(ValueError):
    """A text that can't be used: `kind` is short and counts, `detail` is for whoever repairs it."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


def decode_text(raw: bytes) -> str:
    """The text of a file, with lines that end in \\n and no white space around it.

    UTF-8, with or without a byte order mark; UTF-16 by its mark; else Windows-1252, as lyrics from the web often are,
    and Latin-1 where a byte is none of that. Raises TextError when it is empty, no text (NUL bytes, many control
    characters), or has no words.
    """
    if not raw:
        raise TextError("empty", "no bytes")
    text = _decoded(raw).replace("\r\n", "\n").replace("\r", "\n")
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


def _decoded(raw: bytes) -> str:
    """By the mark, else by the first encoding that all bytes belong to."""
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            return _marked(raw.removeprefix(mark), encoding)
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def _marked(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise TextError("no text", f"marked as {encoding.upper()}, {error.reason} at byte {error.start}") from None
