"""Groups of videos: forming and naming them, summarising them, and matching their seeds and phrasings."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.comparability import (
    VideoNamer,
    choose_batch_names,
    find_differing_settings,
    select_comparable_videos,
)
from wantui.analysis.null_models import GaussianNull, compute_random_walk_null
from wantui.analysis.trajectory import Floats, compute_metric, select_finite_values
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.formatting import format_count

MAX_GROUPS = 50
"""Maximum number of groups in a comparison, which have 1,225 pairs; time grows faster than the number of pairs."""
_BRACKET_NUMBER = re.compile(r"\d{1,6}", re.ASCII)
NOTHING_TO_GROUP = "cannot group videos: there is no finished video with a stored trajectory"
"""Error message if there are no videos to group."""


class CannotCompareError(UserError):
    """Raised for groups that cannot be compared; the message gives the reason."""


@dataclass(frozen=True)
class Group:
    """Videos that share an option, variation, prompt or batch."""

    name: str
    videos: tuple[Video, ...]

    def compute_mean(self, metric: str) -> float:
        """Return the mean over the videos that have the metric; NaN if none has it."""
        values = self._finite_values(metric)
        return float(values.mean()) if len(values) else float("nan")

    def compute_deviation(self, metric: str) -> float:
        """Return the standard deviation of a metric, with n - 1."""
        values = self._finite_values(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def count_values(self, metric: str) -> int:
        """Return the number of videos that have the metric."""
        return len(self._finite_values(metric))

    def _finite_values(self, metric: str) -> Floats:
        return select_finite_values([video.compute_metric(metric) for video in self.videos])

    @property
    def stride(self) -> int:
        """Return the stride of the trajectories, in stored states."""
        return self.videos[0].stride

    @property
    def phrasings(self) -> int:
        """Return the number of different prompts."""
        return len({video.prompt for video in self.videos})


@dataclass(frozen=True)
class GroupSummary:
    """Summary of one metric of one group."""

    n: int
    """Number of videos with a value of the metric."""
    mean: float
    deviation: float
    """Standard deviation, with n - 1."""
    random_walk: float
    """Mean of the metric on random walks with the same step lengths."""
    gaussian_flow: float
    """Mean of the metric on the Gaussian flow to the group's final states; NaN if there is no flow."""
    gaussian_flow_deviation: float = float("nan")
    """Standard deviation of the metric over paths of the Gaussian flow."""


def group_videos(videos: Sequence[Video], by: str = "variation") -> list[Group]:
    """Return groups of videos, in the order of their first video.

    Args:
        by: "variation", "prompt", "batch", or bracket numbers from 1, such as "1" or "1,3".

    Raises:
        CannotCompareError: the template has no such bracket.
    """
    members: dict[str, list[Video]] = {}
    for name, video in zip(_name_groups(videos, by), videos, strict=True):
        members.setdefault(name, []).append(video)
    return [Group(name, tuple(group)) for name, group in members.items()]


def pool_groups(videos: Sequence[Video], by: str) -> tuple[list[Group], list[tuple[str, str]]]:
    """Return groups of comparable videos, and the names of excluded videos with reasons.

    Each video counts once, even if several batches contain it.
    """
    usable, excluded_videos = select_comparable_videos(videos, by)
    names = VideoNamer(videos)
    reasons = [(names(video), video.reason) for video in excluded_videos]
    if not usable:
        return [], reasons
    groups = []
    for group in group_videos(usable, by):
        unique: dict[tuple[object, ...], Video] = {}
        for video in group.videos:
            first = unique.setdefault((video.variation, video.prompt, video.weights, video.seed), video)
            if first is not video:
                reasons.append((names(video), _explain_duplicate(video, first, names)))
        groups.append(Group(group.name, tuple(unique.values())))
    return groups, reasons


def find_groupings(videos: Sequence[Video]) -> list[str]:
    """Return the values of `by` that divide these videos into several groups."""
    ways = ["variation", *(str(bracket + 1) for bracket in range(len(_find_varied_brackets(videos)))), "batch"]
    usable = [way for way in ways if len(group_videos(videos, way)) > 1]
    # Grouping by the only bracket equals grouping by variation.
    return [way for way in usable if not (way == "1" and len(_find_varied_brackets(videos)) == 1)]


def _find_varied_brackets(videos: Sequence[Video]) -> list[int]:
    return sorted({bracket for video in videos for bracket in video.choices})


def _name_groups(videos: Sequence[Video], by: str) -> list[str]:
    """Return the name of each video's group.

    Videos of a group have equal options with equal weights. If a short name is ambiguous, as between batches with
    (circle) and with (circle:6), the longer names are used.
    """
    if by == "batch":
        folders = choose_batch_names([video.folder for video in videos])
        differing = find_differing_settings(videos)
        labels = {folder: differing.label(folder) for folder in folders}
        counts = Counter(labels.values())
        return [
            label
            if (label := labels[video.folder]) and counts[label] == 1
            else " ".join(filter(None, (folders[video.folder], label and f"({label})")))
            for video in videos
        ]
    if by in ("variation", "prompt"):
        names = [video.variation if by == "variation" else video.prompt for video in videos]
        levels = [
            names,
            [" ".join(filter(None, (name, _format_weights(video)))) for name, video in zip(names, videos, strict=True)],
            [
                f"{name} ({video.prompt}) {_format_weights(video)}".strip()
                for name, video in zip(names, videos, strict=True)
            ],
        ]
    else:
        chosen = _parse_brackets(videos, by)
        levels = [
            [", ".join(video.choices.get(b, "") or "(nothing)" for b in chosen) for video in videos],
            [", ".join(_find_option_text(video, b) or "(nothing)" for b in chosen) for video in videos],
        ]
    return _shorten_group_names(levels)


def _shorten_group_names(levels: Sequence[Sequence[str]]) -> list[str]:
    """Return the shortest unambiguous name of each video.

    Args:
        levels: names of the videos, from short to long; equal names of the last level are one group.
    """
    names: list[str] = list(levels[-1])
    for level in reversed(levels[:-1]):
        meanings: dict[str, set[str]] = {}
        for name, full in zip(level, levels[-1], strict=True):
            meanings.setdefault(name, set()).add(full)
        names = [name if len(meanings[name]) == 1 else longer for name, longer in zip(level, names, strict=True)]
    return names


def _format_weights(video: Video) -> str:
    return f"[{video.weights}]" if video.weights else ""


def _find_option_text(video: Video, bracket: int) -> str:
    """Return the chosen option of a bracket with its weights, such as "(circle:6)"."""
    return video.options.get(bracket, "") or video.choices.get(bracket, "")


def _parse_brackets(videos: Sequence[Video], by: str) -> list[int]:
    brackets = _find_varied_brackets(videos)
    words = [word.strip() for word in by.split(",")]
    numbers = [int(word) if _BRACKET_NUMBER.fullmatch(word) else 0 for word in words]
    if len(set(numbers)) < len(numbers) and all(numbers):
        raise CannotCompareError(f"cannot group by {by!r}: a bracket occurs twice. Name each bracket once")
    if not all(0 < number <= len(brackets) for number in numbers):
        available = f"brackets 1 to {len(brackets)}" if brackets else "no brackets"
        raise CannotCompareError(
            f"cannot group by {by!r}: the template has {available}. Use variation, prompt, batch, or a bracket number"
        )
    return [brackets[number - 1] for number in numbers]


def summarise_group(group: Group, metric: str, null: GaussianNull | None = None) -> GroupSummary:
    """Summarise a metric of a group, with the same metric of its null models."""
    usable = [video for video in group.videos if video.trajectory is not None]
    if not usable:
        return GroupSummary(0, *[float("nan")] * 4)
    paths = [video.trajectory for video in usable if video.trajectory is not None]
    walks = select_finite_values([compute_metric(compute_random_walk_null(path), metric) for path in paths])
    flows = select_finite_values([compute_metric(path, metric) for path in null.paths] if null is not None else [])
    return GroupSummary(
        group.count_values(metric),
        group.compute_mean(metric),
        group.compute_deviation(metric),
        float(walks.mean()) if len(walks) else float("nan"),
        float(flows.mean()) if len(flows) else float("nan"),
        float(flows.std(ddof=1)) if len(flows) > 1 else float("nan"),
    )


@dataclass(frozen=True)
class MatchedGroups:
    """Groups restricted to the seeds and phrasings that all groups share."""

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    excluded_videos: list[tuple[str, str]]

    @classmethod
    def match(cls, videos: Sequence[Video], by: str, names: VideoNamer) -> "MatchedGroups":
        """Group videos, and exclude those whose seed or phrasing is not in every group.

        Args:
            names: names of videos, for messages.

        Raises:
            CannotCompareError: there are fewer than two groups, more than MAX_GROUPS, or fewer than two shared seeds.
        """
        if not videos:
            raise CannotCompareError(NOTHING_TO_GROUP)
        groups = group_videos(videos, by)
        if len(groups) < 2:
            raise CannotCompareError(f"cannot compare groups by {by}: there is only one. Choose another --by")
        if len(groups) > MAX_GROUPS:
            raise CannotCompareError(
                f"cannot compare {len(groups):,} groups: the maximum is {MAX_GROUPS}. Group by a bracket with fewer "
                "options, or choose fewer videos or batches"
            )
        rest = _choose_phrasing_key(videos, by)
        cells: list[dict[tuple[str, int], Video]] = []
        excluded_videos: list[tuple[str, str]] = []
        for group in groups:
            by_cell: dict[tuple[str, int], Video] = {}
            for video in group.videos:
                first = by_cell.setdefault((rest(video), video.seed), video)
                if first is not video:
                    excluded_videos.append((names(video), _explain_duplicate(video, first, names)))
            cells.append(by_cell)
        shared = set.intersection(*({key for key, _ in by_cell} for by_cell in cells))
        seeds = [
            seed
            for seed in sorted({seed for by_cell in cells for _, seed in by_cell})
            if shared and all((key, seed) in by_cell for by_cell in cells for key in shared)
        ]
        if len(seeds) < 2:
            raise CannotCompareError(_explain_too_few_seeds(groups, len(seeds), bool(shared)))
        taken = {(key, seed) for key in shared for seed in seeds}
        excluded_videos += [
            (names(video), "not in every group with this seed")
            for by_cell in cells
            for cell, video in by_cell.items()
            if cell not in taken
        ]
        ordered = sorted(taken, key=lambda cell: (cell[1], cell[0]))
        kept = [
            Group(group.name, tuple(by_cell[cell] for cell in ordered))
            for group, by_cell in zip(groups, cells, strict=True)
        ]
        return cls(tuple(kept), tuple(seeds), excluded_videos)

    @property
    def cells(self) -> NDArray[np.int64]:
        """Return [seeds, groups, phrasings] indices of the videos in the concatenation of all groups."""
        indices = np.arange(sum(len(group.videos) for group in self.groups))
        return indices.reshape(len(self.groups), len(self.seeds), -1).transpose(1, 0, 2)

    def arrange_by_cell(self, values: Sequence[float]) -> Floats:
        """Reshape values in the order of a group's videos to [seeds, phrasings]."""
        return np.asarray(values, dtype=np.float64).reshape(len(self.seeds), -1)


def _choose_phrasing_key(videos: Sequence[Video], by: str) -> Callable[[Video], str]:
    """Return a function that returns the phrasing of a video: its prompt, word weights included, without the brackets
    that form the groups."""
    if by in ("variation", "prompt"):
        return lambda video: ""
    if by == "batch":
        return lambda video: video.variation
    grouped = set(_parse_brackets(videos, by))
    return lambda video: "|".join(
        [video.template, *(f"{b}={_find_option_text(video, b)}" for b in sorted(video.choices) if b not in grouped)]
    )


def _explain_duplicate(video: Video, first: Video, names: VideoNamer) -> str:
    if video.folder == first.folder:
        return f"the group has another video with seed {video.seed} and this phrasing"
    duplicate = "the same video" if video.id == first.id else f"a video with seed {video.seed} and this phrasing"
    return f"{duplicate} is used from batch {names.name_batch(first)}"


def _explain_too_few_seeds(groups: Sequence[Group], seeds: int, share_phrasings: bool) -> str:
    text = (
        f"cannot compare {len(groups)} groups: they share {format_count(seeds, 'seed')}, but a comparison needs two. "
    )
    if not share_phrasings:
        return text + "No phrasing is in every group: compare batches of one template, or group by variation"
    each = "; ".join(f"{group.name}: {_format_ranges([video.seed for video in group.videos])}" for group in groups[:4])
    return text + f"Generate every variation with the same seeds (videos_per_variation). Seeds: {each}"


def _format_ranges(seeds: Sequence[int]) -> str:
    every = sorted(set(seeds))
    ends = [i for i in range(len(every)) if i + 1 == len(every) or every[i + 1] != every[i] + 1]
    starts = [0, *(i + 1 for i in ends[:-1])]
    parts = [str(every[i]) if i == j else f"{every[i]}-{every[j]}" for i, j in zip(starts, ends, strict=True)]
    return ", ".join(parts[:3]) + (", ..." if len(parts) > 3 else "")
