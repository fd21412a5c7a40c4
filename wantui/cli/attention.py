"""wantui attention: attention maps of words by step, block or head, as a labelled picture (PNG) and clip (MP4)."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_json_option
from wantui.cli.output import echo, print_json
from wantui.cli.progress_line import open_progress_line
from wantui.cli.selection_options import add_cell_width_option, add_selection_options, add_video_id_option
from wantui.cli.types import BATCH_FOLDER_TYPE, PATH_TYPE
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.analysis.attention_axes import AttentionAxis
    from wantui.batches.attention_grid import AttentionColumns, AttentionRow
    from wantui.cli.progress_line import ProgressLine
    from wantui.storage.video_selection import SelectedVideo

SUFFIXES = (".png", ".mp4")
NO_MAPS_ERROR = (
    "no selected video has attention maps. Mark words of the template with parentheses, as in a (circle), and run it "
    "with --store-attention"
)


@click.command("attention", cls=WantuiCommand)
@click.argument("batch", type=BATCH_FOLDER_TYPE)
@click.option(
    "--word",
    "words",
    multiple=True,
    help="Word to draw, by its stored name (circle, circle_2); repeatable.  [default: all marked words]",
)
@click.option(
    "--by",
    "axis",
    type=click.Choice(["step", "block", "head"]),
    default="step",
    show_default=True,
    help="Columns of the grid; block and head need attention stored per block or head.",
)
@click.option(
    "--steps",
    "written_moments",
    metavar="LIST",
    help="Comma-separated steps to include, each an index from 0, a percentage or `sigma 0.5`.  [default: all; with "
    "--by step, eight of them]",
)
@click.option(
    "--heat/--overlay", "is_heat", default=False, help="Draw the maps alone, or over the clip.  [default: overlay]"
)
@add_cell_width_option
@add_selection_options
@add_video_id_option
@click.option(
    "-o", "--output", type=PATH_TYPE, help="PNG or MP4 file to write.  [default: one of each in BATCH/exports]"
)
@add_json_option
def command(
    batch: Path,
    words: tuple[str, ...],
    axis: "AttentionAxis",
    written_moments: str | None,
    is_heat: bool,
    cell_width: int | None,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    id_prefixes: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw the attention maps of BATCH in a labelled grid: a row per video and word, a column per step, block or head.

    All maps share one colour scale from 0, which is drawn below the grid. A PNG shows the middle frame, an MP4 all
    frames. Videos without maps are left out; damaged videos are reported on stderr, and the exit code is then 1.
    """
    from wantui.batches.attention_grid import arrange_attention
    from wantui.storage.video_selection import select_videos

    targets = _choose_output_paths(batch, output, words, axis, is_heat)
    moments = tuple(written_moments.split(",")) if written_moments is not None else ()
    videos = select_videos([batch], variation_ids, seeds, id_prefixes)
    with open_progress_line() as line:
        rows, columns, errors = _read_rows(videos, words, axis, moments, line)
        grid, scale_maximum = arrange_attention(rows, columns, shows_frames=not is_heat)
        unreadable: dict[str, None] = {}
        for target in targets:
            line.show_phase(f"drawing {target}: {len(rows)} by {len(columns.labels)} maps")
            unreadable.update(dict.fromkeys(_write_attention_grid(batch, target, grid, rows, cell_width)))
    if as_json:
        print_json(_build_record(rows, columns, scale_maximum, is_heat, targets))
    else:
        echo(f"colour scale: attention from 0 to {100 * scale_maximum:.3g}%, the same for all maps", err=True)
        for target in targets:
            echo(target)
    for reason in (*errors, *unreadable):
        echo(reason, err=True)
    if errors or unreadable:
        sys.exit(1)


def _choose_output_paths(
    batch: Path, output: Path | None, words: Sequence[str], axis: str, is_heat: bool
) -> list[Path]:
    from wantui.paths import check_output_folder
    from wantui.storage.layout import check_command_output, make_safe_folder_name

    if output is None:
        check_output_folder(batch / "exports")
        name = make_safe_folder_name("_".join(("attention", *words, "by", axis, *(["heat"] if is_heat else []))))
        return [batch / "exports" / f"{name}{suffix}" for suffix in SUFFIXES]
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"-o: cannot write {output}: its name must end in {' or '.join(SUFFIXES)}")
    check_command_output(output)
    return [output]


def _read_rows(
    videos: "list[SelectedVideo]",
    words: Sequence[str],
    axis: "AttentionAxis",
    moments: Sequence[str],
    line: "ProgressLine",
) -> "tuple[list[AttentionRow], AttentionColumns, list[str]]":
    """Return the rows of the grid, its columns, and an error for each unreadable video."""
    from wantui.batches.attention_grid import (
        MAX_MAPS,
        SELECTION_ADVICE,
        choose_step_indices,
        describe_columns,
        open_video_maps,
        read_row,
    )
    from wantui.storage.zarr_group import CaptureError

    rows: list[AttentionRow] = []
    errors: list[str] = []
    columns: AttentionColumns | None = None
    for number, video in enumerate(videos, start=1):
        line.show_count(f"reading attention maps: video {number} of {len(videos)}")
        try:
            maps = open_video_maps(video)
        except CaptureError as error:
            errors.append(f"left out: {video.name}: {error}")
            continue
        shown_words = words or ([] if maps is None else list(maps.metadata_by_word))
        if maps is None or not shown_words:
            continue
        step_indices = choose_step_indices(maps, video, moments, shows_steps=axis == "step")
        video_columns = describe_columns(maps, video, shown_words[0], axis, step_indices)
        if columns is not None and video_columns != columns:
            raise UserError(
                f"cannot draw one grid: {video.name} and {rows[0].video.name} have different {axis}s or noise levels. "
                f"{SELECTION_ADVICE.capitalize()}"
            )
        columns = video_columns
        map_count = (len(rows) + len(shown_words)) * len(columns.labels)
        if map_count > MAX_MAPS:
            raise UserError(
                f"cannot draw {map_count:,} maps or more: the limit is {MAX_MAPS}. {SELECTION_ADVICE.capitalize()}"
            )
        try:
            rows += [read_row(video, maps, word, axis, step_indices) for word in shown_words]
        except CaptureError as error:
            errors.append(f"left out: {video.name}: {error}")
    if columns is None or not rows:
        raise UserError("; ".join(errors) if errors else NO_MAPS_ERROR)
    return rows, columns, errors


def _write_attention_grid(
    batch: Path, target: Path, grid: Any, rows: "Sequence[AttentionRow]", cell_width: int | None
) -> Sequence[str]:
    """Write one file; return the reasons for unreadable clips."""
    from wantui.gallery.labelled_grid import write_grid_clip, write_grid_picture
    from wantui.storage.video_files import make_parent_folders

    try:
        make_parent_folders(batch if target.is_relative_to(batch) else target.parent, target)
        if target.suffix.lower() == ".png":
            return write_grid_picture(grid, target, cell_width).unreadable
        tags = {"title": f"attention, {batch.absolute().name}", "comment": rows[0].video.manifest.template}
        return write_grid_clip(grid, target, rows[0].video.entry.recipe.fps, tags, cell_width).unreadable
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}. Choose another file with -o") from None


def _build_record(
    rows: "Sequence[AttentionRow]",
    columns: "AttentionColumns",
    scale_maximum: float,
    is_heat: bool,
    targets: Sequence[Path],
) -> dict[str, Any]:
    import numpy as np

    return {
        "by": columns.axis,
        "indices": list(columns.indices),
        "drawing": "heat" if is_heat else "overlay",
        "scale_maximum": scale_maximum,
        "rows": [
            {
                "video": row.video.entry.id,
                "seed": row.video.entry.seed,
                "word": row.word,
                "mass": row.maps.mean((1, 2, 3), dtype=np.float64),
            }
            for row in rows
        ],
        "paths": [str(target) for target in targets],
    }
