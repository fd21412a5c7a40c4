"""Prediction of the passes that `speed: cached` skips for a model with known magnitudes.

The rule is that of MagCache (Ma et al. 2025, arXiv 2506.09045) as diffusers has it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from wantui.models.magnitudes import Magnitudes
from wantui.planning.recipe import Recipe
from wantui.schedule import model_evaluations, noise_levels

MAX_MAGNITUDE_ERROR = 0.12
"""Largest sum of errors that the magnitudes predict for consecutive skipped passes."""
MAX_CONSECUTIVE_SKIPS = 4
"""Largest number of consecutive skipped passes."""
UNCACHED_SHARE = 0.2
"""Share of steps at the start that are never skipped."""
ASSUMED_COMPUTED_SHARE = 0.5
"""Share of the blocks that a cached video computes where nothing is known; it depends on how a prompt's path bends."""


def computed_share(recipe: Recipe) -> float:
    """Return the share of steps whose passes compute the blocks; assumed if the model was not calibrated."""
    if recipe.speed != "cached":
        return 1.0
    if not recipe.magnitudes:
        return ASSUMED_COMPUTED_SHARE
    return count_computed_steps(recipe) / model_evaluations(recipe.sampler, recipe.steps)


def count_computed_steps(recipe: Recipe) -> int:
    """Return the number of evaluations that compute the blocks, for a recipe with magnitudes."""
    return _count_by_magnitudes(recipe.magnitudes, recipe.sampler, recipe.steps, recipe.flow_shift)


@lru_cache(maxsize=256)
def _count_by_magnitudes(magnitudes: Magnitudes, sampler: str, steps: int, flow_shift: float) -> int:
    return sum(find_computed_steps(magnitude_ratios(magnitudes, noise_levels(sampler, steps, flow_shift))))


def magnitude_ratios(magnitudes: Magnitudes, sigmas: Sequence[float]) -> list[float]:
    """Return the ratio of the magnitude at each noise level to the one before; 1 for the first."""
    levels, values = zip(*reversed(magnitudes), strict=True)
    logarithms = np.interp(sigmas, levels, values)
    return [1.0, *(math.exp(change) for change in np.diff(logarithms))]


def find_computed_steps(of_magnitudes: Sequence[float]) -> list[bool]:
    """Return whether each step computes the blocks, from the ratio of its magnitude to the one before."""
    whole = int(UNCACHED_SHARE * len(of_magnitudes) + 0.5)
    computed = []
    ratio, error, left_out = 1.0, 0.0, 0
    for step, each in enumerate(of_magnitudes):
        if step >= whole:
            ratio *= each
            left_out += 1
            error += abs(1.0 - ratio)
        is_computed = step < max(1, whole) or error > MAX_MAGNITUDE_ERROR or left_out > MAX_CONSECUTIVE_SKIPS
        if is_computed:
            ratio, error, left_out = 1.0, 0.0, 0
        computed.append(is_computed)
    return computed
