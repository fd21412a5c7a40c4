"""Measure a model's magnitudes, the change by its blocks at each noise level, by denoising one video in full."""

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
"""Approximate number of stored noise levels."""


def measure_magnitudes(
    pipeline: WanPipeline, recipe: Recipe, start: Start, show: Callable[[int, int], None]
) -> Magnitudes:
    """Measure a transformer's magnitudes: the mean ratio of the norms at consecutive steps, over positions and passes.

    Args:
        recipe: an uncached recipe with at least two steps and one evaluation per step.
        show: receives the number of each step, from 1, and the total.
    """
    magnitudes, summed = [], 0.0
    with _collect_block_sums(pipeline.transformer) as block_sums:
        before: list[Tensor] = []
        for step in denoise(pipeline, recipe, start):
            norms, before = before, [each.float().norm(dim=2) for each in block_sums]
            block_sums.clear()
            if norms:
                each = [float((now / then.clamp_min(1e-8)).mean()) for now, then in zip(before, norms, strict=True)]
                summed += math.log(sum(each) / len(each))
            magnitudes.append((round(step.sigma, 5), round(summed, 5)))
            show(step.index + 1, step.count)
    (before_last, then), (last, now) = magnitudes[-2:]
    # Other step counts end at lower noise levels: extrapolate the line through the last two points to 0.
    magnitudes.append((0.0, round(now - last * (then - now) / (before_last - last), 5)))
    every = max(1, round(len(magnitudes) / KNOTS))
    return (*magnitudes[:-1:every], magnitudes[-1])


@contextmanager
def _collect_block_sums(transformer: Any) -> Iterator[list[Tensor]]:
    """Collect the last block's output minus the first block's input, for each pass inside the context."""
    block_inputs: list[Tensor] = []
    block_sums: list[Tensor] = []
    handles = [
        transformer.blocks[0].register_forward_pre_hook(lambda block, given: block_inputs.append(given[0])),
        transformer.blocks[-1].register_forward_hook(
            lambda block, given, out: block_sums.append(out - block_inputs.pop())
        ),
    ]
    try:
        yield block_sums
    finally:
        for handle in handles:
            handle.remove()
