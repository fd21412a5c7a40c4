"""Names, noise levels and model evaluations of the samplers.

Imports no torch, and numpy only inside functions: the config module imports the names, and must load quickly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SamplerName = Literal["unipc", "unipc-3", "dpm++2m", "dpm++3m", "euler", "heun", "lcm", "dpm++2m-sde"]
REFUSED_SAMPLERS = {
    "karras": "its sigmas ignore flow_shift, so the result would not match the config",
    "exponential": "its last sigmas give NaN on flow models",
    "deis": "with flow matching, its last two sigmas are equal, so noise remains in the video",
    "sa-solver": "with flow matching, its last two sigmas are equal, so noise remains in the video",
    "sde-dpmsolver++": "its name is dpm++2m-sde",
}
"""Reason why a sampler of diffusers is not supported, by the name of the sampler."""

TRAINED_NOISE_LEVEL_COUNT = 1000
"""Number of noise levels in the training of Wan models."""
MIN_TRAINED_TIME = 1 / TRAINED_NOISE_LEVEL_COUNT
"""Time of the lowest noise level in training."""


class UnknownSamplerError(ValueError):
    """Raised for a sampler name that this version does not support."""


@dataclass(frozen=True)
class SamplerSchedule:
    """The schedule of one sampler, equal to its diffusers scheduler."""

    compute_times: "Callable[[int, float], NDArray[np.float64]]"
    """Function of the number of steps and the flow shift that returns the step times before the shift, from
    noise to data."""
    evaluates_model_twice: bool = False
    """True if each step but the last evaluates the model also at its end point."""
    adds_noise: bool = False
    """True if each step adds new noise, so the states are not on a trajectory of the model's flow."""
    rounds_states: bool = False
    """True if the states have the dtype of the transformer; otherwise, they are float32."""


def _compute_times_starting_at_one(step_count: int, flow_shift: float) -> "NDArray[np.float64]":
    import numpy as np

    return np.linspace(1.0, MIN_TRAINED_TIME, step_count + 1)[:-1]


def _compute_times_starting_below_one(step_count: int, flow_shift: float) -> "NDArray[np.float64]":
    import numpy as np

    return np.linspace(1.0 - MIN_TRAINED_TIME, 0.0, step_count + 1)[:-1]


def _compute_times_to_shifted_last(step_count: int, flow_shift: float) -> "NDArray[np.float64]":
    """Return the times of the flow-matching schedulers, which apply the flow shift to the last time twice."""
    import numpy as np

    return np.linspace(1.0, apply_flow_shift(MIN_TRAINED_TIME, flow_shift), step_count)


def _compute_times_to_last_step(step_count: int, flow_shift: float) -> "NDArray[np.float64]":
    """Return 1, 1 - 1 / N, ..., 1 / N: 1, 0.75, 0.5, 0.25 for the four steps of step-distilled Wan models."""
    import numpy as np

    return np.linspace(1.0, 0.0, step_count + 1)[:-1]


SCHEDULES: dict[SamplerName, SamplerSchedule] = {
    "unipc": SamplerSchedule(_compute_times_starting_at_one),
    "unipc-3": SamplerSchedule(_compute_times_starting_at_one),
    "dpm++2m": SamplerSchedule(_compute_times_starting_below_one),
    "dpm++3m": SamplerSchedule(_compute_times_starting_below_one),
    "euler": SamplerSchedule(_compute_times_to_shifted_last, rounds_states=True),
    "heun": SamplerSchedule(_compute_times_to_shifted_last, evaluates_model_twice=True, rounds_states=True),
    "lcm": SamplerSchedule(_compute_times_to_last_step, adds_noise=True, rounds_states=True),
    "dpm++2m-sde": SamplerSchedule(_compute_times_starting_below_one, adds_noise=True),
}


def find_sampler_schedule(sampler: str) -> SamplerSchedule:
    """Return the schedule of a sampler.

    Raises:
        UnknownSamplerError: the message lists the known samplers.
    """
    for name, schedule in SCHEDULES.items():
        if name == sampler:
            return schedule
    raise UnknownSamplerError(f"unknown sampler {sampler!r}; known samplers: {', '.join(SCHEDULES)}")


def count_model_evaluations(sampler: str, step_count: int) -> int:
    """Return the number of model evaluations: one per step; with heun, two per step except the last,
    which needs one."""
    return 2 * step_count - 1 if find_sampler_schedule(sampler).evaluates_model_twice else step_count


def compute_noise_levels(sampler: str, step_count: int, flow_shift: float) -> list[float]:
    """Return the noise level of each model evaluation; times are equally spaced before the flow shift."""
    schedule = find_sampler_schedule(sampler)
    noise_levels = [
        apply_flow_shift(float(time), flow_shift) for time in schedule.compute_times(step_count, flow_shift)
    ]
    return [level for level in noise_levels for _ in range(2)][1:] if schedule.evaluates_model_twice else noise_levels


def apply_flow_shift(time: float, flow_shift: float) -> float:
    """Return the noise level at a time after the flow shift; both are from 0 to 1."""
    return flow_shift * time / (1 + (flow_shift - 1) * time)
