"""Choose the GPUs of the next worker process: those of one slot, or of two for videos that two GPUs compute."""

from collections.abc import Collection, Sequence

from wantui.engine.slots import WorkerSlot


def is_lent(slot: WorkerSlot, slots: Sequence[WorkerSlot]) -> bool:
    """Return whether the process of another slot uses the GPU of this slot."""
    return any(other.partner is slot for other in slots if other.process is not None)


def prepare_slot(slot: WorkerSlot, slots: Sequence[WorkerSlot], gpu_count: int, busy_workers: Collection[str]) -> bool:
    """Choose the GPUs for the next process of a free slot; return False to wait.

    Without a possible partner, the process serves videos for one GPU and for two; it reports that it has one. An idle
    process on a possible partner ends by itself, because the next video is not for it.

    Args:
        slot: slot without a process, whose GPU is not lent.
        gpu_count: number of GPUs for the next video.
        busy_workers: names of the workers that render a video.
    """
    slot.partner, slot.gpu_counts = None, (1,)
    if gpu_count == 1:
        return True
    candidates = [other for other in slots if slot.can_pair_with(other) and not is_lent(other, slots)]
    if not slot.avoids_partner:
        slot.partner = next((other for other in candidates if other.process is None), None)
        if slot.partner is not None:
            slot.gpu_counts = (2,)
            return True
        if any(other.partner is None and other.worker_name not in busy_workers for other in candidates):
            return False
    slot.gpu_counts = (1, 2)
    return True
