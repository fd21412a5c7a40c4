"""Self- and cross-attention of Wan in fewer kernels, with values that the passes share computed once."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from wantui.generation import kernels
from wantui.generation.attention_hooks import is_observed, observe
from wantui.generation.fused_norm import rms_norm
from wantui.generation.pass_cache import CrossAttentionKV, current_pass, merge_padding


class FusedSelfAttention(WanAttnProcessor):
    """Self-attention of a block with fused projections.

    Args:
        block: number of the block in the transformer.
        kernel: attention kernel, by its name in diffusers; native is torch's.
    """

    observes = True

    def __init__(self, block: int, kernel: str) -> None:
        super().__init__()
        self.block, self.kernel = block, kernel

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Map hidden states [1, positions, width] to the same shape.

        Args:
            rotary_emb: cos and sin, [1, positions, 1, dim] float32: each angle twice.
        """
        now = current_pass()
        # An observer must see every pass: compute it instead of reusing the previous pass.
        shares = now is not None and now.step.has_two_passes and self.block == 0 and not is_observed("self")
        step = now.step if now is not None and shares else None
        if step is not None and step.first_attention is not None:
            attended, step.first_attention = step.first_attention, None
            return attended
        projected = attn.to_qkv(hidden_states)
        cos, sin = rotary_emb
        apply_norm_rotary(projected, attn.norm_q.weight, attn.norm_k.weight, cos, sin, attn.norm_q.eps)
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in projected.chunk(3, 2))
        attended = dispatch_attention_fn(query, key, value, backend=AttentionBackendName(self.kernel))
        attended = attended.flatten(2, 3).type_as(hidden_states)
        attended = attn.to_out[0](observe("self", self.block, query, key, value, attended))
        if step is not None:
            step.first_attention = attended.clone()  # the caller may overwrite its tensor
        return attended


class FusedTextAttention(WanAttnProcessor):
    """Cross-attention of a block with fused projections and merged text padding.

    Args:
        block: number of the block in the transformer.
    """

    observes = True

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Map hidden states [1, positions, width] and a text [1, 512, width] to the shape of the first."""
        query = rms_norm(attn.to_q(hidden_states), attn.norm_q.weight, attn.norm_q.eps)
        query = query.unflatten(2, (attn.heads, -1))
        now, watched = current_pass(), is_observed("cross")
        texts: dict[int, CrossAttentionKV | None] = {} if now is None else now.texts
        if texts.get(self.block) is None or watched:
            key, value = attn.to_kv(encoder_hidden_states).chunk(2, 2)
            key = rms_norm(key, attn.norm_k.weight, attn.norm_k.eps)
            key, value = (part.unflatten(2, query.shape[2:]) for part in (key, value))
        if self.block not in texts:
            texts[self.block] = merge_padding(key, value)
        cached_text = texts[self.block]
        attended = (
            dispatch_attention_fn(query, key, value).flatten(2, 3)
            if cached_text is None
            else attend_to(query, cached_text)
        )
        if watched:
            attended = observe("cross", self.block, query, key, value, attended)
        return attn.to_out[0](attended)


def apply_norm_rotary(
    projected: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> None:
    """Apply RMSNorm and rotary embedding to query and key in place.

    Args:
        projected: [1, positions, 3 x width]: query, key and value side by side.
        query_weight, key_weight: [width], of the RMSNorms over all heads.
        cos, sin: [1, positions, 1, dim] float32, of the rotary embedding: each angle twice.
    """
    if kernels.serve(projected):
        from wantui.generation.kernels.rotary import fused_norm_rotary

        fused_norm_rotary(projected, query_weight, key_weight, cos, sin, eps)
        return
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    for values, weight in zip(projected.chunk(3, 2), (query_weight, key_weight), strict=False):
        pairs = rms_norm(values, weight, eps).unflatten(2, (-1, cos.shape[3], 2))
        first, second = pairs.unbind(4)
        values.copy_(torch.stack([first * cos - second * sin, first * sin + second * cos], 4).flatten(2))


def attend_to(query: Tensor, text: CrossAttentionKV) -> Tensor:
    """Return [1, positions, heads x dim] of query [1, positions, heads, dim]; a pad's logit counts for all pads it
    represents."""
    if kernels.serve(query):
        from wantui.generation.kernels.cross_attention import fused_attend_to

        return fused_attend_to(query, text.keys, text.values, text.padding_count)
    bias = torch.zeros(1, len(text.keys), device=query.device, dtype=query.dtype)
    bias[0, -1] = math.log(text.padding_count)
    query, key, value = (part.transpose(1, 2) for part in (query, text.keys[None], text.values[None]))
    attended = F.scaled_dot_product_attention(query, key, value, bias)
    return attended.transpose(1, 2).flatten(2)
