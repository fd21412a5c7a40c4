"""A video in a worker: its job, and the measurements so far."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from wantui.generation.denoising_state import DenoisingStep
from wantui.generation.make_video import GenerationResult
from wantui.generation.placement import find_device, find_device_name, read_gpu_memory_stats
from wantui.planning import Recipe
from wantui.planning.memory_plan import ChosenPlan
from wantui.queue.events import StepDone
from wantui.queue.records import Claim
from wantui.storage.manifest_store import ManifestStore
from wantui.storage.video_files import VideoFiles
from wantui.worker.finalize import PendingFinalization

if TYPE_CHECKING:
    from diffusers import WanPipeline


@dataclass(frozen=True)
class VideoJob:
    """A claimed video with its recipe and files."""

    claim: Claim
    recipe: Recipe
    files: VideoFiles
    manifest_store: ManifestStore


@dataclass
class VideoInProgress:
    """A video during generation."""

    job: VideoJob
    pipeline: "WanPipeline"
    predicted_seconds: float | None
    started_at: float
    """Monotonic time of the start, seconds."""
    step_seconds: list[float] = field(default_factory=list)
    gpu_count: int | None = None
    """Number of devices that share the passes of a guided step; None before the first step."""
    reported_at: float = field(default_factory=time.monotonic)
    """Monotonic time of the last decoding report, seconds."""

    def add_step(self, step: DenoisingStep) -> bool:
        """Record the time of a step; return whether the video left the second GPU in this step.

        Times with another number of GPUs are dropped.
        """
        has_left_second_gpu = self.gpu_count == 2 and step.gpu_count == 1
        if self.gpu_count != step.gpu_count:
            self.step_seconds.clear()
        self.gpu_count = step.gpu_count
        self.step_seconds.append(step.seconds)
        return has_left_second_gpu

    def make_pending_finalization(
        self, chosen_plan: ChosenPlan, finished_video: Future[GenerationResult]
    ) -> PendingFinalization:
        """Return the work that remains after decoding."""
        device = find_device(self.pipeline)
        return PendingFinalization(
            claim=self.job.claim,
            files=self.job.files,
            manifest_store=self.job.manifest_store,
            chosen_plan=chosen_plan,
            predicted_seconds=self.predicted_seconds,
            device_type=device.type,
            gpu_name=find_device_name(device) if device.type == "cuda" else None,
            step_seconds=estimate_typical_step_seconds(self.step_seconds, self.job.recipe),
            started_at=self.started_at,
            finished_video=finished_video,
            gpu_count=self.gpu_count or 1,
        )

    def make_step_event(
        self, step: DenoisingStep, live_metrics: Mapping[str, float], wrote_preview: bool, chosen_plan: ChosenPlan
    ) -> StepDone:
        """Return the event of a finished step, with the memory that the GPU uses now."""
        event_fields: dict[str, Any] = {name: round(value, 6) for name, value in live_metrics.items()}
        if wrote_preview:
            event_fields["preview"] = str(self.job.files.preview_path)
        event_fields |= read_gpu_memory_stats(find_device(self.pipeline))
        if chosen_plan.working_bytes is not None:
            event_fields["predicted"] = chosen_plan.working_bytes
        return StepDone(
            step=step.evaluation_index + 1,
            steps=step.evaluation_count,
            seconds=round(step.seconds, 4),
            sigma=step.sigma,
            **event_fields,
        )


def estimate_typical_step_seconds(step_seconds: Sequence[float], recipe: Recipe) -> float | None:
    """Return the median seconds of a step; for a cached video, which skips steps, the mean. None without steps."""
    if not step_seconds:
        return None
    if recipe.speed == "cached":
        return fmean(step_seconds[1:] or step_seconds)  # the first step may have built kernels
    return median(step_seconds)
