"""Checks of prompts against a model's tokenizer: unknown words, and different prompts with equal tokens.

They need the model's tokenizer on this machine. No torch here.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.formatting import format_count, shorten_text
from wantui.models.catalogue import NANO, WanModel
from wantui.models.nano.attributes import CAPTION_WORDS
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.models.tokenizer import (
    TokenizerError,
    check_tokenizer_fits_model,
    find_token_ids,
    find_tokenizer_file,
    has_tokens_for_word,
)
from wantui.prompts import Variation, list_marks, list_prompts
from wantui.prompts.foreign_syntax import format_excerpt

MAX_LISTED_WORDS = 5
"""Maximum number of words or groups that a message lists; it counts the rest."""
MAX_LISTED_WORD_LENGTH = 60
"""Maximum length of a listed word, in characters."""
MAX_SUGGESTED_LENGTH, MIN_WORD_SIMILARITY = 20, 0.7
"""Longest part of an unknown word that is compared with nano's words, and smallest difflib ratio of similar words."""
_PUNCTUATION = ".,;:!?'\"()[]{}-–—…“”‘’。，、！？"


@dataclass(frozen=True)
class TokenChecks:
    """Warnings and refusals from the token checks of a batch."""

    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


def check_prompt_tokens(
    model: WanModel,
    revision: str | None,
    variations: Sequence[Variation],
    negative_prompt: str,
    *,
    uses_marks: bool,
    uses_negative_prompt: bool,
    control_words: Sequence[str] = (),
) -> TokenChecks:
    """Find prompts that a model cannot distinguish, and words unknown to its tokenizer.

    Args:
        uses_marks: True if marked words are stored or weighted; unknown marked words are then refused.
        uses_negative_prompt: True if a pass reads the negative prompt, which is then checked like a prompt.
        control_words: words that controls look for in the prompts; unknown words are refused.
    """
    tokenizer_path = find_tokenizer_file(model, revision)
    if tokenizer_path is None:
        return TokenChecks()
    try:
        check_tokenizer_fits_model(tokenizer_path)
        prompts = [prompt for variation in variations for prompt in list_prompts(variation)]
        negative_prompts = [negative_prompt] if uses_negative_prompt else []
        warnings = [
            *_find_equal_token_warnings(tokenizer_path, variations),
            *_find_unknown_word_warnings(tokenizer_path, model, [*prompts, *negative_prompts]),
        ]
        marked_texts = (
            {mark.text for variation in variations for mark in list_marks(variation)} if uses_marks else set()
        )
        refusals = [
            *_find_length_refusals(tokenizer_path, prompts, "prompt"),
            *_find_length_refusals(tokenizer_path, negative_prompts, "negative prompt"),
            *_find_unknown_text_refusals(tokenizer_path, marked_texts, "marked", "mark other words"),
            *_find_unknown_text_refusals(tokenizer_path, set(control_words), "bent", "bend other words"),
        ]
        return TokenChecks(tuple(warnings), tuple(refusals))
    except TokenizerError as error:  # a worker could not load the tokenizer either
        return TokenChecks((), (str(error),))


def _find_equal_token_warnings(tokenizer_path: Path, variations: Sequence[Variation]) -> list[str]:
    """Return a warning about variations with different prompts but equal tokens and weights."""
    groups_by_tokens: dict[tuple[object, ...], dict[tuple[str, ...], str]] = {}
    for variation in variations:
        prompts, mark_weights = list_prompts(variation), tuple(m.weight for m in list_marks(variation) if m.weight != 1)
        token_ids = tuple(find_token_ids(tokenizer_path, prompt) for prompt in prompts)
        groups_by_tokens.setdefault((token_ids, mark_weights), {}).setdefault(prompts, variation.id)
    ambiguous_groups = [
        list(id_by_prompts.values()) for id_by_prompts in groups_by_tokens.values() if len(id_by_prompts) > 1
    ]
    if not ambiguous_groups:
        return []
    listed_groups = "; ".join(
        _format_word_list(id_by_prompt, "and") for id_by_prompt in ambiguous_groups[:MAX_LISTED_WORDS]
    )
    omitted_text = (
        f"; and {format_count(len(ambiguous_groups) - MAX_LISTED_WORDS, 'more group')}"
        if len(ambiguous_groups) > MAX_LISTED_WORDS
        else ""
    )
    return [
        f"the model cannot distinguish these variations, because they have equal tokens: {listed_groups}{omitted_text}"
    ]


def _find_unknown_word_warnings(tokenizer_path: Path, model: WanModel, prompts: Iterable[str]) -> list[str]:
    words = list(dict.fromkeys(word for text in prompts for word in text.split()))
    unknown_words = [word for word in words if not has_tokens_for_word(tokenizer_path, word)]
    warnings = []
    if unknown_words:
        warnings.append(
            f"the tokenizer of {model.name} has no tokens for {_format_word_list(unknown_words)}: it replaces them "
            "with <unk>, like all unknown text"
        )
    if model is NANO:
        unpunctuated_words = dict.fromkeys(word.strip(_PUNCTUATION) for word in words if word not in unknown_words)
        if untrained_words := [word for word in unpunctuated_words if word and word.casefold() not in CAPTION_WORDS]:
            untrained_words = list(map(_suggest_caption_word, untrained_words))
            warnings.append(
                f"nano does not know {_format_word_list(untrained_words)}; `wantui models ls` lists the "
                f"{len(CAPTION_WORDS)} words that it knows"
            )
    return warnings


def _suggest_caption_word(word: str) -> str:
    """Return a word that nano does not know, with the similar word that it knows."""
    near = difflib.get_close_matches(word.casefold()[:MAX_SUGGESTED_LENGTH], CAPTION_WORDS, 1, MIN_WORD_SIMILARITY)
    return f"{word} (did you mean {near[0]}?)" if near else word


def _find_length_refusals(tokenizer_path: Path, prompts: Iterable[str], prompt_name: str) -> list[str]:
    """Return a refusal for the first prompt with too many tokens, unless its number of words is already refused."""
    for prompt in prompts:
        if len(prompt.encode()) < TEXT_POSITION_COUNT - 2:  # a token has a byte, but for the first space and the end
            continue
        if len(prompt.split()) >= TEXT_POSITION_COUNT:  # refused by batch_checks, without a tokenizer
            continue
        if (token_count := len(find_token_ids(tokenizer_path, prompt))) > TEXT_POSITION_COUNT:
            return [
                f"the {prompt_name} {format_excerpt(prompt)!r} has {token_count} tokens, but the model reads only "
                f"{TEXT_POSITION_COUNT} and would ignore the rest: shorten it"
            ]
    return []


def _find_unknown_text_refusals(tokenizer_path: Path, texts: set[str], participle: str, remedy: str) -> list[str]:
    """Reject texts without any known word.

    Args:
        participle: what was done to the texts, such as marked.
    """
    unknown_texts = sorted(
        text
        for text in texts
        if not any(has_tokens_for_word(tokenizer_path, word, allows_partial=True) for word in text.split())
    )
    if not unknown_texts:
        return []
    return [f"the model's tokenizer has no tokens for the {participle} {_format_word_list(unknown_texts)}: {remedy}"]


def _format_word_list(words: Sequence[str], conjunction: str = "") -> str:
    words = [
        shorten_text(word if any(map(str.isprintable, word)) else ascii(word), MAX_LISTED_WORD_LENGTH) for word in words
    ]
    if len(words) > MAX_LISTED_WORDS:
        return f"{', '.join(words[:MAX_LISTED_WORDS])} and {len(words) - MAX_LISTED_WORDS:,} more"
    if conjunction and len(words) > 1:
        return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
    return ", ".join(words)
