"""Lines of `wantui analyze --compare` about the curves of groups over the noise level."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wantui.cli.output import echo, print_columns, print_wrapped_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.curve_comparison import CurveComparison


def print_curve_comparison(comparisons: "Sequence[CurveComparison]", seed_count: int) -> None:
    """Print the significant clusters of each curve and pair, and the smallest p that is possible with these seeds."""
    from wantui.analysis.curve_comparison import describe_cluster_test
    from wantui.analysis.differences import P_HEADER, SIGNIFICANCE_LEVEL

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
            f"{cluster.family_p:.3g}",
        )
        for comparison, difference, cluster in rows
        if cluster.family_p <= SIGNIFICANCE_LEVEL
    ]
    headers = ("curve", "groups", "first has", "strongest at sigma", "sum of t", P_HEADER)
    if printed_rows:
        print_columns(headers, *printed_rows)
    if hidden_count := len(rows) - len(printed_rows):
        echo(f"{format_count(hidden_count, 'cluster')} with a larger corrected p not shown; --json lists all")
    if not rows:
        echo("  no curve exceeds the cluster threshold at any noise level")
