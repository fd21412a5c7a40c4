"""Prediction of the steps that `speed: cached` skips for a calibrated model.

The rule is MagCache's (Ma et al. 2025, arXiv 2506.09045), as implemented in diffusers.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from wantui.models.magnitudes import Magnitudes
from wantui.planning.recipe import Recipe
from wantui.schedule import compute_noise_levels, count_model_evaluations

MAX_MAGNITUDE_ERROR = 0.12
"""Maximum predicted error, summed over consecutive skipped steps."""
MAX_CONSECUTIVE_SKIPS = 4
"""Maximum number of consecutive skipped steps."""
UNCACHED_SHARE = 0.2
"""Share of the steps, at the start, that are never skipped."""
ASSUMED_COMPUTED_SHARE = 0.5
"""Share of the blocks that a cached video is assumed to compute without magnitudes; the actual share depends on the
prompt."""


def estimate_computed_share(recipe: Recipe) -> float:
    """Return the share of steps that compute the blocks; an assumption if the recipe has no magnitudes."""
    if recipe.speed != "cached":
        return 1.0
    if not recipe.magnitudes:
        return ASSUMED_COMPUTED_SHARE
    return count_computed_steps(recipe) / count_model_evaluations(recipe.sampler, recipe.steps)


def count_computed_steps(recipe: Recipe) -> int:
    """Count the evaluations that compute the blocks, for a recipe with magnitudes."""
    return _count_by_magnitudes(recipe.magnitudes, recipe.sampler, recipe.steps, recipe.flow_shift)


@lru_cache(maxsize=256)
def _count_by_magnitudes(magnitudes: Magnitudes, sampler: str, steps: int, flow_shift: float) -> int:
    return sum(
        find_computed_steps(compute_magnitude_ratios(magnitudes, compute_noise_levels(sampler, steps, flow_shift)))
    )


def compute_magnitude_ratios(magnitudes: Magnitudes, sigmas: Sequence[float]) -> list[float]:
    """Return the ratio of the magnitude at each noise level to the preceding one; 1 for the first."""
    import numpy as np

    levels, values = zip(*reversed(magnitudes), strict=True)
    logarithms = np.interp(sigmas, levels, values)
    return [1.0, *(math.exp(change) for change in np.diff(logarithms))]


def find_computed_steps(step_ratios: Sequence[float]) -> list[bool]:
    """Return whether each step computes the blocks, from the magnitude ratios of the steps."""
    unskipped = int(UNCACHED_SHARE * len(step_ratios) + 0.5)
    computed = []
    ratio, error, skipped = 1.0, 0.0, 0
    for step, step_ratio in enumerate(step_ratios):
        if step >= unskipped:
            ratio *= step_ratio
            skipped += 1
            error += abs(1.0 - ratio)
        is_computed = step < max(1, unskipped) or error > MAX_MAGNITUDE_ERROR or skipped > MAX_CONSECUTIVE_SKIPS
        if is_computed:
            ratio, error, skipped = 1.0, 0.0, 0
        computed.append(is_computed)
    return computed
