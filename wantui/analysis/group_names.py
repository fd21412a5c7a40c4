"""Names of video groups, by variation, prompt, batch, brackets of the template, or settings."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wantui.analysis.comparability import choose_unique_batch_names, find_differing_settings
from wantui.analysis.setting_values import (
    GROUPINGS_WITHOUT_SETTING,
    SETTING_NAME_PATTERN,
    SettingNameError,
    find_setting_path,
    list_differing_paths,
    list_setting_paths,
    make_value_key,
    shorten_path,
)
from wantui.analysis.template_parts import (
    NO_OPTION_LABEL,
    find_enclosing_brackets,
    find_option_text,
    find_word_bracket,
    list_bracket_options,
    list_template_brackets,
)
from wantui.analysis.video import Video
from wantui.config.sweep import NO_VALUE_LABEL, format_value_labels
from wantui.errors import UserError
from wantui.formatting import join_and_shorten
from wantui.planning.sweep import BASELINE_LABEL

MAX_NAMED_OPTIONS = 4
"""Maximum number of a bracket's options that a message names."""
_BRACKET_NUMBER_PATTERN = re.compile(r"\d{1,6}", re.ASCII)


class CannotCompareError(UserError):
    """Raised for groups that cannot be compared; the message gives the reason.

    Args:
        message: the reason; an `AdvisedText` if the command line and the screen word its advice differently.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BracketError(CannotCompareError):
    """Raised for a bracket number that the template lacks, or that a grouping names twice.

    Args:
        grouping: the grouping as written.
        reason: why it cannot be used.
        advice: what to write instead.
    """

    def __init__(self, grouping: str, reason: str, advice: str) -> None:
        super().__init__(f"cannot group by {grouping!r}: {reason}. {advice}")
        self.reason = reason


@dataclass(frozen=True)
class GroupingParts:
    """The parts of a grouping such as "1,cfg_scale"; empty for "variation", "prompt" and "batch"."""

    brackets: tuple[int, ...] = ()
    """Brackets of the template, by their keys in `Video.choices_by_bracket`."""
    setting_paths: tuple[str, ...] = ()


def find_grouping_parts(videos: Sequence[Video], grouping: str) -> GroupingParts:
    """Return brackets and settings of a grouping.

    Raises:
        CannotCompareError: the template has no such bracket, or the videos do not differ in such a setting.
    """
    if grouping in GROUPINGS_WITHOUT_SETTING:
        return GroupingParts()
    parts = [part.strip() for part in grouping.split(",")]
    if any(part.lower().rpartition(".")[2] in ("seed", "seeds") for part in parts):
        raise CannotCompareError(
            f"cannot group by {grouping!r}: seeds form no groups, because the videos of groups are paired by seed. "
            "Choose seeds with --where seed=1..4"
        )
    bracket_parts = [part for part in parts if not SETTING_NAME_PATTERN.fullmatch(part)]
    try:
        paths = tuple(find_setting_path(part, videos) for part in parts if part not in bracket_parts)
    except SettingNameError as error:
        word_brackets = {part: number for part in parts if (number := find_word_bracket(videos, part))}
        if word_brackets:
            words_text = ", ".join(f"{word} is a word of bracket {number}" for word, number in word_brackets.items())
            numbers = ",".join(map(str, dict.fromkeys(word_brackets.values())))
            raise CannotCompareError(f"cannot group by {grouping!r}: {words_text}. Group by {numbers}") from None
        if len(parts) == 1 and "." not in parts[0]:
            raise CannotCompareError(_explain_grouping_error(videos, grouping, error)) from None
        raise CannotCompareError(str(error)) from None
    if len(set(paths)) < len(paths):
        raise CannotCompareError(f"cannot group by {grouping!r}: a setting occurs twice. Name each setting once")
    return GroupingParts(tuple(_parse_brackets(videos, bracket_parts, grouping)) if bracket_parts else (), paths)


def _explain_grouping_error(videos: Sequence[Video], grouping: str, error: SettingNameError) -> str:
    """Explain why a name is not a grouping, and list the groupings that these videos have."""
    brackets_text = "".join(
        f"{number} ({join_and_shorten(list_bracket_options(videos, bracket), MAX_NAMED_OPTIONS, '|')}), "
        for number, bracket in enumerate(list_template_brackets(videos), start=1)
    )
    groupings_text = f"{brackets_text}variation, prompt or batch"
    if not list_differing_paths(videos) and "Did you mean" not in error.advice:
        return f"cannot group by {grouping!r}: {error.reason}. Use {groupings_text}"
    return f"{error}. Or use {groupings_text}"


def _lacks_nested_bracket(video: Video, bracket: int) -> bool:
    """Return whether a prompt lacks a nested bracket because the enclosing bracket has a different option there."""
    return bracket not in video.choices_by_bracket and bool(find_enclosing_brackets(video, bracket))


def list_naming_brackets(video: Video, parts: GroupingParts) -> list[int]:
    """Return the brackets of a grouping whose options form the name of a video's group.

    Nested brackets that the prompt lacks are excluded. Brackets nested in another bracket of the grouping are excluded
    too, because the option of the outer bracket contains theirs. If no bracket remains, all brackets of the grouping
    are returned: the video has their option NO_OPTION_LABEL.
    """
    brackets = [bracket for bracket in parts.brackets if not _lacks_nested_bracket(video, bracket)]
    naming = [b for b in brackets if not set(find_enclosing_brackets(video, b)) & set(brackets)]
    return naming or list(parts.brackets)


def find_bracket_without_group(video: Video, parts: GroupingParts) -> int | None:
    """Return the nested bracket that a video lacks, so that it has no group; None if the video has a group.

    The video lacks the bracket, and every other bracket of the grouping inside the same outermost bracket.
    """

    def find_outermost(bracket: int) -> int:
        return (*find_enclosing_brackets(video, bracket), bracket)[0]

    outermost = {find_outermost(b) for b in parts.brackets if not _lacks_nested_bracket(video, b)}
    lacking = [b for b in parts.brackets if _lacks_nested_bracket(video, b) and find_outermost(b) not in outermost]
    return lacking[0] if lacking else None


def name_groups(videos: Sequence[Video], grouping: str) -> list[str]:
    """Return the name of each video's group.

    Videos of a group have equal options with equal weights. If a short name is ambiguous, as between batches with
    (circle) and with (circle:6), the longer names are used.
    """
    if grouping == "batch":
        names_by_folder = choose_unique_batch_names([video.folder for video in videos])
        differing_settings = find_differing_settings(videos)
        labels_by_folder = {folder: differing_settings.make_label(folder) for folder in names_by_folder}
        label_counts = Counter(labels_by_folder.values())
        return [
            label
            if (label := labels_by_folder[video.folder]) and label_counts[label] == 1
            else " ".join(filter(None, (names_by_folder[video.folder], label and f"({label})")))
            for video in videos
        ]
    if grouping in ("variation", "prompt"):
        names = [video.variation if grouping == "variation" else video.phrasing for video in videos]
        name_levels = [
            names,
            [" ".join(filter(None, (name, _format_weights(video)))) for name, video in zip(names, videos, strict=True)],
            [
                f"{name} ({video.phrasing}) {_format_weights(video)}".strip()
                for name, video in zip(names, videos, strict=True)
            ],
        ]
    else:
        name_levels = _list_candidate_names(videos, find_grouping_parts(videos, grouping))
    return _shorten_group_names(name_levels)


def _list_candidate_names(videos: Sequence[Video], parts: GroupingParts) -> list[list[str]]:
    """Return names of each video's group by brackets and settings, from short to long."""
    paths = list_setting_paths(videos)
    short_names = {path: shorten_path(path, paths) for path in parts.setting_paths}
    labels_by_path = {path: label_setting_values(videos, path) for path in parts.setting_paths}

    def list_choices(find_choice: Callable[[Video, int], str], video: Video) -> list[str]:
        return [find_choice(video, bracket) or NO_OPTION_LABEL for bracket in list_naming_brackets(video, parts)]

    def name_settings(video: Video) -> list[str]:
        values = {path: video.setting_values.get(path) for path in parts.setting_paths}
        return [f"{short_names[path]} {labels_by_path[path][make_value_key(value)]}" for path, value in values.items()]

    def list_values(video: Video) -> list[str]:
        # Options may contain commas: "a" with "b, c" is not "a, b" with "c".
        options = [json.dumps(find_option_text(video, bracket), ensure_ascii=False) for bracket in parts.brackets]
        values = [make_value_key(video.setting_values.get(path)) for path in parts.setting_paths]
        return [*options, *(f"{short_names[path]} {value}" for path, value in zip(short_names, values, strict=True))]

    return [
        [
            ", ".join([*list_choices(lambda v, b: v.choices_by_bracket.get(b, ""), video), *name_settings(video)])
            for video in videos
        ],
        [", ".join([*list_choices(find_option_text, video), *name_settings(video)]) for video in videos],
        [", ".join(list_values(video)) for video in videos],
    ]


def label_setting_values(videos: Sequence[Video], path: str) -> dict[str, str]:
    """Return labels of a setting's values in some videos, by their `make_value_key`.

    A missing value, such as no prompt schedule, gets BASELINE_LABEL if all its videos belong to the baseline of a
    sweep, as in the library and the gallery.
    """
    videos_by_key: dict[str, list[Video]] = {}
    for video in videos:
        videos_by_key.setdefault(make_value_key(video.setting_values.get(path)), []).append(video)
    values = [members[0].setting_values.get(path) for members in videos_by_key.values()]
    labels = format_value_labels(values)
    return {
        key: BASELINE_LABEL
        if label == NO_VALUE_LABEL and all(video.cell_label == BASELINE_LABEL for video in members)
        else label
        for (key, members), label in zip(videos_by_key.items(), labels, strict=True)
    }


def _shorten_group_names(name_levels: Sequence[Sequence[str]]) -> list[str]:
    """Return the shortest unambiguous name of each video.

    Args:
        name_levels: names of the videos, from short to long; equal names of the last level are one group.
    """
    names: list[str] = list(name_levels[-1])
    for shorter_names in reversed(name_levels[:-1]):
        full_names_by_name: dict[str, set[str]] = {}
        for name, full_name in zip(shorter_names, name_levels[-1], strict=True):
            full_names_by_name.setdefault(name, set()).add(full_name)
        names = [
            name if len(full_names_by_name[name]) == 1 else longer
            for name, longer in zip(shorter_names, names, strict=True)
        ]
    return names


def _format_weights(video: Video) -> str:
    return f"[{video.word_weights}]" if video.word_weights else ""


def _parse_brackets(videos: Sequence[Video], parts: Sequence[str], grouping: str) -> list[int]:
    brackets = list_template_brackets(videos)
    numbers = [int(part) if _BRACKET_NUMBER_PATTERN.fullmatch(part) else 0 for part in parts]
    if len(set(numbers)) < len(numbers) and all(numbers):
        raise BracketError(grouping, "a bracket occurs twice", "Name each bracket once")
    if not all(0 < number <= len(brackets) for number in numbers):
        count = len(brackets)
        available = f"brackets 1 to {count}" if count > 1 else "only bracket 1" if count else "no brackets"
        raise BracketError(
            grouping, f"the template has {available}", "Use variation, prompt, batch, or a bracket number"
        )
    return [brackets[number - 1] for number in numbers]
