"""Drawing of the interaction of two factors, and of correlations with attention and external labels."""

from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.advice import replace_options_by_keys
from wantui.tui.analysis.answers_view import draw_labelled
from wantui.tui.analysis.tables import draw_rows
from wantui.tui.analysis.views import Canvas
from wantui.tui.plain_names import replace_names
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.analysis.correlation_data import VideoCorrelations
    from wantui.analysis.interaction import Interaction


def draw_interaction(interaction: "Interaction", canvas: Canvas) -> list[Text]:
    """Return the question, place, room and path, a table of all effects, and notes."""
    from wantui.analysis.interaction import EFFECT_HEADERS
    from wantui.analysis.interaction_text import (
        UNIT_NOTES,
        describe_interaction,
        judge_declared_metric,
        list_interaction_notes,
    )

    lines = wrap_text(interaction.question_text, canvas.width, Style(bold=True))
    for question, text in describe_interaction(interaction).items():
        lines += draw_labelled(question, replace_names(text), canvas, Style(bold=True), Style())
    if verdict := judge_declared_metric(interaction):
        lines += wrap_text(replace_names(verdict), canvas.width)
    rows_by_contrast: dict[str, list[tuple[tuple[str, ...], bool]]] = {}
    for effect in interaction.effects:
        rows_by_contrast.setdefault(effect.contrast.name, []).append((effect.format_cells()[1:], effect.is_found))
    lines += [Text(""), *draw_rows(EFFECT_HEADERS[1:], rows_by_contrast, canvas)]
    return [*lines, *_draw_notes([*UNIT_NOTES, *list_interaction_notes(interaction)], canvas)]


def draw_correlations(result: "VideoCorrelations", canvas: Canvas) -> list[Text]:
    """Return the question, a summary and a table of results for each kind of correlation."""
    from wantui.analysis.correlation_text import (
        CORRELATION_HEADERS,
        describe_correlations,
        describe_scope,
        format_correlation,
        list_correlation_notes,
    )

    lines: list[Text] = []
    for kind, correlations in result.correlations_by_kind.items():
        lines += wrap_text(replace_names(describe_correlations(correlations, kind)), canvas.width)
        rows_by_value: dict[str, list[tuple[tuple[str, ...], bool]]] = {}
        for item in result.select(kind):
            cells = format_correlation(item)
            rows_by_value.setdefault(cells[0], []).append((cells[1:], item.correlation.is_found))
        lines += [*(draw_rows(CORRELATION_HEADERS[1:], rows_by_value, canvas) if rows_by_value else []), Text("")]
    lines += wrap_text(describe_scope(result.data), canvas.width, Style(dim=True))
    left_out = [f"left out: {name}: {reason}" for name, reason in result.data.exclusion_reasons]
    notes = [*list_correlation_notes(result.data), *result.data.warnings, *left_out]
    return [*lines, *_draw_notes(notes, canvas)]


def _draw_notes(notes: list[str], canvas: Canvas) -> list[Text]:
    style = canvas.get_style("text-muted")
    texts = [f"note: {replace_names(replace_options_by_keys(note))}" for note in notes]
    return [line for text in texts for line in wrap_text(text, canvas.width, style)]
