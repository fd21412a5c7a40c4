"""Generic words: which words of a sentence name a concept, and which word leaves the concept open.

They are written as `circle|square|ring: shape; man|woman: person`. This module imports nothing heavy, because the
config module imports it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wantui.errors import UserError
from wantui.formatting import capitalize_first, shorten_text
from wantui.words import has_two_cells, is_complete_word

GENERIC_WORDS_KEY = "prompt_settings.generic_words"
"""Setting that declares generic words."""
EXAMPLE = "circle|square: shape; man|woman: person"
MAX_TEXT_LENGTH = 20_000
"""Maximum characters of a declaration."""


class GenericWordsError(ValueError):
    """Raised for an unreadable declaration, or for a prompt that it does not cover; the message gives the remedy."""


@dataclass(frozen=True)
class GenericWord:
    """A generic word and the words that it replaces."""

    generic: str
    words: tuple[str, ...]

    def find_words(self, prompt: str) -> list[str]:
        """Return the distinct words of a prompt that this word replaces, in the order of the declaration.

        Words are complete words of any case, except in scripts without spaces between words; a word inside a longer
        declared one ("man" in "old man") does not count.
        """
        found = {match[0].casefold() for match in self._find_matches(prompt)}
        return [word for word in self.words if word.casefold() in found]

    def generalise(self, prompt: str) -> str:
        """Return the prompt with every occurrence of the words replaced by the generic word.

        If a word has a capital only in the prompt, such as at the start of a sentence, its replacement gets a capital
        too.
        """
        declared_capitals = {word.casefold() for word in self.words if word[:1].isupper()}

        parts, end = [], 0
        for match in self._find_matches(prompt):
            is_capitalised = match[0][:1].isupper() and match[0].casefold() not in declared_capitals
            parts += [prompt[end : match.start()], capitalize_first(self.generic) if is_capitalised else self.generic]
            end = match.end()
        return "".join([*parts, prompt[end:]])

    def _find_matches(self, prompt: str) -> list[re.Match[str]]:
        longest_first = sorted(self.words, key=len, reverse=True)
        matches = re.finditer("|".join(map(_make_word_pattern, longest_first)), prompt, re.IGNORECASE)
        return [match for match in matches if is_complete_word(prompt, *match.span())]


def _make_word_pattern(word: str) -> str:
    """Return the pattern of a word between other words, which scripts with wide characters do not separate."""
    before, after = ("" if has_two_cells(end) else mark for end, mark in ((word[0], r"(?<!\w)"), (word[-1], r"(?!\w)")))
    return before + re.escape(word) + after


@dataclass(frozen=True)
class GenericSentence:
    """A prompt, and its generic form that leaves the concept open."""

    prompt: str
    word: str
    """Word of the prompt that names the concept."""
    generic: str
    generic_prompt: str


def parse_generic_words(text: str) -> tuple[GenericWord, ...]:
    """Parse `circle|square: shape; man|woman: person`.

    Raises:
        GenericWordsError: the text is not of this form, or a word is declared twice.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise GenericWordsError(f"it has {len(text):,} characters; at most {MAX_TEXT_LENGTH:,} are allowed")
    declared: dict[str, list[str]] = {}
    seen_words: set[str] = set()
    for part in filter(str.strip, text.split(";")):
        words_text, separator, generic_text = part.rpartition(":")
        words = [_collapse_whitespace(word) for word in words_text.split("|")]
        generic = _collapse_whitespace(generic_text)
        if not separator or not generic or not all(words) or "|" in generic or ":" in words_text:
            raise GenericWordsError(f"cannot read {shorten_text(part.strip())!r}. Write it like {EXAMPLE}")
        for word in words:
            if word.casefold() in seen_words:
                raise GenericWordsError(f"{word!r} is declared twice. Give it one generic word")
            if word.casefold() == generic.casefold():
                raise GenericWordsError(f"{word!r} is its own generic word. Choose a word that leaves it open")
            seen_words.add(word.casefold())
        declared.setdefault(generic, []).extend(words)
    return tuple(GenericWord(generic, tuple(words)) for generic, words in declared.items())


def read_generic_words(option_text: str | None, config: Mapping[str, Any], place: str) -> tuple[GenericWord, ...]:
    """Return the generic words that the option --generic or, without it, the config declares.

    Args:
        option_text: text of the option; None without it.
        config: content of a config, by sections.
        place: name of the config or batch, for errors.

    Raises:
        UserError: no generic word is declared, or the declaration cannot be read.
    """
    source, text = "--generic", option_text
    if text is None:
        source, text = GENERIC_WORDS_KEY, config.get("prompt_settings", {}).get("generic_words")
    try:
        generic_words = parse_generic_words(text or "")
    except GenericWordsError as error:
        raise UserError(f"{source}: {error}") from None
    if not generic_words:
        raise UserError(
            f"no generic word is declared in {place}. Such a word leaves the concept open. Declare one: --generic "
            f"'{EXAMPLE}', or {GENERIC_WORDS_KEY} in a config"
        )
    return generic_words


def _collapse_whitespace(text: str) -> str:
    return " ".join(text.split())


def format_generic_words(generic_words: tuple[GenericWord, ...]) -> str:
    """Return the text of a declaration, as `parse_generic_words` reads it."""
    return "; ".join(f"{'|'.join(entry.words)}: {entry.generic}" for entry in generic_words)


def convert_to_generic_words_text(value: Any) -> Any:
    """Convert the value in a config file (text, or a mapping from words to generic words) to text; None if empty.

    Raises:
        GenericWordsError: it is neither, or the declaration cannot be read.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(text, str) for item in value.items() for text in item):
            raise GenericWordsError(f"words should map to a generic word, got {shorten_text(repr(value))}")
        value = "; ".join(f"{words}: {generic}" for words, generic in value.items())
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise GenericWordsError(f"cannot read {shorten_text(repr(value))}. Write it like {EXAMPLE}")
    return format_generic_words(parse_generic_words(value)) or None


def find_generic_sentence(
    prompt: str, generic_words: tuple[GenericWord, ...], chosen_generic: str | None = None
) -> GenericSentence:
    """Return a prompt with its concept left open.

    Args:
        chosen_generic: generic word to use if several generic words replace words of the prompt.

    Raises:
        GenericWordsError: no declared word is in the prompt, or several are.
    """
    if chosen_generic is not None:
        generic_words = tuple(entry for entry in generic_words if entry.generic == chosen_generic)
    found = [(entry, words) for entry in generic_words if (words := entry.find_words(prompt))]
    if not found:
        known = "; ".join(f"{', '.join(entry.words[:6])} ({entry.generic})" for entry in generic_words[:4])
        raise GenericWordsError(
            f"the prompt {shorten_text(prompt)!r} has none of the declared words: {known or 'none declared'}"
        )
    if len(found) > 1:
        names = ", ".join(entry.generic for entry, _ in found)
        raise GenericWordsError(
            f"the prompt {shorten_text(prompt)!r} has words that several generic words replace ({names}). Choose one "
            "with --of"
        )
    entry, words = found[0]
    if len(words) > 1:
        raise GenericWordsError(
            f"the prompt {shorten_text(prompt)!r} has several concepts of {entry.generic}: {', '.join(words)}. Declare "
            f"only the word to study: --generic '{words[0]}: {entry.generic}'"
        )
    return GenericSentence(prompt, words[0], entry.generic, entry.generalise(prompt))
