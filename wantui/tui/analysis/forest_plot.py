"""Forest plot of a comparison: effect, 95 % interval and p of every metric, by pair of groups."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from rich.style import Style
from rich.text import Text

from wantui.analysis.differences import SIGNIFICANCE_LEVEL, Difference, format_difference_parts
from wantui.analysis.metrics import get_ratio_origin
from wantui.tui.analysis.forest_axis import Change, ForestAxis, choose_axis
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

MIN_WIDE_PLOT = 25
"""Width of the plot, in cells, below which the other columns become narrow."""
MIN_NARROW_PLOT = 13
"""Width of the plot, in cells, below which it replaces even a narrow interval column."""
EFFECT_WIDTH, NARROW_EFFECT_WIDTH = 12, 8
WIDE_INTERVAL_WIDTH, NARROW_INTERVAL_WIDTH = 20, 17
WIDE_P_WIDTH, NARROW_P_WIDTH = 8, 6
"""Widths of the columns in cells, in a wide and in a narrow pane."""
DITTO_SIGN = "″"
"""Sign of the same p as in the row above."""
LARGEST_FIRST_SIGN = "▼"
"""Sign of the column by whose size the rows are sorted."""
MIN_COMMON_P_SHARE = 0.75
"""Share of the metrics with the same p from which on the column of p is muted: it no longer tells them apart."""
MIN_COMMON_P_ROWS = 3
"""Least number of rows for which equal p are printed once."""
SIGNIFICANT_SIGN, OTHER_SIGN, NULL_SIGN, UNGUIDED_SIGN = "●", "○", "◇", "□"
TICK_SIGN = "┊"
"""Sign of the vertical lines at the ticks."""
WIDE_LEGEND = 120
"""Columns from which on the legend is in full words."""

AXIS_NAME = "log scale"

Item = TypeVar("Item")
StyleGetter = Callable[[str], Style]
"""Function that returns the style of a theme colour."""


@dataclass(frozen=True)
class ForestLayout:
    """Columns of a forest plot."""

    name_width: int
    axis: ForestAxis
    interval_width: int
    """Width of the printed intervals in cells; 0 if they are only drawn."""
    effect_width: int = EFFECT_WIDTH
    p_width: int = WIDE_P_WIDTH

    @property
    def is_narrow(self) -> bool:
        """Whether numbers are without gaps between them, and without percent signs in the intervals."""
        return self.p_width < WIDE_P_WIDTH

    def format_interval(self, low: str, high: str) -> str:
        """Return an interval as wide as its column; in a narrow column, without percent signs."""
        if not low:
            return "-"
        if not self.is_narrow:
            return f"{low:>8} to {high:>8}"
        high = f"{high.removesuffix(' %'):>6}"
        return f"{low.removesuffix(' %')} to {high}".rjust(self.interval_width)


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
    no_plot_text: str = ""
    """Text instead of the plot if the change or its interval is not finite; if empty, the plot has its ticks only."""


def choose_layout(
    metric_names: Sequence[str], changes: Sequence[Change], width: int, effect_width: int = EFFECT_WIDTH
) -> ForestLayout:
    """Return the columns that fit into a pane of `width` cells; in a very narrow pane, intervals are only drawn."""
    name_width = max(map(len, metric_names), default=0)
    plots = (
        (MIN_WIDE_PLOT, effect_width, WIDE_INTERVAL_WIDTH, WIDE_P_WIDTH),
        (MIN_NARROW_PLOT, NARROW_EFFECT_WIDTH, NARROW_INTERVAL_WIDTH, NARROW_P_WIDTH),
        (0, NARROW_EFFECT_WIDTH, 0, NARROW_P_WIDTH),
    )
    for min_width, effect_cells, interval_cells, p_cells in plots:
        columns = [cells for cells in (name_width, effect_cells, interval_cells, p_cells) if cells]
        free_width = width - sum(columns) - len(columns)
        if free_width >= min_width:
            break
    return ForestLayout(name_width, choose_axis(changes, free_width), interval_cells, effect_cells, p_cells)


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
    interval_header = "95 % interval".center(layout.interval_width)
    header = _join_columns(
        name, layout.axis.draw_labels(), f"{effect_header}{LARGEST_FIRST_SIGN}", interval_header, "adj. p", layout
    )
    header.stylize(Style(bold=True, dim=True))
    return header


def sort_by_effect(
    items: Sequence[Item], get_p: Callable[[Item], float], get_change: Callable[[Item], Change], *, primary: Item | None
) -> list[Item]:
    """Return the rows of a table: significant ones first, each part with the primary one first, then larger effects."""

    def find_place(item: Item) -> tuple[bool, bool, float]:
        size = abs(get_change(item)[0])
        return not get_p(item) <= SIGNIFICANCE_LEVEL, item is not primary, -size if math.isfinite(size) else 0.0

    return sorted(items, key=find_place)  # p can be NaN


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
    """Return the lines of rows; if nearly all rows have the same p, it is muted and printed once for several rows."""
    p_texts = [format_p(row.p) for row in rows]
    is_common = max(Counter(p_texts).values(), default=0) >= MIN_COMMON_P_SHARE * len(rows)
    if not is_common or len(rows) < MIN_COMMON_P_ROWS:
        return [_draw_row(row, Text(p_text, row.style), layout) for row, p_text in zip(rows, p_texts, strict=True)]
    muted = get_style("text-muted") + Style(bold=False)
    signs = [DITTO_SIGN.center(5) if p == above else p for above, p in zip(["", *p_texts], p_texts, strict=False)]
    return [_draw_row(row, Text(sign, muted), layout) for row, sign in zip(rows, signs, strict=True)]


def _draw_row(row: ForestRow, p: Text, layout: ForestLayout) -> Text:
    interval = layout.format_interval(row.low, row.high)
    label = row.label.copy()
    label.pad_right(layout.name_width - label.cell_len)
    if all(map(math.isfinite, row.change)):
        is_significant = row.p <= SIGNIFICANCE_LEVEL
        plot = draw_interval(row.change, is_significant, layout.axis, row.style, row.reference_changes)
        effect = Text(row.effect_text, row.style)
    else:
        # The effect in another unit may need more cells than its column; the text beside it takes what remains.
        width = layout.axis.width + 1 + layout.effect_width
        text = row.no_plot_text if layout.interval_width else " ".join(interval.split())
        plot_width = min(layout.axis.width, width - len(row.effect_text) - 2)
        if text and len(text) <= plot_width:
            plot = Text(text.center(plot_width), Style(dim=True))
        else:
            plot = draw_interval((math.nan, math.nan, math.nan), False, layout.axis, row.style)[:plot_width]
        effect = Text(row.effect_text.rjust(width - 1 - plot_width), row.style)
    return _join_columns(label, plot, effect, Text(interval, row.style), p, layout)


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
        (plot, None),
        (effect, layout.effect_width),
        (interval, layout.interval_width),
        (p, layout.p_width),
    ]
    for number, (cell, column_width) in enumerate(columns):
        if cell is interval and not layout.interval_width:
            continue
        text = Text(cell) if isinstance(cell, str) else cell.copy()
        if column_width is not None:
            text.align("right", max(column_width, text.cell_len))
        if number and (column_width or text.cell_len):
            line.append(" ")
        line.append_text(text)
    return line
