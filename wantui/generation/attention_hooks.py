"""Observers of self- and cross-attention in Wan's blocks, between the kernel and the output projection.

Reference blocks get the processors of this module while a hook needs them; fused blocks call `run_observers`
themselves. Observers receive the inputs and the output of the unmodified kernel: an observer that returns the output
unchanged changes no bit of the video.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

from diffusers import WanPipeline
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, _get_qkv_projections
from torch import Tensor

from wantui.generation.guidance_split import list_transformers_and_copies

AttentionSite = Literal["self", "cross"]
"""Attention of a block: self among the video positions, cross from the video to the text positions."""


class AttentionObserver(Protocol):
    """Observer of a block's attention, which can replace the output of the attention kernel."""

    def observe_attention(self, block_index: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
        """Return the output to use, [1, positions, heads x dim].

        Args:
            query: [1, positions, heads, dim], input of the kernel, after norm and rotary embedding.
            key, value: [1, positions or 512, heads, dim], inputs of the kernel.
            output: [1, positions, heads x dim], output of the kernel.
        """
        ...


class DenoisingHook(Protocol):
    """Hook that observes the attention while one video is denoised, and returns a record for each step."""

    @property
    def sites(self) -> Collection[AttentionSite]:
        """Attention sites that the hook observes."""
        ...

    def observe_evaluation(self, context: str, evaluation_index: int, transformer: Any) -> AbstractContextManager[None]:
        """Return a context manager that observes the pass through a transformer inside its block.

        Args:
            context: cond or uncond, the name of diffusers' cache context.
            evaluation_index: index of the model evaluation, from 0.
        """
        ...

    def pop_record(self) -> Any | None:
        """Return the record of the latest step, once; None if nothing was recorded."""
        ...


_ObserversBySite = Mapping[AttentionSite, tuple[AttentionObserver, ...]]
_observers_by_site: ContextVar[_ObserversBySite] = ContextVar("observers", default={})  # noqa: B039 - it is never changed


def is_observed(site: AttentionSite) -> bool:
    """Return whether the current pass has an observer at this site."""
    return site in _observers_by_site.get()


def run_observers(
    site: AttentionSite, block_index: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
) -> Tensor:
    """Pass one attention through its observers in order, each receiving the previous output; return the last output."""
    for observer in _observers_by_site.get().get(site, ()):
        output = observer.observe_attention(block_index, query, key, value, output)
    return output


@contextmanager
def add_observer(observer: AttentionObserver, site: AttentionSite) -> Iterator[None]:
    """Add an observer of one site for the passes inside the block."""
    outer_observers = _observers_by_site.get()
    reset_token = _observers_by_site.set({**outer_observers, site: (*outer_observers.get(site, ()), observer)})
    try:
        yield
    finally:
        _observers_by_site.reset(reset_token)


@contextmanager
def install_observers(pipeline: WanPipeline, sites: Collection[AttentionSite]) -> Iterator[None]:
    """Install observing processors in a pipeline's reference blocks; at the end, restore the original processors."""
    original_processors: list[tuple[Any, Any]] = []
    try:
        for transformer in list_transformers_and_copies(pipeline):
            for block_index, block in enumerate(transformer.blocks):
                for site, attention in (("self", block.attn1), ("cross", block.attn2)):
                    processor = attention.processor
                    if site in sites and not getattr(processor, "calls_observers", False):
                        original_processors.append((attention, processor))
                        attention.set_processor(ObservedProcessor(block_index, processor))
        yield
    finally:
        for attention, processor in original_processors:
            attention.set_processor(processor)


class ObservedProcessor(WanAttnProcessor):
    """Compute Wan's attention like diffusers 0.42, and pass it to the observers.

    Args:
        block_index: number of the block in the transformer.
        replaced_processor: replaced processor, whose attention backend is used.
    """

    calls_observers = True

    def __init__(self, block_index: int, replaced_processor: Any) -> None:
        super().__init__()
        self.block_index = block_index
        self._attention_backend = replaced_processor._attention_backend
        self._parallel_config = replaced_processor._parallel_config

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        site: AttentionSite = "self" if encoder_hidden_states is None else "cross"
        query, key, value = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query = attn.norm_q(query).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(key).unflatten(2, (attn.heads, -1))
        value = value.unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = _apply_rotary_embedding(query, *rotary_emb), _apply_rotary_embedding(key, *rotary_emb)
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=0.0,
            is_causal=False,
            backend=self._attention_backend,
            parallel_config=self._parallel_config if site == "self" else None,
        )
        output = run_observers(site, self.block_index, query, key, value, output.flatten(2, 3).type_as(query))
        output = attn.to_out[0](output)
        return attn.to_out[1](output)


def _apply_rotary_embedding(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Apply the rotary embedding to [1, positions, heads, dim] in diffusers' order of operations."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cosines[..., 0::2], sines[..., 1::2]
    rotated = states.new_empty(states.shape)
    rotated[..., 0::2] = first * cos - second * sin
    rotated[..., 1::2] = first * sin + second * cos
    return rotated.type_as(states)
