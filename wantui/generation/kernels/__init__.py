"""Triton kernels; their modules are imported only if these functions return True."""

import importlib.util

import torch
from torch import Tensor


def find_triton_version() -> str | None:
    """Return the version of Triton, which builds the kernels; None if it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


def can_use_kernels(values: Tensor) -> bool:
    """Return whether these kernels support a tensor: 16-bit floats on a GPU, with Triton installed."""
    return values.dtype in (torch.bfloat16, torch.float16) and _is_on_gpu_with_triton(values)


def can_use_float32_kernels(values: Tensor) -> bool:
    """Return whether the decoder's kernels support a tensor: float32 on a GPU, with Triton installed."""
    return values.dtype == torch.float32 and _is_on_gpu_with_triton(values)


def _is_on_gpu_with_triton(values: Tensor) -> bool:
    return values.is_cuda and importlib.util.find_spec("triton") is not None
