"""Skip blocks for `speed: cached` with diffusers' caches, which reuse the sum of the blocks from an earlier step.

With the model's magnitudes, whole passes are skipped while the predicted error stays small (MagCache). Otherwise the
first block is computed at every step, and the other blocks are skipped if its output has changed little (first-block
cache).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig

from wantui.generation.placement import list_transformers
from wantui.planning import Recipe
from wantui.planning.step_skipping import (
    MAX_CONSECUTIVE_SKIPS,
    MAX_MAGNITUDE_ERROR,
    NEVER_SKIPPED_SHARE,
    compute_magnitude_ratios,
)

MAX_FIRST_BLOCK_CHANGE = 0.07
"""Largest relative change of the first block's sum at which the other blocks are skipped."""


@contextmanager
def enable_step_cache(pipeline: WanPipeline, recipe: Recipe, sigmas: Sequence[float]) -> Iterator[None]:
    """Enable the cache for the denoising of one video inside the block.

    Args:
        sigmas: noise levels at which the model is evaluated.
    """
    if recipe.speed != "cached":
        yield
        return
    transformers = list_transformers(pipeline)
    for transformer in transformers:
        transformer.enable_cache(build_cache_config(recipe, sigmas))
    try:
        yield
    finally:
        for transformer in transformers:
            free_step_cache(transformer)  # it is in a reference cycle, and would be freed much later
            transformer.disable_cache()


def free_step_cache(transformer: Any) -> None:
    """Free the cached tensors of a transformer that a video no longer needs."""
    if transformer.is_cache_enabled:
        transformer._reset_stateful_cache()


def build_cache_config(recipe: Recipe, sigmas: Sequence[float]) -> FirstBlockCacheConfig | MagCacheConfig:
    """Return the diffusers cache config for a recipe."""
    if not recipe.magnitudes:
        return FirstBlockCacheConfig(threshold=MAX_FIRST_BLOCK_CHANGE)
    return MagCacheConfig(
        threshold=MAX_MAGNITUDE_ERROR,
        max_skip_steps=MAX_CONSECUTIVE_SKIPS,
        retention_ratio=NEVER_SKIPPED_SHARE,
        num_inference_steps=len(sigmas),
        mag_ratios=compute_magnitude_ratios(recipe.magnitudes, sigmas),
    )
