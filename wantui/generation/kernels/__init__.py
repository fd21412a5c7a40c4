"""Triton kernels; their modules are imported only if `serve` returns True."""

import importlib.util

import torch
from torch import Tensor


def triton_version() -> str | None:
    """Return the version of Triton, which builds the kernels; None if it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


def serve(values: Tensor) -> bool:
    """Return whether these kernels support a tensor: 16-bit floats on a GPU, with Triton installed."""
    narrow = values.dtype in (torch.bfloat16, torch.float16)
    return values.is_cuda and narrow and importlib.util.find_spec("triton") is not None
