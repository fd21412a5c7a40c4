"""Predicted seconds of one pass through the transformer, from the time estimates of videos."""

from collections.abc import Sequence

from wantui.controls.lora import LORA
from wantui.planning.guidance_plan import compute_mean_passes
from wantui.planning.memory_plan import MemoryPlan
from wantui.planning.recipe import Recipe
from wantui.planning.throughput import Throughput
from wantui.planning.time_estimate import Estimate, TimedVideo, estimate_video_seconds


def estimate_pass_seconds(
    recipe: Recipe,
    device_kind: str,
    past_videos: Sequence[TimedVideo],
    throughput: Throughput | None = None,
    plan: MemoryPlan | None = None,
) -> Estimate:
    """Predict the seconds of one pass with a recipe's model and size; see `estimate_video_seconds` for the arguments.

    An estimate is linear in the number of steps, so the estimates for two steps and for one step differ by one step.
    """
    lora = {name: request for name, request in recipe.controls.items() if name == LORA.name}
    recipe = recipe.model_copy(update={"sampler": "euler", "controls": lora})
    estimates = [
        estimate_video_seconds(
            recipe.model_copy(update={"steps": step_count}), device_kind, past_videos, throughput, plan
        )
        for step_count in (1, 2)
    ]
    one_step, two_steps = (estimate.value for estimate in estimates)
    if one_step is None or two_steps is None:
        return estimates[0]
    return Estimate((two_steps - one_step) / compute_mean_passes(recipe), estimates[0].basis)
