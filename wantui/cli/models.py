"""wantui models: list, fetch and calibrate models."""

import os
from pathlib import Path
from typing import Any

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.common_options import add_json_option
from wantui.cli.options import add_recipe_options, preview_batch_from_options, read_template
from wantui.cli.output import echo, print_columns, print_json, print_progress
from wantui.cli.types import PATH_TYPE
from wantui.errors import UserError


@click.group("models", cls=WantuiGroup)
def command() -> None:
    """List, fetch and calibrate models."""


@command.command("ls")
@add_json_option
def list_models(as_json: bool) -> None:
    """List the models and whether their weights are on this machine."""
    # Nothing below needs the network; this makes sure that no library uses it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from wantui.models.catalogue import CATALOGUE, WanModel
    from wantui.models.fetch import NotFetchedError, ensure_model_folder
    from wantui.models.fingerprint import find_snapshot_folder
    from wantui.models.nano.attributes import CAPTION_WORDS
    from wantui.models.parts import PartError

    def find_weights_state(model: WanModel) -> str:
        if model.is_local:
            return "bundled"
        if find_snapshot_folder(model.location, None) is None:
            return "missing"
        try:
            ensure_model_folder(model, None, may_fetch=False)
        except (NotFetchedError, PartError):
            return "incomplete"
        return "downloaded"

    model_records = []
    for model in CATALOGUE:
        model_records.append(
            {
                "name": model.name,
                "weights": find_weights_state(model),
                "location": model.location,
                "description": model.description,
            }
        )
    if as_json:
        print_json(model_records)
        return
    table_rows = (
        (
            record["name"],
            record["weights"],
            record["description"],
            "" if record["name"] == "nano" else record["location"],
        )
        for record in model_records
    )
    print_columns(("name", "weights", "description", "location"), *table_rows)
    echo("Any other Wan pipeline works too: a hub id (owner/name) or a local diffusers directory.", err=True)
    echo(f"The model nano knows only these {len(CAPTION_WORDS)} words: {', '.join(CAPTION_WORDS)}.", err=True)
    echo("Show its training data and the frequency of each shape: wantui models card", err=True)


@command.command("card")
@click.argument("name", default="nano")
def print_model_card(name: str) -> None:
    """Print nano's model card: training data with the frequencies of the shapes, measurements, and limits."""
    from wantui.models.catalogue import find_model
    from wantui.models.nano import NANO_WEIGHTS_FOLDER

    model = find_model(name)
    if model.name != "nano":
        raise UserError(
            f"cannot print the card of {model.name}: wantui has only nano's card (`wantui models card nano`). Read "
            f"the page of {model.location} on its hub"
        )
    echo((NANO_WEIGHTS_FOLDER.parent / "README.md").read_text(encoding="utf-8"), nl=False)


@command.command("adapters")
@add_json_option
def list_adapters(as_json: bool) -> None:
    """List the packaged LoRA adapters, which --lora and lora_settings accept by name."""
    from wantui.models.adapters import PACKAGED_ADAPTERS

    if as_json:
        print_json(
            [
                {
                    "name": adapter.name,
                    "model": adapter.model,
                    "path": str(adapter.path),
                    "description": adapter.description,
                }
                for adapter in PACKAGED_ADAPTERS
            ]
        )
        return
    print_columns(
        ("name", "model", "description"),
        *((adapter.name, adapter.model, adapter.description) for adapter in PACKAGED_ADAPTERS),
    )
    echo("Any LoRA for Wan in a safetensors file works too: --lora FILE[:STRENGTH]", err=True)


@command.command("fetch")
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit to fetch.  [default: main]")
@click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Print the number and size of the missing files; download nothing."
)
def fetch_weights(name: str, revision: str | None, is_dry_run: bool) -> None:
    """Fetch the weights of a model from the hub.

    NAME is a name from `wantui models ls`, or a hub id. Interrupted downloads are resumed.
    """
    from wantui.formatting import format_bytes, format_count
    from wantui.models import fetch as model_fetch
    from wantui.models.catalogue import find_model

    model = find_model(name)
    if model.is_local and revision is not None:
        raise UserError(f"cannot fetch a revision of {model.name}: it is on this machine only. Omit --revision")
    if model.is_local:
        echo(f"nothing to fetch: {model.name} is on this machine in {model.location}", err=True)
        return
    if is_dry_run:
        missing_files = model_fetch.find_missing_files(model, revision)
        echo(f"{format_count(missing_files.file_count, 'file')}, {format_bytes(missing_files.total_bytes)}")
        return
    echo(model_fetch.fetch_model(model, revision))


@command.command("calibrate")
@add_recipe_options
@click.option(
    "--output", "output_path", type=PATH_TYPE, help="File to write.  [default: the calibration file that wantui uses]"
)
def calibrate_step_cache(
    template: str | None, template_file: Path | None, output_path: Path | None, **options: Any
) -> None:
    """Measure which passes `model_settings.speed: cached` may skip.

    Denoises one video of the config with unipc in at least 50 steps, and writes the model's calibration. Writes no
    clip.
    """
    template_text = read_template(template, template_file)
    if template_text is None:
        raise click.UsageError('--template is missing. Give a typical prompt: -t "a red circle moving left"')
    preview = preview_batch_from_options(template=template_text, **options)
    from wantui.batches.batch_folders import refuse_unsupported_batch
    from wantui.batches.calibrate import calibrate_model as measure

    refuse_unsupported_batch(preview)
    if (variation_count := len(preview.variations)) > 1:
        echo(
            f"warning: the template has {variation_count:,} variations; only the first is measured: "
            f"{preview.first_recipe.prompt}",
            err=True,
        )

    def print_count(done_count: int, step_count: int) -> None:
        print_progress(f"{done_count} of {step_count} steps done")
        if done_count == step_count:
            print_progress("")

    settings = preview.config.settings
    calibration_path = measure(
        preview.first_recipe, settings.model_settings.device, settings.memory_settings.plan, print_count, output_path
    )
    echo(calibration_path)
