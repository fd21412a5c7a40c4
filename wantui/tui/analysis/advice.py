"""Advice of the analysis for the screen: keys, where the command line has options."""

from wantui.analysis.advice import AdviceKind, AdvisedText, join_sentences
from wantui.analysis.group_names import CannotCompareError

SCREEN_ADVICE = {
    AdviceKind.CHOOSE_GROUPING: "Press c for another grouping",
    AdviceKind.CHOOSE_FACTOR_PAIR: "Press n for another pair",
    AdviceKind.GROUP_BY_SETTING: "Press c to group by it",
    AdviceKind.GROUP_BY_AVERAGED_SETTING: "Press c to group by it",
    AdviceKind.GROUP_BY_AVERAGED_SETTINGS: "Press c to group by one",
    AdviceKind.CHOOSE_PRIMARY_METRIC: "Choose one on the command line: `wantui analyze --primary`",
    AdviceKind.USE_OTHER_METRIC: "To use another metric, run `wantui analyze --compare --primary {value}`",
    AdviceKind.ADD_MAPS_OR_LABELS: "Mark words of the template with parentheses and turn on 'store attention' in "
    "Compose (1, then s); load external labels with `wantui analyze --scores`",
}
"""Sentence of the screen for each advice."""


def format_error_for_screen(error: Exception) -> str:
    """Return the text of an analysis error, with the screen's keys."""
    return replace_options_by_keys(error.message) if isinstance(error, CannotCompareError) else str(error)


def replace_options_by_keys(message: str) -> str:
    """Return an analysis message with the screen's keys instead of `wantui analyze`'s options."""
    if not isinstance(message, AdvisedText):
        return message
    advice = message.advice
    return join_sentences(message.reason, SCREEN_ADVICE[advice.kind].format(value=advice.value), message.details)
