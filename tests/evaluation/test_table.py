"""Tables in a terminal: a figure that has no room looks cut, and never like another figure."""

import io

from rich.console import Console

from tuning.evaluation.table import make_table

ROWS = [["uar", "0.5837", "-0.1172 to -0.0007"], ["loss", "12.25", "0.25 to 0.75"]]


def rendered(width, **options):
    stream = io.StringIO()
    Console(file=stream, width=width).print(make_table(["metric", "test", "interval"], ROWS, **options))
    return stream.getvalue()


def test_figures_are_whole_where_there_is_room():
    assert all(cell in rendered(60) for row in ROWS for cell in row)


def test_a_figure_without_room_is_cut_with_a_sign():
    words = rendered(20).split()
    whole = {word for row in ROWS for cell in row for word in cell.split()} | {"metric", "test", "interval"}
    assert any("…" in word for word in words) and all(word in whole or "…" in word for word in words)


def test_cells_of_wrapped_columns_lose_nothing():
    text = rendered(24, wrapped=[2])
    assert "".join(text.split()).count("…") == 0 and "-0.1172" in text and "-0.0007" in text


def test_cells_are_text_and_neither_markup_nor_escape_codes():
    cells = ["song [official video].mp3", "x[/y].ogg", ":heart:.wav", "a\x1b[31m.wav"]
    stream = io.StringIO()
    Console(file=stream, width=100).print(make_table(["[bold]file", "class"], [[cell, "[red]"] for cell in cells]))
    text = stream.getvalue()
    assert all(cell in text for cell in (*cells[:3], "a\\x1b[31m.wav", "[bold]file", "[red]")) and "\x1b" not in text
