"""Describe what a batch waits for before its first video starts."""

from dataclasses import dataclass

from wantui.formatting import format_count, format_duration
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, WorkerRow


@dataclass(frozen=True)
class BatchWait:
    """Work before the first video of a batch: earlier batches, and starting workers."""

    before: tuple[BatchRow, ...]
    starting: tuple[WorkerRow, ...]

    def __bool__(self) -> bool:
        return bool(self.before or self.starting)

    def text(self, with_seconds: bool = True) -> str:
        """Describe the wait in a phrase; empty if the batch does not wait."""
        parts = [describe_starting_worker(worker, with_seconds) for worker in self.starting]
        if self.before:
            videos = format_count(sum(batch.unfinished for batch in self.before), "video")
            batches = ", ".join(f"batch {batch.id} ({batch.name})" for batch in self.before[:3])
            more = f" and {format_count(len(self.before) - 3, 'other batch', 'other batches')}" * (len(self.before) > 3)
            parts.append(f"waits for {videos} of {batches}{more}")
        return "; ".join(parts)


def describe_starting_worker(worker: WorkerRow, with_seconds: bool = True) -> str:
    """Describe a starting worker, as in "worker-0: loading torch, 0:12"."""
    seconds = f", {format_duration(worker.seconds)}" if with_seconds and worker.seconds is not None else ""
    return f"{worker.short_name}: loading torch{seconds}"


def find_batch_wait(queue: QueueReader, batch: int) -> BatchWait:
    """Return what a batch waits for; empty if one of its videos runs, or it is paused, held or finished."""
    row = queue.batch(batch)
    if row is None or not row.unfinished or row.counts.get("running") or row.paused or queue.held():
        return BatchWait((), ())
    starting = tuple(worker for worker in queue.workers() if worker.state == "starting")
    return BatchWait(tuple(queue.batches_before(batch)), starting)
