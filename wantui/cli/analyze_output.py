"""Default metrics of the `wantui analyze` tables, warnings about metrics, and CSV files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.cli.output import echo
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.analysis.video import Video

DEFAULT_METRICS = ("length", "straightness", "turning", "curvature", "effective_dimension", "log_volume")
"""Metrics that a table shows without --metrics; more would not fit on a screen."""


def warn_about_metrics(videos: "Sequence[Video]", metrics: Sequence[str], where: str = "") -> None:
    """Print a warning for each metric that needs more states, or that depends on the number of steps."""
    from wantui.analysis.strides import find_unsettled_metrics
    from wantui.analysis.trajectory import METRICS

    measured = [video for video in videos if video.trajectory is not None]
    paths = [video.trajectory for video in measured if video.trajectory is not None]
    if not paths:
        return
    fewest = min(len(path.sigmas) for path in paths)
    for name in metrics:
        if (needed := METRICS[name].min_states) > fewest:
            echo(f"warning: {where}{name} needs {needed} states, but a trajectory has {fewest}", err=True)
    for measured_strides in find_unsettled_metrics(paths, metrics, measured[0].stride):
        echo(f"warning: {where}{measured_strides.description}", err=True)


def write_table(path: Path, rows: list[list[str]]) -> None:
    """Write rows to a CSV file, or to stdout for `-`.

    Raises:
        UserError: the file cannot be written.
    """
    from wantui.analysis.serialize import format_csv, write_csv

    if str(path) == "-":
        echo(format_csv(rows), nl=False)
        return
    try:
        write_csv(path, rows)
    except OSError as error:
        raise UserError(f"--csv: cannot write {path}: {error.strerror}") from None
    echo(f"written: {path}", err=True)
