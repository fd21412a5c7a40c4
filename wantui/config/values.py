"""The value of a setting from its text, by its declared type: one rule for files, `--set`, and the form."""

import re
from decimal import Decimal
from typing import Any

from wantui.config.fields import FormField
from wantui.formatting import shorten

MAX_DIGITS = 40
"""Longest number, in characters."""
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def value_from_text(field: FormField, text: str) -> Any:
    """Return the value that a text means for a setting.

    Text stays as it is written, numbers are decimal, and an empty text (or `null`) is no value where a setting may be
    left empty. Ranges and choices are left to the settings themselves.

    Raises:
        ValueError: the text is no value of this type; the message says what is expected.
    """
    word = text.strip()
    if field.optional and word in ("", "null"):
        return None
    match field.kind:
        case "text":
            return text
        case "choice":
            return word
        case "flag":
            if word.lower() not in FLAGS:
                raise ValueError(f"should be yes or no, got {shorten(repr(text))}")
            return FLAGS[word.lower()]
        case "number":
            return number_from_text(word, field.is_whole)


def number_from_text(word: str, is_whole: bool) -> int | float:
    """Return the number that a text means: ASCII digits, no separators, no other bases.

    Raises:
        ValueError: the text is no number of this kind; the message says what is expected.
    """
    expected = "a whole number" if is_whole else "a number"
    if len(word) > MAX_DIGITS or not _DECIMAL.fullmatch(word):
        raise ValueError(f"should be {expected} in decimal digits, got {shorten(repr(word))}")
    value = Decimal(word)
    if value and abs(value.adjusted()) > MAX_DIGITS:
        raise ValueError(f"should be {expected} of at most {MAX_DIGITS} digits, got {word}")
    if not is_whole:
        return float(value) or 0.0  # -0 would make another recipe of the same video
    if value != value.to_integral_value():
        raise ValueError(f"should be {expected}, got {word}")
    return int(value)
