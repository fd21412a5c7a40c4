"""Charts of a trajectory's metrics against the noise level: axes with ticks, and two curves in braille."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from wantui.tui.braille import BrailleCanvas
from wantui.tui.chart import is_axis_above_zero, join_columns
from wantui.tui.number_formats import MISSING_TEXT

NICE_FACTORS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Leading digits of an axis's upper end."""
RATIO_LOWS = (0.95, 0.9, 0.8, 0.5, 0.0)
"""Lower ends of the axis for a ratio of at most 1."""
Y_LABEL_WIDTH = 5
"""Width of the vertical axis labels, in characters."""
MIN_CHART_WIDTH = 17
"""Minimum width of a chart, in characters."""
MIN_CHART_HEIGHT = 3
"""Minimum height of a chart in lines, without its horizontal axis: a title and two lines of dots."""
MIN_HEIGHT_BY_PART_COUNT = {2: 3, 4: 9}
"""Number of parts into which ticks divide the vertical axis -> minimum height of a chart's dots, in lines."""
MIN_WIDTH_WITH_QUARTERS = 26
"""Minimum width of a chart's dots, in characters, for ticks at the quarters of the horizontal axis."""
MIN_HEIGHT_WITH_LABELS = 5
"""Minimum height of a chart, in lines, if the axis of an upper chart row has labels too."""
AXIS_HEIGHT = 2
"""Height of the horizontal axis and its labels, in lines."""


@dataclass(frozen=True)
class MetricChartStyle:
    """Appearance of one trajectory metric."""

    name: str
    title: str
    unit: str
    meaning: str
    """The metric in words, with its unit; shown instead of the unit where it fits."""
    is_ratio: bool = False
    """True if the values are at most 1, and usually close to it."""


LIVE_METRICS = (
    MetricChartStyle("norm", "norm", "RMS", "size of latents, RMS"),
    MetricChartStyle("velocity", "velocity", "per σ", "change per σ"),
    MetricChartStyle("turning", "turning", "rad", "bend per step, rad"),
    MetricChartStyle("straightness", "straightness", "ratio", "1 is straight", is_ratio=True),
)
"""Metrics in the order of their charts."""


@dataclass(frozen=True)
class Curve:
    """Values of a metric by noise level; None leaves a gap."""

    sigmas: Sequence[float | None]
    values: Sequence[float | None]

    def list_points(self) -> list[tuple[float, float] | None]:
        """Return (noise level, value) of each step; None for a gap."""
        return [
            (sigma, value)
            if sigma is not None and value is not None and math.isfinite(sigma) and math.isfinite(value)
            else None
            for sigma, value in zip(self.sigmas, self.values, strict=False)
        ]


EMPTY_CURVE = Curve((), ())


@dataclass(frozen=True)
class ChartStyles:
    """Styles of a chart."""

    current: Style
    previous: Style
    axis: Style


def choose_value_range(metric: MetricChartStyle, values: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of the vertical axis: round numbers around the values, 0 to 1 without values."""
    finite_values = [value for value in values if value is not None and math.isfinite(value)]
    if not finite_values:
        return 0.0, 1.0
    if metric.is_ratio:
        return next((low for low in RATIO_LOWS if low <= min(finite_values)), 0.0), 1.0
    high = round_up(max(finite_values))
    low = round_down(min(finite_values)) if is_axis_above_zero(min(finite_values), max(finite_values)) else 0.0
    return (low, high) if low < high else (0.0, high)


def round_down(value: float) -> float:
    """Return the largest number of one digit that is not above a positive value."""
    magnitude = 10.0 ** math.floor(math.log10(value))
    return math.floor(value / magnitude + 1e-9) * magnitude


def round_up(value: float) -> float:
    """Return the next number of at most two digits that is not below a value; 1 for 0 and less."""
    if value <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next((factor * magnitude for factor in NICE_FACTORS if factor * magnitude >= value * (1 - 1e-9)), value)


def format_tick(value: float) -> str:
    """Return the label of a tick in at most `Y_LABEL_WIDTH` characters: "0", "0.25", "1.5", "2e+04"."""
    text = f"{value:.3g}"
    return text if len(text) <= Y_LABEL_WIDTH else f"{value:.0e}"


def draw_chart(
    metric: MetricChartStyle,
    current: Curve,
    previous: Curve,
    width: int,
    height: int,
    styles: ChartStyles,
    last_sigma: float = 0.0,
) -> list[Text]:
    """Draw a chart of `height` lines of `width` characters, without the horizontal axis of `draw_sigma_axis`.

    Args:
        previous: curve of another video, drawn behind the current one.
        last_sigma: noise level at the right end.
    """
    low, high = choose_value_range(metric, [*current.values, *previous.values])
    plot_width, plot_height = max(1, width - Y_LABEL_WIDTH - 1), max(1, height - 1)
    part_count = next((count for count in (4, 2) if plot_height >= MIN_HEIGHT_BY_PART_COUNT[count]), 1)
    if part_count == 4 and not _are_ticks_round(low, high, part_count):
        part_count = 2
    if plot_height > MIN_HEIGHT_BY_PART_COUNT[2] + 1:  # a lower chart needs all of its rows
        plot_height -= (plot_height - 1) % part_count  # so that a row is at each tick
    latest_value = next((value for value in reversed(current.values) if value is not None), None)
    lines = [_draw_title(metric, latest_value, width, styles)]
    canvas = BrailleCanvas(plot_width, plot_height)
    add_curve(canvas, previous, low, high, styles.previous, last_sigma)
    add_curve(canvas, current, low, high, styles.current, last_sigma)
    labels_by_row = {0: format_tick(high), plot_height - 1: format_tick(low)}
    if (plot_height - 1) % part_count == 0 and _are_ticks_round(low, high, part_count):
        for part in range(1, part_count):
            labels_by_row[part * (plot_height - 1) // part_count] = format_tick(high + (low - high) * part / part_count)
    for row in range(plot_height):
        label = labels_by_row.get(row)
        line = Text(no_wrap=True)
        line.append(f"{label or '':>{Y_LABEL_WIDTH}}{'┤' if label is not None else '│'}", styles.axis)
        line.append_text(canvas.draw_row(row))
        lines.append(line)
    return [*lines, *[Text(f"{'│':>{Y_LABEL_WIDTH + 1}}", styles.axis)] * (height - len(lines))]


def _are_ticks_round(low: float, high: float, part_count: int) -> bool:
    """Return whether the ticks that divide an axis into equal parts have at most two digits."""
    values = [high + (low - high) * part / part_count for part in range(1, part_count)]
    return all(math.isclose(value, float(f"{value:.2g}")) for value in values)


def _draw_title(metric: MetricChartStyle, latest_value: float | None, width: int, styles: ChartStyles) -> Text:
    """Return name, meaning and latest value of a metric.

    A small width has the unit instead of the meaning, or neither, and fewer decimals.
    """
    texts = (
        [MISSING_TEXT] * 4 if latest_value is None else [f"{latest_value:.{decimals}f}" for decimals in (3, 3, 3, 2)]
    )
    units = (f" {metric.meaning}", f" {metric.unit}", "", "")
    unit, value_text = next(
        (
            (unit, text)
            for unit, text in zip(units, texts, strict=True)
            if len(metric.title) + len(unit) + 1 + len(text) <= width
        ),
        ("", ""),
    )
    title = Text.assemble((metric.title, Style(bold=True)), (unit, styles.axis), no_wrap=True)
    return title.append(value_text.rjust(max(0, width - title.cell_len)), styles.current)


def draw_sigma_axis(width: int, style: Style, last_sigma: float = 0.0) -> list[Text]:
    """Draw the horizontal axis of charts `width` characters wide, with noise levels at its quarters."""
    plot_width = max(1, width - Y_LABEL_WIDTH - 1)
    part_count = 4 if plot_width >= MIN_WIDTH_WITH_QUARTERS else 2
    columns = [part * (plot_width - 1) // part_count for part in range(part_count + 1)]
    axis = ["─"] * plot_width
    labels = [" "] * plot_width
    for part in (0, part_count, *range(1, part_count)):  # the ends first
        axis[columns[part]] = "┬"
        text = "σ 1" if part == 0 else f"{1 + (last_sigma - 1) * part / part_count:.2g}"
        start = min(max(0, columns[part] - len(text) // 2), plot_width - len(text))
        is_free = all(label == " " for label in labels[max(0, start - 1) : start + len(text) + 1])
        if start >= 0 and is_free:
            labels[start : start + len(text)] = text
    margin = " " * Y_LABEL_WIDTH
    return [Text(f"{margin}└{''.join(axis)}", style), Text(f"{margin} {''.join(labels)}", style)]


def add_curve(
    canvas: BrailleCanvas, curve: Curve, low: float, high: float, style: Style, last_sigma: float = 0.0
) -> None:
    """Draw a curve by noise level, from 1 to `last_sigma`; points outside of the range are moved to its edge.

    `high` is at the centre of the first row of characters and `low` at the centre of the last row, as their ticks are.
    """
    top_dot, bottom_dot = 1, canvas.dot_rows - 2  # of the four dots of a character, the second and the third
    previous_dot: tuple[float, float] | None = None
    for point in curve.list_points():
        if point is None:
            previous_dot = None
            continue
        sigma, value = point
        x = round((1 - min(1.0, max(last_sigma, sigma))) / (1 - last_sigma) * (canvas.dot_columns - 1))
        share = min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))
        dot = x, round(top_dot + (1 - share) * (bottom_dot - top_dot))
        canvas.add_line(previous_dot or dot, dot, style)
        previous_dot = dot


def draw_charts(
    current_by_metric: Mapping[str, Curve],
    previous_by_metric: Mapping[str, Curve],
    width: int,
    height: int,
    styles: ChartStyles,
    last_sigma: float = 0.0,
) -> list[Text]:
    """Draw as many charts as fit into `height` lines of `width` characters, in columns above a horizontal axis.

    Each row of charts has this axis where the height allows it; the last one always does.

    Args:
        last_sigma: noise level at the right end, in 0 to 1 without 1.
    """
    column_count = 2 if width >= 2 * MIN_CHART_WIDTH + 2 else 1
    row_count = max(1, min(-(-len(LIVE_METRICS) // column_count), (height - AXIS_HEIGHT) // MIN_CHART_HEIGHT))
    row_height = (height - row_count * AXIS_HEIGHT) // row_count
    upper_axis_height = (
        AXIS_HEIGHT if row_height >= MIN_HEIGHT_WITH_LABELS else 1 if row_height >= MIN_CHART_HEIGHT else 0
    )
    plots_height = height - AXIS_HEIGHT - (row_count - 1) * upper_axis_height
    chart_width = (width - 2 * (column_count - 1)) // column_count
    axis = draw_sigma_axis(chart_width, styles.axis, last_sigma)
    lines: list[Text] = []
    for row in range(row_count):
        row_height = plots_height // row_count + (row < plots_height % row_count)
        row_charts = [
            draw_chart(
                metric,
                current_by_metric.get(metric.name, EMPTY_CURVE),
                previous_by_metric.get(metric.name, EMPTY_CURVE),
                chart_width,
                row_height,
                styles,
                last_sigma,
            )
            for metric in LIVE_METRICS[row * column_count : (row + 1) * column_count]
        ]
        axis_height = AXIS_HEIGHT if row == row_count - 1 else upper_axis_height
        lines += _join_charts(row_charts, chart_width) + _join_charts([axis[:axis_height]] * column_count, chart_width)
    return lines[: max(0, height)]


def _join_charts(charts: Sequence[Sequence[Text]], chart_width: int) -> list[Text]:
    lines = list(charts[0])
    for number, chart in enumerate(charts[1:], 1):
        lines = join_columns(lines, chart, number * (chart_width + 2))
    return lines
