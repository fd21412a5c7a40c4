"""Skip blocks for `speed: cached` with diffusers' caches, which reuse the sum that blocks added at an earlier step.

Where a model's magnitudes are known, whole passes are left out while the error that they predict stays small
(MagCache). Otherwise the first block is computed at every step, and the others are left out where little changes in it
(first-block cache).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig

from wantui.planning import Recipe
from wantui.planning.step_skipping import MAX_CONSECUTIVE_SKIPS, MAX_MAGNITUDE_ERROR, UNCACHED_SHARE, magnitude_ratios

FIRST_BLOCK_CHANGE = 0.07
"""Largest relative change of what the first block adds at which the others are left out."""


@contextmanager
def caching(pipeline: WanPipeline, recipe: Recipe, sigmas: Sequence[float]) -> Iterator[None]:
    """Enable the cache for the denoising of one video inside the block.

    Args:
        sigmas: noise levels at which the model is evaluated.
    """
    if recipe.speed != "cached":
        yield
        return
    transformers = [one for one in (pipeline.transformer, pipeline.transformer_2) if one is not None]
    for transformer in transformers:
        transformer.enable_cache(config_for(recipe, sigmas))
    try:
        yield
    finally:
        for transformer in transformers:
            forget(transformer)  # what it holds lies in a cycle, and would be freed much later
            transformer.disable_cache()


def forget(transformer: Any) -> None:
    """Free what the cache of a transformer holds that has done its part of a video."""
    if transformer.is_cache_enabled:
        transformer._reset_stateful_cache()


def config_for(recipe: Recipe, sigmas: Sequence[float]) -> FirstBlockCacheConfig | MagCacheConfig:
    """Return the config of the diffusers cache that a recipe asks for."""
    if not recipe.magnitudes:
        return FirstBlockCacheConfig(threshold=FIRST_BLOCK_CHANGE)
    return MagCacheConfig(
        threshold=MAX_MAGNITUDE_ERROR,
        max_skip_steps=MAX_CONSECUTIVE_SKIPS,
        retention_ratio=UNCACHED_SHARE,
        num_inference_steps=len(sigmas),
        mag_ratios=magnitude_ratios(recipe.magnitudes, sigmas),
    )
