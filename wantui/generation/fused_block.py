"""Blocks that add the output of their attention within the kernel of the following norm, and round the norm to FP8."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from wantui.generation.fp8 import quantize_layer_norm
from wantui.generation.fused_norm import add_and_layer_norm, add_gated, apply_layer_norm

AddAndNorm = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Any]]
"""Function of hidden, added, gate, weight, bias and eps that returns the sum and its norm, as `quantize_layer_norm`."""


def forward_fused_block(
    block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any
) -> Tensor:
    """Compute a block in place of diffusers' `WanTransformerBlock.forward`, with its arguments.

    Args:
        temb: [1, 6, width]: all positions have the same timestep.
    """
    return _forward_block(block, hidden_states, encoder_hidden_states, temb, rotary_emb, _add_and_norm)


def forward_fp8_block(
    block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any
) -> Tensor:
    """Compute a block with products in FP8 like `forward_fused_block`; the kernels of the norms round to e4m3."""
    return _forward_block(block, hidden_states, encoder_hidden_states, temb, rotary_emb, quantize_layer_norm)


def _add_and_norm(
    hidden: Tensor, added: Tensor | None, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    if added is None:
        return hidden, apply_layer_norm(hidden, weight, bias, eps)
    return add_and_layer_norm(hidden, added, gate, weight, bias, eps)


def _forward_block(
    block: Any,
    hidden: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    rotary_emb: Any,
    add_and_norm: AddAndNorm,
) -> Tensor:
    attention_shift, attention_scale, attention_gate, feed_forward_shift, feed_forward_scale, feed_forward_gate = (
        _compute_modulation(block, temb)
    )
    hidden, normed = add_and_norm(hidden, None, None, 1 + attention_scale, attention_shift, block.norm1.eps)
    attention_output = block.attn1(normed, None, None, rotary_emb)
    norm = block.norm2
    hidden, normed = add_and_norm(hidden, attention_output, attention_gate, norm.weight, norm.bias, norm.eps)
    attention_output = block.attn2(normed, encoder_hidden_states, None, None)
    hidden, normed = add_and_norm(
        hidden, attention_output, None, 1 + feed_forward_scale, feed_forward_shift, block.norm3.eps
    )
    return add_gated(hidden, block.ffn(normed), feed_forward_gate)


def _compute_modulation(block: Any, temb: Tensor) -> tuple[Tensor, ...]:
    """Return shift, scale and gate [width] float32, first of the self-attention, then of the feed-forward layer."""
    assert temb.ndim == 3
    return (block.scale_shift_table + temb.float())[0].unbind(0)
