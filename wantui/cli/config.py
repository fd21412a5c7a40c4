"""wantui config: validate, show and describe configs."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.common_options import add_json_option
from wantui.cli.output import echo, print_json
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.config.settings import Settings
    from wantui.models.catalogue import WanModel


@click.group("config", cls=WantuiGroup)
def command() -> None:
    """Validate, show and describe configs."""


@command.command("validate")
@click.argument("configs", nargs=-1, required=True)
@add_json_option
def validate_configs(configs: tuple[str, ...], as_json: bool) -> None:
    """Check config files or presets.

    Checks every key and value, the model, and the video size of every cell of a sweep; prints the model, size and
    steps of valid configs. Exit code 0: all valid, 2: at least one is not.
    """
    reports = []
    for name in configs:
        report = _validate_config(name)
        reports.append(report)
        if not as_json:
            for line in report.problems:
                echo(f"error: {line}", err=True)
            for line in report.warnings:
                echo(f"warning: {line}", err=True)
            echo(f"{name}: {'not valid' if report.problems else f'valid ({report.summary})'}")
    if as_json:
        print_json([report.as_json() for report in reports])
    sys.exit(2 if any(report.problems for report in reports) else 0)


@dataclass
class _ValidationReport:
    """Problems of a config, and what it generates."""

    name: str
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    summary: str = ""
    """Model, size and steps, such as "nano, 128x128, 20 steps"; empty if they are not known."""
    values: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(("model", "width", "height", "steps")))
    """Model, size in pixels, and steps of the config; None if they are not known."""

    def as_json(self) -> dict[str, Any]:
        validity = {"config": self.name, "valid": not self.problems, **self.values}
        return validity | {"problems": self.problems, "warnings": self.warnings}

    def add_values(self, settings: "Settings", model: "WanModel", line_by_key: Mapping[str, int]) -> None:
        """Add the model, the size and the steps, and which of them are not in the file or change in the sweep."""
        from wantui.config.sweep import resolve_sweep_axes

        video, steps = settings.video_settings, settings.model_settings.steps
        self.values = {"model": model.name, "width": video.width, "height": video.height, "steps": steps}
        default_text = "" if "model_settings.model_id" in line_by_key else " by default"
        swept_names = [setting.path.rpartition(".")[2] for a in resolve_sweep_axes(settings) for setting in a.settings]
        sweep_text = f"; sweep of {', '.join(swept_names)}" if swept_names else ""
        size_text = f"{video.width}x{video.height}"
        self.summary = f"{model.name}{default_text}, {size_text}, {format_count(steps, 'step')}{sweep_text}"


def _validate_config(name: str) -> _ValidationReport:
    """Check a config, its model and its sizes."""
    from wantui.config import ConfigError, ConfigProblem, load_config
    from wantui.errors import UserError
    from wantui.models.catalogue import find_model
    from wantui.planning.cells import find_settings_problems

    report = _ValidationReport(name)
    source: Path | str = name
    line_by_key: Mapping[str, int] = {}
    settings: Settings | None = None

    def locate(text: str) -> str:
        """Return a message that may begin with a key, after the file and the line of that key."""
        return str(ConfigProblem(source, line_by_key.get(text.partition(": ")[0]), "", text))

    try:
        config = load_config(name, may_be_pipe=True)
        source, settings, line_by_key = config.source, config.settings, config.line_by_key
        report.warnings += [*map(str, config.warnings), *(f"{refusal} (not run)" for refusal in config.refusals)]
    except ConfigError as error:
        report.problems += map(str, error.problems)
        source, settings, line_by_key = error.problems[0].source, error.settings, error.line_by_key
    except UserError as error:
        report.problems.append(locate(str(error)))
    if settings is None:
        return report
    try:
        model = find_model(settings.model_settings.model_id)
    except UserError as error:
        report.problems.append(locate(f"model_settings.model_id: {error}"))
        return report
    report.add_values(settings, model, line_by_key)
    problems = find_settings_problems(settings, model)
    report.problems += map(locate, problems.refusals)
    report.warnings += map(locate, problems.warnings)
    return report


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
