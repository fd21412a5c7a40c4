"""A second GPU for one video: the settings and memory plans that allow it, and its memory.

The unconditional pass of each guided step is computed on the second GPU (`generation.guidance_split`). The number of
GPUs is not part of a recipe, because the video has the same bits on one GPU.
"""

from wantui.formatting import format_bytes
from wantui.models.catalogue import WanModel
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning.disk_estimate import estimate_extra_gpu_bytes
from wantui.planning.memory_plan import (
    WORKSPACE_BYTES,
    MemoryPlan,
    add_process_overhead,
    can_fuse_pipeline,
    estimate_activation_bytes,
)
from wantui.planning.recipe import Recipe
from wantui.planning.weight_bytes import BYTES_BY_DTYPE, estimate_latent_bytes, estimate_transformer_bytes

SECOND_GPU_LATENT_COUNT = 4
"""Number of latent-sized float32 tensors on the second GPU: input and output of a pass, and their copies."""
SECOND_GPU_SPEEDS = ("reference", "fused")
"""Speeds that a second GPU can compute."""


def find_second_gpu_conflict(recipe: Recipe, device: str) -> str | None:
    """Return why two GPUs cannot compute a video, as the end of a sentence; None if they can.

    Args:
        device: requested device.
    """
    if device == "cpu":
        return "needs two GPUs: it cannot be combined with model_settings.device: cpu"
    if recipe.speed not in SECOND_GPU_SPEEDS:
        speeds_text = " or ".join(SECOND_GPU_SPEEDS)
        return f"works with model_settings.speed: {speeds_text}, and not with {recipe.speed}"
    if recipe.transformer_file is not None:
        return "cannot be combined with model_settings.transformer_file"
    if recipe.weights != "full":
        return f"works with model_settings.weights: full, and not with {recipe.weights}"
    return None


def allows_second_gpu(plan: MemoryPlan) -> bool:
    """Return whether a second GPU can be used with a plan; a second GPU cannot use weights that are streamed."""
    return plan.weight_streaming == "none"


def estimate_second_gpu_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe) -> int:
    """Return the peak bytes that torch allocates on the second GPU, which holds the transformers during the video."""
    transformer_bytes = estimate_transformer_bytes(model, recipe) * model.transformer_count
    is_fused = can_fuse_pipeline(model, plan, recipe.speed, recipe.weights)
    text_bytes = TEXT_POSITION_COUNT * model.text_width * BYTES_BY_DTYPE[recipe.dtype]
    return (
        transformer_bytes
        + estimate_activation_bytes(model, recipe, is_fused)
        + estimate_extra_gpu_bytes(recipe, model)
        + SECOND_GPU_LATENT_COUNT * estimate_latent_bytes(model, recipe)
        + text_bytes
        + WORKSPACE_BYTES
    )


def explain_missing_memory(plan: MemoryPlan, model: WanModel, recipe: Recipe, free_bytes: int) -> str | None:
    """Return why the transformers do not fit on a second GPU with this free memory; None if they fit."""
    required_bytes = add_process_overhead(estimate_second_gpu_bytes(plan, model, recipe))
    if required_bytes <= free_bytes:
        return None
    return f"the second GPU needs {format_bytes(required_bytes)} and has {format_bytes(free_bytes)} free"
