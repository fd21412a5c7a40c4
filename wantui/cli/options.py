"""Options that several commands share, and the batch planned from them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.output import echo, report_locked_queue
from wantui.cli.types import CONFIG_TYPE, INTEGER_TYPE, PATH_TYPE
from wantui.text_files import TextFileError, read_text_file

if TYPE_CHECKING:
    from wantui.config import Config
    from wantui.planning import Batch, BatchPreview
    from wantui.queue.queue import Queue
    from wantui.queue.state_dir import StateDirectory

DEFAULT_CONFIG = "nano"
MAX_TEMPLATE_BYTES = 1_000_000
"""Longest template file, in bytes."""
SURROGATE_PATTERN = re.compile(r"[\ud800-\udfff]")
"""Surrogate character, which Python uses for a byte of the command line that is not UTF-8."""

SETTING_KEY_BY_PARAMETER = {
    "videos_per_variation": "videos_per_variation",
    "seed": "model_settings.seed",
    "seeds": "seeds",
    "sweep": "sweeps",
    "baseline": "sweeps_baseline",
    "skip_impossible": "sweeps_skip_impossible",
    "output_dir": "output_dir",
    "batch_name": "batch_name",
    "store_latents": "latent_analysis_settings.store_latents",
    "store_attention": "attention_analysis_settings.store_attention",
    "lora": "lora_settings.adapters",
}
"""Parameter name of an option -> dotted key of the setting that it sets."""
LIST_PARAMETERS = ("lora",)
"""Repeatable options whose settings are lists; the values of other options are joined into one text."""


RECIPE_OPTIONS = (
    click.option("-c", "--config", type=CONFIG_TYPE, help=f"Config file or preset.  [default: {DEFAULT_CONFIG}]"),
    click.option("-t", "--template", help='Prompt template, such as "a [red|blue] (circle)".'),
    click.option("--template-file", type=PATH_TYPE, help="File that contains the template."),
    click.option(
        "-s", "--seed", type=INTEGER_TYPE, help="Seed of each variation's first video.  [default: from the config]"
    ),
    click.option(
        "--lora",
        multiple=True,
        metavar="FILE[:STRENGTH]",
        help="LoRA adapter: a safetensors file or a packaged adapter; repeatable; replaces the config's adapters.",
    ),
    click.option(
        "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Setting to override; repeatable."
    ),
)
BATCH_OPTIONS = (
    *RECIPE_OPTIONS[:3],
    click.option(
        "-n",
        "--videos-per-variation",
        type=INTEGER_TYPE,
        help="Number of videos per variation, with consecutive seeds.  [default: from the config]",
    ),
    RECIPE_OPTIONS[3],
    click.option(
        "--seeds",
        metavar="SEEDS",
        help="Seeds of each variation, such as 7,11,42 or 1..8, instead of --seed and -n.  [default: from the config]",
    ),
    click.option(
        "--sweep",
        multiple=True,
        metavar="NAME=VALUES",
        help="Setting to sweep, such as cfg_scale=2,4,6 or steps=10..30:10; join settings that change together with "
        "+. Repeatable: all combinations are generated.",
    ),
    click.option("--baseline", is_flag=True, default=None, help="Also generate a row with the config's own values."),
    click.option(
        "--skip-impossible", is_flag=True, default=None, help="Skip cells of the sweep that cannot be generated."
    ),
    click.option(
        "-o", "--output-dir", type=PATH_TYPE, help="Parent folder of the batch folder.  [default: from the config]"
    ),
    click.option("--batch-name", help="Name of the batch folder.  [default: name of the config]"),
    click.option("--store-latents", is_flag=True, default=None, help="Store the latents of every step."),
    click.option("--store-attention", is_flag=True, default=None, help="Store attention maps of marked words."),
    *RECIPE_OPTIONS[4:],
)


def add_recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that determine a recipe."""
    for option in reversed(RECIPE_OPTIONS):
        command = option(command)
    return command


def add_batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that determine a batch."""
    for option in reversed(BATCH_OPTIONS):
        command = option(command)
    return command


def add_resume_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --resume, which names an existing batch."""
    return click.option(
        "--resume",
        "resume_folder",
        type=PATH_TYPE,
        metavar="BATCH_DIR",
        help="Batch folder to complete; its template and config cannot change.",
    )(command)


def read_template(template: str | None, template_file: Path | None) -> str | None:
    """Return the template from --template or --template-file; None if neither is given.

    Raises:
        click.UsageError: both options are given, or the file cannot be read.
    """
    if template is not None and SURROGATE_PATTERN.search(template):
        raise click.UsageError("the text of --template or the locale is not UTF-8. Set LC_ALL=C.UTF-8")
    if template is not None and template_file is not None:
        raise click.UsageError("give --template or --template-file, not both")
    if template_file is None:
        return template
    try:
        return read_text_file(template_file, MAX_TEMPLATE_BYTES, may_be_pipe=True).rstrip("\r\n")
    except TextFileError as error:
        raise click.UsageError(f"--template-file: {error}") from None


def plan_batch_from_options(config: str | None, template: str, overrides: tuple[str, ...], **options: Any) -> "Batch":
    """Plan the batch that the options determine."""
    from wantui.planning import plan_batch

    return plan_batch(load_config_from_options(config, overrides, options), template)


def preview_batch_from_options(
    config: str | None, template: str, overrides: tuple[str, ...], **options: Any
) -> "BatchPreview":
    """Preview the batch of `plan_batch_from_options`, without a recipe for every video."""
    from wantui.planning import preview_batch

    return preview_batch(load_config_from_options(config, overrides, options), template)


def load_config_from_options(config: str | None, overrides: tuple[str, ...], options: dict[str, Any]) -> "Config":
    """Load the config that the options determine."""
    from wantui.config import OptionValue
    from wantui.config.load import parse_config
    from wantui.config.presets import find_config_path, find_preset_path

    option_value_by_key = {
        setting_key: OptionValue(
            f"--{parameter_name.replace('_', '-')}", _convert_to_setting_value(parameter_name, options[parameter_name])
        )
        for parameter_name, setting_key in SETTING_KEY_BY_PARAMETER.items()
        if options.get(parameter_name) not in (None, ())
    }
    source = find_preset_path(DEFAULT_CONFIG) if config is None else config
    path = find_config_path(source)
    return parse_config(_read_config_once(path), path, overrides, option_value_by_key)


def _read_config_once(path: Path) -> str:
    """Return the text of a config file, which may be a pipe: a command that loads it twice reads it once."""
    from wantui.config.document import read_config_text

    context = click.get_current_context(silent=True)
    text_by_path: dict[Path, str] = {} if context is None else context.meta.setdefault(f"{__name__}.config", {})
    if path not in text_by_path:
        text_by_path[path] = read_config_text(path, may_be_pipe=True)
    return text_by_path[path]


def _convert_to_setting_value(parameter_name: str, value: Any) -> Any:
    if isinstance(value, tuple):  # of a repeatable option
        return list(value) if parameter_name in LIST_PARAMETERS else "; ".join(value)
    return str(value) if isinstance(value, Path) else value


def open_queue_for_command(state_dir: "StateDirectory | None" = None) -> "Queue":
    """Open the queue and print the notes about it; the queue closes when the current command ends."""
    from wantui.engine.queue_opening import open_queue
    from wantui.queue.state_dir import find_state_directory

    queue, queue_notes = open_queue(
        find_state_directory() if state_dir is None else state_dir, on_locked=report_locked_queue
    )
    click.get_current_context().call_on_close(queue.close)
    print_warnings(queue_notes)
    return queue


def print_warnings(warnings: Sequence[str]) -> None:
    """Print each warning as a line on stderr."""
    for warning in warnings:
        echo(f"warning: {warning}", err=True)
