"""What has been told of each running video, step by step: what the monitor draws its curves from."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from wantui.queue.events import STOPPED, FramesDecoded, ModelLoading, StepDone, VideoStarted
from wantui.queue.records import Event

CURVES = ("norm", "velocity", "turning", "linearity")
LARGEST = 2000
"""Steps kept of one video."""
MEMORY = ("allocated", "reserved", "peak", "predicted")


@dataclass
class VideoProgress:
    """One video's steps so far."""

    batch: int
    video: int
    title: str = ""
    step: int = 0
    steps: int = 0
    sigma: float | None = None
    seconds: list[float] = field(default_factory=list)
    curves: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in CURVES})
    preview: str | None = None
    preview_step: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    loading: bool = False
    decoded: int = 0
    """Frames."""
    frames: int = 0

    @property
    def pace(self) -> float | None:
        """Median of the last steps, in seconds."""
        return median(self.seconds[-15:]) if self.seconds else None

    def add(self, done: StepDone) -> None:
        """Take in a step."""
        self.loading = False
        self.steps, self.sigma = done.steps, done.sigma
        if done.step <= self.step:  # it started again from an earlier step
            again = self.step - done.step + 1
            del self.seconds[max(0, len(self.seconds) - again) :]
            for curve in self.curves.values():
                del curve[max(0, len(curve) - again) :]
        self.step = done.step
        self.seconds.append(done.seconds)
        for name, curve in self.curves.items():
            curve.append(getattr(done, name))
            del curve[:-LARGEST]
        del self.seconds[:-LARGEST]
        if done.preview is not None:
            self.preview, self.preview_step = done.preview, done.step
        if done.allocated is not None:
            values = {name: getattr(done, name) for name in MEMORY}
            self.memory = {name: value for name, value in values.items() if value is not None}


class ProgressTracker:
    """Of all videos that run; those that have ended are forgotten."""

    def __init__(self) -> None:
        self.of: dict[int, VideoProgress] = {}

    def tell(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.video is None or event.batch is None:
                continue
            match event.payload:
                case VideoStarted(title=title, steps=steps):
                    self.of[event.video] = VideoProgress(event.batch, event.video, title, steps=steps)
                case ModelLoading() if event.video in self.of:
                    self.of[event.video].loading = True
                case StepDone():
                    self.of.setdefault(event.video, VideoProgress(event.batch, event.video)).add(event.payload)
                case FramesDecoded(frames=frames, count=count) if event.video in self.of:
                    self.of[event.video].decoded, self.of[event.video].frames = frames, count
            if isinstance(event.payload, STOPPED):
                self.of.pop(event.video, None)
