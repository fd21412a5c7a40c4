"""Drawing of a dose-response: verdict, curve of the declared metric, slopes of all metrics."""

import math
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.views import WIDE_VIEW_WIDTH, Canvas
from wantui.tui.chart import Chart, find_value_range
from wantui.tui.number_formats import align_decimals
from wantui.tui.plots import draw_sparkline
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wantui.analysis.dose_response import DoseResponse, Trend

MAX_CHART_WIDTH, MIN_CHART_HEIGHT, MAX_CHART_HEIGHT = 140, 6, 11
VERDICT_COLOURS = {"rises": "warning", "falls": "warning", "flat": "success"}
"""Theme colour by kind of verdict."""
DOSE_SIGN = "●"


def draw_dose_response(dose_response: "DoseResponse", canvas: Canvas) -> list[Text]:
    """Return verdict, curve of the declared metric with its 95 % intervals, and the slope of each metric."""
    declared_trend = dose_response.trends[0]
    colour_name = VERDICT_COLOURS.get(dose_response.verdict_kind, "")
    lines = wrap_text(dose_response.verdict_text, canvas.width, canvas.get_style(colour_name) if colour_name else None)
    chart_height = max(MIN_CHART_HEIGHT, min(MAX_CHART_HEIGHT, canvas.height - len(lines) - 1))
    lines += _draw_chart(declared_trend, dose_response, canvas, chart_height)
    lines += _draw_slopes(dose_response.trends, canvas)
    note = f"slope: change of the metric for each unit of {dose_response.setting_name}, paired by seed"
    return [*lines, *wrap_text(note, canvas.width, Style(dim=True)), Text("")]


def _draw_chart(trend: "Trend", dose_response: "DoseResponse", canvas: Canvas, height: int) -> list[Text]:
    doses, means = list(dose_response.doses), trend.means.tolist()
    lows, highs = (trend.means - trend.half_widths).tolist(), (trend.means + trend.half_widths).tolist()
    margin = 0.03 * (doses[-1] - doses[0])
    chart = Chart(
        min(canvas.width, MAX_CHART_WIDTH),
        height,
        (doses[0] - margin, doses[-1] + margin),
        find_value_range([lows, highs]),
        dose_response.setting_name,
    )
    style = canvas.get_style("primary")
    chart.add_band(doses, lows, highs, style + Style(dim=True))
    chart.add_line(doses, means, style)
    for dose, mean in zip(doses, means, strict=True):
        chart.add_sign(dose, mean, DOSE_SIGN, style)
    title = Text.assemble((trend.metric, "bold"), ("  mean and 95 % interval over seeds", "dim"))
    return [title, *chart.draw_lines()]


def _draw_slopes(trends: "Sequence[Trend]", canvas: Canvas) -> list[Text]:
    """Return a table of slopes, whose decimal points are below each other in every column."""
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
        _pad_column("metric", [trend.metric for trend in trends]),
        _pad_column("slope", means),
        _pad_column("95 % interval", intervals),
        _pad_column("max-T p", p_texts),
    )
    header, *rows = ("  ".join(cells) for cells in zip(*columns, strict=True))
    lines = [Text(header, Style(bold=True, dim=True))]
    return lines + [_draw_trend(trend, row, canvas) for trend, row in zip(trends, rows, strict=True)]


def _pad_column(header: str, cells: "Sequence[str]") -> list[str]:
    """Return a header and its cells, padded to equal widths."""
    width = max(len(header), *map(len, cells))
    return [f"{text:<{width}}" for text in (header, *cells)]


def _draw_trend(trend: "Trend", row: str, canvas: Canvas) -> Text:
    from wantui.analysis.differences import SIGNIFICANCE_LEVEL

    is_significant = trend.family_p <= SIGNIFICANCE_LEVEL
    style = canvas.get_style("warning") + Style(bold=True) if is_significant else canvas.get_style("foreground")
    line = Text(row, style)
    if canvas.width >= WIDE_VIEW_WIDTH:
        line.append(f"  {draw_sparkline(trend.means.tolist(), min(12, len(trend.means)))}", canvas.get_style("accent"))
    return line
