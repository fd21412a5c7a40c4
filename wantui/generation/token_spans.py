"""Text positions of a prompt's marked words, from the model's own tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wantui.controls.marked_prompt import MarkedPrompt
from wantui.errors import UserError
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.models.tokenizer import SPACE_TOKEN
from wantui.planning import PromptMark
from wantui.planning.map_names import assign_map_names, assign_shared_map_names


class MarkOutOfRangeError(UserError):
    """Raised for a marked word that the model does not read."""


class PromptTooLongError(UserError):
    """Raised for a prompt with more tokens than the model reads."""


@dataclass(frozen=True)
class MarkedWord:
    """One marked word or phrase of the prompt."""

    map_name: str
    """Name of its array (`planning.map_names`)."""
    text: str
    """Marked text, from `start_character` to `end_character` of the prompt."""
    start_character: int
    end_character: int
    weight: float
    token_positions: tuple[int, ...]
    """Text positions of the tokens, below 512."""
    token_texts: tuple[str, ...]
    """Texts of the tokens."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt's tokens in the input of the transformer."""

    words: tuple[MarkedWord, ...]
    token_count: int
    """Number of tokens including the end token; the other positions of 512 are padding."""


def tokenize_prompts(tokenizer: Any, prompts: Sequence[MarkedPrompt]) -> list[TokenizedPrompt]:
    """Find the tokens of the marked words in several prompts; equal words of different prompts share their maps.

    Raises:
        MarkOutOfRangeError: as for `tokenize_prompt`.
    """
    names_by_prompt = assign_shared_map_names(prompts)
    return [
        tokenize_prompt(tokenizer, prompt.prompt, prompt.marks, map_names)
        for prompt, map_names in zip(prompts, names_by_prompt, strict=True)
    ]


def tokenize_prompt(
    tokenizer: Any, prompt: str, marks: tuple[PromptMark, ...], map_names: Sequence[str] | None = None
) -> TokenizedPrompt:
    """Find the tokens of a prompt's marks.

    A word has every token that shares a character with it; at least one token must be in the tokenizer's vocabulary.

    Args:
        prompt: prompt after the pipeline's cleaning.
        map_names: names of the marks' maps; None to name them by the marks of this prompt alone.

    Raises:
        MarkOutOfRangeError: a mark is beyond the 512 tokens that the model reads, or its text is unknown to the
            tokenizer.
    """
    encoding = tokenizer(
        prompt, max_length=TEXT_POSITION_COUNT, truncation=True, add_special_tokens=True, return_offsets_mapping=True
    )
    offsets, special_ids = encoding["offset_mapping"], {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    last_read_character = max((last for _, last in offsets), default=0)
    all_token_texts = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    map_names = assign_map_names(mark.text for mark in marks) if map_names is None else map_names
    words = []
    for mark, map_name in zip(marks, map_names, strict=True):
        token_positions = tuple(
            position
            for position, (token, (first, last)) in enumerate(zip(encoding["input_ids"], offsets, strict=True))
            if first < mark.end and last > mark.start and last > first and token not in special_ids
        )
        wordless_ids = {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(SPACE_TOKEN)}
        if all(encoding["input_ids"][position] in wordless_ids for position in token_positions):
            reason = f"its tokenizer has no tokens for it ({tokenizer.unk_token}). Mark a word that it knows"
            if mark.start >= last_read_character:
                reason = f"it reads only {TEXT_POSITION_COUNT} tokens. Shorten the prompt, or remove the mark"
            raise MarkOutOfRangeError(
                f"the model does not read the marked {mark.text!r} at character {mark.start} of the prompt: {reason}"
            )
        token_texts = tuple(all_token_texts[position] for position in token_positions)
        words.append(MarkedWord(map_name, mark.text, mark.start, mark.end, mark.weight, token_positions, token_texts))
    return TokenizedPrompt(tuple(words), len(encoding["input_ids"]))


def check_prompt_length(tokenizer: Any, prompt: str, prompt_name: str) -> None:
    """Reject a prompt that the pipeline would silently truncate.

    Raises:
        PromptTooLongError: the prompt has more tokens than the model reads.
    """
    token_count = len(tokenizer(prompt, truncation=False, add_special_tokens=True, verbose=False)["input_ids"])
    if token_count > TEXT_POSITION_COUNT:
        raise PromptTooLongError(
            f"the {prompt_name} has {token_count} tokens, but the model reads {TEXT_POSITION_COUNT} and would ignore "
            "the rest. Shorten it"
        )
