"""wantui config: validate, show and describe configs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.common_options import add_json_option
from wantui.cli.output import echo, print_json

if TYPE_CHECKING:
    from wantui.config.settings import Settings


@click.group("config", cls=WantuiGroup)
def command() -> None:
    """Validate, show and describe configs."""


@command.command("validate")
@click.argument("configs", nargs=-1, required=True)
@add_json_option
def validate_configs(configs: tuple[str, ...], as_json: bool) -> None:
    """Check config files or presets.

    Checks every key and value, the model, and the video size of every cell of a sweep. Exit code 0: all valid, 2: at
    least one is not.
    """
    from wantui.config import ConfigError, ConfigProblem, load_config
    from wantui.errors import UserError
    from wantui.models.catalogue import find_model
    from wantui.planning.cells import find_settings_problems

    validation_reports = []
    for name in configs:
        config_source: Path | str = name
        error_lines: list[str] = []
        warning_lines: list[str] = []
        settings: Settings | None
        try:
            config = load_config(name, may_be_pipe=True)
            config_source, settings = config.source, config.settings
            warning_lines += [*map(str, config.warnings), *(f"{refusal} (not run)" for refusal in config.refusals)]
        except ConfigError as error:
            error_lines += map(str, error.problems)
            config_source, settings = error.problems[0].source, error.settings
        except UserError as error:
            error_lines.append(str(ConfigProblem(config_source, None, "", str(error))))
            settings = None
        try:
            if settings is not None:
                problems = find_settings_problems(settings, find_model(settings.model_settings.model_id))
                error_lines += [str(ConfigProblem(config_source, None, "", text)) for text in problems.refusals]
                warning_lines += [str(ConfigProblem(config_source, None, "", text)) for text in problems.warnings]
        except UserError as error:
            error_lines.append(str(ConfigProblem(config_source, None, "", str(error))))
        validation_reports.append(
            {"config": name, "valid": not error_lines, "problems": error_lines, "warnings": warning_lines}
        )
        if not as_json:
            for line in error_lines:
                echo(f"error: {line}", err=True)
            for line in warning_lines:
                echo(f"warning: {line}", err=True)
            echo(f"{name}: {'not valid' if error_lines else 'valid'}")
    if as_json:
        print_json(validation_reports)
    sys.exit(0 if all(report["valid"] for report in validation_reports) else 2)


@command.command("show")
@click.argument("config", required=False)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Setting to override; repeatable.")
@add_json_option
def show_config(config: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print all settings of a config, or list the presets.

    Without CONFIG, lists the presets.
    """
    from wantui.cli.options import print_warnings
    from wantui.cli.output import add_table_row, create_plain_table, print_table
    from wantui.config import (
        convert_settings_to_dict,
        dump_settings,
        find_preset_directory,
        list_preset_names,
        load_config,
    )

    if config is None:
        summary_by_preset = {}
        for name in list_preset_names():
            first_line = (find_preset_directory() / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
            summary_by_preset[name] = first_line.lstrip("# ")
        if as_json:
            print_json(summary_by_preset)
            return
        table = create_plain_table("preset", "description")
        for name, summary in summary_by_preset.items():
            add_table_row(table, name, summary)
        print_table(table)
        return
    loaded_config = load_config(config, overrides, may_be_pipe=True)
    print_warnings(tuple(map(str, loaded_config.warnings)))
    if as_json:
        print_json(convert_settings_to_dict(loaded_config.settings))
    else:
        echo(dump_settings(loaded_config.settings), nl=False)


@command.command("schema")
def print_config_schema() -> None:
    """Print the JSON schema of config files.

    It gives the meaning, unit and range of every key.
    """
    from wantui.config import Settings

    print_json(Settings.model_json_schema())
