"""wantui ablate: how removing one word changes the velocity at each step."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_device_option, add_dry_run_option, add_fetch_option, add_json_option
from wantui.cli.left_out import print_left_out
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.pass_cost import describe_pass_cost
from wantui.cli.progress_line import open_progress_line
from wantui.cli.selection_options import add_selection_options, add_video_id_option
from wantui.cli.types import BATCH_FOLDER_TYPE
from wantui.errors import INTERRUPTED_EXIT_CODE, UserError
from wantui.formatting import format_count, format_share

if TYPE_CHECKING:
    from wantui.batches.ablation import AblationPlan, AblationRequest, VideoMeasured


@click.command("ablate", cls=WantuiCommand)
@click.argument("sources", metavar="BATCH|CLIP...", nargs=-1, required=True, type=BATCH_FOLDER_TYPE)
@click.option(
    "--word", "words", multiple=True, help="Word or words of the prompt to ablate; repeatable.  [default: marked words]"
)
@click.option(
    "--steps",
    "written_moments",
    metavar="LIST",
    help="Comma-separated steps, each an index from 0, a percentage or `sigma 0.5`; the nearest stored step is used.  "
    "[default: all stored steps]",
)
@add_selection_options
@add_video_id_option
@add_dry_run_option
@add_device_option
@add_fetch_option
@add_json_option
def command(
    sources: tuple[Path, ...],
    words: tuple[str, ...],
    written_moments: str | None,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    id_prefixes: tuple[str, ...],
    is_dry_run: bool,
    device: str,
    may_fetch: bool,
    as_json: bool,
) -> None:
    """Measure how the velocity changes at each stored step if one word gets no attention in this step alone.

    The latents must be stored (--store-latents of `wantui run`). No video is generated. Each state costs one
    pass through the model with the prompt, and one for each word; the cost is printed first. Interrupting keeps the
    results of finished videos.
    """
    from wantui.analysis.calibrated import describe_measure
    from wantui.batches.ablation import AblationRequest, plan_ablation
    from wantui.storage.video_selection import select_videos

    if any(not word.strip() for word in words):
        raise click.UsageError("--word is empty. Name a word of the prompt")
    moments = None if written_moments is None else tuple(written_moments.split(","))
    request = AblationRequest(words, moments, device, may_fetch)
    plan = plan_ablation(select_videos(sources, variation_ids, seeds, id_prefixes), request)
    print_left_out(plan.left_out)
    echo(_describe_cost(plan), err=True)
    if is_dry_run:
        sys.exit(1 if plan.left_out else 0)
    measured, is_interrupted = _measure_ablations(plan, request)
    if as_json:
        print_json([_build_record(event) for event in measured])
    elif measured:
        _print_videos(measured)
        echo(f"note: {describe_measure('ablation_share', 'the change without a word')}", err=True)
    if is_interrupted:
        sys.exit(INTERRUPTED_EXIT_CODE)
    if plan.left_out or len(measured) < len(plan.tasks):
        sys.exit(1)


def _describe_cost(plan: "AblationPlan") -> str:
    basis = ", predicted from the step times of these videos"
    cost_text = describe_pass_cost(plan.pass_count, plan.predicted_seconds, basis)
    return f"{format_count(len(plan.tasks), 'video')}: {cost_text}"


def _measure_ablations(plan: "AblationPlan", request: "AblationRequest") -> "tuple[list[VideoMeasured], bool]":
    """Return the videos that were measured, and whether Ctrl-C interrupted."""
    from wantui.batches.ablation import StateMeasured, VideoMeasured, measure_ablation
    from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut

    measured: list[VideoMeasured] = []
    is_interrupted = False
    with open_progress_line() as line:
        line.show_phase("loading torch")
        try:
            for event in measure_ablation(plan, request):
                match event:
                    case ModelLoadStarted(model, device):
                        line.show_phase(f"loading {model} on {device}")
                    case StateMeasured(task, video_number, moment_number):
                        line.show_count(
                            f"video {video_number} of {len(plan.tasks)}: {task.video.name}, state {moment_number} of "
                            f"{len(task.moments)}"
                        )
                    case VideoMeasured():
                        measured.append(event)
                    case VideoLeftOut(name, reason):
                        line.print_left_out(name, reason)
        except KeyboardInterrupt:
            is_interrupted = True
            line.print_message(f"interrupted: {format_count(len(measured), 'video')} of {len(plan.tasks)} measured")
        except RuntimeError as error:  # of torch, for example out of memory
            if not measured:
                raise UserError(f"cannot ablate words: {error}. Use --device cpu, or fewer steps") from error
            line.print_message(f"stopped: {error}")
    return measured, is_interrupted


def _print_videos(measured: "list[VideoMeasured]") -> None:
    from wantui.tui.plots import draw_sparkline

    rows = []
    for event in measured:
        for word in event.task.words:
            states = [state for state in event.states if state.word == word]
            shares = [state.share for state in states]
            largest = max(states, key=lambda state: state.share)
            rows.append(
                (
                    event.task.video.name,
                    word,
                    format_share(sum(shares) / len(shares), 2),
                    format_share(largest.share, 2),
                    f"step {largest.step}, σ {largest.sigma:.3g}",
                    draw_sparkline(shares, 12).rstrip(),
                )
            )
    print_columns(("video", "without", "mean change", "largest", "at", "change over steps"), *rows)


def _build_record(event: "VideoMeasured") -> dict[str, Any]:
    video = event.task.video
    return {
        "batch": str(video.folder),
        "id": video.entry.id,
        "variation": video.manifest.variations[video.entry.variation].id,
        "seed": video.entry.seed,
        "words": [
            {
                "word": word,
                "steps": [state.step for state in event.states if state.word == word],
                "sigmas": [state.sigma for state in event.states if state.word == word],
                "change": [state.change for state in event.states if state.word == word],
                "share": [state.share for state in event.states if state.word == word],
                "guided_change": [state.guided_change for state in event.states if state.word == word],
            }
            for word in event.task.words
        ],
    }
