"""Section of a report about the curves over the noise level: bands of means, bands of videos, and cluster tests."""

import html
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from wantui.analysis.comparison import Comparison
from wantui.analysis.curve_comparison import (
    CurveComparison,
    CurveDifference,
    compare_curves,
    describe_cluster_test,
)
from wantui.analysis.differences import P_HEADER, SIGNIFICANCE_LEVEL
from wantui.analysis.metrics import CURVES
from wantui.analysis.null_models import compute_random_walk_null
from wantui.analysis.report_page import (
    GROUP_COLOURS,
    MUTED_COLOUR,
    TEXT_COLOUR,
    choose_group_styles,
    format_figure_label,
    render_figure,
    render_note,
    render_table,
    simplify_axes,
)
from wantui.formatting import capitalize_first, format_count

SHOWN_CURVES = ("norm", "velocity", "turning", "clean_distance")
"""Curves in the figure; the table lists the clusters of all curves."""
MAX_DRAWN_DIFFERENCES = 3
"""Maximum number of group pairs whose difference is drawn; the same in all curves."""
MAX_LISTED_CLUSTERS = 40
CAPTION = (
    "Left: groups. Shaded: 95 % interval of the mean over seeds, which shrinks with more seeds. Between dotted lines: "
    "the central 95 % of the videos, which does not shrink. Dashed grey: a random walk with the same step lengths. "
    "Right: the difference between groups, paired by seed, with the 95 % interval of its mean, computed for each noise "
    "level alone. Bars: clusters with corrected p at most 0.05."
)


def render_curve_section(comparison: Comparison) -> list[str]:
    """Return the HTML of the groups' curves and all clusters."""
    curve_comparisons = compare_curves(comparison.matched_groups)
    parts = ["<h2>Curves over the noise level</h2>", render_figure(draw_curves(comparison, curve_comparisons), CAPTION)]
    if reason := curve_comparisons[0].untested_reason:
        return [*parts, render_note(f"Not tested: {reason}.")]
    rows = _list_clusters(curve_comparisons)
    text = describe_cluster_test(len(comparison.seeds))
    parts.append(f"<p>{html.escape(capitalize_first(text))}.</p>")
    if not rows:
        return [*parts, "<p>No noise level of any curve exceeds the threshold of a cluster.</p>"]
    header = ("curve", "groups", "first has", "most clearly at sigma", "sum of t", P_HEADER, "p alone")
    parts.append(render_table(header, rows[:MAX_LISTED_CLUSTERS]))
    if (hidden_count := len(rows) - MAX_LISTED_CLUSTERS) > 0:
        hidden_text = f"{format_count(hidden_count, 'cluster')} with a larger p"
        parts.append(render_note(f"Not shown: {hidden_text}; the output of --json contains all clusters."))
    return parts


def _list_clusters(curve_comparisons: Sequence[CurveComparison]) -> list[list[str]]:
    """Return the rows of the cluster table, sorted by corrected p."""
    clusters = [
        (cluster.family_p, cluster.p, comparison, difference, cluster)
        for comparison in curve_comparisons
        for difference in comparison.differences
        for cluster in difference.clusters
    ]
    rows = []
    for family_p, p, comparison, difference, cluster in sorted(clusters, key=lambda item: item[:2]):
        sigmas = comparison.curves[0].sigmas
        rows.append(
            [
                comparison.label,
                html.escape(f"{difference.first_group} - {difference.second_group}"),
                "more" if cluster.mass > 0 else "less",
                f"{sigmas[cluster.first_level]:.3f} to {sigmas[cluster.last_level]:.3f}",
                f"{cluster.mass:.1f}",
                f"{family_p:.3g}",
                f"{p:.3g}",
            ]
        )
    return rows


def draw_curves(comparison: Comparison, curve_comparisons: Sequence[CurveComparison]) -> Figure:
    """Draw the curves of the groups and, to the right, the differences of the curves."""
    shown = [curves for curves in curve_comparisons if curves.curve_name in SHOWN_CURVES]
    figure = Figure(figsize=(9, 2.5 * len(shown)), layout="constrained")
    all_axes = figure.subplots(len(shown), 2, squeeze=False)
    pairs = _choose_pairs(shown)
    for (group_axes, difference_axes), curves in zip(all_axes, shown, strict=True):
        _draw_groups(group_axes, comparison, curves)
        _draw_differences(difference_axes, curves, pairs)
        for axes in (group_axes, difference_axes):
            axes.set_xlabel("noise level sigma", fontsize=8)
            axes.set_xlim(1.02, -0.02)
            simplify_axes(axes)
    all_axes[0, 0].legend(fontsize=8, frameon=False)
    if len(pairs) > 1:
        all_axes[0, 1].legend(fontsize=7, frameon=False)
    return figure


def _choose_pairs(curve_comparisons: Sequence[CurveComparison]) -> list[tuple[str, str]]:
    """Return the pairs of groups whose differences are drawn: those with the smallest p, summed over the curves."""
    p_by_pair: dict[tuple[str, str], float] = {}
    for curves in curve_comparisons:
        for difference in curves.differences:
            pair = (difference.first_group, difference.second_group)
            p_by_pair[pair] = p_by_pair.get(pair, 0.0) + difference.p
    return sorted(p_by_pair, key=lambda pair: p_by_pair[pair])[:MAX_DRAWN_DIFFERENCES]


def _draw_groups(axes: Any, comparison: Comparison, curves: CurveComparison) -> None:
    for (colour, line), curve in zip(choose_group_styles(len(curves.curves)), curves.curves, strict=True):
        axes.fill_between(curve.sigmas, curve.low, curve.high, color=colour, alpha=0.3, lw=0)
        for edge in (curve.videos_low, curve.videos_high):
            axes.plot(curve.sigmas, edge, color=colour, lw=0.8, ls=":")
        label = format_figure_label(curve.group_name)
        axes.plot(curve.sigmas, curve.mean, color=colour, lw=1.4, ls=line, label=label)
    trajectory = comparison.groups[0].videos[0].trajectory
    assert trajectory is not None
    sigmas, values = CURVES[curves.curve_name](compute_random_walk_null(trajectory))
    axes.plot(sigmas, values, color=MUTED_COLOUR, lw=1, ls="--")
    axes.set_title(curves.label, fontsize=9, loc="left")


def _draw_differences(axes: Any, curves: CurveComparison, pairs: Sequence[tuple[str, str]]) -> None:
    if curves.untested_reason:
        axes.set_axis_off()
        return
    differences_by_pair = {(d.first_group, d.second_group): d for d in curves.differences}
    drawn = [differences_by_pair[pair] for pair in pairs]
    sigmas = curves.curves[0].sigmas
    # The colours of groups would name a group, so the pairs have others.
    colours = [TEXT_COLOUR] if len(drawn) == 1 else GROUP_COLOURS[-len(drawn) :]
    axes.axhline(0, color=MUTED_COLOUR, lw=0.8)
    for colour, difference in zip(colours, drawn, strict=True):
        axes.fill_between(sigmas, difference.low, difference.high, color=colour, alpha=0.2, lw=0)
        axes.plot(sigmas, difference.mean, color=colour, lw=1.3, label=_name_pair(difference))
    low, high = axes.get_ylim()
    step = 0.06 * (high - low)
    for row, (colour, difference) in enumerate(zip(colours, drawn, strict=True), 1):
        for cluster in difference.clusters:
            if cluster.family_p <= SIGNIFICANCE_LEVEL:
                ends = [float(sigmas[cluster.first_level]), float(sigmas[cluster.last_level])]
                axes.plot(ends, [low - row * step] * 2, color=colour, lw=4, solid_capstyle="butt", marker="|", ms=4)
    axes.set_ylim(low - (len(drawn) + 0.6) * step, high)
    title = f"{curves.curve_name}: {_name_pair(drawn[0])}" if len(drawn) == 1 else f"{curves.curve_name}: differences"
    axes.set_title(title, fontsize=9, loc="left")


def _name_pair(difference: CurveDifference) -> str:
    return f"{format_figure_label(difference.first_group)} - {format_figure_label(difference.second_group)}".lstrip("_")
