"""Distillation of nano's guided denoising into four steps without guidance (multistep consistency distillation).

The student predicts, at each of the four noise levels of the sampler `lcm`, the clean latents that the guided flow of
the teacher reaches from there. Guidance is thereby part of the weights. The first round starts from noisy training
clips, and later rounds from the states that the student itself reaches.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from wantui.models.nano.latent_clips import TRAINING_TEXT_POSITION_COUNT, LatentClips
from wantui.models.nano.transformer import embed_text, predict_velocity, run_block_with_logit_bias
from wantui.samplers import apply_flow_shift, compute_noise_levels

FLOW_SHIFT = 3.0
"""Flow shift of nano."""
TEACHER_GUIDANCE_SCALE, TEACHER_STEP_COUNT = 4.0, 10
"""Guidance scale of the teacher, and its steps from any noise level to 0."""
STUDENT_STEP_COUNT = 4
ADAPTER_PEAK_LEARNING_RATE, ADAPTER_WARM_UP_STEP_COUNT = 2e-3, 100


@dataclass(frozen=True)
class Denoiser:
    """A transformer with the text encoder of nano."""

    transformer: WanTransformer3DModel
    text_encoder: UMT5EncoderModel
    block_forward: Callable[..., tuple[Tensor, Tensor]] = run_block_with_logit_bias

    def predict(self, latents: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """Return the velocity at latents [n, ...] for captions, given as token ids [n, positions]."""
        with torch.no_grad():
            text, logit_bias = embed_text(self.text_encoder, ids)
        word_masks = torch.zeros(len(ids), 1, ids.shape[1], device=ids.device)
        with torch.autocast(latents.device.type, torch.bfloat16):
            velocity, _ = predict_velocity(
                self.transformer, latents, 1000 * sigma, text, logit_bias, word_masks, self.block_forward
            )
        return velocity.float()

    def predict_guided(self, latents: Tensor, sigma: float, ids: Tensor, guidance_scale: float) -> Tensor:
        """Return the velocity with guidance, from both passes in one batch."""
        sigmas = torch.full((2 * len(ids),), sigma, device=latents.device)
        both_ids = torch.cat([ids, make_empty_captions(len(ids), ids.device)])
        conditional, unconditional = self.predict(latents.repeat(2, 1, 1, 1, 1), sigmas, both_ids).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)


def make_empty_captions(caption_count: int, device: torch.device) -> Tensor:
    """Return the token ids of empty captions: only the end token."""
    ids = torch.zeros(caption_count, TRAINING_TEXT_POSITION_COUNT, dtype=torch.long, device=device)
    ids[:, 0] = 1
    return ids


@torch.no_grad()
def solve_guided_flow(
    denoiser: Denoiser, latents: Tensor, start_time: float, ids: Tensor, step_count: int, guidance_scale: float
) -> Tensor:
    """Integrate the guided flow to noise level 0 with DPM-Solver++ of order 2 (Lu et al. 2022).

    Args:
        start_time: time of the latents before the flow shift, from 0 to 1.
    """
    sigmas = [apply_flow_shift(start_time * (1 - i / step_count), FLOW_SHIFT) for i in range(step_count + 1)]
    previous_clean, previous_step = None, 0.0
    for sigma, next_sigma in itertools.pairwise(sigmas):
        clean = latents - sigma * denoiser.predict_guided(latents, sigma, ids, guidance_scale)
        if next_sigma == 0:
            return clean
        level, next_level = (math.log(1 - s) - math.log(s) if s < 1 else -math.inf for s in (sigma, next_sigma))
        step = next_level - level
        extrapolated = clean
        if previous_clean is not None and math.isfinite(previous_step):
            extrapolated = clean + (clean - previous_clean) * (step / previous_step / 2)
        latents = next_sigma / sigma * latents - (1 - next_sigma) * math.expm1(-step) * extrapolated
        previous_clean, previous_step = clean, step
    return latents


@torch.no_grad()
def generate_student_states(denoiser: Denoiser, noise: Tensor, ids: Tensor) -> list[Tensor]:
    """Return the states of four steps of the sampler `lcm`: the initial noise first, the clean latents last."""
    sigmas = [*compute_noise_levels("lcm", STUDENT_STEP_COUNT, FLOW_SHIFT), 0.0]
    states = [noise]
    for sigma, next_sigma in itertools.pairwise(sigmas):
        velocity = denoiser.predict(states[-1], torch.full((len(ids),), sigma, device=noise.device), ids)
        clean = states[-1] - sigma * velocity
        states.append(torch.lerp(clean, torch.randn_like(clean), next_sigma))
    return states


@dataclass(frozen=True)
class DistillationPairs:
    """States at the student's noise levels, and the clean latents that the teacher reaches from them."""

    states: Tensor  # bfloat16 [n, 16, 5, 16, 16]
    targets: Tensor  # bfloat16 [n, 16, 5, 16, 16]
    sigmas: Tensor  # [n]
    ids: Tensor  # uint8 [n, positions]


@torch.no_grad()
def compute_distillation_pairs(
    teacher: Denoiser, student: Denoiser | None, clips: LatentClips, pair_count: int, batch_size: int, seed: int
) -> DistillationPairs:
    """Compute pairs at all noise levels, from noisy training clips or, with a student, from the student's states."""
    torch.manual_seed(seed)
    device = clips.latents.device
    sigmas = compute_noise_levels("lcm", STUDENT_STEP_COUNT, FLOW_SHIFT)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for _ in range(max(1, pair_count // (batch_size * len(sigmas)))):
        indices = torch.randint(len(clips.latents), (batch_size,), device=device)
        captions = torch.randint(clips.ids.shape[1], (batch_size,), device=device)
        ids = clips.ids[indices, captions].long()
        latents = clips.latents[indices].float()
        if student is None:
            states = [torch.lerp(latents, torch.randn_like(latents), sigma) for sigma in sigmas]
        else:
            states = generate_student_states(student, torch.randn_like(latents), ids)[:-1]
        for index, (state, sigma) in enumerate(zip(states, sigmas, strict=True)):
            start_time = 1 - index / STUDENT_STEP_COUNT
            target = solve_guided_flow(teacher, state, start_time, ids, TEACHER_STEP_COUNT, TEACHER_GUIDANCE_SCALE)
            sigma_column = torch.full((batch_size,), sigma, device=device)
            parts.append((state.bfloat16(), target.bfloat16(), sigma_column, ids.to(torch.uint8)))
    return DistillationPairs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def compute_distillation_loss(student: Denoiser, pairs: DistillationPairs, indices: Tensor) -> Tensor:
    """Compute the mean of each clip's root mean square error of the predicted clean latents.

    Without the root, high noise levels would dominate.
    """
    states, targets = pairs.states[indices].float(), pairs.targets[indices].float()
    sigmas = pairs.sigmas[indices]
    velocity = student.predict(states, sigmas, pairs.ids[indices].long())
    error = states - sigmas.view(-1, 1, 1, 1, 1) * velocity - targets
    return (error.square().mean((1, 2, 3, 4)) + 1e-5).sqrt().mean()


class AdapterOptimizer:
    """AdamW with warm-up and a cosine decay to zero, over a number of steps or a time, whichever ends first."""

    def __init__(self, parameters: list[nn.Parameter], step_count: int, max_seconds: float) -> None:
        self.parameters, self.step_count, self.max_seconds = parameters, step_count, max_seconds
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.0)
        self.step_number, self.start_time = 0, time.monotonic()

    @property
    def progress(self) -> float:
        """Return the completed fraction of the training."""
        return min(
            1.0, max(self.step_number / self.step_count, (time.monotonic() - self.start_time) / self.max_seconds)
        )

    def apply_update(self, loss: Tensor) -> None:
        """Apply one update from a loss."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.param_groups[0]["lr"] = (
            ADAPTER_PEAK_LEARNING_RATE
            * min(1.0, (self.step_number + 1) / ADAPTER_WARM_UP_STEP_COUNT)
            * 0.5
            * (1 + math.cos(math.pi * self.progress))
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
