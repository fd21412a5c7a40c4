"""wantui rerun: make a clip again from the recipe in it, and say whether it is the same."""

import os
import sys
import tempfile
from pathlib import Path

import click

from wantui.cli.tables import echo, print_json, print_progress
from wantui.errors import UserError


@click.command("rerun")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the new clip here.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(clip: Path, output: Path | None, device: str, as_json: bool) -> None:
    """Make CLIP again from the recipe in its tags, and compare. Exit code 0: bit-identical, 1: it differs."""
    from wantui.storage.mp4 import read_frames, read_tags

    if not clip.is_file():
        raise UserError(f"{clip} is not a file")
    for path in (output, output.with_suffix(".jpg")) if output is not None else ():
        if path.exists():
            raise UserError(f"{path} exists already; choose another name")
    recipe, then = read_tags(clip)
    # The tags of a truncated clip can still be read: see that the frames are there before hours are spent on them.
    frames = sum(1 for _ in read_frames(clip))
    if frames != recipe.frames:
        raise UserError(f"{clip} is damaged: it holds {frames} frames, and its recipe makes {recipe.frames}")
    if output is not None and not os.access(output.absolute().parent, os.W_OK):
        raise UserError(f"{output} cannot be written: {output.absolute().parent} is no folder that can be written to")

    from wantui.engine.rerun import Comparison, remake

    comparison = None
    with tempfile.TemporaryDirectory() as temporary:
        try:
            for event in remake(clip, recipe, then, output or Path(temporary) / "again.mp4", device):
                if isinstance(event, Comparison):
                    comparison = event
                else:
                    print_progress(f"step {event.index + 1}/{event.count}")
        except (OSError, RuntimeError) as error:
            raise UserError(f"{clip} could not be made again: {error}") from error
        print_progress("")
    assert comparison is not None
    if as_json:
        print_json({"identical": comparison.identical, **vars(comparison)})
    elif comparison.identical:
        known = "latents and frames" if comparison.latents_equal else "frames (the clip does not tell its latents)"
        echo(f"bit-identical: {known} of {clip}")
    else:
        echo(f"not identical: pixels differ by up to {comparison.largest_pixel_difference} of 255")
        echo(f"  latents equal: {comparison.latents_equal}; frames equal: {comparison.frames_equal}")
        for name, (before, now) in comparison.changed.items():
            echo(f"  {name}: was {before}, is {now}")
        if not comparison.changed:
            echo("  versions, device and weights are the same: the clip itself was changed")
    sys.exit(0 if comparison.identical else 1)
