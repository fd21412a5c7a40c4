"""Noise levels and number of model evaluations of each sampler."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.config.settings import SamplerName

TRAINED_STEPS = 1000
LAST = 1 / TRAINED_STEPS
"""Time of the lowest noise level that a model was trained on."""


class UnknownSamplerError(ValueError):
    """A sampler that this version does not know."""


@dataclass(frozen=True)
class Schedule:
    """The schedule of one sampler, as its scheduler in diffusers sets it."""

    times: Callable[[int, float], NDArray[np.float64]]
    """Times of the steps, from noise to data and before the flow shift, by number of steps and flow shift."""
    evaluates_twice: bool = False
    """Whether each step but the last evaluates the model where it arrives too."""


def _from_one(steps: int, flow_shift: float) -> NDArray[np.float64]:
    return np.linspace(1.0, LAST, steps + 1)[:-1]


def _from_below_one(steps: int, flow_shift: float) -> NDArray[np.float64]:
    return np.linspace(1.0 - LAST, 0.0, steps + 1)[:-1]


def _to_shifted_last(steps: int, flow_shift: float) -> NDArray[np.float64]:
    """Return the times of the flow-matching schedulers, which shift the last one twice."""
    return np.linspace(1.0, shifted(LAST, flow_shift), steps)


SCHEDULES: dict[SamplerName, Schedule] = {
    "unipc": Schedule(_from_one),
    "unipc-3": Schedule(_from_one),
    "dpm++2m": Schedule(_from_below_one),
    "dpm++3m": Schedule(_from_below_one),
    "euler": Schedule(_to_shifted_last),
    "heun": Schedule(_to_shifted_last, evaluates_twice=True),
}


def schedule_of(sampler: str) -> Schedule:
    """Return the schedule of a sampler.

    Raises:
        UnknownSamplerError: names those that are known.
    """
    for name, schedule in SCHEDULES.items():
        if name == sampler:
            return schedule
    raise UnknownSamplerError(f"unknown sampler {sampler!r}; known are {', '.join(SCHEDULES)}")


def model_evaluations(sampler: str, steps: int) -> int:
    """Return how often the model is evaluated: heun does so twice for all steps but the last."""
    return 2 * steps - 1 if schedule_of(sampler).evaluates_twice else steps


def noise_levels(sampler: str, steps: int, flow_shift: float) -> list[float]:
    """Return the noise levels at which the model is evaluated, equally far apart before the flow shift."""
    schedule = schedule_of(sampler)
    levels = [shifted(float(time), flow_shift) for time in schedule.times(steps, flow_shift)]
    return [level for level in levels for _ in range(2)][1:] if schedule.evaluates_twice else levels


def shifted(time: float, flow_shift: float) -> float:
    """Return the noise level of a time, both from 0 to 1."""
    return flow_shift * time / (1 + (flow_shift - 1) * time)
