"""Lines of `wantui analyze --compare` about the curves of groups over the noise level."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wantui.cli.output import echo, print_columns, print_wrapped_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.curve_comparison import CurveComparison

MAX_PRINTED_P = 0.05
"""Largest p of a printed cluster; `--json` lists all clusters."""


def print_curve_comparison(comparisons: "Sequence[CurveComparison]", seed_count: int) -> None:
    """Print the clusters of each curve and pair of groups, and the smallest p that is possible with these seeds."""
    from wantui.analysis.curve_comparison import describe_cluster_test

    echo()
    if reason := comparisons[0].untested_reason:
        print_wrapped_line(f"curves over noise levels are not compared: {reason}", indent=2)
        return
    print_wrapped_line(describe_cluster_test(seed_count), indent=2)
    rows = [
        (comparison, difference, cluster)
        for comparison in comparisons
        for difference in comparison.differences
        for cluster in difference.clusters
    ]
    printed_rows = [
        (
            comparison.label,
            f"{difference.first_group} - {difference.second_group}",
            "more" if cluster.mass > 0 else "less",
            f"{comparison.curves[0].sigmas[cluster.first_level]:.3f} to "
            f"{comparison.curves[0].sigmas[cluster.last_level]:.3f}",
            f"{cluster.mass:.1f}",
            f"{cluster.p:.3g}",
            f"{cluster.family_p:.3g}",
        )
        for comparison, difference, cluster in rows
        if cluster.p <= MAX_PRINTED_P
    ]
    headers = ("curve", "groups", "first has", "strongest at sigma", "sum of t", "p", "p for all curves")
    if printed_rows:
        print_columns(headers, *printed_rows)
    if hidden_count := len(rows) - len(printed_rows):
        echo(f"{format_count(hidden_count, 'cluster')} with p above {MAX_PRINTED_P} not shown; --json lists all")
    if not rows:
        echo("  no curve exceeds the cluster threshold at any noise level")
