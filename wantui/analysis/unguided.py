"""Comparison at cfg_scale 1, in addition to a comparison of guided videos.

Guidance moves a path away from what the model expects without the prompt. A difference between words at cfg_scale 4 may
come from guidance alone, so every comparison also shows its value at cfg_scale 1, where there are such videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wantui.analysis.advice import add_reason_prefix
from wantui.analysis.calibrated_effect import describe_calibrated_scale, explain_effect
from wantui.analysis.differences import SIGNIFICANCE_LEVEL, Difference, format_effect_parts
from wantui.analysis.group import Group
from wantui.analysis.group_names import CannotCompareError, find_grouping_parts
from wantui.analysis.metrics import describe_ratio_base, get_metric_unit
from wantui.analysis.setting_values import list_compared_names
from wantui.analysis.statistics import Effect, compute_paired_effect
from wantui.analysis.swept_settings import find_linked_paths
from wantui.analysis.training_frequency import compares_words
from wantui.analysis.verdicts import Verdict
from wantui.analysis.video import Video
from wantui.analysis.video_guidance import GUIDANCE_CONTROLS, GUIDANCE_PATH, is_unguided
from wantui.formatting import format_count, format_share

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

GUIDANCE_SETTING = "guidance_scale"
"""Name of the compared setting with the guidance scale."""


def split_by_guidance(videos: Sequence[Video], grouping: str) -> tuple[list[Video], list[Video]]:
    """Return the guided and the unguided videos; all in the first list if there is no second comparison to show.

    There is no second set if all videos are guided, if none is, if the groups are batches, or if guidance forms the
    groups.
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
    """Compare groups of videos, and the same prompts and seeds at cfg_scale 1 if there are such videos.

    Arguments and errors are as in `compare_groups`. If the videos at cfg_scale 1 cannot be compared, a warning says
    why. Each metric has one unit in both comparisons.
    """
    from wantui.analysis.compare import DEFAULT_EQUIVALENCE_MARGIN, build_comparison
    from wantui.analysis.measured_groups import measure_groups

    margin = DEFAULT_EQUIVALENCE_MARGIN if equivalence_margin is None else equivalence_margin
    guided_videos, unguided_videos = split_by_guidance(videos, grouping)
    guided = measure_groups(guided_videos, grouping, primary_metric, metrics)
    absolute_metrics = guided.find_absolute_metrics()
    if not unguided_videos:
        return build_comparison(guided, margin, absolute_metrics)
    compared_keys = {_make_key(video) for group in guided.groups.groups for video in group.videos}
    matching_videos = [video for video in unguided_videos if _make_key(video) in compared_keys]
    try:
        unguided = measure_groups(matching_videos, grouping, primary_metric, metrics)
    except CannotCompareError as error:
        warning = add_reason_prefix("the videos at cfg_scale 1 are not compared: ", error.message)
        comparison = build_comparison(guided, margin, absolute_metrics)
        return replace(comparison, warnings=(*comparison.warnings, warning))
    absolute_metrics |= unguided.find_absolute_metrics()
    comparison = build_comparison(guided, margin, absolute_metrics)
    return replace(
        comparison,
        unguided=build_comparison(unguided, margin, absolute_metrics),
        warnings=(*comparison.warnings, _describe_separate_comparison(comparison, unguided.groups.groups)),
    )


def _describe_separate_comparison(comparison: "Comparison", unguided_groups: Sequence[Group]) -> str:
    """Return which videos the result is about, and which are compared separately at cfg_scale 1."""
    guided_text, unguided_text = (
        format_count(len(groups[0].videos), "video") for groups in (comparison.groups, unguided_groups)
    )
    return (
        f"the result is about the guided videos only ({guided_text} in each group); those at cfg_scale 1 "
        f"({unguided_text} in each group) are compared separately"
    )


def _make_key(video: Video) -> tuple[str, str, int]:
    return video.prompt, video.word_weights, video.seed


def find_unguided_difference(comparison: "Comparison", difference: Difference) -> Difference | None:
    """Return the difference of the same groups in the same metric at cfg_scale 1; None without such videos."""
    if comparison.unguided is None:
        return None
    return comparison.unguided.find_difference(difference.metric, difference.first_group, difference.second_group)


def describe_unguided(comparison: "Comparison") -> list[str]:
    """Return answers (for two groups) and verdicts at cfg_scale 1, with explanations.

    The texts also say how much of each effect remains. Without videos at cfg_scale 1, they say what such videos would
    show.
    """
    unguided = comparison.unguided
    if unguided is None:
        return _advise_unguided_batch(comparison)
    texts = [answer.text for answer in unguided.answers] if len(unguided.groups) == 2 else []
    for verdict in unguided.verdicts:
        texts += filter(None, [verdict.verdict_text, explain_effect(unguided, verdict)])
    scale_text = describe_calibrated_scale(unguided)  # names its guidance scale
    is_new = scale_text not in ("", describe_calibrated_scale(comparison))
    return [
        *(f"at cfg_scale 1: {text}" for text in texts),
        *([scale_text] if is_new else []),
        *filter(None, (describe_remaining_effect(comparison, verdict) for verdict in comparison.verdicts)),
    ]


def describe_remaining_effect(comparison: "Comparison", verdict: Verdict) -> str:
    """Return how much of a verdict's effect remains at cfg_scale 1, and its interpretation.

    The text is empty if the guided videos show no effect, or if there are no videos at cfg_scale 1.
    """
    pair = (verdict.first_group, verdict.second_group)
    if verdict.kind != "differs" or comparison.unguided is None:
        return ""
    difference = comparison.find_difference(verdict.metric, *pair)
    unguided_difference = comparison.unguided.find_difference(verdict.metric, *pair)
    unguided_verdict = comparison.unguided.find_verdict(*pair)
    if difference is None or unguided_difference is None or unguided_verdict is None:
        return ""
    start = f"{verdict.first_group} against {verdict.second_group} in {verdict.metric}: "
    if unguided_verdict.kind != "differs":
        return f"{start}no significant effect at cfg_scale 1, so guidance alone may cause the effect with guidance"
    is_relative = difference.is_relative
    guided_effects, unguided_effects = (
        dict(zip(seeds, item.compute_seed_effects(is_relative).tolist(), strict=True))
        for seeds, item in ((comparison.seeds, difference), (comparison.unguided.seeds, unguided_difference))
    )
    share = _compute_mean(unguided_effects) / _compute_mean(guided_effects)
    if share < 0:
        return f"{start}the effect has the opposite sign at cfg_scale 1, so guidance causes the effect with guidance"
    changes = [guided_effects[seed] - unguided_effects[seed] for seed in guided_effects if seed in unguided_effects]
    change = compute_paired_effect(np.array(changes)) if len(changes) > 1 else None
    return f"{start}{_describe_share(share, change)}{_describe_change(change, verdict.metric, is_relative)}"


def _compute_mean(effects_by_seed: Mapping[int, float]) -> float:
    return sum(effects_by_seed.values()) / len(effects_by_seed)


def _describe_share(share: float, change: Effect | None) -> str:
    """Return how much of an effect remains at cfg_scale 1, and how guidance changes it according to the paired test.

    Args:
        share: effect at cfg_scale 1 divided by the one with guidance, above 0.
        change: effect with guidance minus that at cfg_scale 1, paired by seed; None with fewer than two common seeds.
    """
    is_shown = (
        change is not None and change.p <= SIGNIFICANCE_LEVEL and not change.interval_low <= 0 <= change.interval_high
    )
    if share > 1:
        result = "so guidance reduces it" if is_shown else "but it is unclear whether guidance changes it"
        return f"the effect is {'' if is_shown else 'about '}{share:.3g} times as large at cfg_scale 1, {result}"
    result = "guidance adds the rest" if is_shown else "it is unclear whether guidance adds to it"
    return (
        f"{'' if is_shown else 'about '}{format_share(share)} of the effect remains at cfg_scale 1, in the model's own "
        f"prediction for the prompt; {result}"
    )


def _describe_change(change: Effect | None, metric: str, is_relative: bool) -> str:
    """Return in parentheses the effect with guidance minus the effect at cfg_scale 1, with its interval."""
    if change is None:
        return " (fewer than two seeds have videos at both scales)"
    text, low, high = format_effect_parts(
        change.mean, change.interval_low, change.interval_high, get_metric_unit(metric), is_relative
    )
    base = describe_ratio_base(metric) if is_relative else ""
    interval = f", 95 % interval {low} to {high}" if low else ""
    return (
        f" (effect with guidance minus that at cfg_scale 1: {text}{base}{interval}, p {change.p:.3g}, paired by seed)"
    )


def _advise_unguided_batch(comparison: "Comparison") -> list[str]:
    """Return what videos at cfg_scale 1 would show; empty if no effect between words of guided videos is shown.

    The text is also empty if a batch sweeps cfg_scale: its user chose the scales.
    """
    is_shown = any(verdict.kind == "differs" for verdict in comparison.verdicts)
    is_swept = any(GUIDANCE_PATH in axis for video in comparison.videos for axis in video.swept_axes)
    if is_swept or not is_shown or not comparison.is_guided or not compares_words(comparison):
        return []
    return [
        "the same prompts and seeds with cfg_scale 1 would show how much of the effect guidance adds: analyse both "
        "batches together, or sweep cfg_scale=1,4"
    ]
