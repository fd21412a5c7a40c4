"""Progress of running videos, derived from the events of the queue: steps, pace, curves and memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from wantui.queue.events import STOPPING_EVENTS, FramesDecoded, ModelLoading, StepDone, VideoStarted
from wantui.queue.records import Event

CURVE_NAMES = ("norm", "velocity", "turning", "straightness")
"""Names of the live metrics of a step."""
MAX_STORED_STEPS = 2000
"""Maximum number of steps stored per video."""
PACE_STEPS = 15
"""Number of latest steps whose median duration is the pace."""
MEMORY_FIELDS = ("allocated", "reserved", "peak", "predicted")
"""Names of a step's GPU memory figures, in bytes."""


@dataclass
class VideoProgress:
    """Steps of one running video so far."""

    batch: int
    video: int
    title: str = ""
    step: int = 0
    steps: int = 0
    sigma: float | None = None
    step_seconds: list[float] = field(default_factory=list)
    curves: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in CURVE_NAMES})
    preview_path: str | None = None
    preview_step: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    is_loading: bool = False
    decoded_frames: int = 0
    """Number of decoded frames."""
    frames: int = 0
    """Number of frames that the decoded video will have; 0 before its decoding starts."""

    @property
    def pace(self) -> float | None:
        """Return the median duration of the last steps, in seconds; None before the first step."""
        return median(self.step_seconds[-PACE_STEPS:]) if self.step_seconds else None

    def describe_phase(self, steps: int) -> str:
        """Return what the worker does with the video, which has a number of steps: one of its states, as a word."""
        if self.is_loading:
            return "loading"
        if self.step < steps:
            return "denoising"
        return "finalizing" if self.frames and self.decoded_frames == self.frames else "decoding"

    def add_step(self, done: StepDone) -> None:
        """Add a step. A repeated step, after a resumption, replaces the earlier one and all after it."""
        self.is_loading = False
        self.steps, self.sigma = done.steps, done.sigma
        if done.step <= self.step:
            again = self.step - done.step + 1
            del self.step_seconds[max(0, len(self.step_seconds) - again) :]
            for curve in self.curves.values():
                del curve[max(0, len(curve) - again) :]
        self.step = done.step
        self.step_seconds.append(done.seconds)
        for name, curve in self.curves.items():
            curve.append(getattr(done, name))
            del curve[:-MAX_STORED_STEPS]
        del self.step_seconds[:-MAX_STORED_STEPS]
        if done.preview is not None:
            self.preview_path, self.preview_step = done.preview, done.step
        if done.allocated is not None:
            values = {name: getattr(done, name) for name in MEMORY_FIELDS}
            self.memory = {name: value for name, value in values.items() if value is not None}


class ProgressTracker:
    """Progress of all running videos, by database id; ended videos are dropped."""

    def __init__(self) -> None:
        self.videos: dict[int, VideoProgress] = {}

    def apply(self, events: Iterable[Event]) -> None:
        """Update the progress of videos with new events."""
        for event in events:
            if event.video is None or event.batch is None:
                continue
            match event.payload:
                case VideoStarted(title=title, steps=steps):
                    self.videos[event.video] = VideoProgress(event.batch, event.video, title, steps=steps)
                case ModelLoading() if event.video in self.videos:
                    self.videos[event.video].is_loading = True
                case StepDone():
                    self.videos.setdefault(event.video, VideoProgress(event.batch, event.video)).add_step(event.payload)
                case FramesDecoded(frames=frames, count=count) if event.video in self.videos:
                    self.videos[event.video].decoded_frames, self.videos[event.video].frames = frames, count
            if isinstance(event.payload, STOPPING_EVENTS):
                self.videos.pop(event.video, None)

    def snapshot(self) -> Mapping[int, VideoProgress]:
        """Return copies of the progress, which later events do not change."""
        return {
            number: replace(
                video,
                step_seconds=list(video.step_seconds),
                curves={name: list(curve) for name, curve in video.curves.items()},
            )
            for number, video in self.videos.items()
        }

    def paces(self) -> Mapping[int, float]:
        """Return the paces of running videos, in seconds per step, by database id."""
        return {number: video.pace for number, video in self.videos.items() if video.pace is not None}
