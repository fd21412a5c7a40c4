"""Norms of a block, with the additions before them.

hidden and added have the same dtype, and the shape [1, positions, width]; gate, weight and bias are float32 [width].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.generation import kernels


def apply_layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm over the width of hidden, times weight, plus bias; computed in float32."""
    if kernels.can_use_kernels(hidden):
        from wantui.generation.kernels.norm import run_layer_norm_kernel

        return run_layer_norm_kernel(hidden.contiguous(), weight, bias, eps)
    wide_hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return F.layer_norm(wide_hidden, weight.shape, weight.to(wide_hidden.dtype), bias.to(wide_hidden.dtype), eps).to(
        hidden.dtype
    )


def add_gated(hidden: Tensor, added: Tensor, gate: Tensor | None) -> Tensor:
    """Return hidden + gate x added, in the precision of hidden; a gate of None is 1. The result may overwrite added."""
    if kernels.can_use_kernels(hidden):
        from wantui.generation.kernels.norm import run_add_kernel

        return run_add_kernel(hidden.contiguous(), added.contiguous(), gate)
    return added.copy_(hidden + (added if gate is None else added * gate))


def add_and_layer_norm(
    hidden: Tensor, added: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the sum that `add_gated` computes, and the LayerNorm of this sum."""
    if kernels.can_use_kernels(hidden):
        from wantui.generation.kernels.norm import run_add_layer_norm_kernel

        return run_add_layer_norm_kernel(hidden.contiguous(), added.contiguous(), gate, weight, bias, eps)
    hidden_sum = add_gated(hidden, added, gate)
    return hidden_sum, apply_layer_norm(hidden_sum, weight, bias, eps)


def apply_rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm over the width of values [1, positions, width], in weight's precision."""
    if kernels.can_use_kernels(values):
        from wantui.generation.kernels.norm import run_rms_norm_kernel

        return run_rms_norm_kernel(values.contiguous(), weight, eps)
    return F.rms_norm(values, weight.shape, weight, eps)
