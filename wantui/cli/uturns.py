"""The subcommand `wantui commitment uturn`: noise videos again, and continue with the generic prompt."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.left_out import print_left_out
from wantui.cli.output import echo
from wantui.cli.progress_line import open_progress_line
from wantui.cli.selection_options import add_selection_options, add_video_id_option
from wantui.cli.types import PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count, format_duration

if TYPE_CHECKING:
    from wantui.batches.uturns import UTurnPlan
    from wantui.generic_words import GenericWord

DEFAULT_LEVELS = "0.3,0.5,0.6,0.7,0.8,0.85,0.9,0.95"


@click.command("uturn", cls=WantuiCommand)
@click.argument("batch", type=PATH_TYPE)
@click.option(
    "--generic",
    "generic_text",
    metavar="WORDS",
    help="Words of the concept and the word that leaves it open: 'circle|ring: shape'.  "
    "[default: prompt_settings.generic_words of the batch]",
)
@click.option(
    "--levels",
    "written_levels",
    metavar="LIST",
    default=DEFAULT_LEVELS,
    show_default=True,
    help="Comma-separated noise levels between 0 and 1; each is moved to that of the nearest step.",
)
@add_selection_options
@add_video_id_option
@click.option("--dry-run", "only_plans", is_flag=True, help="Print the cost only; load no model.")
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N.")
@click.option("--fetch", "may_fetch", is_flag=True, help="Download missing weights.")
def uturn_command(
    batch: Path,
    generic_text: str | None,
    written_levels: str,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    id_prefixes: tuple[str, ...],
    only_plans: bool,
    device: str,
    may_fetch: bool,
) -> None:
    """Noise the final latents of the videos of BATCH again, and continue with the generic prompt from there.

    The latents must be stored (--store-latents of `wantui run`). The cost is printed first. Clips are written to
    BATCH/analysis/uturns, and printed on stdout; an interrupted command continues where it ended. `wantui commitment
    show --uturns` measures them.
    """
    from wantui.batches.uturns import plan_uturns
    from wantui.storage.layout import BatchFolder
    from wantui.storage.locks import refuse_unwritable_batch
    from wantui.storage.video_selection import select_videos

    levels = _parse_levels(written_levels)
    videos = select_videos([batch], variation_ids, seeds, id_prefixes)
    generic_words = _read_generic_words(batch, videos[0].manifest.config, generic_text)
    plan = plan_uturns(batch, videos, generic_words, levels)
    print_left_out(plan.left_out)
    for prompt in plan.generic_prompts:
        echo(f"generic prompt: {prompt}", err=True)
    echo(_describe_cost(plan), err=True)
    if only_plans:
        return
    refuse_unwritable_batch(BatchFolder(batch))
    failed_count = _make_uturns(plan, device, may_fetch)
    if plan.left_out or failed_count:
        sys.exit(1)


def _parse_levels(written: str) -> list[float]:
    from wantui.config.values import parse_number

    try:
        levels = [float(parse_number(part.strip(), is_integer=False)) for part in written.split(",") if part.strip()]
    except ValueError as error:
        raise click.UsageError(f"--levels: {error}. Write noise levels such as {DEFAULT_LEVELS}") from None
    if not levels or not all(0 < level < 1 for level in levels):
        raise click.UsageError(f"--levels {written!r}: noise levels are between 0 and 1, such as {DEFAULT_LEVELS}")
    return levels


def _read_generic_words(batch: Path, config: dict[str, Any], generic_text: str | None) -> "tuple[GenericWord, ...]":
    from wantui.generic_words import EXAMPLE, GENERIC_WORDS_KEY, GenericWordsError, parse_generic_words

    source = "--generic"
    if generic_text is None:
        source = GENERIC_WORDS_KEY
        generic_text = config.get("prompt_settings", {}).get("generic_words") or ""
    try:
        generic_words = parse_generic_words(generic_text)
    except GenericWordsError as error:
        raise UserError(f"{source}: {error}") from None
    if not generic_words:
        raise UserError(f"no generic word is declared in {batch}, which leaves the concept open: --generic '{EXAMPLE}'")
    return generic_words


def _describe_cost(plan: "UTurnPlan") -> str:
    text = format_count(len(plan.tasks), "U-turn")
    if plan.finished:
        text += f" ({len(plan.finished)} exist)"
    if not plan.tasks:
        return text
    seconds = plan.predicted_seconds
    time_text = (
        f"about {format_duration(seconds)} with decoding, predicted from these videos"
        if seconds is not None
        else "time unknown, because not all of these videos were timed"
    )
    passes_text = format_count(plan.pass_count, "pass", "passes")
    return f"{text}: {passes_text} through the model, {time_text}, and the time of loading it"


def _make_uturns(plan: "UTurnPlan", device: str, may_fetch: bool) -> int:
    """Make the U-turns, and return the number of those that failed."""
    from wantui.batches.uturns import ModelLoadStarted, UTurnDone, UTurnFailed, UTurnStep, make_uturns

    failed_count = 0
    with open_progress_line() as line:
        try:
            for event in make_uturns(plan, device, may_fetch):
                match event:
                    case ModelLoadStarted(model):
                        line.show_phase(f"loading {model}")
                    case UTurnStep(task, number, step_number):
                        line.show_count(
                            f"U-turn {number} of {len(plan.tasks)}: {task.video.name}, noise level "
                            f"{task.entry.sigma:.3f}, step {step_number}"
                        )
                    case UTurnDone(_, clip_path):
                        line.erase()
                        echo(clip_path)
                    case UTurnFailed(name, reason):
                        failed_count += 1
                        line.erase()
                        echo(f"left out: {name}: {reason}", err=True)
        except OSError as error:
            raise UserError(
                f"cannot write {error.filename}: {error.strerror or error}. Finished clips are kept"
            ) from None
        except RuntimeError as error:  # of torch, for example out of memory
            raise UserError(f"cannot make U-turns: {error}. Finished clips are kept; use --device cpu") from error
    return failed_count
