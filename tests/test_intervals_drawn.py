"""Drawn intervals, the labels of their axis, and texts that are cut to a pane."""

import math
import re
import textwrap

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.dose_view import format_slopes
from wantui.tui.analysis.forest_axis import ForestAxis
from wantui.tui.analysis.forest_plot import ForestLayout, ForestRow, draw_forest_rows, draw_interval
from wantui.tui.wrapping import cut_lines, wrap_cells, wrap_text


@pytest.mark.parametrize("change", [(0.1, 0.099, 0.101), (-0.5, -0.51, -0.49), (2.0, 1.9, 2.1), (0.0, -1e-6, 1e-6)])
def test_point_of_a_forest_plot_never_hides_the_ends_of_its_interval(change: tuple[float, float, float]) -> None:
    axis = ForestAxis(27, 0.5)
    plot = draw_interval(change, True, axis, Style(), {"◇": change[0], "□": change[1]}).plain
    assert len(plot) == 27
    point = plot.index("●")
    assert abs(point - axis.find_column(change[0])) <= 1
    assert plot[point - 1] in "├◂"
    assert plot[point + 1] in "┤▸"
    assert {"◇", "□"} <= set(plot), "references move beside the signs"


@pytest.mark.parametrize("width", [27, 31, 33, 61])
@pytest.mark.parametrize("end", [0.05, 0.2, 0.5, 5.0])
def test_forest_axis_has_a_label_between_zero_and_its_ends(width: int, end: float) -> None:
    labels = ForestAxis(width, end).draw_labels()
    assert len(labels) == width
    numbers = [int(text) for text in re.findall(r"[+-]?\d+", labels)]
    assert numbers == sorted(numbers)
    assert len(numbers) >= 5
    assert [-number for number in numbers[::-1]] == numbers


def test_slopes_have_three_digits_and_aligned_decimal_points() -> None:
    assert format_slopes([0.5, 0.01152, -0.927, float("nan")]) == ["+0.500 ", "+0.0115", "-0.927 ", " -     "]
    assert format_slopes([12.5, 0.000123]) == ["+12.5     ", " +0.000123"]


def test_cut_text_fills_its_last_line_with_words_and_ends_in_an_ellipsis() -> None:
    lines = cut_lines(wrap_text("a large blue circle moving left over a dark background", 36), 1, 36)
    assert [line.plain for line in lines] == ["a large blue circle moving left …"]
    assert len(cut_lines(wrap_text("a b", 36), 1, 36)) == 1


WIDE_TEXT = "一只红色的圆，在深色的背景上向左移动 and a circle 👩‍👧 電影感"


@pytest.mark.parametrize("width", [5, 8, 20, 21, 60])
def test_wide_characters_are_wrapped_by_their_cells(width: int) -> None:
    for lines in (wrap_cells(WIDE_TEXT, width), [line.plain for line in wrap_text(WIDE_TEXT, width, indent="")]):
        assert all(cell_len(line) <= width for line in lines)
        assert "".join("".join(lines).split()) == "".join(WIDE_TEXT.split())
    first, *rest = wrap_cells(WIDE_TEXT, 20, max_lines=2, placeholder="…")
    assert first == "一只红色的圆，在深色"
    assert [line[-1] for line in rest] == ["…"]


def test_combining_marks_do_not_make_room_for_wide_characters() -> None:
    text = "漢字" * 6 + " " + "e\u0301" * 12
    lines = wrap_cells(text, 10)
    assert max(map(cell_len, lines)) <= 10
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_narrow_text_is_wrapped_as_before() -> None:
    text = "a large blue circle, moving left-to-right over a dark background: café"
    assert wrap_cells(text, 17) == textwrap.wrap(text, 17)


@pytest.mark.parametrize(("p_values", "is_muted"), [([0.031] * 3 + [0.2], True), ([0.031] * 2 + [0.2, 0.3], False)])
def test_column_of_p_is_muted_if_nearly_all_metrics_have_the_same(p_values: list[float], is_muted: bool) -> None:
    muted, style = Style(color="cyan"), Style(color="magenta", bold=True)
    rows = [ForestRow(Text("length"), (0.1, 0.05, 0.2), "+10 %", "+5 %", "+20 %", p, style) for p in p_values]
    lines = draw_forest_rows(rows, ForestLayout(10, ForestAxis(25, 1.0), 20), lambda _: muted)
    p_style = lines[0].get_style_at_offset(Console(), lines[0].plain.index("0.031"))
    assert (p_style.color, bool(p_style.bold)) == ((muted if is_muted else style).color, not is_muted)


def test_vertical_lines_are_at_the_ticks_and_below_their_labels() -> None:
    axis = ForestAxis(61, 0.5)
    plot = draw_interval((math.nan, math.nan, math.nan), False, axis, Style()).plain
    columns = [column for column, sign in enumerate(plot) if sign != " "]
    assert columns == sorted(axis.tick_columns)
    assert columns == [axis.find_column(change) for change in (-0.5, -0.1, -0.01, 0.0, 0.01, 0.1, 0.5)]
    assert {plot[column] for column in columns if column != 30} == {"┊"}
    assert plot[30] == "│"
    labels = axis.draw_labels()
    for text, column in (("-10 %", axis.find_column(-0.1)), ("+10 %", axis.find_column(0.1))):
        assert labels.index(text) + len(text) // 2 == column
    crossed = draw_interval((0.05, -0.2, 0.3), False, axis, Style()).plain
    assert crossed[axis.find_column(0.1)] == "─"


@pytest.mark.parametrize("width", [13, 41])
def test_row_without_a_percentage_has_the_ticks_of_the_other_rows(width: int) -> None:
    layout = ForestLayout(6, ForestAxis(width, 0.5), 20)
    missing = (math.nan, math.nan, math.nan)
    rows = [
        ForestRow(Text("volume"), missing, "-0.104 nats", "-0.28", "+0.0713", 0.5, Style()),
        ForestRow(Text("length"), (0.2, 0.15, 0.25), "+20.0 %", "+15.0 %", "+25.0 %", 0.5, Style()),
    ]
    volume, length = (line.plain for line in draw_forest_rows(rows, layout, lambda _: Style()))
    end = 7 + width
    assert volume[:end].count("┊") >= 2
    assert all(volume[column] == sign for column, sign in enumerate(length[:end]) if sign == "┊")
    assert "-0.104 nats" in volume[end:]


def test_p_stays_in_one_line_with_its_number() -> None:
    assert [line.plain for line in wrap_text("distance 0.02, p 0.031", 17)] == ["distance 0.02,", "  p 0.031"]
