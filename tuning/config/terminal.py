"""Text from elsewhere, made safe for a terminal. Imports nothing heavy."""

from __future__ import annotations


def visible(text: object) -> str:
    r"""Return text whose every character is seen: control characters, as of escape codes, become their codes.

    Names of files and classes, notes and errors are others' text. In a terminal an escape code hides or rewrites what
    stands around it, as characters do that turn the direction of writing. Line breaks and tabs stay. So does what a
    terminal can't show for want of a font; bytes of a name that are not UTF-8 become codes, too.

    >>> visible("a\x1b[2K\rb.wav")
    'a\\x1b[2K\\rb.wav'
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )
