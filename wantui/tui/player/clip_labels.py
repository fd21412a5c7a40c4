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
