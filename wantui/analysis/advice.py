"""Advice in the analysis's errors and warnings: the command line names options, and the screen names keys."""

from dataclasses import dataclass
from enum import Enum


class AdviceKind(Enum):
    """What the user can do. The value is the sentence for the command line, with a placeholder for `Advice.value`."""

    CHOOSE_GROUPING = "Choose another --by"
    CHOOSE_FACTOR_PAIR = "Name two brackets or settings, such as --by 1,2"
    GROUP_BY_SETTING = "Group by the setting (--by {value}), or choose videos with equal settings (--where)"
    GROUP_BY_AVERAGED_SETTING = "Group by it to compare its values, or choose one with --where"
    GROUP_BY_AVERAGED_SETTINGS = "Group by one to compare its values, or choose values with --where"
    CHOOSE_PRIMARY_METRIC = "Choose one with --primary"
    USE_OTHER_METRIC = "To use another metric, add, for example, --primary {value}"
    ADD_MAPS_OR_LABELS = (
        "Mark words of the template with parentheses and generate with --store-attention, or add --scores labels.csv"
    )


@dataclass(frozen=True)
class Advice:
    """Advice of an error or a warning."""

    kind: AdviceKind
    value: str = ""
    """Setting or metric that the advice names."""

    def format_for_commands(self) -> str:
        """Return the advice as a sentence for `wantui analyze`."""
        return self.kind.value.format(value=self.value)


class AdvisedText(str):
    """A message with advice. As a string, it has the advice for the command line.

    Args:
        reason: what is wrong, without a full stop.
        advice: what the user can do.
        details: further sentences after the advice.
    """

    reason: str
    advice: Advice
    details: str

    def __new__(cls, reason: str, advice: Advice, details: str = "") -> "AdvisedText":
        text = super().__new__(cls, join_sentences(reason, advice.format_for_commands(), details))
        text.reason, text.advice, text.details = reason, advice, details
        return text


def add_details(message: str, details: str) -> str:
    """Append sentences to a message, after its advice if it has some, and return the new message."""
    if isinstance(message, AdvisedText):
        return AdvisedText(message.reason, message.advice, join_sentences(message.details, details))
    return join_sentences(message, details)


def add_reason_prefix(prefix: str, message: str) -> str:
    """Return a message with a prefix before its reason; keep the advice of the message."""
    if isinstance(message, AdvisedText):
        return AdvisedText(f"{prefix}{message.reason}", message.advice, message.details)
    return f"{prefix}{message}"


def join_sentences(*sentences: str) -> str:
    """Join sentences to one text without the last full stop; skip empty sentences."""
    return ". ".join(filter(None, sentences))
