"""wantui preview: what a template expands to, and what the batch will need."""

import json
from pathlib import Path
from typing import Any

import click

from wantui.cli.options import batch_options, plan, read_template, show_warnings
from wantui.cli.tables import add_row, plain_table, print_line, print_table
from wantui.words import bytes_in_words

SHOWN = 50


@click.command("preview")
@batch_options
@click.option("--all", "show_all", is_flag=True, help=f"Show all variations, not only the first {SHOWN}.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(template: str | None, template_file: Path | None, show_all: bool, as_json: bool, **options: Any) -> None:
    """Show the variations of a template, its marked words, and what the batch will need. Makes nothing."""
    from wantui.planning import estimate_disk

    text = read_template(template, template_file)
    if text is None:
        raise click.UsageError('give a template: -t "a [red|blue] circle"')
    batch = plan(template=text, **options)
    disk = estimate_disk(batch)
    recipe = batch.videos[0].recipe
    if as_json:
        report = {
            "variations": [
                {
                    "id": v.id,
                    "prompt": v.prompt,
                    "choices": [{"bracket": c.bracket, "option": c.option, "text": c.text} for c in v.choices],
                    "marks": [{"text": m.text, "start": m.start, "end": m.end, "weight": m.weight} for m in v.marks],
                }
                for v in batch.variations
            ],
            "videos": len(batch.videos),
            "recipe": recipe.model_dump(mode="json"),
            "disk": {"videos": disk.videos, "latents": disk.latents, "total": disk.total},
            "warnings": batch.warnings,
            "refusals": batch.refusals,
        }
        click.echo(json.dumps(report, indent=1, ensure_ascii=False))
        return
    show_warnings(batch.warnings)
    table = plain_table("#", "id", "prompt", "marked")
    shown = batch.variations if show_all else batch.variations[:SHOWN]
    for number, variation in enumerate(shown):
        marks = ", ".join(m.text if m.weight == 1 else f"{m.text} x{m.weight:g}" for m in variation.marks)
        add_row(table, str(number), variation.id, variation.prompt, marks)
    print_table(table)
    if len(shown) < len(batch.variations):
        click.echo(f"... and {len(batch.variations) - len(shown):,} more (--all shows them)")
    seeds = batch.config.settings.videos_per_variation
    last_seed = recipe.seed + seeds - 1
    click.echo()
    print_line(
        f"{len(batch.variations):,} variations x {seeds} seeds ({recipe.seed} to {last_seed}) "
        f"= {len(batch.videos):,} videos"
    )
    print_line(
        f"{recipe.model}, {recipe.width}x{recipe.height}, {recipe.frames} frames at {recipe.fps} fps, "
        f"{recipe.steps} steps of {recipe.sampler}, guidance {recipe.guidance_scale:g}, "
        f"shift {recipe.flow_shift:g}, {recipe.dtype}"
    )
    print_line(
        f"disk: clips {bytes_in_words(disk.videos)} ({disk.videos_basis}), "
        f"latents {bytes_in_words(disk.latents)} ({disk.latents_basis})"
    )
    for refusal in batch.refusals:
        print_line(f"not run by this version: {refusal}")
