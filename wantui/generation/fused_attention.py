"""Self- and cross-attention of Wan in fewer kernels, with values that the passes share computed once."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from wantui.generation import kernels
from wantui.generation.attention_backends import run_attention_kernel, split_projections
from wantui.generation.attention_hooks import is_observed, run_observers
from wantui.generation.fused_norm import apply_rms_norm
from wantui.generation.pass_cache import CrossAttentionKV, get_current_pass, merge_padding


class FusedSelfAttention(WanAttnProcessor):
    """Self-attention of a block with fused projections.

    Args:
        block_index: number of the block in the transformer.
        kernel_name: attention kernel, one of `attention_backends.KERNEL_NAMES`; native is torch's.
    """

    calls_observers = True

    def __init__(self, block_index: int, kernel_name: str) -> None:
        super().__init__()
        self.block_index, self.kernel_name = block_index, kernel_name

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Map hidden states [1, positions, width], or `fp8.QuantizedRows` of them, to the same shape.

        Args:
            rotary_emb: cos and sin, [1, positions, 1, dim] float32: each angle twice.
        """
        current_pass = get_current_pass()
        shared_step = None if current_pass is None or self.block_index > 0 else current_pass.step
        # An observer must see every pass: compute it instead of reusing the previous pass.
        if shared_step is not None and (not shared_step.has_two_passes or is_observed("self")):
            shared_step = None
        if shared_step is not None and shared_step.first_attention is not None:
            attention_output, shared_step.first_attention = shared_step.first_attention, None
            return attention_output
        projected = attn.to_qkv(hidden_states)
        cos, sin = rotary_emb
        apply_norm_and_rotary(projected, attn.norm_q.weight, attn.norm_k.weight, cos, sin, attn.norm_q.eps)
        query, key, value = split_projections(projected, attn.heads)
        attention_output = run_attention_kernel(query, key, value, self.kernel_name)
        attention_output = attention_output.flatten(2, 3).type_as(projected)
        attention_output = attn.to_out[0](run_observers("self", self.block_index, query, key, value, attention_output))
        if shared_step is not None:
            shared_step.first_attention = attention_output.clone()  # the caller may overwrite its tensor
        return attention_output


class FusedCrossAttention(WanAttnProcessor):
    """Cross-attention of a block with fused projections and merged text padding.

    Args:
        block_index: number of the block in the transformer.
    """

    calls_observers = True

    def __init__(self, block_index: int) -> None:
        super().__init__()
        self.block_index = block_index

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Map hidden states [1, positions, width], or `fp8.QuantizedRows` of them, and a text [1, 512, width] to the
        shape of the first."""
        query = apply_rms_norm(attn.to_q(hidden_states), attn.norm_q.weight, attn.norm_q.eps)
        query = query.unflatten(2, (attn.heads, -1))
        current_pass, has_observer = get_current_pass(), is_observed("cross")
        key_values_by_block: dict[int, CrossAttentionKV | None] = (
            {} if current_pass is None else current_pass.key_values_by_block
        )
        if key_values_by_block.get(self.block_index) is None or has_observer:
            key, value = attn.to_kv(encoder_hidden_states).chunk(2, 2)
            key = apply_rms_norm(key, attn.norm_k.weight, attn.norm_k.eps)
            key, value = (part.unflatten(2, query.shape[2:]) for part in (key, value))
        if self.block_index not in key_values_by_block:
            key_values_by_block[self.block_index] = merge_padding(key, value)
        merged_text = key_values_by_block[self.block_index]
        attention_output = (
            dispatch_attention_fn(query, key, value).flatten(2, 3)
            if merged_text is None
            else compute_cross_attention(query, merged_text)
        )
        if has_observer:
            attention_output = run_observers("cross", self.block_index, query, key, value, attention_output)
        return attn.to_out[0](attention_output)


def apply_norm_and_rotary(
    projected: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> None:
    """Apply RMSNorm and rotary embedding to query and key in place.

    Args:
        projected: [1, positions, 3 x width]: query, key and value side by side.
        query_weight, key_weight: [width], of the RMSNorms over all heads.
        cos, sin: [1, positions, 1, dim] float32, of the rotary embedding: each angle twice.
    """
    if kernels.can_use_kernels(projected):
        from wantui.generation.kernels.rotary import run_norm_rotary_kernel

        run_norm_rotary_kernel(projected, query_weight, key_weight, cos, sin, eps)
        return
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    for values, weight in zip(projected.chunk(3, 2), (query_weight, key_weight), strict=False):
        pairs = apply_rms_norm(values, weight, eps).unflatten(2, (-1, cos.shape[3], 2))
        first, second = pairs.unbind(4)
        values.copy_(torch.stack([first * cos - second * sin, first * sin + second * cos], 4).flatten(2))


def compute_cross_attention(query: Tensor, key_values: CrossAttentionKV) -> Tensor:
    """Return [1, positions, heads x dim] of query [1, positions, heads, dim].

    The logit of the last column counts for all padding that the column represents.
    """
    if kernels.can_use_kernels(query):
        from wantui.generation.kernels.cross_attention import run_cross_attention_kernel

        return run_cross_attention_kernel(query, key_values.keys, key_values.values, key_values.padding_count)
    bias = torch.zeros(1, len(key_values.keys), device=query.device, dtype=query.dtype)
    bias[0, -1] = math.log(key_values.padding_count)
    query, key, value = (part.transpose(1, 2) for part in (query, key_values.keys[None], key_values.values[None]))
    attention_output = F.scaled_dot_product_attention(query, key, value, bias)
    return attention_output.transpose(1, 2).flatten(2)
