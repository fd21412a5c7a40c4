"""Progress of running videos, derived from the events of the queue: steps, pace, curves and memory."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from wantui.queue.events import (
    STOPPING_EVENTS,
    FramesDecoded,
    LoadingStageStarted,
    ModelLoading,
    StepDone,
    VideoDone,
    VideoStarted,
)
from wantui.queue.records import QueueEvent

LIVE_METRIC_NAMES = ("norm", "velocity", "turning", "straightness")
"""Names of a step's live metrics."""
MAX_STORED_STEPS = 2000
"""Maximum number of steps stored per video."""
PACE_STEP_COUNT = 15
"""Number of latest steps whose median duration is the pace."""
STEP_MEMORY_FIELDS = ("allocated", "reserved", "peak", "predicted")
"""Names of a step's GPU memory figures, in bytes."""


@dataclass(frozen=True)
class LoadingStage:
    """Stage of preparing a video, before its first step."""

    model: str
    """Name of the model, if it is being loaded; otherwise empty."""
    description: str
    """Description of the stage; empty if unknown."""
    number: int | None
    """Number of the stage, from 1; None outside of loading."""
    count: int | None
    began_at: float
    """Monotonic seconds of this process."""


@dataclass
class VideoProgress:
    """Steps of one running video so far."""

    batch_id: int
    video_id: int
    title: str = ""
    step_number: int = 0
    step_count: int = 0
    sigma: float | None = None
    step_seconds: list[float] = field(default_factory=list)
    sigmas: list[float | None] = field(default_factory=list)
    """Noise level of each step."""
    curve_by_metric: dict[str, list[float | None]] = field(
        default_factory=lambda: {name: [] for name in LIVE_METRIC_NAMES}
    )
    preview_path: str | None = None
    preview_step: int = 0
    memory_bytes_by_name: dict[str, int] = field(default_factory=dict)
    stage: LoadingStage | None = None
    """Current stage of preparation; None once the first step is done."""
    decoded_frame_count: int = 0
    """Number of decoded frames."""
    frame_count: int = 0
    """Number of frames that the decoded video will have; 0 before its decoding starts."""

    @property
    def pace_seconds(self) -> float | None:
        """Return the median duration of the last steps, in seconds; None before the first step."""
        return median(self.step_seconds[-PACE_STEP_COUNT:]) if self.step_seconds else None

    def describe_phase(self, step_count: int) -> str:
        """Return in one word what the worker is doing for this video, which has `step_count` steps."""
        if self.step_number == 0:
            return "starting" if self.stage is None else "encoding" if self.stage.count is None else "loading"
        if self.step_number < step_count:
            return "denoising"
        return "finalizing" if self.frame_count and self.decoded_frame_count == self.frame_count else "decoding"

    def add_step(self, step_event: StepDone) -> None:
        """Add a step. A step that is repeated after a resumption replaces the earlier record and all later steps."""
        self.stage = None
        self.step_count, self.sigma = step_event.steps, step_event.sigma
        if step_event.step <= self.step_number:
            repeated_count = self.step_number - step_event.step + 1
            del self.step_seconds[max(0, len(self.step_seconds) - repeated_count) :]
            for curve in (self.sigmas, *self.curve_by_metric.values()):
                del curve[max(0, len(curve) - repeated_count) :]
        self.step_number = step_event.step
        self.step_seconds.append(step_event.seconds)
        self.sigmas.append(step_event.sigma)
        del self.sigmas[:-MAX_STORED_STEPS]
        for name, curve in self.curve_by_metric.items():
            curve.append(getattr(step_event, name))
            del curve[:-MAX_STORED_STEPS]
        del self.step_seconds[:-MAX_STORED_STEPS]
        if step_event.preview is not None:
            self.preview_path, self.preview_step = step_event.preview, step_event.step
        if step_event.allocated is not None:
            memory_values = {name: getattr(step_event, name) for name in STEP_MEMORY_FIELDS}
            self.memory_bytes_by_name = {name: value for name, value in memory_values.items() if value is not None}


@dataclass(frozen=True)
class FinishedVideo:
    """A finished video, with its progress at the end."""

    batch_id: int
    video_id: int
    done_event: VideoDone
    progress: VideoProgress | None
    """Steps with their curves; None if they were not followed."""

    @property
    def seconds(self) -> float | None:
        """Return the duration of denoising and decoding; None if unknown."""
        durations = self.done_event.seconds
        return durations["denoise"] + durations.get("decode", 0.0) if "denoise" in durations else None


def _to_monotonic_seconds(wall_seconds: float) -> float:
    """Return a past time as monotonic seconds of this process: the wall clock may be set later."""
    return time.monotonic() - max(0.0, time.time() - wall_seconds)


class ProgressTracker:
    """Progress of all running videos, by database id; ended videos are dropped."""

    def __init__(self) -> None:
        self.progress_by_video: dict[int, VideoProgress] = {}
        self.finished_video: FinishedVideo | None = None
        """Video that was finished last."""

    def apply_events(self, events: Iterable[QueueEvent]) -> None:
        """Update the progress of videos with new events."""
        for event in events:
            if event.video_id is None or event.batch_number is None:
                continue
            match event.payload:
                case VideoStarted(title=title, steps=steps):
                    self.progress_by_video[event.video_id] = VideoProgress(
                        event.batch_number, event.video_id, title, step_count=steps
                    )
                case ModelLoading(model=model) if event.video_id in self.progress_by_video:
                    stage = LoadingStage(model, "", 0, 0, _to_monotonic_seconds(event.stored_at))
                    self.progress_by_video[event.video_id].stage = stage
                case LoadingStageStarted() if event.video_id in self.progress_by_video:
                    self._begin_stage(
                        self.progress_by_video[event.video_id], event.payload, _to_monotonic_seconds(event.stored_at)
                    )
                case StepDone():
                    self.progress_by_video.setdefault(
                        event.video_id, VideoProgress(event.batch_number, event.video_id)
                    ).add_step(event.payload)
                case FramesDecoded(frames=frames, count=count) if event.video_id in self.progress_by_video:
                    progress = self.progress_by_video[event.video_id]
                    progress.decoded_frame_count, progress.frame_count = frames, count
            if isinstance(event.payload, VideoDone) and not event.payload.already_done:
                self.finished_video = FinishedVideo(
                    event.batch_number, event.video_id, event.payload, self.progress_by_video.get(event.video_id)
                )
            if isinstance(event.payload, STOPPING_EVENTS):
                self.progress_by_video.pop(event.video_id, None)

    @staticmethod
    def _begin_stage(progress: VideoProgress, payload: LoadingStageStarted, began_at: float) -> None:
        """Record the start of a loading stage, or of encoding the prompts before the first step."""
        if progress.step_number:  # a repeated video that resumes
            return
        model = progress.stage.model if progress.stage is not None and payload.stage_count else ""
        progress.stage = LoadingStage(model, payload.stage, payload.stage_number, payload.stage_count, began_at)

    def copy_progress(self) -> Mapping[int, VideoProgress]:
        """Return copies of the progress, unaffected by later events."""
        return {
            video_id: replace(
                video,
                step_seconds=list(video.step_seconds),
                sigmas=list(video.sigmas),
                curve_by_metric={name: list(curve) for name, curve in video.curve_by_metric.items()},
            )
            for video_id, video in self.progress_by_video.items()
        }

    def collect_paces(self) -> Mapping[int, float]:
        """Return the paces of running videos, in seconds per step, by database id."""
        return {
            video_id: video.pace_seconds
            for video_id, video in self.progress_by_video.items()
            if video.pace_seconds is not None
        }
