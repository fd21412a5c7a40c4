"""Checks of a batch's prompts against a model's tokenizer: unknown words, and prompts with equal tokens.

Only for a model whose tokenizer is on this machine. No torch here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.formatting import format_count, shorten
from wantui.models.catalogue import NANO, WanModel
from wantui.models.nano.world import WORDS
from wantui.models.tokenizer import TokenizerError, check_tokenizer_fits, has_token, token_ids, tokenizer_file
from wantui.prompts import Variation

NAMED = 5
"""Words or groups of variations that a message names; more are counted."""
MAX_WORD = 60
"""Longest word that a message repeats, in characters."""
_PUNCTUATION = ".,;:!?'\"()[]{}-–—…“”‘’。，、！？"


@dataclass(frozen=True)
class TokenChecks:
    """Warnings and refusals for a batch."""

    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


def check_tokens(
    model: WanModel, revision: str | None, variations: Sequence[Variation], negative_prompt: str, *, uses_marks: bool
) -> TokenChecks:
    """Find prompts that a model cannot tell apart, and words that it does not know.

    Args:
        uses_marks: whether marked words are stored or weighted; one that the tokenizer does not know is refused then.
    """
    path = tokenizer_file(model, revision)
    if path is None:
        return TokenChecks()
    try:
        check_tokenizer_fits(path)
        texts = [*(variation.prompt for variation in variations), negative_prompt]
        warnings = [*_alike(path, variations), *_unknown(path, model, texts)]
        return TokenChecks(tuple(warnings), tuple(_unknown_marks(path, variations)) if uses_marks else ())
    except TokenizerError as error:  # a worker could not load it either
        return TokenChecks((), (str(error),))


def _alike(path: Path, variations: Sequence[Variation]) -> list[str]:
    """Name variations whose prompts differ and are the same tokens with the same weights."""
    groups: dict[tuple[object, ...], dict[str, str]] = {}
    for variation in variations:
        weights = tuple(mark.weight for mark in variation.marks if mark.weight != 1)
        group = groups.setdefault((token_ids(path, variation.prompt), weights), {})
        group.setdefault(variation.prompt, variation.id)
    alike = [list(group.values()) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    named = "; ".join(_listed(group, "and") for group in alike[:NAMED])
    more = f"; and {format_count(len(alike) - NAMED, 'more group')}" if len(alike) > NAMED else ""
    return [f"the model cannot tell these variations apart, as its tokenizer reads the same tokens: {named}{more}"]


def _unknown(path: Path, model: WanModel, texts: Iterable[str]) -> list[str]:
    words = list(dict.fromkeys(word for text in texts for word in text.split()))
    unread = [word for word in words if not has_token(path, word)]
    warnings = []
    if unread:
        warnings.append(
            f"the tokenizer of {model.name} has no tokens for {_listed(unread)}: it reads <unk> there, as for all text "
            "that it does not know"
        )
    if model is NANO:
        plain = dict.fromkeys(word.strip(_PUNCTUATION) for word in words if word not in unread)
        if untrained := [word for word in plain if word and word.casefold() not in WORDS]:
            warnings.append(f"nano was not trained on {_listed(untrained)}; it knows {', '.join(WORDS)}")
    return warnings


def _unknown_marks(path: Path, variations: Sequence[Variation]) -> list[str]:
    marks = {mark.text for variation in variations for mark in variation.marks}
    unread = sorted(text for text in marks if not any(has_token(path, word, in_part=True) for word in text.split()))
    if not unread:
        return []
    return [f"the model's tokenizer has no tokens for the marked {_listed(unread)}: mark words that it knows"]


def _listed(words: Sequence[str], before_last: str = "") -> str:
    words = [shorten(word if any(map(str.isprintable, word)) else ascii(word), MAX_WORD) for word in words]
    if len(words) > NAMED:
        return f"{', '.join(words[:NAMED])} and {len(words) - NAMED:,} more"
    if before_last and len(words) > 1:
        return f"{', '.join(words[:-1])} {before_last} {words[-1]}"
    return ", ".join(words)
