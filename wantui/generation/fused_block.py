"""A block that adds the output of its attention within the kernel of the following norm."""

from typing import Any

from torch import Tensor

from wantui.generation.fused_norm import add_layer_norm, add_to, layer_norm


def forward(block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any) -> Tensor:
    """Compute a block in place of diffusers' `WanTransformerBlock.forward`, with its arguments.

    Args:
        temb: [1, 6, width]: all positions have the same timestep.
    """
    assert temb.ndim == 3
    modulation = (block.scale_shift_table + temb.float())[0].unbind(0)
    shift, scale, gate, text_shift, text_scale, text_gate = modulation
    normed = layer_norm(hidden_states, 1 + scale, shift, block.norm1.eps)
    added = block.attn1(normed, None, None, rotary_emb)
    norm = block.norm2
    hidden, normed = add_layer_norm(hidden_states, added, gate, norm.weight, norm.bias, norm.eps)
    added = block.attn2(normed, encoder_hidden_states, None, None)
    hidden, normed = add_layer_norm(hidden, added, None, 1 + text_scale, text_shift, block.norm3.eps)
    return add_to(hidden, block.ffn(normed), text_gate)
