"""What `speed: fast` leaves out, by diffusers' caches: blocks whose sum of what they add is taken from an earlier step.

Where a model's magnitudes are known, whole passes are left out while the error that they foretell stays small
(MagCache). Otherwise the first block is computed at every step, and the others are left out where little changes in it
(first-block cache).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from diffusers import WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig

from wantui.models.magnitudes import Magnitudes
from wantui.planning import Recipe

FIRST_BLOCK_CHANGE = 0.07
"""Largest relative change of what the first block adds at which the others are left out."""
MAGNITUDE_ERROR = 0.12
"""Largest sum of errors that the magnitudes foretell for passes that are left out one after the other."""
MOST_IN_A_ROW = 4
"""Passes that are left out one after the other."""
WHOLE_SHARE = 0.2
"""Of the steps, the first ones, of which none is left out."""


@contextmanager
def caching(pipeline: WanPipeline, recipe: Recipe, sigmas: Sequence[float]) -> Iterator[None]:
    """Around the denoising of one video.

    Args:
        sigmas: noise levels at which the model is evaluated.
    """
    if recipe.speed != "fast":
        yield
        return
    transformers = [one for one in (pipeline.transformer, pipeline.transformer_2) if one is not None]
    for transformer in transformers:
        transformer.enable_cache(config_for(recipe, sigmas))
    try:
        yield
    finally:
        for transformer in transformers:
            transformer._reset_stateful_cache()  # what it holds lies in a cycle, and would be freed much later
            transformer.disable_cache()


def config_for(recipe: Recipe, sigmas: Sequence[float]) -> FirstBlockCacheConfig | MagCacheConfig:
    """Of diffusers' caches, the one that a recipe asks for."""
    if not recipe.magnitudes:
        return FirstBlockCacheConfig(threshold=FIRST_BLOCK_CHANGE)
    return MagCacheConfig(
        threshold=MAGNITUDE_ERROR,
        max_skip_steps=MOST_IN_A_ROW,
        retention_ratio=WHOLE_SHARE,
        num_inference_steps=len(sigmas),
        mag_ratios=ratios(recipe.magnitudes, sigmas),
    )


def ratios(magnitudes: Magnitudes, sigmas: Sequence[float]) -> list[float]:
    """Of the magnitude at each noise level to that at the one before; 1 for the first."""
    levels, values = zip(*reversed(magnitudes), strict=True)
    logarithms = np.interp(sigmas, levels, values)
    return [1.0, *(math.exp(change) for change in np.diff(logarithms))]
