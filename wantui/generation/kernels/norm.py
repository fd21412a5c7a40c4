"""Norms over the width of each position as one kernel, with preceding additions and following multiplications.

The order of summation is fixed here instead of by a compiler's autotuning: with the same GPU and software, a video has
the same bits in every process.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def fused_layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return `layer_norm` of a contiguous hidden of 16 bits."""
    return _norm(hidden, None, None, weight, bias, eps)


def fused_add_layer_norm(
    hidden: Tensor, added: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return `add_layer_norm` of contiguous 16-bit values. The sum overwrites added."""
    return added, _norm(hidden, added, gate, weight, bias, eps)


def fused_rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm of values [1, positions, width], contiguous and of 16 bits; weight is [width]."""
    return _norm(values, None, None, weight, None, eps)


def fused_add_to(hidden: Tensor, added: Tensor, gate: Tensor | None) -> Tensor:
    """Return `add_to` of contiguous 16-bit values. The sum overwrites added."""
    _launch(hidden, added, gate, None, None, None, 0.0)
    return added


def _norm(
    values: Tensor, added: Tensor | None, gate: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalise the sum, which overwrites the added values; without a bias, compute RMSNorm."""
    normed = torch.empty_like(values)
    _launch(values, added, gate, weight, bias, normed, eps)
    return normed


def _launch(
    values: Tensor,
    added: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    normed: Tensor | None,
    eps: float,
) -> None:
    _, positions, width = values.shape
    block = triton.next_power_of_2(width)
    # Pass an unused address in place of None.
    _kernel[(positions,)](
        *(values if part is None else part for part in (values, added, gate, weight, bias, normed)),
        width,
        eps,
        ADDS=added is not None,
        GATES=gate is not None,
        NORMS=normed is not None,
        CENTRES=bias is not None,
        BLOCK=block,
        num_warps=4 if block <= 2048 else 8,
    )


@triton.jit
def _kernel(
    values,
    added,
    gate,
    weight,
    bias,
    normed,
    width,
    eps,
    ADDS: tl.constexpr,  # noqa: N803
    GATES: tl.constexpr,  # noqa: N803
    NORMS: tl.constexpr,  # noqa: N803
    CENTRES: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    position = tl.program_id(0).to(tl.int64)
    along = tl.arange(0, BLOCK)
    inside = along < width
    at = position * width + along
    x = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        addend = tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
        if GATES:
            addend = addend * tl.load(gate + along, mask=inside, other=0.0)
        # Round the sum before the norm, like diffusers.
        rounded = (x + addend).to(added.dtype.element_ty)
        tl.store(added + at, rounded, mask=inside)
        x = rounded.to(tl.float32)
    if NORMS:
        if CENTRES:
            x = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
        y = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps)
        y = y * tl.load(weight + along, mask=inside, other=0.0).to(tl.float32)
        if CENTRES:
            y = y + tl.load(bias + along, mask=inside, other=0.0)
        tl.store(normed + at, y.to(normed.dtype.element_ty), mask=inside)
