"""Drawing of a dose-response: verdict, means of a metric, slopes of all metrics."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.metrics import get_metric_unit
from wantui.analysis.statistics import compute_min_attainable_p, count_min_pairs
from wantui.formatting import format_count, format_interval
from wantui.tui.analysis.answers_view import VERDICT_COLOURS
from wantui.tui.analysis.forest_plot import (
    MIN_WIDE_PLOT,
    NO_SCALE_TEXT,
    choose_axis,
    draw_interval,
    sort_significant_first,
)
from wantui.tui.analysis.metric_notes import (
    RATIO_NOTE,
    RATIO_SIGN,
    UNSETTLED_SIGN,
    describe_least_p,
    mark_ratio,
)
from wantui.tui.analysis.views import Canvas
from wantui.tui.chart import find_value_range
from wantui.tui.number_formats import MISSING_TEXT, align_decimals, choose_number_format, format_p
from wantui.tui.plain_names import replace_names
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wantui.analysis.dose_response import DoseResponse, Trend

MIN_VISIBLE_SLOPES = 4
"""Rows of the table of slopes that a pane shows below the intervals; without room for both, means are in one line."""
MAX_PLOT_WIDTH = 140
"""Maximum width of the lines with the intervals of the groups, in cells."""
CHANGE_KINDS = ("rises", "falls")
"""Kinds of verdicts that a metric changes; their p is not corrected for other metrics."""
DOSE_SYMBOL = "●"
UNBOUNDED_TEXT = "unbounded interval"
"""Text in the place of a percentage whose interval has no ends."""
MIN_SHARE_IN_TENTHS = 0.005
"""Smallest relative slope for which tenths of a percent are exact enough."""
MAX_SLOPE_DECIMALS = 5
"""Maximum number of decimals that all slopes share."""
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

    It consists of a verdict in one line, the means of a metric with their 95 % intervals, the slope of each metric, and
    the verdict with its evidence.

    A low pane has the means without intervals. If it cannot show all slopes, significant ones come first.

    Args:
        lines_above: lines of the pane above these.
        colours_by_group: theme colours of the groups, which their points have.
        charted_metric: metric of the means; empty, or without a slope, for the declared one.
        unsettled_metrics: metrics that have not settled in a video.
    """
    colour_name = VERDICT_COLOURS.get(dose_response.verdict_kind, "")
    style = canvas.get_style(colour_name) if colour_name else Style()
    is_bold = dose_response.verdict_kind in CHANGE_KINDS and dose_response.trends[0].family_p <= SIGNIFICANCE_LEVEL
    lines = wrap_text(_summarize_verdict(dose_response), canvas.width, style + Style(bold=is_bold))
    for note in _describe_common_p(dose_response) or describe_least_p(len(dose_response.trends[0].seed_values)):
        if lines[-1].cell_len + len(note) + 3 <= canvas.width:
            muted_style = canvas.get_style("text-muted") + Style(bold=False)
            lines[-1].append(note.rjust(canvas.width - lines[-1].cell_len), muted_style)
            break
    charted = next((trend for trend in dose_response.trends if trend.metric == charted_metric), dose_response.trends[0])
    free_height = canvas.height - lines_above - len(lines) - 1
    if free_height - len(dose_response.doses) - 1 >= MIN_VISIBLE_SLOPES:
        lines.append(_draw_title(charted, dose_response.setting_name, canvas))
        lines += _draw_intervals(dose_response, charted, canvas, colours_by_group)
    else:
        lines += _draw_means(dose_response, charted, canvas, colours_by_group)
    trends, first_row = list(dose_response.trends), lines_above + len(lines) + 1
    if first_row + len(trends) > canvas.height:
        trends = sort_significant_first(trends, lambda trend: trend.family_p)
    name_by_metric = {trend.metric: _name_metric_with_unit(trend.metric, unsettled_metrics) for trend in trends}
    slope_lines = _draw_slopes(dose_response, trends, name_by_metric, charted.metric, canvas)
    verdict_lines = wrap_text(replace_names(dose_response.verdict_text), canvas.width)
    row_by_metric = {trend.metric: row for row, trend in enumerate(trends, first_row)}
    return [*lines, *slope_lines, *verdict_lines], row_by_metric


def _describe_common_p(dose_response: "DoseResponse") -> tuple[str, ...]:
    """Return the p that all metrics share, as a long and a short text; empty texts if p differs between metrics."""
    trends = dose_response.trends
    p = trends[0].family_p
    if len(trends) == 1 or not all(trend.family_p == p for trend in trends):
        return ()
    text, seed_count = f"adj. p of every metric {format_p(p)}", len(trends[0].seed_values)
    is_least = math.isclose(p, compute_min_attainable_p(seed_count))
    return *([f"{text}, the smallest p that {format_count(seed_count, 'seed')} can give"] if is_least else []), text


def _summarize_verdict(dose_response: "DoseResponse") -> str:
    """Return the verdict on the declared metric without its evidence."""
    metric, doses = replace_names(dose_response.trends[0].metric), dose_response.doses
    change = f"{replace_names(dose_response.setting_name)} from {doses[0]:g} to {doses[-1]:g}"
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
    """Return a line for each value of the setting: the interval of a metric on a common axis, and its mean."""
    names = [f"{replace_names(dose_response.setting_name)} {dose:g}" for dose in dose_response.doses]
    number_format = choose_number_format(trend.means.tolist())
    values = list(map(number_format.format_number, trend.means.tolist()))
    values = [value.rjust(max(map(len, values))) for value in values]
    name_width, width = max(map(len, names)), min(canvas.width, MAX_PLOT_WIDTH)
    plot_width = max(5, width - name_width - len(values[0]) - 4)
    lows, highs = (trend.means - trend.half_widths).tolist(), (trend.means + trend.half_widths).tolist()
    first, last = find_value_range([lows, highs, trend.means.tolist()])
    lines = []
    for name, group, *interval, value in zip(
        names, dose_response.group_names, lows, trend.means, highs, values, strict=True
    ):
        style = canvas.get_style(colours_by_group.get(group, "accent"))
        low, mean, high = (
            1 + round((end - first) / ((last - first) or 1.0) * (plot_width - 3)) if math.isfinite(end) else -1
            for end in interval
        )
        cells = [" "] * plot_width
        if low >= 0 and high >= 0:
            low, high = min(low, mean - 1), max(high, mean + 1)  # so that the point hides no end
            cells[low : high + 1] = "─" * (high + 1 - low)
            cells[low], cells[high] = "├", "┤"
        if mean >= 0:
            cells[mean] = DOSE_SYMBOL
        line = Text.assemble((f"{name:<{name_width}}  ", style), ("".join(cells), style), f"  {value}", no_wrap=True)
        lines.append(line)
    return lines


def _draw_means(
    dose_response: "DoseResponse", trend: "Trend", canvas: Canvas, colours_by_group: Mapping[str, str]
) -> list[Text]:
    """Return the mean of a metric at each value of the setting, in the colours of the groups."""
    subject = replace_names(f"{trend.metric} by {dose_response.setting_name}")
    lines = [Text.assemble((f"mean {subject}", canvas.get_style("text-muted")))]
    for name, dose, mean in zip(dose_response.group_names, dose_response.doses, trend.means, strict=True):
        part = Text.assemble(
            (DOSE_SYMBOL, canvas.get_style(colours_by_group.get(name, "accent"))), f" {dose:g}: {mean:#.3g}"
        )
        if lines[-1].cell_len + len(part) + 3 > canvas.width:
            lines.append(Text(" "))
        lines[-1].append("   ").append_text(part)
    return lines


def _draw_title(trend: "Trend", setting_name: str, canvas: Canvas) -> Text:
    unit = get_metric_unit(trend.metric)
    subject = f"{trend.metric}{f' in {unit}' if unit else ''} over {setting_name}"
    title = Text.assemble((replace_names(subject), "bold"), ("  mean and 95 % interval over seeds", "dim"))
    note = f"{RATIO_NOTE} "
    if canvas.width - title.cell_len > len(note) + 2:
        title.append(note.rjust(canvas.width - title.cell_len).rstrip(), canvas.get_style("text-muted"))
    return title


def _draw_slopes(
    dose_response: "DoseResponse",
    trends: "Sequence[Trend]",
    name_by_metric: Mapping[str, str],
    charted_metric: str,
    canvas: Canvas,
) -> list[Text]:
    """Return a table of slopes with aligned decimal points, and notes on the table.

    A wide pane has a plot of the same percentages. Rows that are not significant are muted; the row of the charted
    metric is bold.
    """
    header, *rows = _draw_slope_table(dose_response, trends, name_by_metric, canvas.width)
    changes = [(trend.relative_slope, trend.relative_low, trend.relative_high) for trend in trends]
    axis = choose_axis(changes, canvas.width - len(header) - 2, MIN_WIDE_PLOT)
    muted_style = canvas.get_style("text-muted")
    header_line = Text(f"{header}  {axis.draw_labels() if axis.width else ''}".rstrip(), muted_style + Style(bold=True))
    lines = [header_line]
    for trend, row, change in zip(trends, rows, changes, strict=True):
        is_significant = trend.family_p <= SIGNIFICANCE_LEVEL
        style = canvas.get_style("found") if is_significant else muted_style
        style += Style(bold=trend.metric == charted_metric)
        line = Text.assemble((row, style))
        if trend.metric == charted_metric:
            line.stylize(canvas.get_style("accent"), 0, len(name_by_metric[trend.metric]))
        if axis.width and all(map(math.isfinite, change)):
            line.append("  ").append_text(draw_interval(change, is_significant, axis, style))
        elif axis.width:
            reason = UNBOUNDED_TEXT if math.isfinite(trend.relative_slope) else NO_SCALE_TEXT
            line.append("  ").append(reason.center(axis.width)[: axis.width].rstrip(), Style(dim=True))
        lines.append(line)
    has_interval_in_unit = any(_has_interval(trend) and not _has_relative_interval(trend) for trend in trends)
    has_unsettled = any(UNSETTLED_SIGN in name for name in name_by_metric.values())
    texts = [
        *([f"{UNSETTLED_SIGN}: not settled, mostly the sampler's steps"] if has_unsettled else []),
        f"slope: change of the metric for each unit of {replace_names(dose_response.setting_name)}, paired by seed",
        f"{RATIO_SIGN}: % of the mean's distance from 1",
        *(["intervals without % are in the metric's unit"] if has_interval_in_unit else []),
        "adj. p: corrected for all metrics",
    ]
    return [*lines, *wrap_text("; ".join(texts), canvas.width, muted_style)]


def _draw_slope_table(
    dose_response: "DoseResponse", trends: "Sequence[Trend]", name_by_metric: Mapping[str, str], max_width: int
) -> list[str]:
    """Return the header and the rows of the table of slopes: in the unit of each metric, and in percent of its mean.

    The column of p is left out if all metrics have the same. The header of slopes is short in a narrow pane.
    """
    slopes = format_slopes([trend.slope.mean for trend in trends])
    changes = [abs(trend.relative_slope) for trend in trends if math.isfinite(trend.relative_slope)]
    decimals = 1 if min(changes, default=1.0) >= MIN_SHARE_IN_TENTHS else 2
    setting_name = replace_names(dose_response.setting_name)
    slope_header = f"slope per 1 {setting_name}" if len(setting_name) <= MAX_AXIS_NAME_WIDTH else "slope"
    columns = [
        _pad_column("metric", [name_by_metric[trend.metric] for trend in trends], is_left=True),
        _pad_column(slope_header, slopes),
        _pad_column("% of mean", [_format_relative_slope(trend, decimals) for trend in trends]),
        _pad_column("95 % interval", [_format_interval(trend, decimals) for trend in trends]),
    ]
    if not _describe_common_p(dose_response):
        columns.append(_pad_column("adj. p", [format_p(trend.family_p) for trend in trends]))
    if sum(len(column[0]) + 2 for column in columns) - 2 > max_width:
        columns[1] = _pad_column("slope", slopes)
    return ["  ".join(cells) for cells in zip(*columns, strict=True)]


def format_slopes(slopes: "Sequence[float]") -> list[str]:
    """Return slopes with the same number of decimals, enough to show three digits of each slope.

    If this number exceeds MAX_SLOPE_DECIMALS, or a slope needs a power of ten, only align the slopes.
    """
    texts = [f"{slope:+#.3g}" if math.isfinite(slope) else MISSING_TEXT for slope in slopes]
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    if decimals > MAX_SLOPE_DECIMALS or any("e" in text for text in texts):
        return align_decimals(texts)
    return [f"{slope:+.{decimals}f}" if math.isfinite(slope) else MISSING_TEXT for slope in slopes]


def _name_metric_with_unit(metric: str, unsettled_metrics: Collection[str]) -> str:
    unit, name = get_metric_unit(metric), replace_names(metric)
    name += UNSETTLED_SIGN if metric in unsettled_metrics else ""
    return mark_ratio(metric, f"{name} ({unit})" if unit else name)


def _format_relative_slope(trend: "Trend", decimals: int) -> str:
    share = 100 * trend.relative_slope
    return f"{share:+.{decimals}f} %" if math.isfinite(share) else MISSING_TEXT


def _format_interval(trend: "Trend", decimals: int) -> str:
    """Return the interval of a slope in percent, or else in the unit of the metric."""
    if _has_relative_interval(trend):
        return f"{format_interval(100 * trend.relative_low, 100 * trend.relative_high, f'+.{decimals}f')} %"
    return format_interval(trend.slope.interval_low, trend.slope.interval_high, "+#.3g")


def _has_relative_interval(trend: "Trend") -> bool:
    return all(map(math.isfinite, (trend.relative_slope, trend.relative_low, trend.relative_high)))


def _has_interval(trend: "Trend") -> bool:
    return math.isfinite(trend.slope.interval_low) and math.isfinite(trend.slope.interval_high)


def _pad_column(header: str, cells: "Sequence[str]", *, is_left: bool = False) -> list[str]:
    """Return a header and its cells, padded to equal widths on the left, or on the right if `is_left`."""
    width = max(len(header), *map(len, cells))
    return [text.ljust(width) if is_left else text.rjust(width) for text in (header, *cells)]
