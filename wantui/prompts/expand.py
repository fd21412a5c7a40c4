"""Expansion of a parsed template to its variations, in odometer order: the last bracket changes fastest."""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from itertools import chain, groupby
from typing import NamedTuple, TypeVar

from wantui.errors import UserError
from wantui.prompts.cleaning import clean_prompt, clean_prompt_part
from wantui.prompts.foreign_syntax import format_excerpt
from wantui.prompts.parse import Alternatives, LiteralText, MarkedText, Template, TemplateError, TemplateNodes

DEFAULT_MAX_VARIATIONS = 10_000
MAX_VARIATION_ID_LENGTH = 60
MAX_EXPANSION_LENGTH = 30_000_000
"""Maximum number of characters, choices and marks in all variations of a template; 10,000 prompts of 512 tokens have
fewer."""
_NOT_IN_ID_PATTERN = re.compile(r"[^\w]+")
_DASHES_PATTERN = re.compile("-+")


class TooManyVariationsError(UserError):
    """Raised for a template that expands to more variations than allowed."""

    def __init__(self, variation_count: int, max_variations: int, is_minimum: bool = False) -> None:
        self.variation_count, self.max_variations = variation_count, max_variations
        count_text = f"{'at least ' if is_minimum else ''}{format_large_count(variation_count)}"
        super().__init__(
            f"cannot expand the template: it has {count_text} variations, more than the limit of "
            f"{max_variations:,}. Use fewer options, or raise prompt_settings.max_variations."
        )


class ExpansionTooLargeError(UserError):
    """Raised for a template whose variations would be too large for memory."""

    def __init__(self, expanded_size: int) -> None:
        super().__init__(
            f"cannot expand the template: its variations would have {format_large_count(expanded_size)} characters, "
            f"choices and marks together, more than {MAX_EXPANSION_LENGTH:,}. Use shorter text or fewer options, or "
            "several batches."
        )


def format_large_count(count: int) -> str:
    """Format a count with separators, or as a power of ten from 10^15."""
    return f"{count:,}" if count < 10**15 else f"about 10^{int(math.log10(count))}"


@dataclass(frozen=True, slots=True)
class Mark:
    """Marked text of a prompt: `prompt[start:end]` is `text`."""

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The option chosen in a bracket: `prompt[start:end]` is `text`. Both numbers count from 1."""

    bracket_number: int
    option_number: int
    text: str
    start: int
    end: int


_Span = TypeVar("_Span", Mark, Choice)


class ScheduledPrompt(NamedTuple):
    """A later prompt of a variation, from its prompt schedule; its choices count the brackets of its own template."""

    prompt: str
    choices: tuple[Choice, ...]
    marks: tuple[Mark, ...]


class Variation(NamedTuple):
    """One prompt of a template, cleaned, with its choices in bracket order.

    With a prompt schedule, `prompt` and `marks` belong to the initial prompt, and `choices` to all prompts; a choice
    that the initial prompt lacks has an empty span.
    """

    id: str
    prompt: str
    choices: tuple[Choice, ...]
    marks: tuple[Mark, ...]
    scheduled_prompts: tuple[ScheduledPrompt, ...] = ()


def list_prompts(variation: Variation) -> tuple[str, ...]:
    """Return the initial prompt of a variation, then the prompts of its schedule."""
    return variation.prompt, *(scheduled.prompt for scheduled in variation.scheduled_prompts)


def list_marks(variation: Variation) -> list[Mark]:
    """Return the marks of all of a variation's prompts."""
    return [*variation.marks, *(mark for scheduled in variation.scheduled_prompts for mark in scheduled.marks)]


class _ExpandedPart(NamedTuple):
    """An expanded part of a template.

    Positions of marks and choices count from the start of the part; `labels` are the texts of its outermost choices.
    """

    text: str
    marks: tuple[Mark, ...] = ()
    choices: tuple[Choice, ...] = ()
    labels: tuple[str, ...] = ()


class _ExpandedSize(NamedTuple):
    """Number and total length of a template part's expansions."""

    expansion_count: int
    text_length: int
    """Characters."""
    extra_length: int
    """Marks, choices, and characters of choice texts."""


def count_variations(template: Template) -> int:
    """Count the variations of a template without expanding it."""
    return _measure_expansion(template.nodes).expansion_count


def _measure_expansion(nodes: TemplateNodes) -> _ExpandedSize:
    expansion_count, text_length, extra_length = 1, 0, 0
    for node in nodes:
        if isinstance(node, LiteralText):
            text_length += expansion_count * len(node.text)
        else:
            node_size = _measure_node(node)
            text_length = text_length * node_size.expansion_count + node_size.text_length * expansion_count
            extra_length = extra_length * node_size.expansion_count + node_size.extra_length * expansion_count
            expansion_count *= node_size.expansion_count
    return _ExpandedSize(expansion_count, text_length, extra_length)


def _measure_node(node: Alternatives | MarkedText) -> _ExpandedSize:
    if isinstance(node, MarkedText):
        expansion_count, text_length, extra_length = _measure_expansion(node.content)
        return _ExpandedSize(expansion_count, text_length, extra_length + text_length + expansion_count)
    option_sizes = [_measure_expansion(option) for option in node.options]
    expansion_count, text_length, extra_length = (sum(column) for column in zip(*option_sizes, strict=True))
    return _ExpandedSize(expansion_count, text_length, extra_length + text_length + expansion_count)


def expand_template(template: Template, max_variations: int = DEFAULT_MAX_VARIATIONS) -> list[Variation]:
    """Return all variations in order, including duplicates.

    Raises:
        TooManyVariationsError: the template has more than `max_variations` variations.
        ExpansionTooLargeError: text, choices and marks together exceed MAX_EXPANSION_LENGTH.
        TemplateError: a variation has no text, or cleaning would change its text across a bracket.
    """
    expanded_size = _measure_expansion(template.nodes)
    if expanded_size.expansion_count > max_variations:
        raise TooManyVariationsError(expanded_size.expansion_count, max_variations)
    if expanded_size.text_length + expanded_size.extra_length > MAX_EXPANSION_LENGTH:
        raise ExpansionTooLargeError(expanded_size.text_length + expanded_size.extra_length)
    parts = _expand_nodes(template.nodes)
    variation_ids = build_variation_ids([part.labels for part in parts])
    is_plain = template.source.isascii() and "&" not in template.source
    return [
        _build_variation(template, part, variation_id, is_plain)
        for part, variation_id in zip(parts, variation_ids, strict=True)
    ]


def _expand_nodes(nodes: TemplateNodes) -> list[_ExpandedPart]:
    expansions_by_node: list[list[_ExpandedPart]] = []
    for node in nodes:
        match node:
            case LiteralText(text):
                expansions_by_node.append([_ExpandedPart(clean_prompt_part(text))])
            case Alternatives(options, bracket_number):
                expansions_by_node.append(
                    [
                        _add_choice(part, bracket_number, option_number)
                        for option_number, option in enumerate(options, start=1)
                        for part in _expand_nodes(option)
                    ]
                )
            case MarkedText(content, weight):
                expansions_by_node.append([_add_mark(part, weight) for part in _expand_nodes(content)])
    return reduce(_combine_parts, _merge_constant_parts(expansions_by_node), [_ExpandedPart("")])


def _merge_constant_parts(expansions_by_node: list[list[_ExpandedPart]]) -> list[list[_ExpandedPart]]:
    """Append each part that has only one expansion to the preceding part once, not once per variation."""
    merged: list[list[_ExpandedPart]] = []
    for is_single, expansion_group in groupby(expansions_by_node, lambda expansions: len(expansions) == 1):
        if not is_single:
            merged += expansion_group
        else:
            joined_expansions = [_concatenate_parts([expansions[0] for expansions in expansion_group])]
            merged[-1:] = [_combine_parts(merged[-1], joined_expansions)] if merged else [joined_expansions]
    return merged


def _concatenate_parts(parts: list[_ExpandedPart]) -> _ExpandedPart:
    """Concatenate pieces, and collapse adjacent spaces into one.

    All pieces are joined in one pass: joining pairs would copy the preceding text and marks again for each piece.
    """
    texts: list[str] = []
    marks: list[Mark] = []
    choices: list[Choice] = []
    total_length, ends_in_space = 0, False
    for part in parts:
        text = part.text[1:] if ends_in_space and part.text[:1] == " " else part.text
        offset = total_length + len(text) - len(part.text)
        marks += _shift_spans(part.marks, offset)
        choices += _shift_spans(part.choices, offset)
        texts.append(text)
        total_length += len(text)
        ends_in_space = text[-1:] == " " if text else ends_in_space
    labels = tuple(chain.from_iterable(part.labels for part in parts))
    return _ExpandedPart("".join(texts), tuple(marks), tuple(choices), labels)


def _shift_spans(spans: tuple[_Span, ...], offset: int) -> tuple[_Span, ...]:
    """Shift marks or choices by `offset` characters, but not before the start of the text."""
    if not offset:
        return spans
    return tuple(replace(span, start=max(0, span.start + offset), end=max(0, span.end + offset)) for span in spans)


def _combine_parts(left_parts: list[_ExpandedPart], right_parts: list[_ExpandedPart]) -> list[_ExpandedPart]:
    return [_concatenate_parts([a, b]) for a in left_parts for b in right_parts]


def _add_choice(part: _ExpandedPart, bracket_number: int, option_number: int) -> _ExpandedPart:
    label = part.text.strip()
    start = len(part.text) - len(part.text.lstrip()) if label else 0
    choice = Choice(bracket_number, option_number, label, start, start + len(label))
    return _ExpandedPart(part.text, part.marks, (choice, *part.choices), (label,))


def _add_mark(part: _ExpandedPart, weight: float) -> _ExpandedPart:
    start = len(part.text) - len(part.text.lstrip())
    marked_text = part.text.strip()
    if not marked_text:
        return part
    return part._replace(marks=(Mark(marked_text, start, start + len(marked_text), weight),))


def _build_variation(template: Template, part: _ExpandedPart, variation_id: str, is_plain: bool) -> Variation:
    prompt = part.text.strip()
    if not prompt:
        raise TemplateError("cannot expand the template: one of its variations has no text", template.source, 0)
    if not is_plain and clean_prompt(prompt) != prompt:
        raise TemplateError(
            "cannot expand the template: text cleaning would change characters on both sides of a bracket: "
            f"{format_excerpt(prompt)!r}",
            template.source,
            0,
        )
    offset = -1 if part.text[0] == " " else 0
    choices, marks = _shift_spans(part.choices, offset), _shift_spans(part.marks, offset)
    return Variation(variation_id, prompt, _limit_spans(choices, len(prompt)), marks)


def _limit_spans(choices: tuple[Choice, ...], length: int) -> tuple[Choice, ...]:
    """Limit the positions of choices to a text; the position of an empty option may be after the last word."""
    if all(choice.end <= length for choice in choices):
        return choices
    return tuple(replace(choice, start=min(choice.start, length), end=min(choice.end, length)) for choice in choices)


def build_variation_ids(labels_by_variation: list[tuple[str, ...]]) -> list[str]:
    """Return a readable, unique id for each variation.

    An id that would be too long, or ambiguous between different choices, ends in a digest of the choices. Repeated
    choices get a number after a full stop, a character that occurs nowhere else in ids.
    """
    candidate_ids = [
        "_".join(map(_slugify_label, variation_labels)) or "single" for variation_labels in labels_by_variation
    ]
    if len(set(candidate_ids)) == len(candidate_ids) and max(map(len, candidate_ids)) <= MAX_VARIATION_ID_LENGTH:
        return candidate_ids
    meaning_counts = Counter(
        candidate_id for candidate_id, _ in set(zip(candidate_ids, labels_by_variation, strict=True))
    )
    use_counts: Counter[str] = Counter()
    unique_ids = []
    for candidate_id, variation_labels in zip(candidate_ids, labels_by_variation, strict=True):
        if len(candidate_id) > MAX_VARIATION_ID_LENGTH or meaning_counts[candidate_id] > 1:
            digest = hashlib.sha256("\x1f".join(variation_labels).encode()).hexdigest()[:8]
            candidate_id = f"{candidate_id[: MAX_VARIATION_ID_LENGTH - 9]}-{digest}"
        use_counts[candidate_id] += 1
        unique_ids.append(
            candidate_id if use_counts[candidate_id] == 1 else f"{candidate_id}.{use_counts[candidate_id]}"
        )
    return unique_ids


@lru_cache(maxsize=20_000)  # bounded: Compose expands a new label after every keystroke
def _slugify_label(label: str) -> str:
    if label.isascii():
        return _NOT_IN_ID_PATTERN.sub("-", label.lower()).replace("_", "-").strip("-") or "none"
    for spell_character in (_choose_id_replacement, _spell_out_character):
        text = "".join(map(spell_character, label.lower())).replace("_", "-")
        if text := _DASHES_PATTERN.sub("-", text).strip("-"):
            return text
    return "none"


def _spell_out_character(character: str) -> str:
    return f"-{_NOT_IN_ID_PATTERN.sub('-', unicodedata.name(character, f'u{ord(character):x}').lower())}-"


def _choose_id_replacement(character: str) -> str:
    """Return the text that replaces a character in an id; symbols such as emoji are replaced by their names.

    An emoji's skin tone is a separate character, and may be the only difference between two options.
    """
    category, code_point = unicodedata.category(character), ord(character)
    if 0x1F1E6 <= code_point <= 0x1F1FF:  # regional indicators, which form flags
        return chr(ord("a") + code_point - 0x1F1E6)
    if category.startswith("S") and not character.isascii():
        return _spell_out_character(character)
    if _NOT_IN_ID_PATTERN.fullmatch(character) is None:
        return character
    # Combining marks stay, such as vowels of Indic scripts; the variation selectors of emoji do not.
    return character if category in ("Mn", "Mc") and not 0xFE00 <= code_point <= 0xFE0F else "-"
