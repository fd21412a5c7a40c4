"""wantui export: stored latents in other formats."""

import shlex
import sys
from pathlib import Path

import click

from wantui.cli.output import echo
from wantui.cli.types import PATH, VideoId
from wantui.errors import UserError
from wantui.storage.export import FORMATS


@click.command("export")
@click.argument("batch", type=PATH)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="npy", show_default=True)
@click.option("-o", "--output", type=PATH, help="Output folder; BATCH/exports by default.")
@click.option(
    "--video-id",
    "ids",
    type=VideoId(),
    multiple=True,
    help="Video ID, or the beginning of IDs; repeatable.",
)
def command(batch: Path, kind: str, output: Path | None, ids: tuple[str, ...]) -> None:
    """Write the stored latents of BATCH as .npy, .pt, safetensors, or in the older system's folders.

    A video that cannot be read is named on stderr, and the others are written; the exit code is then 1.
    """
    from wantui.storage.export import export_batch

    target = output or batch / "exports" / (f"{kind}_latents" if kind != "older" else "older/latents")
    unread = 0
    try:
        for video in export_batch(batch, target, kind, ids):
            if video.path is None:
                unread += 1
                echo(f"left out: {video.video}: {video.reason}", err=True)
            else:
                echo(video.path)
    except OSError as error:
        path = error.filename2 or error.filename or target
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another folder with -o") from None
    if kind == "older":
        root = target.parent if target.name == "latents" else target
        echo(f"analyze them with\n  wantui analyze {shlex.quote(str(root))}", err=True)
    if unread:
        sys.exit(1)
