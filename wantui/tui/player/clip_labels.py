"""Labels of compared clips, which name only what differs between them, and the title of a playback."""

from collections.abc import Sequence
from itertools import count

from wantui.formatting import format_count, shorten_labels
from wantui.tui.player.clips import PlayerClip
from wantui.tui.player.recipe_table import SEED_FIELD, compare_recipes

LABEL_SEPARATOR = " · "
UNLABELLED_FIELDS = ("prompt", "marks", "duration")
"""Fields of a recipe that follow from the options, or from other fields."""
MAX_VALUE_LENGTH = 24
"""Maximum number of characters for a setting in a label."""


def label_clips(clips: Sequence[PlayerClip]) -> list[str]:
    """Return a label for each clip that names only the options, seeds and settings in which the clips differ."""
    if len(clips) == 1:
        return [clips[0].title]
    parts_by_clip: list[list[str]] = [[] for _ in clips]
    _add_differing_values(parts_by_clip, [clip.batch_name for clip in clips])
    are_options_comparable = len({len(clip.choice_texts) for clip in clips}) == 1
    if are_options_comparable and clips[0].choice_texts:
        for options in zip(*(clip.choice_texts for clip in clips), strict=True):
            _add_differing_values(parts_by_clip, [option or "(nothing)" for option in options])
    else:
        _add_differing_values(parts_by_clip, [clip.variation_id for clip in clips])
    if not any(parts_by_clip):
        _add_differing_values(parts_by_clip, [clip.recipe.prompt for clip in clips])
    for difference in compare_recipes([clip.recipe for clip in clips]).differences:
        field = difference.field
        if field.name in UNLABELLED_FIELDS or (field.group == "captures" and any(parts_by_clip)):
            continue
        unit = f" {field.unit}" if field.unit else ""
        values = shorten_labels(difference.values, lambda text: len(text) <= MAX_VALUE_LENGTH)
        _add_differing_values(parts_by_clip, [f"{field.label} {value}{unit}" for value in values])
    if not any(parts_by_clip):
        return number_equal_labels([clip.title for clip in clips])
    return number_equal_labels([LABEL_SEPARATOR.join(parts) for parts in parts_by_clip])


def number_equal_labels(labels: Sequence[str]) -> list[str]:
    """Return distinct labels: equal labels get a number, as in "seed 42 (1)" and "seed 42 (2)"."""
    numbered_labels: list[str] = []
    taken_labels = set(labels)
    for label in labels:
        numbered_label = label
        if labels.count(label) > 1:
            numbered_label = next(text for n in count(1) if (text := f"{label} ({n})") not in taken_labels)
            taken_labels.add(numbered_label)
        numbered_labels.append(numbered_label)
    return numbered_labels


def cut_prompt(prompt: str, other_prompts: Sequence[str], width: int) -> str:
    """Return a prompt cut to a number of characters; the first word in which it differs from others stays visible."""
    if len(prompt) <= width:
        return prompt
    words, others = prompt.split(), [other.split() for other in other_prompts]
    first = next((i for i, word in enumerate(words) if any(other[i : i + 1] != [word] for other in others)), 0)
    if (shown_length := len(" ".join(words[: first + 1]))) + 1 <= width:
        return _cut_after_word(prompt, width, shown_length)
    start = first
    while start and len(" ".join(words[start - 1 : first + 2])) + 2 <= width:
        start -= 1
    text = f"… {' '.join(words[start:])}"
    shown_length = len(f"… {' '.join(words[start : first + 1])}")
    return text if len(text) <= width else _cut_after_word(text, width, shown_length)


def _cut_after_word(text: str, width: int, shown_length: int) -> str:
    """Return a text cut to a number of characters: after a word, unless this would hide one of the first characters."""
    end = text.rfind(" ", shown_length, width - 1)
    return f"{text[:end]} …" if end > 0 else f"{text[: width - 1]}…"


def describe_clips(clips: Sequence[PlayerClip], batch_clips: Sequence[PlayerClip], mark_symbols: str) -> str:
    """Return what compared clips have in common, or the title of a single clip with its place in the batch.

    Args:
        batch_clips: clips of the batch, which may lack the single clip.
        mark_symbols: mark symbols of a single clip.
    """
    if len(clips) > 1:
        parts = [format_count(len(clips), "video"), describe_common_part(clips)]
        return LABEL_SEPARATOR.join(filter(None, parts))
    (clip,) = clips
    title = f"{mark_symbols} {clip.title}".lstrip()
    return f"{title}  {batch_clips.index(clip) + 1}/{len(batch_clips)}" if clip in batch_clips else title


def describe_common_part(clips: Sequence[PlayerClip]) -> str:
    """Return what all compared clips have in common: options and seed."""
    parts = []
    if len({len(clip.choice_texts) for clip in clips}) == 1:
        parts = [o[0] for o in zip(*(clip.choice_texts for clip in clips), strict=True) if len(set(o)) == 1 and o[0]]
    if len({clip.recipe.seed for clip in clips}) == 1:
        parts.append(f"{SEED_FIELD} {clips[0].recipe.seed}")
    return LABEL_SEPARATOR.join(parts)


def _add_differing_values(parts_by_clip: list[list[str]], values: Sequence[str]) -> None:
    """Append a value to the parts of each clip, unless all values are equal."""
    if len(set(values)) > 1:
        for parts, value in zip(parts_by_clip, values, strict=True):
            parts.append(value)
