"""wantui export: stored latents in other formats."""

import shlex
import sys
from pathlib import Path

import click

from wantui.cli.commands import Command
from wantui.cli.output import echo
from wantui.cli.types import PATH, VideoId
from wantui.errors import UserError
from wantui.storage.export import EXPORT_FORMATS


@click.command("export", cls=Command)
@click.argument("batch", type=PATH)
@click.option(
    "--format", "kind", type=click.Choice(EXPORT_FORMATS), default="npy", show_default=True, help="Output format."
)
@click.option("-o", "--output", type=PATH, help="Output folder.  [default: in BATCH/exports]")
@click.option(
    "--video-id",
    "ids",
    type=VideoId(),
    multiple=True,
    help="Video ID, or its first characters; repeatable.",
)
def command(batch: Path, kind: str, output: Path | None, ids: tuple[str, ...]) -> None:
    """Export the stored latents of BATCH.

    The format `older` writes the folder layout of diffusion_latent_exploration. Unreadable videos are reported on
    stderr and left out; the exit code is then 1.
    """
    from wantui.storage.export import export_batch

    target = output or batch / "exports" / (f"{kind}_latents" if kind != "older" else "older/latents")
    unreadable = 0
    try:
        for video in export_batch(batch, target, kind, ids):
            if video.path is None:
                unreadable += 1
                echo(f"left out: {video.video}: {video.reason}", err=True)
            else:
                echo(video.path)
    except OSError as error:
        path = error.filename2 or error.filename or target
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another folder with -o") from None
    if kind == "older":
        root = target.parent if target.name == "latents" else target
        echo(f"analyze the export with\n  wantui analyze {shlex.quote(str(root))}", err=True)
    if unreadable:
        sys.exit(1)
