"""wantui score: how much a word tells the model beyond a generic word (the information gap)."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.analyze_output import check_csv_file, write_csv_table
from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_device_option, add_fetch_option, add_json_option
from wantui.cli.output import echo, print_json
from wantui.cli.progress_line import ProgressLine, open_progress_line
from wantui.cli.score_output import build_score_record, build_score_rows, format_cost, print_score_table
from wantui.cli.selection_options import add_selection_options, add_video_id_option, add_where_option
from wantui.cli.types import BATCH_FOLDER_TYPE, DecimalNumber, UserPath, WholeNumber
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.batches.score import ScoresSaved, ScoreStarted
    from wantui.batches.score_plan import InformationGapRequest, ScorePlan


@click.command("score", cls=WantuiCommand)
@click.argument("batch", type=BATCH_FOLDER_TYPE)
@click.option(
    "--generic",
    "generic_words",
    metavar="WORDS",
    help="Generic words, such as `circle|square: shape; man|woman: person`.  [default: as in the config of BATCH]",
)
@click.option(
    "--of",
    "chosen_generic",
    metavar="WORD",
    help="Generic word to measure; required if several generic words replace words of the prompts.",
)
@click.option(
    "--window",
    "window_min_sigma",
    type=DecimalNumber(),
    default=0.9,
    show_default=True,
    help="Lower limit of the integral over noise levels; choose it before you see results. The full range is always "
    "shown too.",
)
@click.option(
    "--draws", "draw_count", type=WholeNumber(1, 1000), default=1, show_default=True, help="Noise draws per level."
)
@add_selection_options
@add_video_id_option
@add_where_option
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the predicted cost only.")
@click.option(
    "--fresh",
    "replaces_stored",
    is_flag=True,
    help="Replace stored values that were measured with a different window or number of draws.",
)
@add_device_option
@add_fetch_option
@add_json_option
@click.option("--csv", "csv_path", type=UserPath(allow_dash=True), help="CSV file to write; - writes to stdout.")
def command(
    batch: Path,
    generic_words: str | None,
    chosen_generic: str | None,
    window_min_sigma: float,
    draw_count: int,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    id_prefixes: tuple[str, ...],
    settings: tuple[str, ...],
    is_dry_run: bool,
    replaces_stored: bool,
    device: str,
    may_fetch: bool,
    as_json: bool,
    csv_path: Path | None,
) -> None:
    """Measure how much a word tells the model that generated the videos of BATCH: the information gap, in nats.

    The model denoises the noised final latents twice: with the prompt, and with a generic word ("shape") in place of
    the word ("circle"). For a perfect model, the gap is -ln p(circle | shape). docs/analysis.md defines it.

    Final latents must be stored (--store-latents of `wantui run`), and videos should be generated without guidance. The
    values are stored in BATCH/analysis, and an interrupted command continues where it ended. Videos that cannot be
    measured are reported on stderr; the exit code is then 1.
    """
    from wantui.batches.score_plan import InformationGapRequest, plan_scores, select_videos_by_conditions
    from wantui.storage.video_selection import select_videos

    if as_json and csv_path is not None:
        raise UserError("cannot combine --json and --csv. Choose one")
    check_csv_file(csv_path)
    request = InformationGapRequest(
        generic_words, chosen_generic, window_min_sigma, draw_count, device, may_fetch, replaces_stored
    )
    with open_progress_line() as line:
        line.show_phase("reading the batch")
        videos = select_videos_by_conditions(select_videos((batch,), variation_ids, seeds, id_prefixes), settings)
        folder = videos[0].folder
        plan = plan_scores(folder, videos[0].manifest, videos, request)
        failures = [*plan.left_out]
        for warning in plan.warnings:
            line.print_message(f"warning: {warning}")
        for name, reason in plan.left_out:
            line.print_left_out(name, reason)
        cost, saved = _measure_and_report(plan, request, line, failures, is_dry_run)
    if saved is None:
        _print_cost(plan, cost, as_json)
    else:
        _print_result(plan, saved, failures, as_json, csv_path)
        echo(f"written: {saved.path}", err=True)
    if failures:
        sys.exit(1)


def _measure_and_report(
    plan: "ScorePlan",
    request: "InformationGapRequest",
    line: ProgressLine,
    failures: list[tuple[str, str]],
    is_dry_run: bool,
) -> "tuple[ScoreStarted, ScoresSaved | None]":
    """Measure the videos of a plan, and show the cost and the progress; return the cost and the result.

    Raises:
        UserError: the values cannot be measured or stored.
    """
    line.show_phase("loading torch")
    from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut
    from wantui.batches.score import (
        LevelMeasured,
        ScoresSaved,
        ScoreStarted,
        measure_scores,
    )
    from wantui.models.fetch import NotFetchedError
    from wantui.storage.write_checks import explain_write_error

    cost, saved = None, None
    try:
        for event in measure_scores(plan, request, is_dry_run):
            match event:
                case ScoreStarted():
                    cost = event
                    if not is_dry_run:
                        line.print_message(format_cost(plan, event))
                case ModelLoadStarted(model, device):
                    line.show_phase(f"loading {model} on {device}")
                case LevelMeasured(task, video_number, level_number):
                    assert cost is not None
                    line.show_count(
                        f"video {video_number} of {cost.video_count}: {task.video.name}, level {level_number} of "
                        f"{len(plan.levels)}"
                    )
                case VideoLeftOut(name, reason):
                    failures.append((name, reason))
                    line.print_left_out(name, reason)
                case ScoresSaved():
                    saved = event
    except NotFetchedError as error:
        advice = "" if request.may_fetch else ", or add --fetch"
        raise UserError(f"cannot measure: {error}{advice}") from None
    except OSError as error:
        raise UserError(f"{explain_write_error(error, plan.folder)} Measured videos are kept") from None
    except RuntimeError as error:  # of torch, for example out of memory
        raise UserError(f"cannot measure: {error}. Measured videos are kept; try --device cpu") from error
    assert cost is not None
    return cost, saved


def _print_cost(plan: "ScorePlan", cost: "ScoreStarted", as_json: bool) -> None:
    if as_json:
        print_json({"cost": _build_cost_record(cost)})
    else:
        echo(format_cost(plan, cost))


def _build_cost_record(cost: "ScoreStarted") -> dict[str, Any]:
    return {
        "videos": cost.video_count,
        "measured_before": cost.kept_count,
        "passes": cost.pass_count,
        "seconds": cost.seconds.value,
        "basis": cost.seconds.basis,
    }


def _print_result(
    plan: "ScorePlan", saved: "ScoresSaved", failures: list[tuple[str, str]], as_json: bool, csv_path: Path | None
) -> None:
    from wantui.analysis.information_gap import build_information_table
    from wantui.batches.score import list_scored_videos

    scored_videos = list_scored_videos(plan, saved.content)
    if not scored_videos:
        raise UserError("no video was measured")
    if csv_path is not None:
        write_csv_table(csv_path, build_score_rows(scored_videos))
        return
    table = build_information_table(scored_videos)
    if as_json:
        print_json(build_score_record(plan, saved.content, table, scored_videos, failures))
    else:
        print_score_table(plan, table)
