"""Metrics of single videos in `wantui analyze`."""

from pathlib import Path
from typing import TYPE_CHECKING

from wantui.cli.analyze_output import warn_about_metrics, write_csv_table
from wantui.cli.output import print_columns, print_json
from wantui.errors import UserError
from wantui.metric_names import DEFAULT_METRIC_NAMES

if TYPE_CHECKING:
    from wantui.analysis.comparability import VideoNamer
    from wantui.analysis.video import Video


def print_video_metrics(
    videos: "list[Video]", chosen_metrics: list[str] | None, as_json: bool, csv_path: Path | None
) -> None:
    """Print the metrics of each video as a table or JSON, or write them as CSV.

    Args:
        chosen_metrics: names of metrics; None for all in JSON and CSV, and for a selection in the table.

    Raises:
        UserError: no video has a trajectory.
    """
    from wantui.analysis.comparability import VideoNamer
    from wantui.analysis.metrics import METRICS
    from wantui.analysis.null_models import build_gaussian_nulls_per_video
    from wantui.analysis.serialize import build_video_record, build_video_rows

    default_metrics = list(METRICS) if as_json or csv_path else list(DEFAULT_METRIC_NAMES)
    metric_names = chosen_metrics or default_metrics
    if as_json:
        null_models = build_gaussian_nulls_per_video(videos)
        print_json(
            [
                build_video_record(video, metric_names, null_model, with_curves=True)
                for video, null_model in zip(videos, null_models, strict=True)
            ]
        )
        return
    if csv_path is not None:
        write_csv_table(csv_path, build_video_rows(videos, metric_names))
        return
    video_namer = VideoNamer(videos)
    if not any(video.trajectory for video in videos):
        reasons_text = (
            "; ".join(dict.fromkeys(f"{video_namer.name_video(video)}: {video.exclusion_reason}" for video in videos))
            or "no finished video"
        )
        raise UserError(f"cannot analyse any video: {reasons_text}")
    _print_metric_table(videos, metric_names, video_namer)


def _print_metric_table(videos: "list[Video]", metric_names: list[str], video_namer: "VideoNamer") -> None:
    from wantui.tui.plots import draw_sparkline

    has_batch_column = len(video_namer.batch_names_by_folder) > 1
    has_cell_column = any(video.cell_label for video in videos)
    header_cells = (
        *(["batch"] if has_batch_column else []),
        "variation",
        "seed",
        *(["cell"] if has_cell_column else []),
        *(videos[0].label_metric(name) for name in metric_names),
        "velocity over steps",
    )
    table_rows = []
    for video in videos:
        label_cells = [*([video_namer.name_batch(video)] if has_batch_column else []), video.variation, str(video.seed)]
        label_cells += [video.cell_label] if has_cell_column else []
        if video.trajectory is None:
            reason = "unreadable" if video.is_damaged else video.exclusion_reason
            table_rows.append((*label_cells, *["-"] * len(metric_names), reason))
            continue
        value_cells = [
            "-" if (value := video.compute_metric(name)) != value else f"{value:.5g}" for name in metric_names
        ]
        table_rows.append((*label_cells, *value_cells, draw_sparkline(video.trajectory.velocity.tolist(), 10).rstrip()))
    print_columns(header_cells, *table_rows)
    warn_about_metrics(videos, metric_names)
