"""Sections of a report about the interaction of two factors, and about correlations with attention and labels."""

import html

from wantui.analysis.comparison import Comparison
from wantui.analysis.correlation_data import correlate_videos
from wantui.analysis.correlation_text import (
    CORRELATION_HEADERS,
    describe_correlations,
    describe_scope,
    format_correlation,
    list_correlation_notes,
)
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.interaction import (
    EFFECT_HEADERS,
    Interaction,
    find_factor_pairs,
    measure_interaction,
)
from wantui.analysis.interaction_text import (
    UNIT_NOTES,
    describe_interaction,
    judge_declared_metric,
    list_interaction_notes,
)
from wantui.analysis.metrics import METRICS
from wantui.analysis.report_page import render_note, render_table, render_verdict
from wantui.errors import UserError
from wantui.formatting import capitalize_first

MAX_FACTOR_PAIRS = 3
"""Maximum number of factor pairs whose interaction is shown."""


def render_interaction_section(comparison: Comparison) -> list[str]:
    """Return the HTML of the interactions between the shown pairs of factors."""
    interactions = []
    for grouping in _choose_factor_pairs(comparison):
        videos = comparison.videos
        try:
            interactions.append(measure_interaction(videos, grouping, comparison.declaration))
        except CannotCompareError:  # such as a missing combination of the two factors
            continue
    if not interactions:
        return []
    parts = ["<h2>Interaction</h2>"]
    for interaction in interactions:
        rows = [_render_cells(effect.format_cells(), effect.is_found) for effect in interaction.effects]
        parts += [
            _render_paragraph(interaction.question_text),
            *_render_answers(interaction),
            *([_render_paragraph(verdict)] if (verdict := judge_declared_metric(interaction)) else []),
            render_table(EFFECT_HEADERS, rows),
            *(render_note(f"Note: {note}.") for note in (*UNIT_NOTES, *list_interaction_notes(interaction))),
        ]
    return parts


def _choose_factor_pairs(comparison: Comparison) -> list[str]:
    """Return the pairs of factors to show: the grouping if it has two factors, otherwise pairs of the videos' factors.

    Pairs that include the grouping come first.
    """
    if comparison.grouping.count(",") == 1:
        return [comparison.grouping]
    pairs = find_factor_pairs(comparison.videos)
    pairs.sort(key=lambda pair: comparison.grouping not in pair.split(","))
    return pairs[:MAX_FACTOR_PAIRS]


def _render_answers(interaction: Interaction) -> list[str]:
    found_questions = {effect.question for effect in interaction.effects if effect.is_found}
    return [
        render_verdict(text, "differs" if question in found_questions else "", question)
        for question, text in describe_interaction(interaction).items()
    ]


def render_correlation_section(comparison: Comparison) -> list[str]:
    """Return the HTML of the compared videos' correlations; empty without attention maps and labels."""
    videos = comparison.videos
    label_names = list(videos[0].labels)
    if not label_names and not any(video.attention_path is not None for video in videos):
        return []
    heading = "<h2>Correlations with attention and labels</h2>"
    try:
        result = correlate_videos(videos, list(METRICS), label_names)
    except UserError as error:
        return [heading, render_note(f"{error}.")]
    parts = [heading]
    for kind, correlations in result.correlations_by_kind.items():
        parts.append(_render_paragraph(describe_correlations(correlations, kind)))
        rows = [_render_cells(format_correlation(item), item.correlation.is_found) for item in result.select(kind)]
        parts += [render_table(CORRELATION_HEADERS, rows)] if rows else []
    notes = [describe_scope(result.data), *list_correlation_notes(result.data), *result.data.warnings]
    return [*parts, *(render_note(f"Note: {note}.") for note in notes)]


def _render_paragraph(text: str) -> str:
    """Return a sentence as HTML, with a capital letter."""
    return f"<p>{html.escape(capitalize_first(text))}</p>"


def _render_cells(cells: tuple[str, ...], is_found: bool) -> list[str]:
    """Return cells as HTML, in bold if a result is found."""
    escaped = [html.escape(cell) for cell in cells]
    return [f"<b>{cell}</b>" for cell in escaped] if is_found else escaped
