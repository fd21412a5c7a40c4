"""Drawing of a dose-response: verdict, means of a metric, slopes of all metrics."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.metrics import get_metric_unit
from wantui.analysis.statistics import compute_min_attainable_p, count_min_pairs
from wantui.formatting import format_count
from wantui.tui.analysis.answers_view import VERDICT_COLOURS
from wantui.tui.analysis.forest_plot import (
    EFFECT_WIDTH,
    WIDE_LEGEND,
    ForestRow,
    choose_layout,
    describe_symbols,
    draw_forest_header,
    draw_forest_rows,
    sort_by_effect,
)
from wantui.tui.analysis.metric_notes import describe_least_p, label_effect
from wantui.tui.analysis.views import Canvas
from wantui.tui.chart import find_value_range
from wantui.tui.number_formats import (
    MISSING_TEXT,
    align_decimals,
    choose_number_format,
    choose_tick_format,
    choose_ticks,
)
from wantui.tui.plain_names import replace_names
from wantui.tui.wrapping import append_right, wrap_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wantui.analysis.dose_response import DoseResponse, Trend

MIN_VISIBLE_SLOPES = 4
"""Rows of the slope table that a pane shows below the intervals; without room for both, means are in one line."""
MAX_PLOT_WIDTH = 140
"""Maximum width of the lines with the intervals of the groups, in cells."""
CHANGE_KINDS = ("rises", "falls")
"""Kinds of verdicts that a metric changes; their p is not corrected for other metrics."""
DOSE_SYMBOL = "●"
UNBOUNDED_TEXT = "unbounded interval: see it in the metric's unit"
"""Text instead of the plot if a percentage's interval is unbounded."""
MIN_SHARE_IN_TENTHS = 0.005
"""Smallest relative slope for which tenths of a percent are exact enough."""
TICK_DISTANCE = 12
"""Least average number of cells between two ticks of the axis below the intervals."""
MAX_AXIS_NAME_WIDTH = 12
"""Longest name of a setting, in cells, in the header of the slopes."""


def draw_dose_response(
    dose_response: "DoseResponse",
    canvas: Canvas,
    lines_above: int = 0,
    colours_by_group: Mapping[str, str] = {},
    charted_metric: str = "",
    unsettled_metrics: Collection[str] = (),
) -> tuple[list[Text], dict[str, int]]:
    """Draw the dose-response; also return the line of each metric's slope.

    It consists of a verdict in one line, the means of a metric with their 95 % intervals (below a title, unless the
    verdict is on this metric), the slope of each metric, significant ones first, and the verdict with its evidence. A
    low pane has the means without intervals.

    Args:
        lines_above: lines of the pane above these.
        colours_by_group: theme colours of the groups, which their points have.
        charted_metric: metric of the means; empty, or without a slope, for the declared one.
        unsettled_metrics: metrics that have not settled in a video.
    """
    colour_name = VERDICT_COLOURS.get(dose_response.verdict_kind, "")
    style = canvas.get_style(colour_name) if colour_name else Style()
    is_bold = (
        dose_response.verdict_kind in CHANGE_KINDS and dose_response.trends[0].answer_or_family_p <= SIGNIFICANCE_LEVEL
    )
    lines = wrap_text(_summarize_verdict(dose_response), canvas.width, style + Style(bold=is_bold))
    muted = canvas.get_style("text-muted") + Style(bold=False)
    seed_count, declared = len(dose_response.trends[0].seed_values), dose_response.trends[0]
    charted = next((trend for trend in dose_response.trends if trend.metric == charted_metric), declared)
    free_height = canvas.height - lines_above - len(lines) - 1
    has_intervals = free_height - len(dose_response.doses.values) - 3 >= MIN_VISIBLE_SLOPES
    note = _describe_means(charted)
    is_titled = charted is declared and lines[-1].cell_len + len(note) + 2 <= canvas.width
    if has_intervals and is_titled:
        lines[-1].append(f"  {note}", muted)
    least_p_notes = describe_least_p(compute_min_attainable_p(seed_count), seed_count)
    append_right(lines[-1], least_p_notes, canvas.width, 3, muted)
    if has_intervals:
        lines += [] if is_titled else [_draw_title(charted, dose_response.doses.setting_name)]
        lines += [*_draw_intervals(dose_response, charted, canvas, colours_by_group), Text("")]
    else:
        lines += _draw_means(dose_response, charted, canvas, colours_by_group)
    trends, first_row = sort_trends(dose_response), lines_above + len(lines) + 1
    label_by_metric = {
        metric: label_effect(metric, _describe_unit(metric), is_unsettled=metric in unsettled_metrics)
        for metric in (trend.metric for trend in trends)
    }
    slope_lines = _draw_slopes(dose_response, trends, label_by_metric, charted.metric, canvas)
    verdict_lines = wrap_text(replace_names(dose_response.verdict_text), canvas.width)
    row_by_metric = {trend.metric: row for row, trend in enumerate(trends, first_row)}
    return [*lines, *slope_lines, *verdict_lines], row_by_metric


def sort_trends(dose_response: "DoseResponse") -> "list[Trend]":
    """Return the trends in the order of their rows: significant ones first, then the declared one, then larger ones."""
    trends = dose_response.trends
    return sort_by_effect(trends, lambda trend: trend.answer_or_family_p, _get_relative_change, primary=trends[0])


def _summarize_verdict(dose_response: "DoseResponse") -> str:
    """Return the verdict on the declared metric without its evidence."""
    metric = replace_names(dose_response.trends[0].metric)
    change = replace_names(dose_response.doses.range_text)
    seed_count = len(dose_response.trends[0].seed_values)
    if dose_response.verdict_kind in CHANGE_KINDS:
        return f"{metric} {dose_response.verdict_kind} with {change}"
    if dose_response.verdict_kind == "flat":
        return f"{metric} is flat over {change}"
    has_few_seeds = compute_min_attainable_p(seed_count) > SIGNIFICANCE_LEVEL
    reason = f" with {format_count(seed_count, 'seed')} ({count_min_pairs()} needed)" if has_few_seeds else ""
    return f"{metric} with {change}: cannot tell{reason}"


def _draw_intervals(
    dose_response: "DoseResponse", trend: "Trend", canvas: Canvas, colours_by_group: Mapping[str, str]
) -> list[Text]:
    """Return a line for each value of the setting, the interval of a metric and its mean, and the axis below."""
    names = [f"{replace_names(dose_response.doses.setting_name)} {dose}" for dose in dose_response.doses.value_texts]
    number_format = choose_number_format(trend.means.tolist())
    values = list(map(number_format.format_number, trend.means.tolist()))
    values = [value.rjust(max(map(len, values))) for value in values]
    name_width, width = max(map(len, names)), min(canvas.width, MAX_PLOT_WIDTH)
    plot_width = max(5, width - name_width - len(values[0]) - 4)
    lows, highs = (trend.means - trend.half_widths).tolist(), (trend.means + trend.half_widths).tolist()
    first, last = find_value_range([lows, highs, trend.means.tolist()])

    def find_column(value: float) -> int:
        return 1 + round((value - first) / ((last - first) or 1.0) * (plot_width - 3))

    lines = []
    for name, group, *interval, value in zip(
        names, dose_response.group_names, lows, trend.means, highs, values, strict=True
    ):
        style = canvas.get_style(colours_by_group.get(group, "accent"))
        low, mean, high = (find_column(end) if math.isfinite(end) else -1 for end in interval)
        cells = [" "] * plot_width
        if low >= 0 and high >= 0:
            low, high = min(low, mean - 1), max(high, mean + 1)  # so that the point hides no end
            cells[low : high + 1] = "─" * (high + 1 - low)
            cells[low], cells[high] = "├", "┤"
        if mean >= 0:
            cells[mean] = DOSE_SYMBOL
        line = Text.assemble((f"{name:<{name_width}}  ", style), ("".join(cells), style), f"  {value}", no_wrap=True)
        lines.append(line)
    ticks = choose_ticks(first, last, max(2, plot_width // TICK_DISTANCE))
    tick_format = choose_tick_format(ticks)
    labels = [" "] * plot_width
    for tick in ticks:
        label = f"╵{tick_format.format_number(tick)}"
        column = find_column(tick)
        if column + len(label) <= plot_width:
            labels[column : column + len(label)] = label
    return [*lines, Text(f"{'':<{name_width}}  {''.join(labels)}".rstrip(), canvas.get_style("text-muted"))]


def _draw_means(
    dose_response: "DoseResponse", trend: "Trend", canvas: Canvas, colours_by_group: Mapping[str, str]
) -> list[Text]:
    """Return the mean of a metric at each value of the setting, in the colours of the groups."""
    subject = replace_names(f"{trend.metric} by {dose_response.doses.setting_name}")
    lines = [Text.assemble((f"mean {subject}", canvas.get_style("text-muted")))]
    for name, dose, mean in zip(dose_response.group_names, dose_response.doses.value_texts, trend.means, strict=True):
        part = Text.assemble(
            (DOSE_SYMBOL, canvas.get_style(colours_by_group.get(name, "accent"))), f" {dose}: {mean:#.3g}"
        )
        if lines[-1].cell_len + len(part) + 3 > canvas.width:
            lines.append(Text(" "))
        lines[-1].append("   ").append_text(part)
    return lines


def _draw_title(trend: "Trend", setting_name: str) -> Text:
    return Text.assemble(
        (replace_names(f"{trend.metric} over {setting_name}"), "bold"), (f"  {_describe_means(trend)}", "dim")
    )


def _describe_means(trend: "Trend") -> str:
    """Return what the points and the lines of the means are, and their unit."""
    unit = get_metric_unit(trend.metric)
    return f"mean and 95 % interval over seeds{f', in {unit}' if unit else ''}"


def _draw_slopes(
    dose_response: "DoseResponse",
    trends: "Sequence[Trend]",
    label_by_metric: Mapping[str, str],
    charted_metric: str,
    canvas: Canvas,
) -> list[Text]:
    """Return the forest plot of the slopes in percent of the mean, and its legend.

    A wide pane has a column of slopes in the unit of each metric too. Rows that are not significant are muted; the row
    of the charted metric is bold.
    """
    setting_name = replace_names(dose_response.doses.setting_name)
    is_wide, decimals = canvas.width >= WIDE_LEGEND, _choose_decimals(trends)
    effects = [_format_effect(trend, decimals, may_have_unit=not is_wide) for trend in trends]
    effect_header, effect_width = "per 1", EFFECT_WIDTH
    if is_wide:
        slope_header = f"slope per 1 {setting_name}" if len(setting_name) <= MAX_AXIS_NAME_WIDTH else "slope"
        slopes = format_slopes([trend.slope.mean for trend in trends])
        effect_header, *effects = [
            f"{slope:>{len(slope_header)}}{effect:>10}"
            for slope, effect in zip((slope_header, *slopes), ("effect", *effects), strict=True)
        ]
        effect_width = max(map(len, (effect_header, *effects))) + 2  # with the sign, two blanks from the plot
    rows = []
    for trend, effect in zip(trends, effects, strict=True):
        style = canvas.get_style("found" if trend.answer_or_family_p <= SIGNIFICANCE_LEVEL else "text-muted")
        style += Style(bold=trend.metric == charted_metric)
        label = Text(label_by_metric[trend.metric], style)
        if trend.metric == charted_metric:
            label.stylize(canvas.get_style("accent"))
        rows.append(
            ForestRow(
                label,
                _get_relative_change(trend),
                effect,
                *_format_interval(trend, decimals),
                trend.answer_or_family_p,
                style,
                no_plot_text=UNBOUNDED_TEXT if math.isfinite(trend.relative_slope) else "",
            )
        )
    labels = list(label_by_metric.values())
    layout = choose_layout(labels, [row.change for row in rows], canvas.width, effect_width)
    legend = f"{describe_symbols(labels, canvas.width, has_null=False)}   effect: % of the mean per 1 {setting_name}"
    return [
        draw_forest_header(layout, effect_header),
        *draw_forest_rows(rows, layout, canvas.get_style),
        *wrap_text(legend, canvas.width, canvas.get_style("text-muted")),
    ]


def _choose_decimals(trends: "Sequence[Trend]") -> int:
    """Return the number of decimals in the percentages."""
    changes = [abs(trend.relative_slope) for trend in trends if math.isfinite(trend.relative_slope)]
    return 1 if min(changes, default=1.0) >= MIN_SHARE_IN_TENTHS else 2


def format_slopes(slopes: "Sequence[float]") -> list[str]:
    """Return slopes with three significant digits and aligned decimal points."""
    return align_decimals([f"{slope:+#.3g}".rstrip(".") if math.isfinite(slope) else MISSING_TEXT for slope in slopes])


def _describe_unit(metric: str) -> str:
    unit = get_metric_unit(metric)
    return f"({unit})" if unit else ""


def _format_effect(trend: "Trend", decimals: int, *, may_have_unit: bool) -> str:
    """Return a slope in percent of the mean; without a ratio scale, in the unit of the metric or a dash."""
    share = 100 * trend.relative_slope
    if math.isfinite(share):
        return f"{share:+.{decimals}f} %"
    return f"{trend.slope.mean:+#.3g}" if may_have_unit and math.isfinite(trend.slope.mean) else MISSING_TEXT


def _format_interval(trend: "Trend", decimals: int) -> tuple[str, str]:
    """Return the ends of a slope's interval in percent, or else in the unit of the metric; empty if there is none."""
    if all(map(math.isfinite, change := _get_relative_change(trend))):
        return f"{100 * change[1]:+.{decimals}f} %", f"{100 * change[2]:+.{decimals}f} %"
    ends = trend.slope.interval_low, trend.slope.interval_high
    return (f"{ends[0]:+#.3g}", f"{ends[1]:+#.3g}") if all(map(math.isfinite, ends)) else ("", "")


def _get_relative_change(trend: "Trend") -> tuple[float, float, float]:
    """Return a slope in percent of the mean and the ends of its interval; NaN or infinite if unknown."""
    return trend.relative_slope, trend.relative_low, trend.relative_high
