"""The control of prompt schedules: the prompt changes at keyframes, in one step or by interpolated embeddings.

The recipe's own prompt is the keyframe at the start; the request has the keyframes after it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from wantui.captures.base import DenoisingSize
from wantui.controls.base import ControlKind, ControlRequest
from wantui.controls.marked_prompt import MarkedPrompt, PromptMark
from wantui.formatting import format_count
from wantui.keyframes import (
    EvaluationMoment,
    KeyframeError,
    KeyframeTimes,
    find_evaluation_moments,
    format_moment,
    parse_keyframes,
)
from wantui.samplers import compute_noise_levels
from wantui.section import CONFIG_FILE_CONTEXT, ChoiceDescriptions, ConfigSection

if TYPE_CHECKING:
    from wantui.planning.recipe import Recipe
    from wantui.prompts import Variation

SECTION_KEY = "prompt_schedule_settings"
SETTING_KEY, SWITCH_KEY = f"{SECTION_KEY}.schedule", f"{SECTION_KEY}.enabled"
PromptInterpolation = Literal["slerp", "lerp", "step"]
"""Embedding between two keyframes. slerp: directions on an arc, lengths on a line. lerp: on a line. step: the embedding
of the previous keyframe."""
MAX_EMBEDDING_BYTES = 512 * 4096 * 4
"""Bytes of the largest text embedding, in float32."""
BLENDED_COPY_COUNT = 12
"""Number of float32 text embeddings that take as many bytes as the float64 values of an interpolation."""


class PromptScheduleSettings(ConfigSection):
    """Prompts for later steps; the template gives the initial prompt."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {"verbose": "`wantui preview` shows the prompts of a schedule"}
    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "interpolation": {
            "slerp": "turn the direction of each token at a constant rate",
            "lerp": "on a straight line",
            "step": "the embedding at the previous moment",
        }
    }

    enabled: bool = True
    """Apply the schedule; off: the template is the prompt of every step."""
    schedule: dict[str, str] = Field(default_factory=dict)
    """Prompts by moment: index of a step from 0 (10), percentage of the steps (50%), or noise level (sigma 0.8). Each
    prompt is a template; brackets with the same options vary together. The negative prompt does not change."""
    interpolation: PromptInterpolation = "slerp"
    """Text embedding between two moments."""

    @property
    def active_schedule(self) -> dict[str, str]:
        """Return the schedule, or an empty one if it is off."""
        return self.schedule if self.enabled else {}

    @field_validator("schedule", mode="after")
    @classmethod
    def check_keyframes(cls, schedule: dict[str, str]) -> dict[str, str]:
        """Reject keyframes whose moments cannot be read or are equal."""
        if schedule:
            parse_keyframes(schedule)
        return schedule

    @model_serializer(mode="wrap")
    def omit_default_switch(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Omit a true `enabled` in config files: a section with `enabled` could be a section of the older system."""
        values: dict[str, Any] = handler(self)
        if info.context != CONFIG_FILE_CONTEXT:
            return values
        return {name: value for name, value in values.items() if name != "enabled" or not value}

    @classmethod
    def convert_former_values(cls, values: dict[str, Any]) -> str | None:
        """Move the first prompt of a schedule of the older system to the start, where that system applied it."""
        schedule = values.get("schedule")
        is_off = str(getattr(values.get("enabled"), "text", "")).lower() in ("false", "no", "off", "0")
        if is_off or not isinstance(schedule, dict) or not {"enabled", "verbose"} & values.keys():
            return None
        try:
            times, prompts = parse_keyframes(schedule)
        except KeyframeError:  # reported when the values are validated
            return None
        if _is_start(times) or times.unit == "sigma":
            return None
        first_moment = format_moment(times.unit, times.moments[0])
        if "verbose" not in values:
            return (
                f"before {first_moment}, the template is used. In diffusion_latent_exploration, the prompt at "
                f"{first_moment} applied from the start; to get this, add it at 0"
            )
        values["schedule"] = {"0": prompts[0], **schedule}
        return (
            f"is a section of diffusion_latent_exploration, so the template is ignored, and the prompt at "
            f"{first_moment} applies from the start. To start with the template, remove `verbose`"
        )


class PromptScheduleRequest(ControlRequest):
    """Request to change the prompt during the denoising: the keyframes after the start."""

    times: KeyframeTimes
    prompts: Annotated[tuple[MarkedPrompt, ...], Field(min_length=1)]
    interpolation: PromptInterpolation

    @model_validator(mode="after")
    def check_prompts(self) -> Self:
        """Reject keyframes without exactly one prompt each, or at the start, where the recipe's own prompt applies."""
        if len(self.prompts) != len(self.times.moments):
            raise PydanticCustomError("prompts", "a keyframe has no prompt, or a prompt has no keyframe")
        if self.times.unit != "sigma" and self.times.moments[0] == 0:
            raise PydanticCustomError("times", "the prompt at the start must come from the recipe, not from a keyframe")
        return self


def _is_start(times: KeyframeTimes) -> bool:
    """Return whether the first keyframe is at the beginning of the denoising."""
    return times.moments[0] == (1 if times.unit == "sigma" else 0)


def split_schedule(schedule: Mapping[str, str]) -> tuple[str | None, KeyframeTimes | None, tuple[str, ...]]:
    """Split the keyframes of a schedule into the initial prompt, if it has one, and the later keyframes.

    Returns:
        template at the start or None; moments of the later keyframes or None; templates of the later keyframes.

    Raises:
        KeyframeError: a moment cannot be read, or two moments are equal.
    """
    if not schedule:
        return None, None, ()
    times, templates = parse_keyframes(schedule)
    if not _is_start(times):
        return None, times, templates
    later_times = KeyframeTimes(unit=times.unit, moments=times.moments[1:]) if len(templates) > 1 else None
    return templates[0], later_times, templates[1:]


def build_prompt_schedule_request(
    settings: PromptScheduleSettings, variation: "Variation"
) -> PromptScheduleRequest | None:
    """Return the request of one variation, or None if its prompt does not change."""
    _, times, _ = split_schedule(settings.active_schedule)
    if times is None:
        return None
    prompts = tuple(
        MarkedPrompt(
            prompt=scheduled.prompt,
            marks=tuple(PromptMark(text=m.text, start=m.start, end=m.end, weight=m.weight) for m in scheduled.marks),
        )
        for scheduled in variation.scheduled_prompts
    )
    return PromptScheduleRequest(times=times, prompts=prompts, interpolation=settings.interpolation)


def find_prompt_moments(
    request: PromptScheduleRequest, noise_levels: Sequence[float], step_count: int
) -> list[EvaluationMoment]:
    """Locate every model evaluation between the prompts: 0 is the recipe's own prompt, i the i-th of the request.

    With `step`, an evaluation has the share 0.

    Args:
        noise_levels: sigma of each evaluation, as from `samplers.compute_noise_levels`.

    Raises:
        KeyframeError: a keyframe is at a step that the denoising does not have, or before the first evaluation.
    """
    unit, moments = request.times.unit, request.times.moments
    start = noise_levels[0] if unit == "sigma" else 0.0
    if unit == "sigma" and moments[0] >= start:
        raise KeyframeError(
            f"a keyframe is at {format_moment(unit, moments[0])}, but the first step has the noise level {start:.6g}. "
            "Use a lower noise level, or `sigma 1` to set the initial prompt"
        )
    all_times = KeyframeTimes(unit=unit, moments=(start, *moments))
    located = find_evaluation_moments(all_times, noise_levels, step_count)
    if request.interpolation != "step":
        return located
    return [EvaluationMoment(moment.before, moment.before, 0.0) for moment in located]


def find_recipe_prompt_moments(recipe: "Recipe", request: PromptScheduleRequest) -> list[EvaluationMoment]:
    """Locate every model evaluation of a recipe relative to the scheduled prompts, as `find_prompt_moments` does."""
    noise_levels = compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift)
    return find_prompt_moments(request, noise_levels, recipe.steps)


def _find_conflicts(request: PromptScheduleRequest, recipe: "Recipe") -> list[str]:
    if recipe.speed == "cached":
        return [
            f"{SETTING_KEY} cannot be combined with model_settings.speed: cached, which reuses results of the "
            f"previous prompt: choose fused"
        ]
    try:
        moments = find_recipe_prompt_moments(recipe, request)
    except KeyframeError as error:
        return [f"{SETTING_KEY}: {error}"]
    used_indices = {index for moment in moments for index in (moment.before, moment.after)}
    return [
        f"{SETTING_KEY}: the prompt at {format_moment(request.times.unit, moment)} has no effect, because no model "
        f"evaluation in {format_count(recipe.steps, 'step')} reads it. Use another moment, or more steps"
        for index, moment in enumerate(request.times.moments, start=1)
        if index not in used_indices
    ]


def _get_compared_settings(request: PromptScheduleRequest) -> dict[str, Any]:
    """Return the settings that must be equal for a comparison; prompts are compared as part of the video's prompt."""
    return request.model_dump(mode="json", exclude={"prompts"})


def _list_shown_values(request: PromptScheduleRequest) -> dict[str, Any]:
    """Return the prompt of each moment, and the interpolation."""
    moments = [format_moment(request.times.unit, moment) for moment in request.times.moments]
    prompts = [marked_prompt.prompt for marked_prompt in request.prompts]
    return {**dict(zip(moments, prompts, strict=True)), "interpolation": request.interpolation}


def _estimate_gpu_bytes(request: PromptScheduleRequest, denoising_size: DenoisingSize) -> int:
    blend_bytes = BLENDED_COPY_COUNT * MAX_EMBEDDING_BYTES if request.interpolation != "step" else 0
    return len(request.prompts) * MAX_EMBEDDING_BYTES + blend_bytes


PROMPT_SCHEDULE = ControlKind(
    name="prompt_schedule",
    request_type=PromptScheduleRequest,
    section_key=SECTION_KEY,
    settings_type=PromptScheduleSettings,
    build_variation_request=build_prompt_schedule_request,
    find_conflicts=_find_conflicts,
    estimate_gpu_bytes=_estimate_gpu_bytes,
    list_prompts=lambda request: request.prompts,
    get_compared_settings=_get_compared_settings,
    list_shown_values=_list_shown_values,
)
