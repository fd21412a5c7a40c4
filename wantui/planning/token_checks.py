"""Checks of prompts against a model's tokenizer: unknown words, and different prompts with equal tokens.

They need the model's tokenizer on this machine. No torch here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.formatting import format_count, shorten_text
from wantui.models.catalogue import NANO, WanModel
from wantui.models.nano.attributes import WORDS
from wantui.models.tokenizer import (
    TokenizerError,
    check_tokenizer_fits,
    find_token_ids,
    find_tokenizer_file,
    has_tokens_for,
)
from wantui.prompts import Variation

MAX_LISTED_WORDS = 5
"""Maximum number of words or groups that a message lists; it counts the rest."""
MAX_WORD_LENGTH = 60
"""Maximum length of a listed word, in characters."""
_PUNCTUATION = ".,;:!?'\"()[]{}-–—…“”‘’。，、！？"


@dataclass(frozen=True)
class TokenChecks:
    """Warnings and refusals from the token checks of a batch."""

    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


def check_tokens(
    model: WanModel, revision: str | None, variations: Sequence[Variation], negative_prompt: str, *, uses_marks: bool
) -> TokenChecks:
    """Find prompts that a model cannot distinguish, and words unknown to its tokenizer.

    Args:
        uses_marks: True if marked words are stored or weighted; unknown marked words are then refused.
    """
    path = find_tokenizer_file(model, revision)
    if path is None:
        return TokenChecks()
    try:
        check_tokenizer_fits(path)
        texts = [*(variation.prompt for variation in variations), negative_prompt]
        warnings = [*_find_equal_token_warnings(path, variations), *_find_unknown_word_warnings(path, model, texts)]
        return TokenChecks(tuple(warnings), tuple(_find_unknown_mark_refusals(path, variations)) if uses_marks else ())
    except TokenizerError as error:  # a worker could not load the tokenizer either
        return TokenChecks((), (str(error),))


def _find_equal_token_warnings(path: Path, variations: Sequence[Variation]) -> list[str]:
    """Return a warning about variations with different prompts but equal tokens and weights."""
    groups: dict[tuple[object, ...], dict[str, str]] = {}
    for variation in variations:
        weights = tuple(mark.weight for mark in variation.marks if mark.weight != 1)
        group = groups.setdefault((find_token_ids(path, variation.prompt), weights), {})
        group.setdefault(variation.prompt, variation.id)
    alike = [list(group.values()) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    named = "; ".join(_format_list(group, "and") for group in alike[:MAX_LISTED_WORDS])
    omitted_text = (
        f"; and {format_count(len(alike) - MAX_LISTED_WORDS, 'more group')}" if len(alike) > MAX_LISTED_WORDS else ""
    )
    return [f"the model cannot distinguish these variations, because they have equal tokens: {named}{omitted_text}"]


def _find_unknown_word_warnings(path: Path, model: WanModel, texts: Iterable[str]) -> list[str]:
    words = list(dict.fromkeys(word for text in texts for word in text.split()))
    unread = [word for word in words if not has_tokens_for(path, word)]
    warnings = []
    if unread:
        warnings.append(
            f"the tokenizer of {model.name} has no tokens for {_format_list(unread)}: it replaces them by <unk>, as it "
            "does all unknown text"
        )
    if model is NANO:
        plain = dict.fromkeys(word.strip(_PUNCTUATION) for word in words if word not in unread)
        if untrained := [word for word in plain if word and word.casefold() not in WORDS]:
            warnings.append(f"nano was not trained on {_format_list(untrained)}; it knows {', '.join(WORDS)}")
    return warnings


def _find_unknown_mark_refusals(path: Path, variations: Sequence[Variation]) -> list[str]:
    marks = {mark.text for variation in variations for mark in variation.marks}
    unread = sorted(text for text in marks if not any(has_tokens_for(path, word, partly=True) for word in text.split()))
    if not unread:
        return []
    return [f"the model's tokenizer has no tokens for the marked {_format_list(unread)}: mark other words"]


def _format_list(words: Sequence[str], before_last: str = "") -> str:
    words = [shorten_text(word if any(map(str.isprintable, word)) else ascii(word), MAX_WORD_LENGTH) for word in words]
    if len(words) > MAX_LISTED_WORDS:
        return f"{', '.join(words[:MAX_LISTED_WORDS])} and {len(words) - MAX_LISTED_WORDS:,} more"
    if before_last and len(words) > 1:
        return f"{', '.join(words[:-1])} {before_last} {words[-1]}"
    return ", ".join(words)
