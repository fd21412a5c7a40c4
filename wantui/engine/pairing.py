"""Choose the GPUs of the next worker process: the GPU of one slot, or of two slots for videos that use two GPUs."""

from collections.abc import Collection, Sequence

from wantui.engine.slots import WorkerSlot


def is_gpu_borrowed(slot: WorkerSlot, slots: Sequence[WorkerSlot]) -> bool:
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
    slot.partner, slot.gpu_counts, slot.one_gpu_reason = None, (1,), ""
    if gpu_count == 1:
        return True
    candidates = [other for other in slots if slot.can_pair_with(other) and not is_gpu_borrowed(other, slots)]
    if not slot.uses_one_gpu_only:
        if not slot.is_bad_partner:
            slot.partner = next((other for other in candidates if other.process is None), None)
        if slot.partner is not None:
            slot.gpu_counts = (2,)
            return True
        running_slots = [other for other in candidates if other.process is not None]
        if any(other.partner is None and other.worker_name not in busy_workers for other in running_slots):
            return False
    slot.gpu_counts, slot.one_gpu_reason = (1, 2), _explain_one_gpu(slot, slots)
    return True


def _explain_one_gpu(slot: WorkerSlot, slots: Sequence[WorkerSlot]) -> str:
    """Return why a slot cannot get a second GPU until the engine restarts; empty if it only waits for a free GPU."""
    if slot.uses_one_gpu_only:
        return f"an earlier process of {slot.name} died while using two GPUs"
    has_bad_partner = any(slot.has_equal_gpu(other) and other.is_bad_partner for other in slots)
    if slot.is_bad_partner or (has_bad_partner and not any(slot.can_pair_with(other) for other in slots)):
        return "the second GPU failed during an earlier video"
    return ""
