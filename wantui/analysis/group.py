"""A group of videos, and the summary of a metric over it."""

from dataclasses import dataclass

from wantui.analysis.arrays import FloatArray
from wantui.analysis.metrics import select_finite_values
from wantui.analysis.video import Video

PhrasingSeed = tuple[tuple[str, str], int]
"""Phrasing with its condition, and seed: the key by which videos of groups are matched."""


@dataclass(frozen=True)
class Group:
    """Videos that share an option, variation, prompt or batch."""

    name: str
    videos: tuple[Video, ...]

    def compute_mean(self, metric: str) -> float:
        """Return the mean over the videos that have the metric; NaN if no video has it."""
        values = self._compute_finite_values(metric)
        return float(values.mean()) if len(values) else float("nan")

    def compute_standard_deviation(self, metric: str) -> float:
        """Return the standard deviation of a metric, with n - 1 as the divisor."""
        values = self._compute_finite_values(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def count_values(self, metric: str) -> int:
        """Return the number of videos that have the metric."""
        return len(self._compute_finite_values(metric))

    def _compute_finite_values(self, metric: str) -> FloatArray:
        return select_finite_values([video.compute_metric(metric) for video in self.videos])

    def label_metric(self, metric: str) -> str:
        """Return the name of a metric with a mark if it is measured at a larger stride, or has not settled."""
        return self.videos[0].label_metric(metric)

    @property
    def stride(self) -> int:
        """Return the stride of the trajectories, in stored states."""
        return self.videos[0].stride

    @property
    def phrasing_count(self) -> int:
        """Return the number of different phrasings."""
        return len({video.phrasing for video in self.videos})


@dataclass(frozen=True)
class GroupSummary:
    """Summary of one metric for one group."""

    video_count: int
    """Number of videos with a value of the metric."""
    mean: float
    standard_deviation: float
    """Standard deviation, with n - 1."""
    random_walk_mean: float
    """Mean of the metric on random walks with the same step lengths."""
    gaussian_flow_mean: float
    """Mean of the metric on the Gaussian flow to the group's final states; NaN if there is no flow."""
    gaussian_flow_standard_deviation: float = float("nan")
    """Standard deviation of the metric over paths of the Gaussian flow."""
    stride: int = 1
    """Stride at which the metric is measured, in stored states."""
