"""A block that adds the output of its attention within the kernel of the following norm."""

from typing import Any

from torch import Tensor

from wantui.generation.fused_norm import add_and_layer_norm, add_gated, apply_layer_norm


def forward_fused_block(
    block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any
) -> Tensor:
    """Compute a block in place of diffusers' `WanTransformerBlock.forward`, with its arguments.

    Args:
        temb: [1, 6, width]: all positions have the same timestep.
    """
    assert temb.ndim == 3
    modulation = (block.scale_shift_table + temb.float())[0].unbind(0)
    attention_shift, attention_scale, attention_gate, feed_forward_shift, feed_forward_scale, feed_forward_gate = (
        modulation
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
