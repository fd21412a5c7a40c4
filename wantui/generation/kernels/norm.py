"""Norms over the width of each position as one kernel, with preceding additions and following multiplications.

The order of summation is fixed here instead of by a compiler's autotuning: with the same GPU and software, a video has
the same bits in every process.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wantui.generation.kernels.quantize import scale_to_e4m3


def run_layer_norm_kernel(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Compute `apply_layer_norm` for contiguous 16-bit hidden values."""
    return _normalise_sum(hidden, None, None, weight, bias, eps)


def run_add_layer_norm_kernel(
    hidden: Tensor, added: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute `add_and_layer_norm` for contiguous 16-bit values. The sum overwrites `added`."""
    return added, _normalise_sum(hidden, added, gate, weight, bias, eps)


def run_quantized_layer_norm_kernel(
    hidden: Tensor,
    added: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> tuple[Tensor, Tensor]:
    """Add contiguous 16-bit values, and return the LayerNorm of the sum in e4m3, with a scale for each row.

    The sum overwrites added; without added, hidden is normalised.

    Args:
        dtype: another dtype of the result, for tests.

    Returns:
        The rounded norm, like hidden, and scales [positions, 1] float32.
    """
    normed = torch.empty(hidden.shape, dtype=dtype, device=hidden.device)
    scales = torch.empty(hidden.shape[1], 1, dtype=torch.float32, device=hidden.device)
    _launch_norm_kernel(hidden, added, gate, weight, bias, normed, eps, scales)
    return normed, scales


def run_rms_norm_kernel(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm of contiguous 16-bit values [1, positions, width]; weight is [width]."""
    return _normalise_sum(values, None, None, weight, None, eps)


def run_add_kernel(hidden: Tensor, added: Tensor, gate: Tensor | None) -> Tensor:
    """Compute `add_gated` for contiguous 16-bit values. The sum overwrites `added`."""
    _launch_norm_kernel(hidden, added, gate, None, None, None, 0.0)
    return added


def _normalise_sum(
    values: Tensor, added: Tensor | None, gate: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalise the sum, which overwrites the added values; without a bias, compute RMSNorm."""
    normed = torch.empty_like(values)
    _launch_norm_kernel(values, added, gate, weight, bias, normed, eps)
    return normed


def _launch_norm_kernel(
    values: Tensor,
    added: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    normed: Tensor | None,
    eps: float,
    scales: Tensor | None = None,
) -> None:
    _, positions, width = values.shape
    padded_width = triton.next_power_of_2(width)
    # Pass an unused address in place of None.
    _norm_kernel[(positions,)](
        *(values if part is None else part for part in (values, added, gate, weight, bias, normed, scales)),
        width,
        eps,
        HAS_ADDED=added is not None,
        HAS_GATE=gate is not None,
        HAS_NORM=normed is not None,
        IS_LAYER_NORM=bias is not None,
        QUANTIZES=scales is not None,
        PADDED_WIDTH=padded_width,
        num_warps=4 if padded_width <= 2048 else 8,
    )


@triton.jit
def _norm_kernel(
    values,  # [positions, width], contiguous
    added,  # [positions, width], contiguous; overwritten by the sum
    gate,  # [width] float32
    weight,  # [width]
    bias,  # [width]
    normed,  # [positions, width], contiguous
    scales,  # [positions] float32
    width,
    eps,
    HAS_ADDED: tl.constexpr,  # noqa: N803
    HAS_GATE: tl.constexpr,  # noqa: N803
    HAS_NORM: tl.constexpr,  # noqa: N803
    IS_LAYER_NORM: tl.constexpr,  # noqa: N803 - otherwise RMSNorm
    QUANTIZES: tl.constexpr,  # noqa: N803 - to e4m3, with a scale for each position
    PADDED_WIDTH: tl.constexpr,  # noqa: N803 - power of 2
):
    position = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED_WIDTH)
    is_inside = columns < width
    offsets = position * width + columns
    x = tl.load(values + offsets, mask=is_inside, other=0.0).to(tl.float32)
    if HAS_ADDED:
        addend = tl.load(added + offsets, mask=is_inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            addend = addend * tl.load(gate + columns, mask=is_inside, other=0.0)
        # Round the sum before the norm, like diffusers.
        rounded = (x + addend).to(added.dtype.element_ty)
        tl.store(added + offsets, rounded, mask=is_inside)
        x = rounded.to(tl.float32)
    if HAS_NORM:
        if IS_LAYER_NORM:
            x = tl.where(is_inside, x - tl.sum(x, 0) / width, 0.0)
        y = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps)
        y = y * tl.load(weight + columns, mask=is_inside, other=0.0).to(tl.float32)
        if IS_LAYER_NORM:
            y = y + tl.load(bias + columns, mask=is_inside, other=0.0)
        if QUANTIZES:
            y, scale = scale_to_e4m3(y)
            tl.store(scales + position, scale)
        tl.store(normed + offsets, y.to(normed.dtype.element_ty), mask=is_inside)
