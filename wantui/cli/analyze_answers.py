"""Place, room and path: the first lines of `wantui analyze --compare`."""

from typing import TYPE_CHECKING

from wantui.cli.output import echo, print_wrapped_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

MAX_PRINTED_PAIRS = 15
"""Maximum number of group pairs whose answers are printed; JSON and the report list all pairs."""


def print_answers(comparison: "Comparison") -> None:
    """Print the answers on place, room and path: of all groups if there are more than two, then of each pair."""
    from wantui.analysis.answer_evidence import CHANCE_NOTE, PLACE

    pairs = comparison.answered_pairs
    for pair in pairs[: MAX_PRINTED_PAIRS + 1]:
        if len(pairs) > 1 and pair[0]:
            echo()
            print_wrapped_line(f"{pair[0]} against {pair[1]}")
        pair_answers = comparison.find_answers(*pair)
        for answer in pair_answers:
            print_wrapped_line(answer.text, indent=7)
        for note in dict.fromkeys(note for answer in pair_answers for note in answer.notes):
            print_wrapped_line(f"  note: {note}", indent=4)
    if any(answer.question == PLACE and answer.evidence for answer in comparison.answers):
        print_wrapped_line(f"  note: {CHANCE_NOTE}", indent=4)
    if (hidden_count := len(pairs) - MAX_PRINTED_PAIRS - 1) > 0:
        echo()
        print_wrapped_line(f"{format_count(hidden_count, 'more pair')} not shown; --json and --html list all pairs")
