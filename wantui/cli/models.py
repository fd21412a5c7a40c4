"""wantui models: which models there are, and which of them are on this machine."""

import json
import os

import click


@click.group("models")
def command() -> None:
    """The models that wantui knows."""


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the models and whether their weights are on this machine."""
    # The hub's client asks the network for nothing here; offline it does not even look.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from huggingface_hub import try_to_load_from_cache

    from wantui.cli.tables import add_row, plain_table, print_table
    from wantui.models.catalogue import CATALOGUE

    rows = []
    for model in CATALOGUE:
        cached = model.is_local or isinstance(try_to_load_from_cache(model.location, "model_index.json"), str)
        state = "part of wantui" if model.name == "nano" else "in the cache" if cached else "not here"
        rows.append(
            {"name": model.name, "weights": state, "location": model.location, "description": model.description}
        )
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = plain_table("name", "weights", "what", "location")
    for row in rows:
        location = "" if row["name"] == "nano" else row["location"]
        add_row(table, row["name"], row["weights"], row["description"], location)
    print_table(table)
    click.echo("Any other hub id (owner/name) or local diffusers directory of a Wan pipeline works as well.", err=True)
