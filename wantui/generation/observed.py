"""Wan's cross-attention with a place for an observer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, _get_qkv_projections
from torch import Tensor


class Observer(Protocol):
    """Sees what a block attends with, and may give another output in the place of the kernel's.

    query [1, places, heads, dim], key and value [1, 512, heads, dim], outputs [1, places, heads x dim].
    """

    def attend(self, block: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor: ...


_observing: Observer | None = None
"""Who observes the pass that runs now."""


def observer() -> Observer | None:
    """Whoever observes the pass that runs now."""
    return _observing


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Around one pass through a transformer."""
    global _observing
    _observing, before = observer, _observing
    try:
        yield
    finally:
        _observing = before


class ObservedProcessor(WanAttnProcessor):
    """Wan's cross-attention as diffusers 0.42 computes it, with an observer between kernel and output projection.

    Args:
        block: its number in the transformer.
        instead_of: the processor whose attention backend is kept.
    """

    def __init__(self, block: int, instead_of: Any) -> None:
        super().__init__()
        self.block = block
        self._attention_backend, self._parallel_config = instead_of._attention_backend, instead_of._parallel_config

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
        if _observing is not None:
            output = _observing.attend(self.block, query, key, value, output)
        output = attn.to_out[0](output)
        return attn.to_out[1](output)
