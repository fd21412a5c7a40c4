"""A block's norms, with what is added before them: two operators that a compiler of blocks leaves whole, and RMSNorm.

hidden and added are of one precision and of shape [1, places, width]; gate, weight and bias are float32, [width].
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.generation import kernels


@torch.library.custom_op("wantui::layer_norm", mutates_args=())
def layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the width of hidden, times weight, plus bias; computed in float32."""
    hidden = hidden.contiguous()
    if kernels.serve(hidden):
        from wantui.generation.kernels.norm import fused_layer_norm

        return fused_layer_norm(hidden, weight, bias, eps)
    return _layer_norm(hidden, weight, bias, eps)


@layer_norm.register_fake
def _(hidden: Tensor, *_: Any) -> Tensor:
    return hidden.new_empty(hidden.shape)


@torch.library.custom_op("wantui::add_layer_norm", mutates_args=())
def add_layer_norm(
    hidden: Tensor, added: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """hidden + gate x added, in hidden's precision, and what `layer_norm` makes of it; a gate of None is 1."""
    hidden, added = hidden.contiguous(), added.contiguous()
    if kernels.serve(hidden):
        from wantui.generation.kernels.norm import fused_add_layer_norm

        return fused_add_layer_norm(hidden, added, gate, weight, bias, eps)
    total = (hidden + (added if gate is None else added * gate)).to(hidden.dtype)
    return total, _layer_norm(total, weight, bias, eps)


@add_layer_norm.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape), hidden.new_empty(hidden.shape)


def _layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return F.layer_norm(wide, weight.shape, weight.to(wide.dtype), bias.to(wide.dtype), eps).to(hidden.dtype)


def rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the width of values [1, places, width], of weight's precision; for use inside an operator."""
    if kernels.serve(values):
        from wantui.generation.kernels.norm import fused_rms_norm

        return fused_rms_norm(values.contiguous(), weight, eps)
    return F.rms_norm(values, weight.shape, weight, eps)
