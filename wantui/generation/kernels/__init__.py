"""Triton kernels, in modules that are imported only where they serve."""

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
    """Return whether these kernels support values: of 16 bits, on a GPU, with Triton installed."""
    narrow = values.dtype in (torch.bfloat16, torch.float16)
    return values.is_cuda and narrow and importlib.util.find_spec("triton") is not None
