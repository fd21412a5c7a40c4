"""Parse the text of a setting by its declared type, in the same way for files, `--set` and the form."""

import re
from decimal import Decimal
from typing import Any

from wantui.config.fields import FormField
from wantui.formatting import shorten_text

MAX_DIGITS = 40
"""Longest number, in characters."""
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
FLAG_VALUES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_value(field: FormField, text: str) -> Any:
    """Parse the text of a setting.

    Text is returned unchanged, numbers are decimal, and an empty text (or `null`) is None for an optional setting. The
    pydantic models check ranges and choices.

    Raises:
        ValueError: the text is not of the declared type; the message gives the expected one.
    """
    word = text.strip()
    if field.is_optional and word in ("", "null"):
        return None
    match field.kind:
        case "text":
            return text
        case "choice":
            return word
        case "flag":
            if word.lower() not in FLAG_VALUES:
                raise ValueError(f"should be yes or no, got {shorten_text(repr(text))}")
            return FLAG_VALUES[word.lower()]
        case "number":
            return parse_number(word, field.is_whole)


def parse_number(word: str, is_whole: bool) -> int | float:
    """Parse a decimal number of ASCII digits without separators.

    Raises:
        ValueError: the text is not such a number; the message gives the expected form.
    """
    expected = "a whole number" if is_whole else "a number"
    if len(word) > MAX_DIGITS or not _DECIMAL.fullmatch(word):
        raise ValueError(f"should be {expected} in decimal digits, got {shorten_text(repr(word))}")
    value = Decimal(word)
    if value and abs(value.adjusted()) > MAX_DIGITS:
        raise ValueError(f"should be {expected} of at most {MAX_DIGITS} digits, got {word}")
    if not is_whole:
        return float(value) or 0.0  # -0 would give the same video another recipe
    if value != value.to_integral_value():
        raise ValueError(f"should be {expected}, got {word}")
    return int(value)
