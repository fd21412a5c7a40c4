"""wantui rerun: regenerate a clip from its stored recipe, and compare the two clips."""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import Command
from wantui.cli.output import echo, print_json, print_progress
from wantui.cli.types import PATH
from wantui.errors import UserError
from wantui.formatting import format_count, format_duration

if TYPE_CHECKING:
    from wantui.batches.rerun import RerunResult
    from wantui.planning import Recipe

SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines of progress if stderr is not a terminal."""


@click.command("rerun", cls=Command)
@click.argument("clip", type=PATH)
@click.option("-o", "--output", type=PATH, help="File for the new clip.  [default: not stored]")
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N.")
@click.option("--fetch", is_flag=True, help="Download missing model weights.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(clip: Path, output: Path | None, device: str, fetch: bool, as_json: bool) -> None:
    """Regenerate CLIP from the recipe in its tags, and compare.

    Exit code 0: bit-identical, 1: different.
    """
    recipe, provenance = _read_clip(clip)
    _check_output(output)
    with tempfile.TemporaryDirectory() as temporary:
        comparison = _regenerate(clip, recipe, provenance, output or Path(temporary) / "again.mp4", device, fetch)
    if as_json:
        print_json({"identical": comparison.is_identical, **vars(comparison)})
    else:
        _print_comparison(clip, comparison)
    sys.exit(0 if comparison.is_identical else 1)


def _read_clip(clip: Path) -> "tuple[Recipe, dict[str, Any]]":
    """Return the recipe and provenance in the tags of a clip, after a check of its frames."""
    from wantui.storage.mp4 import read_clip_tags, read_frames

    if not clip.is_file():
        raise UserError(f"cannot read {clip}: it is not a file")
    recipe, provenance = read_clip_tags(clip)
    # A truncated clip still has readable tags: count its frames before hours are spent on generating them.
    frames, size = 0, (recipe.height, recipe.width)
    for frame in read_frames(clip):
        frames += 1
        if frame.shape[:2] != size:
            height, width = frame.shape[:2]
            raise UserError(
                f"cannot regenerate {clip}: it was changed. Its frames are {width}x{height}, and its recipe has "
                f"{recipe.width}x{recipe.height}"
            )
    if frames != recipe.frames:
        raise UserError(
            f"cannot regenerate {clip}: it is damaged. It has {format_count(frames, 'frame')}, but its recipe has "
            f"{recipe.frames}"
        )
    return recipe, provenance


def _check_output(output: Path | None) -> None:
    """Refuse an output path to which the new clip or its contact sheet cannot be written."""
    from wantui.atomic_files import partial_path
    from wantui.paths import MAX_NAME_BYTES

    if output is None:
        return
    sheet = output.with_suffix(".jpg")
    if output == sheet:
        raise UserError(
            f"cannot write {output}: the contact sheet would have the same name. Choose a name that ends in .mp4."
        )
    for path in (output, sheet):
        if len(os.fsencode(partial_path(path).name)) > MAX_NAME_BYTES:
            max_bytes = MAX_NAME_BYTES - len(partial_path(Path("x")).name) + 1
            raise UserError(f"cannot write {path}: its name is too long. Choose a name of at most {max_bytes} bytes")
        if path.exists():
            raise UserError(f"cannot write {path}: it already exists. Choose another name")
    if not os.access(output.absolute().parent, os.W_OK):
        raise UserError(f"cannot write {output}: {output.absolute().parent} is not a writable folder")


def _regenerate(
    clip: Path, recipe: "Recipe", provenance: dict[str, Any], target: Path, device: str, fetch: bool
) -> "RerunResult":
    from wantui.batches.rerun import RerunResult, rerender_clip
    from wantui.models.fetch import NotFetchedError

    progress = _RerunProgress()
    try:
        for event in rerender_clip(clip, recipe, provenance, target, device, fetch):
            if isinstance(event, RerunResult):
                print_progress("")
                return event
            progress.show_event(event)
    except NotFetchedError as error:
        advice = "" if fetch else ", or rerun with --fetch"
        raise UserError(f"cannot regenerate {clip}: {error}{advice}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot regenerate {clip}: {error}") from error
    raise AssertionError("remake yielded no RerunResult")


class _RerunProgress:
    """Progress on stderr: a line that is replaced on a terminal, or a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.start_time: float | None = None
        self.last_line_time = time.monotonic()

    def show_event(self, event: object) -> None:
        from wantui.batches.rerun import ModelLoadStarted
        from wantui.generation.denoise import Step
        from wantui.generation.make_video import Decoded

        match event:
            case ModelLoadStarted(model, device):
                echo(f"loading {model} on {device}", err=True)
            case Step():
                self._print_line(
                    f"step {event.index + 1}/{event.count}{self._format_time_left(event.index, event.count)}"
                )
            case Decoded():
                self._print_line(f"frame {event.frames}/{event.count} decoded")

    def _format_time_left(self, index: int, count: int) -> str:
        now = time.monotonic()
        if self.start_time is None or index == 0:  # the first step also warms up
            self.start_time = now
            return ""
        return f", {format_duration((now - self.start_time) / index * (count - index - 1))} left"

    def _print_line(self, text: str) -> None:
        if sys.stderr.isatty():
            print_progress(f"{text:<40}")
        elif time.monotonic() - self.last_line_time >= SECONDS_BETWEEN_LINES:
            self.last_line_time = time.monotonic()
            echo(text, err=True)


def _print_comparison(clip: Path, comparison: "RerunResult") -> None:
    if comparison.is_identical:
        compared = "latents and frames" if comparison.latents_equal else "frames (no stored checksum of the latents)"
        echo(f"bit-identical: {compared} of {clip}")
        return
    echo(f"not identical: pixels differ by up to {comparison.largest_pixel_difference} of 255")
    echo(f"  latents equal: {comparison.latents_equal}; frames equal: {comparison.frames_equal}")
    for name, (before, now) in comparison.changed.items():
        echo(f"  {name}: was {before}, is {now}")
    if not comparison.is_known:
        echo("  the clip does not record its versions, device and weights")
    elif not comparison.changed:
        echo("  versions, device and weights are the same: the clip was changed")
