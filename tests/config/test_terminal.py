"""Others' text in a terminal: nothing in it acts, and nothing is lost."""

import pytest

from tuning.config.terminal import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("song [official video].mp3", "song [official video].mp3"),
        ("größe 漢字 🎵.wav\n\tnext", "größe 漢字 🎵.wav\n\tnext"),
        ("\x1b]0;title\x07\x1b[31mred", "\\x1b]0;title\\x07\\x1b[31mred"),
        ("done\r failed", "done\\r failed"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\x9b2J", "\\x9b2J"),  # the same as an escape and a bracket
        (b"\xe4.wav".decode("utf-8", "surrogateescape"), "\\udce4.wav"),
    ],
)
def test_what_acts_in_a_terminal_is_shown_by_its_code(text, shown):
    assert visible(text) == shown
    visible(text).encode("utf-8")
