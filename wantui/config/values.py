"""Parse the text of a setting by its declared type, in the same way for files, `--set` and the form."""

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from wantui.config.document import YamlScalar, convert_to_plain_value
from wantui.config.flow_values import RULE_BY_KIND, parse_flow_text
from wantui.formatting import shorten_text

if TYPE_CHECKING:
    from wantui.config.fields import FormField

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


def parse_setting_value(field: "FormField", text: str) -> Any:
    """Parse the text of a setting.

    Text is returned unchanged, numbers are decimal, mappings and lists are one line of YAML, and an empty text (or
    `null`) is None for an optional setting. The pydantic models check ranges and choices.

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
        case "mapping":
            items = parse_flow_text(text, "mapping")
            return {key: _parse_flow_entry(field, key, value) for key, value in items.items()}
        case "list":
            return convert_to_plain_value(parse_flow_text(text, "list"))


def parse_mapping_item(field: "FormField", value: Any) -> Any:
    """Parse a value of a mapping from its YAML: numbers are decimal, and text is unchanged.

    Raises:
        ValueError: the value is not of the declared type.
    """
    if not isinstance(value, YamlScalar):
        raise ValueError(f"should be a single value; the setting {RULE_BY_KIND['mapping']}")
    return parse_number(value.text.strip(), is_integer=False) if field.item_kind == "number" else value.text


def _parse_flow_entry(field: "FormField", key: str, value: Any) -> Any:
    if field.item_kind == "number" and ":" in key and isinstance(value, YamlScalar) and not value.text:
        raise ValueError(f"{key} has no space after its colon. Write it as {': '.join(key.split(':', 1))}")
    try:
        return parse_mapping_item(field, value)
    except ValueError as error:
        raise ValueError(f"the value of {key} {error}") from None


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
