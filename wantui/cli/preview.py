"""wantui preview: show the variations of a template and the predicted cost of its batch."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.options import add_batch_options, preview_batch_from_options, print_warnings, read_template
from wantui.cli.output import add_table_row, create_plain_table, echo, print_json, print_table, print_wrapped_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.batches.batch_cost import CostLine
    from wantui.planning import BatchPreview

MAX_VARIATIONS_SHOWN = 50
"""Variations that are printed without --all."""


@click.command("preview", cls=WantuiCommand)
@add_batch_options
@click.option(
    "--all", "show_all", is_flag=True, help=f"Show all variations, not only the first {MAX_VARIATIONS_SHOWN}."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(template: str | None, template_file: Path | None, show_all: bool, as_json: bool, **options: Any) -> None:
    """Show the variations, marked words and predicted cost of a template.

    Generates no video.
    """
    template_text = read_template(template, template_file)
    if template_text is None:
        raise click.UsageError('--template is missing. Give one: -t "a [red|blue] circle"')
    preview = preview_batch_from_options(template=template_text, **options)
    cost_lines, machine_refusals = _examine_machine(preview)
    preview = replace(preview, refusals=(*preview.refusals, *machine_refusals))
    if as_json:
        print_json(_build_preview_report(preview, cost_lines))
        return
    print_warnings(preview.warnings)
    _print_variations(preview, None if show_all else MAX_VARIATIONS_SHOWN)
    echo()
    _print_cost_summary(preview, cost_lines)


def _build_preview_report(preview: "BatchPreview", cost_lines: "list[CostLine]") -> dict[str, Any]:
    """Return the preview as JSON values."""
    from wantui.planning.disk_estimate import estimate_batch_disk
    from wantui.storage.disk_space import estimate_disk_need

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
            }
            for variation in preview.variations
        ],
        "videos": preview.video_count,
        "recipe": preview.first_recipe.model_dump(mode="json"),
        "costs": [asdict(cost_line) for cost_line in cost_lines],
        "disk": {
            "videos": disk_estimate.video_bytes,
            **dict.fromkeys(("latents", "attention", "geometry"), 0),
            **{disk_part.name: disk_part.bytes for disk_part in disk_estimate.capture_parts},
            "total": disk_estimate.total_bytes,
            "must_be_free": estimate_disk_need(preview.first_recipe, disk_estimate.total_bytes).total_bytes,
        },
        "warnings": preview.warnings,
        "refusals": preview.refusals,
    }


def _print_variations(preview: "BatchPreview", max_shown: int | None) -> None:
    table = create_plain_table("#", "id", "prompt", "marked")
    shown_variations = preview.variations[:max_shown]
    for number, variation in enumerate(shown_variations):
        marks_text = ", ".join(
            mark.text if mark.weight == 1 else f"{mark.text} x{mark.weight:g}" for mark in variation.marks
        )
        add_table_row(table, str(number), variation.id, variation.prompt, marks_text)
    print_table(table)
    if len(shown_variations) < len(preview.variations):
        echo(f"... and {len(preview.variations) - len(shown_variations):,} more (--all shows them)")


def _print_cost_summary(preview: "BatchPreview", cost_lines: "list[CostLine]") -> None:
    recipe, seed_count = preview.first_recipe, preview.config.settings.videos_per_variation
    print_wrapped_line(
        f"{format_count(len(preview.variations), 'variation')} x {format_count(seed_count, 'seed')} "
        f"({recipe.seed} to {recipe.seed + seed_count - 1}) = {format_count(preview.video_count, 'video')}"
    )
    print_wrapped_line(
        f"{recipe.model}, {recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')} at {recipe.fps} fps, "
        f"{format_count(recipe.steps, 'step')} of {recipe.sampler}, guidance {recipe.guidance_scale:g}, "
        f"shift {recipe.flow_shift:g}, {recipe.dtype}"
        + (f", {recipe.computation_note}" if recipe.computation_note else "")
        + (f", word weights by {weighting_method}" if (weighting_method := _find_weighting_method(preview)) else "")
    )
    for cost_line in cost_lines[1:]:
        print_wrapped_line(f"{cost_line.name}: {cost_line.text} ({cost_line.basis})")
    for refusal in preview.refusals:
        print_wrapped_line(f"cannot run: {refusal}")


def _find_weighting_method(preview: "BatchPreview") -> str | None:
    """Return how word weights are applied; None if no word has a weight."""
    has_weights = any(mark.weight != 1 for variation in preview.variations for mark in variation.marks)
    return preview.config.settings.prompt_settings.embedding_method if has_weights else None


def _examine_machine(preview: "BatchPreview") -> "tuple[list[CostLine], list[str]]":
    """Return the predicted costs, and the reasons why this machine cannot run the batch.

    The prediction uses the finished videos on the queue, or none if the queue cannot be read.
    """
    from wantui.batches.batch_cost import estimate_batch_costs
    from wantui.batches.enqueue import find_machine_refusals
    from wantui.engine.control import open_queue
    from wantui.errors import UserError
    from wantui.gpu.monitor import GpuMonitor
    from wantui.planning import parse_timed_videos
    from wantui.queue.state_dir import find_state_directory

    state_directory, past_videos, refusals = None, [], []
    try:
        state_dir = find_state_directory()
        state_directory = state_dir.directory
        refusals += find_machine_refusals(state_dir, preview)
        with open_queue(state_dir)[0] as queue:
            past_videos = parse_timed_videos(queue.list_finished_videos())
    except UserError as error:  # `wantui run` would fail with it
        refusals.append(str(error))
    gpu_sample = GpuMonitor(lambda _: None).take_sample()
    return estimate_batch_costs(preview, past_videos, gpu_sample, state_directory), refusals
