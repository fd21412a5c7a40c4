"""The denoising loop, as a generator of steps.

It computes the same operations as diffusers' `WanPipeline.__call__` in the same order: the latents are equal bit for
bit. Tests compare it with the stock pipeline for every sampler.
"""

import time
from collections.abc import Callable, Generator
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from wantui.formatting import format_count
from wantui.generation.attention_hooks import install_observers
from wantui.generation.captures import make_hooks
from wantui.generation.controls import apply_controls
from wantui.generation.denoising_state import Checkpoint, DenoisingInputs, DenoisingStep
from wantui.generation.finite import check_finite
from wantui.generation.fuse import is_fused
from wantui.generation.guidance import GuidedVelocity
from wantui.generation.guidance_split import (
    clean_up_guidance_split,
    find_guidance_split,
    finish_pass,
    remove_guidance_split,
)
from wantui.generation.model_passes import PassInput, evaluate_model, start_second_pass
from wantui.generation.placement import ensure_on_device, find_device
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.prompt_encoding import make_prompt_encoder
from wantui.generation.prompt_sequence import EncodedPrompt, PromptSequence
from wantui.generation.samplers import build_scheduler
from wantui.generation.step_cache import enable_step_cache, free_step_cache
from wantui.generation.token_spans import check_prompt_length
from wantui.guidance import EvaluationGuidance
from wantui.planning import Recipe
from wantui.planning.guidance_plan import plan_guidance
from wantui.planning.sizes import SizeError


@torch.no_grad()
def prepare_inputs(
    pipeline: WanPipeline, recipe: Recipe, embed_prompt: Callable[[str], Tensor] | None = None
) -> DenoisingInputs:
    """Encode the prompts, set up the sampler and draw the noise from a CPU generator with the recipe's seed.

    Args:
        embed_prompt: function that returns the embedding [1, 512, dim] of a prompt, instead of the text encoder.

    Raises:
        PromptTooLongError: a prompt has more tokens than the model reads.
        MarkOutOfRangeError: the model does not read the text of a mark.
        NotFiniteError: an embedding contains NaN or infinity.
        SizeError: the model does not support the recipe's size.
    """
    check_pipeline_video_size(pipeline, recipe)
    device = find_device(pipeline)
    scheduler = create_scheduler(recipe, device)
    guidance = plan_pipeline_guidance(pipeline, recipe, scheduler)
    uses_guidance = any(evaluation.source == "guided" for evaluation in guidance)
    for marked_prompt in recipe.prompts:
        prompt_name = "prompt" if marked_prompt.prompt == recipe.prompt else f"prompt {marked_prompt.prompt[:80]!r}"
        check_prompt_length(pipeline.tokenizer, marked_prompt.prompt, prompt_name)
    if uses_guidance:
        check_prompt_length(pipeline.tokenizer, recipe.negative_prompt, "negative prompt")
    prompts, negative_prompt_embeds = _encode_prompts(pipeline, recipe, embed_prompt, uses_guidance)
    preparation = DenoisingPreparation(pipeline, recipe, len(scheduler.timesteps), prompts, negative_prompt_embeds)
    apply_controls(preparation)
    prompts, negative_prompt_embeds = preparation.prompts, preparation.negative_prompt_embeds
    dtype = pipeline.transformer.dtype
    for prompt in prompts.prompts:
        check_finite(prompt.embeds.to(dtype), "the text embedding of the prompt contains")
    if negative_prompt_embeds is not None:
        check_finite(negative_prompt_embeds.to(dtype), "the text embedding of the negative prompt contains")
    noise = pipeline.prepare_latents(
        1,
        pipeline.transformer.config.in_channels,
        recipe.height,
        recipe.width,
        recipe.frames,
        torch.float32,
        device,
        torch.Generator("cpu").manual_seed(recipe.seed),
    )
    return DenoisingInputs(
        noise,
        tuple(scheduler.sigmas.tolist()),
        tuple(scheduler.timesteps.tolist()),
        scheduler,
        prompts,
        negative_prompt_embeds.to(dtype) if negative_prompt_embeds is not None else None,
        make_hooks(preparation),
        GuidedVelocity(guidance, preparation.guidance_rule),
    )


def plan_pipeline_guidance(
    pipeline: WanPipeline, recipe: Recipe, scheduler: Any, first_evaluation: int = 0
) -> list[EvaluationGuidance]:
    """Return the guidance of each evaluation, with the transformers that a pipeline uses.

    Args:
        first_evaluation: first evaluation that runs, if the denoising starts at a stored state.
    """
    uses_second = [uses_second_transformer(pipeline, scheduler, timestep) for timestep in scheduler.timesteps]
    return plan_guidance(recipe, uses_second, first_evaluation)


def _encode_prompts(
    pipeline: WanPipeline, recipe: Recipe, embed_prompt: Callable[[str], Tensor] | None, uses_guidance: bool
) -> tuple[PromptSequence, Tensor | None]:
    """Encode each text once; return the prompts of a recipe and the embedding of the negative prompt.

    The prompts contain their embeddings.
    """
    embed = make_prompt_encoder(pipeline, embed_prompt)
    embeds_by_prompt = {prompt: embed(prompt) for prompt in dict.fromkeys(marked.prompt for marked in recipe.prompts)}
    encoded_prompts = [EncodedPrompt(p.prompt, p.marks, embeds_by_prompt[p.prompt]) for p in recipe.prompts]
    return PromptSequence(encoded_prompts), embed(recipe.negative_prompt) if uses_guidance else None


def check_pipeline_video_size(pipeline: WanPipeline, recipe: Recipe) -> None:
    """Reject a size that the pipeline would silently crop; planning did not check recipes that come from clips.

    Raises:
        SizeError: the message names the size.
    """
    _, patch_height, patch_width = pipeline.transformer.config.patch_size
    spatial_factor, temporal_factor = pipeline.vae_scale_factor_spatial, pipeline.vae_scale_factor_temporal
    for side_name, side_pixels, multiple in (
        ("height", recipe.height, spatial_factor * patch_height),
        ("width", recipe.width, spatial_factor * patch_width),
    ):
        if side_pixels % multiple:
            raise SizeError(
                f"cannot generate a video with {side_name} {side_pixels}: the model generates multiples of {multiple}"
            )
    if (recipe.frames - 1) % temporal_factor:
        raise SizeError(
            f"cannot generate a video of {format_count(recipe.frames, 'frame')}: the model generates "
            f"{temporal_factor}k + 1 frames"
        )


def create_scheduler(recipe: Recipe, device: torch.device) -> Any:
    """Return the recipe's sampler, set up for its first step."""
    scheduler = build_scheduler(recipe.sampler, recipe.flow_shift, recipe.seed)
    scheduler.set_timesteps(recipe.steps, device=device)
    scheduler.set_begin_index(0)
    return scheduler


def uses_second_transformer(pipeline: WanPipeline, scheduler: Any, timestep: Tensor) -> bool:
    """Return whether a timestep belongs to the transformer of Wan 2.2 A14B for low noise levels."""
    boundary_ratio = pipeline.config.boundary_ratio
    return boundary_ratio is not None and bool(timestep < boundary_ratio * scheduler.config.num_train_timesteps)


def expand_timestep(pipeline: WanPipeline, transformer: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """Return the timestep as a transformer takes it: [1], or [1, positions] for reference blocks of Wan 2.2 5B."""
    if pipeline.config.expand_timesteps and not is_fused(transformer):
        # All positions are equal in text-to-video.
        ones_by_token = torch.ones(latents.shape[2:], dtype=torch.float32, device=latents.device)[:, ::2, ::2]
        token_timesteps = (ones_by_token * timestep).flatten()
        return token_timesteps.unsqueeze(0).expand(latents.shape[0], -1)
    return timestep.expand(latents.shape[0])


def denoise_latents(
    pipeline: WanPipeline, recipe: Recipe, inputs: DenoisingInputs | None = None, resume_from: Checkpoint | None = None
) -> Generator[DenoisingStep, None, None]:
    """Yield every step of denoising the latents of one video, or the steps after a checkpoint.

    Args:
        inputs: result of `prepare_inputs` for this recipe, for one run only; None to prepare here.
        resume_from: checkpoint of the same recipe with the same software; completed steps are not yielded again.

    Raises:
        NotFiniteError: the latents contain NaN or infinity after a step.
        CaptureMismatchError: the recomputed attention, for maps, weights or bends, differs from the model's attention.
    """
    inputs = inputs or prepare_inputs(pipeline, recipe)
    latents, steps_done = inputs.noise, 0
    if resume_from is not None:
        resume_from.restore_state(inputs)
        latents, steps_done = resume_from.latents, resume_from.steps_done
    evaluation_count = len(inputs.timesteps)
    has_guided_steps = any(evaluation.source == "guided" for evaluation in inputs.guidance.evaluations[steps_done:])
    attention_sites = {site for hook in inputs.hooks_by_capture.values() for site in hook.sites}
    with (
        install_observers(pipeline, attention_sites),
        enable_step_cache(pipeline, recipe, inputs.sigmas[:-1]),
        closing(inputs.pass_cache),
        clean_up_guidance_split(pipeline),
    ):
        for evaluation_index, timestep in enumerate(inputs.scheduler.timesteps):
            if evaluation_index < steps_done:
                continue
            started_at = time.perf_counter()
            result = _run_step(pipeline, inputs, latents, timestep, evaluation_index)
            moment = f"(timestep {float(timestep):g}, sigma {inputs.sigmas[evaluation_index]:.4f})"
            check_finite(
                result.next_latents,
                "the latents hold",
                f"after {evaluation_index + 1} of {evaluation_count} steps {moment}",
            )
            yield DenoisingStep(
                evaluation_index=evaluation_index,
                evaluation_count=evaluation_count,
                sigma=inputs.sigmas[evaluation_index],
                sigma_next=inputs.sigmas[evaluation_index + 1],
                timestep=inputs.timesteps[evaluation_index],
                latents_before=latents,
                velocity=result.velocity,
                latents=result.next_latents,
                seconds=time.perf_counter() - started_at,
                values_by_capture={
                    name: record
                    for name, hook in inputs.hooks_by_capture.items()
                    if (record := hook.pop_record()) is not None
                },
                conditional_velocity=result.conditional_velocity,
                unconditional_velocity=result.unconditional_velocity,
                gpu_count=2 if has_guided_steps and find_guidance_split(pipeline) is not None else 1,
            )
            latents = result.next_latents


@dataclass(frozen=True)
class _StepResult:
    """Tensors of one step; see `DenoisingStep`."""

    velocity: Tensor
    next_latents: Tensor
    conditional_velocity: Tensor
    unconditional_velocity: Tensor | None


@torch.no_grad()
def _run_step(
    pipeline: WanPipeline,
    inputs: DenoisingInputs,
    latents: Tensor,
    timestep: Tensor,
    evaluation_index: int,
) -> _StepResult:
    """Return the velocities at `latents`, and the latents after the sampler's step."""
    transformer = pipeline.transformer
    if uses_second_transformer(pipeline, inputs.scheduler, timestep):
        free_step_cache(transformer)
        transformer = pipeline.transformer_2
    ensure_on_device(pipeline, transformer)
    model_input = latents.to(pipeline.transformer.dtype)
    timesteps = expand_timestep(pipeline, transformer, latents, timestep)
    has_two_passes = inputs.guidance.evaluations[evaluation_index].source == "guided"
    split = find_guidance_split(pipeline) if has_two_passes else None
    inputs.pass_cache.start_step(has_two_passes and split is None)
    run_pass = partial(evaluate_model, inputs, evaluation_index)
    conditional_input = PassInput(
        "cond", model_input, timesteps, inputs.prompts.find_embeds(evaluation_index, pipeline.transformer.dtype)
    )
    unconditional_velocity: Tensor | None = None

    def evaluate_unconditional() -> Tensor:
        nonlocal unconditional_velocity
        if unconditional_velocity is None:
            assert inputs.negative_prompt_embeds is not None
            unconditional_input = PassInput("uncond", model_input, timesteps, inputs.negative_prompt_embeds)
            unconditional_velocity = run_pass(transformer, inputs.pass_cache, unconditional_input)
        return unconditional_velocity

    if split is None:
        conditional_velocity = run_pass(transformer, inputs.pass_cache, conditional_input)
    else:
        assert inputs.negative_prompt_embeds is not None
        pending = start_second_pass(split, transformer, run_pass, conditional_input, inputs.negative_prompt_embeds)
        try:
            conditional_velocity = run_pass(transformer, inputs.pass_cache, conditional_input)
        finally:
            wait([pending])
        unconditional_velocity = finish_pass(pipeline, pending)
        if unconditional_velocity is None:
            remove_guidance_split(pipeline)
    sigma = inputs.sigmas[evaluation_index]
    velocity = inputs.guidance.compute_velocity(
        evaluation_index, latents, sigma, conditional_velocity, evaluate_unconditional
    )
    next_latents: Tensor = inputs.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return _StepResult(velocity, next_latents, conditional_velocity, unconditional_velocity)
