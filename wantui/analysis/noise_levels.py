"""Noise levels of the states that the older system stored: the level after each step, even if the next is not stored.

Its metadata hold the level before each stored step. The level after step k is that before step k + 1, and 0 after the
last step. With a storage interval, or a missing file, step k + 1 is not stored; its level then comes from the schedule
that the stored levels determine: sigma = q t / (1 + r t) with t = 1 - k / N, which is every static shift of
diffusers' flow samplers that ends at 0 (Esser et al. 2024, arXiv 2403.03206, eq. 23).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wantui.analysis.trajectory import Floats, NoGeometryError

TRAIN_STEPS = 1000
"""Timesteps of a model in training: timestep / 1000 is the noise level."""
SIGMA_TOLERANCE, TIMESTEP_TOLERANCE = 2e-4, 2e-3
"""Largest residual of a schedule: stored levels are rounded, and timesteps are cut to whole numbers."""


@dataclass(frozen=True)
class NoiseLevels:
    """Levels of the states after the stored steps."""

    sigmas: Floats
    """[n]."""
    warnings: tuple[str, ...] = ()


def levels_after(steps: Sequence[int], metadata: Mapping[int, Mapping[str, Any]]) -> NoiseLevels:
    """Return the noise level after each stored step.

    Args:
        steps: numbers of the stored steps, from 0, in order.
        metadata: metadata by number of step; empty where none are stored.

    Raises:
        NoGeometryError: a level is not stored and does not follow from the others; names the step.
    """
    before = {step: level for step, about in metadata.items() if (level := _level(about, step)) is not None}
    stated = {step: _number(about, "sigma_after", step) for step, about in metadata.items() if "sigma_after" in about}
    count = _step_count(metadata)
    last = steps[-1]
    if count is not None and last >= count:
        raise NoGeometryError(f"step {last} is stored of {count} steps")
    if not before and not stated:
        return NoiseLevels(
            np.array([1 - (step + 1) / (count or last + 1) for step in steps]),
            ("no noise levels are stored: equal steps are assumed, and curves over the noise level are over steps",),
        )
    warnings: tuple[str, ...] = ()
    if count is None and last + 1 not in before and last not in stated:
        if list(steps) != list(range(last + 1)):
            raise NoGeometryError(f"the noise level after step {last} is not stored, nor how many steps there were")
        count = last + 1
        warnings = (f"how many steps there were is not stored: step {last} is taken for the last",)
    known = {step - 1: level for step, level in before.items()} | stated
    if count is not None:
        known.setdefault(count - 1, 0.0)
    missing = [step for step in steps if step not in known]
    if missing:
        has_sigmas = all(about.get("sigma") is not None for about in metadata.values())
        schedule = None if count is None else _fit(before, count, SIGMA_TOLERANCE if has_sigmas else TIMESTEP_TOLERANCE)
        if schedule is None or count is None:
            raise NoGeometryError(
                f"the noise level after step {missing[0]} is not stored, and does not follow from those that are"
            )
        known |= {step: _shifted(schedule, 1 - (step + 1) / count) for step in missing}
    return NoiseLevels(np.array([known[step] for step in steps], dtype=np.float64), warnings)


def _fit(before: Mapping[int, float], count: int, tolerance: float) -> tuple[float, float] | None:
    """Return q and r of the schedule through the levels before steps; None where there is no such schedule."""
    if len(before) < 3:  # two parameters, and one level to check them by
        return None
    t = 1 - np.array(list(before), dtype=np.float64) / count
    sigma = np.array(list(before.values()))
    (q, r), *_ = np.linalg.lstsq(np.stack([t, -t * sigma], axis=1), sigma, rcond=None)
    fitted = q * t / (1 + r * t)
    if q <= 0 or 1 + r <= 0 or not np.abs(fitted - sigma).max() <= tolerance:
        return None
    return float(q), float(r)


def _shifted(schedule: tuple[float, float], t: float) -> float:
    q, r = schedule
    return q * t / (1 + r * t)


def _level(about: Mapping[str, Any], step: int) -> float | None:
    if about.get("sigma") is not None:
        return _number(about, "sigma", step)
    return _number(about, "timestep", step) / TRAIN_STEPS if about.get("timestep") is not None else None


def _number(about: Mapping[str, Any], name: str, step: int) -> float:
    value = about[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise NoGeometryError(f"{name} of step {step} is {value!r}, and must be a number")
    return float(value)


def _step_count(metadata: Mapping[int, Mapping[str, Any]]) -> int | None:
    counts = {about["total_steps"] for about in metadata.values() if type(about.get("total_steps")) is int}
    if len(counts) > 1:
        raise NoGeometryError(f"its metadata tell of {' and of '.join(map(str, sorted(counts)))} steps")
    return next(iter(counts), None)
