"""Swept settings that change with the groups, and swept settings over which values are averaged."""

from collections.abc import Callable, Sequence

from wantui.analysis.advice import Advice, AdviceKind, AdvisedText
from wantui.analysis.comparability import SCHEDULE_SETTINGS, SIZE_SETTINGS
from wantui.analysis.group_names import find_grouping_parts, label_setting_values
from wantui.analysis.setting_values import (
    list_compared_names,
    list_differing_paths,
    list_setting_paths,
    make_value_key,
    shorten_path,
)
from wantui.analysis.video import Video
from wantui.formatting import format_count, join_and_shorten


def find_linked_paths(videos: Sequence[Video], paths: Sequence[str]) -> tuple[str, ...]:
    """Return the given setting paths, and the paths of the settings that a batch changes together with them."""
    linked_paths = [
        path for video in videos for axis in video.swept_axes if any(path in axis for path in paths) for path in axis
    ]
    return tuple(dict.fromkeys((*paths, *linked_paths)))


def find_other_swept_paths(videos: Sequence[Video], paths: Sequence[str]) -> tuple[str, ...]:
    """Return the paths of swept settings that do not form the groups; groups can share values, like phrasings.

    Settings that change the size or the noise levels are not pooled: their videos are excluded, except the most common.
    """
    linked_paths = find_linked_paths(videos, paths)
    swept_paths = dict.fromkeys(path for video in videos for axis in video.swept_axes for path in axis)
    return tuple(
        path
        for path in swept_paths
        if path not in linked_paths and not set(list_compared_names(path)) & {*SIZE_SETTINGS, *SCHEDULE_SETTINGS}
    )


def make_other_swept_values_key(videos: Sequence[Video], grouping: str) -> Callable[[Video], str]:
    """Return a function that returns the values of the swept settings that do not form the groups."""
    paths = find_other_swept_paths(videos, find_grouping_parts(videos, grouping).setting_paths)
    return lambda video: "|".join(make_value_key(video.setting_values.get(path)) for path in paths)


def find_sweep_warnings(videos: Sequence[Video], grouping: str, group_count: int) -> list[str]:
    """Return warnings about swept settings that change with the groups, or over which values are averaged.

    Args:
        videos: compared videos; each group has equally many.
    """
    paths = find_grouping_parts(videos, grouping).setting_paths
    all_paths = list_setting_paths(videos)
    linked_names = [shorten_path(path, all_paths) for path in find_linked_paths(videos, paths) if path not in paths]
    averaged_paths = [path for path in find_other_swept_paths(videos, paths) if path in list_differing_paths(videos)]
    warnings = []
    if linked_names:
        verb = "changes" if len(linked_names) == 1 else "change"
        warnings.append(
            f"{', '.join(linked_names)} {verb} together with {grouping}: any of them may cause a difference"
        )
    if averaged_paths:
        is_one = len(averaged_paths) == 1
        kind = AdviceKind.GROUP_BY_AVERAGED_SETTING if is_one else AdviceKind.GROUP_BY_AVERAGED_SETTINGS
        settings_text = " and ".join(
            f"{shorten_path(path, all_paths)} ({join_and_shorten(list(label_setting_values(videos, path).values()))})"
            for path in averaged_paths
        )
        videos_text = format_count(len(videos) // group_count, "video")
        reason = f"the values of each seed are averaged over {settings_text}; each group has {videos_text}"
        warnings.append(AdvisedText(reason, Advice(kind)))
    return warnings
