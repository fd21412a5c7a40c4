"""The subcommand `wantui commitment run`: generate videos whose prompt switches to the generic prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.generic_options import (
    add_generic_run_options,
    find_generic_word,
    make_generic_option,
    make_generic_template,
    read_required_template,
    run_or_preview,
)
from wantui.cli.options import add_batch_options, preview_batch_from_options
from wantui.cli.output import echo

if TYPE_CHECKING:
    from wantui.planning import Recipe

DEFAULT_MOMENTS = "5%,10%,15%,20%,30%,40%,55%,75%"
SCHEDULE_SETTING = "prompt_schedule_settings.schedule"
SCHEDULE_SECTION = SCHEDULE_SETTING.partition(".")[0]
SWITCH_OVERRIDES = (
    f"{SCHEDULE_SETTING}=",  # references keep their prompt
    f"{SCHEDULE_SECTION}.enabled=yes",
    f"{SCHEDULE_SECTION}.interpolation=step",
)


@click.command("run", cls=WantuiCommand)
@add_batch_options
@make_generic_option("prompt_settings.generic_words")
@click.option(
    "--switch-at",
    "written_moments",
    metavar="LIST",
    default=DEFAULT_MOMENTS,
    show_default=True,
    help="Comma-separated moments at which to switch: a step index from 0, a percentage or a noise level (sigma 0.8).",
)
@add_generic_run_options("cells")
def run_command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    generic_text: str | None,
    written_moments: str,
    is_preview: bool,
    detaches: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate videos that switch to the generic prompt at different moments, as one batch with a sweep.

    The batch also contains the references, which keep their prompt, with the same seeds. All options of `wantui run`
    apply; a prompt schedule of the config does not. Use at least seven seeds.
    """
    from wantui.config.sweep_syntax import format_sweep_value
    from wantui.keyframes import KeyframeError, parse_keyframes

    template_text = read_required_template(template, template_file)
    for override in options["overrides"]:
        if override.strip().startswith(f"{SCHEDULE_SECTION}."):
            raise click.UsageError(
                f"--set {override.partition('=')[0].strip()}: this command sets the prompt schedule itself. Choose the "
                "moments of the switch with --switch-at"
            )
    generic_word = find_generic_word(config, template_text, generic_text, options["overrides"])
    generic_template = make_generic_template(template_text, generic_word)
    moments = [moment.strip() for moment in written_moments.split(",") if moment.strip()]
    if not moments:
        raise click.UsageError(
            f"--switch-at {written_moments!r} contains no moment. Write, for example, {DEFAULT_MOMENTS}"
        )
    try:
        for moment in moments:
            parse_keyframes({moment: generic_template})
    except KeyframeError as error:
        raise click.UsageError(f"--switch-at: {error}") from None
    echo(f"generic prompt: {generic_template}", err=True)
    options["overrides"] = (*options["overrides"], *SWITCH_OVERRIDES)
    references = preview_batch_from_options(config=config, template=template_text, **options)
    moments = _merge_equal_moments(moments, [cell.recipe for cell in references.possible_cells])
    values = ",".join(format_sweep_value({moment: generic_template}) for moment in moments)
    options["sweep"] = (f"{SCHEDULE_SETTING}={values}", *options["sweep"])
    options["baseline"] = True
    try:
        run_or_preview(is_preview, detaches, config, template_text, as_json, options)
    except SystemExit as end:
        if not end.code:
            finished_text = " when the videos are finished" if detaches else ""
            echo(f"measure which videos keep their concept{finished_text}: wantui commitment show BATCH", err=True)
        raise


def _merge_equal_moments(moments: Sequence[str], recipes: "Sequence[Recipe]") -> list[str]:
    """Return the moments without those that switch every recipe at the same step as an earlier moment; print both."""
    from wantui.keyframes import KeyframeError, find_evaluations_since, parse_keyframes
    from wantui.samplers import compute_noise_levels

    equal_moments: dict[object, list[str]] = {}
    for moment in moments:
        times, _ = parse_keyframes({moment: ""})
        try:
            key: object = tuple(
                tuple(
                    find_evaluations_since(
                        times, compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift), recipe.steps
                    )
                )
                for recipe in recipes
            )
        except KeyframeError:  # the plan of the batch names the cell without this step
            key = moment
        equal_moments.setdefault(key, []).append(moment)
    for first, *others in equal_moments.values():
        if others:
            names = ", ".join((first, *others))
            echo(f"of {names}, only {first} is generated: they switch the prompt at the same step", err=True)
    return [first for first, *_ in equal_moments.values()]
