"""Distillation of nano's guided denoising into four steps without guidance (multistep consistency distillation).

The student predicts, at each of the four noise levels of the sampler `lcm`, the clean latents that the guided flow of
the teacher reaches from there. Guidance is thereby part of the weights. Each round starts from the states that the
student itself reaches.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from wantui.models.nano.attributes import SHAPES
from wantui.models.nano.graphed_function import GraphedFunction
from wantui.models.nano.latent_clips import TRAINING_TEXT_POSITION_COUNT
from wantui.models.nano.transformer import embed_text, predict_velocity, run_block_with_logit_bias
from wantui.models.nano.world import sample_scenes, write_captions
from wantui.samplers import apply_flow_shift, compute_noise_levels

FLOW_SHIFT = 3.0
"""nano's flow shift."""
TEACHER_GUIDANCE_SCALE, TEACHER_STEP_COUNT = 4.0, 10
"""Guidance scale of the teacher, and its steps from any noise level to 0."""
STUDENT_STEP_COUNT = 4
LATENT_SHAPE = (16, 5, 16, 16)
TWO_OBJECT_FRACTION = 0.6
"""Fraction of the captions with two objects, which four steps draw worse than one object."""
STEPS_BETWEEN_SYNCHRONISATIONS = 20
"""Updates that may wait on the GPU, so that a training ends close to its time limit."""
ADAPTER_PEAK_LEARNING_RATE, ADAPTER_WARM_UP_STEP_COUNT = 2e-3, 100


@dataclass(frozen=True)
class Denoiser:
    """A transformer with nano's text encoder."""

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
    """Return the states of four `lcm` steps: the initial noise first, the clean latents last."""
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


def sample_caption_ids(
    caption_count: int, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, device: str
) -> Tensor:
    """Return the token ids [n, positions] of training scene captions, with all shapes equally often."""
    scenes = sample_scenes(
        caption_count, rng, two_object_fraction=TWO_OBJECT_FRACTION, shape_frequencies=[1 / len(SHAPES)] * len(SHAPES)
    )
    encoded_captions = tokenizer(
        [caption.text for caption in write_captions(scenes, rng)],
        padding="max_length",
        max_length=TRAINING_TEXT_POSITION_COUNT,
    )
    return torch.tensor(encoded_captions["input_ids"], device=device)


@torch.no_grad()
def compute_distillation_pairs(
    teacher: Denoiser, student: Denoiser, ids: Tensor, batch_size: int, seed: int
) -> DistillationPairs:
    """Compute pairs at the states that the student reaches for captions, four for each caption.

    Args:
        ids: token ids [n, positions].
    """
    torch.manual_seed(seed)
    sigmas = compute_noise_levels("lcm", STUDENT_STEP_COUNT, FLOW_SHIFT)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch_ids in ids.split(batch_size):
        states = generate_student_states(
            student, torch.randn(len(batch_ids), *LATENT_SHAPE, device=ids.device), batch_ids
        )
        for index, (state, sigma) in enumerate(zip(states[:-1], sigmas, strict=True)):
            start_time = 1 - index / STUDENT_STEP_COUNT
            target = solve_guided_flow(
                teacher, state, start_time, batch_ids, TEACHER_STEP_COUNT, TEACHER_GUIDANCE_SCALE
            )
            sigma_column = torch.full((len(batch_ids),), sigma, device=ids.device)
            parts.append((state.bfloat16(), target.bfloat16(), sigma_column, batch_ids.to(torch.uint8)))
    return DistillationPairs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def compute_distillation_loss(student: Denoiser, pairs: DistillationPairs, batch_size: int) -> Tensor:
    """Compute the mean root mean square error of the predicted clean latents of a random batch.

    Without the root, high noise levels would dominate.
    """
    indices = torch.randint(len(pairs.sigmas), (batch_size,), device=pairs.sigmas.device)
    states, targets = pairs.states[indices].float(), pairs.targets[indices].float()
    sigmas = pairs.sigmas[indices]
    velocity = student.predict(states, sigmas, pairs.ids[indices].long())
    error = states - sigmas.view(-1, 1, 1, 1, 1) * velocity - targets
    return (error.square().mean((1, 2, 3, 4)) + 1e-5).sqrt().mean()


class AdapterOptimizer:
    """AdamW with warm-up and a cosine decay to zero, over a number of steps or a time, whichever ends first.

    On a GPU, the steps replay a CUDA graph, so `compute_loss` may not read values back.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        compute_loss: Callable[[], Tensor],
        step_count: int,
        max_seconds: float,
    ) -> None:
        device = parameters[0].device
        is_cuda = device.type == "cuda"
        self.parameters, self.compute_loss = parameters, compute_loss
        self.step_count, self.max_seconds = step_count, max_seconds
        self.learning_rate, self.loss_sum = torch.zeros((), device=device), torch.zeros((), device=device)
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, capturable=is_cuda
        )
        self.run_update = GraphedFunction(self._update) if is_cuda else self._update
        self.step_number, self.start_time = 0, time.monotonic()

    @property
    def progress(self) -> float:
        """Return the completed fraction of the training."""
        return min(
            1.0, max(self.step_number / self.step_count, (time.monotonic() - self.start_time) / self.max_seconds)
        )

    def train(self) -> float:
        """Train to the end; return the mean loss, which is NaN if no time was left for a step."""
        while (progress := self.progress) < 1:
            decay_factor = 0.5 * (1 + math.cos(math.pi * progress))
            warm_up_factor = min(1.0, (self.step_number + 1) / ADAPTER_WARM_UP_STEP_COUNT)
            self.learning_rate.fill_(ADAPTER_PEAK_LEARNING_RATE * warm_up_factor * decay_factor)
            self.run_update()
            self.step_number += 1
            if self.step_number % STEPS_BETWEEN_SYNCHRONISATIONS == 0:
                self.loss_sum.item()
        return self.loss_sum.item() / self.step_number if self.step_number else math.nan

    def _update(self) -> None:
        loss = self.compute_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss_sum.add_(loss.detach())
