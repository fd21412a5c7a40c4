"""Describe what a batch waits for before its first video starts."""

from dataclasses import dataclass

from wantui.formatting import format_count, format_duration
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, WorkerRow


@dataclass(frozen=True)
class BatchWait:
    """Work before the first video of a batch: earlier batches, and starting workers."""

    earlier_batches: tuple[BatchRow, ...]
    starting_workers: tuple[WorkerRow, ...]

    def __bool__(self) -> bool:
        return bool(self.earlier_batches or self.starting_workers)

    def describe(self, with_seconds: bool = True) -> str:
        """Describe the wait in a phrase; empty if the batch does not wait."""
        parts = [describe_starting_worker(worker, with_seconds) for worker in self.starting_workers]
        if self.earlier_batches:
            videos = format_count(sum(batch.unfinished for batch in self.earlier_batches), "video")
            batches = ", ".join(f"batch {batch.id} ({batch.name})" for batch in self.earlier_batches[:3])
            omitted_text = f" and {format_count(len(self.earlier_batches) - 3, 'other batch', 'other batches')}" * (
                len(self.earlier_batches) > 3
            )
            parts.append(f"waits for {videos} of {batches}{omitted_text}")
        return "; ".join(parts)


def describe_starting_worker(worker: WorkerRow, with_seconds: bool = True) -> str:
    """Describe a starting worker, as in "worker-0: loading torch, 0:12"."""
    seconds = f", {format_duration(worker.seconds)}" if with_seconds and worker.seconds is not None else ""
    return f"{worker.short_name}: loading torch{seconds}"


def find_batch_wait(queue: QueueReader, batch: int) -> BatchWait:
    """Return what a batch waits for; empty if one of its videos runs, or it is paused, held or finished."""
    row = queue.batch(batch)
    if row is None or not row.unfinished or row.counts.get("running") or row.paused or queue.read_hold():
        return BatchWait((), ())
    starting = tuple(worker for worker in queue.workers() if worker.state == "starting")
    return BatchWait(tuple(queue.list_batches_before(batch)), starting)
