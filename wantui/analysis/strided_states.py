"""Trajectories reduced to every n-th state, and metrics measured on them."""

from dataclasses import replace

import numpy as np

from wantui.analysis.metrics import compute_metric
from wantui.analysis.trajectory import NoGeometryError, Trajectory

MIN_PATH_STATES = 3
"""Minimum number of states for a path to have an angle."""


def select_strided_states(trajectory: Trajectory, stride: int) -> Trajectory:
    """Return the path through the initial noise and every `stride`-th state, counted from the end.

    The first step takes the remainder and is therefore the longest, because the path is straightest there.

    Raises:
        NoGeometryError: fewer than MIN_PATH_STATES remain.
    """
    if stride == 1:
        return trajectory
    last_index = len(trajectory.sigmas) - 1
    state_indices = [0, *range(last_index - stride * max(0, last_index // stride - 1), last_index + 1, stride)]
    if len(state_indices) < MIN_PATH_STATES:
        raise NoGeometryError(
            f"stride {stride} leaves {len(state_indices)} of {last_index + 1} states, but an angle needs three"
        )
    return replace(
        trajectory,
        sigmas=trajectory.sigmas[state_indices],
        gram=trajectory.gram[np.ix_(state_indices, state_indices)],
    )


def compute_metric_at_stride(trajectory: Trajectory, metric: str, stride: int) -> float:
    """Return a metric of the path through every `stride`-th state; NaN if too few states remain."""
    if stride == 1:
        return compute_metric(trajectory, metric)
    values, key = trajectory.values_by_metric, f"{metric} at stride {stride}"
    if key not in values:
        try:
            values[key] = compute_metric(select_strided_states(trajectory, stride), metric)
        except NoGeometryError:
            values[key] = float("nan")
    return values[key]
