"""Drawing of a dose-response: verdict, curve of the declared metric, slopes of all metrics."""

import math
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.formatting import format_count
from wantui.tui.analysis.forest_plot import MIN_WIDE_PLOT, NO_SCALE_TEXT, ForestAxis, choose_axis, draw_interval
from wantui.tui.analysis.metric_titles import name_metrics
from wantui.tui.analysis.views import Canvas
from wantui.tui.chart import Chart, find_value_range
from wantui.tui.number_formats import align_decimals
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wantui.analysis.dose_response import DoseResponse, Trend

MAX_CHART_WIDTH, MIN_CHART_HEIGHT, MAX_CHART_HEIGHT = 140, 6, 11
VERDICT_COLOURS = {"rises": "found", "falls": "found", "flat": "success"}
"""Theme colour by kind of verdict."""
DOSE_SIGN = "●"
INTERVAL_COLOUR = "text-muted"
"""Theme colour of the intervals, unlike that of the means."""
MAX_AXIS_NAME_WIDTH = 12
"""Longest name of a setting, in cells, beside the ticks of its axis; the title has longer ones."""
PLOT_TITLE = "% of mean"


def draw_dose_response(dose_response: "DoseResponse", canvas: Canvas, lines_above: int = 0) -> list[Text]:
    """Return a verdict in a line, the curve of the declared metric with its 95 % intervals, the slope of each metric,
    and the verdict with its evidence.

    Args:
        lines_above: lines of the pane above these.
    """
    colour_name = VERDICT_COLOURS.get(dose_response.verdict_kind, "")
    style = canvas.get_style(colour_name) if colour_name else Style()
    lines = wrap_text(_summarize_verdict(dose_response), canvas.width, style + Style(bold=True))
    free_height = canvas.height - lines_above - len(lines) - 1
    chart_height = max(MIN_CHART_HEIGHT, min(MAX_CHART_HEIGHT, free_height))
    lines += _draw_chart(dose_response.trends[0], dose_response, canvas, chart_height)
    lines += _draw_slopes(dose_response, canvas)
    return [*lines, *wrap_text(name_metrics(dose_response.verdict_text), canvas.width)]


def _summarize_verdict(dose_response: "DoseResponse") -> str:
    """Return the verdict on the declared metric without its evidence."""
    from wantui.analysis.differences import SIGNIFICANCE_LEVEL
    from wantui.analysis.statistics import compute_min_attainable_p, count_min_pairs

    metric, doses = name_metrics(dose_response.trends[0].metric), dose_response.doses
    change = f"{dose_response.setting_name} from {doses[0]:g} to {doses[-1]:g}"
    seed_count = len(dose_response.trends[0].seed_values)
    if dose_response.verdict_kind in ("rises", "falls"):
        return f"{metric} {dose_response.verdict_kind} with {change}"
    if dose_response.verdict_kind == "flat":
        return f"{metric} is flat over {change}"
    has_few_seeds = compute_min_attainable_p(seed_count) > SIGNIFICANCE_LEVEL
    reason = f" with {format_count(seed_count, 'seed')} ({count_min_pairs()} needed)" if has_few_seeds else ""
    return f"{metric} with {change}: cannot tell{reason}"


def _draw_chart(trend: "Trend", dose_response: "DoseResponse", canvas: Canvas, height: int) -> list[Text]:
    from wantui.analysis.metrics import get_metric_unit

    doses, means = list(dose_response.doses), trend.means.tolist()
    lows, highs = (trend.means - trend.half_widths).tolist(), (trend.means + trend.half_widths).tolist()
    margin = 0.03 * (doses[-1] - doses[0])
    chart = Chart(
        min(canvas.width, MAX_CHART_WIDTH),
        height,
        (doses[0] - margin, doses[-1] + margin),
        find_value_range([lows, highs]),
        dose_response.setting_name if len(dose_response.setting_name) <= MAX_AXIS_NAME_WIDTH else "",
    )
    style, interval_style = canvas.get_style("foreground"), canvas.get_style(INTERVAL_COLOUR)
    chart.add_band(doses, lows, highs, interval_style + Style(dim=True))
    chart.add_line(doses, means, style)
    for dose, mean, low, high in zip(doses, means, lows, highs, strict=True):
        chart.add_line([dose, dose], [low, high], interval_style)
        chart.add_sign(dose, mean, DOSE_SIGN, canvas.get_style("accent") + Style(bold=True))
    unit = get_metric_unit(trend.metric)
    subject = f"{name_metrics(trend.metric)}{f' in {unit}' if unit else ''} over {dose_response.setting_name}"
    title = Text.assemble((subject, "bold"), ("  mean and 95 % interval over seeds", "dim"))
    return [title, *chart.draw_lines()]


def _draw_slopes(dose_response: "DoseResponse", canvas: Canvas) -> list[Text]:
    """Return a table of slopes, whose decimal points are below each other; with a plot of them in a wide pane."""
    from wantui.analysis.differences import SIGNIFICANCE_LEVEL

    trends = dose_response.trends
    slopes = [trend.slope for trend in trends]
    means, lows, highs = (
        align_decimals([f"{value:+#.3g}" if math.isfinite(value) else "-" for value in values])
        for values in (
            [slope.mean for slope in slopes],
            [slope.interval_low for slope in slopes],
            [slope.interval_high for slope in slopes],
        )
    )
    intervals = [f"{low} to {high}" for low, high in zip(lows, highs, strict=True)]
    p_texts = [f"{trend.family_p:.4f}" if math.isfinite(trend.family_p) else "-" for trend in trends]
    columns = (
        _pad_column("metric", [name_metrics(trend.metric) for trend in trends]),
        _pad_column("slope", means),
        _pad_column("95 % interval", intervals),
        _pad_column("adj. p", p_texts),
    )
    header, *rows = ("  ".join(cells) for cells in zip(*columns, strict=True))
    changes = [(trend.relative_slope, trend.relative_low, trend.relative_high) for trend in trends]
    axis = choose_axis(changes, canvas.width - len(header) - 2, MIN_WIDE_PLOT)
    lines = [Text(f"{header}  {_draw_axis_labels(axis)}".rstrip(), Style(bold=True, dim=True))]
    for trend, row, change in zip(trends, rows, changes, strict=True):
        is_significant = trend.family_p <= SIGNIFICANCE_LEVEL
        style = canvas.get_style("found") + Style(bold=True) if is_significant else canvas.get_style("text-muted")
        line = Text.assemble((row, style))
        if axis.width and all(map(math.isfinite, change)):
            line.append("  ").append_text(draw_interval(change, is_significant, axis, style))
        elif axis.width:
            line.append("  ").append(NO_SCALE_TEXT.center(axis.width)[: axis.width].rstrip(), Style(dim=True))
        lines.append(line)
    p_note = "; adj. p: corrected over all metrics"
    unit = f"for each unit of {dose_response.setting_name}, paired by seed"
    plot_note = "; plot: slope in percent of the metric's mean; a point alone hides its interval" if axis.width else ""
    return [*lines, *wrap_text(f"slope: change of the metric {unit}{plot_note}{p_note}", canvas.width, Style(dim=True))]


def _draw_axis_labels(axis: ForestAxis) -> str:
    """Return the tick labels of the plot, after its title if it fits."""
    labels = axis.draw_labels()
    title_width = len(PLOT_TITLE) + 1
    return PLOT_TITLE + labels[len(PLOT_TITLE) :] if labels[:title_width] == " " * title_width else labels


def _pad_column(header: str, cells: "Sequence[str]") -> list[str]:
    """Return a header and its cells, padded to equal widths."""
    width = max(len(header), *map(len, cells))
    return [f"{text:<{width}}" for text in (header, *cells)]
