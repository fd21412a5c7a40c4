"""The content of a terminal after updates that omit unchanged cells."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip

from wantui.tui.terminal.sent_cells import SentRows

WIDTH, ROW = 12, 3
STYLES = [Style.parse(text) for text in ("red", "bold red", "on blue")]


class Cell(NamedTuple):
    text: str
    style: Style | None


def split_into_cells(strip: Strip) -> list[Cell]:
    """The second cell of a wide character has no text."""
    return [
        Cell(text, segment.style)
        for segment in strip
        for character in segment.text
        for text in (character, *[""] * (cell_len(character) - 1))
    ]


def make_strip(parts: list[tuple[str, Style]], cell_count: int) -> Strip:
    return Strip([Segment(text, style) for text, style in parts]).adjust_cell_length(cell_count, STYLES[0])


PARTS = st.lists(st.tuples(st.text("ab圆", min_size=1, max_size=4), st.sampled_from(STYLES)), max_size=5)
NARROW_PARTS = st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.sampled_from(STYLES)), max_size=5)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=8))
def test_whole_rows_are_shown_as_if_all_cells_were_sent(updates: list[list[tuple[str, Style]]]) -> None:
    rows = SentRows()
    rows.begin_update(Size(WIDTH, 10), "queue")
    shown = [Cell("?", None)] * WIDTH
    for parts in updates:
        strip = make_strip(parts, WIDTH)
        if change := rows.replace(ROW, 0, strip):
            shown[change[0] : change[0] + change[1].cell_length] = split_into_cells(change[1])
        assert shown == split_into_cells(strip)
        assert rows.replace(ROW, 0, strip) is None, "the same cells are sent once"


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, WIDTH - 1), st.integers(1, WIDTH), NARROW_PARTS), max_size=12))
def test_parts_of_rows_are_shown_as_if_all_cells_were_sent(
    updates: list[tuple[int, int, list[tuple[str, Style]]]],
) -> None:
    rows = SentRows()
    rows.begin_update(Size(WIDTH, 10), "queue")
    expected = split_into_cells(make_strip([], WIDTH))
    rows.replace(ROW, 0, make_strip([], WIDTH))
    shown = list(expected)
    for column, count, parts in updates:
        strip = make_strip(parts, min(count, WIDTH - column))
        expected[column : column + strip.cell_length] = split_into_cells(strip)
        if change := rows.replace(ROW, column, strip):
            shown[change[0] : change[0] + change[1].cell_length] = split_into_cells(change[1])
        assert shown == expected


def test_changed_digit_is_sent_alone() -> None:
    rows = SentRows()
    rows.begin_update(Size(WIDTH, 10), "queue")
    for text in ("step 1 of 20", "step 2 of 20"):
        change = rows.replace(ROW, 0, Strip([Segment(text, STYLES[0])]))
    assert change is not None
    assert (change[0], change[1].text) == (5, "2")


@pytest.mark.parametrize("emoji", ["\u2764\ufe0f", "\U0001f469\u200d\U0001f52c"])
def test_rows_with_emoji_of_uncertain_width_are_sent_whole(emoji: str) -> None:
    rows = SentRows()
    rows.begin_update(Size(WIDTH, 10), "queue")
    for text in (f"{emoji} 1", f"{emoji} 2"):
        strip = make_strip([(text, STYLES[0])], WIDTH)
        assert rows.replace(ROW, 0, strip) == (0, strip)


def test_unknown_rows_are_sent_whole() -> None:
    rows = SentRows()
    strip = make_strip([("step 1", STYLES[0])], WIDTH)
    for size, mode in [(Size(WIDTH, 10), "queue"), (Size(WIDTH, 10), "monitor"), (Size(WIDTH, 11), "monitor")]:
        rows.begin_update(size, mode)  # another screen, and another size of the terminal
        assert rows.replace(ROW, 0, strip) == (0, strip)
        rows.begin_update(size, mode)
        assert rows.replace(ROW, 0, strip) is None
    rows.forget()
    part = make_strip([], 2)
    assert rows.replace(ROW, 4, part) == (4, part)
    assert rows.replace(ROW, 4, part) == (4, part), "the rest of the row is not known"
