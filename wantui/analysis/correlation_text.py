"""Text of correlations with attention and external labels, for the command line, the screen and the report."""

import math
from collections.abc import Sequence

from wantui.analysis.correlation_data import CorrelationData
from wantui.analysis.correlations import (
    ACROSS_SEEDS,
    ACROSS_VARIATIONS,
    MIN_INTERVAL_UNITS,
    Correlation,
    MergedCorrelation,
    find_clearest_correlation,
)
from wantui.analysis.differences import P_HEADER, SIGNIFICANCE_LEVEL
from wantui.formatting import format_count

CORRELATION_QUESTIONS = {
    ACROSS_SEEDS: "across seeds (of two videos of one variation, does the one with the larger value have the "
    "larger metric?):",
    ACROSS_VARIATIONS: "across variations (of two videos of one seed, does the one with the larger value have the "
    "larger metric? The unit is the prompt; other differences between the prompts can also cause a correlation):",
}
"""Question by kind of correlation."""
CORRELATION_HEADERS = ("value", "metric", "rho", "95 %", P_HEADER)


def describe_scope(data: CorrelationData) -> str:
    """Return which videos are correlated, and the meaning of the columns."""
    seeds_text = format_count(len(data.seeds), "seed")
    return (
        f"{format_count(len(data.variation_names), 'variation')} with the same {seeds_text}. "
        "rho: Spearman's; 95 %: jackknife interval over the compared seeds or variations; p: permutations of "
        "these, corrected for all metrics and values, including those that are not shown"
    )


def describe_correlations(correlations: Sequence[Correlation], kind: str) -> str:
    """Return the question of one kind of correlation, and the number and names of the significant correlations.

    Args:
        correlations: all correlations of this kind.
    """
    found = [item for item in correlations if item.is_found]
    finite = [item for item in correlations if math.isfinite(item.rho)]
    if not finite:
        return f"{CORRELATION_QUESTIONS[kind]} no value varies"
    min_p = correlations[0].min_attainable_p
    clearest = find_clearest_correlation(finite)
    if found:
        text = f"{len(found)} of {format_count(len(correlations), 'correlation')} found"
    elif min_p > SIGNIFICANCE_LEVEL:
        unit = "seed" if kind == ACROSS_SEEDS else "variation"
        return (
            f"{CORRELATION_QUESTIONS[kind]} too few {unit}s for a p of {SIGNIFICANCE_LEVEL:g} (smallest possible p "
            f"{min_p:.2g}). Generate more {unit}s"
        )
    else:
        text = f"none of {format_count(len(correlations), 'correlation')} found"
    interval = f" (95 %: {clearest.low:+.2f} to {clearest.high:+.2f})" if math.isfinite(clearest.low) else ""
    return (
        f"{CORRELATION_QUESTIONS[kind]} {text}; clearest: {clearest.label} with {clearest.covariate}, "
        f"rho {clearest.rho:+.2f}{interval}, p {clearest.family_p:.3g}, corrected for all; "
        f"smallest possible p {min_p:.2g}"
    )


def list_correlation_notes(data: CorrelationData) -> list[str]:
    """Return sentences on missing intervals, and on metrics whose correlation cannot be significant."""
    notes = []
    if 1 < len(data.variation_names) < MIN_INTERVAL_UNITS:
        notes.append(
            f"confidence intervals for correlations across variations need at least {MIN_INTERVAL_UNITS} variations"
        )
    if data.unsettled_metrics:
        notes.append(
            f"metrics that depend on the steps never count as significant: {', '.join(data.unsettled_metrics)}"
        )
    return notes


def describe_hidden_correlations(correlations: Sequence[Correlation], shown: Sequence[MergedCorrelation]) -> str:
    """Return how many correlations of one kind are not shown; empty if all are shown, or if none can be significant."""
    hidden_count = len(correlations) - sum(len(item.covariates) for item in shown)
    if not hidden_count or not shown:
        return ""
    return f"{hidden_count} more are not shown. List all with --json, or choose metrics with --metrics"


def format_correlation(merged: MergedCorrelation) -> tuple[str, ...]:
    """Return the cells of a correlation under CORRELATION_HEADERS."""
    item = merged.correlation
    return (
        ", ".join(merged.covariates),
        item.label,
        _format_value(item.rho, "+.2f"),
        f"{item.low:+.2f} to {item.high:+.2f}" if math.isfinite(item.low) else "-",
        _format_value(item.family_p, ".3g"),
    )


def _format_value(value: float, specification: str) -> str:
    return format(value, specification) if math.isfinite(value) else "-"
