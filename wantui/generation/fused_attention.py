"""Wan's two attentions, each as one operator, which a compiler of blocks leaves whole."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from wantui.generation import kernels
from wantui.generation.fused_linear import linear
from wantui.generation.fused_norm import rms_norm
from wantui.generation.observed import observer
from wantui.generation.passes import Text, running, taken_together


class FusedSelfAttention(WanAttnProcessor):
    """Of blocks with fused projections, which have been told their number.

    Args:
        kernel: as diffusers calls it; native is torch's own.
    """

    def __init__(self, kernel: str) -> None:
        super().__init__()
        self.kernel = kernel

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        return self_attention(
            hidden_states,
            attn.to_qkv.weight,
            attn.to_qkv.bias,
            attn.norm_q.weight,
            attn.norm_k.weight,
            *rotary_emb,
            attn.to_out[0].weight,
            attn.to_out[0].bias,
            attn.norm_q.eps,
            attn.wantui_block,
            self.kernel,
        )


class FusedTextAttention(WanAttnProcessor):
    """Of the same blocks; an observer of the pass sees what it does."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        assert encoder_hidden_states is not None
        attended = text_attention(
            attn.to_q(hidden_states),
            encoder_hidden_states,
            attn.to_kv.weight,
            attn.to_kv.bias,
            attn.norm_q.weight,
            attn.norm_k.weight,
            attn.norm_q.eps,
            attn.heads,
            attn.wantui_block,
        )
        return attn.to_out[1](attn.to_out[0](attended))


@torch.library.custom_op("wantui::self_attention", mutates_args=())
def self_attention(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    eps: float,
    block: Tensor,
    kernel: str,
) -> Tensor:
    """From hidden [1, places, width] to the same shape, with all projections.

    Args:
        weight, bias: [3 x width, width] and [3 x width], of query, key and value.
        query_weight, key_weight: [width], of the RMSNorms over all heads.
        cos, sin: [1, places, 1, dim] float32, of the rotary embedding: each angle twice.
        out_weight, out_bias: of the projection of the output.
        block: its number in the transformer, on the CPU.
        kernel: of the attention, as diffusers calls it.
    """
    now = running()
    step = now.step if now is not None and now.step.has_two and int(block) == 0 else None
    if step is not None and step.attended is not None:
        attended, step.attended = step.attended, None
        return attended
    projected = linear(hidden, weight, bias)
    norm_rotary(projected, query_weight, key_weight, cos, sin, eps)
    query, key, value = (part.unflatten(2, (-1, cos.shape[3])) for part in projected.chunk(3, 2))
    backend = AttentionBackendName(kernel)
    attended = dispatch_attention_fn(query, key, value, backend=backend).flatten(2, 3).type_as(hidden)
    attended = linear(attended, out_weight, out_bias)
    if step is not None:
        step.attended = attended.clone()  # whoever is given the other one may write over it
    return attended


@self_attention.register_fake
def _(hidden: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(hidden)


def norm_rotary(
    projected: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> None:
    """Take query and key through RMSNorm and rotary embedding, in place.

    Args:
        projected: [1, places, 3 x width]: query, key and value side by side. Others as of `self_attention`.
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


@torch.library.custom_op("wantui::text_attention", mutates_args=())
def text_attention(
    projected: Tensor,
    text: Tensor,
    weight: Tensor,
    bias: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    eps: float,
    heads: int,
    block: Tensor,
) -> Tensor:
    """Output [1, places, width] of attention to a text, before its projection.

    Args:
        projected: [1, places, width], the query before its norm. text: [1, 512, width].
        weight, bias: [2 x width, width] and [2 x width], of key and value.
        query_weight, key_weight: [width], of the RMSNorms over all heads.
        block: its number in the transformer, on the CPU.
    """
    query = rms_norm(projected, query_weight, eps).unflatten(2, (heads, -1))
    now, watching = running(), observer()
    index = int(block)
    texts: dict[int, Text | None] = {} if now is None else now.texts
    if texts.get(index) is None or watching is not None:
        key, value = linear(text, weight, bias).chunk(2, 2)
        key = rms_norm(key, key_weight, eps)
        key, value = (part.unflatten(2, query.shape[2:]) for part in (key, value))
    if index not in texts:
        texts[index] = taken_together(key, value)
    kept = texts[index]
    attended = dispatch_attention_fn(query, key, value).flatten(2, 3) if kept is None else attend_to(query, kept)
    if watching is not None:
        attended = watching.attend(index, query, key, value, attended)
    return attended


@text_attention.register_fake
def _(projected: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(projected)


def attend_to(query: Tensor, text: Text) -> Tensor:
    """Output [1, places, heads x dim] of query [1, places, heads, dim]; a pad's logit counts for all that it is."""
    if kernels.serve(query):
        from wantui.generation.kernels.text import fused_attend_to

        return fused_attend_to(query, text.keys, text.values, text.last)
    bias = torch.zeros(1, len(text.keys), device=query.device, dtype=query.dtype)
    bias[0, -1] = math.log(text.last)
    query, key, value = (part.transpose(1, 2) for part in (query, text.keys[None], text.values[None]))
    attended = F.scaled_dot_product_attention(query, key, value, bias)
    return attended.transpose(1, 2).flatten(2)
