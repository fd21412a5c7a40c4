"""Section of a report about the change of the metrics with a setting: curves and slopes."""

import html
import math

import numpy as np
from matplotlib.figure import Figure

from wantui.analysis.differences import P_HEADER
from wantui.analysis.dose_response import DoseResponse, Trend
from wantui.analysis.metrics import describe_ratio_origins
from wantui.analysis.report_page import (
    GROUP_COLOURS,
    MUTED_COLOUR,
    render_svg,
    render_table,
    render_verdict,
    simplify_axes,
)
from wantui.formatting import format_interval, format_percent_change

MAX_SHOWN_METRICS = 6
"""Maximum number of curves: the declared metric and those with the smallest p."""
MAX_SEED_LINES = 40
"""Maximum number of seeds whose values are drawn."""


def render_dose_section(dose_response: DoseResponse) -> list[str]:
    """Return the HTML of the verdict, the curves of the metrics with the smallest p, and a table of slopes."""
    name = html.escape(dose_response.doses.setting_name)
    range_text = html.escape(dose_response.doses.describe_extrapolation())
    origins_text = describe_ratio_origins(trend.metric for trend in dose_response.trends)
    return [
        f"<h2>Change with {name}</h2>",
        render_verdict(dose_response.verdict_text, dose_response.verdict_kind),
        render_svg(_draw_curves(dose_response)),
        '<p class="note">Mean and 95 % interval over seeds for each value; thin lines: seeds, averaged over phrasings. '
        "The declared metric comes first, then the metrics with the smallest p.</p>",
        _render_slopes(dose_response),
        f'<p class="note">Slope: least-squares change of the metric per unit of {name}, averaged over '
        "seeds, with Student's 95 % interval. p alone: the larger of a sign-flip test of the slopes and a permutation "
        f"test within seeds, as if this metric were the only test. {P_HEADER}: for the metrics of the answer that "
        "includes the metric, or for all metrics of the table if no answer does (max-T). "
        "BH: adjusted so that at most 5 % of the slopes found are false on average."
        f"{f' Of the mean: {origins_text}.' if origins_text else ''}{f' {range_text}.' if range_text else ''}</p>",
    ]


def _draw_curves(dose_response: DoseResponse) -> Figure:
    declared_trend, *other_trends = dose_response.trends
    shown_trends = [
        declared_trend,
        *sorted(other_trends, key=lambda trend: trend.answer_or_family_p)[: MAX_SHOWN_METRICS - 1],
    ]
    row_count = math.ceil(len(shown_trends) / 3)
    figure = Figure(figsize=(9, 2.6 * row_count), layout="constrained")
    all_axes = figure.subplots(row_count, 3, squeeze=False).ravel()
    doses = np.array(dose_response.doses.values)
    for axes, trend in zip(all_axes, shown_trends, strict=False):
        axes.plot(doses, trend.seed_values[:MAX_SEED_LINES].T, color=MUTED_COLOUR, lw=0.5, alpha=0.6)
        low, high = trend.means - trend.half_widths, trend.means + trend.half_widths
        axes.fill_between(doses, low, high, color=GROUP_COLOURS[0], alpha=0.2, lw=0)
        axes.plot(doses, trend.means, "o-", color=GROUP_COLOURS[0], ms=4, lw=1.5)
        axes.set_title(trend.metric, fontsize=9)
        axes.set_xlabel(dose_response.doses.setting_name, fontsize=8)
        simplify_axes(axes)
    for axes in all_axes[len(shown_trends) :]:
        axes.set_visible(False)
    return figure


def _render_slopes(dose_response: DoseResponse) -> str:
    header = ("metric", "slope", "95 %", "of the mean", P_HEADER, "p alone", "BH")
    return render_table(header, [_format_slope_cells(trend) for trend in dose_response.trends])


def _format_slope_cells(trend: Trend) -> list[str]:
    slope = trend.slope
    has_share = math.isfinite(trend.relative_slope) and math.isfinite(trend.relative_low)
    share_text = (
        f"{format_percent_change(trend.relative_slope)} ({format_percent_change(trend.relative_low)} to "
        f"{format_percent_change(trend.relative_high)})"
        if has_share
        else "-"
    )
    return [
        html.escape(trend.metric),
        f"{slope.mean:+.3g}",
        format_interval(slope.interval_low, slope.interval_high),
        share_text,
        *(f"{p:.3g}" for p in (trend.answer_or_family_p, trend.p, trend.discovery_p)),
    ]
