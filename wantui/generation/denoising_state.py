"""Inputs of the denoising loop, its steps, and its state between two steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wantui.generation.attention_hooks import DenoisingHook
from wantui.generation.guidance import GuidedVelocity
from wantui.generation.pass_cache import PassCache
from wantui.generation.prompt_sequence import PromptSequence


@dataclass(frozen=True)
class DenoisingStep:
    """One model evaluation and the sampler step after it.

    Latents are [1, channels, frames, height, width], float32; bfloat16 with a bfloat16 transformer and euler, heun or
    lcm.
    """

    evaluation_index: int
    """Index from 0."""
    evaluation_count: int
    """Total number of evaluations; Heun evaluates the model 2 N - 1 times for N steps."""
    sigma: float
    """Noise level of the model's input; 1 is pure noise."""
    sigma_next: float
    """Noise level of `latents`."""
    timestep: float
    latents_before: Tensor
    velocity: Tensor
    """Model output after guidance: an estimate of noise minus data."""
    latents: Tensor
    seconds: float
    values_by_capture: dict[str, Any] = field(default_factory=dict)
    """Values that hooks recorded in this step, by capture name; `generate_frames` removes them once recorded."""
    conditional_velocity: Tensor | None = None
    """Model output with the prompt, before guidance."""
    unconditional_velocity: Tensor | None = None
    """Model output without the prompt, before guidance; None if the step had no such pass."""
    gpu_count: int = 1
    """Number of devices that share the passes of guided steps; 1 if no step has two passes."""

    @property
    def predicted_clean(self) -> Tensor:
        """Return the clean latents predicted by the model from its input: x - sigma v."""
        return self.latents_before - self.sigma * self.velocity


@dataclass(frozen=True)
class DenoisingInputs:
    """Inputs of the denoising loop, prepared before the first step."""

    noise: Tensor
    """Initial latents, [1, channels, frames, height, width], float32."""
    sigmas: tuple[float, ...]
    """Noise levels of the latents, from the initial noise to the final latents: N + 1 for N evaluations."""
    timesteps: tuple[float, ...]
    scheduler: Any
    prompts: PromptSequence
    negative_prompt_embeds: Tensor | None
    hooks_by_capture: Mapping[str, DenoisingHook]
    """Hooks that observe the blocks' attention, by capture name."""
    guidance: GuidedVelocity
    pass_cache: PassCache = field(default_factory=PassCache)


@dataclass(frozen=True)
class Checkpoint:
    """State of the denoising loop between two steps."""

    steps_done: int
    latents: Tensor
    """[1, channels, frames, height, width], in the sampler's output dtype."""
    scheduler_state: dict[str, Any]
    """Attributes of the sampler that differ from a fresh sampler."""
    checksums_by_capture: dict[str, tuple[int, ...]]
    """CRC-32 of each stored part, by capture name."""
    guidance_state: dict[str, Tensor] = field(default_factory=dict)
    """State of the guidance rule and of reused differences, by name."""
    seconds: float = 0.0
    """Seconds that all processes have spent on the denoising so far."""

    def restore_state(self, inputs: DenoisingInputs) -> None:
        """Restore the stored state of sampler and guidance in `inputs`, which must be fresh."""
        for name, value in self.scheduler_state.items():
            setattr(inputs.scheduler, name, value)
        inputs.guidance.state.update(self.guidance_state)
