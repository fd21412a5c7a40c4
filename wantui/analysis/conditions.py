"""Selection of videos by conditions NAME=VALUE on a setting, the word of a bracket (1=red), or seeds (seed=1..4)."""

import difflib
from collections.abc import Callable, Sequence

from wantui.analysis.group_names import BracketError, find_grouping_parts, label_setting_values, name_groups
from wantui.analysis.setting_values import (
    SettingNameError,
    find_setting_path,
    list_setting_paths,
    make_value_key,
    shorten_path,
)
from wantui.analysis.template_parts import NO_OPTION_LABEL, find_option_text, find_word_bracket, list_bracket_options
from wantui.analysis.video import Video
from wantui.config.sweep import find_matching_value_indices, split_alternatives
from wantui.config.sweep_syntax import SweepError, describe_seeds, parse_seeds
from wantui.errors import UserError
from wantui.formatting import format_count, join_and_shorten

SEED_NAME = "seed"
MAX_NAMED_VALUES = 10
"""Maximum number of values that a message names."""
Condition = Callable[[Video], bool]


def select_videos_by_condition(videos: Sequence[Video], conditions: Sequence[str]) -> list[Video]:
    """Return the videos that conditions NAME=VALUE choose; several conditions on one name are alternatives.

    NAME is a setting (`cfg_scale`), a bracket number of the template, as for groups (`1`), or `seed`. VALUE may be a
    list, such as `1,4`. Seeds are written as for `--seeds`: `7,11` or `1..4`. The value `(nothing)` of a bracket, or no
    value, is its empty option; as in the names of groups, videos without the bracket have it too.

    Raises:
        UserError: a condition has another form, or no video has the value; names the values that occur.
    """
    conditions_by_name: dict[str, list[Condition]] = {}
    for text in conditions:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise UserError(
                f"--where: {text!r} has no value. Write NAME=VALUE, such as cfg_scale=4, 1=red or seed=1..4"
            )
        key, condition = _parse_condition(videos, name, value)
        conditions_by_name.setdefault(key, []).append(condition)
    selected = [
        video
        for video in videos
        if all(any(condition(video) for condition in group) for group in conditions_by_name.values())
    ]
    if not selected and videos:
        raise UserError(f"--where: no video has {' and '.join(conditions)}")
    return selected


def explain_too_few_selected(
    videos: Sequence[Video], selected: Sequence[Video], conditions: Sequence[str], grouping: str, min_seeds: int
) -> str:
    """Explain how conditions leave too few seeds or groups for a comparison; empty if they are not the cause.

    Args:
        videos: videos before the choice.
        selected: the chosen videos.
        min_seeds: minimum number of seeds for the comparison.

    Raises:
        CannotCompareError: the grouping does not fit the videos.
    """
    conditions_text = " ".join(f"--where {condition}" for condition in conditions)
    seed_count, selected_seed_count = (len({video.seed for video in each}) for each in (videos, selected))
    if selected_seed_count < min_seeds <= seed_count:
        return (
            f"cannot compare groups: {conditions_text} leaves {format_count(selected_seed_count, 'seed')} of "
            f"{seed_count}, but the comparison needs {min_seeds}. Choose more seeds"
        )
    group_names = list(dict.fromkeys(name_groups(selected, grouping)))
    other_names = [name for name in dict.fromkeys(name_groups(videos, grouping)) if name not in group_names]
    if len(group_names) == 1 and other_names:
        return (
            f"cannot compare groups by {grouping}: {conditions_text} leaves only {group_names[0]}, not "
            f"{join_and_shorten(other_names, MAX_NAMED_VALUES)}. Choose two groups or more"
        )
    return ""


def _parse_condition(videos: Sequence[Video], name: str, value: str) -> tuple[str, Condition]:
    """Return the setting, bracket or seed that a condition names, and a function that tests a video."""
    if name == SEED_NAME:
        return SEED_NAME, _parse_seed_condition(videos, value)
    if name.isdecimal():
        return _parse_word_condition(videos, name, value)
    try:
        path = find_setting_path(name, videos)
    except SettingNameError as error:
        if number := find_word_bracket(videos, value):
            raise UserError(
                f"--where: cannot select {name!r}: {error.reason}. {value} is a word of bracket {number}: write "
                f"--where {number}={value}"
            ) from None
        suggestion = f"Did you mean {SEED_NAME}?" if _resembles_seed(name, videos) else f"{error.advice}."
        raise UserError(
            f"--where: cannot select {name!r}: {error.reason}. {suggestion} Choose words by bracket (1=red), seeds by "
            f"{SEED_NAME}=1..4"
        ) from None
    values_by_key = {make_value_key(item): item for video in videos for item in [video.setting_values.get(path)]}
    keys, values = list(values_by_key), list(values_by_key.values())
    labels_by_key = label_setting_values(videos, path)

    def find_keys(text: str) -> set[str]:
        return {keys[index] for index in find_matching_value_indices(values, text)} | {
            key for key, label in labels_by_key.items() if label == text
        }

    chosen_keys = set().union(
        *map(find_keys, _split_known_values(name, value, find_keys, list(labels_by_key.values())))
    )
    return path, lambda video: make_value_key(video.setting_values.get(path)) in chosen_keys


def _resembles_seed(name: str, videos: Sequence[Video]) -> bool:
    """Return whether a name is more similar to SEED_NAME than to the name of any setting."""
    paths = list_setting_paths(videos)
    seed_names = [SEED_NAME, f"{SEED_NAME}s"]
    names = [*seed_names, *(shorten_path(path, paths) for path in paths)]
    return bool(set(difflib.get_close_matches(name, names, 1)) & set(seed_names))


def _parse_seed_condition(videos: Sequence[Video], value: str) -> Condition:
    try:
        seeds = set(parse_seeds(value))
    except SweepError as error:
        raise UserError(f"--where: cannot read {SEED_NAME}={value}: {error} (examples: 7, 7,11 or 1..4)") from None
    known_seeds = {video.seed for video in videos}
    if not seeds & known_seeds and known_seeds:
        raise UserError(f"--where: no video has {SEED_NAME} {value}. The videos have {describe_seeds(known_seeds)}")
    return lambda video: video.seed in seeds


def _parse_word_condition(videos: Sequence[Video], name: str, value: str) -> tuple[str, Condition]:
    try:
        (bracket,) = find_grouping_parts(videos, name).brackets
    except BracketError as error:
        raise UserError(f"--where: cannot select {name!r}: {error.reason}") from None

    def has_word(video: Video, word: str) -> bool:
        option_texts = (video.choices_by_bracket.get(bracket, ""), find_option_text(video, bracket))
        return word in (text or NO_OPTION_LABEL for text in option_texts)

    def is_known(word: str) -> bool:
        return any(has_word(video, word) for video in videos)

    known_words = list_bracket_options(videos, bracket)
    words = _split_known_values(f"bracket {name}", value or NO_OPTION_LABEL, is_known, known_words)
    return f"bracket {bracket}", lambda video: any(has_word(video, word) for word in words)


def _split_known_values(
    name: str, value: str, is_known: Callable[[str], object], known_values: Sequence[str]
) -> list[str]:
    """Return the values that a condition names.

    Raises:
        UserError: no video has one of the values.
    """
    values = split_alternatives(value, is_known)
    for each in values:
        if not is_known(each):
            raise UserError(_explain_missing_value(name, each, known_values))
    return values


def _explain_missing_value(name: str, value: str, known_values: Sequence[str]) -> str:
    similar_values = difflib.get_close_matches(value, known_values, 1)
    suggestion = f" Did you mean {similar_values[0]}?" if similar_values else ""
    known = join_and_shorten(known_values, MAX_NAMED_VALUES)
    return f"--where: {name} has no value {value!r}.{suggestion} Choose from: {known}"
