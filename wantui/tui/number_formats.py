"""One number format for all values of a column, so that their decimal points are aligned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MAX_DIGITS = 7
"""Maximum number of digits in fixed notation."""
MISSING_TEXT = "-"
"""Text of a value that does not exist."""


@dataclass(frozen=True)
class NumberFormat:
    """Format of all numbers in a column."""

    decimals: int
    """Number of decimals."""
    is_scientific: bool = False

    def format_number(self, value: float) -> str:
        """Format a number; NaN is a dash."""
        if math.isnan(value):
            return MISSING_TEXT
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        text = f"{value:.{self.decimals}{'e' if self.is_scientific else 'f'}}"
        return text[1:] if text.startswith("-") and not float(text) else text


def choose_number_format(values: Sequence[float], resolution: float = math.inf) -> NumberFormat:
    """Return the format that resolves a hundredth of the values' range, and a thousandth of a typical value.

    Args:
        resolution: smallest difference that the format must resolve, instead of these.
    """
    magnitudes = [abs(value) for value in values if math.isfinite(value)]
    if not magnitudes or not max(magnitudes):
        return NumberFormat(0)
    largest, finite_values = max(magnitudes), [value for value in values if math.isfinite(value)]
    if not 1e-4 <= largest < 10.0**MAX_DIGITS:
        return NumberFormat(2, is_scientific=True)
    if math.isinf(resolution):
        candidates = (max(finite_values) - min(finite_values)) / 100, median(magnitudes) / 1000, largest / 1000
        resolution = min(candidate for candidate in candidates if candidate > 0)
    integer_digits = max(1, math.floor(math.log10(largest)) + 1)
    decimals = 0 if math.isinf(resolution) else math.ceil(-math.log10(resolution) - 1e-9)
    return NumberFormat(max(0, min(decimals, MAX_DIGITS - integer_digits)))


def choose_tick_format(ticks: Sequence[float]) -> NumberFormat:
    """Return the format of an axis's ticks, with as few decimals as they need."""
    largest = max(map(abs, ticks), default=0.0)
    for decimals in range(MAX_DIGITS):
        if largest < 10.0**MAX_DIGITS and all(abs(round(tick, decimals) - tick) <= 1e-9 * largest for tick in ticks):
            return NumberFormat(decimals)
    return NumberFormat(2, is_scientific=True)


def choose_ticks(low: float, high: float, max_count: int) -> list[float]:
    """Return at most `max_count` round values from `low` to `high`; at least one if the range is not empty."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low or max_count < 1:
        return []
    exponent = math.floor(math.log10((high - low) / max_count))
    for step in (factor * 10.0 ** (exponent + power) for power in (0, 1, 2) for factor in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= max_count:
            return [index * step for index in range(first, last + 1)] or [low]
    return [low]


def format_p(p: float) -> str:
    """Return a p value with three decimals, or a smaller one with one digit; NaN is a dash."""
    return MISSING_TEXT if math.isnan(p) else f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"


def align_decimals(values: Sequence[str]) -> list[str]:
    """Return numbers padded on both sides, so that their decimal points are below each other."""
    parts = [value.partition(".") for value in values]
    integer_width = max((len(integer) for integer, _, _ in parts), default=0)
    fraction_width = max((len(point + fraction) for _, point, fraction in parts), default=0)
    return [
        integer.rjust(integer_width) + (point + fraction).ljust(fraction_width) for integer, point, fraction in parts
    ]
