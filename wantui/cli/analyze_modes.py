"""Modes of `wantui analyze`, and the options that apply to each."""

from collections.abc import Sequence

import click

MODES_WITH_METRICS = ("", "--groups", "--compare", "--correlate")
"""Modes that measure metrics of trajectories; "" prints the metrics of videos."""
MODES_BY_PARAMETER = {
    "csv_path": ("--csv", ("", "--compare"), "metrics and --compare, without --json"),
    "html_path": ("--html", ("--compare",), "--compare"),
    "stride": (
        "--stride",
        MODES_WITH_METRICS,
        "metrics, --groups, --compare and --correlate",
    ),
    "metrics": (
        "--metrics",
        MODES_WITH_METRICS,
        "metrics, --groups, --compare and --correlate",
    ),
    "scores_path": ("--scores", ("--groups", "--compare", "--correlate"), "--groups, --compare and --correlate"),
    "tests_interaction": ("--interaction", ("--compare",), "--compare"),
    "shows_details": ("--details", ("--compare",), "--compare, without --json"),
    "grouping": (
        "--by",
        ("--groups", "--compare", "--decodability", "--shares"),
        "--groups, --compare, --decodability and --shares",
    ),
    "primary_metric": ("--primary", ("--compare",), "--compare"),
    "equivalence_margin": ("--margin", ("--compare",), "--compare"),
    "from_latents": (
        "--from-latents",
        (*MODES_WITH_METRICS, "--list-videos", "--decodability", "--shares"),
        "output without attention maps and contributions",
    ),
    "overlay_path": ("--output", ("--overlay",), "--overlay"),
    "as_json": (
        "--json",
        (
            "",
            "--list-videos",
            "--attention",
            "--contributions",
            "--compare",
            "--groups",
            "--decodability",
            "--shares",
            "--correlate",
        ),
        "output without --overlay",
    ),
}
"""Parameter -> option, modes in which it has an effect ("" prints the metrics of videos), and these modes in words."""


def reject_unused_options(chosen_modes: Sequence[str], as_json: bool) -> None:
    """Reject options without effect in the chosen mode, and more than one mode."""
    get_source = click.get_current_context().get_parameter_source
    for parameter, (option, option_modes, modes_text) in MODES_BY_PARAMETER.items():
        is_given = get_source(parameter) is click.core.ParameterSource.COMMANDLINE
        is_unused = any(mode not in option_modes for mode in chosen_modes or [""]) or (
            parameter in ("csv_path", "shows_details") and as_json
        )
        if is_given and is_unused:
            raise click.UsageError(f"cannot use {option} here: it applies only to {modes_text}")
    if len(chosen_modes) > 1:
        raise click.UsageError(f"cannot combine {' and '.join(chosen_modes)}. Choose one")
