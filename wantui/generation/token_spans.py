"""Text positions of the marked words of a prompt, under the model's own tokenizer."""

from dataclasses import dataclass
from typing import Any

from wantui.errors import UserError
from wantui.models.tokenizer import SPACE_TOKEN
from wantui.planning import PromptMark
from wantui.planning.flops import TEXT_POSITION_COUNT
from wantui.planning.map_names import assign_map_names


class MarkOutOfRangeError(UserError):
    """Raised for a marked word that the model does not read."""


class PromptTooLongError(UserError):
    """Raised for a prompt with more tokens than the model reads."""


@dataclass(frozen=True)
class MarkedWord:
    """One marked word or phrase of the prompt."""

    name: str
    """Name of its array (`planning.map_names`)."""
    text: str
    """Marked text, from character `start` to `end` of the prompt."""
    start: int
    end: int
    weight: float
    tokens: tuple[int, ...]
    """Text positions of the tokens, below 512."""
    token_texts: tuple[str, ...]
    """Texts of the tokens."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt's tokens in the input of the transformer."""

    words: tuple[MarkedWord, ...]
    length: int
    """Number of tokens including the end token; the other positions of 512 are padding."""


def tokenize(tokenizer: Any, prompt: str, marks: tuple[PromptMark, ...]) -> TokenizedPrompt:
    """Find the tokens of a prompt's marks.

    A word has every token that shares a character with it; at least one token must be in the tokenizer's vocabulary.

    Args:
        prompt: prompt after the pipeline's cleaning.

    Raises:
        MarkOutOfRangeError: a mark is beyond the 512 tokens that the model reads, or its text is unknown to the
            tokenizer.
    """
    encoded = tokenizer(
        prompt, max_length=TEXT_POSITION_COUNT, truncation=True, add_special_tokens=True, return_offsets_mapping=True
    )
    offsets, special = encoded["offset_mapping"], {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    read_to = max((last for _, last in offsets), default=0)
    texts = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    names = assign_map_names(mark.text for mark in marks)
    words = []
    for mark, name in zip(marks, names, strict=True):
        tokens = tuple(
            position
            for position, (token, (first, last)) in enumerate(zip(encoded["input_ids"], offsets, strict=True))
            if first < mark.end and last > mark.start and last > first and token not in special
        )
        of_no_word = {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(SPACE_TOKEN)}
        if all(encoded["input_ids"][position] in of_no_word for position in tokens):
            why = f"its tokenizer has no tokens for it ({tokenizer.unk_token}). Mark a word that it knows"
            if mark.start >= read_to:
                why = f"it takes {TEXT_POSITION_COUNT} tokens at most. Shorten the prompt, or take away the mark"
            raise MarkOutOfRangeError(
                f"the model does not read the marked {mark.text!r} at character {mark.start} of the prompt: {why}"
            )
        token_texts = tuple(texts[position] for position in tokens)
        words.append(MarkedWord(name, mark.text, mark.start, mark.end, mark.weight, tokens, token_texts))
    return TokenizedPrompt(tuple(words), len(encoded["input_ids"]))


def check_length(tokenizer: Any, prompt: str, which: str) -> None:
    """Refuse a prompt that the pipeline would silently truncate.

    Raises:
        PromptTooLongError: the prompt has more tokens than the model reads.
    """
    length = len(tokenizer(prompt, truncation=False, add_special_tokens=True, verbose=False)["input_ids"])
    if length > TEXT_POSITION_COUNT:
        raise PromptTooLongError(
            f"the {which} has {length} tokens, but the model reads {TEXT_POSITION_COUNT} and would ignore the rest. "
            "Shorten it"
        )
