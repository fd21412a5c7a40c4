"""The subcommand `wantui commitment uturn`: add noise to finished videos, and denoise them with the generic prompt."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_device_option, add_dry_run_option, add_fetch_option
from wantui.cli.generic_options import make_generic_option
from wantui.cli.left_out import print_left_out
from wantui.cli.output import echo
from wantui.cli.pass_cost import describe_pass_cost
from wantui.cli.progress_line import open_progress_line
from wantui.cli.selection_options import add_selection_options, add_video_id_option
from wantui.cli.types import BATCH_FOLDER_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.batches.uturns import UTurnPlan

DEFAULT_LEVELS = "0.3,0.5,0.6,0.7,0.8,0.85,0.9,0.95"


@click.command("uturn", cls=WantuiCommand)
@click.argument("batch", type=BATCH_FOLDER_TYPE)
@make_generic_option("prompt_settings.generic_words of the batch")
@click.option(
    "--levels",
    "written_levels",
    metavar="LIST",
    default=DEFAULT_LEVELS,
    show_default=True,
    help="Comma-separated noise levels between 0 and 1; each is rounded to the noise level of the nearest step.",
)
@add_selection_options
@add_video_id_option
@add_dry_run_option
@add_device_option
@add_fetch_option
def uturn_command(
    batch: Path,
    generic_text: str | None,
    written_levels: str,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    id_prefixes: tuple[str, ...],
    is_dry_run: bool,
    device: str,
    may_fetch: bool,
) -> None:
    """Add noise to the final latents of each video in BATCH, and denoise them again with the generic prompt.

    The latents must be stored (--store-latents of `wantui run`). The cost is printed first. Clips are written to
    BATCH/analysis/uturns, and printed on stdout; an interrupted command continues where it ended. `wantui commitment
    show --uturns` measures them.
    """
    from wantui.batches.uturns import plan_uturns
    from wantui.generic_words import read_generic_words
    from wantui.storage.uturn_file import check_uturn_paths, get_uturn_index_path
    from wantui.storage.video_selection import select_videos
    from wantui.storage.write_checks import check_result_path

    levels = _parse_levels(written_levels)
    videos = select_videos([batch], variation_ids, seeds, id_prefixes)
    generic_words = read_generic_words(generic_text, videos[0].manifest.config, str(batch))
    plan = plan_uturns(batch, videos, generic_words, levels)
    print_left_out(plan.left_out)
    for prompt in plan.generic_prompts:
        echo(f"generic prompt: {prompt}", err=True)
    echo(_describe_cost(plan), err=True)
    if is_dry_run:
        sys.exit(1 if plan.left_out else 0)
    check_result_path(batch, get_uturn_index_path(batch))
    check_uturn_paths(batch, [task.entry for task in plan.tasks])
    failed_count = _make_uturns(plan, device, may_fetch)
    if plan.left_out or failed_count:
        sys.exit(1)


def _parse_levels(written: str) -> list[float]:
    from wantui.typed_text import parse_number

    try:
        levels = [float(parse_number(part.strip(), is_integer=False)) for part in written.split(",") if part.strip()]
    except ValueError as error:
        raise click.UsageError(f"--levels: {error}. Write noise levels such as {DEFAULT_LEVELS}") from None
    if not levels or not all(0 < level < 1 for level in levels):
        raise click.UsageError(f"--levels {written!r}: noise levels are between 0 and 1, such as {DEFAULT_LEVELS}")
    return levels


def _describe_cost(plan: "UTurnPlan") -> str:
    text = format_count(len(plan.tasks), "U-turn")
    if plan.finished:
        text += f" ({len(plan.finished)} already exist)"
    if not plan.tasks:
        return text
    basis = " including decoding, predicted from the times of these videos"
    return f"{text}: {describe_pass_cost(plan.pass_count, plan.predicted_seconds, basis)}"


def _make_uturns(plan: "UTurnPlan", device: str, may_fetch: bool) -> int:
    """Make the U-turns, and return how many of them failed."""
    from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut
    from wantui.batches.uturns import UTurnDone, UTurnStep, generate_uturns

    failed_count = 0
    with open_progress_line() as line:
        line.show_phase("loading torch")
        try:
            for event in generate_uturns(plan, device, may_fetch):
                match event:
                    case ModelLoadStarted(model, loaded_device):
                        line.show_phase(f"loading {model} on {loaded_device}")
                    case UTurnStep(task, number, step_number):
                        line.show_count(
                            f"U-turn {number} of {len(plan.tasks)}: {task.video.name}, noise level "
                            f"{task.entry.sigma:.3f}, {format_count(step_number, 'step')} done"
                        )
                    case UTurnDone(_, clip_path):
                        line.erase()
                        echo(clip_path)
                    case VideoLeftOut(name, reason):
                        failed_count += 1
                        line.print_left_out(name, reason)
        except OSError as error:
            raise UserError(
                f"cannot write {error.filename or plan.folder}: {error.strerror or error}. Finished clips are kept"
            ) from None
        except RuntimeError as error:  # of torch, for example out of memory
            raise UserError(f"cannot make U-turns: {error}. Finished clips are kept; use --device cpu") from error
    return failed_count
