"""Number formats, charts, forest axis and attention of the analysis screen; mean curves and components of groups."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Text
from scipy import stats
from synthetic_videos import synthetic_videos

from wantui.analysis.comparability import VideoNamer
from wantui.analysis.curve_comparison import CurveComparison, compare_curves
from wantui.analysis.group import Group
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.mean_curves import compute_mean_curves
from wantui.analysis.metrics import CURVES
from wantui.analysis.path_components import NoComponentsError, compute_path_components
from wantui.analysis.trajectory import build_trajectory
from wantui.tui.analysis.attention_film import MEAN_STEP, AttentionFilm, OverlayKey, WordAttention
from wantui.tui.analysis.attention_panel import EVENNESS_NOTE, MASS_NOTE, draw_attention, measure_attention_height
from wantui.tui.analysis.data import FigureKey, GroupCurves, GroupPaths, choose_clearest_curve, compute_figure
from wantui.tui.analysis.forest_axis import ForestAxis, choose_axis
from wantui.tui.analysis.forest_plot import (
    ForestLayout,
    ForestRow,
    choose_layout,
    draw_directions,
    draw_forest_header,
    draw_forest_rows,
    draw_interval,
    sort_by_effect,
)
from wantui.tui.analysis.views import Canvas, draw_mean_curves, draw_paths
from wantui.tui.chart import (
    CENTRE_DOT,
    MAX_TICK_ERROR,
    Chart,
    choose_curve_range,
    choose_decade_rows,
    choose_rows,
    find_value_range,
)
from wantui.tui.number_formats import choose_number_format, choose_tick_format, choose_ticks
from wantui.tui.pictures import measure_height
from wantui.tui.series_colours import assign_series_colours

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.5, 12.25, 100.0], ["1.50", "12.25", "100.00"]),
        ([0.01873, 0.04335], ["0.01873", "0.04335"]),
        ([3e-7, 5e-6], ["3.00e-07", "5.00e-06"]),
        ([1e9, 2e9], ["1.00e+09", "2.00e+09"]),
        ([-0.0, 0.0], ["0", "0"]),
        ([NAN, math.inf, -math.inf, 2.0], ["-", "∞", "-∞", "2.000"]),
        ([NAN], ["-"]),
        ([], []),
    ],
)
def test_numbers_of_a_column_share_their_decimals(values: list[float], texts: list[str]) -> None:
    assert list(map(choose_number_format(values).format_number, values)) == texts


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 7.9), (0.00012, 0.00019), (1e5, 1.1e5)])
@pytest.mark.parametrize("max_count", [1, 2, 3, 7])
def test_ticks_are_distinct_and_within_their_range(low: float, high: float, max_count: int) -> None:
    ticks = choose_ticks(low, high, max_count)
    assert 1 <= len(ticks) <= max_count
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    labels = list(map(choose_tick_format(ticks).format_number, ticks))
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([1.0], ["1"]),
        ([0.0, 0.25, 0.5], ["0.00", "0.25", "0.50"]),
        ([-20.0, 0.0, 20.0], ["-20", "0", "20"]),
        ([1e8, 2e8], ["1.00e+08", "2.00e+08"]),
        ([], []),
    ],
)
def test_ticks_have_as_few_decimals_as_they_need(ticks: list[float], labels: list[str]) -> None:
    assert list(map(choose_tick_format(ticks).format_number, ticks)) == labels


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (NAN, 1.0), (0.0, math.inf)])
def test_empty_range_has_no_ticks(low: float, high: float) -> None:
    assert choose_ticks(low, high, 3) == []


@pytest.mark.parametrize("size", [(1, 1), (10, 3), (76, 12), (200, 40)])
def test_chart_has_the_size_that_it_is_given(size: tuple[int, int]) -> None:
    width, height = size
    chart = Chart(width, height, (1.0, 0.0), (0.0, 2.0), "σ")
    chart.add_line([1.0, 0.5, 0.0], [0.0, NAN, 5.0], Style())
    chart.add_band([1.0, 0.0], [0.0, 0.1], [1.0, 2.0], Style())
    chart.add_symbol(NAN, 1.0, "●", Style())
    lines = chart.draw_lines()
    assert len(lines) == max(3, height)
    if width >= 10:
        assert max(line.cell_len for line in lines) == width


def test_chart_draws_a_rising_line_from_low_left_to_high_right() -> None:
    chart = Chart(40, 12, (0.0, 1.0), (0.0, 1.0))
    chart.add_line([0.0, 1.0], [0.0, 1.0], Style())
    chart.add_symbol(1.0, 1.0, "●", Style())
    plot = [line.plain[chart.label_width + 2 :] for line in chart.draw_lines()[: chart.plot_height]]
    drawn = [line for line in plot if line.strip()]
    assert drawn[0].rstrip().endswith("●")
    assert len(drawn) >= 0.7 * len(plot)
    columns = [len(line) - len(line.lstrip()) for line in drawn]
    assert columns == sorted(columns, reverse=True)


@pytest.mark.parametrize("height", [9, 10, 13])
@pytest.mark.parametrize("high", [1.0, 1.312, 2.255, 3.417, 5.4])
def test_vertical_axis_of_a_curve_has_three_ticks(height: int, high: float) -> None:
    assert len(Chart(40, height, (1.0, 0.0), (0.0, high)).y_ticks) >= 3


@pytest.mark.parametrize("height", range(4, 30))
@pytest.mark.parametrize("high", [0.37, 1.21, 3.417, 9.9, 1234.0])
def test_labels_of_the_vertical_axis_are_evenly_spaced(height: int, high: float) -> None:
    lines = Chart(40, height, (1.0, 0.0), (0.0, high)).draw_lines()[: height - 2]
    rows = [row for row, line in enumerate(lines) if "┤" in line.plain]
    gaps = {after - before for before, after in pairwise(rows)}
    assert rows
    assert len(gaps) <= 1 or min(gaps) >= 0.75 * max(gaps)


@pytest.mark.parametrize("height", [4, 5, 8, 11, 30])
@pytest.mark.parametrize("limits", [(0.0, 2.591), (1.002, 1.21), (-10.8, -7.9), (0.0, 3.417), (-3e-5, 4e-5)])
def test_line_at_a_tick_is_drawn_at_the_centre_of_its_row(height: int, limits: tuple[float, float]) -> None:
    for tick in Chart(40, height, (1.0, 0.0), limits).y_ticks:
        chart = Chart(40, height, (1.0, 0.0), limits)
        chart.add_line([1.0, 0.0], [tick, tick], Style())
        lines = [line.plain for line in chart.draw_lines()[: chart.plot_height]]
        label = chart.y_labels[chart.y_ticks.index(tick)]
        (row,) = [line for line in lines if any("\u2800" < character <= "\u28ff" for character in line)]
        assert row.split()[0] == label
        dots = ord(row[-1]) - 0x2800
        assert dots & 0b00110110, "the second or third of four dots"
        assert not dots & 0b11001001


@pytest.mark.parametrize("row_count", [2, 3, 5, 15, 30])
@pytest.mark.parametrize(("low", "high"), [(0.05, 20.0), (0.2, 0.3), (1e-3, 1e4), (1.0, 1.0), (3.0, 80.0)])
def test_rows_of_a_logarithmic_axis_contain_its_range_and_powers_of_ten(
    row_count: int, low: float, high: float
) -> None:
    row_value, top_value, exponents = choose_decade_rows(low, high, row_count)
    bottom_value = top_value - (row_count - 1) * row_value
    assert bottom_value - row_value / 2 <= math.log10(low) + 1e-9
    assert math.log10(high) <= top_value + row_value / 2 + 1e-9
    assert len(exponents) >= 2
    assert exponents == sorted(set(exponents))
    if row_count > exponents[-1] - exponents[0]:
        rows = [(top_value - exponent) / row_value for exponent in exponents]
        assert rows == pytest.approx(np.round(rows), abs=1e-6)


def test_equal_ratios_have_equal_distances_on_a_logarithmic_axis() -> None:
    chart = Chart(40, 20, (0.0, 2.0), (0.01, 1.0), is_log=True)
    chart.add_line([0.0, 1.0, 2.0], [0.01, 0.1, 1.0], Style())
    rows = {tick: chart._find_row(tick) for tick in chart.y_ticks}
    assert chart.y_labels == ["0.01", "0.03", "0.1", "0.3", "1"]
    assert rows[0.01] - rows[0.1] == rows[0.1] - rows[1.0] > 0


@pytest.mark.parametrize(
    ("height", "labels"),
    [(26, ["0.5", "1", "2", "5", "10"]), (12, ["0.4", "1", "4", "10"]), (7, ["1", "10"])],
)
def test_logarithmic_axis_has_ticks_between_powers_of_ten_where_they_are_near_rows(
    height: int, labels: list[str]
) -> None:
    chart = Chart(40, height, (0.0, 2.0), (0.24, 19.0), is_log=True)
    assert chart.y_labels == labels
    for tick in chart.y_ticks:
        row = chart._find_dot_row(tick) / 4
        assert abs(row - chart._find_row(tick) - CENTRE_DOT / 4) * chart.row_value <= MAX_TICK_ERROR + 1e-9


def test_value_that_a_logarithmic_axis_does_not_have_leaves_a_gap() -> None:
    chart = Chart(40, 20, (0.0, 2.0), (0.01, 1.0), is_log=True)
    empty_lines = [line.plain for line in chart.draw_lines()]
    chart.add_line([0.0, 1.0, 2.0], [0.0, -1.0, 0.0], Style())
    assert [line.plain for line in chart.draw_lines()] == empty_lines


def test_thick_line_has_two_rows_of_dots() -> None:
    chart = Chart(40, 6, (0.0, 1.0), (0.0, 1.0))
    chart.add_line([0.0, 1.0], [0.5, 0.5], Style(), is_thick=True)
    rows = [chart._canvas.draw_row(row).plain.replace(" ", chr(0x2800)) for row in range(chart.plot_height)]
    dot_counts = [
        sum((ord(character) - 0x2800).bit_count() for character in column) for column in zip(*rows, strict=True)
    ]
    assert dot_counts == [4] * chart.plot_width, "two dots in both columns of a cell"


def is_round(step: float) -> bool:
    return float(f"{step:.4e}".partition("e")[0]) in (1, 2, 2.5, 5)


@pytest.mark.parametrize("row_count", range(1, 40))
def test_rows_of_a_chart_contain_its_range_and_have_few_round_ticks(row_count: int) -> None:
    random = np.random.default_rng(row_count)
    for _ in range(50):
        low = random.normal() * 10.0 ** random.integers(-4, 4)
        high = low + abs(low) * 10.0 ** random.uniform(-4, 2)
        row_value, top_value, ticks = choose_rows(low, high, row_count)
        bottom_value = top_value - (row_count - 1) * row_value
        tolerance = 1e-9 * abs(high)
        assert top_value + row_value / 2 >= high - tolerance
        assert bottom_value - row_value / 2 <= low + tolerance
        assert all(bottom_value - tolerance <= tick <= top_value + tolerance for tick in ticks)
        most = max(5 if row_count == 5 else 4, row_count // 3)
        if row_count == 6 and len(ticks) == 6:  # only if the range needs higher rows for a tick in every second row
            doubled_step = 2 * row_value
            last_tick = math.ceil(high / doubled_step - 1e-9) * doubled_step
            assert not is_round(doubled_step) or last_tick - 4.5 * row_value > low
        else:
            assert min(3, row_count) <= len(ticks) <= most
        assert all(is_round(after - before) for before, after in pairwise(ticks))
        assert row_count < 3 or ticks[-1] >= high - tolerance, "the last tick is not below the values"
        assert row_count < 3 or ticks[0] == pytest.approx(bottom_value, abs=tolerance), "the axis ends at a tick"
        rows = [(top_value - tick) / row_value for tick in ticks]
        assert rows == pytest.approx(np.round(rows), abs=1e-6)


def test_last_horizontal_tick_has_its_label_below_and_the_axis_name_on_the_left() -> None:
    *_, axis, labels = (line.plain for line in Chart(60, 10, (0.79, 8.21), (-10.8, -7.9), "cfg").draw_lines())
    assert labels.split() == ["cfg", "2", "4", "6", "8"]
    for label in "2468":
        assert axis[labels.index(label)] == "┴"


def test_overlapping_bands_take_turns_in_the_cells() -> None:
    chart, styles = Chart(40, 12, (0.0, 1.0), (0.0, 1.0)), [Style(color="red"), Style(color="blue")]
    for index, style in enumerate(styles):
        chart.add_band([0.0, 1.0], [0.0, 0.0], [1.0, 1.0], style, (index, 2))
    spans = [span.style for line in chart.draw_lines()[: chart.plot_height] for span in line.spans]
    counts = [spans.count(style) for style in styles]
    assert abs(counts[0] - counts[1]) <= chart.plot_height
    assert min(counts) > 100


def test_chart_of_a_constant_is_drawn_at_its_tick_near_the_middle() -> None:
    chart = Chart(40, 13, (1.0, 0.0), find_value_range([[3.0, 3.0]]))
    chart.add_line([1.0, 0.0], [3.0, 3.0], Style())
    lines = [line.plain for line in chart.draw_lines()[: chart.plot_height]]
    assert [row for row, line in enumerate(lines) if line[chart.label_width + 2 :].strip()] == [6]
    assert lines[6].startswith("3 ┤")


def test_marked_point_lies_on_its_curve_with_a_line_through_the_chart() -> None:
    for y in np.linspace(0, 1, 41).tolist():
        chart = Chart(40, 9, (0.0, 10.0), (0.0, 1.0))
        chart.add_line([0.0, 10.0], [y, y], Style())
        unmarked = [line.plain for line in chart.draw_lines()[:7]]
        chart.mark_point(5.0, y, Style(color="red"))
        lines = [line.plain for line in chart.draw_lines()[:7]]
        column = lines[-1].rindex("│") if "│" in lines[-1][8:] else lines[0].rindex("│")
        dots = [ord(line[column]) - 0x2800 if "\u2800" <= line[column] <= "\u28ff" else 0 for line in lines]
        curve = [ord(line[column]) - 0x2800 if "\u2800" <= line[column] <= "\u28ff" else 0 for line in unmarked]
        assert sum(map(int.bit_count, dots)) == 6
        assert all(dot & line == line for dot, line in zip(dots, curve, strict=True)), "the mark covers the curve"
        assert all(line[column] == "│" for line, dot in zip(lines, dots, strict=True) if not dot)


@pytest.mark.parametrize(
    ("low", "high", "is_above_zero"),
    [
        (1.0, 1.0 + 1e-15, False),
        (1.0, 1.0, False),
        (0.992, 1.0, False),
        (0.98, 1.0, True),
        (0.51, 1.0, True),
        (0.5, 1.0, False),
        (-1.0, 1.0, False),
        (-2.0, -1.9, False),
        (1e-9, 1.5e-9, True),
    ],
)
def test_axis_of_a_video_curve_begins_above_zero_only_if_the_curve_varies(
    low: float, high: float, is_above_zero: bool
) -> None:
    assert choose_curve_range([high, low, NAN, high]) == (low if is_above_zero else min(0.0, low), high)


def test_forest_axis_is_symmetric_and_monotonic() -> None:
    axis = ForestAxis(61, 2.0)
    columns = [axis.find_column(change) for change in np.linspace(-3, 3, 301)]
    assert columns == sorted(columns)
    assert (columns[0], axis.find_column(0), columns[-1]) == (2, 30, 58), "labels are centred on their ticks"
    assert all(axis.find_column(x) - 30 == 30 - axis.find_column(-x) for x in (0.001, 0.03, 0.5, 1.9))
    labels = axis.draw_labels()
    assert len(labels) == 61
    assert labels[30] == "0"
    assert "+10 %" in labels
    assert labels.startswith("-200 %")
    assert labels.endswith("+200 %")


@pytest.mark.parametrize(("largest", "end"), [(0.001, 0.02), (0.15, 0.2), (0.2, 0.2), (3.0, 5.0), (70.0, 10.0)])
def test_ends_of_a_forest_axis_are_round_and_have_ticks(largest: float, end: float) -> None:
    axis = choose_axis([(largest / 2, -largest, largest / 3)], 61)
    assert axis.end == end
    labels = axis.draw_labels()
    assert labels.strip().startswith(f"-{100 * end:.0f} %")
    assert labels.strip().endswith(f"+{100 * end:.0f} %")


@pytest.mark.parametrize("width", [9, 25, 61])
def test_directions_name_the_group_with_larger_values_on_each_side_of_zero(width: int) -> None:
    layout = ForestLayout(6, ForestAxis(width, 1.0), 20)
    text = draw_directions("red", "blue", layout, lambda _: Style()).plain
    zero = 6 + 1 + width // 2
    assert "blue"[:2] in text[:zero]
    assert "red"[:1] in text[zero:]
    assert text.endswith(" →")
    assert len(text) == 6 + 1 + width


@pytest.mark.parametrize("width", [0, 4])
def test_directions_without_a_plot_explain_the_sign_of_effects(width: int) -> None:
    layout = ForestLayout(6, ForestAxis(width, 1.0), 0)
    assert draw_directions("red", "blue", layout, lambda _: Style()).plain == "+: more in red"


def test_rows_are_sorted_by_significance_then_the_primary_one_comes_first_then_larger_effects() -> None:
    items = [("a", 0.5, 0.01), ("b", 0.01, 0.1), ("c", 0.01, -0.3), ("d", NAN, 9.0), ("e", 0.01, NAN), ("f", 0.5, -0.2)]
    for primary, expected in (("", "cbedfa"), ("b", "bcedfa"), ("a", "cbeadf")):
        chosen = next((item for item in items if item[0] == primary), None)
        ordered = sort_by_effect(items, lambda item: item[1], lambda item: (item[2], NAN, NAN), primary=chosen)
        assert "".join(name for name, _, _ in ordered) == expected


def test_equal_p_of_consecutive_rows_is_printed_once() -> None:
    layout = choose_layout(["length"], [(0.1, 0.05, 0.2)], 100)
    p_values = (0.031, 0.031, 0.031, 0.5, 0.031)
    rows = [ForestRow(Text("length"), (0.1, 0.05, 0.2), "+10.0 %", "+5.0 %", "+20.0 %", p, Style()) for p in p_values]
    texts = [line.plain.split()[-1] for line in draw_forest_rows(rows, layout, lambda _: Style())]
    assert texts == ["0.031", "″", "″", "0.500", "0.031"]
    assert draw_forest_rows(rows[:2], layout, lambda _: Style())[1].plain.endswith("0.031")


def test_mean_curves_have_students_interval_over_seeds(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=5, phrasings=2)
    (curve,) = compute_mean_curves([Group("one", tuple(videos))], "velocity")
    by_seed = [
        np.mean([CURVES["velocity"](video.trajectory)[1] for video in videos if video.seed == seed], axis=0)  # type: ignore[arg-type]
        for seed in range(5)
    ]
    low, high = stats.t.interval(0.95, 4, np.mean(by_seed, axis=0), stats.sem(by_seed))
    assert curve.mean == pytest.approx(np.mean(by_seed, axis=0))
    assert curve.low == pytest.approx(low)
    assert curve.high == pytest.approx(high)
    assert (curve.seed_count, curve.excluded_count) == (5, 0)


def test_mean_curve_of_one_seed_has_no_interval(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=1, phrasings=1)
    (curve,) = compute_mean_curves([Group("one", tuple(videos))], "norm")
    assert np.isnan(curve.low).all()
    assert np.isfinite(curve.mean).all()


def test_videos_without_trajectory_are_counted_but_excluded_from_means(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=3, phrasings=1)
    broken = replace(videos[0], trajectory=None)
    (curve,) = compute_mean_curves([Group("one", (broken, *videos[1:])), Group("none", (broken,))], "norm")
    assert (curve.group_name, curve.seed_count, curve.excluded_count) == ("one", 2, 1)


@pytest.mark.slow
def test_path_components_equal_those_of_a_singular_value_decomposition(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 2.0}, seeds=3, phrasings=1)
    groups = [Group("one", tuple(videos[:3])), Group("other", tuple(videos[3:]))]
    components = compute_path_components(groups)
    states = np.concatenate([video.load_projected_path()[1] for video in videos]).astype(np.float64)
    left, singular_values, _ = np.linalg.svd(states - states.mean(0), full_matrices=False)
    expected = left[:, :2] * singular_values[:2] / np.sqrt(videos[0].dimension)
    found = np.concatenate([path.states for path in components.paths])
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-4)
    assert components.variance_shares == pytest.approx((singular_values**2 / (singular_values**2).sum())[:2], rel=1e-4)
    ends = np.mean([path.states[-1] - path.states[0] for path in components.paths], axis=0)
    assert (ends >= 0).all()
    assert [path.group_name for path in components.paths] == ["one"] * 3 + ["other"] * 3


def test_unreadable_paths_are_excluded_from_the_components(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=3, phrasings=1)
    damaged = replace(videos[0], trajectory_path=tmp_path / "missing.zarr")
    components = compute_path_components([Group("one", (damaged, *videos[1:]))])
    ((name, _),) = components.exclusion_reasons
    assert name == "one_0 seed 0"
    assert len(components.paths) == 2
    with pytest.raises(NoComponentsError, match="fewer than two paths can be read, for example one_0 seed 0"):
        compute_path_components([Group("one", (damaged, videos[1]))])


def make_film(frames: tuple[NDArray[np.uint8], ...]) -> AttentionFilm:
    """Make a film of two words and three steps; at the last step, no block computed attention."""
    words = [
        WordAttention(name, name, ("\u2581" + name,), (0.1, 0.3, NAN), (0.5, 0.7, NAN), 0.2, 0.6, np.ones((1, 2, 2)))
        for name in ("circle", "red")
    ]
    return AttentionFilm(tuple(words), (1.0, 0.5, 0.1), (0, 5, 9), frames, 0.4, ((0, 0, 0),), cast("Any", None), "red")


@pytest.mark.parametrize("size", [(40, 8), (76, 18), (136, 34)])
def test_attention_view_fits_its_pane(size: tuple[int, int]) -> None:
    frame = np.zeros((90, 160, 3), dtype=np.uint8)
    lines = draw_attention(make_film((frame, frame)), OverlayKey(1, 0, 1), frame, *size, lambda _: Style())
    text = "\n".join(line.plain for line in lines)
    assert len(lines) <= size[1]
    assert max(line.cell_len for line in lines) <= size[0]
    assert "10.00 % of the attention" in text
    assert "word 2 of 2" in text
    assert "step 0  σ 1.000" in text
    if size[0] > 100:
        assert re.search(r"attention by step \(0 to \d+\): [\d.]+ to [\d.]+ %", text)


@pytest.mark.parametrize("step", [MEAN_STEP, 0, 1])
def test_knob_of_the_steps_is_above_the_bar_of_the_chosen_step(step: int) -> None:
    accent, film = Style(color="blue"), make_film(())
    lines = draw_attention(
        film, OverlayKey(0, step, 0), None, 30, 24, lambda name: accent if name == "accent" else Style()
    )
    (row,) = [row for row, line in enumerate(lines) if "attention by step" in line.plain]
    slider, bars = lines[row - 2], lines[row - 1]
    if step == MEAN_STEP:
        assert slider.plain == f"●{'─' * (slider.cell_len - 2)}●"
        return
    (first, end) = next((span.start, span.end) for span in bars.spans if span.style == accent + Style(dim=False))
    assert (first, end) == (step * 10, step * 10 + 10)
    assert slider.plain.index("●") == first + 5


@pytest.mark.parametrize(("width", "picture_width"), [(136, (136 - 44 - 4) // 2), (60, 60 - 28 - 2)])
@pytest.mark.parametrize("shape", [(128, 128), (90, 160), (160, 90)])
def test_attention_view_has_no_empty_rows_in_its_measured_height(
    shape: tuple[int, int], width: int, picture_width: int
) -> None:
    frame = np.full((*shape, 3), 200, dtype=np.uint8)
    film, key = make_film((frame,)), OverlayKey(1, 0, 0)
    height = measure_attention_height(film, width, lambda _: Style())
    lines = draw_attention(film, key, frame, width, height, lambda _: Style())
    higher = draw_attention(film, key, frame, width, height + 4, lambda _: Style())
    assert len(lines) == height
    assert "of a position's attention" in "".join(line.plain for line in lines)
    for each in (lines, higher):
        picture_lines = [line for line in each if any(block in line.plain[:picture_width] for block in "█▀▄")]
        assert len(picture_lines) == measure_height(frame, picture_width), "more lines do not enlarge the pictures"


@pytest.mark.parametrize("width", [84, 100, 125, 126, 136])
def test_figures_of_attention_are_explained_in_whole_words(width: int) -> None:
    frame = np.zeros((90, 160, 3), dtype=np.uint8)
    lines = draw_attention(make_film((frame,)), OverlayKey(1, 0, 0), frame, width, 40, lambda _: Style())
    assert max(line.cell_len for line in lines) <= width
    text = " ".join(re.sub("[▀▄█]", " ", "\n".join(line.plain for line in lines)).split())
    assert MASS_NOTE in text
    assert EVENNESS_NOTE in text


@pytest.mark.parametrize(
    ("size", "has_frame"), [((76, 13), True), ((136, 27), True), ((64, 13), False), ((76, 8), True), ((76, 7), False)]
)
def test_frame_is_next_to_its_attention_if_both_fit(size: tuple[int, int], has_frame: bool) -> None:
    frame, overlay = np.full((40, 40, 3), 200, dtype=np.uint8), np.full((40, 40, 3), 90, dtype=np.uint8)
    lines = draw_attention(make_film((frame,)), OverlayKey(0, 0, 0), overlay, *size, lambda _: Style())
    colours = [
        span.style.color.name
        for line in lines
        for span in line.spans
        if isinstance(span.style, Style) and span.style.color
    ]
    widths = {name: colours.count(name) for name in ("#c8c8c8", "#5a5a5a")}
    assert widths["#5a5a5a"] > 0
    assert (widths["#c8c8c8"] == widths["#5a5a5a"]) == has_frame
    assert any("frame" in line.plain and "attention" in line.plain for line in lines) == has_frame


def test_attention_view_without_pictures_shows_the_figures() -> None:
    lines = draw_attention(make_film(()), OverlayKey(0, MEAN_STEP, 0), None, 76, 18, lambda _: Style())
    text = "\n".join(line.plain for line in lines)
    assert "mean of 3 steps" in text
    assert "20.00 % of the attention" in text
    assert "--low-bandwidth turns pictures off" in text


def test_attention_view_explains_a_step_without_attention() -> None:
    lines = draw_attention(make_film(()), OverlayKey(0, 2, 0), None, 76, 18, lambda _: Style())
    text = "\n".join(line.plain for line in lines)
    assert "no block computed" in text
    assert "nan" not in text


def test_strip_marks_a_part_of_the_horizontal_axis() -> None:
    chart = Chart(43, 12, (1.0, 0.0), (0.0, 1.0), min_label_width=2)
    chart.add_strip("●▲", [(1.0, 0.5)], Style())
    lines = [line.plain for line in chart.draw_lines()]
    (strip,) = [line for line in lines if line.lstrip().startswith("●▲")]
    assert lines.index(strip) == chart.plot_height
    bar = strip.partition("│")[2]
    assert bar.rstrip() == "━" * bar.count("━")
    assert abs(bar.count("━") - chart.plot_width / 2) <= 1


def make_moved_groups(folder: Path, count: int) -> MatchedGroups:
    """Return groups of which the first has twice the velocity of the others at low noise levels."""
    names = "abc"[:count]
    videos = synthetic_videos(folder, dict.fromkeys(names, 1.0), seeds=8, phrasings=1)
    matched = MatchedGroups.match_groups(videos, "1", VideoNamer(videos))
    fast = []
    for video in matched.groups[0].videos:
        assert video.trajectory is not None
        states = np.linalg.cholesky(video.trajectory.gram + 1e-9 * np.eye(len(video.trajectory.gram)))
        states[5:] += states[5:] - states[4]
        fast.append(replace(video, trajectory=build_trajectory(states @ states.T, video.trajectory.sigmas, 60)))
    return replace(matched, groups=(replace(matched.groups[0], videos=tuple(fast)), *matched.groups[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_mean_curves_show_where_groups_differ_most_clearly(tmp_path: Path, count: int) -> None:
    matched = make_moved_groups(tmp_path, count)
    (comparison,) = compare_curves(matched, ["velocity"])
    curves = compute_mean_curves(matched.groups, "velocity")
    lines = draw_mean_curves("velocity", curves, "a", Canvas(78, 20, lambda _: Style()), {}, comparison)
    assert len(lines) == 20
    assert max(line.cell_len for line in lines) <= 78
    text = "\n".join(line.plain for line in lines)
    assert "●▲│" in text.replace(" ", "")
    assert f"cluster test over all curves{' and pairs' * (count == 3)}: ●▲ p" in text
    assert "▲■ p" not in text  # the groups that do not differ


@pytest.mark.slow
def test_mean_curves_start_with_the_settled_curve_that_differs_most_clearly(tmp_path: Path) -> None:
    matched = make_moved_groups(tmp_path, 2)
    comparisons = compare_curves(matched)

    def find_p(comparison: CurveComparison) -> float:
        return min((cluster.family_p for d in comparison.differences for cluster in d.clusters), default=1.0)

    clearest = choose_clearest_curve(comparisons)
    assert find_p(clearest) == min(map(find_p, comparisons)) < 1
    unsettled = [replace(each, is_settled=each is not clearest) for each in comparisons]
    assert choose_clearest_curve(unsettled).curve_name != clearest.curve_name
    videos = [video for group in matched.groups for video in group.videos]
    figure = compute_figure(videos, FigureKey("means", "1")).figure
    assert isinstance(figure, GroupCurves)
    assert figure.curve_name == clearest.curve_name
    assert figure.comparison is not None
    assert figure.comparison.curve_name == clearest.curve_name
    chosen = compute_figure(videos, FigureKey("means", "1", "norm")).figure
    assert isinstance(chosen, GroupCurves)
    assert chosen.curve_name == "norm"


@pytest.mark.parametrize("view", ["means", "paths"])
def test_groups_keep_their_colours_if_one_has_no_readable_trajectory(tmp_path: Path, view: str) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.0, "c": 1.0}, seeds=3, phrasings=1)
    videos = [replace(video, trajectory=None) if video.variation == "a_0" else video for video in videos]
    figure = compute_figure(videos, FigureKey(view, "1", "norm")).figure
    assert isinstance(figure, GroupPaths if view == "paths" else GroupCurves)
    assert figure.group_names == ["a", "b", "c"]
    colours_by_name = assign_series_colours(figure.group_names)  # as the table does
    canvas = Canvas(78, 20, lambda name: Style(meta={"name": name}))
    if isinstance(figure, GroupPaths):
        legend = draw_paths(figure.components, "", canvas, colours_by_name)[0]
    else:
        legend = draw_mean_curves("norm", figure.mean_curves, "", canvas, colours_by_name)[0]
    names = [span.style.meta["name"] for span in legend.spans if isinstance(span.style, Style) and span.style.meta]
    assert legend.plain.startswith("● b")
    assert names == ["series-teal", "series-pink"]


def test_mean_curves_without_a_difference_say_so(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.0}, seeds=4, phrasings=1)
    matched = MatchedGroups.match_groups(videos, "1", VideoNamer(videos))
    (comparison,) = compare_curves(matched, ["norm"])
    curves = compute_mean_curves(matched.groups, "norm")
    lines = draw_mean_curves("norm", curves, "a", Canvas(78, 20, lambda _: Style()), {}, comparison)
    assert "no pair of curves differs at p 0.05" in "\n".join(line.plain for line in lines)


def test_forest_plot_prints_intervals_unless_it_is_very_narrow() -> None:
    changes = [(0.1, -0.05, 0.2), (NAN, NAN, NAN)]
    tiny, narrow, wide = (choose_layout(["length", "log_volume"], changes, width) for width in (48, 74, 130))
    assert "95 % interval" not in draw_forest_header(tiny).plain
    assert tiny.axis.width >= 13
    assert "95 % interval" in draw_forest_header(narrow).plain
    assert narrow.format_interval("-5.0 %", "+20.0 %") == "   -5.0 to  +20.0"
    assert wide.format_interval("-5.0 %", "+20.0 %") == "  -5.0 % to  +20.0 %"
    for layout, width in ((tiny, 48), (narrow, 74), (wide, 130)):
        assert draw_forest_header(layout).cell_len <= width
        line = draw_interval(changes[0], True, layout.axis, Style()).plain
        assert line.index("●") == layout.axis.find_column(0.1)
        assert line.index("├") == layout.axis.find_column(-0.05)
        assert line.index("┤") == layout.axis.find_column(0.2)
