"""Place, room and path: the last lines of `wantui analyze --compare`."""

from typing import TYPE_CHECKING

from wantui.cli.output import echo, print_wrapped_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

MAX_PRINTED_PAIRS = 15
"""Maximum number of group pairs whose answers `--details` prints; JSON and the report list all pairs."""


def print_main_answers(comparison: "Comparison") -> None:
    """Print the notes on place, room and path, then the answers: of all groups, or of the only pair."""
    answers = comparison.main_answers
    for note in dict.fromkeys(note for answer in answers for note in answer.notes):
        print_wrapped_line(f"note: {note}", indent=2)
    for answer in answers:
        print_wrapped_line(answer.text, indent=7)


def print_pair_answers(comparison: "Comparison") -> None:
    """Print and explain the answers on each pair of groups, unless they are the main answers."""
    from wantui.analysis.answer_evidence import CHANCE_NOTE, PLACE

    pairs = [pair for pair in comparison.answered_pairs if comparison.find_answers(*pair) != comparison.main_answers]
    for pair in pairs[:MAX_PRINTED_PAIRS]:
        echo()
        print_wrapped_line(f"{pair[0]} against {pair[1]}")
        pair_answers = comparison.find_answers(*pair)
        for answer in pair_answers:
            print_wrapped_line(answer.text, indent=7)
        for note in dict.fromkeys(note for answer in pair_answers for note in answer.notes):
            print_wrapped_line(f"  note: {note}", indent=4)
    if (hidden_count := len(pairs) - MAX_PRINTED_PAIRS) > 0:
        echo()
        print_wrapped_line(f"{format_count(hidden_count, 'more pair')} not shown; --json and --html list all pairs")
    if any(answer.question == PLACE and answer.evidence for answer in comparison.answers):
        print_wrapped_line(f"note: {CHANCE_NOTE}", indent=2)
