"""The control of the guidance rule: how the two predictions of an evaluation become one velocity.

Rules: classifier-free guidance (arXiv 2207.12598), CFG-Zero* (2503.18886), adaptive projected guidance (2410.02416) and
tangential damping (2503.18137). With any of them, the difference of the predictions can be reused after a moment, so
that the unconditional pass is skipped (2312.12487).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from wantui.captures.base import DenoisingSize
from wantui.controls.base import ControlKind, ControlRequest
from wantui.guidance import DenoisingMoments, EvaluationGuidance
from wantui.keyframes import (
    KeyframeError,
    KeyframeTimes,
    find_evaluations_since,
    format_moments,
    list_evaluation_steps,
    parse_keyframes,
)
from wantui.section import ChoiceDescriptions, ConfigSection

if TYPE_CHECKING:
    from wantui.planning.recipe import Recipe

GuidanceRuleName = Literal["cfg", "cfg-zero-star", "apg", "tcfg"]
ZeroStepCount = Annotated[int, Field(ge=0, le=1000)]
ProjectionShare = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Momentum = Annotated[float, Field(gt=-1, lt=1, allow_inf_nan=False)]
DifferenceLimit = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
SECTION_KEY = "guidance_settings"
DEFAULTS_BY_RULE: dict[GuidanceRuleName, dict[str, Any]] = {
    "cfg": {},
    "cfg-zero-star": {"zero_steps": 1},
    "apg": {"eta": 0.0, "momentum": -0.5, "max_rms": 0.0},
    "tcfg": {},
}
"""Parameters of each rule, and their values if the settings leave them empty."""
RULE_PARAMETER_NAMES = ("zero_steps", "eta", "momentum", "max_rms")
FLOAT32_BYTES = 4


class GuidanceSettings(ConfigSection):
    """Rule of guidance."""

    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "rule": {
            "cfg": "u + w (c - u), with the guidance scale w",
            "cfg-zero-star": "scale the unconditional prediction to fit the conditional one, and change nothing in the "
            "first steps",
            "apg": "damp the part of the difference along the prediction, to avoid oversaturation",
            "tcfg": "remove the part of the unconditional prediction that does not align with the conditional one",
        }
    }

    rule: GuidanceRuleName = "cfg"
    """Rule that combines the predictions of the two passes."""
    zero_steps: ZeroStepCount | None = None
    """cfg-zero-star: number of first steps that change nothing; empty: 1."""
    eta: ProjectionShare | None = None
    """apg: factor of the difference along the prediction; 1 keeps it, as cfg does; empty: 0."""
    momentum: Momentum | None = None
    """apg: share of the earlier differences that is added; negative pushes away from them; empty: -0.5."""
    max_rms: DifferenceLimit | None = None
    """apg: maximum root mean square of the difference of the predicted clean latents, in units of the latents. The
    paper's norm threshold is this times the square root of the number of values; 0 or empty: no limit."""
    reuse_from: Annotated[str, Field(pattern=r"\S")] | None = None
    """Moment (a step from 0, 50%, or sigma 0.4) from which the difference of the two passes is reused instead of
    running the unconditional pass; half the time of each such step. Empty: never."""

    @field_validator(*RULE_PARAMETER_NAMES)
    @classmethod
    def reject_parameters_of_other_rules(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject a parameter of a different rule."""
        rule = info.data.get("rule")
        if value is not None and rule is not None and info.field_name not in DEFAULTS_BY_RULE[rule]:
            raise ValueError(_explain_foreign_parameter(str(info.field_name), rule))
        return value

    @field_validator("reuse_from")
    @classmethod
    def check_moment(cls, value: str | None) -> str | None:
        """Reject a moment that cannot be read."""
        if value is not None:
            parse_keyframes({value: None})
        return value


def _explain_foreign_parameter(name: str, rule: str) -> str:
    owner = next(other for other, defaults in DEFAULTS_BY_RULE.items() if name in defaults)
    return f"the rule {rule} has no {name}, a parameter of {owner}. Remove it, or set the rule to {owner}"


class GuidanceRequest(ControlRequest):
    """Request for a guidance rule; parameters of the rule are numbers, and all other parameters are None."""

    rule: GuidanceRuleName
    zero_steps: ZeroStepCount | None = None
    eta: ProjectionShare | None = None
    momentum: Momentum | None = None
    max_rms: DifferenceLimit | None = None
    reuse_from: KeyframeTimes | None = None
    """Moment from which the difference of the passes is reused."""

    @model_validator(mode="after")
    def check_parameters(self) -> Self:
        """Reject missing parameters, and parameters of a different rule."""
        given = {name for name in RULE_PARAMETER_NAMES if getattr(self, name) is not None}
        if given != DEFAULTS_BY_RULE[self.rule].keys():
            raise PydanticCustomError("guidance", f"the parameters of the rule {self.rule} are missing or wrong")
        if self.reuse_from is not None and len(self.reuse_from.moments) != 1:
            raise PydanticCustomError("guidance", "reuse_from is not a single moment")
        return self


def build_guidance_request(settings: GuidanceSettings) -> GuidanceRequest | None:
    """Return the request for settings, or None for the rule cfg without reuse."""
    if settings.rule == "cfg" and settings.reuse_from is None:
        return None
    defaults = DEFAULTS_BY_RULE[settings.rule]
    return GuidanceRequest(
        rule=settings.rule,
        reuse_from=None if settings.reuse_from is None else parse_keyframes({settings.reuse_from: None})[0],
        **{
            name: default if (value := getattr(settings, name)) is None else value for name, default in defaults.items()
        },
    )


def change_guidance(
    request: GuidanceRequest, evaluations: Sequence[EvaluationGuidance], moments: DenoisingMoments, recipe: "Recipe"
) -> list[EvaluationGuidance]:
    """Return the guidance of each evaluation with the first steps zeroed, and with reused differences.

    The difference of one transformer is not reused for the other: the first evaluation of each that runs has both
    passes.

    Raises:
        KeyframeError: `reuse_from` is at a step that the denoising does not have; the message names the setting.
    """
    changed = list(evaluations)
    steps = list_evaluation_steps(len(changed), moments.step_count)
    for index, step in enumerate(steps):
        if step < (request.zero_steps or 0):
            changed[index] = replace(changed[index], source="zero")
    if request.reuse_from is None:
        return changed
    try:
        may_reuse = find_evaluations_since(request.reuse_from, moments.noise_levels, moments.step_count)
    except KeyframeError as error:
        raise KeyframeError(f"{SECTION_KEY}.reuse_from: {error}") from None
    transformers_with_difference: set[bool] = set()
    for index, uses_second in enumerate(moments.uses_second_transformer):
        if index < moments.first_evaluation or changed[index].source != "guided":
            continue
        if may_reuse[index] and uses_second in transformers_with_difference:
            changed[index] = replace(changed[index], source="reused")
        transformers_with_difference.add(uses_second)
    return changed


def list_shown_values(request: GuidanceRequest) -> dict[str, Any]:
    """Return the guidance rule and its parameters, by the names of the settings."""
    values = {name: getattr(request, name) for name in ("rule", *RULE_PARAMETER_NAMES)}
    values["reuse_from"] = None if request.reuse_from is None else format_moments(request.reuse_from)[0]
    return {name: value for name, value in values.items() if value is not None}


def describe_guidance_rule(request: GuidanceRequest) -> str:
    """Return the rule in words, with its parameters."""
    parameters = list_shown_values(request)
    rule, reuse_from = parameters.pop("rule"), parameters.pop("reuse_from", None)
    rule_text = " ".join([rule, *(f"{name} {value:g}" for name, value in parameters.items())])
    return rule_text if reuse_from is None else f"{rule_text}, difference reused from {reuse_from}"


def estimate_gpu_bytes(request: GuidanceRequest, size: DenoisingSize) -> int:
    """Return the bytes kept between evaluations: the running difference of the rule apg, and the reused difference."""
    channels, frames, height, width = size.latent_shape
    tensor_count = bool(request.momentum) + (request.reuse_from is not None)
    return tensor_count * FLOAT32_BYTES * channels * frames * height * width


GUIDANCE = ControlKind(
    name="guidance",
    request_type=GuidanceRequest,
    section_key=SECTION_KEY,
    settings_type=GuidanceSettings,
    build_request=build_guidance_request,
    estimate_gpu_bytes=estimate_gpu_bytes,
    change_guidance=change_guidance,
    list_shown_values=list_shown_values,
    keeps_conditional_prediction=True,
)
