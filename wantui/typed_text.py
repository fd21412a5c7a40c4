"""Numbers and flags as text: one rule for config files, lists of settings, command-line options and the form."""

import re
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from wantui.formatting import shorten_text

MAX_NUMBER_LENGTH = 40
"""Longest number, in characters."""
_DECIMAL_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
BOOLEAN_BY_WORD = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""YAML's words for true and false, in lower case."""
BOOLEAN_BY_FLAG_TEXT = BOOLEAN_BY_WORD | {"1": True, "0": False}
EMPTY_WORDS = ("", "null")
"""Texts that mean no value where a value is optional."""


def parse_flag(text: str) -> bool:
    """Parse a word or digit for true or false.

    Raises:
        ValueError: the text is not such a word or digit.
    """
    flag = BOOLEAN_BY_FLAG_TEXT.get(text.strip().lower())
    if flag is None:
        raise ValueError(f"should be yes or no, got {shorten_text(repr(text))}")
    return flag


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


def parse_field_text(annotation: Any, value: Any) -> Any:
    """Parse the text of a number or a flag in a pydantic model; return all other values unchanged.

    pydantic itself would accept `1_0` for 10 and `t` for true.

    Args:
        annotation: declared type of the field; may be optional.

    Raises:
        ValueError: the text is not of the declared type.
    """
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    types = [get_args(part)[0] if get_origin(part) is Annotated else part for part in members if part is not NoneType]
    if not isinstance(value, str) or types not in ([bool], [int], [float]):
        return value
    text = value.strip()
    if NoneType in members and text in EMPTY_WORDS:
        return None
    return parse_flag(text) if types == [bool] else parse_number(text, is_integer=types == [int])
