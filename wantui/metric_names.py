"""Names of metrics. Imports nothing heavy: the config module imports it."""

from typing import Literal

MetricName = Literal[
    "spread",
    "length",
    "chord",
    "straightness",
    "turning",
    "detour",
    "largest_deviation",
    "flow_straightness",
    "chord_alignment",
    "curvature",
    "velocity",
    "acceleration",
    "first_pc_variance",
    "effective_dimension",
    "log_volume",
    "commitment",
    "final_norm",
    "least_norm",
    "guidance_gap",
    "guidance_gap_early",
    "guidance_gap_late",
]
"""Metric that a config can declare."""
DEFAULT_METRIC_NAMES = (
    "length",
    "straightness",
    "turning",
    "curvature",
    "effective_dimension",
    "log_volume",
)
"""Metrics that a table shows if none is chosen; more would not fit on a screen."""
CURVE_NAMES = ("norm", "velocity", "turning", "acceleration", "curvature", "clean_distance")
"""Names of the curves over the noise level, in the order in which screens show them."""
