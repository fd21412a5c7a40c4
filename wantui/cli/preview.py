"""wantui preview: show the variations of a template and the predicted cost of its batch."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import Command
from wantui.cli.options import batch_options, preview_from_options, read_template, show_warnings
from wantui.cli.output import add_row, create_plain_table, echo, print_json, print_line, print_table
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.batches.batch_cost import CostLine
    from wantui.planning import BatchPreview

MAX_VARIATIONS_SHOWN = 50
"""Variations that are printed without --all."""


@click.command("preview", cls=Command)
@batch_options
@click.option(
    "--all", "show_all", is_flag=True, help=f"Show all variations, not only the first {MAX_VARIATIONS_SHOWN}."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(template: str | None, template_file: Path | None, show_all: bool, as_json: bool, **options: Any) -> None:
    """Show the variations, marked words and predicted cost of a template.

    Generates no video.
    """
    text = read_template(template, template_file)
    if text is None:
        raise click.UsageError('--template is missing. Give one: -t "a [red|blue] circle"')
    batch = preview_from_options(template=text, **options)
    costs = _estimate_costs(batch)
    if as_json:
        print_json(_build_report(batch, costs))
        return
    show_warnings(batch.warnings)
    _print_variations(batch, None if show_all else MAX_VARIATIONS_SHOWN)
    echo()
    _print_summary(batch, costs)


def _build_report(batch: "BatchPreview", costs: "list[CostLine]") -> dict[str, Any]:
    """Return the preview as JSON values."""
    from wantui.planning.disk_estimate import estimate_disk
    from wantui.storage.disk_space import estimate_disk_need

    disk = estimate_disk(batch)
    return {
        "variations": [
            {
                "id": v.id,
                "prompt": v.prompt,
                "choices": [{"bracket": c.bracket, "option": c.option, "text": c.text} for c in v.choices],
                "marks": [{"text": m.text, "start": m.start, "end": m.end, "weight": m.weight} for m in v.marks],
            }
            for v in batch.variations
        ],
        "videos": batch.videos,
        "recipe": batch.first_recipe.model_dump(mode="json"),
        "costs": [asdict(cost) for cost in costs],
        "disk": {
            "videos": disk.video_bytes,
            **dict.fromkeys(("latents", "attention", "geometry"), 0),
            **{part.name: part.bytes for part in disk.captures},
            "total": disk.total,
            "must_be_free": estimate_disk_need(batch.first_recipe, disk.total).total,
        },
        "warnings": batch.warnings,
        "refusals": batch.refusals,
    }


def _print_variations(batch: "BatchPreview", limit: int | None) -> None:
    table = create_plain_table("#", "id", "prompt", "marked")
    shown = batch.variations[:limit]
    for number, variation in enumerate(shown):
        marks = ", ".join(m.text if m.weight == 1 else f"{m.text} x{m.weight:g}" for m in variation.marks)
        add_row(table, str(number), variation.id, variation.prompt, marks)
    print_table(table)
    if len(shown) < len(batch.variations):
        echo(f"... and {len(batch.variations) - len(shown):,} more (--all shows them)")


def _print_summary(batch: "BatchPreview", costs: "list[CostLine]") -> None:
    recipe, seeds = batch.first_recipe, batch.config.settings.videos_per_variation
    print_line(
        f"{format_count(len(batch.variations), 'variation')} x {format_count(seeds, 'seed')} "
        f"({recipe.seed} to {recipe.seed + seeds - 1}) = {format_count(batch.videos, 'video')}"
    )
    print_line(
        f"{recipe.model}, {recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')} at {recipe.fps} fps, "
        f"{format_count(recipe.steps, 'step')} of {recipe.sampler}, guidance {recipe.guidance_scale:g}, "
        f"shift {recipe.flow_shift:g}, {recipe.dtype}"
        + (f", {recipe.computation_note}" if recipe.computation_note else "")
        + (f", word weights by {method}" if (method := _describe_weighting(batch)) else "")
    )
    for cost in costs[1:]:
        print_line(f"{cost.name}: {cost.text} ({cost.basis})")
    for refusal in batch.refusals:
        print_line(f"cannot run: {refusal}")


def _describe_weighting(batch: "BatchPreview") -> str | None:
    """Return how word weights are applied; None if no word has a weight."""
    has_weights = any(mark.weight != 1 for variation in batch.variations for mark in variation.marks)
    return batch.config.settings.prompt_settings.embedding_method if has_weights else None


def _estimate_costs(batch: "BatchPreview") -> "list[CostLine]":
    """Predict the costs from the finished videos on the queue, or without any if the queue cannot be read."""
    from wantui.batches.batch_cost import estimate_costs
    from wantui.engine.control import open_queue
    from wantui.errors import UserError
    from wantui.gpu.monitor import GpuMonitor
    from wantui.planning import parse_timed_videos
    from wantui.queue.state_dir import find_state_directory

    state = None
    try:
        state_dir = find_state_directory()
        state = state_dir.directory
        with open_queue(state_dir)[0] as queue:
            past = parse_timed_videos(queue.list_finished_videos())
    except UserError:
        past = []
    return estimate_costs(batch, past, GpuMonitor(lambda _: None).take_sample(), state)
