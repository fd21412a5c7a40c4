"""Write prompts and their marks as a template, the reverse of parsing."""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import takewhile

from wantui.prompts.parse import SPECIAL_CHARACTERS

MarkSpan = tuple[int, int, float]
"""Start, end and weight of marked text in a prompt."""
_SPECIAL_PATTERN = re.compile(f"[{re.escape(''.join(sorted(SPECIAL_CHARACTERS)))}]")
_WORD_PATTERN = re.compile(r"\s+|\S+")


def format_as_template(prompt: str, marks: Iterable[MarkSpan] = ()) -> str:
    """Return the template whose only variation is this prompt with these marks.

    Args:
        marks: marks that overlap an earlier one are left out.
    """
    return "".join(_split_prompt(prompt, marks))


def format_prompts_as_template(prompts: Sequence[tuple[str, Sequence[MarkSpan]]]) -> str:
    """Return the template whose variations are these prompts with these marks, each once, in their order.

    All prompts share the words before and after its one bracket.
    """
    split_prompts = list(dict.fromkeys(tuple(_split_prompt(prompt, marks)) for prompt, marks in prompts))
    if len(split_prompts) == 1:
        return "".join(split_prompts[0])
    start_count = count_equal_columns(split_prompts)
    rests = [parts[start_count:] for parts in split_prompts]
    end_count = count_equal_columns([parts[::-1] for parts in rests])
    options = ["".join(parts[: len(parts) - end_count]) for parts in rests]
    start, end = split_prompts[0][:start_count], rests[0][len(rests[0]) - end_count :]
    return f"{''.join(start)}[{'|'.join(options)}]{''.join(end)}"


def _split_prompt(prompt: str, marks: Iterable[MarkSpan]) -> list[str]:
    """Return the template text of each mark, each unmarked word, and the white space between them."""
    parts, position = [], 0
    for start, end, weight in sorted(marks):
        if start < position or end > len(prompt):
            continue
        weight_text = "" if weight == 1 else f":{_format_weight(weight)}"
        parts += _split_words(prompt[position:start])
        parts.append(f"({escape_special_characters(prompt[start:end])}{weight_text})")
        position = end
    return parts + _split_words(prompt[position:])


def _split_words(text: str) -> list[str]:
    return [escape_special_characters(word) for word in _WORD_PATTERN.findall(text)]


def _format_weight(weight: float) -> str:
    """Return the shortest text that reads as this weight; the grammar has no exponents."""
    text = f"{weight:g}"
    return text if "e" not in text and float(text) == weight else f"{Decimal(repr(weight)):f}"


def count_equal_columns(rows: Sequence[Sequence[str]]) -> int:
    """Return the number of elements at the start that all rows share."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


def escape_special_characters(text: str) -> str:
    """Return the template text that reads as this literal text."""
    return _SPECIAL_PATTERN.sub(lambda match: f"\\{match[0]}", text)
