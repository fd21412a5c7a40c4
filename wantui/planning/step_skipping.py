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

MAGNITUDE_ERROR = 0.12
"""Largest sum of errors that the magnitudes predict for consecutive skipped passes."""
MAX_IN_A_ROW = 4
"""Largest number of consecutive skipped passes."""
UNCACHED_SHARE = 0.2
"""Share of steps at the start that are never skipped."""
ASSUMED_SHARE = 0.5
"""Share of the blocks that a cached video computes where nothing is known; it depends on how a prompt's path bends."""


def computed_share(recipe: Recipe) -> float:
    """Return the share of steps whose passes compute the blocks; assumed if the model was not calibrated."""
    if recipe.speed != "cached":
        return 1.0
    if not recipe.magnitudes:
        return ASSUMED_SHARE
    return computed_steps(recipe) / model_evaluations(recipe.sampler, recipe.steps)


def computed_steps(recipe: Recipe) -> int:
    """Return the number of evaluations that compute the blocks, for a recipe with magnitudes."""
    return _computed(recipe.magnitudes, recipe.sampler, recipe.steps, recipe.flow_shift)


@lru_cache(maxsize=256)
def _computed(magnitudes: Magnitudes, sampler: str, steps: int, flow_shift: float) -> int:
    return sum(computed_passes(ratios(magnitudes, noise_levels(sampler, steps, flow_shift))))


def ratios(magnitudes: Magnitudes, sigmas: Sequence[float]) -> list[float]:
    """Return the ratio of the magnitude at each noise level to the one before; 1 for the first."""
    levels, values = zip(*reversed(magnitudes), strict=True)
    logarithms = np.interp(sigmas, levels, values)
    return [1.0, *(math.exp(change) for change in np.diff(logarithms))]


def computed_passes(of_magnitudes: Sequence[float]) -> list[bool]:
    """Return whether each step computes the blocks, from the ratio of its magnitude to the one before."""
    whole = int(UNCACHED_SHARE * len(of_magnitudes) + 0.5)
    computed = []
    ratio, error, left_out = 1.0, 0.0, 0
    for step, each in enumerate(of_magnitudes):
        if step >= whole:
            ratio *= each
            left_out += 1
            error += abs(1.0 - ratio)
        is_computed = step < max(1, whole) or error > MAGNITUDE_ERROR or left_out > MAX_IN_A_ROW
        if is_computed:
            ratio, error, left_out = 1.0, 0.0, 0
        computed.append(is_computed)
    return computed
