"""Classify CUDA errors: a lack of memory, a refused operation, and a GPU that this process can no longer use."""

from collections.abc import Sequence

import torch

OUT_OF_MEMORY_MESSAGES = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Parts of the out-of-memory messages of CUDA (also for pinned memory), Triton and CUDA's libraries."""
ALLOCATOR_NVML_MESSAGES = ("NVML_SUCCESS == r INTERNAL ASSERT FAILED", "CUDACachingAllocator")
"""Parts of the message of torch's allocator that is out of memory, and cannot ask the driver which processes use it.

This happens on MIG instances and in some containers (pytorch issue 112377)."""
FATAL_CUDA_MESSAGES = ("CUDA error", "Triton Error [CUDA]", "CUBLAS_STATUS", "CUDNN_STATUS", "device-side assert")
REFUSAL_MESSAGES = (
    "CUBLAS_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_INVALID_VALUE",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_BAD_PARAM",
)
"""Parts of messages from libraries that refuse an operation before they start it, so that the GPU still works."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an operation ran out of memory, and the GPU still works."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    message = str(error)
    return all(part in message for part in ALLOCATOR_NVML_MESSAGES) or (
        _contains_any(message, FATAL_CUDA_MESSAGES) and _contains_any(message, OUT_OF_MEMORY_MESSAGES)
    )


def is_fatal_cuda_error(error: BaseException | None) -> bool:
    """Return whether this process can no longer use the GPU, for example after an illegal memory access."""
    while error is not None:
        if (
            isinstance(error, RuntimeError)
            and not is_out_of_memory(error)
            and not _contains_any(str(error), REFUSAL_MESSAGES)
            and _contains_any(str(error), FATAL_CUDA_MESSAGES)
        ):
            return True
        error = error.__cause__
    return False


def _contains_any(text: str, substrings: Sequence[str]) -> bool:
    return any(word in text for word in substrings)
