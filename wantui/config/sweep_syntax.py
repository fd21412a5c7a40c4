"""The text of a sweep: `cfg_scale=2,4,6; steps=10..30:10+width=256,512,768`.

A semicolon separates axes, which form a grid. A plus joins settings that change together. A value is a text, a range
FIRST..LAST:STEP, or quoted. Seeds are written in the same way, without a name.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from wantui.formatting import shorten_text
from wantui.typed_text import parse_number

SWEEP_REMEDY = "Write it like cfg_scale=2,4,6, as a range steps=10..30:10, or together as width=256,512+height=256,512"
MAX_SWEEP_LENGTH = 200_000
"""Maximum characters of a sweep."""
MAX_AXIS_VALUES = 100_000
"""Maximum number of values per setting, and of seeds."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?"
_RANGE_PATTERN = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(?::\s*({_NUMBER})\s*)?", re.ASCII)
_MISSPELT_RANGE_PATTERN = re.compile(
    r"\s*(\d+(?:\.\d+)?)\s*(?:-|\u2013|:|to|\.{3,}|\u2026)\s*(\d+(?:\.\d+)?)\s*", re.ASCII
)
"""First and last number, separated in a way that other programs use."""
_NEXT_NAME_PATTERN = re.compile(r"\s*[^\W\d][^=,;\"'+]*=")
"""Name of a setting and its equals sign; after a plus, they begin another setting."""


class SweepError(ValueError):
    """Raised for a sweep that cannot be read or applied; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class WrittenValue:
    """One value as written."""

    text: str
    is_quoted: bool = False


@dataclass(frozen=True)
class UnresolvedSetting:
    """A setting of a sweep and its values, as text: not yet resolved to a path and parsed values."""

    name: str
    values: tuple[WrittenValue, ...]


def parse_sweep_text(text: str) -> list[list[UnresolvedSetting]]:
    """Parse the text of a sweep to its axes, each with the settings that change together.

    Raises:
        SweepError: the text is not a sweep.
    """
    if len(text) > MAX_SWEEP_LENGTH:
        raise SweepError(f"the sweep has {len(text):,} characters; at most {MAX_SWEEP_LENGTH:,} are allowed")
    return [
        [_parse_setting(part) for part in _split_outside_quotes(axis_text, "+")]
        for axis_text in _split_outside_quotes(text, ";")
        if axis_text.strip()
    ]


def _parse_setting(text: str) -> UnresolvedSetting:
    name, separator, values_text = text.partition("=")
    if not separator or not name.strip():
        raise SweepError(f"cannot read {shorten_text(text.strip())!r}. {SWEEP_REMEDY}")
    return UnresolvedSetting(name.strip(), tuple(map(_parse_value, _split_outside_quotes(values_text, ","))))


def _parse_value(text: str) -> WrittenValue:
    text = text.strip()
    if text[:1] not in ('"', "'"):
        return WrittenValue(text)
    return WrittenValue(text[1:-1].replace(text[0] * 2, text[0]), is_quoted=True)


def _split_outside_quotes(text: str, separator: str) -> Iterator[str]:
    """Split a text at a separator outside quotes; a plus separates only before a name and an equals sign."""
    start, index, can_open_quote = 0, 0, True
    while index < len(text):
        character = text[index]
        if character in "\"'" and can_open_quote:
            index = _find_quote_end(text, index)
            can_open_quote = False
            continue
        if character == separator and (separator != "+" or _NEXT_NAME_PATTERN.match(text, index + 1)):
            yield text[start:index]
            start = index + 1
        can_open_quote = character in "=,;+" or (can_open_quote and character.isspace())
        index += 1
    yield text[start:]


def _find_quote_end(text: str, start: int) -> int:
    """Return the index after a quoted value; two quotes in a row inside the value mean one quote."""
    quote, index = text[start], start + 1
    while (index := text.find(quote, index)) >= 0:
        if text[index + 1 : index + 2] != quote:
            rest = text[index + 1 :].lstrip()
            if rest and rest[0] not in ",;+":
                raise SweepError(f"{shorten_text(rest)!r} follows a quoted value. Separate values by commas")
            return index + 1
        index += 2
    raise SweepError(
        f"{shorten_text(text[start:])!r} has no closing quote. Add one; if the value itself contains a quote, use the "
        "other kind of quote around the value"
    )


def format_sweep_value(value: Any) -> str:
    """Format one value for the text of a sweep; structured values become JSON in quotes."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and text and text == text.strip() and not re.search(r"[,;+=\"']", text):
        return text
    quote = "'" if '"' in text else '"'
    return quote + text.replace(quote, quote * 2) + quote


def convert_to_sweep_text(value: Any) -> Any:
    """Convert the value of `sweeps` in a config file to text: a list of axes, one axis as a mapping, or text.

    Raises:
        SweepError: an axis is neither text nor a mapping of settings to values.
    """
    if value is None or isinstance(value, str):
        text = (value or "").strip()
    else:
        axes = value if isinstance(value, list | tuple) else [value]
        text = "; ".join(_convert_axis(axis) for axis in axes)
    parse_sweep_text(text)
    return text or None


def _convert_axis(axis: Any) -> str:
    if isinstance(axis, str):
        return axis.strip()
    if not isinstance(axis, Mapping) or not axis:
        raise SweepError(f"{shorten_text(repr(axis))} is not a mapping of a setting to its values. {SWEEP_REMEDY}")
    return "+".join(f"{name}={_format_axis_values(values)}" for name, values in axis.items())


def _format_axis_values(values: Any) -> str:
    if isinstance(values, str):  # a range, or values separated by commas
        return values
    value_list = values if isinstance(values, list | tuple) else [values]
    return ",".join("" if value is None else format_sweep_value(value) for value in value_list)


@dataclass(frozen=True)
class NumberRange:
    """Numbers from `first` in steps of `step`, up to and including `last` if a step reaches it."""

    first: Fraction
    last: Fraction
    step: Fraction

    @property
    def count(self) -> int:
        return max(0, (self.last - self.first) // self.step + 1)

    def __iter__(self) -> Iterator[Fraction]:
        return (self.first + index * self.step for index in range(self.count))


def parse_range(text: str) -> NumberRange | None:
    """Parse FIRST..LAST:STEP; None if the text is not a range. The step of whole numbers may be omitted.

    Raises:
        SweepError: the range is empty, has no step, or too many values.
    """
    match = _RANGE_PATTERN.fullmatch(text)
    if match is None:
        return None
    try:
        for number_text in filter(None, match.groups()):
            parse_number(number_text, is_integer=False)  # limits its digits
    except ValueError as error:
        raise SweepError(f"cannot read the range {shorten_text(text)}: a bound {error}") from None
    first, last = Fraction(match[1]), Fraction(match[2])
    if match[3] is None and (first.denominator != 1 or last.denominator != 1):
        raise SweepError(f"the range {text} has no step. Write one: {text}:0.1")
    number_range = NumberRange(first, last, Fraction(match[3] or 1))
    if number_range.step == 0:
        raise SweepError(f"the range {text} has the step 0. Write another step")
    if number_range.count == 0:
        step_text = (match[3] or "1").lstrip("+-")
        remedy = f"{match[1]}..{match[2]}:{'-' if last < first else ''}{step_text}"
        raise SweepError(f"the range {text} is empty. Write it as {remedy}")
    if number_range.count > MAX_AXIS_VALUES:
        raise SweepError(
            f"the range {text} has {number_range.count:,} values; at most {MAX_AXIS_VALUES:,} are allowed. "
            "Use a larger step"
        )
    return number_range


def reject_misspelt_range(text: str) -> None:
    """Reject a range with a hyphen, a colon or a word between its bounds.

    Raises:
        SweepError: shows the range as `parse_range` reads it.
    """
    if (match := _MISSPELT_RANGE_PATTERN.fullmatch(text)) is not None:
        first, last = match.groups()
        step_text = "" if "." not in first + last else ":0.1"
        raise SweepError(f"{text.strip()} is not a number. Write a range as {first}..{last}{step_text}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds, such as `7,11,42` or `1..8`.

    Raises:
        SweepError: a seed is not a whole number from 0 to 2**63 - 1, or occurs twice.
    """
    seeds: list[int] = []
    for seed_text in text.split(","):
        number_range = parse_range(seed_text)
        reject_misspelt_range(seed_text)
        try:
            numbers = (
                [_to_integer(number) for number in number_range]
                if number_range is not None
                else [int(parse_number(seed_text.strip(), is_integer=True))]
            )
        except ValueError as error:
            raise SweepError(f"a seed {str(error).removeprefix('a seed ')}") from None
        seeds += numbers
        if len(seeds) > MAX_AXIS_VALUES:
            raise SweepError(f"there are more than {MAX_AXIS_VALUES:,} seeds")
    seen_seeds: set[int] = set()
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise SweepError(f"the seed {seed} is outside the range 0 to 2**63 - 1")
        if seed in seen_seeds:
            raise SweepError(f"the seed {seed} occurs twice. Remove one")
        seen_seeds.add(seed)
    return tuple(seeds)


def _to_integer(number: Fraction) -> int:
    if number.denominator != 1:
        raise ValueError(f"should be a whole number, got {float(number)}")
    return number.numerator


def format_seeds(seeds: Sequence[int]) -> str:
    """Format seeds compactly, as `parse_seeds` reads them: runs of three or more consecutive seeds are ranges."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(seeds) + 1):
        if end < len(seeds) and seeds[end] == seeds[end - 1] + 1:
            continue
        run = seeds[start:end]
        parts += [f"{run[0]}..{run[-1]}"] if len(run) > 2 else map(str, run)
        start = end
    return ",".join(parts)


def describe_seeds(seeds: Collection[int]) -> str:
    """Return seeds for display: "42", "42 to 46", or "7,11,42" if they are not consecutive."""
    first, last = min(seeds), max(seeds)
    if first == last:
        return str(first)
    distinct_seeds = sorted(set(seeds))
    return f"{first} to {last}" if len(distinct_seeds) > last - first else format_seeds(distinct_seeds)


def convert_to_seeds_text(value: Any) -> Any:
    """Convert the value of `seeds` in a config file, a list or text, to its shortest text.

    Raises:
        SweepError: see `parse_seeds`.
    """
    if isinstance(value, list | tuple):
        if any(isinstance(item, bool | float | list | dict | None) for item in value) or not value:
            raise SweepError(f"seeds should be whole numbers, got {shorten_text(repr(value))}")
        value = ",".join(map(str, value))
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return format_seeds(parse_seeds(str(value)))
