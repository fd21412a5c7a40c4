"""List of videos of `wantui analyze`, warnings about metrics, and CSV files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.cli.output import echo, echo_written_file, print_columns, print_json
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.analysis.video import Video


def warn_about_metrics(videos: "Sequence[Video]", metric_names: Sequence[str], message_prefix: str = "") -> None:
    """Print a warning for each metric that needs more states, or that depends on the number of steps."""
    from wantui.analysis.metrics import METRICS
    from wantui.analysis.strides import list_unsettled_stride_checks

    measured_videos = [video for video in videos if video.trajectory is not None]
    trajectories = [video.trajectory for video in measured_videos if video.trajectory is not None]
    if not trajectories:
        return
    min_state_count = min(len(trajectory.sigmas) for trajectory in trajectories)
    for name in metric_names:
        if name in METRICS and (needed_states := METRICS[name].min_states) > min_state_count:
            echo(
                f"warning: {message_prefix}{name} needs {needed_states} states, but the shortest trajectory has "
                f"{min_state_count}",
                err=True,
            )
    for stride_check in list_unsettled_stride_checks(measured_videos, metric_names):
        echo(f"warning: {message_prefix}{stride_check.description}", err=True)


def reject_unfit_output_files(csv_path: Path | None, html_path: Path | None, scores_path: Path | None) -> None:
    """Reject a report that would replace a file other than a report, and a table that would replace the labels.

    Raises:
        UserError: the message names the option.
    """
    if html_path is not None and html_path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html: {html_path} is not the name of an HTML file. Choose a name that ends in .html")
    if csv_path is not None and scores_path is not None and csv_path.resolve() == scores_path.resolve():
        raise UserError(
            f"--csv: {csv_path} is the label file of --scores and would be overwritten. Choose another file"
        )


def check_csv_file(path: Path | None) -> None:
    """Check that a CSV file can be written, before its content is computed; None and `-` always pass.

    Raises:
        UserError: names the file and the reason.
    """
    from wantui.storage.layout import check_command_output

    if path is None or str(path) == "-":
        return
    # `write_csv` replaces the file that a link names; the link of a pipe, as in /dev/stdout, leads to no path.
    leads_to_file = path.is_symlink() and (path.is_file() or not path.exists())
    check_command_output(path.resolve() if leads_to_file else path, may_be_device=True)


def write_csv_table(path: Path, table_rows: list[list[str]]) -> None:
    """Write rows to a CSV file, or to stdout for `-`.

    Raises:
        UserError: the file cannot be written.
    """
    from wantui.analysis.serialize import format_csv, write_csv
    from wantui.storage.layout import is_output_folder_of_batch

    if str(path) == "-":
        echo(format_csv(table_rows), nl=False)
        return
    is_replaced = path.is_file()
    try:
        if is_output_folder_of_batch(path.absolute().parent):
            path.parent.mkdir(exist_ok=True)
        write_csv(path, table_rows)
    except OSError as error:
        raise UserError(f"--csv: cannot write {path}: {error.strerror or error}") from None
    echo_written_file(path, is_replaced)


def print_video_list(videos: "list[Video]", as_json: bool) -> None:
    """Print the videos with their ids and stored captures."""
    records = [
        {
            "id": video.id,
            "batch": str(video.folder),
            "variation": video.variation,
            "seed": video.seed,
            "cell": video.cell_label,
            "trajectory": video.trajectory is not None,
            "attention": video.attention_path is not None,
            "contributions": video.contributions_path is not None,
            "reason": video.exclusion_reason,
        }
        for video in videos
    ]
    if as_json:
        print_json(records)
        return
    has_cell_column = any(video.cell_label for video in videos)
    table_rows = [
        (
            video.id,
            video.folder.name,
            video.variation,
            str(video.seed),
            *([video.cell_label] if has_cell_column else []),
            video.exclusion_reason or _list_stored_captures(video),
        )
        for video in videos
    ]
    cell_headers = ["cell"] if has_cell_column else []
    print_columns(("id", "batch", "variation", "seed", *cell_headers, "stored"), *table_rows)


def _list_stored_captures(video: "Video") -> str:
    paths = {"attention": video.attention_path, "contributions": video.contributions_path}
    return ", ".join(["trajectory", *(name for name, path in paths.items() if path is not None)])
