"""Parse the text of a setting by its declared type, in the same way for files, `--set` and the form."""

import re
from decimal import Decimal
from typing import Any

from wantui.config.fields import FormField
from wantui.formatting import shorten_text

MAX_NUMBER_LENGTH = 40
"""Longest number, in characters."""
_DECIMAL_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
BOOLEAN_BY_FLAG_WORD = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def parse_setting_value(field: FormField, text: str) -> Any:
    """Parse the text of a setting.

    Text is returned unchanged, numbers are decimal, and an empty text (or `null`) is None for an optional setting. The
    pydantic models check ranges and choices.

    Raises:
        ValueError: the text is not of the declared type; the message gives the expected one.
    """
    stripped_text = text.strip()
    if field.is_optional and stripped_text in ("", "null"):
        return None
    match field.kind:
        case "text":
            return text
        case "choice":
            return stripped_text
        case "flag":
            if stripped_text.lower() not in BOOLEAN_BY_FLAG_WORD:
                raise ValueError(f"should be yes or no, got {shorten_text(repr(text))}")
            return BOOLEAN_BY_FLAG_WORD[stripped_text.lower()]
        case "number":
            return parse_number(stripped_text, field.is_integer)


def parse_number(number_text: str, is_integer: bool) -> int | float:
    """Parse a decimal number of ASCII digits without separators.

    Raises:
        ValueError: the text is not such a number; the message gives the expected form.
    """
    expected_kind = "a whole number" if is_integer else "a number"
    if len(number_text) > MAX_NUMBER_LENGTH or not _DECIMAL_PATTERN.fullmatch(number_text):
        raise ValueError(f"should be {expected_kind} in decimal digits, got {shorten_text(repr(number_text))}")
    decimal_value = Decimal(number_text)
    if decimal_value and abs(decimal_value.adjusted()) > MAX_NUMBER_LENGTH:
        raise ValueError(f"should be {expected_kind} of at most {MAX_NUMBER_LENGTH} digits, got {number_text}")
    if not is_integer:
        return float(decimal_value) or 0.0  # -0 would give the same video another recipe
    if decimal_value != decimal_value.to_integral_value():
        raise ValueError(f"should be {expected_kind}, got {number_text}")
    return int(decimal_value)
