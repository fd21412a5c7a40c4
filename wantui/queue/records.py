"""Immutable snapshots of the queue: batches, videos, claims, workers, events and holds."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wantui.queue.events import EventPayload, UnknownEvent
from wantui.queue.stored_events import convert_payload_to_json

WAITING_STATES = ("queued", "interrupted")
"""States of videos that wait for a worker. SQL contains these tuples as they are."""
UNFINISHED_STATES = (*WAITING_STATES, "running")


def to_display_number(video_index: int) -> int:
    """Return the number for people and JSON, which counts from 1; the manifest and the database count from 0."""
    return video_index + 1


@dataclass(frozen=True)
class NewVideo:
    """A video to add to the queue; `video_index` counts from 0 in the manifest."""

    video_index: int
    title: str
    recipe_json: str
    step_count: int


@dataclass(frozen=True)
class RemovedBatch:
    """A batch that was removed from the queue, with all data needed to restore it."""

    batch_number: int
    rows_by_table: tuple[tuple[str, tuple[dict[str, Any], ...]], ...]
    """Name of each table, parents first, and the removed rows by column name."""


@dataclass(frozen=True)
class BatchDescription:
    """Text about a new batch that lists show."""

    template: str = ""
    model: str = ""
    seeds: str = ""
    """First and last seed, such as "42 to 45"."""


@dataclass(frozen=True)
class Claim:
    """A video that a worker has claimed."""

    video_id: int
    batch_number: int
    attempt: int
    batch_folder: Path
    device: str
    video_index: int
    title: str
    recipe_json: str
    first_plan_slug: str | None
    """Slug of the first memory plan to try; None to choose the best."""
    gpus_per_video: int = 1


TEMPORARY_HOLD_KINDS = ("disk", "folder")
"""Kinds of holds that the engine ends by itself."""


def describe_hold_end(kind: str, resume_advice: str = "Resume with: wantui queue resume") -> str:
    """Return a text on how a hold of this kind ends: by itself, or what the user has to do."""
    return "It resumes automatically once that is fixed" if kind in TEMPORARY_HOLD_KINDS else resume_advice


def describe_hold(kind: str, reason: str) -> str:
    """Return the reason for a hold, and what ends it."""
    return f"{reason}. {describe_hold_end(kind)}"


@dataclass(frozen=True)
class Hold:
    """The reason why no video starts, of the queue or of one batch."""

    kind: str
    reason: str
    folder: Path | None
    needed_bytes: int | None

    def describe(self) -> str:
        """Return the reason for the hold, and what ends it."""
        return describe_hold(self.kind, self.reason)


@dataclass(frozen=True)
class BatchRow:
    """A batch and the states of its videos."""

    id: int
    folder: Path
    device: str
    paused: bool
    created: float
    counts: dict[str, int]
    template: str = ""
    """Prompt template; empty for batches queued by an earlier version."""
    model: str = ""
    seeds: str = ""
    """First and last seed, such as "42 to 45"; empty for batches queued by an earlier version."""
    gpus_per_video: int = 1
    """Number of GPUs that compute one video."""
    hold: Hold | None = None
    """Why no further video of this batch starts, although other batches continue."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def video_count(self) -> int:
        return sum(self.counts.values())

    @property
    def unfinished_count(self) -> int:
        return sum(self.counts.get(state, 0) for state in UNFINISHED_STATES)

    @property
    def is_stopped(self) -> bool:
        """Return whether no further video of the batch starts: it is paused or on hold."""
        return self.paused or self.hold is not None

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON output; `held` is the reason why the batch is on hold, or None."""
        fields = asdict(self) | {"folder": str(self.folder), "held": None if self.hold is None else self.hold.reason}
        del fields["hold"]
        return fields


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
    """Slug of the first memory plan to try; None to choose the best."""
    started: float | None
    finished: float | None
    seconds: float | None
    """Duration of the last attempt in seconds, by the boot clock; None if unknown."""
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON output; `number` counts from 1, as in `wantui queue cancel`."""
        return asdict(self) | {"number": to_display_number(self.number)}


@dataclass(frozen=True)
class VideoPage:
    """A range of a batch's videos.

    `unfinished_counts_before` contains, for each video, the number of unfinished videos before it.
    """

    videos: tuple[VideoRow, ...]
    unfinished_counts_before: tuple[int, ...]


def make_worker_name(slot_name: str, process_id: int) -> str:
    """Return the name of a worker in the queue, unique for each process."""
    return f"{slot_name}:{process_id}"


def get_slot_name(worker_name: str) -> str:
    """Return the slot in the name of a worker."""
    return worker_name.partition(":")[0]


def get_process_id(worker_name: str) -> int:
    """Return the process ID in the name of a worker."""
    return int(worker_name.rpartition(":")[2])


@dataclass(frozen=True)
class WorkerRow:
    """A worker process: `starting` until torch is imported, then `ready`."""

    name: str
    state: str
    device: str
    seconds: float | None
    """Seconds since the process was started; None if unknown."""


@dataclass(frozen=True)
class QueueEvent:
    """A stored event; `seq` increases with every event."""

    seq: int
    stored_at: float
    batch_number: int | None
    video_id: int | None
    payload: EventPayload

    @property
    def kind(self) -> str:
        """Return the name of the kind, as `--json` prints it."""
        return self.payload.name if isinstance(self.payload, UnknownEvent) else self.payload.kind

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints; `video` is the number in the batch, from 1."""
        data = convert_payload_to_json(self.payload)
        head = {"event": self.kind, "seq": self.seq, "batch": self.batch_number, "video": data.get("number")}
        return head | data
