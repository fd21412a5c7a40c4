"""The text that the cross-attention of one evaluation reads: its words, and the columns of their maps.

Between two prompts of a schedule, the embedding is a mixture of both. A column of the attention then belongs to a word
only if both prompts have the word at the same text positions; all other words have no map in this evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wantui.captures.attention import MASS_NAMES
from wantui.generation.prompt_sequence import PromptSequence
from wantui.generation.token_spans import MarkedWord, TokenizedPrompt


@dataclass(frozen=True)
class ObservedText:
    """Marked words and length of an evaluation's text.

    Attributes:
        words: marked words that have columns of their own.
        token_count: number of tokens including the end token; the other positions of 512 are padding.
        has_masses: False for a mixture of prompts of different lengths, whose end is at two positions.
        name: name of the text in the self-check; empty if the text never changes.
    """

    words: tuple[MarkedWord, ...]
    token_count: int
    has_masses: bool = True
    name: str = ""


def mix_texts(before: TokenizedPrompt, after: TokenizedPrompt, name: str) -> ObservedText:
    """Return the text of two mixed prompts."""
    positions_by_name = {word.map_name: word.token_positions for word in after.words}
    shared_words = tuple(word for word in before.words if positions_by_name.get(word.map_name) == word.token_positions)
    return ObservedText(
        shared_words, max(before.token_count, after.token_count), before.token_count == after.token_count, name
    )


def find_conditional_text(
    prompts: Sequence[TokenizedPrompt], sequence: PromptSequence, evaluation_index: int
) -> ObservedText:
    """Return the text that the conditional pass of an evaluation reads.

    Args:
        prompts: the tokenised prompts of the sequence.
    """
    if not sequence.has_schedule:
        return ObservedText(prompts[0].words, prompts[0].token_count)
    moment = sequence.find_moment(evaluation_index)
    before, after = prompts[moment.before], prompts[moment.after]
    if moment.before == moment.after:
        return ObservedText(before.words, before.token_count, name=f"prompt {moment.before}")
    return mix_texts(before, after, f"prompts {moment.before} and {moment.after}")


def list_map_columns(text: ObservedText, stores_tokens: bool) -> list[tuple[str, slice | list[int]]]:
    """Return the name and the text positions of each map; the last map is the padding, in one or more columns.

    Args:
        stores_tokens: whether each token of a word has a map too.
    """
    named_columns: list[tuple[str, slice | list[int]]] = []
    for word in text.words:
        first_token, last_token = word.token_positions[0], word.token_positions[-1]
        # A special token, such as a literal </s>, may split a word; it does not belong to the word.
        is_unbroken = last_token - first_token + 1 == len(word.token_positions)
        named_columns.append(
            (word.map_name, slice(first_token, last_token + 1) if is_unbroken else list(word.token_positions))
        )
        if stores_tokens and len(word.token_positions) > 1:
            named_columns += [
                (f"{word.map_name}.{i}", slice(token, token + 1)) for i, token in enumerate(word.token_positions)
            ]
    if text.has_masses:
        end_position = text.token_count - 1
        mass_spans = (slice(0, end_position), slice(end_position, end_position + 1), slice(end_position + 1, None))
        named_columns += zip(MASS_NAMES, mass_spans, strict=True)
    return named_columns


def list_map_names(prompts: Sequence[TokenizedPrompt], stores_tokens: bool) -> tuple[str, ...]:
    """Return all map names of some prompts: words, tokens if requested, and masses."""
    names = [
        name
        for prompt in prompts
        for name, _ in list_map_columns(ObservedText(prompt.words, prompt.token_count, has_masses=False), stores_tokens)
    ]
    return (*dict.fromkeys(names), *MASS_NAMES)
