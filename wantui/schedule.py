"""Names of the samplers, the noise levels of each, and how often it evaluates the model.

No torch here, and numpy only in what computes: the config reads the names, and must load quickly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SamplerName = Literal["unipc", "unipc-3", "dpm++2m", "dpm++3m", "euler", "heun"]
REFUSED_SAMPLERS = {
    "karras": "its sigmas ignore flow_shift, so that the result would not be what the config says",
    "exponential": "its last sigmas give NaN on flow models",
    "deis": "its last two sigmas are equal with flow arguments, and noise remains in the video",
    "sa-solver": "its last two sigmas are equal with flow arguments, and noise remains in the video",
    "lcm": "it is stochastic and the pipeline gives it no generator: its videos cannot be made again",
    "sde-dpmsolver++": "it is stochastic and the pipeline gives it no generator: its videos cannot be made again",
}
"""Samplers of diffusers that are not offered, and why."""

TRAINED_STEPS = 1000
LAST = 1 / TRAINED_STEPS
"""Time of the lowest noise level that a model was trained on."""


class UnknownSamplerError(ValueError):
    """A sampler that this version does not know."""


@dataclass(frozen=True)
class Schedule:
    """The schedule of one sampler, as its scheduler in diffusers sets it."""

    times: "Callable[[int, float], NDArray[np.float64]]"
    """Times of the steps, from noise to data and before the flow shift, by number of steps and flow shift."""
    evaluates_twice: bool = False
    """True if each step but the last evaluates the model at its end point too."""


def _from_one(steps: int, flow_shift: float) -> "NDArray[np.float64]":
    import numpy as np

    return np.linspace(1.0, LAST, steps + 1)[:-1]


def _from_below_one(steps: int, flow_shift: float) -> "NDArray[np.float64]":
    import numpy as np

    return np.linspace(1.0 - LAST, 0.0, steps + 1)[:-1]


def _to_shifted_last(steps: int, flow_shift: float) -> "NDArray[np.float64]":
    """Return the times of the flow-matching schedulers, which shift the last one twice."""
    import numpy as np

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
    """Return the noise levels at which the model is evaluated, equally spaced before the flow shift."""
    schedule = schedule_of(sampler)
    levels = [shifted(float(time), flow_shift) for time in schedule.times(steps, flow_shift)]
    return [level for level in levels for _ in range(2)][1:] if schedule.evaluates_twice else levels


def shifted(time: float, flow_shift: float) -> float:
    """Return the noise level of a time, both from 0 to 1."""
    return flow_shift * time / (1 + (flow_shift - 1) * time)
