"""wantui models: which models there are, which of them are on this machine, and fetching them."""

import os
from pathlib import Path
from typing import Any

import click

from wantui.cli.options import outline, read_template, recipe_options
from wantui.cli.output import echo, print_columns, print_json, print_progress
from wantui.cli.types import PATH


@click.group("models")
def command() -> None:
    """List, fetch and calibrate models."""


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the models and whether their weights are on this machine."""
    # The hub's client asks the network for nothing here; offline it does not even look.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from wantui.models.catalogue import CATALOGUE, WanModel
    from wantui.models.fetch import NotFetchedError, find_folder
    from wantui.models.fingerprint import snapshot_in_cache
    from wantui.models.parts import PartError

    def state_of(model: WanModel) -> str:
        if model.is_local:
            return "bundled"
        if snapshot_in_cache(model.location, None) is None:
            return "missing"
        try:
            find_folder(model, None, may_fetch=False)
        except (NotFetchedError, PartError):
            return "incomplete"
        return "downloaded"

    rows = []
    for model in CATALOGUE:
        rows.append(
            {
                "name": model.name,
                "weights": state_of(model),
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
    print_columns(("name", "weights", "what", "location"), *shown)
    echo("Any other hub id (owner/name) or local diffusers directory of a Wan pipeline works as well.", err=True)


@command.command("fetch")
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit to fetch.")
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, and fetch nothing.")
def fetch(name: str, revision: str | None, dry_run: bool) -> None:
    """Fetch the weights of NAME from the hub; interrupted downloads are resumed."""
    from wantui.formatting import format_bytes, format_count
    from wantui.models import fetch as fetching
    from wantui.models.catalogue import find_model

    model = find_model(name)
    if model.is_local:
        echo(f"{model.name} is on this machine: {model.location}", err=True)
        return
    if dry_run:
        missing = fetching.dry_run(model, revision)
        echo(f"{format_count(missing.files, 'file')}, {format_bytes(missing.bytes)}")
        return
    echo(fetching.fetch(model, revision))


@command.command("calibrate")
@recipe_options
@click.option("--output", type=PATH, help="File to write instead of the one that wantui reads.")
def calibrate(template: str | None, template_file: Path | None, output: Path | None, **options: Any) -> None:
    """Measure, with one video of a config, what `model_settings.speed: cached` may leave out of its model.

    The video is denoised by unipc, in 50 steps or more; no clip is made.
    """
    text = read_template(template, template_file)
    if text is None:
        raise click.UsageError('give a prompt that is usual for your work: -t "a red circle moving left"')
    batch = outline(template=text, **options)
    from wantui.batches.calibrate import calibrate as measure
    from wantui.batches.enqueue import refuse

    refuse(batch)
    if (count := len(batch.variations)) > 1:
        echo(
            f"warning: the template has {count:,} variations, and only the first is measured: {batch.first.prompt}",
            err=True,
        )

    def show(step: int, count: int) -> None:
        print_progress(f"step {step} of {count}")
        if step == count:
            print_progress("")

    settings = batch.config.settings
    path = measure(batch.first, settings.model_settings.device, settings.memory_settings.plan, show, output)
    echo(path)
