"""Facts: a dim label, and a value that is wrapped beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from wantui.tui.wrapping import wrap_text

MIN_VALUE_WIDTH = 14
"""Width of the values in cells below which they are not aligned, so that their lines are longer."""
LABEL_GAP, WIDE_VALUE_WIDTH = 2, 20
"""Spaces between the longest label and the values, and width of the values in cells below which there is only one."""
GENERATION_FACT = "generation"
"""Label of the time for denoising and decoding; the "took" of the queue also has loading, saving and waiting."""


@dataclass(frozen=True)
class Fact:
    """A labelled value."""

    label: str
    value: str | Text
    """A `str` is wrapped; a `Text` stays in one line."""


def draw_facts(facts: Sequence[Fact], width: int, *, min_label_width: int = 0) -> list[Text]:
    """Draw facts in lines of at most `width` characters; their values are aligned if there is room.

    Args:
        min_label_width: length of the longest label among the other facts with which the values are aligned.
    """
    longest_label = max([min_label_width, *(len(fact.label) for fact in facts)])
    label_width = longest_label + (LABEL_GAP if width - longest_label - LABEL_GAP >= WIDE_VALUE_WIDTH else 1)
    has_room = width - label_width >= MIN_VALUE_WIDTH
    lines = []
    for fact in facts:
        label = Text(fact.label.ljust(label_width) if has_room else f"{fact.label} ", Style(dim=True))
        if isinstance(fact.value, Text):
            lines.append(_join_label(label, fact.value))
        elif has_room:
            value_lines = wrap_text(fact.value, width - label_width, indent="") or [Text("")]
            labels = [label, *[Text(" " * label_width)] * (len(value_lines) - 1)]
            lines += [_join_label(*parts) for parts in zip(labels, value_lines, strict=True)]
        else:
            first_line, *more_lines = wrap_text(f"{label.plain}{fact.value}", max(8, width))
            lines += [_join_label(label, first_line[len(label) :]), *more_lines]
    return lines


def _join_label(label: Text, value: Text) -> Text:
    return Text(style=Style(dim=False)).append_text(label).append_text(value)
