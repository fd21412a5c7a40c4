"""Section of a report about the effects: a figure and a table of all differences."""

import html
from collections.abc import Sequence

from matplotlib.figure import Figure

from wantui.analysis.comparison import Comparison
from wantui.analysis.differences import P_HEADER, SIGNIFICANCE_LEVEL, Difference
from wantui.analysis.effect_table import (
    RESPONSE_HEADER,
    UNGUIDED_HEADER,
    build_effect_rows,
    describe_response_column,
)
from wantui.analysis.metrics import describe_ratio_origins
from wantui.analysis.p_values import describe_p_values, find_decisive_p
from wantui.analysis.report_page import (
    GROUP_COLOURS,
    MUTED_COLOUR,
    PAPER_COLOUR,
    format_figure_label,
    render_figure,
    render_note,
    render_table,
    simplify_axes,
)
from wantui.analysis.statistics import compute_min_attainable_p
from wantui.analysis.unguided import find_unguided_difference
from wantui.formatting import format_count

MAX_LISTED_DIFFERENCES = 150
"""Maximum number of differences in figure and table; `--csv` writes all."""


def render_effect_section(comparison: Comparison) -> list[str]:
    """Return the HTML of the differences in all metrics."""
    differences = comparison.differences[:MAX_LISTED_DIFFERENCES]
    origins_text = describe_ratio_origins(d.metric for d in differences)
    parts = [
        "<h2>Effects in all metrics</h2>",
        render_figure(
            draw_effects(comparison, differences),
            "Differences relative to the mean of the second group, with 95 % intervals (Fieller). Filled: corrected p "
            "at most 0.05. Squares: the same prompts and seeds at cfg_scale 1, if there are any. Metrics without a "
            f"meaningful percentage are only in the table.{f' Except: {origins_text}.' if origins_text else ''}",
        ),
        _render_table(comparison, differences),
        render_note(
            f"{'. '.join(describe_p_values(comparison))}. p alone: sign flips of this metric and pair, as if it were "
            f"the only test; with {len(comparison.seeds)} seeds, its smallest possible value is "
            f"{compute_min_attainable_p(len(comparison.seeds)):.3g}. BH: adjusted over all metrics and pairs, so that "
            "at most 5 % of the differences found are false on average. d_z: mean difference divided by the standard "
            "deviation of the seeds' differences, with Hedges' correction. "
            f"{describe_response_column(comparison)}."
        ),
    ]
    if (hidden_count := len(comparison.differences) - len(differences)) > 0:
        hidden_text = format_count(hidden_count, "difference")
        parts.append(render_note(f"Not shown: {hidden_text}; the output of --csv and --json contains all of them."))
    return parts


def draw_effects(comparison: Comparison, differences: Sequence[Difference]) -> Figure:
    """Draw the relative differences with their intervals; differences in the declared metric have their own colour."""
    shown_differences = [d for d in differences if d.is_relative]
    figure = Figure(figsize=(8, 0.6 + 0.22 * max(1, len(shown_differences))))
    axes = figure.subplots()
    has_several_pairs = len({(d.first_group, d.second_group) for d in shown_differences}) > 1
    label_metric = comparison.groups[0].label_metric
    for row, d in enumerate(reversed(shown_differences)):
        colour = GROUP_COLOURS[1] if d.metric == comparison.primary_metric else GROUP_COLOURS[0]
        if (unguided := find_unguided_difference(comparison, d)) is not None:
            axes.plot(100 * unguided.relative_difference, row, "s", ms=5, color=MUTED_COLOUR, mfc="none")
        axes.plot([100 * d.relative_low, 100 * d.relative_high], [row, row], color=colour, lw=1.5)
        fill = colour if find_decisive_p(comparison, d) <= SIGNIFICANCE_LEVEL else PAPER_COLOUR
        axes.plot(100 * d.relative_difference, row, "o", ms=5, color=colour, mfc=fill)
    pair_labels = [
        f"{format_figure_label(d.first_group)} against {format_figure_label(d.second_group)}"
        for d in reversed(shown_differences)
    ]
    tick_labels = [
        f"{label_metric(d.metric)}, {pair}" if has_several_pairs else label_metric(d.metric)
        for d, pair in zip(reversed(shown_differences), pair_labels, strict=True)
    ]
    axes.set_yticks(range(len(shown_differences)), tick_labels)
    axes.axvline(0, color=MUTED_COLOUR, lw=0.8)
    axes.set_xlabel(
        "difference, %" if has_several_pairs or not shown_differences else f"{pair_labels[0]}, %", fontsize=9
    )
    axes.margins(y=0.02)
    simplify_axes(axes)
    return figure


def _render_table(comparison: Comparison, differences: Sequence[Difference]) -> str:
    has_several_pairs = len({(d.first_group, d.second_group) for d in differences}) > 1
    has_unguided = comparison.unguided is not None
    rows = []
    for row in build_effect_rows(comparison, differences):
        p_cells = [f"{p:.3g}" for p in (row.p, row.difference.paired_effect.p, row.difference.discovery_p)]
        rows.append(
            [
                html.escape(row.metric),
                *([html.escape(row.groups)] if has_several_pairs else []),
                row.question,
                row.change,
                row.interval,
                *([row.unguided_change] if has_unguided else []),
                row.d_z,
                *p_cells,
                row.response,
            ]
        )
    headers = ["metric", *(["groups"] if has_several_pairs else []), "answer", "difference", "95 %"]
    headers += [UNGUIDED_HEADER] if has_unguided else []
    return render_table([*headers, "d_z", P_HEADER, "p alone", "BH", RESPONSE_HEADER], rows)
