"""Records of the queue: batches, videos, claims and events, at one moment."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wantui.queue.events import EventPayload, UnknownEvent


def display_number(index: int) -> int:
    """Return the number of a video as people and JSON count it, from 1; the manifest and the database count from 0."""
    return index + 1


@dataclass(frozen=True)
class NewVideo:
    """A new video: its index in the manifest, and everything that determines it."""

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
    plan: str | None
    """Slug of the first memory plan to try; None: the best."""


@dataclass(frozen=True)
class BatchRow:
    """A batch and the states of its videos."""

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
    """A video and its state; `number` is the index in the manifest, times are seconds since 1970."""

    id: int
    batch: int
    number: int
    title: str
    state: str
    worker_crashes: int
    worker: str | None
    step: int
    steps: int
    plan: str | None
    """Slug of the first memory plan to try; None: the best."""
    started: float | None
    finished: float | None
    seconds: float | None
    """Duration of the last attempt, by a clock that does not jump; None where it is not known."""
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON prints them: `number` counts from 1, as `wantui queue cancel` takes it."""
        return asdict(self) | {"number": display_number(self.number)}


@dataclass(frozen=True)
class VideoPage:
    """Some videos of a batch in their order, and for each the number of unfinished videos before it in the batch."""

    videos: tuple[VideoRow, ...]
    before: tuple[int, ...]


@dataclass(frozen=True)
class WorkerRow:
    """A worker process: `starting` until torch is imported, then `ready`."""

    name: str
    state: str
    device: str
    seconds: float | None
    """Since it was started; None where that is not known."""

    @property
    def short_name(self) -> str:
        """Return the name without the process."""
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class Event:
    """Something that happened; `seq` only grows."""

    seq: int
    time: float
    batch: int | None
    video: int | None
    payload: EventPayload

    @property
    def kind(self) -> str:
        """Name of the kind, as `--json` prints it."""
        return self.payload.name if isinstance(self.payload, UnknownEvent) else self.payload.kind

    def as_json(self) -> dict[str, Any]:
        """Return the line that `--json` prints; `video` is the number in the batch, from 1."""
        data = self.payload.as_json()
        head = {"event": self.kind, "seq": self.seq, "batch": self.batch, "video": data.get("number")}
        return head | data


@dataclass(frozen=True)
class Hold:
    """Why no video starts."""

    kind: str
    reason: str
    folder: Path | None
    needed: int | None
