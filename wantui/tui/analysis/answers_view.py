"""Drawing of place, room and path: the verdicts in three lines, and their evidence and notes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.views import LOW_VIEW_HEIGHT, Canvas
from wantui.tui.number_formats import format_p
from wantui.tui.plain_names import replace_names
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.analysis.answer import Answer
    from wantui.analysis.answer_evidence import Evidence

VERDICT_COLOURS = {"differs": "found", "rises": "found", "falls": "found", "alike": "success", "flat": "success"}
"""Theme colour by kind of verdict, on groups or on the change with a setting."""
EXPLANATIONS = {
    "place": "where the finished videos lie in latent space",
    "room": "how much of it each path and all finished videos take up",
    "path": "how the latents get from noise to video",
}
"""Subject of each question, shown beside the verdicts if all fit."""
SHORT_EXPLANATIONS = {"place": "where the videos end", "room": "how much they take up", "path": "how they get there"}
"""The same in a few words, each shown if it fits."""
EXPLANATION_GAP = 3
"""Least number of cells between the verdicts and the explanations."""
OPEN_SENTENCE = "Cannot tell"
"""Beginning of the sentence after a finding, which must not look like one."""
QUESTION_WIDTH = 7
"""Width of the question names, with the space after them, in cells."""


def draw_answer_verdicts(answers: "Sequence[Answer]", canvas: Canvas) -> list[Text]:
    """Return the verdicts of answers on one pair or on all groups.

    The subjects of the questions are beside the verdicts if there is room. If a verdict with its evidence is longer
    than a line, only its first part is shown, and in a low pane without evidence; the details have the rest.
    """
    lines: list[Text] = []
    single_lines: list[tuple[Text, str]] = []
    for answer in answers:
        style = canvas.get_style(VERDICT_COLOURS.get(answer.kind, "text-muted"))
        style += Style(bold=answer.kind == "differs")
        evidence_text = _draw_evidence(answer, canvas) or _summarise_evidence(answer)
        first_part, width = replace_names(answer.verdict_parts[0]), canvas.width - QUESTION_WIDTH
        low_evidence_text = "" if canvas.height < LOW_VIEW_HEIGHT else evidence_text  # rows are worth more
        last_texts = (first_part, low_evidence_text)
        if answer.setting_name and answer.evidence and not low_evidence_text:
            last_texts = _draw_slope(answer, width)  # the slope says more than the claim
        texts = ((replace_names(answer.verdict), evidence_text), (first_part, evidence_text), last_texts)
        verdict, evidence = next((parts for parts in texts if len("".join(parts)) <= width), texts[-1])
        verdict_lines = draw_labelled(answer.question, verdict + evidence, canvas, Style(), style)
        if evidence:
            plain_style = canvas.get_style("foreground") + Style(bold=False)
            verdict_lines[0].stylize(plain_style, QUESTION_WIDTH + len(verdict))
            if len(verdict) <= len(verdict_lines[0].plain) - QUESTION_WIDTH:  # so the other lines are evidence only
                for line in verdict_lines[1:]:
                    line.stylize(plain_style)
        if (start := verdict_lines[0].plain.find(OPEN_SENTENCE)) > 0:  # a verdict of two sentences fits on one line
            verdict_lines[0].stylize(canvas.get_style("text-muted") + Style(bold=False), start)
        lines += verdict_lines
        if len(verdict_lines) == 1:
            single_lines.append((verdict_lines[0], answer.question))
    column = max((line.cell_len for line, _ in single_lines), default=0) + EXPLANATION_GAP
    fits = column + max(map(len, EXPLANATIONS.values())) <= canvas.width
    for line, question in single_lines:
        text = (EXPLANATIONS if fits else SHORT_EXPLANATIONS).get(question, "")
        gap = (column if fits else canvas.width - len(text)) - line.cell_len
        if gap >= EXPLANATION_GAP:
            line.append(" " * gap).append(text, canvas.get_style("text-muted"))
    return lines


def _draw_evidence(answer: "Answer", canvas: Canvas) -> str:
    """Return the evidence of an answer on place if it fits behind the verdict; otherwise an empty text.

    The smallest possible p is left out.
    """
    if answer.question != "place" or not answer.evidence or answer.correction:
        return ""
    text = f": {replace_names(answer.effects_text)}"
    return text if len(replace_names(answer.verdict)) + len(text) <= canvas.width - QUESTION_WIDTH else ""


def _summarise_evidence(answer: "Answer") -> str:
    """Return the distance of an answer on place, or the clearest slope, with p; otherwise nothing."""
    if not answer.evidence:
        return ""
    if answer.setting_name:
        evidence = _choose_slope(answer)
        return f": {replace_names(evidence.label)} {evidence.format_effect()} per unit, p {format_p(evidence.p)}"
    if answer.question != "place":
        return ""
    (evidence,) = answer.evidence
    return f": distance {evidence.effect:.3g}, p {format_p(evidence.p)}"


def _draw_slope(answer: "Answer", width: int) -> tuple[str, str]:
    """Return a slope as the whole verdict, for a pane without room for the claim; with its p if that fits.

    The numbers of a slope that differs from 0 are the second text, which is not bold.
    """
    evidence = _choose_slope(answer)
    label = replace_names(evidence.label)
    text = f" {evidence.format_effect()} per {replace_names(answer.setting_name)}"
    p_text = f", p {format_p(evidence.p)}"
    if evidence.kind != "differs":
        label = f"cannot tell: {label}"
    if len(label + text + p_text) <= width:
        text += p_text
    return (label, text) if evidence.kind == "differs" else (label + text, "")


def _choose_slope(answer: "Answer") -> "Evidence":
    """Return the first slope with the smallest p, if possible one that differs from 0."""
    return min(answer.evidence, key=lambda item: (item.kind != "differs", item.p))


def draw_answer_details(answers: "Sequence[Answer]", canvas: Canvas) -> list[Text]:
    """Return the lines with the details of each answer that are not beside its verdict, followed by all notes.

    The answers are about one pair, or about all groups.
    """
    lines: list[Text] = []
    for answer in answers:
        if _draw_evidence(answer, canvas):
            continue
        details = ". ".join((*answer.further_sentences, answer.details))
        lines += draw_labelled(answer.question, replace_names(details), canvas, Style(dim=True), Style())
    note_style = canvas.get_style("text-muted")
    for note in dict.fromkeys(note for answer in answers for note in answer.notes):
        lines += wrap_text(f"note: {replace_names(note)}", canvas.width, note_style)
    return lines


def draw_labelled(label: str, text: str, canvas: Canvas, label_style: Style, style: Style) -> list[Text]:
    """Return wrapped text beside a label; further lines are indented."""
    wrapped_lines = wrap_text(text, canvas.width - QUESTION_WIDTH, style)
    labels = [label, *[""] * (len(wrapped_lines) - 1)]
    return [
        Text.assemble((name.ljust(QUESTION_WIDTH), label_style), line)
        for name, line in zip(labels, wrapped_lines, strict=True)
    ]
