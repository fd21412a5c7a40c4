"""Forest plot of a comparison: effect, 95 % interval and p of every metric, by pair of groups."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from rich.style import Style
from rich.text import Text

from wantui.analysis.differences import SIGNIFICANCE_LEVEL, Difference, format_difference_parts
from wantui.analysis.metrics import get_ratio_origin
from wantui.formatting import format_percent_change
from wantui.tui.analysis.metric_notes import (
    RATIO_NOTE,
    RATIO_SIGN,
    SHORT_UNSETTLED_NOTE,
    UNSETTLED_NOTE,
    UNSETTLED_SIGN,
    label_effect,
)
from wantui.tui.number_formats import format_p
from wantui.tui.plain_names import replace_names

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

MAX_PLOT_WIDTH = 81
"""Maximum width of the plot in cells; odd, so that zero is at the centre of a cell."""
LINEAR_RANGE = 0.01
"""Relative difference up to which the axis is nearly linear; beyond it, the axis is logarithmic."""
MIN_AXIS_END = 0.02
"""Smallest relative difference at an end of the axis."""
MAX_AXIS_END = 10.0
"""Largest relative difference at an end of the axis; larger differences end in an arrow."""
AXIS_ENDS = (MIN_AXIS_END, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, MAX_AXIS_END)
"""Relative differences at which an axis can end: round values, because the ends of the axis have ticks."""
TICK_CHANGES = (0.01, 0.1, 1.0, 10.0)
"""Relative differences with a tick, on both sides of zero, beside the ends of the axis."""
SPARE_CHANGES = (0.02, 0.05, 0.2, 0.5)
"""Relative differences with a tick on a narrow axis without room for those above."""
MIN_PLOT_WIDTH = 9
"""Minimum width of the plot in cells; a narrower pane has none."""
MIN_WIDE_PLOT = 25
"""Width of the plot, in cells, below which it replaces the interval column."""
EFFECT_WIDTH, INTERVAL_WIDTH, P_WIDTH = 12, 20, 8
MIN_COMMON_P_SHARE = 0.75
"""Share of the metrics with the same p from which on the column of p is muted: it no longer tells them apart."""
SIGNIFICANT_SIGN, OTHER_SIGN, NULL_SIGN, UNGUIDED_SIGN = "●", "○", "◇", "□"
TICK_SIGN = "┊"
"""Sign of the vertical lines at the ticks."""
WIDE_LEGEND = 120
"""Columns from which on the legend is in full words."""

AXIS_NAME = "log scale"
NO_SCALE_TEXT = "no percentage: see the interval"
"""Text instead of the plot if a metric's differences are in its own unit."""

Item = TypeVar("Item")
StyleGetter = Callable[[str], Style]
"""Function that returns the style of a theme colour."""
Change = tuple[float, float, float]
"""Relative change, and the ends of its 95 % interval; NaN if unknown."""


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
        return self._labels_and_ticks[0]

    @property
    def tick_columns(self) -> frozenset[int]:
        """Return the columns of the labelled ticks."""
        return self._labels_and_ticks[1]

    @cached_property
    def _labels_and_ticks(self) -> tuple[str, frozenset[int]]:
        labels, columns = [" "] * self.width, [self.find_column(0)]

        def find_span(tick: float, label: str) -> tuple[int, int]:
            first = max(0, min(self.width - len(label), self.find_column(tick) - len(label) // 2))
            return first, first + len(label)

        def add_tick_pair(change: float, suffix: str = " %") -> bool:
            texts = [format_percent_change(tick, 0).removesuffix(" %") + suffix for tick in (-change, change)]
            spans = [find_span(tick, text) for tick, text in zip((-change, change), texts, strict=True)]
            is_free = all(cell == " " for first, end in spans for cell in labels[max(0, first - 1) : end + 1])
            if is_free:
                for (first, end), text in zip(spans, texts, strict=True):
                    labels[first:end] = text
                columns.extend(self.find_column(tick) for tick in (-change, change))
            return is_free

        labels[self.find_column(0)] = "0"
        any(add_tick_pair(self.end, suffix) for suffix in (" %", ""))
        inner_changes = [change for change in TICK_CHANGES if change < self.end]
        if not sum(add_tick_pair(change) for change in inner_changes):
            # Without labels between the ends and 0, the axis would seem to be linear.
            spare_changes = sorted({*inner_changes, *SPARE_CHANGES}, reverse=True)
            any(add_tick_pair(change, "") for change in spare_changes if change < self.end)
        return "".join(labels), frozenset(columns)


@dataclass(frozen=True)
class ForestLayout:
    """Columns of a forest plot."""

    name_width: int
    axis: ForestAxis
    has_intervals: bool
    """Whether the intervals are printed too; a narrow pane only draws them."""
    effect_width: int = EFFECT_WIDTH


@dataclass(frozen=True)
class ForestRow:
    """Row of a forest plot."""

    label: Text
    change: Change
    effect_text: str
    low: str
    high: str
    """Ends of the interval; empty if there is none."""
    p: float
    style: Style
    reference_changes: Mapping[str, float] = field(default_factory=dict)
    """Relative changes that are drawn beside the interval, by symbol."""
    no_plot_text: str = NO_SCALE_TEXT
    """Text instead of the plot if the change or its interval is not finite."""


def choose_axis(changes: Sequence[Change], free_width: int) -> ForestAxis:
    """Return an axis on which these changes and their intervals fit, up to `MAX_AXIS_END`.

    Args:
        free_width: cells that the plot can have; it has an odd number of them, and at most `MAX_PLOT_WIDTH`.
    """
    width = min(MAX_PLOT_WIDTH, free_width - 1 + free_width % 2) if free_width >= MIN_PLOT_WIDTH else 0
    ends = [abs(end) for change in changes for end in change if math.isfinite(end)]
    largest = max(ends, default=0.0)
    return ForestAxis(width, next((end for end in AXIS_ENDS if end >= largest), MAX_AXIS_END))


def choose_layout(
    metric_names: Sequence[str], changes: Sequence[Change], width: int, effect_width: int = EFFECT_WIDTH
) -> ForestLayout:
    """Return the columns that fit into a pane of `width` cells."""
    name_width = max(map(len, metric_names), default=0)
    wide_plot = width - name_width - effect_width - INTERVAL_WIDTH - P_WIDTH - 4
    has_intervals = wide_plot >= MIN_WIDE_PLOT
    free_width = wide_plot if has_intervals else wide_plot + INTERVAL_WIDTH + 1
    return ForestLayout(name_width, choose_axis(changes, free_width), has_intervals, effect_width)


def get_relative_change(difference: Difference) -> Change:
    """Return the relative difference of two groups and the ends of its 95 % interval; NaN if it is not in percent."""
    if not difference.is_relative:
        return math.nan, math.nan, math.nan
    return difference.relative_difference, difference.relative_low, difference.relative_high


def label_compared_metric(comparison: "Comparison", metric: str) -> str:
    """Return the label of a metric beside its effect; mark the primary metric."""
    video = comparison.groups[0].videos[0]
    is_unsettled = metric in video.unsettled_metrics
    stride_note = "" if is_unsettled else video.describe_stride(metric)
    primary_note = "(primary)" if metric == comparison.primary_metric else ""
    return label_effect(metric, stride_note, primary_note, is_unsettled=is_unsettled)


def describe_symbols(labels: Sequence[str], width: int, *, has_null: bool = True, has_unguided: bool = False) -> str:
    """Return the legend of the symbols, shortened in a narrow pane.

    Args:
        labels: names of the metrics with their signs.
        has_null: whether the plot has the effects of the Gaussian flow.
        has_unguided: whether the plot has the effects at cfg_scale 1.
    """
    is_wide = width >= WIDE_LEGEND
    parts = [
        f"{SIGNIFICANT_SIGN} {'adj. p up to' if is_wide else 'p ≤'} {SIGNIFICANCE_LEVEL:g}",
        f"├─┤ 95 %{' interval' * is_wide}",
        *([f"{NULL_SIGN} {'expected from ' * is_wide}Gaussian flow"] if has_null else []),
        *([f"{UNGUIDED_SIGN} cfg scale 1"] if has_unguided else []),
        *([RATIO_NOTE] if any(RATIO_SIGN in label for label in labels) else []),
    ]
    if any(UNSETTLED_SIGN in label for label in labels):
        parts.append(UNSETTLED_NOTE if is_wide else SHORT_UNSETTLED_NOTE)
    return ("   " if is_wide else "  ").join(parts)


def draw_directions(first_group: str, second_group: str, layout: ForestLayout, get_style: StyleGetter) -> Text:
    """Return the line above the rows that says which group has the larger values.

    It says so on each side of the plot's zero, or, without a plot, for positive effects.
    """
    first_group, second_group = map(replace_names, (first_group, second_group))
    half_width = layout.axis.width // 2
    if half_width <= 2:
        return Text(f"+: more in {first_group}", get_style("text-muted"), no_wrap=True, end="")
    for left, right in (
        (f"← more in {second_group}", f"more in {first_group} →"),
        (f"← {second_group} more", f"{first_group} more →"),
        (f"← {second_group}", f"{first_group} →"),
        (f"← {second_group}"[:half_width], f"{first_group}"[: max(0, half_width - 2)] + " →"),
    ):
        if max(len(left), len(right)) <= half_width:
            break
    ends = f"{left:<{half_width}} {right:>{half_width}}"
    return Text(f"{'':<{layout.name_width}} {ends}", get_style("text-muted"), no_wrap=True, end="")


def draw_forest_header(layout: ForestLayout, effect_header: str = "effect") -> Text:
    """Return the line of column headers; the header of the plot is the plot's axis, which is named if there is room."""
    name = "metric".ljust(layout.name_width)
    if layout.axis.width and layout.name_width >= len(f"metric  {AXIS_NAME}"):
        name = f"metric{AXIS_NAME:>{layout.name_width - len('metric')}}"
    header = _join_columns(
        name, layout.axis.draw_labels(), effect_header, "95 % interval".center(INTERVAL_WIDTH), "adj. p", layout
    )
    header.stylize(Style(bold=True, dim=True))
    return header


def sort_significant_first(items: Sequence[Item], get_p: Callable[[Item], float]) -> list[Item]:
    """Return the rows of a table, significant rows first; each part keeps its order."""
    return sorted(items, key=lambda item: not get_p(item) <= SIGNIFICANCE_LEVEL)  # p can be NaN


def build_forest_rows(
    comparison: "Comparison", differences: Sequence[Difference], get_style: StyleGetter
) -> list[ForestRow]:
    """Return one row for each difference between two groups."""
    from wantui.analysis.p_values import find_decisive_p
    from wantui.analysis.unguided import find_unguided_difference

    rows = []
    for difference in differences:
        unguided = find_unguided_difference(comparison, difference)
        reference_changes = {
            NULL_SIGN: find_null_change(comparison, difference),
            UNGUIDED_SIGN: math.nan if unguided is None else unguided.relative_difference,
        }
        p = find_decisive_p(comparison, difference)
        style = get_style("found") + Style(bold=True) if p <= SIGNIFICANCE_LEVEL else get_style("text-muted")
        label = Text(label_compared_metric(comparison, difference.metric), style)
        change, parts = get_relative_change(difference), format_difference_parts(difference)
        rows.append(ForestRow(label, change, *parts, p, style, reference_changes))
    return rows


def find_null_change(comparison: "Comparison", difference: Difference) -> float:
    """Return the relative difference of the groups' Gaussian flows; NaN if it cannot be computed."""
    summaries = comparison.summaries_by_metric.get(difference.metric, {})
    if not difference.is_relative:
        return math.nan
    means = [
        summaries[name].gaussian_flow_mean if name in summaries else math.nan
        for name in (difference.first_group, difference.second_group)
    ]
    distance = abs(means[1] - get_ratio_origin(difference.metric))
    return (means[0] - means[1]) / distance if all(map(math.isfinite, means)) and distance else math.nan


def draw_forest_rows(rows: Sequence[ForestRow], layout: ForestLayout, get_style: StyleGetter) -> list[Text]:
    """Return the lines of rows; p is muted if nearly all rows have the same."""
    p_texts = [format_p(row.p) for row in rows]
    is_common = max(Counter(p_texts).values(), default=0) >= MIN_COMMON_P_SHARE * len(rows)
    p_style = get_style("text-muted") + Style(bold=False) if is_common and len(rows) > 1 else Style()
    return [
        _draw_row(row, Text(p_text, row.style + p_style), layout) for row, p_text in zip(rows, p_texts, strict=True)
    ]


def _draw_row(row: ForestRow, p: Text, layout: ForestLayout) -> Text:
    interval = f"{row.low:>8} to {row.high:>8}" if row.low else "-"
    if all(map(math.isfinite, row.change)):
        is_significant = row.p <= SIGNIFICANCE_LEVEL
        plot = draw_interval(row.change, is_significant, layout.axis, row.style, row.reference_changes)
    else:
        text = row.no_plot_text if layout.has_intervals else " ".join(interval.split())
        plot = Text(text.center(layout.axis.width)[: layout.axis.width], Style(dim=True))
    label = row.label.copy()
    label.pad_right(layout.name_width - label.cell_len)
    return _join_columns(label, plot, Text(row.effect_text, row.style), Text(interval, row.style), p, layout)


def draw_interval(
    change: Change,
    is_significant: bool,
    axis: ForestAxis,
    style: Style,
    reference_changes: Mapping[str, float] | None = None,
) -> Text:
    """Return the plot of one effect: lines of zero and the ticks, interval, references as symbols, point.

    The point is always between the ends of its interval, which move outwards by up to two cells if they have to;
    references move beside the signs that they would hide.
    """
    cells: list[tuple[str, Style]] = [(" ", Style.null())] * axis.width
    if not axis.width:
        return Text()
    zero = axis.find_column(0)
    for column in axis.tick_columns:
        cells[column] = ("│" if column == zero else TICK_SIGN, Style(dim=True))
    point, low, high = change
    signs: dict[int, str] = {}
    if math.isfinite(point):
        column = max(1, min(axis.width - 2, axis.find_column(point)))
        signs[column] = SIGNIFICANT_SIGN if is_significant else OTHER_SIGN
        if all(map(math.isfinite, (low, high))):
            first, last = min(axis.find_column(low), column - 1), max(axis.find_column(high), column + 1)
            for between in range(first, last + 1):
                cells[between] = ("┼" if between == zero else "─", style)
            signs |= {first: "◂" if low < -axis.end else "├", last: "▸" if high > axis.end else "┤"}
    for column, sign in signs.items():
        cells[column] = (sign, style)
    for reference_sign, reference_change in (reference_changes or {}).items():
        if math.isfinite(reference_change):
            reference = _find_free_column(axis.find_column(reference_change), signs, reference_change - point, axis)
            signs[reference] = reference_sign
            cells[reference] = (reference_sign, Style(dim=True))
    runs = groupby(cells, key=lambda cell: cell[1])
    return Text.assemble(*(("".join(sign for sign, _ in run), run_style) for run_style, run in runs))


def _find_free_column(column: int, signs: Mapping[int, str], direction: float, axis: ForestAxis) -> int:
    """Return the column of a reference; if it has a symbol already, the next free column away from the point.

    If no column before the end of the axis is free, return the next free column on the other side.
    """
    step = 1 if direction >= 0 else -1
    columns = [
        *range(column, axis.width if step > 0 else -1, step),
        *range(column, -1 if step > 0 else axis.width, -step),
    ]
    return next((free for free in columns if free not in signs), column)


def _join_columns(
    name: Text | str,
    plot: Text | str,
    effect: Text | str,
    interval: Text | str,
    p: Text | str,
    layout: ForestLayout,
) -> Text:
    line = Text(no_wrap=True, end="")
    columns = [
        (name, None),
        (plot, layout.axis.width),
        (effect, layout.effect_width),
        (interval, INTERVAL_WIDTH),
        (p, P_WIDTH),
    ]
    for number, (cell, column_width) in enumerate(columns):
        if cell is interval and not layout.has_intervals:
            continue
        text = Text(cell) if isinstance(cell, str) else cell.copy()
        if column_width is not None:
            text.align("right", max(column_width, text.cell_len))
        if number and (column_width or text.cell_len):
            line.append(" ")
        line.append_text(text)
    return line
