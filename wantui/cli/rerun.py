"""wantui rerun: make a clip again from the recipe in it, and say whether it is the same."""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.output import echo, print_json, print_progress
from wantui.cli.types import PATH
from wantui.errors import UserError
from wantui.formatting import format_count, format_duration

if TYPE_CHECKING:
    from wantui.batches.rerun import RerunResult
    from wantui.planning import Recipe

SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines of progress where stderr is no terminal."""


@click.command("rerun")
@click.argument("clip", type=PATH)
@click.option("-o", "--output", type=PATH, help="File to keep the new clip in.")
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N.")
@click.option("--fetch", is_flag=True, help="Download the clip's model weights if they are missing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(clip: Path, output: Path | None, device: str, fetch: bool, as_json: bool) -> None:
    """Make CLIP again from the recipe in its tags, and compare. Exit code 0: bit-identical, 1: it differs."""
    recipe, then = _read(clip)
    _check_output(output)
    with tempfile.TemporaryDirectory() as temporary:
        comparison = _remake(clip, recipe, then, output or Path(temporary) / "again.mp4", device, fetch)
    if as_json:
        print_json({"identical": comparison.identical, **vars(comparison)})
    else:
        _print(clip, comparison)
    sys.exit(0 if comparison.identical else 1)


def _read(clip: Path) -> "tuple[Recipe, dict[str, Any]]":
    from wantui.storage.mp4 import read_frames, read_tags

    if not clip.is_file():
        raise UserError(f"{clip} is not a file")
    recipe, then = read_tags(clip)
    # The tags of a truncated clip can still be read: see that the frames are there before hours are spent on them.
    frames, size = 0, (recipe.height, recipe.width)
    for frame in read_frames(clip):
        frames += 1
        if frame.shape[:2] != size:
            height, width = frame.shape[:2]
            raise UserError(
                f"{clip} was changed: its frames are {width}x{height}, and its recipe makes "
                f"{recipe.width}x{recipe.height}"
            )
    if frames != recipe.frames:
        raise UserError(
            f"{clip} is damaged: it holds {format_count(frames, 'frame')}, and its recipe makes {recipe.frames}"
        )
    return recipe, then


def _check_output(output: Path | None) -> None:
    """Refuse an output path at which the new clip, or its contact sheet, cannot be written."""
    from wantui.atomic_files import partial_path
    from wantui.paths import MAX_NAME_BYTES

    if output is None:
        return
    sheet = output.with_suffix(".jpg")
    if output == sheet:
        raise UserError(f"cannot write {output}: the contact sheet has this name. Choose one that ends in .mp4.")
    for path in (output, sheet):
        if len(os.fsencode(partial_path(path).name)) > MAX_NAME_BYTES:
            most = MAX_NAME_BYTES - len(partial_path(Path("x")).name) + 1
            raise UserError(f"cannot write {path}: its name is too long. Choose one of at most {most} bytes")
        if path.exists():
            raise UserError(f"{path} exists already; choose another name")
    if not os.access(output.absolute().parent, os.W_OK):
        raise UserError(f"{output} cannot be written: {output.absolute().parent} is no folder that can be written to")


def _remake(
    clip: Path, recipe: "Recipe", then: dict[str, Any], target: Path, device: str, fetch: bool
) -> "RerunResult":
    from wantui.batches.rerun import RerunResult, remake
    from wantui.models.fetch import NotFetchedError

    progress = _Progress()
    try:
        for event in remake(clip, recipe, then, target, device, fetch):
            if isinstance(event, RerunResult):
                print_progress("")
                return event
            progress.show(event)
    except NotFetchedError as error:
        advice = "" if fetch else ", and so does --fetch here"
        raise UserError(f"cannot make {clip} again: {error}{advice}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot make {clip} again: {error}") from error
    raise AssertionError("a remade clip is compared")


class _Progress:
    """Progress on stderr: one line that changes on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.last = time.monotonic()

    def show(self, event: object) -> None:
        from wantui.batches.rerun import Loading
        from wantui.generation.denoise import Step
        from wantui.generation.make_video import Decoded

        match event:
            case Loading(model, device):
                echo(f"loading {model} on {device}", err=True)
            case Step():
                self._line(f"step {event.index + 1}/{event.count}{self._left(event.index, event.count)}")
            case Decoded():
                self._line(f"frame {event.frames}/{event.count} decoded")

    def _left(self, index: int, count: int) -> str:
        now = time.monotonic()
        if self.began is None or index == 0:  # the first step also warms up
            self.began = now
            return ""
        return f", {format_duration((now - self.began) / index * (count - index - 1))} left"

    def _line(self, text: str) -> None:
        if sys.stderr.isatty():
            print_progress(f"{text:<40}")
        elif time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            echo(text, err=True)


def _print(clip: Path, comparison: "RerunResult") -> None:
    if comparison.identical:
        known = "latents and frames" if comparison.latents_equal else "frames (the clip does not tell its latents)"
        echo(f"bit-identical: {known} of {clip}")
        return
    echo(f"not identical: pixels differ by up to {comparison.largest_pixel_difference} of 255")
    echo(f"  latents equal: {comparison.latents_equal}; frames equal: {comparison.frames_equal}")
    for name, (before, now) in comparison.changed.items():
        echo(f"  {name}: was {before}, is {now}")
    if not comparison.is_known:
        echo("  the clip does not say with which versions, device and weights it was made")
    elif not comparison.changed:
        echo("  versions, device and weights are the same: the clip itself was changed")
