"""Formatting of numbers and of foreign text."""

import math

import pytest

from wantui.formatting import (
    escape_unprintable,
    format_count,
    format_error,
    format_long_duration,
    format_mean,
    format_percent,
    format_percent_change,
    shorten_labels,
)


@pytest.mark.parametrize(
    ("number", "noun", "plural", "expected"),
    [
        (0, "video", None, "0 videos"),
        (1, "video", None, "1 video"),
        (10_000, "video", None, "10,000 videos"),
        (2, "batch", "batches", "2 batches"),
    ],
)
def test_format_count_inflects_the_noun(number: int, noun: str, plural: str | None, expected: str) -> None:
    assert format_count(number, noun, plural) == expected  # C9


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (OSError("it is not a regular file"), "it is not a regular file"),
        (ValueError("no"), "no"),
    ],
)
def test_error_of_the_system_is_shown_without_its_number(error: Exception, expected: str) -> None:
    assert format_error(error) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.1234, "+12.3 %"),
        (-0.5, "-50.0 %"),
        (0.0, "+0.0 %"),
        (-9_999.0, "-999900.0 %"),
        (1.234e40, "+1.23e+42 %"),
        (float("-inf"), "-inf %"),
        (float("nan"), "+nan %"),
    ],
)
def test_format_percent_change_uses_scientific_notation_for_huge_values(share: float, expected: str) -> None:
    assert format_percent_change(share) == expected


@pytest.mark.parametrize(("fraction", "expected"), [(0.1, "10 %"), (0.004, "0.4 %"), (0.07, "7 %"), (0.999, "99.9 %")])
def test_format_percent_preserves_the_digits_of_small_fractions(fraction: float, expected: str) -> None:
    assert format_percent(fraction) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("a\x9b2Jb", r"a\x9b2Jb"),
        ("one\ntwo\tthree", r"one\ntwo\tthree"),
        ("left\u202eright", r"left\u202eright"),
        ("\udce9", r"\udce9"),
        ("日本語 é 👩‍👩‍👧", "日本語 é 👩‍👩‍👧"),
    ],
)
def test_escape_unprintable_escapes_control_characters(text: str, expected: str) -> None:
    assert escape_unprintable(text) == expected  # R1


def test_escape_unprintable_can_keep_line_breaks() -> None:
    assert escape_unprintable("a\n\tb\x1b[0m\r\n", keep_lines=True) == "a\n\tb\\x1b[0m\\r\n"


@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [(1.23456, 0.0567, "1.235 ± 0.057"), (1.23456, math.nan, "1.235"), (math.nan, math.nan, "-"), (2, 0, "2 ± 0")],
)
def test_format_mean_omits_missing_values(mean: float, deviation: float, expected: str) -> None:
    assert format_mean(mean, deviation, 4) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (60, "1 minute"),
        (1200, "20 minutes"),
        (3600, "1 hour"),
        (30 * 3600, "30 hours"),
        (9 * 86400, "9 days"),
        (800 * 86400, "2 years"),
    ],
)
def test_format_long_duration_uses_the_largest_unit(seconds: float, expected: str) -> None:
    assert format_long_duration(seconds) == expected


@pytest.mark.parametrize(
    ("labels", "width", "expected"),
    [
        (("seed 42", "seed 43"), 7, ["seed 42", "seed 43"]),
        (("a red square", "a blue circle"), 8, ["a red s…", "a blue …"]),
        (("circle.translate_x 0", "circle.translate_x 0.25"), 12, ["…anslate_x 0", "…late_x 0.25"]),
        (("steps 4, seed 42", "steps 4, seed 43", "width 4, seed 42"), 9, ["step…d 42", "step…d 43", "widt…d 42"]),
        (("circle.translate_x 0", "circle.translate_x 0.25"), 22, ["circle.translate_x 0", "…rcle.translate_x 0.25"]),
        (("seed 42", "seed 53"), 6, ["…ed 42", "…ed 53"]),
        (("seed 42",), 1, [""]),
    ],
)
def test_shortened_labels_keep_what_differs(labels: tuple[str, ...], width: int, expected: list[str]) -> None:
    assert shorten_labels(labels, lambda text: len(text) <= width) == expected
