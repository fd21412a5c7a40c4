"""What the Monitor screen says about the engine, its workers and their videos: start-up, progress, idleness."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from wantui.batches.progress import LoadingStage, VideoProgress
from wantui.formatting import format_count
from wantui.queue.records import TEMPORARY_HOLD_KINDS, VideoRow, WorkerRow, describe_hold_end, get_slot_name
from wantui.tui.plain_names import replace_names
from wantui.tui.queue_watcher import QueueSnapshot

BYTES_PER_GB = 1_000_000_000
RESUME_KEY_ADVICE = "Press F7 to resume the queue"
"""How a user ends a hold, in the application."""


@dataclass(frozen=True)
class MonitorRow:
    """Row of the list: a worker with its video, or a video whose worker is unknown."""

    worker: WorkerRow | None
    video: VideoRow | None
    progress: VideoProgress | None
    is_next: bool = False
    """Whether the worker still completes the files of the video in the row above."""

    @property
    def worker_name(self) -> str:
        """Return the name of the worker without its process id."""
        if self.worker is not None:
            return get_slot_name(self.worker.name)
        return get_slot_name(self.video.worker or "") if self.video is not None else ""

    @property
    def title(self) -> str:
        """Return the title of the video as it is shown; empty without a video."""
        return "" if self.video is None else replace_names(self.video.title)

    @property
    def key(self) -> tuple[str, int | None]:
        """Return the worker and the video, which identify the row."""
        return self.worker_name, None if self.video is None else self.video.id

    @property
    def is_decoding(self) -> bool:
        """Return whether the decoder has reported its progress."""
        return (
            self.video is not None
            and self.progress is not None
            and self.progress.step_number == self.video.steps
            and bool(self.progress.frame_count)
        )

    @property
    def has_stage(self) -> bool:
        """Return whether the worker is starting or preparing its video."""
        if self.worker is not None and self.worker.state == "starting":
            return True
        return self.progress is not None and self.progress.stage is not None

    @property
    def completed_fraction(self) -> float:
        """Return the share of steps done, or of frames decoded, in 0 to 1."""
        if self.video is None or self.progress is None:
            return 0.0
        if self.is_decoding:
            return self.progress.decoded_frame_count / self.progress.frame_count
        return self.progress.step_number / max(1, self.video.steps)

    @property
    def step_text(self) -> str:
        """Return the steps done and their total, or frames once the decoder reports; empty before the first step."""
        if self.video is None or self.progress is None or self.progress.stage is not None:
            return ""
        if self.is_decoding:
            return f"frame {self.progress.decoded_frame_count}/{self.progress.frame_count}"
        return f"{self.progress.step_number}/{self.video.steps}"

    @property
    def memory_text(self) -> str:
        """Return used and predicted GPU memory in GB, such as "11.3/14.2"; empty for a worker on the CPU."""
        memory = {} if self.progress is None else self.progress.memory_bytes_by_name
        if "allocated" not in memory:
            return ""
        used = f"{memory['allocated'] / BYTES_PER_GB:.1f}"
        return f"{used}/{memory['predicted'] / BYTES_PER_GB:.1f}" if "predicted" in memory else used


def list_monitor_rows(snapshot: QueueSnapshot) -> list[MonitorRow]:
    """Return a row for each running video and for each worker without a video, sorted by worker.

    A worker has two rows while it completes the files of one video during the next.
    """
    workers_by_name = {worker.name: worker for worker in snapshot.workers} if snapshot.engine is not None else {}
    rows = [
        MonitorRow(workers_by_name.get(video.worker or ""), video, snapshot.progress_by_video.get(video.id))
        for video in snapshot.running_videos
    ]
    working_names = {video.worker for video in snapshot.running_videos}
    rows += [MonitorRow(worker, None, None) for name, worker in workers_by_name.items() if name not in working_names]
    rows.sort(key=lambda row: row.worker_name)
    return rows[:1] + [
        replace(row, is_next=row.worker_name == previous.worker_name != "") for previous, row in pairwise(rows)
    ]


class WorkerClock:
    """Clock of the workers' ages between two snapshots, which arrive only after changes."""

    def __init__(self) -> None:
        self._started_at_by_worker: dict[str, float] = {}

    def update_start_times(self, workers: Sequence[WorkerRow]) -> None:
        """Record when new workers were started."""
        now, known = time.monotonic(), self._started_at_by_worker
        self._started_at_by_worker = {
            worker.name: known.get(worker.name, now - (worker.seconds or 0.0)) for worker in workers
        }

    def get_age_seconds(self, worker: WorkerRow) -> float:
        """Return the seconds since a worker was started."""
        now = time.monotonic()
        return now - self._started_at_by_worker.get(worker.name, now)


def describe_torch_loading(age_seconds: float) -> str:
    """Return what a starting worker is doing: "loading torch 12 s"."""
    return f"loading torch {age_seconds:.0f} s"


def describe_stage_briefly(stage: LoadingStage) -> str:
    """Return the stage of a row whose state is "loading" or "encoding": "reading weights 12 s"."""
    description = stage.description or f"loading {stage.model}"
    return f"{description} {max(0.0, time.monotonic() - stage.began_at):.0f} s"


def describe_stage(stage: LoadingStage) -> str:
    """Return what a worker is preparing: "loading nano (2 of 5 stages)", then in a line "reading weights 12 s"."""
    stage_text = describe_stage_briefly(stage)
    if not stage.model or not stage.number:
        return stage_text
    return f"loading {stage.model} ({stage.number} of {stage.count} stages)\n{stage_text}"


def describe_row(row: MonitorRow, clock: WorkerClock, has_waiting_videos: bool) -> str:
    """Return what a row's worker is doing before its first preview, in one or two lines."""
    if row.video is None:
        assert row.worker is not None
        if row.worker.state == "starting":
            return f"{row.worker_name}: {describe_torch_loading(clock.get_age_seconds(row.worker))}"
        next_text = "takes the next video" if has_waiting_videos else "has no video: the queue is empty"
        return f"{row.worker_name} {next_text}"
    progress = row.progress
    if progress is None or (progress.step_number == 0 and progress.stage is None):
        return f"{row.worker_name}: starting {row.title}"
    if progress.stage is not None:
        return f"{row.worker_name}: {describe_stage(progress.stage)}"
    return f"{row.worker_name}: {progress.describe_phase(row.video.steps)} {row.title}"


def describe_interruption(is_engine_starting: bool) -> str:
    """Return why a running video is interrupted while no engine is ready: the engine is starting, or it stopped."""
    return "the engine is starting" if is_engine_starting else "the engine stopped; press F6 to start it again"


def explain_idle_queue(snapshot: QueueSnapshot, is_engine_starting: bool) -> tuple[str, str]:
    """Return why no video is running, and what will happen next or which key to press (this may be empty)."""
    waiting_count = sum(batch.unfinished_count for batch in snapshot.batches if not batch.is_stopped)
    suffix = f"; {format_count(waiting_count, 'video')} waiting" if waiting_count else ""
    held_batch = next((batch for batch in snapshot.batches if batch.hold is not None and batch.unfinished_count), None)
    hold, held_name = snapshot.hold, "the queue"
    if hold is None and held_batch is not None and not waiting_count:
        hold, held_name = held_batch.hold, f"batch {held_batch.id}"
    if hold is not None:
        hold_end = describe_hold_end(hold.kind, RESUME_KEY_ADVICE)
        if hold.kind in TEMPORARY_HOLD_KINDS and snapshot.engine is None and not is_engine_starting:
            hold_end += f"\nNo engine is running. Press F6 to start one; it will resume {held_name}."
        return f"no video is running: {held_name} is on hold ({hold.reason})", hold_end
    if snapshot.engine is None:
        if is_engine_starting:
            return f"the engine is starting{suffix}", ""
        return (
            f"no video is running: there is no engine{suffix}",
            "Press F6 to start the engine, or 1 to compose a batch",
        )
    if waiting_count:
        return f"the engine starts a worker for the next video{suffix}", ""
    if any(batch.unfinished_count for batch in snapshot.batches):
        return "no video is running: every unfinished batch is paused", "Press 2, then p to resume a batch"
    return "no video is running: the queue is empty", "Press 1 to compose a batch, or 4 to see finished videos"
