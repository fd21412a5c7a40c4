"""Test whether a number is a property of the path, or of the sampler's steps and their rounding.

The bend of a path between its states is measured again at two and four times the stride, from the same inner
products. It changes little for a smooth path; where most of the bend is between neighbours, as with few steps of a
multistep sampler or in bfloat16, it falls with every doubling.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.comparable import VideoNames
from wantui.analysis.trajectory import METRICS, NoGeometryError, Trajectory, value
from wantui.analysis.video import Video

MULTIPLES = (1, 2, 4)
"""Strides at which metrics are compared, as multiples of the stride that the trajectories already have."""
MIN_STATES = 3
"""Fewest states of a path with an angle."""
MAX_RATIO = 1.6
"""Factor between a bend at one stride and at the next. A smooth path of 20 steps has about 1.1; samplers of order 2 in
float32 up to 1.4; rounding alone 2 and more."""
MIN_STRIDED_STEPS = 3
"""Steps at a stride from which its value is compared: with fewer, the ends that a stride leaves out weigh too much."""
MIN_STEPS = 2 * MIN_STRIDED_STEPS
"""Fewest steps that allow two different strides."""
NO_TURNING = 1e-3
"""Radians in all below which a path is straight, and its bend is rounding of the inner products."""
BENDS = ("turning", "curvature", "acceleration")
CHECKED = (*BENDS, "commitment")
"""Metrics that depend on the steps. Commitment is checked by its distance from 1, which follows the first steps where
it is not resolved."""


def strided_path(path: Trajectory, stride: int) -> Trajectory:
    """Return the path through every `stride`-th state, counted from its end, and the initial noise.

    The first step takes up what is left, so that none is shorter than the stride: it is the straightest part.

    Raises:
        NoGeometryError: fewer than MIN_STATES are left.
    """
    if stride == 1:
        return path
    last = len(path.sigmas) - 1
    kept = [0, *range(last - stride * max(0, last // stride - 1), last + 1, stride)]
    if len(kept) < MIN_STATES:
        raise NoGeometryError(f"stride {stride} leaves {len(kept)} of {last + 1} states, and an angle needs three")
    return Trajectory(path.sigmas[kept], path.gram[np.ix_(kept, kept)])


def strided_videos(videos: Sequence[Video], stride: int) -> list[Video]:
    """Return the videos with every `stride`-th state of their trajectories only.

    Raises:
        NoGeometryError: the stride leaves too few states of every trajectory.
    """
    strided = [_strided_video(video, stride) for video in videos]
    too_short = [new for old, new in zip(videos, strided, strict=True) if old.trajectory and not new.trajectory]
    if too_short and not any(video.trajectory for video in strided):
        example = f"{VideoNames(videos)(too_short[0])}: {too_short[0].reason}"
        raise NoGeometryError(f"cannot measure at stride {stride}: {example}. Choose a smaller stride")
    return strided


def _strided_video(video: Video, stride: int) -> Video:
    if video.trajectory is None:
        return replace(video, stride=stride * video.stride)
    try:
        path = strided_path(video.trajectory, stride)
    except NoGeometryError as error:
        return replace(video, stride=stride * video.stride, trajectory=None, reason=str(error))
    return replace(video, stride=stride * video.stride, trajectory=path)


@dataclass(frozen=True)
class Strides:
    """One metric at several strides, mean over some videos."""

    metric: str
    strides: tuple[int, ...]
    """Strides in stored states, the smallest first."""
    values: tuple[float, ...]
    """Value at each stride; NaN where there are too few states."""
    settled: int | None
    """First stride from which on no doubling changes the value by more than a factor of MAX_RATIO, up or down; None
    where there is none."""
    is_checked: bool = True
    """False if there are too few steps for a judgement."""

    @property
    def is_settled(self) -> bool:
        return self.settled == self.strides[0]

    @property
    def in_words(self) -> str:
        pairs = zip(self.values, self.strides, strict=True)
        values = ", ".join(f"{value:.3g} at stride {stride}" for value, stride in pairs if np.isfinite(value))
        if not self.is_checked:
            return f"{self.metric} {values}: too few steps to tell whether it is the path's or of its steps"
        if self.is_settled:
            return f"{self.metric} {values}: it is the path's"
        if self.metric == "commitment":
            return f"{self.metric} {values}: it lies within the first steps, which are too coarse for it"
        best = f"; --stride {self.settled} is closer to the path's" if self.settled is not None else ""
        return f"{self.metric} {values}: mostly the sampler's steps or their rounding, not the path's{best}"


def strides(paths: Sequence[Trajectory], metric: str, stride: int = 1) -> Strides:
    """Return a metric of CHECKED at each of MULTIPLES.

    Args:
        stride: the stride that the paths already have.
    """
    labels = tuple(stride * multiple for multiple in MULTIPLES)
    steps = min(len(path.sigmas) for path in paths) - 1
    measured = [_mean(paths, metric, multiple) for multiple in MULTIPLES if steps >= 2 * multiple]
    values = (*measured, *[math.nan] * (len(MULTIPLES) - len(measured)))
    if steps < MIN_STEPS:
        return Strides(metric, labels, values, None, is_checked=False)
    if metric in BENDS and _mean(paths, "turning", 1) < NO_TURNING:
        return Strides(metric, labels, values, stride)
    # The last value has no coarser one to be compared with, and is therefore never settled.
    compared = measured[: sum(steps >= MIN_STRIDED_STEPS * multiple for multiple in MULTIPLES)]
    steady = [_ratio(metric, fine, coarse) <= MAX_RATIO for fine, coarse in itertools.pairwise(compared)]
    settled = next((labels[i] for i in range(len(steady)) if all(steady[i:])), None)
    return Strides(metric, labels, values, settled)


def _ratio(metric: str, fine: float, coarse: float) -> float:
    """Return the factor, 1 or more, between a value and that at the next stride; NaN where one of them is NaN."""
    if metric not in BENDS:  # commitment: its distance from 1 grows with the stride where it is not resolved
        fine, coarse = 1 - fine, 1 - coarse
    if fine == coarse:
        return 1.0
    if fine == 0 or coarse == 0:
        return math.inf
    return max(abs(fine / coarse), abs(coarse / fine))


def _mean(paths: Sequence[Trajectory], metric: str, multiple: int) -> float:
    return float(np.mean([value(strided_path(path, multiple), metric) for path in paths]))


def unsettled(paths: Sequence[Trajectory], metrics: Sequence[str], stride: int = 1) -> list[Strides]:
    """Return those of some metrics that are not shown to be the path's; `stride` is what the paths already have."""
    checked = [strides(paths, metric, stride) for metric in metrics if metric in CHECKED and metric in METRICS]
    return [measured for measured in checked if not measured.is_settled]
