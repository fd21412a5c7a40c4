"""Words that groups compare, and how frequent they were in nano's training."""

import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from wantui.analysis.group_names import find_grouping_parts, list_naming_brackets
from wantui.models.nano.attributes import (
    DIRECTION_BY_MOTION,
    FREQUENCY_BY_SHAPE,
    RADIUS_BY_SIZE,
    RGB_BY_BACKGROUND,
    RGB_BY_COLOUR,
    SHAPES,
)

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison
    from wantui.analysis.video import Video

MODEL_PATH = "model_settings.model_id"
CALIBRATED_MODEL = "nano"
ADAPTER_CONTROL = "lora"
"""Name of the control that changes the weights of the model."""
ONLY_THROUGH_ADAPTERS = "only through the training of the LoRA adapters"
UNIFORM_ATTRIBUTES = tuple(
    frozenset(values) for values in (RGB_BY_COLOUR, RADIUS_BY_SIZE, DIRECTION_BY_MOTION, RGB_BY_BACKGROUND)
)
"""Words of the attributes whose values were equally frequent in nano's training: all but the shapes."""


def compares_words(comparison: "Comparison") -> bool:
    """Return whether the groups differ in words, instead of batches or settings."""
    if comparison.grouping in ("variation", "prompt"):
        return True
    parts = find_grouping_parts(comparison.videos, comparison.grouping)
    return bool(parts.brackets) and not parts.setting_paths


def uses_calibrated_model(comparison: "Comparison") -> bool:
    """Return whether nano generated all compared videos."""
    return {str(video.setting_values.get(MODEL_PATH)) for video in comparison.videos} == {CALIBRATED_MODEL}


def find_exchanged_words(comparison: "Comparison", first_group: str, second_group: str) -> tuple[str, str] | None:
    """Return the pair of words in which the texts of two groups differ; None unless exactly one word differs."""
    videos_by_group = {group.name: group.videos for group in comparison.groups}
    first_videos, second_videos = videos_by_group[first_group], videos_by_group[second_group]
    parts = find_grouping_parts([*first_videos, *second_videos], comparison.grouping)

    def list_texts(videos: Sequence["Video"]) -> set[str]:
        if not parts.brackets:
            return {video.prompt for video in videos}
        return {
            " ".join(video.choices_by_bracket.get(bracket, "") for bracket in list_naming_brackets(video, parts))
            for video in videos
        }

    word_pairs = {
        _find_differing_words(first, second)
        for first, second in product(list_texts(first_videos), list_texts(second_videos))
    }
    return word_pairs.pop() if len(word_pairs) == 1 else None


def _find_differing_words(first_text: str, second_text: str) -> tuple[str, str] | None:
    first_words, second_words = (re.findall(r"\w+", text.casefold()) for text in (first_text, second_text))
    if len(first_words) != len(second_words):
        return None
    pairs = [pair for pair in zip(first_words, second_words, strict=True) if pair[0] != pair[1]]
    return pairs[0] if len(pairs) == 1 else None


def compares_shapes(comparison: "Comparison", first_group: str, second_group: str) -> bool:
    """Return whether the texts of two groups differ only in one word, and both words are among nano's shapes."""
    words = find_exchanged_words(comparison, first_group, second_group)
    return words is not None and set(words) <= set(SHAPES)


def find_frequency_ratio(first_word: str, second_word: str) -> float | None:
    """Return how often nano's training had a word, divided by how often it had another; None for unknown words."""
    if first_word in FREQUENCY_BY_SHAPE and second_word in FREQUENCY_BY_SHAPE:
        return FREQUENCY_BY_SHAPE[first_word] / FREQUENCY_BY_SHAPE[second_word]
    return 1.0 if any({first_word, second_word} <= words for words in UNIFORM_ATTRIBUTES) else None


def uses_adapters(comparison: "Comparison") -> bool:
    """Return whether LoRA adapters changed a video's model; their training data may have different frequencies."""
    return ADAPTER_CONTROL in comparison.used_controls


def describe_frequency_ratio(first_word: str, second_word: str, has_adapters: bool = False) -> str:
    """Describe the frequencies of two words in nano's training; empty for words whose ratio is unknown.

    Args:
        has_adapters: whether LoRA adapters changed the model, so equal frequencies in nano's training leave those
            in the training of the adapters open.
    """
    ratio = find_frequency_ratio(first_word, second_word)
    if ratio is None:
        return ""
    if ratio == 1:
        result = f"can explain this {ONLY_THROUGH_ADAPTERS}" if has_adapters else "cannot explain this"
        return (
            f"{first_word} and {second_word} were equally frequent in {CALIBRATED_MODEL}'s training, so frequency "
            f"{result}"
        )
    if ratio < 1:
        first_word, second_word, ratio = second_word, first_word, 1 / ratio
    return f"in {CALIBRATED_MODEL}'s training, {first_word} was {ratio:.2g} times as frequent as {second_word}"


def describe_uniform_words(comparison: "Comparison") -> str:
    """Return a sentence which says that training frequency explains no difference; empty if it may explain one."""
    if not compares_words(comparison) or not uses_calibrated_model(comparison):
        return ""
    words: dict[str, None] = {}
    for verdict in comparison.verdicts:
        pair = find_exchanged_words(comparison, verdict.first_group, verdict.second_group)
        if pair is None or find_frequency_ratio(*pair) != 1:
            return ""
        words |= dict.fromkeys(pair)
    result = f"can explain these differences {ONLY_THROUGH_ADAPTERS}"
    if not uses_adapters(comparison):
        result = "explains none of these differences"
    *first_words, last_word = words
    return (
        f"{', '.join(first_words)} and {last_word} were equally frequent in {CALIBRATED_MODEL}'s training, so "
        f"frequency {result}"
    )
