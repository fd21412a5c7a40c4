"""Facts in two aligned columns: a dim label, and a value that is wrapped beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from wantui.tui.wrapping import wrap_text

MIN_VALUE_WIDTH = 20
"""Width of the values in cells below which labels are left out where values are understood without them."""
LABEL_GAP = 2
"""Spaces between the longest label and the values."""


@dataclass(frozen=True)
class Fact:
    """A labelled value."""

    label: str
    value: str | Text
    """A `str` is wrapped; a `Text` stays in one line."""
    is_plain: bool = False
    """Whether the value is understood without its label, which a narrow pane then leaves out."""


def draw_facts(facts: Sequence[Fact], width: int) -> list[Text]:
    """Draw facts in lines of at most `width` characters."""
    label_width = max((len(fact.label) for fact in facts), default=0) + LABEL_GAP
    has_room = width - label_width >= MIN_VALUE_WIDTH
    lines = []
    for fact in facts:
        if fact.is_plain and not has_room and isinstance(fact.value, str):
            lines += _wrap_value(fact.value, width)
            continue
        value_lines = [fact.value] if isinstance(fact.value, Text) else _wrap_value(fact.value, width - label_width)
        for number, value_line in enumerate(value_lines):
            label = (fact.label if number == 0 else "").ljust(label_width)
            lines.append(Text(label, Style(dim=True)).append_text(Text(style=Style(dim=False)).append_text(value_line)))
    return lines


def _wrap_value(value: str, width: int) -> list[Text]:
    return wrap_text(value, max(8, width), indent="") or [Text("")]
