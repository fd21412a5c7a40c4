"""Groups of videos: by what they are formed, what is said of each, and which of their videos can be compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.nulls import gaussian_flow, random_walk
from wantui.analysis.trajectory import Floats, value
from wantui.analysis.video import Video
from wantui.errors import UserError


class CannotCompare(UserError):
    """Groups between which nothing can be said; the text says why."""


@dataclass(frozen=True)
class Group:
    """Videos of one option (or variation)."""

    name: str
    videos: tuple[Video, ...]

    def mean(self, metric: str) -> float:
        """Over the videos that have the metric; NaN where none has."""
        values = self._values(metric)
        return float(values.mean()) if len(values) else float("nan")

    def deviation(self, metric: str) -> float:
        """Standard deviation, n - 1."""
        values = self._values(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def _values(self, metric: str) -> Floats:
        values = np.array([video.value(metric) for video in self.videos])
        return values[~np.isnan(values)]

    @property
    def wordings(self) -> int:
        """Different prompts."""
        return len({video.prompt for video in self.videos})


@dataclass(frozen=True)
class Described:
    """One metric of one group: a description, no test."""

    n: int
    mean: float
    deviation: float
    """n - 1."""
    walk: float
    """Mean of the metric on random walks with the same step lengths."""
    flow: float
    """Mean of the metric on the Gaussian flow to data with the channels' variances; NaN where these are not known."""


def group_videos(videos: Sequence[Video], by: str = "variation") -> list[Group]:
    """Groups of videos, in the order in which they come.

    Args:
        by: "variation", "prompt", "batch", or brackets of the template by number from 1, as in "1" or "1,3".

    Raises:
        CannotCompare: the template has no such bracket.
    """
    key = _key(videos, by)
    found: dict[str, list[Video]] = {}
    for video in videos:
        found.setdefault(key(video), []).append(video)
    return [Group(name, tuple(own)) for name, own in found.items()]


def groupings(videos: Sequence[Video]) -> list[str]:
    """Ways to group these videos into more than one group."""
    ways = ["variation", *(str(place + 1) for place in range(len(_brackets(videos)))), "batch"]
    found = [way for way in ways if len(group_videos(videos, way)) > 1]
    # One bracket alone is what the variations are.
    return [way for way in found if not (way == "1" and len(_brackets(videos)) == 1)]


def _brackets(videos: Sequence[Video]) -> list[int]:
    return sorted({bracket for video in videos for bracket in video.choices})


def _key(videos: Sequence[Video], by: str) -> Callable[[Video], str]:
    plain: dict[str, Callable[[Video], str]] = {
        "variation": lambda video: video.variation,
        "prompt": lambda video: video.prompt,
        "batch": lambda video: video.folder.name,
    }
    if by in plain:
        return plain[by]
    brackets = _brackets(videos)
    try:
        chosen = [brackets[int(word) - 1] for word in by.split(",") if int(word) > 0]
    except (ValueError, IndexError):
        many = f"brackets 1 to {len(brackets)}" if brackets else "no brackets"
        raise CannotCompare(
            f"cannot group by {by!r}: write variation, prompt, batch, or the number of a bracket; the template has "
            f"{many}"
        ) from None
    return lambda video: ", ".join(video.choices.get(bracket, "") or "(nothing)" for bracket in chosen)


def describe(group: Group, metric: str) -> Described:
    """Mean and standard deviation of a metric, and the same of its nulls."""
    usable = [video for video in group.videos if video.trajectory is not None]
    if not usable:
        return Described(0, *[float("nan")] * 4)
    walks = [value(random_walk(video.trajectory), metric) for video in usable if video.trajectory is not None]
    flows = [
        value(gaussian_flow(video.trajectory.sigmas, video.channel_power), metric)
        for video in usable
        if video.trajectory is not None and video.channel_power is not None
    ]
    return Described(
        len(usable),
        group.mean(metric),
        group.deviation(metric),
        float(np.mean(walks)),
        float(np.mean(flows)) if flows else float("nan"),
    )


@dataclass(frozen=True)
class Matched:
    """Groups with the same seeds and the same wordings (but for what they are grouped by) in each."""

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    left_out: list[tuple[str, str]]

    @classmethod
    def of(cls, videos: Sequence[Video], by: str) -> "Matched":
        groups = group_videos(videos, by)
        if len(groups) < 2:
            raise CannotCompare(f"grouped by {by} there is {len(groups)} group, and a comparison needs two")
        cells: list[dict[tuple[str, int], Video]] = []
        for group in groups:
            own: dict[tuple[str, int], Video] = {}
            for video in group.videos:
                own.setdefault((_rest(video, by, videos), video.seed), video)
            cells.append(own)
        rests = set.intersection(*({rest for rest, _ in own} for own in cells))
        seeds = [
            seed
            for seed in sorted({seed for own in cells for _, seed in own})
            if rests and all((rest, seed) in own for own in cells for rest in rests)
        ]
        if len(seeds) < 2:
            raise CannotCompare(
                f"the {len(groups)} groups have {len(seeds)} seeds in common, and a comparison needs two at least: "
                "make every variation with the same seeds (videos_per_variation)"
            )
        taken = {(rest, seed) for rest in rests for seed in seeds}
        left = [
            (video.name, "not in every group with this seed")
            for group, own in zip(groups, cells, strict=True)
            for video in group.videos
            if own.get((_rest(video, by, videos), video.seed)) is not video
            or (_rest(video, by, videos), video.seed) not in taken
        ]
        ordered = sorted(taken, key=lambda cell: (cell[1], cell[0]))
        kept = [
            Group(group.name, tuple(own[cell] for cell in ordered)) for group, own in zip(groups, cells, strict=True)
        ]
        return cls(tuple(kept), tuple(seeds), left)

    @property
    def cells(self) -> NDArray[np.int64]:
        """[seeds, groups, wordings] place of each video, groups one after the other."""
        places = np.arange(sum(len(group.videos) for group in self.groups))
        return places.reshape(len(self.groups), len(self.seeds), -1).transpose(1, 0, 2)

    def by_seed(self, values: Sequence[float]) -> Floats:
        """[seeds], mean over the wordings of each, from values in the order of a group's videos."""
        return np.asarray(values, dtype=np.float64).reshape(len(self.seeds), -1).mean(1)


def _rest(video: Video, by: str, videos: Sequence[Video]) -> str:
    """What of the wording is not what is grouped by."""
    if by in ("variation", "prompt"):
        return ""
    if by == "batch":
        return video.variation
    grouped = {_brackets(videos)[int(word) - 1] for word in by.split(",")}
    return "|".join(f"{b}={text}" for b, text in sorted(video.choices.items()) if b not in grouped)
