"""The supported samplers, with all arguments of their diffusers schedulers.

Samplers that add noise in each step draw it on the CPU, so that it is the same on every device. Their generator is
seeded from the seed of the video, and its state is an attribute of the scheduler, which a checkpoint stores.

Always build schedulers here: `from_config` with another scheduler's config silently changes the prediction type or
drops the shift. `wantui.samplers.REFUSED_SAMPLERS` has the reasons against the other samplers.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from wantui.samplers import SCHEDULES, SamplerName

_FLOW_OPTIONS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_UNIPC_STATE_ATTRIBUTES = frozenset(
    {"_step_index", "model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order"}
)
_DPM_STATE_ATTRIBUTES = frozenset({"_step_index", "model_outputs", "lower_order_nums"})


class _SeededNoise:
    """Mixin for schedulers that add noise in each step."""

    noise_state: Tensor
    """State of the CPU generator before the next step."""

    def seed_noise(self, seed: int) -> None:
        self.noise_state = torch.Generator("cpu").manual_seed(derive_seed(f"wantui sampler noise {seed}")).get_state()

    def step(self, *arguments: Any, **options: Any) -> Any:
        """Run the step of the scheduler with the noise of its generator."""
        generator = torch.Generator("cpu")
        generator.set_state(self.noise_state)
        result = super().step(*arguments, generator=generator, **options)  # type: ignore[misc]
        self.noise_state = generator.get_state()
        return result


class SeededLCMScheduler(_SeededNoise, FlowMatchLCMScheduler):
    """LCM sampler at the noise levels of step-distilled models.

    Without given levels, `FlowMatchLCMScheduler` applies the flow shift to the lowest level twice: four steps with
    shift 5 would be at the timesteps 1000, 910, 717 and 24, instead of the 1000, 937.5, 833 and 625 of the training.
    """

    def set_timesteps(self, step_count: int, device: torch.device | str | None = None) -> None:
        super().set_timesteps(sigmas=SCHEDULES["lcm"].compute_times(step_count, 1.0), device=device)

    def step(self, *arguments: Any, **options: Any) -> Any:
        result = super().step(*arguments, **options)
        self._init_size = None  # of use only for generation at several scales; no checkpoint can hold it
        return result


class SeededDPMSolverScheduler(_SeededNoise, DPMSolverMultistepScheduler):
    """DPM-Solver++ for the stochastic differential equation (SDE-DPM-Solver++, Lu et al. 2022)."""


def derive_seed(text: str) -> int:
    """Return the seed of noise from its purpose and the video's seed; SHA-256 makes it independent of other noise."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Sampler:
    """A sampler, implemented by a diffusers scheduler."""

    build_scheduler: Callable[[float], Any]
    """Function that returns a new scheduler for a flow shift."""
    state_attributes: frozenset[str]
    """Attributes that the scheduler's steps change, which a checkpoint stores."""


SAMPLERS_BY_NAME: dict[SamplerName, Sampler] = {
    "unipc": Sampler(lambda shift: UniPCMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift), _UNIPC_STATE_ATTRIBUTES),
    "unipc-3": Sampler(
        lambda shift: UniPCMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift, solver_order=3),
        _UNIPC_STATE_ATTRIBUTES,
    ),
    "dpm++2m": Sampler(
        lambda shift: DPMSolverMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift), _DPM_STATE_ATTRIBUTES
    ),
    "dpm++3m": Sampler(
        lambda shift: DPMSolverMultistepScheduler(**_FLOW_OPTIONS, flow_shift=shift, solver_order=3),
        _DPM_STATE_ATTRIBUTES,
    ),
    "euler": Sampler(lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift), frozenset({"_step_index"})),
    "heun": Sampler(
        lambda shift: FlowMatchHeunDiscreteScheduler(shift=shift),
        frozenset({"_step_index", "prev_derivative", "dt", "sample"}),
    ),
    "lcm": Sampler(lambda shift: SeededLCMScheduler(shift=shift), frozenset({"_step_index", "noise_state"})),
    "dpm++2m-sde": Sampler(
        lambda shift: SeededDPMSolverScheduler(**_FLOW_OPTIONS, flow_shift=shift, algorithm_type="sde-dpmsolver++"),
        _DPM_STATE_ATTRIBUTES | {"noise_state"},
    ),
}


def build_scheduler(sampler: SamplerName, flow_shift: float, seed: int) -> Any:
    """Return a new diffusers scheduler for a sampler; the seed of the video determines the noise of the scheduler."""
    scheduler = SAMPLERS_BY_NAME[sampler].build_scheduler(flow_shift)
    if isinstance(scheduler, _SeededNoise):
        scheduler.seed_noise(seed)
    return scheduler
