"""Triton kernels; their modules are imported only if `can_use_kernels` returns True."""

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
    is_16_bit = values.dtype in (torch.bfloat16, torch.float16)
    return values.is_cuda and is_16_bit and importlib.util.find_spec("triton") is not None
