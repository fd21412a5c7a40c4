"""Settings that cannot be combined with a second GPU for one video."""

from wantui.planning.recipe import Recipe

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
