"""wantui rerun: regenerate a clip from its stored recipe, and compare the two clips."""

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_device_option, add_json_option
from wantui.cli.output import echo, print_json, print_progress
from wantui.cli.progress_line import open_progress_line
from wantui.cli.types import PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count, format_duration

if TYPE_CHECKING:
    from wantui.batches.rerun import RerunResult
    from wantui.planning import Recipe

SECONDS_BETWEEN_PROGRESS_LINES = 10.0
"""Seconds between two lines of progress if stderr is not a terminal."""


@click.command("rerun", cls=WantuiCommand)
@click.argument("clip_path", metavar="CLIP", type=PATH_TYPE)
@click.option("-o", "--output", "output_path", type=PATH_TYPE, help="File for the new clip.  [default: not stored]")
@add_device_option
@click.option("--fetch", "may_fetch", is_flag=True, help="Download missing model weights.")
@add_json_option
def command(clip_path: Path, output_path: Path | None, device: str, may_fetch: bool, as_json: bool) -> None:
    """Regenerate CLIP from the recipe in its tags, and compare.

    Exit code 0: bit-identical, 1: different.
    """
    _check_output_path(output_path)
    recipe, provenance = _read_checked_clip_tags(clip_path)
    with ExitStack() as stack:
        target_path = output_path or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "again.mp4"
        rerun_result = _regenerate_clip(clip_path, recipe, provenance, target_path, device, may_fetch)
    if as_json:
        equality = {"identical": rerun_result.is_identical, "frames_equal": rerun_result.frames_equal}
        print_json({**equality, **vars(rerun_result)})
    else:
        _print_rerun_result(clip_path, rerun_result)
    sys.exit(0 if rerun_result.is_identical else 1)


def _read_checked_clip_tags(clip_path: Path) -> "tuple[Recipe, dict[str, Any]]":
    """Return the recipe and provenance in the tags of a clip, after a check of its frames."""
    from wantui.storage.mp4 import read_clip_tags, read_frames

    if not clip_path.is_file():
        reason = "it is not a regular file" if clip_path.exists() else "it does not exist"
        raise UserError(f"cannot read {clip_path}: {reason}")
    recipe, provenance = read_clip_tags(clip_path)
    # A truncated clip still has readable tags: count its frames before hours are spent on generating them.
    frame_count, expected_shape = 0, (recipe.height, recipe.width)
    for frame in read_frames(clip_path):
        frame_count += 1
        if frame.shape[:2] != expected_shape:
            height, width = frame.shape[:2]
            raise UserError(
                f"cannot regenerate {clip_path}: it was changed: its frames are {width}x{height}, not "
                f"{recipe.width}x{recipe.height} as in its recipe"
            )
    if frame_count != recipe.frames:
        raise UserError(
            f"cannot regenerate {clip_path}: it is damaged. It has {format_count(frame_count, 'frame')}, not "
            f"{recipe.frames} as in its recipe"
        )
    return recipe, provenance


def _check_output_path(output_path: Path | None) -> None:
    """Reject an output path to which the new clip or its contact sheet cannot be written."""
    from wantui.atomic_files import make_partial_path
    from wantui.paths import MAX_NAME_BYTES
    from wantui.storage.layout import check_command_output

    if output_path is None:
        return
    sheet_path = output_path.with_suffix(".jpg")
    if output_path == sheet_path:
        raise UserError(
            f"cannot write {output_path}: the contact sheet would have the same name. Choose a name that ends in .mp4."
        )
    for path in (output_path, sheet_path):
        if len(os.fsencode(make_partial_path(path).name)) > MAX_NAME_BYTES:
            max_bytes = MAX_NAME_BYTES - len(make_partial_path(Path("x")).name) + 1
            raise UserError(f"cannot write {path}: its name is too long. Choose a name of at most {max_bytes} bytes")
        if path.exists():
            raise UserError(f"cannot write {path}: it already exists. Choose another name")
    check_command_output(output_path)


def _regenerate_clip(
    clip_path: Path, recipe: "Recipe", provenance: dict[str, Any], target_path: Path, device: str, may_fetch: bool
) -> "RerunResult":
    with open_progress_line() as line:
        line.show_phase("loading torch")
        from wantui.batches.rerun import RerunResult, rerender_clip
    from wantui.models.fetch import NotFetchedError

    rerun_progress = _RerunProgress()
    try:
        for event in rerender_clip(clip_path, recipe, provenance, target_path, device, may_fetch):
            if isinstance(event, RerunResult):
                print_progress("")
                return event
            rerun_progress.show_event(event)
    except NotFetchedError as error:
        advice = "" if may_fetch else ", or rerun with --fetch"
        raise UserError(f"cannot regenerate {clip_path}: {error}{advice}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot regenerate {clip_path}: {error}") from error
    raise AssertionError("rerender_clip yielded no RerunResult")


class _RerunProgress:
    """Progress on stderr: a line that is replaced on a terminal, or a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.start_seconds: float | None = None
        self.last_line_seconds = time.monotonic()

    def show_event(self, event: object) -> None:
        from wantui.batches.replay_events import ModelLoadStarted
        from wantui.generation.denoising_state import DenoisingStep
        from wantui.generation.make_video import FrameDecoded

        match event:
            case ModelLoadStarted(model, device):
                echo(f"loading {model} on {device}", err=True)
            case DenoisingStep():
                time_left = self._format_time_left(event.evaluation_index, event.evaluation_count)
                self._print_progress_line(f"step {event.evaluation_index + 1}/{event.evaluation_count}{time_left}")
            case FrameDecoded():
                self._print_progress_line(f"frame {event.decoded_count}/{event.frame_count} decoded")

    def _format_time_left(self, step_index: int, step_count: int) -> str:
        now_seconds = time.monotonic()
        if self.start_seconds is None or step_index == 0:  # the first step also warms up
            self.start_seconds = now_seconds
            return ""
        return (
            f", {format_duration((now_seconds - self.start_seconds) / step_index * (step_count - step_index - 1))} left"
        )

    def _print_progress_line(self, text: str) -> None:
        if sys.stderr.isatty():
            print_progress(f"{text:<40}")
        elif time.monotonic() - self.last_line_seconds >= SECONDS_BETWEEN_PROGRESS_LINES:
            self.last_line_seconds = time.monotonic()
            echo(text, err=True)


def _print_rerun_result(clip_path: Path, rerun_result: "RerunResult") -> None:
    if rerun_result.is_identical:
        compared_parts = (
            "latents and frames" if rerun_result.latents_equal else "frames (no stored checksum of the latents)"
        )
        echo(f"bit-identical: {compared_parts} of {clip_path}")
        return
    echo(f"not identical: pixels differ by up to {rerun_result.largest_pixel_difference} of 255")
    echo(f"  latents equal: {rerun_result.latents_equal}; frames equal: {rerun_result.frames_equal}")
    for name, (old_value, new_value) in rerun_result.changed.items():
        echo(
            f"  {name}: was {'none' if old_value == '' else old_value}, now {'none' if new_value == '' else new_value}"
        )
    if not rerun_result.is_known:
        echo("  the clip does not record its versions, device and weights")
    elif not rerun_result.changed:
        echo("  versions, device and weights are the same, so the clip itself was changed")
