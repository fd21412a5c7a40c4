"""Norms of a block, with the additions before them.

hidden and added are of one precision and of shape [1, positions, width]; gate, weight and bias are float32, [width].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.generation import kernels


def layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm over the width of hidden, times weight, plus bias; computed in float32."""
    if kernels.serve(hidden):
        from wantui.generation.kernels.norm import fused_layer_norm

        return fused_layer_norm(hidden.contiguous(), weight, bias, eps)
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return F.layer_norm(wide, weight.shape, weight.to(wide.dtype), bias.to(wide.dtype), eps).to(hidden.dtype)


def add_to(hidden: Tensor, added: Tensor, gate: Tensor | None) -> Tensor:
    """Return hidden + gate x added, in their precision; a gate of None is 1. The result may overwrite added."""
    if kernels.serve(hidden):
        from wantui.generation.kernels.norm import fused_add_to

        return fused_add_to(hidden.contiguous(), added.contiguous(), gate)
    return added.copy_(hidden + (added if gate is None else added * gate))


def add_layer_norm(
    hidden: Tensor, added: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the result of `add_to`, and its `layer_norm`."""
    if kernels.serve(hidden):
        from wantui.generation.kernels.norm import fused_add_layer_norm

        return fused_add_layer_norm(hidden.contiguous(), added.contiguous(), gate, weight, bias, eps)
    total = add_to(hidden, added, gate)
    return total, layer_norm(total, weight, bias, eps)


def rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm over the width of values [1, positions, width], in weight's precision."""
    if kernels.serve(values):
        from wantui.generation.kernels.norm import fused_rms_norm

        return fused_rms_norm(values.contiguous(), weight, eps)
    return F.rms_norm(values, weight.shape, weight, eps)
