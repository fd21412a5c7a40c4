"""Velocities of a model at renoised videos, with two prompts, for the information gap (`analysis.information_gap`)."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray
from torch import Tensor

from wantui.generation.denoise import expand_timestep
from wantui.generation.finite import check_finite
from wantui.generation.pass_cache import PassCache
from wantui.generation.placement import ensure_on_device, find_device
from wantui.generation.samplers import derive_seed

NOISE_PURPOSE = "wantui information gap"
"""Text hashed into the seed, so that this noise is independent of the video's initial noise."""


@dataclass(frozen=True)
class LevelSums:
    """Sums of squared velocity differences of one video at one noise level.

    The sums are over all latent values, and averaged over the draws of noise.
    """

    squared_gap: float
    """|v_c - v_0|^2."""
    pointwise_gain: float
    """|v_0 - v*|^2 - |v_c - v*|^2, where v* is noise minus video."""
    squared_error: float
    """|v_c - v*|^2."""


def draw_noise(shape: Sequence[int], seed: int, level_index: int, draw: int) -> Tensor:
    """Return noise that depends on the seed of a video, not on its prompt: [1, *shape], float32, on the CPU.

    Videos of one seed share it, which pairs them. Levels and draws have independent noise.
    """
    noise_seed = derive_seed(f"{NOISE_PURPOSE}\0{seed}\0{level_index}\0{draw}")
    generator = torch.Generator("cpu").manual_seed(noise_seed)
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32)


def measure_level_gaps(
    pipeline: WanPipeline,
    video: NDArray[np.float32],
    seed: int,
    prompt_embeds: Tensor,
    generic_embeds: Tensor,
    sigmas: Sequence[float],
    draw_count: int = 1,
) -> Iterator[LevelSums]:
    """Yield the values of a video at each noise level, from two passes for each level and draw.

    Args:
        video: final latents [channels, frames, height, width].
        prompt_embeds, generic_embeds: text embeddings [1, 512, dim] of the prompt, and of the generic sentence.

    Raises:
        NotFiniteError: a velocity contains NaN or infinity.
    """
    device = find_device(pipeline)
    latents = torch.from_numpy(video)[None].to(device)
    embeds = [text.to(device, pipeline.transformer.dtype) for text in (prompt_embeds, generic_embeds)]
    with closing(PassCache()) as pass_cache:
        for level_index, sigma in enumerate(sigmas):
            gaps = []
            for draw in range(draw_count):
                noise = draw_noise(video.shape, seed, level_index, draw).to(device)
                velocities = _predict_velocities(
                    pipeline, (1 - sigma) * latents + sigma * noise, sigma, embeds, pass_cache
                )
                for velocity in velocities:
                    check_finite(velocity, "a velocity holds", f"at sigma {sigma:.4f}")
                conditional, generic = velocities
                gaps.append(compare_velocities(conditional, generic, noise - latents))
            yield LevelSums(*(sum(values) / draw_count for values in zip(*map(astuple, gaps), strict=True)))


def compare_velocities(conditional: Tensor, generic: Tensor, target: Tensor) -> LevelSums:
    """Return the values of one draw, summed in float64.

    The gain is <v_0 - v_c, v_0 + v_c - 2 v*>, in which no large squares cancel. Independent rounding of the two passes
    adds its square to the gap, but only its mean, 0, to the gain.
    """
    conditional, generic, target = conditional.double(), generic.double(), target.double()
    difference = generic - conditional
    sums = torch.stack(
        [
            difference.square().sum(),
            (difference * (generic + conditional - 2 * target)).sum(),
            (conditional - target).square().sum(),
        ]
    )
    return LevelSums(*sums.tolist())


@torch.no_grad()
def _predict_velocities(
    pipeline: WanPipeline, latents: Tensor, sigma: float, embeds: Sequence[Tensor], pass_cache: PassCache
) -> list[Tensor]:
    """Return the velocities of the transformer for a noise level with each text, at the same latents."""
    timestep = torch.tensor(
        sigma * pipeline.scheduler.config.num_train_timesteps, dtype=torch.float32, device=latents.device
    )
    boundary_ratio = pipeline.config.boundary_ratio
    is_second = boundary_ratio is not None and sigma < boundary_ratio
    transformer: Any = pipeline.transformer_2 if is_second else pipeline.transformer
    ensure_on_device(pipeline, transformer)
    model_input = latents.to(pipeline.transformer.dtype)
    timesteps = expand_timestep(pipeline, transformer, latents, timestep)
    pass_cache.start_step(has_two_passes=True)

    def predict(context: str, text: Tensor) -> Tensor:
        with transformer.cache_context(context), pass_cache.run_pass(transformer, context, text):
            velocity: Tensor = transformer(
                hidden_states=model_input, timestep=timesteps, encoder_hidden_states=text, return_dict=False
            )[0]
            return velocity

    return [predict(context, text) for context, text in zip(("cond", "uncond"), embeds, strict=True)]
