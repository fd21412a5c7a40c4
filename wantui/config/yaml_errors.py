"""Describe errors of YAML by line, with the invisible characters that often cause them."""

import re
import unicodedata

from yaml.reader import Reader

TAB_INDENT_PATTERN = re.compile(r"[ ]*\t")
UNUSUAL_SPACE_PATTERN = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff]")
"""Unusual space or invisible character that YAML treats as a letter."""
MISSING_COLON_REASONS = ("mapping values are not allowed", "could not find expected ':'")
"""Reasons of PyYAML for an error that a missing colon may cause."""
KEY_PATTERN = re.compile(r"\w+")
CONTEXT_LINE_COUNT = 2
"""Number of lines before an error that may contain its cause."""


def describe_yaml_error(error: Exception, text: str) -> tuple[int | None, str]:
    """Return the line of a PyYAML error (from 1, if known) and its reason."""
    if (character := Reader.NON_PRINTABLE.search(text)) is not None:
        line_number = text.count("\n", 0, character.start()) + 1
        return line_number, f"the character U+{ord(character[0]):04X} is not allowed. Delete it"
    mark = getattr(error, "problem_mark", None)
    reason = str(getattr(error, "problem", None) or error)
    if reason.startswith("but ") and (context := getattr(error, "context", None)):
        reason = f"{context}, {reason}"  # PyYAML splits this sentence
    if mark is None:
        return None, reason
    lines = text.split("\n")
    if mark.line < len(lines) and _is_about_tab_indent(reason, lines[mark.line], mark.column):
        return mark.line + 1, "the line is indented with a tab. Indent with spaces"
    if (colon_problem := _find_missing_colon(reason, lines, mark.line, mark.column)) is not None:
        return colon_problem
    for index in range(max(0, mark.line - CONTEXT_LINE_COUNT), min(mark.line + 1, len(lines))):
        if blank := describe_unusual_space(lines[index]):
            reason += f". Line {index + 1} contains {blank}: replace it with a space"
            break
    return mark.line + 1, reason


def _find_missing_colon(reason: str, lines: list[str], error_index: int, column: int) -> tuple[int, str] | None:
    """Return line and reason if a key without a colon causes the error, which PyYAML notices in a later line."""
    if not any(phrase in reason for phrase in MISSING_COLON_REASONS):
        return None
    if error_index < len(lines) and ": " in lines[error_index][:column]:
        return None  # the second colon of this line is the error
    for index in range(min(error_index, len(lines)) - 1, -1, -1):
        line = lines[index].strip()
        if not line or line.startswith("#"):
            continue
        key, _, value = line.partition(" ")
        if not KEY_PATTERN.fullmatch(key) or ":" in line:
            return None
        return index + 1, f"the line has no colon after its key. Write it as `{f'{key}: {value.strip()}'.strip()}`"
    return None


def _is_about_tab_indent(reason: str, line: str, column: int) -> bool:
    """Return whether a tab in the indentation causes an error in a line; inside of braces, libyaml accepts tabs."""
    indent = TAB_INDENT_PATTERN.match(line)
    return indent is not None and ("tab character" in reason or column < indent.end())


def describe_unusual_space(text: str) -> str:
    """Return the name of the first blank or invisible character other than a space; empty without such a character."""
    blank = UNUSUAL_SPACE_PATTERN.search(text)
    return (
        "" if blank is None else f"the invisible character U+{ord(blank[0]):04X} ({unicodedata.name(blank[0]).lower()})"
    )
