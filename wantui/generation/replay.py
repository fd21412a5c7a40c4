"""Evaluate a model at stored states of a denoising run, or continue a run from a state with another recipe.

Both run the denoising loop itself from a checkpoint with a fresh sampler, so transformers, word weights, schedules
and placements apply as in a video.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray
from torch import Tensor

from wantui.generation.denoise import create_scheduler, denoise_latents, plan_pipeline_guidance
from wantui.generation.denoising_state import Checkpoint, DenoisingInputs, DenoisingStep
from wantui.generation.pass_cache import PassCache
from wantui.generation.placement import find_device
from wantui.generation.samplers import derive_seed
from wantui.planning import Recipe

NOISE_PURPOSE = "wantui u-turn"
"""Text hashed into the seed, so that this noise is independent of the video's initial noise."""


def draw_uturn_noise(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Return noise [*shape] that depends only on the seed of a video."""
    generator = torch.Generator("cpu").manual_seed(derive_seed(f"{NOISE_PURPOSE}\0{seed}"))
    return np.asarray(torch.randn(tuple(shape), generator=generator, dtype=torch.float32).numpy())


def continue_denoising(
    pipeline: WanPipeline, recipe: Recipe, inputs: DenoisingInputs, state: NDArray[np.float32], evaluation_index: int
) -> Iterator[DenoisingStep]:
    """Yield the steps of a denoising run that starts at a state.

    Multistep samplers start with their first order, and the first guided evaluation has both passes, even if the recipe
    reuses the difference of an earlier evaluation.

    Args:
        inputs: of the recipe; only its text and its hooks are used, so that it can serve several times.
        state: latents [channels, frames, height, width] before the evaluation.
        evaluation_index: evaluation that reads the state, from 0; with heun, the first one of a step.

    Raises:
        NotFiniteError: the latents contain NaN or infinity after a step.
    """
    device = find_device(pipeline)
    scheduler = create_scheduler(recipe, device)
    scheduler.set_begin_index(evaluation_index)
    guidance = plan_pipeline_guidance(pipeline, recipe, scheduler, evaluation_index)
    fresh_inputs = replace(
        inputs,
        scheduler=scheduler,
        guidance=replace(inputs.guidance, evaluations=guidance, state={}),
        pass_cache=PassCache(),
    )
    checkpoint = Checkpoint(evaluation_index, torch.from_numpy(state)[None].to(device), {}, {})
    yield from denoise_latents(pipeline, recipe, fresh_inputs, checkpoint)


def evaluate_velocity(
    pipeline: WanPipeline, recipe: Recipe, inputs: DenoisingInputs, state: NDArray[np.float32], evaluation_index: int
) -> Tensor:
    """Return the velocity [1, channels, frames, height, width] of a recipe at a state.

    Arguments as for `continue_denoising`.
    """
    with closing(continue_denoising(pipeline, recipe, inputs, state, evaluation_index)) as steps:  # type: ignore[type-var]
        return next(steps).velocity
