"""Charts of trajectories: where points are drawn, and the numbers on the axes."""

from itertools import pairwise

import pytest
from rich.style import Style

from wantui.batches.progress import VideoProgress
from wantui.tui.braille import BrailleCanvas
from wantui.tui.monitor.charts import (
    LIVE_METRICS,
    ChartStyles,
    Curve,
    MetricChartStyle,
    add_curve,
    choose_value_range,
    draw_chart,
    draw_charts,
    draw_sigma_axis,
    format_tick,
    round_down,
    round_up,
)
from wantui.tui.widgets.curve_pane import find_last_sigma

STYLES = ChartStyles(Style(color="red"), Style(dim=True), Style())
NORM, STRAIGHTNESS = LIVE_METRICS[0], LIVE_METRICS[3]
EMPTY = Curve((), ())


@pytest.mark.parametrize(("value", "high"), [(0.79, 0.8), (1.0, 1.0), (1.01, 1.2), (0.0231, 0.025), (97, 100), (0, 1)])
def test_upper_end_of_an_axis_is_a_round_number(value: float, high: float) -> None:
    assert round_up(value) == pytest.approx(high)


@pytest.mark.parametrize(("value", "low"), [(0.79, 0.7), (1.0, 1.0), (0.0231, 0.02), (97, 90)])
def test_lower_end_of_an_axis_is_a_round_number(value: float, low: float) -> None:
    assert round_down(value) == pytest.approx(low)


@pytest.mark.parametrize(
    ("metric", "values", "limits"),
    [
        (NORM, [], (0, 1)),
        (NORM, [None, float("nan"), float("inf")], (0, 1)),
        (NORM, [1.0], (0, 1)),
        (NORM, [0.79, 1.01], (0.7, 1.2)),
        (NORM, [0.1, 1.01], (0, 1.2)),
        (NORM, [0.0], (0, 1)),
        (STRAIGHTNESS, [1.0, 0.93], (0.9, 1)),
        (STRAIGHTNESS, [1.0, 0.2], (0, 1)),
    ],
)
def test_axis_contains_all_finite_values(
    metric: MetricChartStyle, values: list[float | None], limits: tuple[float, float]
) -> None:
    assert choose_value_range(metric, values) == pytest.approx(limits)


def test_axis_only_widens_while_values_are_added() -> None:
    values = [1.0 - 0.3 * (step / 50) ** 2 + 0.5 * (step > 40) for step in range(2, 50)]
    ranges = [choose_value_range(NORM, values[:count]) for count in range(2, len(values))]
    assert all(later[0] <= earlier[0] and later[1] >= earlier[1] for earlier, later in pairwise(ranges))


@pytest.mark.parametrize("value", [0, 1, 0.25, 1.5, 123456, 0.000123, 1e30, 0.95])
def test_ticks_fit_beside_the_axis(value: float) -> None:
    assert len(format_tick(value)) <= 5
    assert float(format_tick(value)) == pytest.approx(value, rel=0.3)


def draw_curve_rows(curve: Curve, width: int, height: int) -> list[str]:
    """Draw a curve between 0 and 1 on a canvas; return its rows."""
    canvas = BrailleCanvas(width, height)
    add_curve(canvas, curve, 0.0, 1.0, Style())
    return [canvas.draw_row(row).plain for row in range(height)]


def test_curve_runs_from_noise_on_the_left_to_the_video_on_the_right() -> None:
    upper, lower = draw_curve_rows(Curve([1.0, 0.0], [1.0, 0.0]), 10, 2)
    assert ord(upper[0]) & 0x02
    assert ord(lower[9]) & 0x20
    assert lower[0] == upper[9] == " "


@pytest.mark.parametrize("height", [2, 3, 5, 9])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_value_of_a_tick_is_drawn_at_the_centre_of_its_row(height: int, share: float) -> None:
    rows = draw_curve_rows(Curve([1.0, 0.0], [share, share]), 10, height)
    centre = (1 - share) * (height - 1)
    for row, text in enumerate(rows):
        for dot_row, bits in enumerate((0x09, 0x12, 0x24, 0xC0)):
            if any(ord(character) & bits for character in text if character != " "):
                assert abs(row + (dot_row - 1.5) / 4 - centre) <= 0.13, "within half a dot"


def test_gaps_and_values_off_the_axis_do_not_break_a_curve() -> None:
    curve = Curve([1.0, None, 0.5, 0.0, 0.2], [0.5, 0.5, float("nan"), 9.0, None])
    (row,) = draw_curve_rows(curve, 10, 1)
    assert [column for column in range(10) if row[column] != " "] == [0, 9]
    assert draw_curve_rows(EMPTY, 3, 2) == ["   ", "   "]


def test_current_curve_is_drawn_over_the_previous_one() -> None:
    canvas, front, behind = BrailleCanvas(4, 1), Style(color="red"), Style(dim=True)
    add_curve(canvas, Curve([1.0, 0.0], [0.5, 0.5]), 0.0, 1.0, behind)
    add_curve(canvas, Curve([1.0, 0.5], [0.5, 0.5]), 0.0, 1.0, front)
    assert [canvas.get_character(column, 0)[1] for column in range(4)] == [front, front, front, behind]


def test_curves_in_the_same_characters_keep_their_styles() -> None:
    canvas, front, behind = BrailleCanvas(6, 1), Style(color="red"), Style(dim=True)
    canvas.add_line((0, 0), (11, 0), behind)
    canvas.add_line((0, 2), (11, 2), front)
    assert [canvas.get_character(column, 0) for column in range(6)] == [("⠤", front), ("⠉", behind)] * 3
    canvas.add_dot(0, 1, behind)
    assert canvas.get_character(0, 0) == ("⠋", behind), "the style of most dots"


def test_charts_show_all_metrics_with_ticks_and_one_noise_axis() -> None:
    sigmas = [1 - step / 10 for step in range(10)]
    curves = {metric.name: Curve(sigmas, [1 - step / 20 for step in range(10)]) for metric in LIVE_METRICS}
    for width, height in ((36, 14), (64, 24)):
        lines = draw_charts(curves, {}, width, height, STYLES)
        text = "\n".join(line.plain for line in lines)
        assert len(lines) == height
        assert max(line.cell_len for line in lines) <= width
        for metric in LIVE_METRICS:
            assert width == 36 or any(f"{metric.title} {unit}" in text for unit in (metric.meaning, metric.unit))
        assert width == 36 or "norm size of latents, RMS" in text
        assert all(f"{metric.title} " in text for metric in LIVE_METRICS)
        assert text.count("0.55") >= len(LIVE_METRICS)  # the latest value of each metric
        assert text.count("┤") >= 2 * len(LIVE_METRICS)
        assert lines[-1].plain.split()[:4] == ["σ", "1", "0.5", "0"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([0.79, 1.33], ["1.5", "1.3", "1.1", "0.9", "0.7"]), ([0.0, 5.0], ["5", "2.5", "0"])],
)
def test_high_chart_has_ticks_at_round_quarters(values: list[float], ticks: list[str]) -> None:
    metric = LIVE_METRICS[0] if values[0] else LIVE_METRICS[1]
    lines = draw_chart(metric, Curve([1.0, 0.5], values), Curve((), ()), 40, 12, STYLES)
    assert [line.plain.split("┤")[0].strip() for line in lines if "┤" in line.plain] == ticks


@pytest.mark.parametrize(("values", "ticks"), [([0.81, 1.41], ["1.5", "0.8"]), ([0.3, 1.0], ["1", "0.5", "0"])])
def test_middle_tick_of_an_axis_is_left_out_unless_it_is_round(values: list[float], ticks: list[str]) -> None:
    lines = draw_charts({"norm": Curve([1.0, 0.5], values)}, {}, 30, 9, STYLES)
    assert [line.plain.split("┤")[0].strip() for line in lines if "┤" in line.plain][: len(ticks)] == ticks


def test_current_curve_is_drawn_over_the_earlier_one() -> None:
    current, earlier = Curve([1.0, 0.6], [1.0, 1.0]), Curve([1.0, 0.0], [1.0, 1.0])
    line = draw_charts({"norm": current}, {"norm": earlier}, 30, 5, STYLES)[1]
    colours = {span.style for span in line.spans if span.end - span.start == 1}
    first, last = line.spans[1], line.spans[-1]
    assert colours == {STYLES.current, STYLES.previous}
    assert (first.style, last.style) == (STYLES.current, STYLES.previous)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (6, 3), (20, 0), (300, 4)])
def test_tiny_panes_get_charts_that_fit_in_height(width: int, height: int) -> None:
    assert len(draw_charts({}, {}, width, height, STYLES)) <= height
    assert len(draw_sigma_axis(width, Style())) == 2


def test_axis_ends_at_the_last_noise_level() -> None:
    canvas = BrailleCanvas(10, 1)
    add_curve(canvas, Curve([1.0, 0.3], [0.5, 0.5]), 0.0, 1.0, Style(), last_sigma=0.3)
    assert " " not in canvas.draw_row(0).plain
    assert draw_sigma_axis(40, Style(), last_sigma=0.3)[1].plain.split() == ["σ", "1", "0.82", "0.65", "0.48", "0.3"]
    assert draw_sigma_axis(30, Style(), last_sigma=0.3)[1].plain.split() == ["σ", "1", "0.65", "0.3"]


def test_last_noise_level_is_known_once_a_video_has_all_steps() -> None:
    ended = VideoProgress(1, 1, "a", step_number=3, step_count=3, sigmas=[1.0, 0.7, 0.3])
    running = VideoProgress(2, 1, "b", step_number=1, step_count=3, sigmas=[1.0])
    assert find_last_sigma([running]) == 0.0
    assert find_last_sigma([running, ended]) == 0.3
    assert find_last_sigma([]) == 0.0
