"""Groups of videos: forming and naming them, summarising them, and matching their seeds and phrasings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray
from wantui.analysis.comparability import (
    SIZE_SETTINGS,
    VideoNamer,
    select_comparable_videos,
)
from wantui.analysis.group import Group, GroupSummary, PhrasingSeed
from wantui.analysis.group_errors import check_group_count, explain_missing_seeds, explain_too_few_seeds
from wantui.analysis.group_names import (
    MAX_NAMED_OPTIONS,
    CannotCompareError,
    find_bracket_without_group,
    find_grouping_parts,
    name_groups,
)
from wantui.analysis.metrics import METRICS, select_finite_values
from wantui.analysis.null_models import GaussianNull, compute_random_walk_null
from wantui.analysis.setting_values import (
    list_compared_names,
    list_differing_paths,
    list_setting_paths,
    shorten_path,
    to_number,
)
from wantui.analysis.swept_settings import find_linked_paths, find_other_swept_paths, make_other_swept_values_key
from wantui.analysis.template_parts import (
    find_enclosing_brackets,
    find_option_text,
    list_template_brackets,
    mask_brackets,
)
from wantui.analysis.video import Video
from wantui.formatting import join_and_shorten

Key = TypeVar("Key")
NOTHING_TO_GROUP_ERROR = "cannot group videos: there is no finished video with a stored trajectory"
"""Error message if there are no videos to group."""
NOT_SHARED_REASON = "its phrasing is not in every group"
"""Reason for excluding a video whose phrasing not all groups have."""


def group_videos(videos: Sequence[Video], grouping: str = "variation") -> list[Group]:
    """Return groups of videos, in the order of their first video.

    Args:
        grouping: "variation", "prompt", "batch", or bracket numbers from 1 and names of settings, such as "1", "1,3",
            "cfg_scale" or "1,cfg_scale". Groups by a number are in its order.

    Raises:
        CannotCompareError: the template has no such bracket, or the videos do not differ in such a setting.
    """
    videos_by_group: dict[str, list[Video]] = {}
    for name, video in zip(name_groups(videos, grouping), videos, strict=True):
        videos_by_group.setdefault(name, []).append(video)
    groups = [Group(name, tuple(group_members)) for name, group_members in videos_by_group.items()]
    paths = find_grouping_parts(videos, grouping).setting_paths
    return sorted(groups, key=lambda group: _make_sort_key(group, paths)) if paths else groups


def _make_sort_key(group: Group, paths: Sequence[str]) -> list[tuple[bool, float]]:
    """Return a sort key: numbers sort by value, a missing value comes first, and text keeps its order."""
    values = [group.videos[0].setting_values.get(path) for path in paths]
    numbers = [to_number(value) for value in values]
    return [
        (value is not None, 0.0 if number is None else number) for value, number in zip(values, numbers, strict=True)
    ]


def select_videos_for_grouping(videos: Sequence[Video], grouping: str) -> tuple[list[Video], list[Video]]:
    """Return the videos that can be compared by a grouping, and the excluded videos with their `exclusion_reason`.

    Raises:
        CannotCompareError: the template has no such bracket, or videos cannot be compared by the setting.
    """
    parts = find_grouping_parts(videos, grouping)
    paths = parts.setting_paths
    studied_settings = [
        name
        for path in (*find_linked_paths(videos, paths), *find_other_swept_paths(videos, paths))
        for name in list_compared_names(path)
    ]
    differing_paths = list_differing_paths(videos)
    if any(path in differing_paths and set(list_compared_names(path)) & set(SIZE_SETTINGS) for path in paths):
        raise CannotCompareError(
            f"cannot group by {grouping!r}: the same seed gives different initial noise for videos of different sizes, "
            "so videos cannot be paired by seed. Analyse each size alone"
        )
    brackets = list_template_brackets(videos)
    videos_with_group, videos_without_group = [], []
    for video in videos:
        if (bracket := find_bracket_without_group(video, parts)) is None or video.trajectory is None:
            videos_with_group.append(video)
        else:
            options = video.template_brackets[bracket].option_texts
            number_text = f"{brackets.index(bracket) + 1} ({join_and_shorten(options, MAX_NAMED_OPTIONS, '|')})"
            reason = f"its prompt has another option instead of the nested bracket {number_text}"
            videos_without_group.append(replace(video, exclusion_reason=reason))
    comparable_videos, excluded_videos = select_comparable_videos(videos_with_group, grouping, studied_settings)
    return comparable_videos, excluded_videos + videos_without_group


def group_comparable_videos(videos: Sequence[Video], grouping: str) -> tuple[list[Group], list[tuple[str, str]]]:
    """Return groups of comparable videos, and the names of excluded videos, each with the reason.

    Each video counts once, even if several batches contain it.
    """
    comparable_videos, excluded_videos = select_videos_for_grouping(videos, grouping)
    namer = VideoNamer(videos)
    exclusion_reasons = [(namer.name_video(video), video.exclusion_reason) for video in excluded_videos]
    if not comparable_videos:
        return [], exclusion_reasons
    groups = []
    get_condition = make_other_swept_values_key(comparable_videos, grouping)
    for group in group_videos(comparable_videos, grouping):
        videos_by_key = _find_first_videos(
            group.videos,
            lambda video: (video.variation, video.prompt, video.word_weights, get_condition(video), video.seed),
            namer,
            exclusion_reasons,
        )
        groups.append(Group(group.name, tuple(videos_by_key.values())))
    return groups, exclusion_reasons


def _find_first_videos(
    videos: Sequence[Video], get_key: Callable[[Video], Key], namer: VideoNamer, exclusions: list[tuple[str, str]]
) -> dict[Key, Video]:
    """Return the first video of each key; append the name of every other video, with the reason, to `exclusions`."""
    videos_by_key: dict[Key, Video] = {}
    for video in videos:
        earlier_video = videos_by_key.setdefault(get_key(video), video)
        if earlier_video is not video:
            exclusions.append((namer.name_video(video), _explain_duplicate(video, earlier_video, namer)))
    return videos_by_key


def find_factors(videos: Sequence[Video]) -> list[str]:
    """Return the brackets and the settings that divide these videos into several groups."""
    brackets = [str(bracket + 1) for bracket in range(len(list_template_brackets(videos)))]
    paths = list_setting_paths(videos)
    settings = [
        shorten_path(path, paths)
        for path in list_differing_paths(videos)
        if not any(name in SIZE_SETTINGS for name in list_compared_names(path))
    ]
    return [factor for factor in (*brackets, *settings) if _count_groups(videos, factor) > 1]


def _count_groups(videos: Sequence[Video], grouping: str) -> int:
    """Return the number of groups, ignoring videos that have no group because they lack a nested bracket."""
    parts = find_grouping_parts(videos, grouping)
    names = zip(name_groups(videos, grouping), videos, strict=True)
    return len({name for name, video in names if find_bracket_without_group(video, parts) is None})


def find_dividing_groupings(videos: Sequence[Video]) -> list[str]:
    """Return the groupings that divide these videos into several groups."""
    divides = {name: len(group_videos(videos, name)) > 1 for name in ("variation", "batch")}
    # Grouping by the only bracket equals grouping by variation.
    is_only_bracket = len(list_template_brackets(videos)) == 1
    factors = [factor for factor in find_factors(videos) if not (factor == "1" and is_only_bracket)]
    return [name for name in ("variation", *factors, "batch") if divides.get(name, True)]


def summarise_group_metric(group: Group, metric: str, gaussian_null: GaussianNull | None = None) -> GroupSummary:
    """Summarise a metric of a group, with the same metric of its null models; external labels have no null model."""
    usable_videos = [video for video in group.videos if video.trajectory is not None]
    if not usable_videos:
        nan = float("nan")
        return GroupSummary(0, nan, nan, nan, nan)
    if metric not in METRICS:
        mean, deviation = group.compute_mean(metric), group.compute_standard_deviation(metric)
        return GroupSummary(group.count_values(metric), mean, deviation, float("nan"), float("nan"))
    trajectories = [video.trajectory for video in usable_videos if video.trajectory is not None]
    random_walk_values = select_finite_values(
        [
            usable_videos[0].compute_path_metric(compute_random_walk_null(trajectory), metric)
            for trajectory in trajectories
        ]
    )
    gaussian_flow_values = select_finite_values(
        [usable_videos[0].compute_path_metric(trajectory, metric) for trajectory in gaussian_null.trajectories]
        if gaussian_null is not None
        else []
    )
    return GroupSummary(
        group.count_values(metric),
        group.compute_mean(metric),
        group.compute_standard_deviation(metric),
        float(random_walk_values.mean()) if len(random_walk_values) else float("nan"),
        float(gaussian_flow_values.mean()) if len(gaussian_flow_values) else float("nan"),
        float(gaussian_flow_values.std(ddof=1)) if len(gaussian_flow_values) > 1 else float("nan"),
        usable_videos[0].get_stride(metric),
    )


@dataclass(frozen=True)
class MatchedGroups:
    """Groups restricted to the seeds and phrasings that all groups share."""

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    """Seeds that all groups share."""
    exclusion_reasons: list[tuple[str, str]]
    """Name and reason of each excluded video."""
    phrasing_numbers: NDArray[np.int64]
    """Phrasing number, from 0, for each of a seed's videos; if other settings are swept, several videos share one."""

    @classmethod
    def match_groups(cls, videos: Sequence[Video], grouping: str, namer: VideoNamer) -> "MatchedGroups":
        """Group videos, and exclude those whose seed or phrasing is not in every group.

        Args:
            namer: names of videos, for messages.

        Raises:
            CannotCompareError: there are fewer than two groups, more than MAX_GROUPS, or fewer than two shared seeds.
        """
        if not videos:
            raise CannotCompareError(NOTHING_TO_GROUP_ERROR)
        groups = group_videos(videos, grouping)
        check_group_count(groups, grouping)
        get_phrasing = _choose_phrasing_key(videos, grouping)
        get_condition = make_other_swept_values_key(videos, grouping)
        exclusion_reasons: list[tuple[str, str]] = []
        cells_by_group: list[dict[PhrasingSeed, Video]] = [
            _find_first_videos(
                group.videos,
                lambda video: ((get_phrasing(video), get_condition(video)), video.seed),
                namer,
                exclusion_reasons,
            )
            for group in groups
        ]
        shared_phrasings = set.intersection(
            *({phrasing for phrasing, _ in videos_by_cell} for videos_by_cell in cells_by_group)
        )
        missing_seeds = explain_missing_seeds(groups, cells_by_group, shared_phrasings)
        all_seeds = sorted({seed for videos_by_cell in cells_by_group for _, seed in videos_by_cell})
        seeds = [seed for seed in all_seeds if shared_phrasings and seed not in missing_seeds]
        if len(seeds) < 2:
            raise CannotCompareError(explain_too_few_seeds(groups, grouping, len(seeds), bool(shared_phrasings)))
        # In the order of the videos, so that every result on the matched videos names groups and levels in that order.
        ordered_phrasings = [
            phrasing
            for phrasing in dict.fromkeys((get_phrasing(video), get_condition(video)) for video in videos)
            if phrasing in shared_phrasings
        ]
        ordered_cells = [(phrasing, seed) for seed in seeds for phrasing in ordered_phrasings]
        matched_cells = set(ordered_cells)
        exclusion_reasons += [
            (
                namer.name_video(video),
                missing_seeds[cell[1]] if cell[0] in shared_phrasings else NOT_SHARED_REASON,
            )
            for videos_by_cell in cells_by_group
            for cell, video in videos_by_cell.items()
            if cell not in matched_cells
        ]
        matched_groups = [
            Group(group.name, tuple(videos_by_cell[cell] for cell in ordered_cells))
            for group, videos_by_cell in zip(groups, cells_by_group, strict=True)
        ]
        phrasings = [phrasing for phrasing, _ in ordered_phrasings]
        number_by_phrasing = {phrasing: number for number, phrasing in enumerate(dict.fromkeys(phrasings))}
        numbers = np.array([number_by_phrasing[phrasing] for phrasing in phrasings])
        return cls(tuple(matched_groups), tuple(seeds), exclusion_reasons, numbers)

    @property
    def cell_indices(self) -> NDArray[np.int64]:
        """Return [seeds, groups, phrasings] indices of the videos in the concatenation of all groups."""
        indices = np.arange(sum(len(group.videos) for group in self.groups))
        return indices.reshape(len(self.groups), len(self.seeds), -1).transpose(1, 0, 2)

    @property
    def phrasing_count(self) -> int:
        """Return the number of phrasings that all groups share."""
        return len(set(self.phrasing_numbers.tolist()))

    def average_over_remaining_settings(self, values: FloatArray) -> FloatArray:
        """Average values [seeds, videos of a seed, ...] over other swept settings: [seeds, phrasings, ...]."""
        return np.stack(
            [values[:, self.phrasing_numbers == number].mean(1) for number in range(self.phrasing_count)], axis=1
        )

    def arrange_values_by_cell(self, values: Sequence[float]) -> FloatArray:
        """Reshape values in the order of a group's videos to [seeds, phrasings]."""
        return np.asarray(values, dtype=np.float64).reshape(len(self.seeds), -1)


def _choose_phrasing_key(videos: Sequence[Video], grouping: str) -> Callable[[Video], str]:
    """Return a function that returns the phrasing of a video.

    A phrasing is a prompt with its word weights, without the brackets that form the groups.
    """
    if grouping in ("variation", "prompt"):
        return lambda video: ""
    if grouping == "batch":
        variations_by_folder: dict[Path, set[str]] = {}
        for video in videos:
            variations_by_folder.setdefault(video.folder, set()).add(video.variation)
        # Batches of different templates share prompts rather than names of variations.
        if set.intersection(*variations_by_folder.values()):
            return lambda video: video.variation
        return lambda video: video.phrasing
    parts = find_grouping_parts(videos, grouping)
    grouped_brackets = set(parts.brackets)
    if not grouped_brackets:
        return lambda video: f"{video.phrasing} [{video.word_weights}]"

    def get_phrasing(video: Video) -> str:
        texts = [video.template_skeleton]
        for bracket in sorted(video.choices_by_bracket):
            if not grouped_brackets & {bracket, *find_enclosing_brackets(video, bracket)}:
                # A bracket around those that form the groups contributes the text around them.
                option_text = video.unfilled_options.get(bracket, find_option_text(video, bracket))
                texts.append(f"{bracket}={mask_brackets(option_text, grouped_brackets)}")
        return "|".join(texts)

    return get_phrasing


def _explain_duplicate(video: Video, earlier_video: Video, namer: VideoNamer) -> str:
    if video.folder == earlier_video.folder:
        return f"the group has another video with seed {video.seed} and this phrasing"
    duplicate = (
        "the same video" if video.id == earlier_video.id else f"a video with seed {video.seed} and this phrasing"
    )
    return f"{duplicate} is used from batch {namer.name_batch(earlier_video)}"
