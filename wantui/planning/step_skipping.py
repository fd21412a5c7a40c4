"""Prediction of the steps that `speed: cached` skips for a calibrated model.

The rule is MagCache's (Ma et al. 2025, arXiv 2506.09045), as implemented in diffusers.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from wantui.models.magnitudes import Magnitudes
from wantui.planning.recipe import Recipe
from wantui.samplers import compute_noise_levels, count_model_evaluations

MAX_MAGNITUDE_ERROR = 0.12
"""Maximum predicted error, summed over consecutive skipped steps."""
MAX_CONSECUTIVE_SKIPS = 4
"""Maximum number of consecutive skipped steps."""
NEVER_SKIPPED_SHARE = 0.2
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
    return _count_computed_steps_cached(recipe.magnitudes, recipe.sampler, recipe.steps, recipe.flow_shift)


@lru_cache(maxsize=256)
def _count_computed_steps_cached(magnitudes: Magnitudes, sampler: str, step_count: int, flow_shift: float) -> int:
    return sum(
        find_computed_steps(compute_magnitude_ratios(magnitudes, compute_noise_levels(sampler, step_count, flow_shift)))
    )


def compute_magnitude_ratios(magnitudes: Magnitudes, sigmas: Sequence[float]) -> list[float]:
    """Return the ratio of the magnitude at each noise level to the preceding magnitude; 1 for the first level."""
    import numpy as np

    noise_levels, log_magnitudes = zip(*reversed(magnitudes), strict=True)
    interpolated_logs = np.interp(sigmas, noise_levels, log_magnitudes)
    return [1.0, *(math.exp(change) for change in np.diff(interpolated_logs))]


def find_computed_steps(step_ratios: Sequence[float]) -> list[bool]:
    """Return whether each step computes the blocks, from the magnitude ratios of the steps."""
    never_skipped_count = int(NEVER_SKIPPED_SHARE * len(step_ratios) + 0.5)
    computed_steps = []
    accumulated_ratio, accumulated_error, skip_count = 1.0, 0.0, 0
    for step_index, step_ratio in enumerate(step_ratios):
        if step_index >= never_skipped_count:
            accumulated_ratio *= step_ratio
            skip_count += 1
            accumulated_error += abs(1.0 - accumulated_ratio)
        is_computed = (
            step_index < max(1, never_skipped_count)
            or accumulated_error > MAX_MAGNITUDE_ERROR
            or skip_count > MAX_CONSECUTIVE_SKIPS
        )
        if is_computed:
            accumulated_ratio, accumulated_error, skip_count = 1.0, 0.0, 0
        computed_steps.append(is_computed)
    return computed_steps
