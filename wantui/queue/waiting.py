"""Describe what a batch waits for before its first video starts."""

from dataclasses import dataclass

from wantui.formatting import format_count, format_duration
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, WorkerRow, get_slot_name


@dataclass(frozen=True)
class BatchWait:
    """Work before the first video of a batch: earlier batches, and starting workers."""

    earlier_batches: tuple[BatchRow, ...]
    starting_workers: tuple[WorkerRow, ...]

    def __bool__(self) -> bool:
        return bool(self.earlier_batches or self.starting_workers)

    def describe(self, shows_seconds: bool = True) -> str:
        """Describe the wait in a phrase; empty if the batch is not waiting."""
        phrases = [describe_starting_worker(worker, shows_seconds) for worker in self.starting_workers]
        if self.earlier_batches:
            video_count_text = format_count(sum(batch.unfinished_count for batch in self.earlier_batches), "video")
            batch_names = ", ".join(f"batch {batch.id} ({batch.name})" for batch in self.earlier_batches[:3])
            omitted_text = f" and {format_count(len(self.earlier_batches) - 3, 'other batch', 'other batches')}" * (
                len(self.earlier_batches) > 3
            )
            position = len(self.earlier_batches) + 1
            phrases.append(
                f"position {position} in the queue: waiting for {video_count_text} of {batch_names}{omitted_text}"
            )
        return "; ".join(phrases)


def describe_starting_worker(worker: WorkerRow, shows_seconds: bool = True) -> str:
    """Describe a starting worker, as in "worker-0: loading torch, 0:12"."""
    seconds_text = f", {format_duration(worker.seconds)}" if shows_seconds and worker.seconds is not None else ""
    return f"{get_slot_name(worker.name)}: loading torch{seconds_text}"


def find_batch_wait(queue: QueueReader, batch_number: int) -> BatchWait:
    """Return what a batch is waiting for; empty if a video is running, or if the batch is paused, held or finished."""
    batch = queue.get_batch(batch_number)
    if (
        batch is None
        or not batch.unfinished_count
        or batch.counts.get("running")
        or batch.is_stopped
        or queue.read_hold()
    ):
        return BatchWait((), ())
    starting_workers = tuple(worker for worker in queue.list_workers() if worker.state == "starting")
    return BatchWait(tuple(queue.list_unfinished_batches_before(batch_number)), starting_workers)
