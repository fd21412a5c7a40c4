"""Expand a parsed template to its variations, in the order of an odometer: the last bracket changes fastest."""

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
"""Characters, choices and marks of all variations of a template together; 10,000 prompts of 512 tokens have fewer."""
_NOT_IN_ID = re.compile(r"[^\w]+")
_DASHES = re.compile("-+")


class TooManyVariationsError(UserError):
    """A template that expands to more variations than allowed."""

    def __init__(self, number: int, limit: int) -> None:
        self.number, self.limit = number, limit
        super().__init__(
            f"the template expands to {format_large_count(number)} variations, more than the limit of {limit:,}; "
            "use fewer options, or raise prompt_settings.max_variations"
        )


class ExpansionTooLargeError(UserError):
    """A template whose variations would together be too large for memory."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"cannot expand the template: its variations would have {format_large_count(size)} characters, choices and "
            f"marks together, more than {MAX_EXPANDED_SIZE:,}. Use shorter text or fewer options, or several batches."
        )


def format_large_count(number: int) -> str:
    """Return a count with separators; one that would be too long to read as a power of ten."""
    return f"{number:,}" if number < 10**15 else f"about 10^{int(math.log10(number))}"


@dataclass(frozen=True, slots=True)
class Mark:
    """A marked stretch of a prompt: `prompt[start:end]` is `text`."""

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Choice:
    """An option chosen in a bracket; both numbers count from 1, `text` is the option's expansion."""

    bracket: int
    option: int
    text: str


class Variation(NamedTuple):
    """One prompt of a template, cleaned as the pipeline cleans it, with its choices in the order of the brackets."""

    id: str
    prompt: str
    choices: tuple[Choice, ...]
    marks: tuple[Mark, ...]


class _Piece(NamedTuple):
    """An expanded stretch of template; marks count from its own start, `labels` are its outermost choices' texts."""

    text: str
    marks: tuple[Mark, ...] = ()
    choices: tuple[Choice, ...] = ()
    labels: tuple[str, ...] = ()


class _ExpandedSize(NamedTuple):
    """Size of an expanded section of a template: the number of its forms, and their total size in memory."""

    expansions: int
    text: int
    extras: int
    """Choices with their texts, and marks."""


def count_variations(template: Template) -> int:
    """Return the number of variations of a template, without making them."""
    return _measure_nodes(template.nodes).expansions


def _measure_nodes(nodes: Nodes) -> _ExpandedSize:
    forms, text, kept = 1, 0, 0
    for node in nodes:
        if isinstance(node, Text):
            text += forms * len(node.text)
        else:
            size = _measure_node(node)
            text = text * size.expansions + size.text * forms
            kept = kept * size.expansions + size.extras * forms
            forms *= size.expansions
    return _ExpandedSize(forms, text, kept)


def _measure_node(node: Alternatives | MarkedText) -> _ExpandedSize:
    if isinstance(node, MarkedText):
        forms, text, kept = _measure_nodes(node.content)
        return _ExpandedSize(forms, text, kept + text + forms)
    sizes = [_measure_nodes(option) for option in node.options]
    forms, text, kept = (sum(column) for column in zip(*sizes, strict=True))
    return _ExpandedSize(forms, text, kept + text + forms)


def expand_template(template: Template, limit: int = DEFAULT_MAX_VARIATIONS) -> list[Variation]:
    """Return all variations, in order, duplicates included.

    Raises:
        TooManyVariationsError: more than `limit`.
        ExpansionTooLargeError: more text, choices and marks than memory should hold.
        TemplateError: a variation without any text, or text that cleaning would change across a bracket.
    """
    size = _measure_nodes(template.nodes)
    if size.expansions > limit:
        raise TooManyVariationsError(size.expansions, limit)
    if size.text + size.extras > MAX_EXPANDED_SIZE:
        raise ExpansionTooLargeError(size.text + size.extras)
    pieces = _expand_nodes(template.nodes)
    ids = _variation_ids([piece.labels for piece in pieces])
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
                        _with_choice(piece, bracket, i)
                        for i, option in enumerate(options, start=1)
                        for piece in _expand_nodes(option)
                    ]
                )
            case MarkedText(content, weight):
                expanded.append([_with_mark(piece, weight) for piece in _expand_nodes(content)])
    return reduce(_product, _merge_constant_parts(expanded), [_Piece("")])


def _merge_constant_parts(expanded: list[list[_Piece]]) -> list[list[_Piece]]:
    """Join a part with only one form to the preceding text once, instead of once per variation."""
    merged: list[list[_Piece]] = []
    for is_single, group in groupby(expanded, lambda pieces: len(pieces) == 1):
        if not is_single:
            merged += group
        else:
            joined = [_concatenate([pieces[0] for pieces in group])]
            merged[-1:] = [_product(merged[-1], joined)] if merged else [joined]
    return merged


def _concatenate(pieces: list[_Piece]) -> _Piece:
    """Concatenate pieces, with one space where white space meets.

    One pass over all pieces: to join them one after the other copies the text and the marks before each.
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


def _product(left: list[_Piece], right: list[_Piece]) -> list[_Piece]:
    return [_concatenate([a, b]) for a in left for b in right]


def _with_choice(piece: _Piece, bracket: int, option: int) -> _Piece:
    label = piece.text.strip()
    return _Piece(piece.text, piece.marks, (Choice(bracket, option, label), *piece.choices), (label,))


def _with_mark(piece: _Piece, weight: float) -> _Piece:
    start = len(piece.text) - len(piece.text.lstrip())
    marked = piece.text.strip()
    if not marked:
        return piece
    return piece._replace(marks=(Mark(marked, start, start + len(marked), weight),))


def _build_variation(template: Template, piece: _Piece, name: str, plain: bool) -> Variation:
    prompt = piece.text.strip()
    if not prompt:
        raise TemplateError("a variation of this template has no text", template.source, 0)
    if not plain and clean_prompt(prompt) != prompt:
        raise TemplateError(
            f"cleaning changes the text of a variation across a bracket: {format_excerpt(prompt)!r}", template.source, 0
        )
    marks = piece.marks
    if marks and piece.text[0] == " ":
        marks = tuple(replace(mark, start=mark.start - 1, end=mark.end - 1) for mark in marks)
    return Variation(name, prompt, piece.choices, marks)


def _variation_ids(labels: list[tuple[str, ...]]) -> list[str]:
    """Return a readable id for each variation's choices, and never one id for two variations.

    Ids that would be too long or equal for different choices end in a digest of the choices; repeated choices are
    numbered, after a full stop, which no name holds.
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


@lru_cache(maxsize=20_000)  # bounded: an application sees a new label for each key that is typed
def _slugify_label(label: str) -> str:
    if label.isascii():
        return _NOT_IN_ID.sub("-", label.lower()).replace("_", "-").strip("-") or "none"
    for spell in (_id_replacement, _character_name):
        text = "".join(map(spell, label.lower())).replace("_", "-")
        if text := _DASHES.sub("-", text).strip("-"):
            return text
    return "none"


def _character_name(character: str) -> str:
    return f"-{_NOT_IN_ID.sub('-', unicodedata.name(character, f'u{ord(character):x}').lower())}-"


def _id_replacement(character: str) -> str:
    """Return the replacement for a character in an id: symbols such as emoji by their names.

    The colour of skin of an emoji is a character of its own, and may be all that tells two options apart.
    """
    category, code = unicodedata.category(character), ord(character)
    if 0x1F1E6 <= code <= 0x1F1FF:  # letters of flags
        return chr(ord("a") + code - 0x1F1E6)
    if category.startswith("S") and not character.isascii():
        return _character_name(character)
    if _NOT_IN_ID.fullmatch(character) is None:
        return character
    # Vowels of Indic scripts, say; but not what makes an emoji colourful.
    return character if category in ("Mn", "Mc") and not 0xFE00 <= code <= 0xFE0F else "-"
