"""Expansion of the template and the prompt schedule of a batch to its variations."""

from wantui.config.settings import Settings
from wantui.controls.prompt_schedule import SECTION_KEY, SETTING_KEY, PromptScheduleSettings, split_schedule
from wantui.keyframes import KeyframeTimes, format_moment
from wantui.planning.recipe_builder import PlanError
from wantui.prompts import (
    Template,
    TemplateError,
    Variation,
    count_variations,
    expand_schedule,
    expand_template,
    parse_template,
)
from wantui.prompts.expand import format_large_count

MAX_SEED = 2**63 - 1
MAX_BATCH_VIDEOS = 100_000
"""Maximum number of videos in a batch; a manifest of that size is about 120 MB and is read in one piece."""


def expand_variations(
    parsed_template: Template, settings: Settings, cell_count: int
) -> tuple[tuple[Variation, ...], tuple[str, ...]]:
    """Return the variations of a template and its prompt schedule, and warnings about the schedule.

    Raises:
        UserError: there are too many variations or videos, a seed exceeds 63 bits, or a prompt of the schedule does not
            parse.
    """
    max_variations = settings.prompt_settings.max_variations
    variation_count = count_variations(parsed_template)
    if variation_count <= max_variations:  # otherwise expand_template reports the variations
        _check_video_count(variation_count * cell_count, settings, cell_count)
    if settings.model_settings.seed + settings.videos_per_variation - 1 > MAX_SEED:
        raise PlanError("model_settings.seed: the last seed of the batch would exceed 63 bits. Use a smaller seed.")
    schedule_settings: PromptScheduleSettings = getattr(settings, SECTION_KEY)
    if not schedule_settings.active_schedule:
        return tuple(expand_template(parsed_template, max_variations)), ()
    variations, warnings = _expand_scheduled_variations(parsed_template, schedule_settings, max_variations)
    _check_video_count(len(variations) * cell_count, settings, cell_count)
    return variations, warnings


def list_scheduled_moments(settings: Settings) -> list[str]:
    """Return the moments, such as `step 10`, at which any variation of a batch has a scheduled prompt."""
    schedule_settings: PromptScheduleSettings = getattr(settings, SECTION_KEY)
    return _format_moments(split_schedule(schedule_settings.active_schedule)[1])


def _format_moments(times: KeyframeTimes | None) -> list[str]:
    return [] if times is None else [format_moment(times.unit, moment) for moment in times.moments]


def _check_video_count(prompt_count: int, settings: Settings, cell_count: int) -> None:
    video_count = prompt_count * settings.videos_per_variation
    if video_count > MAX_BATCH_VIDEOS:
        raise PlanError(
            f"cannot plan {format_large_count(video_count)} videos: a batch has at most {MAX_BATCH_VIDEOS:,}. "
            f"Use fewer options{' or cells' if cell_count > 1 else ''} or fewer videos_per_variation, or several "
            "batches."
        )


def _expand_scheduled_variations(
    parsed_template: Template, settings: PromptScheduleSettings, max_variations: int
) -> tuple[tuple[Variation, ...], tuple[str, ...]]:
    start_template, times, later_templates = split_schedule(settings.active_schedule)
    written_templates = list(zip(_format_moments(times), later_templates, strict=True))
    if start_template is not None:
        written_templates.insert(0, ("the start", start_template))
    scheduled_templates, warnings = [], []
    for moment_name, written_template in written_templates:
        try:
            scheduled_template = parse_template(written_template)
        except TemplateError as error:
            raise _make_schedule_error(moment_name, error) from None
        scheduled_templates.append(scheduled_template)
        warnings += [f"{SETTING_KEY}: the prompt at {moment_name}: {text}" for text in scheduled_template.warnings]
    replaces_start = start_template is not None
    if replaces_start and start_template != parsed_template.source:
        warnings.append(
            f"{SETTING_KEY} has a prompt at the start, which replaces the template: the model does not read the text "
            f"of the template; only its brackets are used"
        )
    try:
        variations = expand_schedule(
            parsed_template, scheduled_templates, max_variations, replaces_start=replaces_start
        )
    except TemplateError as error:
        for (moment_name, _), scheduled_template in zip(written_templates, scheduled_templates, strict=True):
            if error.template == scheduled_template.source != parsed_template.source:
                raise _make_schedule_error(moment_name, error) from None
        raise
    return tuple(variations), tuple(warnings)


def _make_schedule_error(moment_name: str, error: TemplateError) -> PlanError:
    return PlanError(f"{SETTING_KEY}: the prompt at {moment_name} cannot be used: {error}")
