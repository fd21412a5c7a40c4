"""The control of the guidance schedule: a guidance scale for each step, from keyframes.

The guidance scale of an evaluation is interpolated between the keyframes; the unconditional pass runs wherever it
differs from 1, so a schedule of 1 outside an interval is limited-interval guidance (arXiv 2404.07724).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from wantui.controls.base import ControlKind, ControlRequest
from wantui.guidance import DenoisingMoments, EvaluationGuidance, choose_source
from wantui.keyframes import (
    Interpolation,
    KeyframeError,
    KeyframeTimes,
    find_evaluation_moments,
    format_moment,
    format_moments,
    interpolate_values,
    parse_keyframes,
)
from wantui.section import ChoiceDescriptions, ConfigSection

if TYPE_CHECKING:
    from wantui.planning.recipe import Recipe

GuidanceScale = Annotated[float, Field(ge=-50, le=50, allow_inf_nan=False)]
SECTION_KEY = "cfg_schedule_settings"


class GuidanceScheduleSettings(ConfigSection):
    """Guidance scale by step."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {
        "verbose": "the schedule is shown by `wantui preview` and stored with the trajectory",
        "apply_to_guidance_2": "it never had an effect; schedule_2 is the schedule of the second transformer",
        "force_cfg": "the unconditional pass runs wherever the scale differs from 1",
    }
    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "interpolation": {
            "linear": "on a straight line",
            "step": "the scale at the previous moment",
            "cosine": "half a cosine wave",
        }
    }

    enabled: bool = True
    """Apply the schedule; off: cfg_scale holds at every step."""
    schedule: dict[str, GuidanceScale] = Field(default_factory=dict)
    """Guidance scale at moments, which replaces cfg_scale: a step from 0 (10), a percentage of the steps (50%), or a
    noise level (sigma 0.8), as in `0: 7.5, 50%: 3`. At 1, the unconditional pass is skipped. Empty: cfg_scale."""
    schedule_2: dict[str, GuidanceScale] = Field(default_factory=dict)
    """Guidance schedule of the low-noise transformer of Wan 2.2 A14B; moments count from the start of the denoising.
    Empty: cfg_scale_2, or schedule if that is empty too."""
    interpolation: Interpolation = "linear"
    """Scale between two moments."""

    @field_validator("schedule", "schedule_2")
    @classmethod
    def check_keyframes(cls, value: dict[str, float]) -> dict[str, float]:
        """Reject keyframes whose moments cannot be read or are equal."""
        if value:
            parse_keyframes(value)
        return value


class ScaleKeyframes(ControlRequest):
    """Guidance scales at moments of a denoising run."""

    times: KeyframeTimes
    scales: tuple[GuidanceScale, ...]

    @model_validator(mode="after")
    def check_count(self) -> Self:
        """Reject keyframes without a scale, and scales without a keyframe."""
        if len(self.scales) != len(self.times.moments):
            raise PydanticCustomError("keyframes", "every keyframe needs exactly one scale")
        return self


class GuidanceScheduleRequest(ControlRequest):
    """Request to change the guidance scale during the denoising; a schedule of None leaves the scale of the recipe."""

    schedule: ScaleKeyframes | None
    schedule_2: ScaleKeyframes | None = None
    """Schedule of the low-noise transformer of Wan 2.2 A14B."""
    interpolation: Interpolation


def build_guidance_schedule_request(settings: GuidanceScheduleSettings) -> GuidanceScheduleRequest | None:
    """Return the request for settings, or None without a schedule."""
    if not settings.enabled or not (settings.schedule or settings.schedule_2):
        return None
    return GuidanceScheduleRequest(
        schedule=_build_keyframes(settings.schedule),
        schedule_2=_build_keyframes(settings.schedule_2),
        interpolation=settings.interpolation,
    )


def _build_keyframes(schedule: dict[str, float]) -> ScaleKeyframes | None:
    if not schedule:
        return None
    times, scales = parse_keyframes(schedule)
    return ScaleKeyframes(times=times, scales=scales)


def get_compared_settings(request: GuidanceScheduleRequest) -> dict[str, Any]:
    """Return the scale of each keyframe by its moment, as in the config; the moment 0 has no unit."""
    schedules = {"schedule": request.schedule, "schedule_2": request.schedule_2}
    return {
        **{key: None if keyframes is None else _list_scales(keyframes) for key, keyframes in schedules.items()},
        "interpolation": request.interpolation,
    }


def _list_scales(keyframes: ScaleKeyframes) -> dict[str, float]:
    unit = keyframes.times.unit
    moments = [
        "0" if moment == 0 and unit != "sigma" else format_moment(unit, moment).removeprefix("step ")
        for moment in keyframes.times.moments
    ]
    return dict(zip(moments, keyframes.scales, strict=True))


def change_guidance(
    request: GuidanceScheduleRequest,
    evaluations: Sequence[EvaluationGuidance],
    moments: DenoisingMoments,
    recipe: "Recipe",
) -> list[EvaluationGuidance]:
    """Return the guidance of each evaluation with the scheduled scales.

    Raises:
        KeyframeError: a keyframe is at a step that the denoising does not have; the message names the setting.
    """
    first, second = (
        _interpolate_scales(keyframes, request.interpolation, moments)
        for keyframes in (request.schedule, request.schedule_2)
    )
    if second is None and recipe.guidance_scale_2 is not None:
        second = [recipe.guidance_scale_2] * len(evaluations)
    second = second or first
    changed = []
    for index, evaluation in enumerate(evaluations):
        scales = second if moments.uses_second_transformer[index] else first
        changed.append(
            evaluation
            if scales is None
            else replace(evaluation, scale=scales[index], source=choose_source(scales[index]))
        )
    return changed


def _interpolate_scales(
    keyframes: ScaleKeyframes | None, interpolation: Interpolation, moments: DenoisingMoments
) -> list[float] | None:
    if keyframes is None:
        return None
    try:
        evaluation_moments = find_evaluation_moments(keyframes.times, moments.noise_levels, moments.step_count)
    except KeyframeError as error:
        raise KeyframeError(f"{SECTION_KEY}: {error}") from None
    return interpolate_values(evaluation_moments, keyframes.scales, interpolation)


def list_shown_values(request: GuidanceScheduleRequest) -> dict[str, Any]:
    """Return the schedules and the interpolation, by the names of the settings."""
    schedules = (("schedule", request.schedule), ("schedule_2", request.schedule_2))
    shown = {name: _format_keyframes(keyframes) for name, keyframes in schedules if keyframes is not None}
    return {**shown, "interpolation": request.interpolation}


def describe_guidance_schedule(request: GuidanceScheduleRequest) -> str:
    """Return the schedules as the settings write them, with a label for the second transformer's."""
    schedules = (("", request.schedule), ("in the second transformer ", request.schedule_2))
    texts = [f"{name}{_format_keyframes(keyframes)}" for name, keyframes in schedules if keyframes is not None]
    return f"{', '.join(texts)} ({request.interpolation})"


def _format_keyframes(keyframes: ScaleKeyframes) -> str:
    moments = zip(format_moments(keyframes.times), keyframes.scales, strict=True)
    return ", ".join(f"{moment}: {scale:g}" for moment, scale in moments)


GUIDANCE_SCHEDULE = ControlKind(
    name="guidance_schedule",
    request_type=GuidanceScheduleRequest,
    section_key=SECTION_KEY,
    settings_type=GuidanceScheduleSettings,
    build_request=build_guidance_schedule_request,
    change_guidance=change_guidance,
    changes_only_guidance=True,
    get_compared_settings=get_compared_settings,
    list_shown_values=list_shown_values,
    keeps_conditional_prediction=True,
)
