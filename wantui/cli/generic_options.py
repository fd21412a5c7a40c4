"""Options of `wantui commitment` and `wantui generic`, and the batch that their `run` subcommands pass to `wantui
run`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.common_options import add_detach_option
from wantui.cli.options import DEFAULT_CONFIG, load_config_from_options, read_template
from wantui.cli.types import PATH_TYPE
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.generic_words import GenericWord

CommandFunction = Callable[..., Any]
GENERIC_OVERRIDES = (
    "model_settings.cfg_scale=1",
    "model_settings.cfg_scale_2=",
    "cfg_schedule_settings.enabled=yes",
    "cfg_schedule_settings.schedule=",
    "cfg_schedule_settings.schedule_2=",
    "guidance_settings.rule=cfg",
    "guidance_settings.zero_steps=",
    "guidance_settings.eta=",
    "guidance_settings.momentum=",
    "guidance_settings.max_rms=",
    "guidance_settings.reuse_from=",
    "prompt_schedule_settings.enabled=yes",
    "prompt_schedule_settings.schedule=",
)
"""Settings of `wantui generic run`, which generates without guidance, and with one prompt."""


def make_generic_option(default: str) -> Callable[[CommandFunction], CommandFunction]:
    """Return the option --generic.

    Args:
        default: what declares the generic words without the option.
    """
    return click.option(
        "--generic",
        "generic_text",
        metavar="WORDS",
        help=f"Words of the concept, and the generic word that leaves the concept open: 'circle|ring: shape'.  "
        f"[default: {default}]",
    )


add_judge_option = click.option(
    "--judge",
    type=click.Choice(["auto", "nearest", "nano"]),
    default="auto",
    show_default=True,
    help="Method that determines which concept a video shows. nearest: the nearest reference of the same seed in "
    "latent space. nano: pixel rules for clips of the model nano. auto: nano for clips of the model nano where its "
    "rules apply, otherwise nearest.",
)
add_labels_option = click.option(
    "--labels", "labels_path", type=PATH_TYPE, help="CSV table with the columns id and label, instead of a judge."
)


def add_generic_run_options(previewed: str) -> Callable[[CommandFunction], CommandFunction]:
    """Return a decorator that adds the options --preview, --detach and --json.

    Args:
        previewed: what --preview shows in addition to the predicted cost.
    """

    def add_options(command: CommandFunction) -> CommandFunction:
        command = click.option(
            "--json", "as_json", is_flag=True, help="Print JSON, as `wantui run` and `wantui preview` do."
        )(command)
        command = add_detach_option(command)
        return click.option(
            "--preview",
            "is_preview",
            is_flag=True,
            help=f"Show the {previewed} and the predicted cost; run nothing.",
        )(command)

    return add_options


def read_required_template(template: str | None, template_file: Path | None) -> str:
    """Return the template of the options.

    Raises:
        click.UsageError: there is none, or it cannot be read.
    """
    template_text = read_template(template, template_file)
    if template_text is None:
        raise click.UsageError('--template is missing. Give one: -t "a red [circle|ring]"')
    return template_text


def find_generic_word(
    config: str | None, template_text: str, generic_text: str | None, overrides: tuple[str, ...]
) -> "GenericWord":
    """Return the declared generic word whose concepts occur in the template.

    Args:
        generic_text: declaration of the option --generic; None uses the declaration of the config.

    Raises:
        UserError: no generic word is declared, the declaration cannot be read, or several generic words replace words
        of the template.
    """
    from wantui.generic_words import read_generic_words

    settings = {} if generic_text is not None else load_config_from_options(config, overrides, {}).settings.model_dump()
    entries = read_generic_words(generic_text, settings, DEFAULT_CONFIG if config is None else config)
    used = [entry for entry in entries if entry.find_words(template_text)]
    if len(used) > 1:
        raise UserError(
            f"several generic words replace words of the template ({', '.join(entry.generic for entry in used)}). "
            "Declare the one to study with --generic"
        )
    return (used or list(entries))[0]


def make_generic_template(template_text: str, generic_word: "GenericWord") -> str:
    """Return the generic template, which leaves the concept open.

    Raises:
        UserError: the template has none of the words, or a bracket keeps different options.
    """
    from wantui.generic_words import GenericWordsError
    from wantui.prompts import parse_template
    from wantui.prompts.generic_template import generalise_template

    try:
        return generalise_template(parse_template(template_text), generic_word)
    except GenericWordsError as error:
        raise UserError(str(error)) from None


def add_default_overrides(defaults: tuple[str, ...], overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the user's overrides, preceded by the default overrides of settings that the user does not set."""
    given_keys = {override.partition("=")[0].strip() for override in overrides}
    return (*(default for default in defaults if default.partition("=")[0] not in given_keys), *overrides)


def run_or_preview(
    is_preview: bool,
    detaches: bool,
    config: str | None,
    template_text: str,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Pass a batch on to `wantui preview`, or to `wantui run`.

    Args:
        options: options of a batch besides config and template.
    """
    from wantui.cli.preview import command as preview_command
    from wantui.cli.run import command as run_batch_command

    context = click.get_current_context()
    shared: dict[str, Any] = {"config": config, "template": template_text, "template_file": None, "as_json": as_json}
    if is_preview:
        context.invoke(preview_command, show_all=True, **shared, **options)
    else:
        context.invoke(run_batch_command, resume_folder=None, detaches=detaches, log_folder=None, **shared, **options)
