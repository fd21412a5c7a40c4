"""Measures how much a model's blocks add at each noise level, by making one video without leaving anything out."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import WanPipeline
from torch import Tensor

from wantui.generation.denoise import Start, denoise
from wantui.models.magnitudes import Magnitudes
from wantui.planning import Recipe

KNOTS = 25
"""Approximate number of noise levels that are stored."""


def measure_magnitudes(
    pipeline: WanPipeline, recipe: Recipe, start: Start, show: Callable[[int, int], None]
) -> Magnitudes:
    """Measure a transformer's magnitudes: mean ratio of the norms of two steps, over positions and passes.

    Args:
        recipe: of a video that is not cached, of two steps or more by a sampler that does not go back.
        show: receives the number of each step, from 1, and the total.
    """
    magnitudes, summed = [], 0.0
    with _what_blocks_add(pipeline.transformer) as added:
        before: list[Tensor] = []
        for step in denoise(pipeline, recipe, start):
            norms, before = before, [each.float().norm(dim=2) for each in added]
            added.clear()
            if norms:
                each = [float((now / then.clamp_min(1e-8)).mean()) for now, then in zip(before, norms, strict=True)]
                summed += math.log(sum(each) / len(each))
            magnitudes.append((round(step.sigma, 5), round(summed, 5)))
            show(step.index + 1, step.count)
    (before_last, then), (last, now) = magnitudes[-2:]
    # Other numbers of steps end at lower noise levels: on a straight line, as between the last two.
    magnitudes.append((0.0, round(now - last * (then - now) / (before_last - last), 5)))
    every = max(1, round(len(magnitudes) / KNOTS))
    return (*magnitudes[:-1:every], magnitudes[-1])


@contextmanager
def _what_blocks_add(transformer: Any) -> Iterator[list[Tensor]]:
    """Collect, for each pass made inside it, the last block's output minus the first block's input."""
    entered: list[Tensor] = []
    added: list[Tensor] = []
    handles = [
        transformer.blocks[0].register_forward_pre_hook(lambda block, given: entered.append(given[0])),
        transformer.blocks[-1].register_forward_hook(lambda block, given, out: added.append(out - entered.pop())),
    ]
    try:
        yield added
    finally:
        for handle in handles:
            handle.remove()
