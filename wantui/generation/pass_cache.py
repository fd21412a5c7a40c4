"""Cache of the values that the passes through a pipeline's transformers share within one video.

With guidance, both passes of a step see the same latents and timestep: until the text comes in, in the first block,
they compute the same. And the text of a pass is the same at every step: so are its keys and values in each block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

COLUMNS = 8
"""Keys are stored in multiples of this number of columns."""
MAX_COLUMNS = 64
"""Most columns of a text with merged padding; on an H100, all 512 positions of a longer text are quicker."""


class CrossAttentionKV(NamedTuple):
    """Keys and values of a text in one block: the padding at its end, with one key and value, is merged."""

    keys: Tensor
    """[columns, heads, dim]"""
    values: Tensor
    """[columns, heads, dim]"""
    last: int
    """Number of text positions that the last column represents."""


class _Step:
    """Passes with the same latents and timestep.

    Args:
        has_two: passes; of one alone nothing is kept.
    """

    def __init__(self, has_two: bool = False) -> None:
        self.has_two = has_two
        self.attended: Tensor | None = None
        """Output of the first block's self-attention, from one pass for the next."""


class _Pass(NamedTuple):
    step: _Step
    texts: dict[int, CrossAttentionKV | None]
    """Texts of each block; None for one that is too long."""


_now: _Pass | None = None
"""The pass that runs. diffusers hands nothing of a caller's on to the attention of its blocks."""


class PassCache:
    """Cache of the passes of one video; only transformers with fused blocks use it."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, str], dict[int, CrossAttentionKV | None]] = {}
        self._step = _Step()

    def next_step(self, has_two: bool) -> None:
        """Start a pass, or two passes, with other latents or another timestep than before."""
        self._step = _Step(has_two)

    def close(self) -> None:
        """Free the cached values."""
        self._texts.clear()
        self._step = _Step()

    @contextmanager
    def one(self, transformer: Any, context: str) -> Iterator[None]:
        """Run one pass inside the block.

        Args:
            context: names the text, which must be the same one in every step.
        """
        global _now
        _now, before = _Pass(self._step, self._texts.setdefault((id(transformer), context), {})), _now
        try:
            yield
        finally:
            _now = before


def running() -> _Pass | None:
    """Return the current pass, if it was announced."""
    return _now


def merge_padding(keys: Tensor, values: Tensor) -> CrossAttentionKV | None:
    """Merge padding in keys and values [1, positions, heads, dim]; None if the text is too long."""
    same = (keys == keys[:, -1:]) & (values == values[:, -1:])
    other = (~same[0].flatten(1).all(1)).nonzero()
    length = int(other[-1]) + 1 if len(other) else 0
    columns = -(-(length + 1) // COLUMNS) * COLUMNS
    if columns > min(MAX_COLUMNS, keys.shape[1]):
        return None
    return CrossAttentionKV(keys[0, :columns].clone(), values[0, :columns].clone(), keys.shape[1] - columns + 1)
