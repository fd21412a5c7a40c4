"""Wan's cross-attention with a place for an observer, which a compiler of blocks leaves in one graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, _get_qkv_projections
from torch import Tensor


class Observer(Protocol):
    """Is handed what a block attends with: query [1, places, heads, dim], key and value [1, 512, heads, dim], and the
    kernel's output [1, places, heads x dim]."""

    def observe(self, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None: ...
    def weigh(self, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor: ...


_observing: Observer | None = None
"""Who observes the pass that runs now. An operator of torch can be given tensors and numbers only."""


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Around one pass through a transformer."""
    global _observing
    _observing, before = observer, _observing
    try:
        yield
    finally:
        _observing = before


@torch.library.custom_op("wantui::observe_attention", mutates_args=("block",))
def _observe(query: Tensor, key: Tensor, value: Tensor, output: Tensor, block: Tensor) -> None:
    """Looks on, and says that it changes `block`, or a compiler would leave it out."""
    if _observing is not None:
        _observing.observe(int(block), query, key, value, output)


@_observe.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, output: Tensor, block: Tensor) -> None:
    return None


@torch.library.custom_op("wantui::weigh_attention", mutates_args=("block",))
def _weigh(query: Tensor, key: Tensor, value: Tensor, output: Tensor, block: Tensor) -> Tensor:
    if _observing is None:
        return output.clone()
    return _observing.weigh(int(block), query, key, value, output)


@_weigh.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, output: Tensor, block: Tensor) -> Tensor:
    return torch.empty_like(output)


class ObservedProcessor(WanAttnProcessor):
    """Wan's cross-attention as diffusers 0.42 computes it, with an observer between kernel and output projection.

    One instance serves all blocks, so that compiled blocks stay one graph; which block it is stands in a tensor. It
    serves all videos too: a compiler would make a graph anew for another one.
    """

    def __init__(self, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        query, key, value = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query = attn.norm_q(query).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(key).unflatten(2, (attn.heads, -1))
        value = value.unflatten(2, (attn.heads, -1))
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=0.0,
            is_causal=False,
            backend=self._attention_backend,
            parallel_config=None,
        )
        output = output.flatten(2, 3).type_as(query)
        if self.weighted:
            output = _weigh(query, key, value, output, attn.wantui_block)
        else:
            _observe(query, key, value, output, attn.wantui_block)
        output = attn.to_out[0](output)
        return attn.to_out[1](output)


@cache
def observed_processor(weighted: bool, backend: Any, parallel: Any) -> ObservedProcessor:
    """Of an attention that runs with a backend and a parallel configuration of diffusers."""
    processor = ObservedProcessor(weighted)
    processor._attention_backend, processor._parallel_config = backend, parallel
    return processor
