"""wantui models: list, fetch and calibrate models."""

import os
from pathlib import Path
from typing import Any

import click

from wantui.cli.commands import Group
from wantui.cli.options import preview_from_options, read_template, recipe_options
from wantui.cli.output import echo, print_columns, print_json, print_progress
from wantui.cli.types import PATH
from wantui.errors import UserError


@click.group("models", cls=Group)
def command() -> None:
    """List, fetch and calibrate models."""


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the models and whether their weights are on this machine."""
    # Nothing below needs the network; this makes sure that no library uses it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from wantui.models.catalogue import CATALOGUE, WanModel
    from wantui.models.fetch import NotFetchedError, ensure_model_folder
    from wantui.models.fingerprint import find_snapshot
    from wantui.models.parts import PartError

    def weights_state(model: WanModel) -> str:
        if model.is_local:
            return "bundled"
        if find_snapshot(model.location, None) is None:
            return "missing"
        try:
            ensure_model_folder(model, None, may_fetch=False)
        except (NotFetchedError, PartError):
            return "incomplete"
        return "downloaded"

    rows = []
    for model in CATALOGUE:
        rows.append(
            {
                "name": model.name,
                "weights": weights_state(model),
                "location": model.location,
                "description": model.description,
            }
        )
    if as_json:
        print_json(rows)
        return
    shown = (
        (row["name"], row["weights"], row["description"], "" if row["name"] == "nano" else row["location"])
        for row in rows
    )
    print_columns(("name", "weights", "description", "location"), *shown)
    echo("Any other hub id (owner/name) or local diffusers directory of a Wan pipeline works too.", err=True)


@command.command("fetch")
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit to fetch.")
@click.option("--dry-run", is_flag=True, help="Only print the number and size of the missing files.")
def fetch(name: str, revision: str | None, dry_run: bool) -> None:
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
    if dry_run:
        missing = model_fetch.find_missing_files(model, revision)
        echo(f"{format_count(missing.count, 'file')}, {format_bytes(missing.bytes)}")
        return
    echo(model_fetch.fetch_model(model, revision))


@command.command("calibrate")
@recipe_options
@click.option("--output", type=PATH, help="File to write.  [default: the file that wantui reads]")
def calibrate(template: str | None, template_file: Path | None, output: Path | None, **options: Any) -> None:
    """Measure which passes `model_settings.speed: cached` may skip.

    Denoises one video of the config with unipc in at least 50 steps, and writes the calibration of its model; writes no
    clip.
    """
    text = read_template(template, template_file)
    if text is None:
        raise click.UsageError('--template is missing. Give a typical prompt: -t "a red circle moving left"')
    batch = preview_from_options(template=text, **options)
    from wantui.batches.calibrate import calibrate_model as measure
    from wantui.batches.enqueue import refuse_unsupported_batch

    refuse_unsupported_batch(batch)
    if (count := len(batch.variations)) > 1:
        echo(
            f"warning: the template has {count:,} variations; only the first is measured: {batch.first_recipe.prompt}",
            err=True,
        )

    def print_step(step: int, count: int) -> None:
        print_progress(f"step {step} of {count}")
        if step == count:
            print_progress("")

    settings = batch.config.settings
    path = measure(
        batch.first_recipe, settings.model_settings.device, settings.memory_settings.plan, print_step, output
    )
    echo(path)
