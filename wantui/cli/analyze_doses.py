"""Change of the metrics with a setting, for `wantui analyze --compare --by SETTING`."""

import math
from typing import TYPE_CHECKING

from wantui.cli.output import echo, print_columns, print_wrapped_line
from wantui.formatting import format_interval, format_percent_change

if TYPE_CHECKING:
    from wantui.analysis.dose_response import DoseResponse, Trend

CURVE_WIDTH = 41
"""Width of the curve in characters."""


def print_dose_response(dose_response: "DoseResponse") -> None:
    """Print the curve of the declared metric over the setting, and the slope of each metric."""
    from wantui.analysis.differences import P_HEADER
    from wantui.analysis.metrics import describe_ratio_origins

    declared_trend = dose_response.trends[0]
    echo()
    half_widths = declared_trend.half_widths
    lows, highs = declared_trend.means - half_widths, declared_trend.means + half_widths
    curve_lines = draw_interval_lines(declared_trend.means.tolist(), lows.tolist(), highs.tolist(), CURVE_WIDTH)
    mean_rows = [
        (dose, f"{mean:.4g}", f"{low:.4g} to {high:.4g}", line)
        for dose, mean, low, high, line in zip(
            dose_response.doses.value_texts, declared_trend.means, lows, highs, curve_lines, strict=True
        )
    ]
    print_columns(
        (dose_response.doses.setting_name, f"mean {declared_trend.metric}", "95 % interval (seeds)", ""), *mean_rows
    )
    echo()
    print_columns(
        ("metric", f"slope per unit of {dose_response.doses.setting_name}", "95 %", "of the mean", P_HEADER),
        *(_build_trend_row(trend) for trend in dose_response.trends),
    )
    origins_text = describe_ratio_origins(trend.metric for trend in dose_response.trends)
    correction_text = (
        "p of slopes: corrected for the metrics of the answer that includes the metric, or for all slopes of this "
        "table if no answer does (max-T); the verdict's p is that of one metric alone"
    )
    for note in filter(None, (correction_text, dose_response.doses.describe_extrapolation(), origins_text)):
        print_wrapped_line(f"note: {note}", indent=2)


def _build_trend_row(trend: "Trend") -> tuple[str, ...]:
    slope = trend.slope
    has_share = math.isfinite(trend.relative_slope) and math.isfinite(trend.relative_low)
    return (
        trend.metric,
        f"{slope.mean:+.3g}",
        format_interval(slope.interval_low, slope.interval_high),
        format_percent_change(trend.relative_slope) if has_share else "-",
        f"{trend.answer_or_family_p:.3g}",
    )


def draw_interval_lines(means: list[float], lows: list[float], highs: list[float], width: int) -> list[str]:
    """Return a line for each mean with its interval, such as `  ├──●──┤`, all on one scale."""
    first, last = min(lows), max(highs)
    scale = (width - 1) / ((last - first) or 1.0)
    lines = []
    for mean, low, high in zip(means, lows, highs, strict=True):
        start, middle, end = (round((value - first) * scale) for value in (low, mean, high))
        cells = [" "] * start + ["─"] * (end - start + 1)
        cells[start], cells[end], cells[middle] = "├", "┤", "●"
        lines.append("".join(cells))
    return lines
