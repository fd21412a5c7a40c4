"""Expansion of a parsed template to its variations, in odometer order: the last bracket changes fastest."""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from itertools import chain, groupby
from typing import NamedTuple

from wantui.errors import UserError
from wantui.prompts.cleaning import clean_prompt, clean_text
from wantui.prompts.foreign_syntax import format_excerpt
from wantui.prompts.parse import Alternatives, MarkedText, Nodes, Template, TemplateError, Text

DEFAULT_MAX_VARIATIONS = 10_000
MAX_ID_LENGTH = 60
MAX_EXPANDED_SIZE = 30_000_000
"""Maximum number of characters, choices and marks in all variations of a template; 10,000 prompts of 512 tokens have
fewer."""
_NOT_IN_ID = re.compile(r"[^\w]+")
_DASHES = re.compile("-+")


class TooManyVariationsError(UserError):
    """Raised for a template that expands to more variations than allowed."""

    def __init__(self, number: int, limit: int) -> None:
        self.number, self.limit = number, limit
        super().__init__(
            f"cannot expand the template: it has {format_large_count(number)} variations, more than the limit of "
            f"{limit:,}. Use fewer options, or raise prompt_settings.max_variations."
        )


class ExpansionTooLargeError(UserError):
    """Raised for a template whose variations would be too large for memory."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"cannot expand the template: its variations would have {format_large_count(size)} characters, choices and "
            f"marks together, more than {MAX_EXPANDED_SIZE:,}. Use shorter text or fewer options, or several batches."
        )


def format_large_count(number: int) -> str:
    """Format a count with separators, or as a power of ten from 10^15."""
    return f"{number:,}" if number < 10**15 else f"about 10^{int(math.log10(number))}"


@dataclass(frozen=True, slots=True)
class Mark:
    """Marked text of a prompt: `prompt[start:end]` is `text`."""

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The option chosen in a bracket. Both numbers count from 1; `text` is the expanded option."""

    bracket: int
    option: int
    text: str


class Variation(NamedTuple):
    """One prompt of a template, cleaned, with its choices in bracket order."""

    id: str
    prompt: str
    choices: tuple[Choice, ...]
    marks: tuple[Mark, ...]


class _Piece(NamedTuple):
    """An expanded part of a template. Mark positions count from the start of the part; `labels` are the texts of its
    outermost choices."""

    text: str
    marks: tuple[Mark, ...] = ()
    choices: tuple[Choice, ...] = ()
    labels: tuple[str, ...] = ()


class _ExpandedSize(NamedTuple):
    """Number and total size of the expansions of a part of a template."""

    expansions: int
    text_length: int
    """Characters."""
    extra_length: int
    """Marks, choices, and characters of choice texts."""


def count_variations(template: Template) -> int:
    """Count the variations of a template without expanding it."""
    return _measure_nodes(template.nodes).expansions


def _measure_nodes(nodes: Nodes) -> _ExpandedSize:
    forms, text, extra_length = 1, 0, 0
    for node in nodes:
        if isinstance(node, Text):
            text += forms * len(node.text)
        else:
            size = _measure_node(node)
            text = text * size.expansions + size.text_length * forms
            extra_length = extra_length * size.expansions + size.extra_length * forms
            forms *= size.expansions
    return _ExpandedSize(forms, text, extra_length)


def _measure_node(node: Alternatives | MarkedText) -> _ExpandedSize:
    if isinstance(node, MarkedText):
        forms, text, extra_length = _measure_nodes(node.content)
        return _ExpandedSize(forms, text, extra_length + text + forms)
    sizes = [_measure_nodes(option) for option in node.options]
    forms, text, extra_length = (sum(column) for column in zip(*sizes, strict=True))
    return _ExpandedSize(forms, text, extra_length + text + forms)


def expand_template(template: Template, limit: int = DEFAULT_MAX_VARIATIONS) -> list[Variation]:
    """Return all variations in order, including duplicates.

    Raises:
        TooManyVariationsError: the template has more than `limit` variations.
        ExpansionTooLargeError: text, choices and marks together exceed MAX_EXPANDED_SIZE.
        TemplateError: a variation has no text, or cleaning would change its text across a bracket.
    """
    size = _measure_nodes(template.nodes)
    if size.expansions > limit:
        raise TooManyVariationsError(size.expansions, limit)
    if size.text_length + size.extra_length > MAX_EXPANDED_SIZE:
        raise ExpansionTooLargeError(size.text_length + size.extra_length)
    pieces = _expand_nodes(template.nodes)
    ids = _build_variation_ids([piece.labels for piece in pieces])
    plain = template.source.isascii() and "&" not in template.source
    return [_build_variation(template, piece, name, plain) for piece, name in zip(pieces, ids, strict=True)]


def _expand_nodes(nodes: Nodes) -> list[_Piece]:
    expanded: list[list[_Piece]] = []
    for node in nodes:
        match node:
            case Text(text):
                expanded.append([_Piece(clean_text(text))])
            case Alternatives(options, bracket):
                expanded.append(
                    [
                        _add_choice(piece, bracket, i)
                        for i, option in enumerate(options, start=1)
                        for piece in _expand_nodes(option)
                    ]
                )
            case MarkedText(content, weight):
                expanded.append([_add_mark(piece, weight) for piece in _expand_nodes(content)])
    return reduce(_combine_pieces, _merge_constant_parts(expanded), [_Piece("")])


def _merge_constant_parts(expanded: list[list[_Piece]]) -> list[list[_Piece]]:
    """Append each part that has only one expansion to the preceding part once, not once per variation."""
    merged: list[list[_Piece]] = []
    for is_single, group in groupby(expanded, lambda pieces: len(pieces) == 1):
        if not is_single:
            merged += group
        else:
            joined = [_concatenate([pieces[0] for pieces in group])]
            merged[-1:] = [_combine_pieces(merged[-1], joined)] if merged else [joined]
    return merged


def _concatenate(pieces: list[_Piece]) -> _Piece:
    """Concatenate pieces, and collapse adjacent spaces into one.

    All pieces are joined in one pass: joining pairs would copy the preceding text and marks again for each piece.
    """
    texts, marks, length, ends_in_space = [], [], 0, False
    for piece in pieces:
        text = piece.text[1:] if ends_in_space and piece.text[:1] == " " else piece.text
        offset = length + len(text) - len(piece.text)
        marks += [replace(mark, start=mark.start + offset, end=mark.end + offset) for mark in piece.marks]
        texts.append(text)
        length += len(text)
        ends_in_space = text[-1:] == " " if text else ends_in_space
    choices = tuple(chain.from_iterable(piece.choices for piece in pieces))
    labels = tuple(chain.from_iterable(piece.labels for piece in pieces))
    return _Piece("".join(texts), tuple(marks), choices, labels)


def _combine_pieces(left: list[_Piece], right: list[_Piece]) -> list[_Piece]:
    return [_concatenate([a, b]) for a in left for b in right]


def _add_choice(piece: _Piece, bracket: int, option: int) -> _Piece:
    label = piece.text.strip()
    return _Piece(piece.text, piece.marks, (Choice(bracket, option, label), *piece.choices), (label,))


def _add_mark(piece: _Piece, weight: float) -> _Piece:
    start = len(piece.text) - len(piece.text.lstrip())
    marked = piece.text.strip()
    if not marked:
        return piece
    return piece._replace(marks=(Mark(marked, start, start + len(marked), weight),))


def _build_variation(template: Template, piece: _Piece, name: str, is_plain: bool) -> Variation:
    prompt = piece.text.strip()
    if not prompt:
        raise TemplateError("cannot expand the template: one of its variations has no text", template.source, 0)
    if not is_plain and clean_prompt(prompt) != prompt:
        raise TemplateError(
            f"cannot expand the template: cleaning would change text across a bracket: {format_excerpt(prompt)!r}",
            template.source,
            0,
        )
    marks = piece.marks
    if marks and piece.text[0] == " ":
        marks = tuple(replace(mark, start=mark.start - 1, end=mark.end - 1) for mark in marks)
    return Variation(name, prompt, piece.choices, marks)


def _build_variation_ids(labels: list[tuple[str, ...]]) -> list[str]:
    """Return a readable, unique id for each variation.

    An id that would be too long, or ambiguous between different choices, ends in a digest of the choices. Repeated
    choices get a number after a full stop, a character that occurs nowhere else in ids.
    """
    names = ["_".join(map(_slugify_label, of_one)) or "single" for of_one in labels]
    if len(set(names)) == len(names) and max(map(len, names)) <= MAX_ID_LENGTH:
        return names
    meanings = Counter(name for name, _ in set(zip(names, labels, strict=True)))
    seen: Counter[str] = Counter()
    ids = []
    for name, of_one in zip(names, labels, strict=True):
        if len(name) > MAX_ID_LENGTH or meanings[name] > 1:
            digest = hashlib.sha256("\x1f".join(of_one).encode()).hexdigest()[:8]
            name = f"{name[: MAX_ID_LENGTH - 9]}-{digest}"
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return ids


@lru_cache(maxsize=20_000)  # bounded: Compose expands a new label after every keystroke
def _slugify_label(label: str) -> str:
    if label.isascii():
        return _NOT_IN_ID.sub("-", label.lower()).replace("_", "-").strip("-") or "none"
    for spell in (_choose_id_replacement, _name_character):
        text = "".join(map(spell, label.lower())).replace("_", "-")
        if text := _DASHES.sub("-", text).strip("-"):
            return text
    return "none"


def _name_character(character: str) -> str:
    return f"-{_NOT_IN_ID.sub('-', unicodedata.name(character, f'u{ord(character):x}').lower())}-"


def _choose_id_replacement(character: str) -> str:
    """Return the replacement of a character in an id; symbols such as emoji are replaced by their names.

    An emoji's skin tone is a separate character, and may be the only difference between two options.
    """
    category, code = unicodedata.category(character), ord(character)
    if 0x1F1E6 <= code <= 0x1F1FF:  # regional indicators, which form flags
        return chr(ord("a") + code - 0x1F1E6)
    if category.startswith("S") and not character.isascii():
        return _name_character(character)
    if _NOT_IN_ID.fullmatch(character) is None:
        return character
    # Combining marks stay, such as vowels of Indic scripts; the variation selectors of emoji do not.
    return character if category in ("Mn", "Mc") and not 0xFE00 <= code <= 0xFE0F else "-"
