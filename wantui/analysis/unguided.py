"""Comparison at guidance 1, in addition to a comparison of guided videos.

Guidance moves a path away from what the model expects without the prompt. A difference between words at guidance 4 may
come from guidance alone, so that every comparison also shows its value at guidance 1, where there are such videos.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wantui.analysis.advice import add_reason_prefix
from wantui.analysis.calibrated_effect import describe_calibrated_scale, explain_effect
from wantui.analysis.differences import Difference
from wantui.analysis.group_names import CannotCompareError, find_grouping_parts
from wantui.analysis.setting_values import list_compared_names
from wantui.analysis.swept_settings import find_linked_paths
from wantui.analysis.video import Video
from wantui.analysis.video_guidance import GUIDANCE_CONTROLS, is_unguided

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

GUIDANCE_SETTING = "guidance_scale"
"""Name of the compared setting with the guidance scale."""


def split_by_guidance(videos: Sequence[Video], grouping: str) -> tuple[list[Video], list[Video]]:
    """Return the guided and the unguided videos; all in the first list if there is no second comparison to show.

    There is not if all videos are guided or none is, if the groups are batches, or if guidance forms the groups.
    """
    unguided_videos = [video for video in videos if is_unguided(video)]
    if grouping == "batch" or not 0 < len(unguided_videos) < len(videos):
        return list(videos), []
    paths = find_linked_paths(videos, find_grouping_parts(videos, grouping).setting_paths)
    studied_settings = {name for path in paths for name in list_compared_names(path)}
    if any(name == GUIDANCE_SETTING or name.partition(".")[0] in GUIDANCE_CONTROLS for name in studied_settings):
        return list(videos), []
    return [video for video in videos if not is_unguided(video)], unguided_videos


def compare_with_unguided(
    videos: Sequence[Video],
    grouping: str,
    primary_metric: str,
    metrics: Sequence[str] | None = None,
    equivalence_margin: float | None = None,
) -> "Comparison":
    """Compare groups of videos, and the same prompts and seeds at guidance 1 if there are such videos.

    Arguments and errors are those of `compare_groups`. If the videos at guidance 1 cannot be compared, a warning says
    why.
    """
    from wantui.analysis.compare import DEFAULT_EQUIVALENCE_MARGIN, compare_groups

    margin = DEFAULT_EQUIVALENCE_MARGIN if equivalence_margin is None else equivalence_margin
    guided_videos, unguided_videos = split_by_guidance(videos, grouping)
    comparison = compare_groups(guided_videos, grouping, primary_metric, metrics, margin)
    if not unguided_videos:
        return comparison
    compared_keys = {_make_key(video) for group in comparison.groups for video in group.videos}
    matching_videos = [video for video in unguided_videos if _make_key(video) in compared_keys]
    try:
        unguided = compare_groups(matching_videos, grouping, primary_metric, metrics, margin)
    except CannotCompareError as error:
        warning = add_reason_prefix("the videos at guidance 1 are not compared: ", error.message)
        return replace(comparison, warnings=(*comparison.warnings, warning))
    return replace(comparison, unguided=unguided)


def _make_key(video: Video) -> tuple[str, str, int]:
    return video.prompt, video.word_weights, video.seed


def find_unguided_difference(comparison: "Comparison", difference: Difference) -> Difference | None:
    """Return the difference of the same groups in the same metric at guidance 1; None if there is none."""
    if comparison.unguided is None:
        return None
    key = (difference.metric, difference.first_group, difference.second_group)
    differences = comparison.unguided.differences
    return next((other for other in differences if (other.metric, other.first_group, other.second_group) == key), None)


def describe_unguided(comparison: "Comparison") -> list[str]:
    """Return answers (of two groups) and verdicts at guidance 1, with what can explain them; empty if there are no such
    videos."""
    unguided = comparison.unguided
    if unguided is None:
        return []
    texts = [answer.text for answer in unguided.answers] if len(unguided.groups) == 2 else []
    for verdict in unguided.verdicts:
        texts += filter(None, [verdict.verdict_text, explain_effect(unguided, verdict)])
    scale_text = describe_calibrated_scale(unguided)  # names its guidance scale
    is_new = scale_text not in ("", describe_calibrated_scale(comparison))
    return [*(f"at guidance 1: {text}" for text in texts), *([scale_text] if is_new else [])]
