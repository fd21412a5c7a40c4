"""JSON records of the comparison of curves between groups."""

from collections.abc import Sequence
from typing import Any

from wantui.analysis.arrays import FloatArray
from wantui.analysis.clusters import Cluster
from wantui.analysis.curve_comparison import CurveComparison, CurveDifference
from wantui.json_values import to_json_values


def build_curve_records(curve_comparisons: Sequence[CurveComparison]) -> dict[str, Any]:
    """Return the JSON record of each compared curve, by name."""
    return {
        comparison.curve_name: to_json_values(
            {
                "groups": {
                    curve.group_name: {
                        "sigma": curve.sigmas,
                        "mean": curve.mean,
                        "low": curve.low,
                        "high": curve.high,
                        "videos_low": curve.videos_low,
                        "videos_high": curve.videos_high,
                    }
                    for curve in comparison.curves
                },
                "differences": [
                    _build_difference_record(difference, comparison.curves[0].sigmas)
                    for difference in comparison.differences
                ],
                "untested": comparison.untested_reason,
                "settled": comparison.is_settled,
            }
        )
        for comparison in curve_comparisons
    }


def _build_difference_record(difference: CurveDifference, sigmas: FloatArray) -> dict[str, Any]:
    return {
        "first": difference.first_group,
        "second": difference.second_group,
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "t": difference.t_values,
        "p": difference.p,
        "clusters": [_build_cluster_record(cluster, sigmas) for cluster in difference.clusters],
    }


def _build_cluster_record(cluster: Cluster, sigmas: FloatArray) -> dict[str, Any]:
    return {
        "from": sigmas[cluster.first_level],
        "to": sigmas[cluster.last_level],
        "mass": cluster.mass,
        "p": cluster.p,
        "family_p": cluster.family_p,
    }
