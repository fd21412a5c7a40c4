"""Measure a model's magnitudes, the norms of the change that its blocks add at each noise level, by denoising one video
without skipping."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import WanPipeline
from torch import Tensor

from wantui.generation.denoise import denoise_latents
from wantui.generation.denoising_state import DenoisingInputs
from wantui.models.magnitudes import Magnitudes, extend_to_zero
from wantui.planning import Recipe

TARGET_NOISE_LEVEL_COUNT = 25
"""Approximate number of stored noise levels."""


def measure_magnitudes(
    pipeline: WanPipeline, recipe: Recipe, inputs: DenoisingInputs, report_step: Callable[[int, int], None]
) -> Magnitudes:
    """Measure a transformer's magnitudes: the ratio of norms at consecutive steps, averaged over positions and passes.

    Args:
        recipe: an uncached recipe with at least two steps and one evaluation per step.
        report_step: receives the number of finished steps after each step, and the total.
    """
    magnitudes, log_ratio_sum = [], 0.0
    with _collect_block_norms(pipeline.transformer) as block_norms:
        norms: list[Tensor] = []
        for step in denoise_latents(pipeline, recipe, inputs):
            previous_norms, norms = norms, list(block_norms)
            block_norms.clear()
            if previous_norms:
                pairs = zip(norms, previous_norms, strict=True)
                ratios = [float((norm / previous.clamp_min(1e-8)).mean()) for norm, previous in pairs]
                log_ratio_sum += math.log(sum(ratios) / len(ratios))
            magnitudes.append((round(step.sigma, 5), round(log_ratio_sum, 5)))
            report_step(step.evaluation_index + 1, step.evaluation_count)
    *_, (final_sigma, final_sum) = extend_to_zero(tuple(magnitudes))
    stride = max(1, round((len(magnitudes) + 1) / TARGET_NOISE_LEVEL_COUNT))
    return (*magnitudes[::stride], (final_sigma, round(final_sum, 5)))


@contextmanager
def _collect_block_norms(transformer: Any) -> Iterator[list[Tensor]]:
    """Collect the norms [1, positions] of the last block's output minus the first block's input, for each pass.

    The differences themselves are as large as the hidden states, for which the memory plan has no room.
    """
    block_inputs: list[Tensor] = []
    block_norms: list[Tensor] = []
    handles = [
        transformer.blocks[0].register_forward_pre_hook(lambda block, inputs: block_inputs.append(inputs[0])),
        transformer.blocks[-1].register_forward_hook(
            lambda block, inputs, output: block_norms.append((output - block_inputs.pop()).float().norm(dim=2))
        ),
    ]
    try:
        yield block_norms
    finally:
        for handle in handles:
            handle.remove()
