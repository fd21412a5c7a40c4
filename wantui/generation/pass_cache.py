"""Cache of the values that the passes through a pipeline's transformers share within one video.

With guidance, both passes of a step have the same latents and timestep: their results are equal up to the first
cross-attention. While the text of a pass stays the same, so do its keys and values in each block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor

COLUMN_ALIGNMENT = 8
"""The number of stored columns is rounded up to a multiple of this number."""
MAX_MERGED_COLUMNS = 64
"""Largest number of text columns with merged padding; beyond it, all 512 positions are faster on an H100."""


class CrossAttentionKV(NamedTuple):
    """Keys and values of a text in one block, with the padding merged into the last column."""

    keys: Tensor
    """[columns, heads, dim]"""
    values: Tensor
    """[columns, heads, dim]"""
    padding_count: int
    """Number of text positions that the last column represents."""


class _SharedStep:
    """Passes with the same latents and timestep.

    Args:
        has_two_passes: whether the step has two passes; a single pass stores nothing.
    """

    def __init__(self, has_two_passes: bool = False) -> None:
        self.has_two_passes = has_two_passes
        self.first_attention: Tensor | None = None
        """Output of the first block's self-attention in the first pass, for the second pass."""


class _CachedPass(NamedTuple):
    step: _SharedStep
    key_values_by_block: dict[int, CrossAttentionKV | None]
    """Keys and values by block; None for a text that is too long."""


_current_pass: ContextVar[_CachedPass | None] = ContextVar("current_pass", default=None)
"""The current pass of this thread; diffusers passes no caller's arguments to the attention processors."""


class PassCache:
    """Cache of one video's passes; only transformers with fused blocks use it."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, str], tuple[Tensor, dict[int, CrossAttentionKV | None]]] = {}
        """Text embedding, and keys and values by block, by transformer and context."""
        self._step = _SharedStep()

    def start_step(self, has_two_passes: bool) -> None:
        """Start a step of one or two passes, with new latents or a new timestep."""
        self._step = _SharedStep(has_two_passes)

    def close(self) -> None:
        """Free the cached values."""
        self._texts.clear()
        self._step = _SharedStep()

    @contextmanager
    def run_pass(self, transformer: Any, context: str, text_embeds: Tensor) -> Iterator[None]:
        """Run one pass inside the block.

        Args:
            context: name of the pass, cond or uncond.
            text_embeds: text embedding of the pass; a different tensor than in the previous step counts as a different
            text.
        """
        text_key = id(transformer), context
        cached_text = self._texts.get(text_key)
        if cached_text is None or cached_text[0] is not text_embeds:
            cached_text = self._texts[text_key] = text_embeds, {}
        reset_token = _current_pass.set(_CachedPass(self._step, cached_text[1]))
        try:
            yield
        finally:
            _current_pass.reset(reset_token)


def get_current_pass() -> _CachedPass | None:
    """Return the current pass; None outside of `PassCache.run_pass`."""
    return _current_pass.get()


def merge_padding(keys: Tensor, values: Tensor) -> CrossAttentionKV | None:
    """Merge padding in keys and values [1, positions, heads, dim]; None if the text is too long."""
    is_padding = (keys == keys[:, -1:]) & (values == values[:, -1:])
    text_positions = (~is_padding[0].flatten(1).all(1)).nonzero()
    text_length = int(text_positions[-1]) + 1 if len(text_positions) else 0
    column_count = -(-(text_length + 1) // COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
    if column_count > min(MAX_MERGED_COLUMNS, keys.shape[1]):
        return None
    return CrossAttentionKV(
        keys[0, :column_count].clone(), values[0, :column_count].clone(), keys.shape[1] - column_count + 1
    )
