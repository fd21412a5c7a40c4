"""Attention maps of one word by step, by block or by head."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wantui.keyframes import find_evaluation_step
from wantui.planning import Recipe
from wantui.samplers import find_sampler_schedule
from wantui.storage.attention_maps import AttentionMapsError, StoredAttentionMaps

AttentionAxis = Literal["step", "block", "head"]
AXES: tuple[AttentionAxis, ...] = ("step", "block", "head")
SETTING_BY_AXIS = {"block": "store_per_block", "head": "store_per_head"}
"""Setting of attention_analysis_settings that stores an axis; steps are always stored."""
MAX_SCALE_QUANTILE = 0.995
"""Quantile of a map's values at which its colour scale ends."""


def list_map_steps(maps: StoredAttentionMaps, recipe: Recipe | None) -> list[int]:
    """Return the step, from 0, of each stored evaluation."""
    evaluates_twice = recipe is not None and find_sampler_schedule(recipe.sampler).evaluates_model_twice
    return [find_evaluation_step(index, evaluates_twice) for index in maps.evaluations.tolist()]


def count_axis_maps(maps: StoredAttentionMaps, map_name: str, axis: AttentionAxis) -> int:
    """Return the number of maps along an axis.

    Raises:
        AttentionMapsError: the maps are averaged over the axis, or no map of the word is stored.
    """
    stored = {name: array for name, array in maps.group.arrays() if array.ndim == 6}
    if map_name not in stored:
        raise AttentionMapsError(
            f"no map of {map_name!r} is stored in {maps.path}. Stored maps: {', '.join(sorted(stored)) or 'none'}"
        )
    count = int(stored[map_name].shape[AXES.index(axis)])
    if axis != "step" and maps.group.attrs.get(f"{axis}s") != "each":
        raise AttentionMapsError(
            f"the maps in {maps.path} are means over all {axis}s. Set attention_analysis_settings."
            f"{SETTING_BY_AXIS[axis]} for future videos"
        )
    return count


def average_maps_along(
    maps: StoredAttentionMaps, map_name: str, axis: AttentionAxis, step_indices: Sequence[int]
) -> NDArray[np.float32]:
    """Return the maps [n, frames, height, width] of a word for each step, block or head.

    A map is the mean over the other two axes, without the blocks that a step cache skipped; NaN if none was computed.
    One stored step is in memory at a time.

    Args:
        step_indices: indices of the stored steps to include.

    Raises:
        AttentionMapsError: a map is missing or damaged, or averaged over the axis.
    """
    map_count = count_axis_maps(maps, map_name, axis)
    if axis == "step":
        step_maps = [maps.read_mean_map_at_step(map_name, index) for index in step_indices]
        return np.stack(step_maps).astype(np.float32)
    other_axis = 1 if axis == "block" else 0
    sums = counts = np.zeros(())
    for index in step_indices:
        values = maps.read_map(map_name, index)
        is_known = ~np.isnan(values)
        sums = sums + np.where(is_known, values, 0).sum(other_axis, dtype=np.float64)
        counts = counts + is_known.sum(other_axis)
    with np.errstate(invalid="ignore"):
        means = (sums / counts).astype(np.float32)
    assert len(means) == map_count
    row_counts, column_counts = maps.averaged_counts
    return np.asarray(means.repeat(row_counts, axis=2).repeat(column_counts, axis=3))


def compute_shared_maximum(map_arrays: Sequence[NDArray[np.float32]]) -> float:
    """Return the upper end of a scale from 0 for all maps [n, frames, height, width]: the largest 99.5th percentile.

    Raises:
        AttentionMapsError: no map has a value.
    """
    quantiles = [
        float(np.quantile(one_map[np.isfinite(one_map)], MAX_SCALE_QUANTILE))
        for maps in map_arrays
        for one_map in maps
        if np.isfinite(one_map).any()
    ]
    if not quantiles:
        raise AttentionMapsError("cannot scale the maps: no block computed attention at any chosen step")
    return max(quantiles) or 1.0
