"""Check whether a metric is a property of the path, or of the sampler's steps and rounding.

Metrics that sum bends between states are measured again at two and four times the stride, from the same inner products.
For a smooth path they change little. If most of the bend is between neighbouring states, as with few steps of a
multistep sampler or in bfloat16, they fall with every doubling of the stride.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wantui.analysis.comparability import VideoNamer
from wantui.analysis.metrics import select_finite_values
from wantui.analysis.strided_states import compute_metric_at_stride, select_strided_states
from wantui.analysis.trajectory import NoGeometryError, Trajectory
from wantui.analysis.video import Video

STRIDE_MULTIPLES = (1, 2, 4)
"""Strides at which metrics are compared, as multiples of the trajectories' own stride."""
MAX_SETTLED_RATIO = 1.6
"""Maximum factor between a settled metric at one stride and at the next. A smooth path of 20 steps has about 1.1;
samplers of order 2 in float32 up to 1.4; rounding alone 2 or more."""
MAX_SETTLED_COMMITMENT_RATIO = 1.25
"""The same factor for the distance of commitment from 1. For nano (unipc and euler, guidance 1 and 4, 6 to 80 steps),
this distance is within 13 % of its value with 80 steps wherever it counts as settled."""
MIN_STRIDED_STEPS = 3
"""Minimum number of steps at a stride for its value to be compared; with fewer, the ends of the path weigh too much."""
MIN_CHECKED_STEPS = 2 * MIN_STRIDED_STEPS
"""Minimum number of steps that allow two different strides."""
MIN_CHECKED_COMMITMENT_STEPS = 4 * MIN_STRIDED_STEPS
"""Minimum number of steps for checking commitment: one doubling changes it too little, even where it is far off."""
MIN_TURNING = 1e-3
"""Total turning, in radians, below which a path counts as straight, because its bend is rounding of inner products."""
BEND_METRICS = ("turning", "curvature", "acceleration")
STRIDE_METRICS = (*BEND_METRICS, "commitment")
"""Metrics that depend on the steps. Commitment is compared by its distance from 1, which grows with the stride if the
first steps do not resolve it."""


def apply_stride_to_videos(videos: Sequence[Video], stride: int) -> list[Video]:
    """Reduce the trajectories of videos to every `stride`-th state; mark trajectories that are too short."""
    return [_apply_stride_to_video(video, stride) for video in videos]


def _apply_stride_to_video(video: Video, stride: int) -> Video:
    strided_video = replace(video, stride=stride * video.stride, settled_strides={})
    if video.trajectory is None:
        return strided_video
    try:
        return replace(strided_video, trajectory=select_strided_states(video.trajectory, stride))
    except NoGeometryError as error:
        return replace(strided_video, trajectory=None, exclusion_reason=str(error), is_too_short=True)


def reject_too_large_stride(videos: Sequence[Video], stride: int) -> None:
    """Raise NoGeometryError if the stride leaves too few states in every trajectory."""
    too_short_videos = [video for video in videos if video.is_too_short]
    if too_short_videos and not any(video.trajectory for video in videos):
        example = f"{VideoNamer(videos).name_video(too_short_videos[0])}: {too_short_videos[0].exclusion_reason}"
        raise NoGeometryError(f"cannot measure at stride {stride}: {example}. Choose a smaller stride")


@dataclass(frozen=True)
class StrideCheck:
    """Mean of one metric over some videos, at several strides."""

    metric: str
    strides: tuple[int, ...]
    """Strides in stored states, in ascending order."""
    means: tuple[float, ...]
    """Mean at each stride; NaN if there are too few states."""
    settled_stride: int | None
    """Smallest stride at which doubling, once or repeatedly, never changes the value by more than a factor of
    MAX_SETTLED_RATIO (commitment: MAX_SETTLED_COMMITMENT_RATIO); None if there is none."""
    is_checked: bool = True
    """False if there are too few steps to tell."""
    shown_stride: int | None = None
    """Stride of the values in tables; None for the smallest of `strides`."""

    @property
    def is_settled(self) -> bool:
        return self.settled_stride == self.strides[0]

    @property
    def is_shown_value_settled(self) -> bool:
        """Return whether the metric has settled at the stride whose value tables show."""
        return self.settled_stride is not None and self.settled_stride <= (self.shown_stride or self.strides[0])

    @property
    def description(self) -> str:
        """Return the mean at each stride, and what it reflects."""
        means_by_stride = zip(self.means, self.strides, strict=True)
        means_text = ", ".join(
            f"{value:.3g} at stride {stride}" for value, stride in means_by_stride if np.isfinite(value)
        )
        return f"{self.metric} {means_text}: {self.describe_result()}"

    def describe_result(self, subject: str = "it") -> str:
        """Return whether the metric reflects the path.

        Args:
            subject: what stands for the metric in the sentence.
        """
        if not self.is_checked:
            return f"too few steps to tell whether {subject} reflects the path or the steps"
        if self.is_settled:
            return f"{subject} reflects the path"
        if self.metric == "commitment":
            return f"the steps are too long to resolve {subject}"
        cause = f"{subject} mostly reflects the sampler's steps or rounding"
        if self.is_shown_value_settled:
            return (
                f"at stride {self.strides[0]} {cause}; measured at stride {self.shown_stride}, the smallest at which "
                f"{subject} reflects the path"
            )
        advice = f"; --stride {self.settled_stride} reflects the path better" if self.settled_stride is not None else ""
        return f"{cause}, not the path{advice}"


def describe_stride_checks(checks: Sequence[StrideCheck]) -> list[str]:
    """Return the description of one check, or one sentence that names the metrics of several checks by their result."""
    if len(checks) < 2:
        return [check.description for check in checks]
    checks_by_result: dict[str, list[StrideCheck]] = {}
    for check in checks:
        checks_by_result.setdefault(check.describe_result(), []).append(check)
    parts = [
        f"{', '.join(check.metric for check in items)}: {items[0].describe_result('each' if len(items) > 1 else 'it')}"
        for items in checks_by_result.values()
    ]
    return ["; ".join(parts)]


def measure_strides(trajectories: Sequence[Trajectory], metric: str, stride: int = 1) -> StrideCheck:
    """Measure one of STRIDE_METRICS at each of STRIDE_MULTIPLES.

    Args:
        stride: stride of the paths, in stored states.
    """
    strides = tuple(stride * multiple for multiple in STRIDE_MULTIPLES)
    step_count = min(len(path.sigmas) for path in trajectories) - 1
    computed_means = [
        _compute_mean_at_stride(trajectories, metric, multiple)
        for multiple in STRIDE_MULTIPLES
        if step_count >= 2 * multiple
    ]
    padded_means = (*computed_means, *[math.nan] * (len(STRIDE_MULTIPLES) - len(computed_means)))
    if step_count < (MIN_CHECKED_STEPS if metric in BEND_METRICS else MIN_CHECKED_COMMITMENT_STEPS):
        return StrideCheck(metric, strides, padded_means, None, is_checked=False)
    if metric in BEND_METRICS and _compute_mean_at_stride(trajectories, "turning", 1) < MIN_TURNING:
        return StrideCheck(metric, strides, padded_means, stride)
    # The value at the largest stride has no larger stride to compare with, so stride never counts as settled.
    compared_means = computed_means[: sum(step_count >= MIN_STRIDED_STEPS * multiple for multiple in STRIDE_MULTIPLES)]
    max_ratio = MAX_SETTLED_RATIO if metric in BEND_METRICS else MAX_SETTLED_COMMITMENT_RATIO
    is_steady = [
        _compute_change_factor(metric, fine, coarse) <= max_ratio for fine, coarse in itertools.pairwise(compared_means)
    ]
    settled_stride = next((strides[i] for i in range(len(is_steady)) if all(is_steady[i:])), None)
    if metric not in BEND_METRICS and settled_stride != stride:  # a larger stride resolves it even less
        settled_stride = None
    return StrideCheck(metric, strides, padded_means, settled_stride)


def _compute_change_factor(metric: str, fine: float, coarse: float) -> float:
    """Return the factor, 1 or more, between the values at a stride and at the next; NaN if either is NaN."""
    if metric not in BEND_METRICS:  # commitment: see STRIDE_METRICS
        fine, coarse = 1 - fine, 1 - coarse
    if fine == coarse:
        return 1.0
    if fine == 0 or coarse == 0:
        return math.inf
    return max(abs(fine / coarse), abs(coarse / fine))


def _compute_mean_at_stride(trajectories: Sequence[Trajectory], metric: str, multiple: int) -> float:
    """Return the mean over the paths that have the metric; NaN if no path has it."""
    finite_values = select_finite_values(
        [compute_metric_at_stride(trajectory, metric, multiple) for trajectory in trajectories]
    )
    return float(finite_values.mean()) if len(finite_values) else math.nan


def check_strides(videos: Sequence[Video]) -> list[Video]:
    """Return the videos with the stride at which each metric has settled in their batch and sweep cell.

    The videos of a cell share sampler and steps. Check them before some are selected, so that the selection does not
    change what has settled.
    """
    strides_by_cell = _find_settled_strides_by_cell(videos)
    return [
        replace(video, settled_strides=strides_by_cell.get((video.folder, video.cell_label), {})) for video in videos
    ]


def _find_settled_strides_by_cell(videos: Sequence[Video]) -> dict[tuple[Path, str], Mapping[str, int | None]]:
    """Return the settled strides of each batch and cell with trajectories; cells that were not checked are measured."""
    videos_by_cell: dict[tuple[Path, str], list[Video]] = {}
    for video in videos:
        if video.trajectory is not None:
            videos_by_cell.setdefault((video.folder, video.cell_label), []).append(video)
    return {
        cell: members[0].settled_strides
        or {
            metric: measure_strides(
                [video.trajectory for video in members if video.trajectory is not None], metric, members[0].stride
            ).settled_stride
            for metric in STRIDE_METRICS
        }
        for cell, members in videos_by_cell.items()
    }


def _find_common_strides(videos: Sequence[Video]) -> dict[str, int | None]:
    """Return the smallest stride at which each metric has settled in all batches and cells.

    A stride is None if the metric settles at no stride in some batch or cell. The result is empty if there are no
    trajectories.
    """
    strides_by_cell = _find_settled_strides_by_cell(videos).values()
    common_strides: dict[str, int | None] = {}
    for metric in STRIDE_METRICS if strides_by_cell else ():
        strides = [strides[metric] for strides in strides_by_cell]
        settled_strides = [stride for stride in strides if stride is not None]
        common_strides[metric] = max(settled_strides) if len(settled_strides) == len(strides) else None
    return common_strides


def measure_bends_at_settled_strides(videos: Sequence[Video]) -> list[Video]:
    """Return the videos with each metric of BEND_METRICS measured at the smallest stride at which it has settled.

    The largest stride of their batches and cells applies to all videos, because values at different strides cannot be
    compared. A metric that does not settle in one of them stays at the smallest stride, and is marked
    (`Video.unsettled_metrics`).
    """
    stride_by_metric = {
        metric: stride
        for metric, stride in _find_common_strides(videos).items()
        if metric in BEND_METRICS and stride is not None and stride > 1
    }
    videos = [replace(video, stride_by_metric=stride_by_metric) for video in videos]
    unsettled_metrics = tuple(find_unsettled_metrics(videos))
    return [replace(video, unsettled_metrics=unsettled_metrics) for video in videos]


def find_unsettled_metrics(videos: Sequence[Video]) -> list[str]:
    """Return the metrics of STRIDE_METRICS that have not settled at their stride in at least one batch or cell."""
    return [
        metric
        for metric, stride in _find_common_strides(videos).items()
        if stride is None or stride > videos[0].get_stride(metric)
    ]


def list_unsettled_stride_checks(videos: Sequence[Video], metrics: Sequence[str]) -> list[StrideCheck]:
    """Return the stride checks of the metrics that have not settled at the stride of the videos."""
    return [stride_check for stride_check in check_metric_strides(videos, metrics) if not stride_check.is_settled]


def check_metric_strides(videos: Sequence[Video], metrics: Sequence[str]) -> list[StrideCheck]:
    """Return the stride checks of the metrics that depend on the steps.

    The means are over the videos; `check_strides` decides in their batches and cells what has settled.
    """
    settled_strides = _find_common_strides(videos)
    trajectories = [video.trajectory for video in videos if video.trajectory is not None]
    return [
        replace(
            measure_strides(trajectories, metric, videos[0].stride),
            settled_stride=settled_strides[metric],
            shown_stride=videos[0].stride_by_metric.get(metric),
        )
        for metric in metrics
        if metric in settled_strides
    ]
