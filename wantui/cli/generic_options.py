"""The generic template of `wantui commitment run` and `wantui generic run`, and the batch that they pass on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.options import DEFAULT_CONFIG, load_config_from_options, read_template
from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.generic_words import GenericWord

UNGUIDED_OVERRIDE = "model_settings.cfg_scale=1"


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
    """Return the declared generic word whose words the template has.

    Args:
        generic_text: declaration of the option --generic; None for that of the config.

    Raises:
        UserError: no generic word is declared, the declaration cannot be read, or the template has words of several.
    """
    from wantui.generic_words import EXAMPLE, GENERIC_WORDS_KEY, GenericWordsError, parse_generic_words

    source = "--generic"
    if generic_text is None:
        source = GENERIC_WORDS_KEY
        settings = load_config_from_options(config, overrides, {}).settings
        generic_text = settings.prompt_settings.generic_words
    try:
        entries = parse_generic_words(generic_text or "")
    except GenericWordsError as error:
        raise UserError(f"{source}: {error}") from None
    if not entries:
        name = DEFAULT_CONFIG if config is None else config
        raise UserError(f"no generic word is declared in {name}, which leaves the concept open: --generic '{EXAMPLE}'")
    used = [entry for entry in entries if entry.find_words(template_text)]
    if len(used) > 1:
        raise UserError(
            f"the template has words of several concepts ({', '.join(entry.generic for entry in used)}). Declare the "
            "one to study with --generic"
        )
    return (used or list(entries))[0]


def make_generic_template(template_text: str, generic_word: "GenericWord") -> str:
    """Return the template with the concept left open.

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


def run_or_preview(
    only_previews: bool,
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
    if only_previews:
        context.invoke(preview_command, show_all=True, **shared, **options)
    else:
        context.invoke(run_batch_command, resume_folder=None, detaches=detaches, log_folder=None, **shared, **options)
