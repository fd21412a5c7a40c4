"""Section of a report about its provenance: the command, date, versions, and the table of external labels."""

import html
import platform
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from wantui import __version__
from wantui.analysis.comparison import Comparison
from wantui.analysis.label_table import LabelTable
from wantui.analysis.report_page import render_table
from wantui.formatting import format_count

LIBRARIES = ("numpy", "scipy", "scikit-learn", "matplotlib")
"""Libraries that compute or draw what a report shows."""


@dataclass(frozen=True)
class ReportProvenance:
    """Provenance of a report, except what the comparison already contains."""

    command: str
    """Command that writes the report again."""
    label_table: LabelTable | None = None


def build_equivalent_command(comparison: Comparison) -> str:
    """Return a command that repeats a comparison started on the screen or from Python."""
    folders = dict.fromkeys(str(video.folder) for video in comparison.videos)
    options = ["--compare", "--by", comparison.grouping, "--primary", comparison.primary_metric]
    if comparison.stride > 1:
        options += ["--stride", str(comparison.stride)]
    return shlex.join(["wantui", "analyze", *folders, *options, "--html", "report.html"])


def render_provenance_section(comparison: Comparison, provenance: ReportProvenance) -> list[str]:
    """Return the HTML of the command, the date, the versions and the seeds."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    values = {
        "command": f"<code>{html.escape(provenance.command)}</code>",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "analysed with": html.escape(f"wantui {__version__}, Python {platform.python_version()}, {libraries}"),
        "groups by": html.escape(comparison.grouping),
        "declared metric": html.escape(comparison.primary_metric),
        "seeds": html.escape(", ".join(map(str, comparison.seeds))),
        "stride": str(comparison.stride),
    }
    if (table := provenance.label_table) is not None:
        labels = ", ".join(table.label_names)
        values["external labels"] = html.escape(
            f"{table.path} ({format_count(len(table.rows), 'row')}, SHA-256 {table.sha256}): {labels}"
        )
    return ["<h2>How this report was made</h2>", render_table((), [list(item) for item in values.items()], "text")]
