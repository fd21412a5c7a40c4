"""What has been told of each running video, step by step: what the monitor draws its curves from."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from wantui.queue.rows import Event

CURVES = ("norm", "velocity", "turning", "linearity")
LARGEST = 2000
"""Steps kept of one video."""
FINISHED = ("done", "failed", "cancelled", "interrupted", "released", "out of memory")


@dataclass
class Trail:
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

    def add(self, data: dict[str, Any]) -> None:
        """Take in what was told of a step."""
        self.loading = False
        step = int(data["step"])
        self.steps, self.sigma = int(data["steps"]), float(data["sigma"])
        if step <= self.step:  # begun again
            again = self.step - step + 1
            del self.seconds[max(0, len(self.seconds) - again) :]
            for curve in self.curves.values():
                del curve[max(0, len(curve) - again) :]
        self.step = step
        self.seconds.append(float(data["seconds"]))
        for name, curve in self.curves.items():
            value = data.get(name)
            curve.append(float(value) if isinstance(value, (int, float)) else None)
            del curve[:-LARGEST]
        del self.seconds[:-LARGEST]
        if isinstance(data.get("preview"), str):
            self.preview, self.preview_step = str(data["preview"]), step
        if "allocated" in data:
            names = ("allocated", "reserved", "peak", "foretold")
            self.memory = {name: int(data[name]) for name in names if name in data}


class Trails:
    """Of all videos that run; those that have ended are forgotten."""

    def __init__(self) -> None:
        self.of: dict[int, Trail] = {}

    def tell(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.video is None or event.batch is None:
                continue
            if event.kind == "started":
                self.of[event.video] = Trail(event.batch, event.video, event.data.get("title", ""))
                self.of[event.video].steps = event.data.get("steps", 0)
            elif event.kind == "loading" and event.video in self.of:
                self.of[event.video].loading = True
            elif event.kind == "step":
                self.of.setdefault(event.video, Trail(event.batch, event.video)).add(event.data)
            elif event.kind == "decoded" and event.video in self.of:
                trail = self.of[event.video]
                trail.decoded, trail.frames = int(event.data["frames"]), int(event.data["count"])
            elif event.kind in FINISHED:
                self.of.pop(event.video, None)
