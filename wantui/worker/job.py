"""State of a video in a worker: its request, and the measurements so far."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING

from wantui.generation.make_video import MadeVideo
from wantui.generation.placement import device_of
from wantui.planning import Recipe
from wantui.planning.memory_plan import ChosenPlan
from wantui.queue.records import Claim
from wantui.storage.manifest_store import ManifestStore
from wantui.storage.video_files import VideoFiles
from wantui.worker.finalize import PendingFinalization

if TYPE_CHECKING:
    from diffusers import WanPipeline


@dataclass(frozen=True)
class Job:
    """A video to be rendered."""

    claim: Claim
    recipe: Recipe
    files: VideoFiles
    record: ManifestStore


@dataclass
class Making:
    """A video during rendering."""

    job: Job
    pipeline: "WanPipeline"
    predicted_seconds: float | None
    began: float
    """Seconds of the monotonic clock."""
    step_seconds: list[float] = field(default_factory=list)
    reported_at: float = field(default_factory=time.monotonic)
    """Monotonic time of the latest report of decoding."""

    def ending(self, chosen: ChosenPlan, files_done: "Future[MadeVideo]") -> PendingFinalization:
        """Return the work that remains after the device's part."""
        return PendingFinalization(
            self.job.claim,
            self.job.files,
            self.job.record,
            chosen,
            self.predicted_seconds,
            device_of(self.pipeline).type,
            typical_step_seconds(self.step_seconds, self.job.recipe),
            self.began,
            files_done,
        )


def typical_step_seconds(seconds: Sequence[float], recipe: Recipe) -> float | None:
    """Return the seconds to predict other steps by: the median, or the mean for a cached video, which skips steps."""
    if not seconds:
        return None
    if recipe.speed == "cached":
        return fmean(seconds[1:] or seconds)  # the first one may have built kernels
    return median(seconds)
