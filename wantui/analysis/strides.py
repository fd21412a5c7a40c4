"""Whether a number is the path's, or of the steps in which a sampler takes it and of their rounding.

The bend of a path between its states is measured again with every second and every fourth state only, from the same
inner products. Of a smooth path that changes little; where most of the bend is between neighbours, as with few steps of
a multistep sampler or in bfloat16, it falls with every doubling.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.trajectory import METRICS, Trajectory, value

STRIDES = (1, 2, 4)
MAX_RATIO = 1.6
"""Of a bend at one stride over that at the next. A smooth path of 20 steps has about 1.1; samplers of order 2 in
float32 up to 1.4; rounding alone 2 and more."""
LEAST_STEPS = 6
"""Steps from which two strides can be told apart: of fewer, the ends that a stride leaves out weigh too much."""
NO_TURNING = 1e-3
"""Radians in all below which a path is straight, and its bend is rounding of the inner products."""
BENDS = ("turning", "curvature", "acceleration")
CHECKED = (*BENDS, "commitment")
"""Metrics that depend on the steps. Commitment is checked by its distance from 1, which follows the first steps where
it is not resolved."""


def at_stride(found: Trajectory, stride: int) -> Trajectory:
    """Return the path through every `stride`-th state, counted from its end, and the initial noise.

    The first step takes up what is left, so that none is shorter than the stride: it is the straightest part.
    """
    last = len(found.sigmas) - 1
    kept = [0, *range(last - stride * max(0, last // stride - 1), last + 1, stride)]
    return Trajectory(found.sigmas[kept], found.gram[np.ix_(kept, kept)])


@dataclass(frozen=True)
class Strides:
    """One metric at the strides of STRIDES, mean over some videos."""

    metric: str
    values: tuple[float, ...]
    """NaN where there are too few states."""
    settled: int | None
    """First stride from which on the value changes by less than MAX_RATIO; None where it never does."""
    is_checked: bool = True
    """False where there are too few steps to say anything."""

    @property
    def is_settled(self) -> bool:
        return self.settled == STRIDES[0]

    @property
    def in_words(self) -> str:
        shown = ", ".join(f"{v:.3g}" for v in self.values if np.isfinite(v))
        if not self.is_checked:
            return f"{self.metric} {shown}: too few steps to tell whether it is the path's or of its steps"
        strides = "at every, every second and every fourth state"
        if self.is_settled:
            return f"{self.metric} {strides}: {shown}: it is the path's"
        if self.metric == "commitment":
            return f"{self.metric} {strides}: {shown}: it lies within the first steps, which are too coarse for it"
        best = f"; --stride {self.settled} is closer to the path's" if self.settled is not None else ""
        return f"{self.metric} {strides}: {shown}: mostly the sampler's steps or their rounding, not the path's{best}"


def strides(paths: Sequence[Trajectory], metric: str) -> Strides:
    """Return a metric of CHECKED at each stride."""
    steps = min(len(path.sigmas) for path in paths) - 1
    values = tuple(_mean(paths, metric, stride) if steps >= 2 * stride else float("nan") for stride in STRIDES)
    if steps < LEAST_STEPS:
        return Strides(metric, values, None, is_checked=False)
    if metric in BENDS and _mean(paths, "turning", 1) < NO_TURNING:
        return Strides(metric, values, 1)
    ratios = [_ratio(metric, one, other) for one, other in itertools.pairwise(values)]
    # What cannot be compared with a coarser stride is not settled by that.
    settled = next((STRIDES[i] for i in range(len(ratios)) if ratios[i] <= MAX_RATIO), None)
    return Strides(metric, values, settled)


def _ratio(metric: str, one: float, other: float) -> float:
    """Return how far a value and that at the next stride are from each other, as a factor; NaN where one is missing."""
    if metric not in BENDS:
        one, other = (
            1 - other,
            1 - one,
        )  # commitment: its distance from 1 grows with the stride where it is not resolved
    if one == other:
        return 1.0
    return abs(one / other) if other != 0 else math.inf


def _mean(paths: Sequence[Trajectory], metric: str, stride: int) -> float:
    each = [value(path if stride == 1 else at_stride(path, stride), metric) for path in paths]
    return float(np.mean(each))


def unsettled(paths: Sequence[Trajectory], metrics: Sequence[str]) -> list[Strides]:
    """Return those of some metrics that are not shown to be the path's."""
    checked = [strides(paths, metric) for metric in metrics if metric in CHECKED and metric in METRICS]
    return [found for found in checked if not found.is_settled]
