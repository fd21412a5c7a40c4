"""wantui preview: show the variations of a template and the predicted cost of its batch."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_json_option
from wantui.cli.options import (
    add_batch_options,
    open_queue_for_command,
    preview_batch_from_options,
    print_warnings,
    read_template,
)
from wantui.cli.output import (
    add_table_row,
    create_plain_table,
    echo,
    print_json,
    print_table,
    print_wrapped_line,
)
from wantui.formatting import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wantui.batches.batch_cost import CostLine
    from wantui.batches.cell_cost import CellCost
    from wantui.errors import UserError
    from wantui.planning import BatchPreview
    from wantui.planning.memory_plan import ChosenPlan
    from wantui.prompts import Mark, Variation

MAX_VARIATIONS_SHOWN = 50
"""Variations that are printed without --all."""


@click.command("preview", cls=WantuiCommand)
@add_batch_options
@click.option(
    "--all", "show_all", is_flag=True, help=f"Show all variations, not only the first {MAX_VARIATIONS_SHOWN}."
)
@add_json_option
def command(template: str | None, template_file: Path | None, show_all: bool, as_json: bool, **options: Any) -> None:
    """Show the variations, marked words and predicted cost of a template.

    Generates no video. If the batch cannot run, the exit code is that of
    `wantui run`: 2, or 3 if the GPU is missing.
    """
    template_text = read_template(template, template_file)
    if template_text is None:
        raise click.UsageError('--template is missing. Give one: -t "a [red|blue] circle"')
    preview = preview_batch_from_options(template=template_text, **options)
    cost_lines, cell_costs, machine_refusals = _predict_costs(preview)
    exit_code = 2 if preview.refusals else next((error.exit_code for error in machine_refusals), 0)
    preview = replace(
        preview,
        refusals=(*preview.refusals, *map(str, machine_refusals)),
    )
    if as_json:
        print_json(_build_preview_report(preview, cost_lines, cell_costs))
    else:
        _print_preview(preview, cost_lines, cell_costs, None if show_all else MAX_VARIATIONS_SHOWN)
    if exit_code:
        sys.exit(exit_code)


def _print_preview(
    preview: "BatchPreview", cost_lines: "list[CostLine]", cell_costs: "Sequence[CellCost]", max_shown: int | None
) -> None:
    print_warnings(preview.warnings)
    _print_variations(preview, max_shown)
    echo()
    if preview.sweep is not None:
        _print_cells(preview, cell_costs, max_shown)
    _print_cost_summary(preview, cost_lines)


def _build_preview_report(
    preview: "BatchPreview", cost_lines: "list[CostLine]", cell_costs: "Sequence[CellCost]"
) -> dict[str, Any]:
    """Return the preview as JSON values."""
    from wantui.batches.power import list_grouping_powers
    from wantui.planning.disk_estimate import estimate_batch_disk
    from wantui.storage.disk_space import estimate_batch_disk_need

    disk_estimate = estimate_batch_disk(preview)
    return {
        "variations": [
            {
                "id": variation.id,
                "prompt": variation.prompt,
                "choices": [
                    {"bracket": choice.bracket_number, "option": choice.option_number, "text": choice.text}
                    for choice in variation.choices
                ],
                "marks": [
                    {"text": mark.text, "start": mark.start, "end": mark.end, "weight": mark.weight}
                    for mark in variation.marks
                ],
                "scheduled_prompts": _list_scheduled_prompts(preview, variation),
            }
            for variation in preview.variations
        ],
        "videos": preview.video_count,
        "seeds": preview.seeds,
        **({} if (sweep_report := _build_sweep_report(preview, cell_costs)) is None else {"sweep": sweep_report}),
        "recipe": preview.first_recipe.model_dump(mode="json"),
        "costs": [
            {"name": cost.name, "text": cost.text, "basis": cost.basis, "fits": cost.fits} for cost in cost_lines
        ],
        "disk": {
            "videos": disk_estimate.video_bytes,
            **dict.fromkeys(("latents", "attention", "geometry", "guidance_gap"), 0),
            **{disk_part.name: disk_part.bytes for disk_part in disk_estimate.capture_parts},
            "total": disk_estimate.total_bytes,
            "must_be_free": estimate_batch_disk_need(preview, disk_estimate.total_bytes).total_bytes,
        },
        "power": [
            {
                "by": power.grouping,
                "groups": power.group_count,
                "pairs": power.pair_count,
                "min_p": power.min_p,
                "d_z": power.d_z,
            }
            for power in list_grouping_powers(preview)
        ],
        "warnings": preview.warnings,
        "refusals": preview.refusals,
    }


def _list_scheduled_prompts(preview: "BatchPreview", variation: "Variation") -> list[dict[str, Any]]:
    """Return the later prompts of a variation as JSON values."""
    from wantui.planning.variations import list_scheduled_moments

    return [
        {
            "moment": moment_name,
            "prompt": scheduled.prompt,
            "marks": [{"text": m.text, "start": m.start, "end": m.end, "weight": m.weight} for m in scheduled.marks],
        }
        for moment_name, scheduled in zip(
            list_scheduled_moments(preview.config.settings), variation.scheduled_prompts, strict=True
        )
    ]


def _print_variations(preview: "BatchPreview", max_shown: int | None) -> None:
    from wantui.planning.variations import list_scheduled_moments

    table = create_plain_table("#", "id", "prompt", "marked")
    shown_variations, moment_names = preview.variations[:max_shown], list_scheduled_moments(preview.config.settings)
    for number, variation in enumerate(shown_variations):
        add_table_row(table, str(number), variation.id, variation.prompt, _format_marks(variation.marks))
        for moment_name, scheduled in zip(moment_names, variation.scheduled_prompts, strict=True):
            add_table_row(table, "", f"at {moment_name}", scheduled.prompt, _format_marks(scheduled.marks))
    print_table(table)
    if len(shown_variations) < len(preview.variations):
        echo(f"... and {len(preview.variations) - len(shown_variations):,} more (--all shows them)")


def _format_marks(marks: "Sequence[Mark]") -> str:
    return ", ".join(mark.text if mark.weight == 1 else f"{mark.text} x{mark.weight:g}" for mark in marks)


def _print_cost_summary(preview: "BatchPreview", cost_lines: "list[CostLine]") -> None:
    from wantui.planning.guidance_plan import describe_guidance

    recipe = preview.first_recipe
    print_wrapped_line(_describe_video_count(preview))
    print_wrapped_line(
        f"{recipe.model}, {recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')} at {recipe.fps} fps, "
        f"{format_count(recipe.steps, 'step')} of {recipe.sampler}, cfg_scale {describe_guidance(recipe)}, "
        f"shift {recipe.flow_shift:g}, {recipe.dtype}"
        + (f", {recipe.computation_note}" if recipe.computation_note else "")
        + (f", word weights by {weighting_method}" if (weighting_method := _find_weighting_method(preview)) else "")
        + _describe_swept_settings(preview)
    )
    for cost_line in cost_lines[1:]:
        print_wrapped_line(f"{cost_line.name}: {cost_line.text} ({cost_line.basis})")
    for refusal in preview.refusals:
        print_wrapped_line(f"cannot run: {refusal}")


def _describe_swept_settings(preview: "BatchPreview") -> str:
    """Return a note that the line describes the first cell, with the names of the settings that a sweep changes."""
    if preview.sweep is None:
        return ""
    names = [preview.sweep.name_by_path[path] for axis in preview.sweep.axes for path in axis.paths]
    return f" (first cell; the sweep changes {', '.join(names)})"


def _describe_video_count(preview: "BatchPreview") -> str:
    from wantui.batches.batch_cost import describe_batch_seeds

    seeds_text = f"{format_count(len(preview.seeds), 'seed')} ({describe_batch_seeds(preview).removeprefix('seeds ')})"
    cells_text = "" if preview.sweep is None else f"{format_count(len(preview.cells), 'cell')} x "
    variations_text = format_count(len(preview.variations), "variation")
    return f"{variations_text} x {cells_text}{seeds_text} = {format_count(preview.video_count, 'video')}"


def _print_cells(preview: "BatchPreview", cell_costs: "Sequence[CellCost]", max_shown: int | None) -> None:
    """Print the cells of the sweep with their predicted time and memory, or why they cannot be generated."""
    cost_by_label = {cost.cell.label: cost for cost in cell_costs}
    table = create_plain_table("cell", "videos", "per video", "in all", "memory", "")
    video_count = len(preview.variations) * len(preview.seeds)
    for cell in preview.cells[:max_shown]:
        cost = cost_by_label.get(cell.label)
        seconds = None if cost is None else cost.video_seconds.value
        add_table_row(
            table,
            f"{cell.label}{' (baseline)' if cell.cell and cell.cell.is_baseline and cell.cell.positions else ''}",
            str(video_count),
            "?" if seconds is None else format_duration(seconds),
            "?" if seconds is None else format_duration(seconds * video_count),
            "" if cost is None or cost.chosen_plan is None else _format_plan(cost.chosen_plan),
            f"cannot run: {'; '.join(cell.refusals)}" if cell.refusals else "",
        )
    print_table(table)
    if len(preview.cells) > len(preview.cells[:max_shown]):
        echo(f"... and {len(preview.cells) - len(preview.cells[:max_shown]):,} more (--all shows them)")
    echo()


def _format_plan(chosen_plan: "ChosenPlan") -> str:
    peak_text = "" if chosen_plan.peak_bytes is None else f" {format_bytes(chosen_plan.peak_bytes)}"
    return f"{chosen_plan.plan.slug}{peak_text}{'' if chosen_plan.fits else ' (does not fit now)'}"


def _build_sweep_report(preview: "BatchPreview", cell_costs: "Sequence[CellCost]") -> dict[str, Any] | None:
    """Return the sweep as JSON values; None without one."""
    from wantui.storage.manifest_sweep import create_sweep_entry

    if preview.sweep is None:
        return None
    cost_by_label = {cost.cell.label: cost for cost in cell_costs}
    report = create_sweep_entry(preview.sweep).model_dump(mode="json")
    for cell_report, cell in zip(report["cells"], preview.cells, strict=True):
        del cell_report["folder"]
        cost = cost_by_label.get(cell.label)
        cell_report["seconds_per_video"] = None if cost is None else cost.video_seconds.value
        chosen_plan = None if cost is None else cost.chosen_plan
        cell_report["peak_memory"] = None if chosen_plan is None else chosen_plan.peak_bytes
        cell_report["refusals"] = cell.refusals
    return report


def _find_weighting_method(preview: "BatchPreview") -> str | None:
    """Return how word weights are applied; None if no word has a weight."""
    from wantui.prompts import list_marks

    has_weights = any(mark.weight != 1 for variation in preview.variations for mark in list_marks(variation))
    return preview.config.settings.prompt_settings.embedding_method if has_weights else None


def _predict_costs(preview: "BatchPreview") -> "tuple[list[CostLine], list[CellCost], list[UserError]]":
    """Return the predicted costs of the batch and of its cells, and the errors with which this machine refuses it.

    The prediction uses the finished videos in the queue, or none if the queue cannot be read.
    """
    from wantui.batches.batch_cost import estimate_batch_costs
    from wantui.batches.batch_gpus import keep_batch_gpus, read_visible_devices
    from wantui.batches.cell_cost import estimate_cell_costs
    from wantui.batches.enqueue import find_machine_refusals
    from wantui.errors import UserError
    from wantui.gpu.monitor import GpuMonitor
    from wantui.planning import parse_timed_videos
    from wantui.queue.state_dir import find_state_directory

    state_directory, past_videos = None, []
    refusals: list[UserError] = []
    try:
        state_dir = find_state_directory()
        state_directory = state_dir.directory
        refusals += find_machine_refusals(state_dir, preview)
        with open_queue_for_command(state_dir) as queue:
            past_videos = parse_timed_videos(queue.list_finished_videos())
    except UserError as error:  # `wantui run` would fail with it
        refusals.append(error)
    gpu_sample = keep_batch_gpus(
        GpuMonitor(lambda _: None).read_sample(),
        read_visible_devices(state_directory),
        preview.config.settings.model_settings.device,
    )
    return (
        estimate_batch_costs(preview, past_videos, gpu_sample, state_directory),
        estimate_cell_costs(preview, past_videos, gpu_sample, state_directory),
        refusals,
    )
