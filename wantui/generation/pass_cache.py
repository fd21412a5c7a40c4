"""What the passes through a pipeline's transformers have in common while one video is made.

With guidance, both passes of a step see the same latents and timestep: until the text comes in, in the first block,
they compute the same. And the text of a pass is the same at every step: so are its keys and values in each block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

COLUMNS = 8
"""Keys are kept in multiples of so many."""
MAX_COLUMNS = 64
"""Of a text whose pads are taken together; on an H100, all 512 positions of a longer one are quicker."""


class CrossAttentionKV(NamedTuple):
    """A text as one block attends to it: the pads at its end, all with the same key and value, are taken together."""

    keys: Tensor
    """[columns, heads, dim]"""
    values: Tensor
    """[columns, heads, dim]"""
    last: int
    """So many positions of the text are the last column."""


class _Step:
    """Passes with the same latents and timestep.

    Args:
        has_two: passes; of one alone nothing is kept.
    """

    def __init__(self, has_two: bool = False) -> None:
        self.has_two = has_two
        self.attended: Tensor | None = None
        """By the self-attention of the first block, from one pass for the next."""


class _Pass(NamedTuple):
    step: _Step
    texts: dict[int, CrossAttentionKV | None]
    """Of each block; None of one that is too long."""


_now: _Pass | None = None
"""The pass that runs. diffusers hands nothing of a caller's on to the attention of its blocks."""


class PassCache:
    """Those of one video; only transformers whose blocks were fused make use of it."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, str], dict[int, CrossAttentionKV | None]] = {}
        self._step = _Step()

    def next_step(self, has_two: bool) -> None:
        """Before a pass with other latents or another timestep than the one before; or before two of them."""
        self._step = _Step(has_two)

    def close(self) -> None:
        """Free what is kept."""
        self._texts.clear()
        self._step = _Step()

    @contextmanager
    def one(self, transformer: Any, context: str) -> Iterator[None]:
        """Around one pass.

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
    """The pass that runs, where it was told of."""
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
