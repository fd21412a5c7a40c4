"""Warnings about the design of a comparison: identical videos, few phrasings, other differences between groups."""

import itertools
from collections.abc import Sequence

import numpy as np

from wantui.analysis.comparability import find_differing_settings
from wantui.analysis.group import Group
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.swept_settings import find_sweep_warnings
from wantui.analysis.verdicts import MIN_PHRASINGS
from wantui.analysis.video import Video
from wantui.formatting import format_count


def find_identical_trajectory_warnings(groups: Sequence[Group]) -> list[str]:
    """Return warnings about pairs of groups with identical trajectories, such as copies of a batch."""
    warnings = []
    for first, second in itertools.combinations(groups, 2):
        identical_count = sum(
            _have_same_trajectory(*video_pair) for video_pair in zip(first.videos, second.videos, strict=True)
        )
        if identical_count:
            count_text = f"{identical_count} of {format_count(len(first.videos), 'video')}"
            warnings.append(
                f"{count_text} of {first.name} and {second.name} have identical trajectories, for example "
                "because of equal prompts or a copied batch: their differences of 0 are meaningless"
            )
    return warnings


def _have_same_trajectory(first: Video, second: Video) -> bool:
    if first.trajectory is None or second.trajectory is None:
        return False
    return np.array_equal(first.trajectory.gram, second.trajectory.gram)


def find_design_warnings(matched_groups: MatchedGroups, grouping: str) -> list[str]:
    """Return warnings about differences between groups other than the grouping, and about too few phrasings."""
    groups = matched_groups.groups
    warnings = []
    if grouping == "batch":
        warnings.append(find_differing_settings([video for group in groups for video in group.videos]).description)
    elif grouping != "prompt" and (
        single_phrasing_names := [group.name for group in groups if group.phrasing_count == 1]
    ):
        warnings.append(
            f"only one phrasing of {', '.join(single_phrasing_names)}: the result applies to this sentence, "
            "not to the concept"
        )
    phrasing_count = matched_groups.phrasing_count
    if 1 < phrasing_count < MIN_PHRASINGS and grouping != "batch":
        warnings.append(
            f"only {phrasing_count} phrasings: the result applies to these sentences; generalising needs "
            f"at least {MIN_PHRASINGS}"
        )
    warnings += find_sweep_warnings([video for group in groups for video in group.videos], grouping, len(groups))
    word_counts_by_group = {group.name: np.mean([video.word_count for video in group.videos]) for group in groups}
    if max(word_counts_by_group.values()) - min(word_counts_by_group.values()) >= 2:
        word_counts_text = ", ".join(f"{name} {length:.1f}" for name, length in word_counts_by_group.items())
        warnings.append(
            f"the prompts differ in their number of words ({word_counts_text}), which may cause a difference"
        )
    return warnings
