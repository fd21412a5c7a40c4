"""Drawing of place, room and path: the verdicts in three lines, and their evidence and notes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.metric_titles import name_metrics
from wantui.tui.analysis.views import Canvas
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.analysis.answers import Answer

VERDICT_COLOURS = {"differs": "found", "alike": "success"}
"""Theme colour by kind of verdict on groups."""
QUESTION_WIDTH = 7
"""Width of the names of the questions, with the space after them, in cells."""


def draw_answer_verdicts(answers: "Sequence[Answer]", canvas: Canvas) -> list[Text]:
    """Return the verdicts of answers on one pair or on all groups."""
    lines: list[Text] = []
    for answer in answers:
        style = canvas.get_style(VERDICT_COLOURS.get(answer.kind, "text-muted"))
        style += Style(bold=answer.kind == "differs")
        lines += _draw_labelled(answer.question, name_metrics(answer.verdict), canvas, Style(bold=True), style)
    return lines


def draw_answer_details(answers: "Sequence[Answer]", canvas: Canvas) -> list[Text]:
    """Return the details of answers on one pair or on all groups, then their notes."""
    lines: list[Text] = []
    for answer in answers:
        lines += _draw_labelled(answer.question, name_metrics(answer.details), canvas, Style(dim=True), Style())
    note_style = canvas.get_style("text-muted")
    for note in dict.fromkeys(note for answer in answers for note in answer.notes):
        lines += wrap_text(f"note: {name_metrics(note)}", canvas.width, note_style)
    return lines


def _draw_labelled(label: str, text: str, canvas: Canvas, label_style: Style, style: Style) -> list[Text]:
    """Return wrapped text beside a label; further lines are indented."""
    wrapped_lines = wrap_text(text, canvas.width - QUESTION_WIDTH, style)
    labels = [label, *[""] * (len(wrapped_lines) - 1)]
    return [
        Text.assemble((name.ljust(QUESTION_WIDTH), label_style), line)
        for name, line in zip(labels, wrapped_lines, strict=True)
    ]
