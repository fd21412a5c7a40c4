"""Queue events: one frozen dataclass for each kind, stored in the database and printed by `--json`.

docs/events.md lists every kind with its fields. Kinds of later versions are read as `UnknownEvent`.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

OptionalFloat = float | None


@dataclass(frozen=True)
class EventPayload:
    """Fields of an event that depend on its kind."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True)
class BatchAdded(EventPayload):
    """Videos of a batch were queued."""

    kind: ClassVar[str] = "added"
    videos: int = 0


@dataclass(frozen=True)
class BatchMoved(EventPayload):
    """The position of a batch in the queue changed."""

    kind: ClassVar[str] = "moved"


@dataclass(frozen=True)
class BatchRemoved(EventPayload):
    """A batch was removed from the queue; its folder stays."""

    kind: ClassVar[str] = "removed"


@dataclass(frozen=True)
class BatchRetried(EventPayload):
    """Failed or cancelled videos of a batch were queued again."""

    kind: ClassVar[str] = "retried"
    videos: int = 0


@dataclass(frozen=True)
class BatchPaused(EventPayload):
    """A batch was paused."""

    kind: ClassVar[str] = "batch_paused"


@dataclass(frozen=True)
class BatchResumed(EventPayload):
    """A batch that was paused or on hold was resumed."""

    kind: ClassVar[str] = "batch_resumed"


@dataclass(frozen=True)
class BatchHeld(EventPayload):
    """A batch was put on hold: none of its videos starts, and other batches continue."""

    kind: ClassVar[str] = "batch_held"
    reason: str = ""
    hold: str = ""
    """Kind of the hold: disk or folder."""


@dataclass(frozen=True)
class BatchRefused(EventPayload):
    """All videos of a batch failed for a common reason, such as missing weights."""

    kind: ClassVar[str] = "refused"
    error: str = ""
    exit_code: int = 3


@dataclass(frozen=True)
class QueueHeld(EventPayload):
    """The queue was put on hold: no further video starts."""

    kind: ClassVar[str] = "held"
    reason: str = ""
    hold: str = ""
    """Kind of the hold: paused, interrupted, disk, folder or worker."""


@dataclass(frozen=True)
class QueueResumed(EventPayload):
    """The hold of the queue ended."""

    kind: ClassVar[str] = "queue_resumed"


@dataclass(frozen=True)
class WorkerStarting(EventPayload):
    """A worker process was started; it imports torch first."""

    kind: ClassVar[str] = "worker_starting"
    worker: str = ""
    device: str = ""


@dataclass(frozen=True)
class WorkerReady(EventPayload):
    """A worker process has imported torch and claims videos."""

    kind: ClassVar[str] = "worker_ready"
    worker: str = ""
    seconds: OptionalFloat = None
    """Seconds since the process was started."""


@dataclass(frozen=True)
class WorkerEnded(EventPayload):
    """A worker process ended."""

    kind: ClassVar[str] = "worker_ended"
    worker: str = ""


@dataclass(frozen=True)
class WorkerDied(EventPayload):
    """A worker process ended unexpectedly."""

    kind: ClassVar[str] = "worker_died"
    worker: str = ""
    error: str = ""


@dataclass(frozen=True)
class VideoEventPayload(EventPayload):
    """An event of one video."""

    title: str = ""
    """Variation and seed."""
    number: int | None = None
    """Number of the video in its batch, from 1."""


@dataclass(frozen=True)
class VideoStarted(VideoEventPayload):
    """A worker has claimed a video."""

    kind: ClassVar[str] = "started"
    steps: int = 0
    worker: str | None = None
    attempt: int = 1


@dataclass(frozen=True)
class ModelLoading(VideoEventPayload):
    """A worker is loading the model of a video according to a memory plan."""

    kind: ClassVar[str] = "loading"
    model: str = ""
    plan: str = ""
    reason: str = ""
    """Why this plan was chosen."""


@dataclass(frozen=True)
class LoadingStageStarted(VideoEventPayload):
    """A stage of preparing a video began: of loading its model, or encoding its prompts."""

    kind: ClassVar[str] = "loading_stage"
    stage: str = ""
    """Description of the stage, such as "reading weights"."""
    stage_number: int | None = None
    """Number of the stage among the stages of loading, from 1; None if the stage is not part of loading."""
    stage_count: int | None = None


@dataclass(frozen=True)
class VideoResumed(VideoEventPayload):
    """A video continues from its checkpoint."""

    kind: ClassVar[str] = "video_resumed"
    steps_done: int = 0


@dataclass(frozen=True)
class VideoRestarted(VideoEventPayload):
    """A video starts again from the first step, because its checkpoint cannot be used."""

    kind: ClassVar[str] = "restarted"
    reason: str = ""


@dataclass(frozen=True)
class VideoLockedElsewhere(VideoEventPayload):
    """Another engine is rendering the same video; the worker is waiting for it."""

    kind: ClassVar[str] = "locked_elsewhere"


@dataclass(frozen=True)
class VideoOnOneGpu(VideoEventPayload):
    """A video for two GPUs is rendered on one, with the same result."""

    kind: ClassVar[str] = "one_gpu"
    reason: str = ""


@dataclass(frozen=True)
class StepDone(VideoEventPayload):
    """A denoising step of a video is done."""

    kind: ClassVar[str] = "step"
    step: int = 0
    """Number of finished steps."""
    steps: int = 0
    seconds: float = 0.0
    """Duration of the step in seconds."""
    sigma: OptionalFloat = None
    """Noise level that the model received; 1 is pure noise."""
    norm: OptionalFloat = None
    """Root mean square of the latents."""
    velocity: OptionalFloat = None
    """Root mean square of the change in this step, divided by the change of the noise level."""
    turning: OptionalFloat = None
    """Angle between this step and the previous one, in radians."""
    straightness: OptionalFloat = None
    """Chord over length of the trajectory so far."""
    preview: str | None = None
    """Path of a strip of preview pictures, if this step wrote one."""
    allocated: int | None = None
    """Bytes of torch tensors on the GPU."""
    reserved: int | None = None
    """Bytes that torch has reserved on the GPU."""
    peak: int | None = None
    """Maximum allocated bytes for this video."""
    predicted: int | None = None
    """Predicted peak, in bytes."""


@dataclass(frozen=True)
class FramesDecoded(VideoEventPayload):
    """More frames of a video were decoded."""

    kind: ClassVar[str] = "decoded"
    frames: int = 0
    count: int = 0


@dataclass(frozen=True)
class VideoDone(VideoEventPayload):
    """A video and its entry in the manifest are complete."""

    kind: ClassVar[str] = "done"
    files: dict[str, str] = field(default_factory=dict)
    """Relative paths in the batch folder, by kind of file."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Durations in seconds: denoising, decoding, and a typical step."""
    memory_plan: str | None = None
    peak_memory: int | None = None
    """Peak GPU memory, in bytes."""
    device: str | None = None
    """cpu or cuda."""
    gpu: str | None = None
    """Name of the GPU; left out on a CPU."""
    gpus: int | None = None
    """2 if two GPUs rendered the video; otherwise left out."""
    second_peak_memory: int | None = None
    """Peak memory of the second GPU, in bytes."""
    already_done: bool | None = None
    """True if the video was already complete before this attempt."""


@dataclass(frozen=True)
class VideoFailed(VideoEventPayload):
    """A video failed."""

    kind: ClassVar[str] = "failed"
    error: str = ""


@dataclass(frozen=True)
class VideoCancelled(VideoEventPayload):
    """A video was cancelled."""

    kind: ClassVar[str] = "cancelled"
    error: str | None = None


@dataclass(frozen=True)
class VideoInterrupted(VideoEventPayload):
    """The process that rendered a video ended; the video can be resumed."""

    kind: ClassVar[str] = "interrupted"
    error: str = ""
    worker: str = ""
    """Worker that died unexpectedly during the video; empty otherwise."""

    def describe(self) -> str:
        """Return the title of the video and the reason; if a worker died, also that the video is tried again."""
        if not self.worker:
            return f"{self.title}: {self.error}"
        return f"{self.worker} died during {self.title}, which is tried again: {self.error}"


@dataclass(frozen=True)
class VideoReleased(VideoEventPayload):
    """A worker returned a video to the queue, for example for a pause."""

    kind: ClassVar[str] = "released"
    reason: str = ""


@dataclass(frozen=True)
class VideoOutOfMemory(VideoEventPayload):
    """A video ran out of memory; it is tried again with a different memory plan."""

    kind: ClassVar[str] = "out_of_memory"
    plan: str = ""
    error: str = ""


@dataclass(frozen=True)
class UnknownEvent(EventPayload):
    """An event of a kind that this version does not know."""

    name: str = ""
    content: dict[str, Any] = field(default_factory=dict)


PAYLOAD_TYPES_BY_KIND: dict[str, type[EventPayload]] = {
    payload.kind: payload
    for payload in (
        BatchAdded,
        BatchMoved,
        BatchRemoved,
        BatchRetried,
        BatchPaused,
        BatchResumed,
        BatchHeld,
        BatchRefused,
        QueueHeld,
        QueueResumed,
        WorkerStarting,
        WorkerReady,
        WorkerEnded,
        WorkerDied,
        VideoStarted,
        ModelLoading,
        LoadingStageStarted,
        VideoResumed,
        VideoRestarted,
        VideoLockedElsewhere,
        VideoOnOneGpu,
        StepDone,
        FramesDecoded,
        VideoDone,
        VideoFailed,
        VideoCancelled,
        VideoInterrupted,
        VideoReleased,
        VideoOutOfMemory,
    )
}
"""Every kind of event by name."""
ENDING_EVENTS = (VideoDone, VideoFailed, VideoCancelled)
"""Events after which a video is no longer rendered."""
STOPPING_EVENTS = (*ENDING_EVENTS, VideoInterrupted, VideoReleased, VideoOutOfMemory)
"""Events after which a video does not run any more; it may run again later."""
