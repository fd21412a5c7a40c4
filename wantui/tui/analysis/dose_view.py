"""Drawing of a dose-response: verdict, curve of the declared metric, slopes of all metrics."""

import math
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.views import WIDE_VIEW_WIDTH, Canvas
from wantui.tui.chart import Chart, find_value_range
from wantui.tui.plots import draw_sparkline
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
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
    name_width = max(len(trend.metric) for trend in dose_response.trends)
    header = f"{'metric':<{name_width}} {'slope':>10} {'95 % interval':>22} {'max-T p':>8}"
    lines.append(Text(header, Style(bold=True, dim=True)))
    lines += [_draw_trend(trend, name_width, canvas) for trend in dose_response.trends]
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


def _draw_trend(trend: "Trend", name_width: int, canvas: Canvas) -> Text:
    from wantui.analysis.differences import SIGNIFICANCE_LEVEL

    is_significant = trend.family_p <= SIGNIFICANCE_LEVEL
    style = canvas.get_style("warning") + Style(bold=True) if is_significant else canvas.get_style("foreground")
    slope = trend.slope
    interval_text = f"{slope.interval_low:+#.3g} to {slope.interval_high:+#.3g}"
    p_text = f"{trend.family_p:.3g}" if math.isfinite(trend.family_p) else "-"
    line = Text(f"{trend.metric:<{name_width}} {slope.mean:>+#10.3g} {interval_text:>22} {p_text:>8}", style)
    if canvas.width >= WIDE_VIEW_WIDTH:
        line.append(f"  {draw_sparkline(trend.means.tolist(), min(12, len(trend.means)))}", canvas.get_style("accent"))
    return line
