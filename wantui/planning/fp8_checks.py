"""Refusals of `speed: fp8`: models, weights, plans and captures that it cannot be combined with."""

from wantui.captures.contributions import CONTRIBUTIONS
from wantui.config.settings import Settings
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel
from wantui.planning.fp8 import WIDTH_MULTIPLE, count_fp8_blocks
from wantui.planning.memory_plan import MIN_FUSED_TRANSFORMER_WIDTH, MemoryPlan, find_plan
from wantui.planning.model_source import WeightsForm
from wantui.planning.recipe import Recipe


def find_fp8_refusals(settings: Settings, model: WanModel, recipe: Recipe) -> list[str]:
    """Return the reasons why a recipe cannot be computed by `speed: fp8`; none at other speeds."""
    if recipe.speed != "fp8":
        return []
    plan_name = settings.memory_settings.plan
    plan = None if plan_name == "auto" else find_plan(plan_name)
    refusals = [
        f"model_settings.speed: fp8 {reason}"
        for reason in list_fp8_conflicts(model, recipe.dtype, recipe.weights, plan)
    ]
    if recipe.capture.find_request(CONTRIBUTIONS.name) is not None:
        refusals.append(
            "model_settings.speed: fp8 rounds outputs that contribution_settings.store_contributions needs unrounded: "
            "turn off store_contributions, or set model_settings.speed to fused"
        )
    return refusals


def list_fp8_conflicts(model: WanModel, dtype: str, weights: WeightsForm, plan: MemoryPlan | None) -> list[str]:
    """Return phrases that continue "model_settings.speed: fp8", each naming a conflict and an alternative.

    Args:
        plan: memory plan, or None if it is not chosen yet.
    """
    if model.transformer_width < MIN_FUSED_TRANSFORMER_WIDTH:  # no other choice can help
        return [
            f"needs blocks with a width of at least {MIN_FUSED_TRANSFORMER_WIDTH}, but the blocks of {model.name} are "
            f"{model.transformer_width} wide: set model_settings.speed to fused"
        ]
    if count_fp8_blocks(model.block_count) == 0:
        return [
            f"leaves the first and the last block in bfloat16, and {model.name} has "
            f"{format_count(model.block_count, 'block')}, so no product would be in FP8: "
            "set model_settings.speed to fused"
        ]
    conflicts = []
    widths = model.transformer_width, model.feed_forward_width
    if any(width % WIDTH_MULTIPLE for width in widths):
        conflicts.append(
            f"needs layers with widths that are multiples of {WIDTH_MULTIPLE}, but {model.name} has layers that are "
            f"{' and '.join(map(str, widths))} wide: set model_settings.speed to fused"
        )
    if dtype != "bfloat16":
        conflicts.append(
            f"computes in bfloat16, and model_settings.dtype is {dtype}: set dtype to bfloat16, or "
            "model_settings.speed to fused"
        )
    if weights == "gguf":
        conflicts.append(
            "cannot be combined with a transformer_file, which has its own precision: set model_settings.speed to fused"
        )
    elif weights != "full":
        conflicts.append(
            f"stores the weights in 8 bits itself, and cannot be combined with model_settings.weights: {weights}: "
            "set weights to full, or model_settings.speed to fused"
        )
    if plan is not None and not plan.can_fuse:
        conflicts.append(
            f"needs all weights of a block on the GPU, but memory_settings.plan: {plan.slug} loads them in parts: "
            "set plan to auto, or model_settings.speed to fused"
        )
    return conflicts
