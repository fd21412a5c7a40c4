"""Names of the metrics that a config can declare. Imports nothing heavy: the config module imports it."""

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
