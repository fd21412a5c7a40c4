"""wantui decode: decode stored latents, to see a video at each step."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_device_option, add_json_option
from wantui.cli.output import echo, print_json
from wantui.cli.progress_line import ProgressLine, open_progress_line
from wantui.cli.selection_options import add_cell_width_option, add_selection_options, add_video_id_option
from wantui.cli.types import BATCH_FOLDER_TYPE, PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.batches.decode_states import DecodeRequest, StateDecoded
    from wantui.gallery.labelled_grid import WrittenGrid
    from wantui.storage.video_selection import SelectedVideo

DEFAULT_MOMENTS = "0,25%,50%,75%,end"
STATE_KINDS_BY_OPTION = {"clean": ("clean",), "noisy": ("noisy",), "both": ("noisy", "clean")}
"""Kinds of states by --state value."""
GRID_SUFFIXES = (".png", ".mp4")


@click.command("decode", cls=WantuiCommand)
@click.argument("sources", metavar="BATCH|CLIP...", nargs=-1, required=True, type=BATCH_FOLDER_TYPE)
@click.option(
    "--steps",
    "written_moments",
    metavar="LIST",
    help="Comma-separated steps, each an index from 0, a percentage or `sigma 0.5` (the nearest stored step), or "
    f"`end` for the finished video.  [default: {DEFAULT_MOMENTS}]",
)
@click.option("--all", "decodes_all", is_flag=True, help="Decode every stored step.")
@click.option(
    "--state",
    type=click.Choice(list(STATE_KINDS_BY_OPTION)),
    default="clean",
    show_default=True,
    help="State to decode: clean (the model's prediction at the step) or noisy (the model's input).",
)
@click.option(
    "--fast",
    "uses_fit",
    is_flag=True,
    help="Decode small clips in seconds, by a linear fit of the colours instead of the VAE.",
)
@click.option("--grid", "draws_grid", is_flag=True, help="Also draw one grid, a row per video and a column per step.")
@add_cell_width_option
@add_selection_options
@add_video_id_option
@click.option(
    "-o", "--output", "requested_folder", type=PATH_TYPE, help="Output folder.  [default: BATCH/exports/steps]"
)
@add_device_option
@click.option("--fetch", "may_fetch", is_flag=True, help="Download missing VAE weights.")
@add_json_option
def command(
    sources: tuple[Path, ...],
    written_moments: str | None,
    decodes_all: bool,
    state: str,
    uses_fit: bool,
    draws_grid: bool,
    cell_width: int | None,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    id_prefixes: tuple[str, ...],
    requested_folder: Path | None,
    device: str,
    may_fetch: bool,
    as_json: bool,
) -> None:
    """Decode stored latents of the videos in BATCH, or of CLIP, to one clip per step.

    The latents must be stored (--store-latents of `wantui run`). Clips that exist are kept, so that an interrupted
    command continues where it ended. Videos without latents and damaged videos are reported on stderr and left out; the
    exit code is then 1.
    """
    from wantui.batches.decode_states import DecodeRequest
    from wantui.paths import check_output_folder
    from wantui.storage.video_selection import select_videos

    if decodes_all and written_moments is not None:
        raise click.UsageError("cannot combine --all and --steps. Choose one")
    if cell_width is not None and not draws_grid:
        raise click.UsageError("cannot use --cell-width here: it applies only to --grid")
    if uses_fit and (may_fetch or device != "auto"):
        raise click.UsageError("cannot use --device or --fetch with --fast, which needs no model")
    videos = select_videos(sources, variation_ids, seeds, id_prefixes)
    batches = list(dict.fromkeys(video.folder for video in videos))
    folder_by_batch = _choose_folders(batches, requested_folder)
    if draws_grid and len(batches) > 1:
        raise UserError("--grid draws the videos of one batch. Name one batch")
    for folder in folder_by_batch.values():
        check_output_folder(folder)
    moments = (
        None if decodes_all else tuple((DEFAULT_MOMENTS if written_moments is None else written_moments).split(","))
    )
    request = DecodeRequest(STATE_KINDS_BY_OPTION[state], moments, uses_fit, device, may_fetch)  # type: ignore[arg-type]
    with open_progress_line() as line:
        decoded, left_out_count = _decode_videos(videos, request, folder_by_batch, line, as_json)
    grid_name = "steps" + {"clean": ""}.get(state, f"_{state}") + ("_fit" if uses_fit else "")
    grid_folder = folder_by_batch[batches[0]].parent if requested_folder is None else requested_folder
    grids = _draw_grids(decoded, grid_folder / grid_name, cell_width) if draws_grid and decoded else []
    if as_json:
        print_json({"states": [_build_record(event) for event in decoded], "grids": [str(grid.path) for grid in grids]})
    for grid in grids:
        if not as_json:
            echo(grid.path)
        for reason in grid.unreadable:
            echo(reason, err=True)
    if left_out_count or any(grid.unreadable for grid in grids):
        sys.exit(1)


def _choose_folders(batches: list[Path], requested_folder: Path | None) -> dict[Path, Path]:
    """Return the folder for the clips of each batch."""
    if requested_folder is None:
        return {batch: batch / "exports" / "steps" for batch in batches}
    if len(batches) == 1:
        return {batches[0]: requested_folder}
    return {batch: requested_folder / batch.name for batch in batches}


def _decode_videos(
    videos: "list[SelectedVideo]",
    request: "DecodeRequest",
    folder_by_batch: dict[Path, Path],
    line: ProgressLine,
    as_json: bool,
) -> "tuple[list[StateDecoded], int]":
    """Return the decoded states, and the number of videos left out."""
    from wantui.batches.decode_states import StateDecoded, StateFrameDecoded, decode_states
    from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut

    decoded: list[StateDecoded] = []
    left_out_count = 0
    line.show_phase(f"reading latents: {format_count(len(videos), 'video')}")
    folder = next(iter(folder_by_batch.values()))
    try:
        for event in decode_states(videos, request, folder_by_batch):
            match event:
                case ModelLoadStarted(model, device):
                    line.show_phase(f"loading the VAE of {model} on {device}")
                case StateFrameDecoded(video, moment, decoded_count, frame_count):
                    number = videos.index(video) + 1
                    line.show_count(
                        f"video {number} of {len(videos)}: {video.name}, {moment.label}, frame {decoded_count} of "
                        f"{frame_count}"
                    )
                case StateDecoded():
                    decoded.append(event)
                    line.erase()
                    _report_state(event, as_json)
                case VideoLeftOut(name, reason):
                    left_out_count += 1
                    line.print_left_out(name, reason)
    except KeyboardInterrupt:
        folders_text = ", ".join(map(str, folder_by_batch.values()))
        line.print_message(
            f"interrupted: {format_count(len(decoded), 'clip')} complete in {folders_text}. "
            "The same command keeps complete clips and decodes the others"
        )
        raise
    except OSError as error:
        path = str(error.filename2 or error.filename or folder).removeprefix("file:")  # of FFmpeg
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Complete clips are kept; choose another folder with -o"
        ) from None
    except RuntimeError as error:  # of torch, for example out of memory
        raise UserError(f"cannot decode: {error}. Complete clips are kept; use --device cpu, or --fast") from error
    return decoded, left_out_count


def _report_state(event: "StateDecoded", as_json: bool) -> None:
    if not as_json:
        echo(event.path)
    if event.clip_difference:
        echo(
            f"the final latents of {event.video.name} do not decode to the frames of its clip: channels differ by up "
            f"to {event.clip_difference} of 255 ({event.difference_reason})",
            err=True,
        )
    elif event.difference_reason:
        echo(
            f"the decoded final latents of {event.video.name} cannot be compared with its clip: "
            f"{event.difference_reason}",
            err=True,
        )


def _build_record(event: "StateDecoded") -> dict[str, Any]:
    return {
        "video": event.video.entry.id,
        "variation": event.video.manifest.variations[event.video.entry.variation].id,
        "seed": event.video.entry.seed,
        "state": "video" if event.moment.step is None else event.moment.kind,
        "step": event.moment.step,
        "sigma": event.moment.sigma,
        "path": str(event.path),
        "was_kept": event.was_kept,
        "fit_r2": event.fit_r2,
        "clip_difference": event.clip_difference,
    }


def _draw_grids(decoded: "list[StateDecoded]", path_stem: Path, cell_width: int | None) -> "list[WrittenGrid]":
    """Draw the decoded states as PNG and MP4."""
    from wantui.batches.state_grid import arrange_states
    from wantui.gallery.labelled_grid import write_grid_clip, write_grid_picture

    grid, fps, tags = arrange_states(decoded)
    picture_path, clip_path = (path_stem.with_name(path_stem.name + suffix) for suffix in GRID_SUFFIXES)
    try:
        return [
            write_grid_picture(grid, picture_path, cell_width),
            write_grid_clip(grid, clip_path, fps, tags, cell_width),
        ]
    except OSError as error:
        path = error.filename or picture_path
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another folder with -o") from None
