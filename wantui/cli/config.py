"""wantui config: validate, show and describe configs."""

import sys
from pathlib import Path

import click

from wantui.cli.commands import Group
from wantui.cli.output import echo, print_json


@click.group("config", cls=Group)
def command() -> None:
    """Validate, show and describe configs."""


@command.command("validate")
@click.argument("configs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(configs: tuple[str, ...], as_json: bool) -> None:
    """Check config files or presets.

    Checks every key and value, then video sizes and models. Exit code 0: all valid, 2: at least one is not.
    """
    from wantui.config import ConfigError, Problem, load_config
    from wantui.errors import UserError
    from wantui.models.catalogue import find_model
    from wantui.planning.sizes import check_size, resolve_frames

    reports = []
    for name in configs:
        source: Path | str = name
        problems: list[str] = []
        warnings: list[str] = []
        try:
            config = load_config(name, may_be_pipe=True)
            source = config.source
            warnings += [*map(str, config.warnings), *(f"{refusal} (not run)" for refusal in config.refusals)]
            model = find_model(config.settings.model_settings.model_id)
            check_size(config.settings.video_settings, model)
            _, frames_warning = resolve_frames(config.settings.video_settings, model)
            warnings += [str(Problem(config.source, None, "", frames_warning))] if frames_warning else []
        except ConfigError as error:
            problems += map(str, error.problems)
        except UserError as error:
            problems.append(str(Problem(source, None, "", str(error))))
        reports.append({"config": name, "valid": not problems, "problems": problems, "warnings": warnings})
        if not as_json:
            for line in problems:
                echo(f"error: {line}", err=True)
            for line in warnings:
                echo(f"warning: {line}", err=True)
            echo(f"{name}: {'not valid' if problems else 'valid'}")
    if as_json:
        print_json(reports)
    sys.exit(0 if all(report["valid"] for report in reports) else 2)


@command.command("show")
@click.argument("config", required=False)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Setting to override; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print all settings of a config, or list the presets.

    Lists the presets without CONFIG.
    """
    from wantui.cli.options import show_warnings
    from wantui.cli.output import add_row, create_plain_table, print_table
    from wantui.config import dump, find_preset_directory, list_preset_names, load_config, to_dict

    if config is None:
        presets = {}
        for name in list_preset_names():
            first_line = (find_preset_directory() / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
            presets[name] = first_line.lstrip("# ")
        if as_json:
            print_json(presets)
            return
        table = create_plain_table("preset", "description")
        for name, summary in presets.items():
            add_row(table, name, summary)
        print_table(table)
        return
    loaded = load_config(config, overrides, may_be_pipe=True)
    show_warnings(tuple(map(str, loaded.warnings)))
    if as_json:
        print_json(to_dict(loaded.settings))
    else:
        echo(dump(loaded.settings), nl=False)


@command.command("schema")
def schema() -> None:
    """Print the JSON schema of config files.

    It gives the meaning, unit and range of every key.
    """
    from wantui.config import Settings

    print_json(Settings.model_json_schema())
