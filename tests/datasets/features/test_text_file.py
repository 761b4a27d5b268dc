import pytest

from tests.helpers.recordings import encode, tone
from tuning.datasets.features.text_file import TextError, decode_text

LYRICS = "“Déjà vu” — l’été s’en va…\nÿ Ω-frei: naïve Größe"
WESTERN = LYRICS.replace("Ω", "O")


@pytest.mark.parametrize(
    "raw",
    [
        LYRICS.encode("utf-8"),
        LYRICS.encode("utf-8-sig"),
        LYRICS.encode("utf-16"),
        b"\xff\xfe" + LYRICS.encode("utf-16-le"),
        b"\xfe\xff" + LYRICS.encode("utf-16-be"),
        LYRICS.replace("\n", "\r\n").encode("utf-16"),
        LYRICS.replace("\n", "\r").encode("utf-8"),
        f" \t\r\n{LYRICS}\n\n ".encode(),
    ],
)
def test_unicode_with_and_without_mark(raw):
    assert decode_text(raw) == LYRICS


def test_western_pages():
    assert decode_text(WESTERN.encode("cp1252")) == WESTERN
    assert decode_text(WESTERN.replace("\n", "\r\n").encode("cp1252")) == WESTERN
    latin = "Café über años, " * 20
    assert decode_text(latin.encode("latin-1")) == latin.strip()
    assert decode_text((latin + "\x81").encode("latin-1")) == latin + "\x81"  # 0x81 is nothing in Windows-1252


@pytest.mark.parametrize(
    ("raw", "kind", "detail"),
    [
        (b"", "empty", "no bytes"),
        (b" \r\n\t\n", "empty", "nothing but white space"),
        (b"\xef\xbb\xbf", "empty", "nothing but white space"),
        (b"... 1 2 3 !", "no words", "no letter in 11 characters"),
        (encode(tone(0.1)), "no text", "NUL bytes"),
        (LYRICS.encode("utf-16-le"), "no text", "NUL bytes"),
        (LYRICS.encode("utf-32"), "no text", "NUL bytes"),
        (bytes(range(1, 256)), "no text", "control characters of 255"),
        (b"\xff\xfe" + LYRICS.encode("utf-16-le") + b"x", "no text", "marked as UTF-16-LE, truncated data at byte"),
        (
            b"\xef\xbb\xbf" + LYRICS.encode("cp1252", "replace"),
            "no text",
            "marked as UTF-8, invalid start byte at byte 0",
        ),
    ],
)
def test_what_is_no_text_says_why(raw, kind, detail):
    with pytest.raises(TextError) as caught:
        decode_text(raw)
    assert caught.value.kind == kind
    assert detail in caught.value.detail
    assert str(caught.value) == f"{kind}: {caught.value.detail}"
