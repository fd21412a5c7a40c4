"""Mappings and lists of settings as one line of text."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wantui.config.document import convert_to_plain_value
from wantui.config.fields import FormField
from wantui.config.flow_values import format_flow_text, parse_flow_text
from wantui.config.values import parse_setting_value

NUMBERS_FIELD = FormField("schedules.scale", "mapping", (), "", is_optional=False, item_kind="number")
TEXTS_FIELD = FormField("schedules.prompt", "mapping", (), "", is_optional=False)
LIST_FIELD = FormField("loras.adapters", "list", (), "", is_optional=False)


@pytest.mark.parametrize(
    "text", ["0: 7.5, 50%: 3", "{0: 7.5, 50%: 3}", " { '0' : 7.50 , \"50%\" : 3. } ", "0: 7.5, 50%: 3 # n"]
)
def test_mapping_of_numbers_is_read_with_and_without_braces(text: str) -> None:
    assert parse_setting_value(NUMBERS_FIELD, text) == {"0": 7.5, "50%": 3.0}


def test_moments_and_negative_numbers_need_no_quotes() -> None:
    assert parse_setting_value(NUMBERS_FIELD, "sigma 0.9: -1, sigma=0.2: 0") == {"sigma 0.9": -1.0, "sigma=0.2": 0.0}


@pytest.mark.parametrize("text", ["", " ", "{}"])
def test_empty_mapping_is_empty(text: str) -> None:
    assert parse_setting_value(NUMBERS_FIELD, text) == {}


def test_text_values_are_not_converted() -> None:
    expected = {"0": "no", "5": "1_000", "7": "a cat, asleep"}
    assert parse_setting_value(TEXTS_FIELD, '0: no, 5: 1_000, 7: "a cat, asleep"') == expected


def test_list_holds_texts_or_mappings() -> None:
    assert parse_setting_value(LIST_FIELD, "a, b") == ["a", "b"]
    expected = [{"path": "a b.safetensors", "strength": "0.5", "is_on": "yes"}]
    assert parse_setting_value(LIST_FIELD, "[{path: a b.safetensors, strength: 0.5, is_on: yes}]") == expected


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        (NUMBERS_FIELD, "0:7, 50%:3", "0:7 has no space after its colon. Write it as 0: 7"),
        (NUMBERS_FIELD, "7.5", "the value of 7.5 should be a number in decimal digits, got ''"),
        (NUMBERS_FIELD, "0: high", "the value of 0 should be a number in decimal digits, got 'high'"),
        (NUMBERS_FIELD, "0: 1_000", "the value of 0 should be a number"),
        (NUMBERS_FIELD, "0: .nan", "the value of 0 should be a number"),
        (NUMBERS_FIELD, "0: [1]", "the value of 0 should be a single value"),
        (NUMBERS_FIELD, "0: 1, 0: 2", "the key 0 occurs twice"),
        (NUMBERS_FIELD, "0: 1}, other: {0: 2", "pairs of a key and a value"),
        (NUMBERS_FIELD, "0: 1}\nother: {0: 2", "pairs of a key and a value"),
        (NUMBERS_FIELD, "{0: 1", "pairs of a key and a value"),
        (NUMBERS_FIELD, "[0, 1]", "pairs of a key and a value"),
        (TEXTS_FIELD, "0: a [red|blue] cat", 'needs "quotes"'),
        (LIST_FIELD, "[a", "should be a list"),
        (LIST_FIELD, "a]\nother: [b", "should be a list"),
    ],
)
def test_unreadable_lines_are_refused_with_the_expected_form(field: FormField, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_setting_value(field, text)


TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Co", "Cn")), max_size=12) | st.sampled_from(
    [
        "no",
        "null",
        "~",
        "-",
        "- a",
        "a: b",
        "a #b",
        "50%",
        "sigma 0.8",
        "a, b",
        "[x]",
        "é ü",
        "1e5",
        '"',
        "'",
        "a ",
        "?",
    ]
)


@pytest.mark.slow
@given(st.dictionaries(TEXTS, st.floats(-1e30, 1e30, allow_subnormal=False)))
def test_formatted_mapping_of_numbers_is_read_back(value: dict[str, float]) -> None:
    rounded = {key: number if abs(number) > 1e-30 else 0.0 for key, number in value.items()}
    assert parse_setting_value(NUMBERS_FIELD, format_flow_text(rounded)) == rounded


@pytest.mark.slow
@given(st.dictionaries(TEXTS, TEXTS))
def test_formatted_mapping_of_texts_is_read_back(value: dict[str, str]) -> None:
    assert parse_setting_value(TEXTS_FIELD, format_flow_text(value)) == value


@pytest.mark.slow
@given(st.lists(st.dictionaries(TEXTS, TEXTS | st.none(), min_size=1)))
def test_formatted_list_is_read_back(value: list[dict[str, Any]]) -> None:
    assert convert_to_plain_value(parse_flow_text(format_flow_text(value), "list")) == value


def test_numbers_are_formatted_without_needless_digits() -> None:
    assert format_flow_text({"0": 7.5, "50%": 3.0, "sigma 0.2": 0.1}) == "0: 7.5, 50%: 3, sigma 0.2: 0.1"
    assert format_flow_text(({"name": "a", "strength": 1.0}, "b c")) == "[{name: a, strength: 1}, b c]"
