"""Format numbers and text for people, in the same way on the command line and on the screens."""

import math
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

MAX_TEXT_LENGTH = 300
"""Maximum length of foreign text that a message quotes, in characters."""
_LONG_WORD_PATTERN = re.compile(rf"\S{{{MAX_TEXT_LENGTH + 1},}}")
UNPRINTABLE_PATTERN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls, line separators, directional overrides, and lone surrogates."""
_UNPRINTABLE_EXCEPT_NEWLINES_PATTERN = re.compile(
    UNPRINTABLE_PATTERN.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f")
)
_INSIDE_NUMBER_PATTERN = re.compile(r"[\d.]{2}")
_CUT_NUMBER_PATTERN = re.compile(r"\d\.?…|…\.?\d")
NO_BREAK_SPACE = "\u00a0"
MIN_CHANGE_IN_SCIENTIFIC_NOTATION = 10_000
"""Relative change above which powers of ten are used; for a mean near 0, a change could have forty digits."""


def shorten_text(text: str, max_length: int = MAX_TEXT_LENGTH) -> str:
    """Return text of at most `max_length` characters; the middle of longer text is left out."""
    if len(text) <= max_length:
        return text
    half_length = (max_length - 5) // 2
    return f"{text[:half_length]} ... {text[-half_length:]}"


def shorten_echoed_arguments(message: str, arguments: Iterable[str]) -> str:
    """Shorten the long command-line arguments, and other long words, that a message repeats.

    Args:
        arguments: command-line arguments; a message may repeat one unchanged, quoted, or only the part after `=`.
    """
    for argument in sorted(arguments, key=len, reverse=True):
        for echoed_text in (argument, argument.partition("=")[2]):
            if len(echoed_text) > MAX_TEXT_LENGTH:
                message = message.replace(echoed_text, shorten_text(echoed_text)).replace(
                    repr(echoed_text)[1:-1], shorten_text(repr(echoed_text)[1:-1])
                )
    return _LONG_WORD_PATTERN.sub(lambda match: shorten_text(match[0]), message)


def format_bytes(byte_count: float) -> str:
    """Return a size in powers of ten, such as "12.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if byte_count < 999.5:
            return f"{byte_count:.0f} {unit}" if unit == "B" or byte_count >= 99.5 else f"{byte_count:.1f} {unit}"
        byte_count /= 1000
    return f"{byte_count:.1f} TB"


def format_duration(seconds: float) -> str:
    """Return a duration as 0:05, 12:34 or 1:23:45."""
    minutes, seconds_part = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds_part:02d}" if hours else f"{minutes}:{seconds_part:02d}"


def format_long_duration(seconds: float) -> str:
    """Return a long duration in its largest unit: "3 hours", "12 days", "2 years"."""
    for unit, unit_seconds in (("year", 365 * 86400), ("day", 86400), ("hour", 3600)):
        if seconds >= (2 if unit != "hour" else 0.5) * unit_seconds:
            return format_count(round(seconds / unit_seconds), unit)
    return format_count(max(round(seconds / 60), 1), "minute")


def format_percent_change(relative_change: float, decimals: int = 1) -> str:
    """Return a relative change in percent with its sign: "+12.3 %", or "+1.23e+08 %" from 10,000-fold changes on."""
    return (
        f"{100 * relative_change:+.{decimals}f} %"
        if abs(relative_change) < MIN_CHANGE_IN_SCIENTIFIC_NOTATION
        else f"{100 * relative_change:+.3g} %"
    )


def format_percent(fraction: float) -> str:
    """Return a fraction in percent, without trailing zeros: "10 %", "0.4 %"."""
    return f"{100 * fraction:.6g} %"


def format_share(fraction: float, decimals: int = 0) -> str:
    """Return a fraction in percent with a number of decimals: "12 %", "12.30 %"."""
    return f"{100 * fraction:.{decimals}f} %"


def join_units(text: str) -> str:
    """Replace the space before each percent sign with a no-break space; `split_units` reverses this."""
    return text.replace(" %", f"{NO_BREAK_SPACE}%")


def split_units(text: str) -> str:
    """Replace the no-break spaces of `join_units` with plain spaces."""
    return text.replace(f"{NO_BREAK_SPACE}%", " %")


def format_mean(mean: float, standard_deviation: float, significant_digits: int) -> str:
    """Return a mean and its standard deviation: "1.234 ± 0.056", "1.234" for a single value, "-" for none."""
    if not math.isfinite(mean):
        return "-"
    return (
        f"{mean:.{significant_digits}g} ± {standard_deviation:.2g}"
        if math.isfinite(standard_deviation)
        else f"{mean:.{significant_digits}g}"
    )


def format_interval(low: float, high: float, specification: str = "+.3g") -> str:
    """Return the ends of an interval as "+1.2 to +3.4"; "-" without an interval."""
    return f"{low:{specification}} to {high:{specification}}" if math.isfinite(low) and math.isfinite(high) else "-"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, in the singular or plural: "1 video", "2 videos", "10,000 videos".

    Args:
        plural: the plural form, if it is not the noun with an s.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def join_and_shorten(names: Sequence[object], max_count: int = 3, separator: str = ", ") -> str:
    """Return the first names and the number of remaining names, as in "a, b and 3 more"."""
    hidden_count = len(names) - max_count
    listed = separator.join(map(str, names[:max_count]))
    return f"{listed} and {hidden_count:,} more" if hidden_count > 0 else listed


def shorten_labels(labels: Sequence[str], fits: Callable[[str], bool]) -> list[str]:
    """Replace the part of each label that does not fit with an ellipsis, and keep distinct labels distinct.

    The labels lose their end or, if this makes labels equal or cuts numbers, their start or their middle, because a
    setting's value is at the end. If no cut keeps all labels distinct, use the cut that keeps most of them distinct.

    Args:
        fits: function that returns whether there is room for a text.
    """
    shortened = [[_shorten_label(label, cut, fits) for label in labels] for cut in (_cut_end, _cut_start, _cut_middle)]
    return max(shortened, key=lambda texts: (len(set(texts)), -sum(map(bool, map(_CUT_NUMBER_PATTERN.search, texts)))))


def shorten_middle(text: str, fits: Callable[[str], bool]) -> str:
    """Replace the middle of a text that does not fit with an ellipsis."""
    return _shorten_label(text, _cut_middle, fits)


def find_middle(text: str, fits: Callable[[str], bool]) -> slice | None:
    """Return the part of a text that `shorten_middle` replaces if the text does not fit; None if nothing would fit."""
    length = _count_fitting(text, _cut_middle, fits)
    return _choose_middle(text, length) if length else None


def _shorten_label(label: str, cut: Callable[[str, int], str], fits: Callable[[str], bool]) -> str:
    """Return a label with as many characters as fit; an empty text if not even the ellipsis and one character fit."""
    if fits(label):
        return label
    length = _count_fitting(label, cut, fits)
    return cut(label, length) if length else ""


def _count_fitting(label: str, cut: Callable[[str, int], str], fits: Callable[[str], bool]) -> int:
    """Return how many of a label's characters fit beside the ellipsis."""
    return bisect_left(range(1, len(label)), True, key=lambda length: not fits(cut(label, length)))


def _cut_end(text: str, length: int) -> str:
    return f"{text[:length]}…"


def _cut_start(text: str, length: int) -> str:
    return f"…{text[len(text) - length :]}"


def _cut_middle(text: str, length: int) -> str:
    middle = _choose_middle(text, length)
    return f"{text[: middle.start]}…{text[middle.stop :]}"


def _choose_middle(text: str, length: int) -> slice:
    """Return the part between two ends of a text, of about equal length; cut no number if possible."""
    cut_length = len(text) - length
    heads = sorted(range(length // 4, length - length // 4 + 1), key=lambda head: (abs(2 * head - length), -head))
    whole_heads = (
        head
        for head in heads
        if not any(_INSIDE_NUMBER_PATTERN.fullmatch(text[i - 1 : i + 1]) for i in (head, head + cut_length) if i)
    )
    head = next(whole_heads, length // 2)
    return slice(head, head + cut_length)


def capitalize_first(text: str) -> str:
    """Return a text with its first character in upper case; `str.capitalize` would also lower the others."""
    return f"{text[:1].upper()}{text[1:]}"


def escape_unprintable(text: str, keep_lines: bool = False) -> str:
    r"""Escape the characters of foreign text (files, names, output of programs) that a terminal would obey.

    A terminal obeys escape sequences (ESC, CSI, OSC, C1): they can set its title, write to the clipboard or clear the
    screen. Each control character and each character that reorders a line is replaced by its escape, such as `\x1b`.

    Args:
        keep_lines: leave newlines and tabs unchanged.
    """
    pattern = _UNPRINTABLE_EXCEPT_NEWLINES_PATTERN if keep_lines else UNPRINTABLE_PATTERN
    return pattern.sub(lambda match: _escape_character(match[0]), text)


def _escape_character(character: str) -> str:
    return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(
        character, f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"
    )


def format_error(error: Exception) -> str:
    """Return the text of an exception; the text of an operating-system error names the file and omits the number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def format_number_ranges(numbers: list[int]) -> str:
    """Format numbers as ranges, such as "1 to 3, 5"; at most ten ranges."""
    range_texts: list[str] = []
    numbers = sorted(numbers)
    first_index = 0
    for index, number in enumerate(numbers):
        if index + 1 == len(numbers) or numbers[index + 1] != number + 1:
            range_texts.append(str(number) if first_index == index else f"{numbers[first_index]} to {number}")
            first_index = index + 1
    return ", ".join(range_texts[:10]) + ", ..." * (len(range_texts) > 10)
