"""The guidance of each of a recipe's model evaluations, and the passes through the transformer that it needs."""

from collections.abc import Iterable, Sequence
from statistics import fmean, median

from wantui.controls import CONTROLS, ControlKind, ControlRequest
from wantui.controls.base import return_guidance_unchanged
from wantui.controls.guidance import GUIDANCE, GuidanceRequest, describe_guidance_rule
from wantui.controls.guidance_schedule import (
    GUIDANCE_SCHEDULE,
    GuidanceScheduleRequest,
    describe_guidance_schedule,
)
from wantui.errors import UserError
from wantui.guidance import DenoisingMoments, EvaluationGuidance
from wantui.models.catalogue import find_model
from wantui.planning.recipe import Recipe
from wantui.samplers import compute_noise_levels, count_model_evaluations

MAX_LISTED_SCALES = 3
"""Number of guidance scales above which only the lowest and the highest are named."""


def plan_guidance(
    recipe: Recipe, uses_second_transformer: Sequence[bool] | None = None, first_evaluation: int = 0
) -> list[EvaluationGuidance]:
    """Return the guidance of each model evaluation, with the changes of the controls in their order.

    Args:
        uses_second_transformer: whether each evaluation uses the low-noise transformer of Wan 2.2 A14B; None to
            predict it from the model's boundary.
        first_evaluation: first evaluation that runs, if the denoising starts at a stored state.

    Raises:
        KeyframeError: a schedule has a step that the denoising does not have.
    """
    evaluation_count = count_model_evaluations(recipe.sampler, recipe.steps)
    changes = _list_guidance_changes(recipe)
    if not changes and uses_second_transformer is None and recipe.guidance_scale_2 is None:
        return [_find_constant_guidance(recipe, uses_second=False)] * evaluation_count
    noise_levels = compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift)
    if uses_second_transformer is None:
        boundary = find_boundary_ratio(recipe)
        uses_second_transformer = [boundary is not None and level < boundary for level in noise_levels]
    moments = DenoisingMoments(recipe.steps, noise_levels, uses_second_transformer, first_evaluation)
    evaluations: Sequence[EvaluationGuidance] = [
        _find_constant_guidance(recipe, uses_second) for uses_second in uses_second_transformer
    ]
    for kind, request in changes:
        evaluations = kind.change_guidance(request, evaluations, moments, recipe)
    return list(evaluations)


def changes_guidance(recipe: Recipe) -> bool:
    """Return whether a control of a recipe changes the guidance of its evaluations."""
    return bool(_list_guidance_changes(recipe))


def _list_guidance_changes(recipe: Recipe) -> list[tuple[ControlKind, ControlRequest]]:
    return [
        (kind, request)
        for kind in CONTROLS
        if kind.change_guidance is not return_guidance_unchanged
        and (request := recipe.find_control_request(kind.name)) is not None
    ]


def _find_constant_guidance(recipe: Recipe, uses_second: bool) -> EvaluationGuidance:
    """Return the guidance without controls: a scale of at most 1 for the first transformer turns it off for both."""
    has_second_scale = uses_second and recipe.guidance_scale_2 is not None
    scale = recipe.guidance_scale_2 if has_second_scale else recipe.guidance_scale
    assert scale is not None
    return EvaluationGuidance(scale, "guided" if recipe.guidance_scale > 1 else "conditional")


def find_boundary_ratio(recipe: Recipe) -> float | None:
    """Return the noise level below which the second transformer is used; None if the model has none or is unknown."""
    try:
        return find_model(recipe.model).boundary_ratio
    except UserError:
        return None


def describe_guidance(recipe: Recipe) -> str:
    """Return the guidance scales, schedule and rule of a recipe, such as "4" or "0: 7.5, 50%: 3 (linear), apg"."""
    schedule, rule = (recipe.find_control_request(kind.name) for kind in (GUIDANCE_SCHEDULE, GUIDANCE))
    texts = []
    if not isinstance(schedule, GuidanceScheduleRequest) or schedule.schedule is None:
        texts.append(f"{recipe.guidance_scale:g}")
    if isinstance(schedule, GuidanceScheduleRequest):
        texts.append(describe_guidance_schedule(schedule))
    if recipe.guidance_scale_2 is not None:
        texts.append(f"in the second transformer {recipe.guidance_scale_2:g}")
    if isinstance(rule, GuidanceRequest):
        texts.append(describe_guidance_rule(rule))
    return ", ".join(texts)


def list_guidance_scales(recipes: Iterable[Recipe]) -> list[float]:
    """Return the distinct guidance scales in the recipes' evaluations, rising; 1 where guidance is off."""
    evaluations = {evaluation for recipe in recipes for evaluation in plan_guidance(recipe)}
    return sorted({each.effective_scale for each in evaluations})


def format_guidance_scales(scales: Iterable[float]) -> str:
    """Format the scales other than 1: "4", "3, 5", or "2 to 7" if there are many; empty if all are 1."""
    guided = [scale for scale in scales if scale != 1]
    if len(guided) > MAX_LISTED_SCALES:
        return f"{min(guided):g} to {max(guided):g}"
    return ", ".join(f"{scale:g}" for scale in guided)


def uses_unconditional_pass(recipe: Recipe) -> bool:
    """Return whether any evaluation runs the unconditional pass, which needs the negative prompt."""
    return any(evaluation.source == "guided" for evaluation in plan_guidance(recipe))


def has_varying_passes(recipe: Recipe) -> bool:
    """Return whether the unconditional pass runs at some evaluations and not at others."""
    return len({evaluation.pass_count for evaluation in plan_guidance(recipe)}) > 1


def compute_mean_passes(recipe: Recipe, gpu_count: int = 1) -> float:
    """Return the number of passes per evaluation, averaged over the denoising.

    Args:
        gpu_count: GPUs that share the passes of an evaluation; passes at the same time count once.
    """
    return fmean(-(-evaluation.pass_count // gpu_count) for evaluation in plan_guidance(recipe))


def compute_typical_passes(recipe: Recipe, gpu_count: int = 1) -> float:
    """Return the median number of passes per evaluation: the passes of the step with the median measured seconds.

    Args:
        gpu_count: as of `compute_mean_passes`.
    """
    return median(-(-evaluation.pass_count // gpu_count) for evaluation in plan_guidance(recipe))
