"""Groups of videos: how they are formed, their summaries, and which of their videos can be compared."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.comparable import VideoNames, batch_names, comparable, studied
from wantui.analysis.nulls import GaussianNull, random_walk
from wantui.analysis.trajectory import Floats, value
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.formatting import format_count

MAX_GROUPS = 50
"""Most groups of a comparison. They make 1,225 pairs; time grows with the square of their number, and more."""
_BRACKET = re.compile(r"\d{1,6}", re.ASCII)
NOTHING_TO_GROUP = "cannot group videos: there is no finished video with a stored trajectory"
"""Reason for which there are no groups, whatever they are formed by."""


class CannotCompareError(UserError):
    """Raised for groups that cannot be compared; the text gives the reason."""


@dataclass(frozen=True)
class Group:
    """Videos of one option (or variation)."""

    name: str
    videos: tuple[Video, ...]

    def mean(self, metric: str) -> float:
        """Return the mean over the videos that have the metric; NaN if none has it."""
        values = self._values(metric)
        return float(values.mean()) if len(values) else float("nan")

    def deviation(self, metric: str) -> float:
        """Return the standard deviation, n - 1."""
        values = self._values(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def count(self, metric: str) -> int:
        """Return the number of videos that have the metric."""
        return len(self._values(metric))

    def _values(self, metric: str) -> Floats:
        values = np.array([video.value(metric) for video in self.videos])
        return values[np.isfinite(values)]

    @property
    def stride(self) -> int:
        """Return n where the trajectories use every n-th stored state."""
        return self.videos[0].stride

    @property
    def phrasings(self) -> int:
        """Different prompts."""
        return len({video.prompt for video in self.videos})


@dataclass(frozen=True)
class GroupSummary:
    """One metric of one group: a description, no test."""

    n: int
    """Videos that have the metric."""
    mean: float
    deviation: float
    """n - 1."""
    random_walk: float
    """Mean of the metric on random walks with the same step lengths."""
    gaussian_flow: float
    """Mean of the metric on Gaussian flows to the group's final states; NaN where there are none."""
    gaussian_flow_deviation: float = float("nan")
    """Standard deviation of the metric over paths of that flow."""


def group_videos(videos: Sequence[Video], by: str = "variation") -> list[Group]:
    """Return groups of videos, in the order of their first video.

    Args:
        by: "variation", "prompt", "batch", or brackets of the template by number from 1, as in "1" or "1,3".

    Raises:
        CannotCompareError: the template has no such bracket.
    """
    members: dict[str, list[Video]] = {}
    for name, video in zip(_names(videos, by), videos, strict=True):
        members.setdefault(name, []).append(video)
    return [Group(name, tuple(group)) for name, group in members.items()]


def pooled_groups(videos: Sequence[Video], by: str) -> tuple[list[Group], list[tuple[str, str]]]:
    """Return groups with meaningful means, and the names of the excluded videos with reasons.

    Means are taken over videos of the same settings, as `comparable` chooses them, and each video counts once: batches
    may have some in common.
    """
    usable, left = comparable(videos, by)
    names = VideoNames(videos)
    reasons = [(names(video), video.reason) for video in left]
    if not usable:
        return [], reasons
    groups = []
    for group in group_videos(usable, by):
        unique: dict[tuple[object, ...], Video] = {}
        for video in group.videos:
            first = unique.setdefault((video.variation, video.prompt, video.weights, video.seed), video)
            if first is not video:
                reasons.append((names(video), _why_twice(video, first, names)))
        groups.append(Group(group.name, tuple(unique.values())))
    return groups, reasons


def groupings(videos: Sequence[Video]) -> list[str]:
    """Return ways to group these videos into more than one group."""
    ways = ["variation", *(str(bracket + 1) for bracket in range(len(_brackets(videos)))), "batch"]
    usable = [way for way in ways if len(group_videos(videos, way)) > 1]
    # One bracket alone is what the variations are.
    return [way for way in usable if not (way == "1" and len(_brackets(videos)) == 1)]


def _brackets(videos: Sequence[Video]) -> list[int]:
    return sorted({bracket for video in videos for bracket in video.choices})


def _names(videos: Sequence[Video], by: str) -> list[str]:
    """Return the name of each video's group.

    Videos of one group have the same options with the same weights: where a short name would stand for several, as of
    batches with (circle) and with (circle:6), the longer ones are taken.
    """
    if by == "batch":
        folders = batch_names([video.folder for video in videos])
        differing = studied(videos)
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
            [" ".join(filter(None, (name, _weights(video)))) for name, video in zip(names, videos, strict=True)],
            [f"{name} ({video.prompt}) {_weights(video)}".strip() for name, video in zip(names, videos, strict=True)],
        ]
    else:
        chosen = _chosen(videos, by)
        levels = [
            [", ".join(video.choices.get(b, "") or "(nothing)" for b in chosen) for video in videos],
            [", ".join(_option(video, b) or "(nothing)" for b in chosen) for video in videos],
        ]
    return _shortest(levels)


def _shortest(levels: Sequence[Sequence[str]]) -> list[str]:
    """Return the shortest unambiguous name of each video; the last level is unique."""
    names: list[str] = list(levels[-1])
    for level in reversed(levels[:-1]):
        meanings: dict[str, set[str]] = {}
        for name, full in zip(level, levels[-1], strict=True):
            meanings.setdefault(name, set()).add(full)
        names = [name if len(meanings[name]) == 1 else longer for name, longer in zip(level, names, strict=True)]
    return names


def _weights(video: Video) -> str:
    return f"[{video.weights}]" if video.weights else ""


def _option(video: Video, bracket: int) -> str:
    """Return the option of a bracket with its weights, as "(circle:6)"."""
    return video.options.get(bracket, "") or video.choices.get(bracket, "")


def _chosen(videos: Sequence[Video], by: str) -> list[int]:
    brackets = _brackets(videos)
    words = [word.strip() for word in by.split(",")]
    numbers = [int(word) if _BRACKET.fullmatch(word) else 0 for word in words]
    if len(set(numbers)) < len(numbers) and all(numbers):
        raise CannotCompareError(f"cannot group by {by!r}: it names a bracket twice. Name each bracket once")
    if not all(0 < number <= len(brackets) for number in numbers):
        many = f"brackets 1 to {len(brackets)}" if brackets else "no brackets"
        raise CannotCompareError(
            f"cannot group by {by!r}: write variation, prompt, batch, or the number of a bracket; the template has "
            f"{many}"
        )
    return [brackets[number - 1] for number in numbers]


def describe(group: Group, metric: str, null: GaussianNull | None = None) -> GroupSummary:
    """Return mean and standard deviation of a metric, and those of its nulls."""
    usable = [video for video in group.videos if video.trajectory is not None]
    if not usable:
        return GroupSummary(0, *[float("nan")] * 4)
    walks = [value(random_walk(video.trajectory), metric) for video in usable if video.trajectory is not None]
    flows = np.array([value(path, metric) for path in null.paths] if null is not None else [])
    flows = flows[np.isfinite(flows)]
    return GroupSummary(
        group.count(metric),
        group.mean(metric),
        group.deviation(metric),
        float(np.mean(walks)),
        float(flows.mean()) if len(flows) else float("nan"),
        float(flows.std(ddof=1)) if len(flows) > 1 else float("nan"),
    )


@dataclass(frozen=True)
class Matched:
    """Groups restricted to the seeds and phrasings that all of them have (apart from what they are grouped by)."""

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    left_out: list[tuple[str, str]]

    @classmethod
    def of(cls, videos: Sequence[Video], by: str, names: VideoNames) -> "Matched":
        """Match the groups of videos; `names` gives the names of excluded videos.

        Raises:
            CannotCompareError: fewer than two groups or more than MAX_GROUPS, or fewer than two seeds in all of them.
        """
        if not videos:
            raise CannotCompareError(NOTHING_TO_GROUP)
        groups = group_videos(videos, by)
        if len(groups) < 2:
            raise CannotCompareError(f"grouped by {by} there is {len(groups)} group, and a comparison needs two")
        if len(groups) > MAX_GROUPS:
            raise CannotCompareError(
                f"cannot compare {len(groups):,} groups: at most {MAX_GROUPS} are compared pairwise. Group by a "
                "bracket with fewer options, or name fewer videos or batches"
            )
        rest = _rests(videos, by)
        cells: list[dict[tuple[str, int], Video]] = []
        left: list[tuple[str, str]] = []
        for group in groups:
            by_cell: dict[tuple[str, int], Video] = {}
            for video in group.videos:
                first = by_cell.setdefault((rest(video), video.seed), video)
                if first is not video:
                    left.append((names(video), _why_twice(video, first, names)))
            cells.append(by_cell)
        shared = set.intersection(*({key for key, _ in by_cell} for by_cell in cells))
        seeds = [
            seed
            for seed in sorted({seed for by_cell in cells for _, seed in by_cell})
            if shared and all((key, seed) in by_cell for by_cell in cells for key in shared)
        ]
        if len(seeds) < 2:
            raise CannotCompareError(_too_few(groups, len(seeds), bool(shared)))
        taken = {(key, seed) for key in shared for seed in seeds}
        left += [
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
        return cls(tuple(kept), tuple(seeds), left)

    @property
    def cells(self) -> NDArray[np.int64]:
        """Return [seeds, groups, phrasings] index of each video, counting through one group after the other."""
        places = np.arange(sum(len(group.videos) for group in self.groups))
        return places.reshape(len(self.groups), len(self.seeds), -1).transpose(1, 0, 2)

    def by_cell(self, values: Sequence[float]) -> Floats:
        """Return [seeds, phrasings] of values in the order of a group's videos."""
        return np.asarray(values, dtype=np.float64).reshape(len(self.seeds), -1)


def _rests(videos: Sequence[Video], by: str) -> Callable[[Video], str]:
    """Return the key of a phrasing: everything except the grouping, with word weights."""
    if by in ("variation", "prompt"):
        return lambda video: ""
    if by == "batch":
        return lambda video: video.variation
    grouped = set(_chosen(videos, by))
    return lambda video: "|".join(
        [video.template, *(f"{b}={_option(video, b)}" for b in sorted(video.choices) if b not in grouped)]
    )


def _why_twice(video: Video, first: Video, names: VideoNames) -> str:
    if video.folder == first.folder:
        return f"the group has another video of seed {video.seed} and this phrasing"
    same = "the same video is" if video.id == first.id else f"a video of seed {video.seed} and this phrasing is"
    return f"{same} in batch {names.batch(first)} too, and that one is taken"


def _too_few(groups: Sequence[Group], seeds: int, share_phrasings: bool) -> str:
    text = (
        f"the {len(groups)} groups have {format_count(seeds, 'seed')} in common, and a comparison needs two at least: "
    )
    if not share_phrasings:
        return text + "no phrasing is in every group; compare batches of one template, or group by variation"
    each = "; ".join(f"{group.name}: {_ranges([video.seed for video in group.videos])}" for group in groups[:4])
    return text + f"make every variation with the same seeds (videos_per_variation). Seeds: {each}"


def _ranges(seeds: Sequence[int]) -> str:
    every = sorted(set(seeds))
    ends = [i for i in range(len(every)) if i + 1 == len(every) or every[i + 1] != every[i] + 1]
    starts = [0, *(i + 1 for i in ends[:-1])]
    parts = [str(every[i]) if i == j else f"{every[i]}-{every[j]}" for i, j in zip(starts, ends, strict=True)]
    return ", ".join(parts[:3]) + (", ..." if len(parts) > 3 else "")
