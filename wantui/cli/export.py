"""wantui export: stored latents in other formats."""

import shlex
import sys
from pathlib import Path

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.output import echo
from wantui.cli.types import BATCH_FOLDER_TYPE, PATH_TYPE, VideoIdPrefix
from wantui.errors import UserError
from wantui.storage.export import WRITERS_BY_FORMAT

UNSWEPT_PATH_DEPTH = 2
"""Path parts of an exported video without a sweep, such as prompt_000/vid_001."""


@click.command("export", cls=WantuiCommand)
@click.argument("batch", type=BATCH_FOLDER_TYPE)
@click.option(
    "--format",
    "export_format",
    type=click.Choice(list(WRITERS_BY_FORMAT)),
    default="npy",
    show_default=True,
    help="Output format.",
)
@click.option("-o", "--output", "requested_folder", type=PATH_TYPE, help="Output folder.  [default: in BATCH/exports]")
@click.option(
    "--video-id",
    "id_prefixes",
    type=VideoIdPrefix(),
    multiple=True,
    help="Export only the video whose ID is or starts with this text; repeatable.  [default: all videos]",
)
def command(batch: Path, export_format: str, requested_folder: Path | None, id_prefixes: tuple[str, ...]) -> None:
    """Export the stored latents of BATCH.

    The format `older` writes the folder layout of diffusion_latent_exploration. Unreadable videos are reported on
    stderr and left out; the exit code is then 1.
    """
    from wantui.storage.export import export_batch

    output_folder = requested_folder or batch / "exports" / (
        f"{export_format}_latents" if export_format != "older" else "older/latents"
    )
    unreadable_count, has_cells = 0, False
    try:
        for video in export_batch(batch, output_folder, export_format, id_prefixes):
            if video.exported_path is None:
                unreadable_count += 1
                echo(f"left out: {video.video_name}: {video.reason}", err=True)
            else:
                has_cells = has_cells or len(video.exported_path.relative_to(output_folder).parts) > UNSWEPT_PATH_DEPTH
                echo(video.exported_path)
    except OSError as error:
        path = error.filename2 or error.filename or output_folder
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another folder with -o") from None
    if export_format == "older" and has_cells:
        echo(
            "the `older` layout cannot represent a sweep: each cell was exported to its own folder, which `wantui "
            f"analyze` does not read. Analyse the batch itself:\n  wantui analyze {shlex.quote(str(batch))}",
            err=True,
        )
    elif export_format == "older":
        export_root = output_folder.parent if output_folder.name == "latents" else output_folder
        echo(f"analyse the export with\n  wantui analyze {shlex.quote(str(export_root))}", err=True)
    if unreadable_count:
        sys.exit(1)
