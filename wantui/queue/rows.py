"""What the queue tells: batches, videos, claims and events, as they stand at a moment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NewVideo:
    """A video to be made: its index in the manifest, and all that determines it."""

    number: int
    title: str
    recipe: str
    steps: int


@dataclass(frozen=True)
class Claim:
    """A video that a worker is to make."""

    video: int
    batch: int
    attempt: int
    folder: Path
    device: str
    number: int
    title: str
    recipe: str
    rung: int


@dataclass(frozen=True)
class BatchRow:
    """A batch and how its videos stand."""

    id: int
    folder: Path
    device: str
    paused: bool
    created: float
    counts: dict[str, int]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def unfinished(self) -> int:
        return sum(self.counts.get(state, 0) for state in ("queued", "interrupted", "running"))


@dataclass(frozen=True)
class VideoRow:
    """A video as it stands; times are seconds since 1970."""

    id: int
    batch: int
    number: int
    title: str
    state: str
    deaths: int
    worker: str | None
    step: int
    steps: int
    rung: int
    started: float | None
    finished: float | None
    error: str | None


@dataclass(frozen=True)
class Event:
    """Something that happened; `seq` only grows."""

    seq: int
    time: float
    batch: int | None
    video: int | None
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Hold:
    """Why no video starts."""

    kind: str
    reason: str
    folder: Path | None
    needed: int | None
