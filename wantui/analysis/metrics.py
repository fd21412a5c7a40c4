"""Scalar metrics and curves of trajectories, with their meaning."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.guidance_gap import EARLY_WINDOW, LATE_WINDOW, WHOLE_WINDOW
from wantui.analysis.trajectory import Trajectory


@dataclass(frozen=True)
class Metric:
    """A scalar metric of a trajectory."""

    meaning: str
    """One clause on the meaning of the value; docs/analysis.md contains it too."""
    compute: Callable[[Trajectory], float]
    min_states: int
    """Minimum number of states."""
    unit: str = ""
    has_ratio_scale: bool = True
    """True if "N percent more" is meaningful; False for logarithms."""
    ratio_origin: float = 0.0
    """Value from which percentages are measured. 1 for metrics near 1, which vary in their distance from 1: if
    straightness rises from 0.98 to 0.99, the path is half as bent."""
    needs_guidance_gap: bool = False
    """True if only guided videos with a stored guidance gap have the metric, so all videos may lack it."""


RENAMED_METRICS = {"line_share": "first_pc_variance"}
"""Current names of metrics by their names in earlier versions."""
METRICS: dict[str, Metric] = {
    "length": Metric("length of the path from noise to video", lambda t: t.length, 3),
    "chord": Metric("straight distance from the initial noise to the final latents", lambda t: t.chord, 3),
    "straightness": Metric(
        "chord over length: 1 for a straight path, less if it bends", lambda t: t.straightness, 3, ratio_origin=1.0
    ),
    "turning": Metric("sum of the angles between successive steps", lambda t: t.total_turning, 3, "rad"),
    "detour": Metric("share of the path beyond the straight line: 1 - straightness", lambda t: t.detour, 3),
    "largest_deviation": Metric(
        "largest distance from the chord, divided by the chord", lambda t: t.largest_deviation, 3
    ),
    "flow_straightness": Metric("mean squared deviation from constant velocity", lambda t: t.flow_straightness, 3),
    "chord_alignment": Metric(
        "mean cosine between step and chord; 1 is straight", lambda t: t.chord_alignment, 3, ratio_origin=1.0
    ),
    "curvature": Metric("mean bend along the path; 0 is a straight path", lambda t: t.mean_curvature, 3),
    "velocity": Metric("mean distance travelled per unit of noise level", lambda t: float(t.velocity.mean()), 3),
    "acceleration": Metric(
        "mean change of velocity per unit of noise level", lambda t: float(t.acceleration.mean()), 3
    ),
    "first_pc_variance": Metric(
        "share of variance on the main axis; random walk: 0.608",
        lambda t: t.first_pc_variance,
        3,
        ratio_origin=1.0,
    ),
    "effective_dimension": Metric(
        "number of directions that the path effectively uses", lambda t: t.effective_dimension, 3, ratio_origin=1.0
    ),
    "log_volume": Metric(
        "logarithm of the volume that the three main axes span",
        lambda t: t.log_volume,
        5,
        "nats",
        has_ratio_scale=False,
    ),
    "commitment": Metric(
        "noise level below which the predicted latents settle",
        lambda t: t.commitment,
        3,
        "sigma",
        ratio_origin=1.0,
    ),
    "final_norm": Metric("magnitude of the final latents (root mean square)", lambda t: t.final_norm, 3),
    "least_norm": Metric("smallest magnitude of the latents on the path", lambda t: t.least_norm, 3),
    "guidance_gap": Metric(
        "mean gap between predictions with and without the prompt",
        lambda t: t.compute_guidance_gap(WHOLE_WINDOW),
        3,
        needs_guidance_gap=True,
    ),
    "guidance_gap_early": Metric(
        "mean guidance gap for sigma from 0.75 to 1",
        lambda t: t.compute_guidance_gap(EARLY_WINDOW),
        3,
        needs_guidance_gap=True,
    ),
    "guidance_gap_late": Metric(
        "mean guidance gap for sigma below 0.5",
        lambda t: t.compute_guidance_gap(LATE_WINDOW),
        3,
        needs_guidance_gap=True,
    ),
}
CURVES: dict[str, Callable[[Trajectory], tuple[FloatArray, FloatArray]]] = {
    "norm": lambda t: (t.sigmas, t.norm),
    "velocity": lambda t: (compute_midpoints(t.sigmas), t.velocity),
    "turning": lambda t: (t.sigmas[1:-1], t.turning),
    "acceleration": lambda t: (t.sigmas[1:-1], t.acceleration),
    "curvature": lambda t: (t.sigmas[1:-1], t.curvature),
    "clean_distance": lambda t: (t.sigmas[:-1], t.clean_distance),
}
"""Functions that return the noise levels and values of each curve, by name."""


def get_metric_unit(metric: str) -> str:
    """Return the unit of a metric; empty for `spread` and external labels."""
    return METRICS[metric].unit if metric in METRICS else ""


def get_ratio_origin(metric: str) -> float:
    """Return the value of a metric that percentages are measured from; 0 for `spread` and external labels."""
    return METRICS[metric].ratio_origin if metric in METRICS else 0.0


def describe_ratio_base(metric: str) -> str:
    """Return what percentages of a metric refer to, such as " of the distance from 1".

    The text is empty if they refer to the metric itself.
    """
    origin = get_ratio_origin(metric)
    return f" of the distance from {origin:g}" if origin else ""


def describe_ratio_origins(metrics: Iterable[str]) -> str:
    """Return a sentence that names the metrics whose percentages are not measured from 0; empty if there are none."""
    names_by_origin: dict[float, list[str]] = {}
    for metric in dict.fromkeys(metrics):
        if origin := get_ratio_origin(metric):
            names_by_origin.setdefault(origin, []).append(metric)
    return "; ".join(
        f"percentages of {', '.join(names)} are of the distance from {origin:g}"
        for origin, names in names_by_origin.items()
    )


def compute_midpoints(sigmas: FloatArray) -> FloatArray:
    return (sigmas[1:] + sigmas[:-1]) / 2


def select_finite_values(values: Sequence[float]) -> FloatArray:
    """Return the finite values; other values belong to paths for which the metric is undefined."""
    array = np.array(values, dtype=np.float64)
    return array[np.isfinite(array)]


def compute_metric(trajectory: Trajectory, metric: str) -> float:
    """Return one metric of a trajectory; NaN if the trajectory has too few states, or the metric has no value."""
    definition, values = METRICS[metric], trajectory.values_by_metric
    if metric not in values:
        has_enough_states = len(trajectory.sigmas) >= definition.min_states
        values[metric] = definition.compute(trajectory) if has_enough_states else float("nan")
    return values[metric]
