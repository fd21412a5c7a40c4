"""Blocks that add the output of their attention within the kernel of the following norm, and round the norm to FP8."""

from typing import Any

from torch import Tensor

from wantui.generation.fp8 import quantize_layer_norm
from wantui.generation.fused_norm import add_and_layer_norm, add_gated, apply_layer_norm


def forward_fused_block(
    block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any
) -> Tensor:
    """Compute a block in place of diffusers' `WanTransformerBlock.forward`, with its arguments.

    Args:
        temb: [1, 6, width]: all positions have the same timestep.
    """
    attention_shift, attention_scale, attention_gate, feed_forward_shift, feed_forward_scale, feed_forward_gate = (
        _compute_modulation(block, temb)
    )
    normed = apply_layer_norm(hidden_states, 1 + attention_scale, attention_shift, block.norm1.eps)
    attention_output = block.attn1(normed, None, None, rotary_emb)
    norm = block.norm2
    hidden, normed = add_and_layer_norm(
        hidden_states, attention_output, attention_gate, norm.weight, norm.bias, norm.eps
    )
    attention_output = block.attn2(normed, encoder_hidden_states, None, None)
    hidden, normed = add_and_layer_norm(
        hidden, attention_output, None, 1 + feed_forward_scale, feed_forward_shift, block.norm3.eps
    )
    return add_gated(hidden, block.ffn(normed), feed_forward_gate)


def forward_fp8_block(
    block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any
) -> Tensor:
    """Compute a block with products in FP8 like `forward_fused_block`; the kernels of the norms round to e4m3."""
    attention_shift, attention_scale, attention_gate, feed_forward_shift, feed_forward_scale, feed_forward_gate = (
        _compute_modulation(block, temb)
    )
    _, rows = quantize_layer_norm(hidden_states, None, None, 1 + attention_scale, attention_shift, block.norm1.eps)
    attention_output = block.attn1(rows, None, None, rotary_emb)
    norm = block.norm2
    hidden, rows = quantize_layer_norm(
        hidden_states, attention_output, attention_gate, norm.weight, norm.bias, norm.eps
    )
    attention_output = block.attn2(rows, encoder_hidden_states, None, None)
    hidden, rows = quantize_layer_norm(
        hidden, attention_output, None, 1 + feed_forward_scale, feed_forward_shift, block.norm3.eps
    )
    return add_gated(hidden, block.ffn(rows), feed_forward_gate)


def _compute_modulation(block: Any, temb: Tensor) -> tuple[Tensor, ...]:
    """Return shift, scale and gate [width] float32 of the self-attention, and those of the feed-forward layer."""
    assert temb.ndim == 3
    return (block.scale_shift_table + temb.float())[0].unbind(0)
