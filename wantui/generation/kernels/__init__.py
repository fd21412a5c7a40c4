"""Triton kernels; their modules are imported only if these functions return True."""

import importlib.util

import torch
from torch import Tensor

from wantui.generation.errors import LoadError
from wantui.planning.requirements import explain_missing_compiler

KERNEL_DTYPES = (torch.bfloat16, torch.float16)
"""Dtypes of the kernels, except those of the decoder."""


def find_triton_version() -> str | None:
    """Return the version of Triton, which builds the kernels; None if it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


def can_use_kernels(values: Tensor) -> bool:
    """Return whether these kernels support a tensor: 16-bit floats on a GPU, with Triton installed."""
    return values.dtype in KERNEL_DTYPES and _is_on_gpu_with_triton(values)


def can_use_float32_kernels(values: Tensor) -> bool:
    """Return whether the decoder's kernels support a tensor: float32 on a GPU, with Triton installed."""
    return values.dtype == torch.float32 and _is_on_gpu_with_triton(values)


def check_attention_kernels_can_be_built(device: torch.device, dtype: torch.dtype) -> None:
    """Check before the first step that the kernels which observe attention on a GPU can be built.

    Raises:
        LoadError: Triton is installed, but no compiler. Without Triton, torch computes the same values.
    """
    uses_kernels = device.type == "cuda" and dtype in KERNEL_DTYPES and find_triton_version() is not None
    if uses_kernels and (missing_compiler := explain_missing_compiler()):
        raise LoadError(
            f"attention maps, word weights and bends compile kernels on this machine, but {missing_compiler}. Install "
            "it, or set model_settings.dtype: float32"
        )


def _is_on_gpu_with_triton(values: Tensor) -> bool:
    return values.is_cuda and importlib.util.find_spec("triton") is not None
