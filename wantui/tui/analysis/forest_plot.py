"""Forest plot of a comparison: effect, 95 % interval and p of every metric, by pair of groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.formatting import format_interval, format_percent_change

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison
    from wantui.analysis.differences import Difference

MAX_PLOT_WIDTH = 81
"""Maximum width of the plot in cells; odd, so that zero is at the centre of a cell."""
LINEAR_RANGE = 0.01
"""Relative difference up to which the axis is nearly linear; beyond it, the axis is logarithmic."""
MIN_AXIS_END = 0.02
"""Smallest relative difference at an end of the axis."""
MAX_AXIS_END = 10.0
"""Largest relative difference at an end of the axis; larger ones end in an arrow."""
TICK_CHANGES = (0.01, 0.1, 1.0, 10.0)
"""Relative differences with a tick, on both sides of zero."""
EFFECT_WIDTH, INTERVAL_WIDTH, P_WIDTH = 10, 20, 7
SIGNIFICANT_SIGN, OTHER_SIGN, NULL_SIGN, UNGUIDED_SIGN = "●", "○", "◇", "□"
LEGEND = f"{SIGNIFICANT_SIGN} p up to 0.05   {OTHER_SIGN} p above 0.05   ├─┤ 95 % interval   {NULL_SIGN} Gaussian flow"
"""Explanation of the signs."""

StyleGetter = Callable[[str], Style]
"""Function that returns the style of a theme colour."""


@dataclass(frozen=True)
class ForestAxis:
    """Symmetric axis of relative differences: nearly linear around zero, logarithmic beyond."""

    width: int
    end: float
    """Relative difference at the right end."""

    def find_column(self, relative_change: float) -> int:
        """Return the column of a relative difference; differences beyond the ends are at the ends."""
        half = self.width // 2
        position = math.asinh(relative_change / LINEAR_RANGE) / math.asinh(self.end / LINEAR_RANGE)
        return half + round(max(-1.0, min(1.0, position)) * half)

    def draw_labels(self) -> str:
        """Return the line of tick labels in percent."""
        labels = [" "] * self.width
        ticks = [0.0, *(sign * change for change in TICK_CHANGES for sign in (-1, 1) if change <= self.end)]
        for tick in ticks:
            label = format_percent_change(tick, 0) if tick else "0"
            first = max(0, min(self.width - len(label), self.find_column(tick) - len(label) // 2))
            if all(cell == " " for cell in labels[max(0, first - 1) : first + len(label) + 1]):
                labels[first : first + len(label)] = label
        return "".join(labels)


def choose_axis(differences: Sequence["Difference"], width: int) -> ForestAxis:
    """Return an axis on which the intervals of these differences fit, up to `MAX_AXIS_END`."""
    ends = [
        abs(end)
        for difference in differences
        for end in (difference.relative_low, difference.relative_high, difference.relative_difference)
        if math.isfinite(end)
    ]
    return ForestAxis(width, min(MAX_AXIS_END, max([MIN_AXIS_END, *ends])))


def find_forest_widths(metric_names: Sequence[str], width: int) -> tuple[int, int]:
    """Return the widths of the metric names and of the plot in cells; the plot has none in a narrow pane."""
    name_width = max(map(len, metric_names), default=0)
    free_width = width - name_width - EFFECT_WIDTH - INTERVAL_WIDTH - P_WIDTH - 4
    plot_width = min(MAX_PLOT_WIDTH, free_width)
    return name_width, 0 if plot_width < 9 else plot_width - 1 + plot_width % 2


def draw_forest_header(metric_names: Sequence[str], axis: ForestAxis, name_width: int) -> Text:
    """Return the line of column headers; the plot's header is its axis."""
    return _join_columns("metric".ljust(name_width), axis.draw_labels(), "effect", "95 % interval", "p", axis.width)


def draw_forest_rows(
    comparison: "Comparison",
    first_group: str,
    second_group: str,
    axis: ForestAxis,
    name_width: int,
    get_style: StyleGetter,
) -> list[Text]:
    """Return one row for each metric of a pair of groups."""
    from wantui.analysis.p_values import find_decisive_p
    from wantui.analysis.unguided import find_unguided_difference

    rows = []
    for difference in comparison.differences:
        if (difference.first_group, difference.second_group) == (first_group, second_group):
            unguided = find_unguided_difference(comparison, difference)
            reference_changes = {
                NULL_SIGN: find_null_change(comparison, difference),
                UNGUIDED_SIGN: math.nan if unguided is None else unguided.relative_difference,
            }
            label = comparison.groups[0].label_metric(difference.metric)
            p = find_decisive_p(comparison, difference)
            rows.append(_draw_row(difference, p, label, reference_changes, axis, name_width, get_style))
    return rows


def find_null_change(comparison: "Comparison", difference: "Difference") -> float:
    """Return the relative difference of the groups' Gaussian flows; NaN if there is none."""
    from wantui.analysis.metrics import get_ratio_origin

    summaries = comparison.summaries_by_metric.get(difference.metric, {})
    if not math.isfinite(difference.relative_difference):
        return math.nan
    means = [
        summaries[name].gaussian_flow_mean if name in summaries else math.nan
        for name in (difference.first_group, difference.second_group)
    ]
    distance = abs(means[1] - get_ratio_origin(difference.metric))
    return (means[0] - means[1]) / distance if all(map(math.isfinite, means)) and distance else math.nan


def _draw_row(
    difference: "Difference",
    p: float,
    label: str,
    reference_changes: Mapping[str, float],
    axis: ForestAxis,
    name_width: int,
    get_style: StyleGetter,
) -> Text:
    """Return the row of one metric.

    Args:
        p: p that decides on the difference.
    """
    from wantui.analysis.differences import SIGNIFICANCE_LEVEL

    is_significant = p <= SIGNIFICANCE_LEVEL
    style = get_style("warning") + Style(bold=True) if is_significant else get_style("foreground")
    effect_text, interval_text = _format_effect(difference)
    return _join_columns(
        Text(label.ljust(name_width), style),
        _draw_interval(difference, is_significant, reference_changes, axis, style),
        Text(effect_text, style),
        Text(interval_text, style),
        Text(_format_p(p), style),
        axis.width,
    )


def _draw_interval(
    difference: "Difference",
    is_significant: bool,
    reference_changes: Mapping[str, float],
    axis: ForestAxis,
    style: Style,
) -> Text:
    """Return the plot of one effect: zero line, interval, references by sign, point."""
    cells: list[tuple[str, Style]] = [(" ", Style.null())] * axis.width
    if not axis.width:
        return Text()
    cells[axis.find_column(0)] = ("│", Style(dim=True))
    low, high, point = difference.relative_low, difference.relative_high, difference.relative_difference
    if all(map(math.isfinite, (low, high))):
        first, last = axis.find_column(low), axis.find_column(high)
        for column in range(first, last + 1):
            cells[column] = ("┼" if column == axis.find_column(0) else "─", style)
        if last > first:
            cells[first] = ("◂" if low < -axis.end else "├", style)
            cells[last] = ("▸" if high > axis.end else "┤", style)
    for reference_sign, reference_change in reference_changes.items():
        if math.isfinite(reference_change):
            cells[axis.find_column(reference_change)] = (reference_sign, Style(dim=True))
    if math.isfinite(point):
        sign = SIGNIFICANT_SIGN if is_significant else OTHER_SIGN
        cells[axis.find_column(point)] = (sign, style)
    runs = groupby(cells, key=lambda cell: cell[1])
    return Text.assemble(*(("".join(sign for sign, _ in run), run_style) for run_style, run in runs))


def _format_effect(difference: "Difference") -> tuple[str, str]:
    """Return effect and interval: in percent, or in the unit of a metric without ratio scale."""
    from wantui.analysis.metrics import get_metric_unit

    relative = difference.relative_difference, difference.relative_low, difference.relative_high
    if all(map(math.isfinite, relative)):
        change, low, high = map(_format_change, relative)
        return change, f"{low:>8} to {high:>8}"
    effect = difference.paired_effect
    unit = get_metric_unit(difference.metric)
    return f"{effect.mean:+.2f} {unit}".rstrip(), format_interval(effect.interval_low, effect.interval_high, ">+8.2f")


def _format_change(relative_change: float) -> str:
    return format_percent_change(relative_change) if abs(relative_change) < 10 else f"{100 * relative_change:+.2g} %"


def _format_p(p: float) -> str:
    return "-" if math.isnan(p) else f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"


def _join_columns(
    name: Text | str, plot: Text | str, effect: Text | str, interval: Text | str, p: Text | str, plot_width: int
) -> Text:
    line = Text(no_wrap=True, end="")
    columns = [(name, None), (plot, plot_width), (effect, EFFECT_WIDTH), (interval, INTERVAL_WIDTH), (p, P_WIDTH)]
    for number, (cell, column_width) in enumerate(columns):
        text = Text(cell) if isinstance(cell, str) else cell.copy()
        if column_width is not None:
            text.align("right", max(column_width, text.cell_len))
        if number and (column_width or text.cell_len):
            line.append(" ")
        line.append_text(text)
    return line
