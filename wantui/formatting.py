"""Format numbers and text for people, in the same way on the command line and on the screens."""

import math
import re
from collections.abc import Iterable

MAX_TEXT_LENGTH = 300
"""Maximum length of text from elsewhere that a message quotes, in characters."""
_LONG_WORD = re.compile(rf"\S{{{MAX_TEXT_LENGTH + 1},}}")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls, line separators, directional overrides, and lone surrogates."""
_UNPRINTABLE_EXCEPT_NEWLINES = re.compile(UNPRINTABLE.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f"))
MIN_SCIENTIFIC_CHANGE = 10_000
"""Relative change from which powers of ten are used: a change of a mean near 0 can have forty digits."""


def shorten_text(text: str, length: int = MAX_TEXT_LENGTH) -> str:
    """Return text of at most `length` characters; the middle of longer text is left out."""
    if len(text) <= length:
        return text
    half = (length - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def shorten_echoed_arguments(message: str, arguments: Iterable[str]) -> str:
    """Shorten the long command-line arguments, and other long words, that a message repeats.

    Args:
        arguments: command-line arguments; a message may repeat one unchanged, quoted, or only the part after `=`.
    """
    for argument in sorted(arguments, key=len, reverse=True):
        for form in (argument, argument.partition("=")[2]):
            if len(form) > MAX_TEXT_LENGTH:
                message = message.replace(form, shorten_text(form)).replace(
                    repr(form)[1:-1], shorten_text(repr(form)[1:-1])
                )
    return _LONG_WORD.sub(lambda match: shorten_text(match[0]), message)


def format_bytes(number: float) -> str:
    """Return a size in powers of ten, such as "12.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def format_duration(seconds: float) -> str:
    """Return a duration as 0:05, 12:34 or 1:23:45."""
    minutes, seconds_part = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds_part:02d}" if hours else f"{minutes}:{seconds_part:02d}"


def format_long_duration(seconds: float) -> str:
    """Return a long duration in its largest unit: "3 hours", "12 days", "2 years"."""
    for unit, length in (("year", 365 * 86400), ("day", 86400), ("hour", 3600)):
        if seconds >= (2 if unit != "hour" else 0.5) * length:
            return format_count(round(seconds / length), unit)
    return format_count(max(round(seconds / 60), 1), "minute")


def format_percent_change(share: float) -> str:
    """Return a relative change in percent with its sign: "+12.3%", or "+1.23e+08%" from 10,000-fold on."""
    return f"{share:+.1%}" if abs(share) < MIN_SCIENTIFIC_CHANGE else f"{100 * share:+.3g}%"


def format_percent(fraction: float) -> str:
    """Return a fraction in percent, without trailing zeros: "10%", "0.4%"."""
    return f"{100 * fraction:.6g}%"


def format_mean(mean: float, deviation: float, digits: int) -> str:
    """Return a mean and its standard deviation: "1.234 ± 0.056", "1.234" of a single value, "-" without any."""
    if not math.isfinite(mean):
        return "-"
    return f"{mean:.{digits}g} ± {deviation:.2g}" if math.isfinite(deviation) else f"{mean:.{digits}g}"


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, in the singular or plural: "1 video", "2 videos", "10,000 videos".

    Args:
        plural: the plural form, if it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def escape_unprintable(text: str, keep_lines: bool = False) -> str:
    r"""Escape the characters of foreign text (files, names, output of programs) that a terminal would obey.

    A terminal obeys escape sequences (ESC, CSI, OSC, C1): they can set its title, write to the clipboard or clear the
    screen. Each control character and each character that reorders a line is replaced by its escape, such as `\x1b`.

    Args:
        keep_lines: leave newlines and tabs unchanged.
    """
    pattern = _UNPRINTABLE_EXCEPT_NEWLINES if keep_lines else UNPRINTABLE
    return pattern.sub(lambda match: _escape_character(match[0]), text)


def _escape_character(character: str) -> str:
    return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(
        character, f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"
    )
