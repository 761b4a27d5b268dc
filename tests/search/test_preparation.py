"""A preparation shows that it moves, on a terminal and without one, also while no shard is finished."""

import io
import re
import time

from tests.helpers.waiting import wait_until
from tuning.search.preparation import Moving


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(out):
    return out.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_every_so_often_even_if_nothing_is_done_meanwhile():
    out = io.StringIO()
    with Moving("features of", out, every_seconds=0.02) as moving:
        moving(0, 128)
        wait_until(lambda: len(lines(out)) >= 2)
        assert all(line.startswith("prepare   features of 0 of 128 recordings, ") for line in lines(out))
        moving(64, 128)
        wait_until(lambda: "64 of 128 recordings" in lines(out)[-1])
        assert re.search(r"64 of 128 recordings, \d+ s, [\d.e+]+ a second, about \d+ s left$", lines(out)[-1])
        moving(128, 128)
    found = len(lines(out))
    time.sleep(0.1)
    assert len(lines(out)) == found  # nothing is printed once it is done


def test_where_nothing_is_missing_nothing_is_said():
    out = io.StringIO()
    with Moving("features of", out, every_seconds=0.01) as moving:
        moving(128, 128)
        time.sleep(0.1)
    assert lines(out) == []


def test_every_variant_counts_from_its_own_beginning():
    out = io.StringIO()
    with Moving("features of", out, every_seconds=0.02) as moving:
        moving(0, 10)
        moving(10, 10)
        moving(4, 10)
        wait_until(lambda: any("4 of 10" in line for line in lines(out)))
        assert " left" not in lines(out)[-1]  # of this variant none is made yet


def test_a_terminal_has_one_line_that_changes():
    out = Terminal()
    with Moving("features of", out, every_seconds=60) as moving:
        moving(0, 128)
        moving(64, 128)
        wait_until(lambda: "64/128" in out.getvalue())
    assert "features of" in out.getvalue() and "prepare   " in out.getvalue() and " a second" in out.getvalue()


def test_an_error_ends_it():
    out = io.StringIO()
    try:
        with Moving("features of", out, every_seconds=0.01) as moving:
            moving(0, 2)
            raise RuntimeError
    except RuntimeError:
        found = len(lines(out))
    time.sleep(0.1)
    assert len(lines(out)) == found
