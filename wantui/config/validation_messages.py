"""Explanations of pydantic's validation errors, for people who write a config or a settings file."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from wantui.config.flow_values import RULE_BY_ERROR_TYPE
from wantui.formatting import MAX_TEXT_LENGTH, shorten_text

_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = MAX_TEXT_LENGTH


def explain_invalid_value(error_details: Any, rule_by_pattern: Mapping[str, str]) -> str:
    """Return why a value is invalid, and what it should be.

    Args:
        error_details: item of `ValidationError.errors()`, of another type than extra_forbidden.
        rule_by_pattern: regular expression of a text setting -> what it demands.
    """
    if error_details["type"] == "value_error":
        return shorten_text(str(error_details["ctx"]["error"]))
    if error_details["type"] == "model_type":
        return f"should be a section: keys and values below it, got {_SHORT_REPR.repr(error_details['input'])}"
    if error_details["input"] is None:
        return "has no value. Give one, or remove the key to use the default"
    explanation = f"{error_details['msg'][0].lower()}{error_details['msg'][1:]}"
    if error_details["type"] in RULE_BY_ERROR_TYPE:
        explanation = RULE_BY_ERROR_TYPE[error_details["type"]]
    if error_details["type"] == "string_pattern_mismatch":
        explanation = rule_by_pattern.get(error_details["ctx"]["pattern"], explanation)
    text = f"{explanation}, got {_SHORT_REPR.repr(error_details['input'])}"
    return text + (_suggest_choice(error_details) if error_details["type"] == "literal_error" else "")


def _suggest_choice(error_details: Any) -> str:
    """Return a sentence with the choice that is most similar to the input; empty if none is similar."""
    choices = re.findall("'([^']*)'", error_details["ctx"]["expected"])
    similar_choices = difflib.get_close_matches(str(error_details["input"])[:MAX_TEXT_LENGTH], choices, 1, 0.75)
    return f". Did you mean {similar_choices[0]}?" if similar_choices else ""
