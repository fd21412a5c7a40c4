"""First section of a report: place, room and path in three lines, for all groups and for each pair."""

import html

from wantui.analysis.answer_evidence import CHANCE_NOTE, QUESTIONS
from wantui.analysis.comparison import Comparison
from wantui.analysis.report_page import render_note, render_verdict
from wantui.formatting import capitalize_first


def render_answer_section(comparison: Comparison) -> list[str]:
    """Return the HTML of the answers, below an explanation of the questions."""
    if not comparison.answers:
        return []
    pairs = comparison.answered_pairs
    questions = " ".join(f"<b>{name}</b>: {html.escape(question)}" for name, question in QUESTIONS.items())
    parts = ["<h2>Do the groups differ?</h2>", f'<p class="note">{questions}</p>']
    for pair in pairs:
        if len(pairs) > 1:
            parts.append(f"<h3>{html.escape(f'{pair[0]} against {pair[1]}' if pair[0] else 'All groups')}</h3>")
        pair_answers = comparison.find_answers(*pair)
        parts += [render_verdict(item.verdict, item.kind, item.question, item.details) for item in pair_answers]
        notes = dict.fromkeys(note for answer in pair_answers for note in answer.notes)
        parts += [render_note(f"Note: {note}.") for note in notes]
    return [*parts, render_note(f"{capitalize_first(CHANCE_NOTE)}.")]
