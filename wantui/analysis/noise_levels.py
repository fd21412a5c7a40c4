"""Noise levels of the states stored by the older system, whose metadata contain the level before each stored step.

A state is stored after its step, so its level is that before the next step, and 0 after the last step. If the next
step is not stored, because of a storage interval or a missing file, its level comes from a schedule fitted to the
stored levels: sigma = q t / (1 + r t) with t = 1 - k / N for step k of N. This form covers every static shift of
diffusers' flow samplers that ends at 0 (Esser et al. 2024, arXiv 2403.03206, eq. 23).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wantui.analysis.trajectory import Floats, NoGeometryError

TRAIN_STEPS = 1000
"""Number of training timesteps; timestep / 1000 is the noise level."""
SIGMA_TOLERANCE, TIMESTEP_TOLERANCE = 2e-4, 2e-3
"""Maximum residuals of a fitted schedule: stored levels are rounded, and timesteps truncated to integers."""


@dataclass(frozen=True)
class NoiseLevels:
    """Noise levels of the stored states, with warnings about assumptions."""

    sigmas: Floats
    """[n] noise level after each stored step."""
    warnings: tuple[str, ...] = ()


def find_levels_after(steps: Sequence[int], metadata: Mapping[int, Mapping[str, Any]]) -> NoiseLevels:
    """Return the noise level after each stored step.

    Args:
        steps: numbers of the stored steps, from 0, in order.
        metadata: stored metadata by step number.

    Raises:
        NoGeometryError: a level is not stored and cannot be derived from the others; names the step.
    """
    before = {step: level for step, entry in metadata.items() if (level := _read_level(entry, step)) is not None}
    stated = {
        step: _read_number(entry, "sigma_after", step) for step, entry in metadata.items() if "sigma_after" in entry
    }
    count = _read_step_count(metadata)
    last = steps[-1]
    if count is not None and last >= count:
        raise NoGeometryError(f"step {last} is stored, but the metadata of the video declare {count} steps")
    if not before and not stated:
        return NoiseLevels(
            np.array([1 - (step + 1) / (count or last + 1) for step in steps]),
            ("no noise levels are stored: equal steps are assumed, so curves are over steps, not noise levels",),
        )
    warnings: tuple[str, ...] = ()
    if count is None and last + 1 not in before and last not in stated:
        if list(steps) != list(range(last + 1)):
            raise NoGeometryError(f"neither the noise level after step {last} nor the number of steps is stored")
        count = last + 1
        warnings = (f"the number of steps is not stored: step {last} is assumed to be the last",)
    known = {step - 1: level for step, level in before.items()} | stated
    if count is not None:
        known.setdefault(count - 1, 0.0)
    missing = [step for step in steps if step not in known]
    if missing:
        has_sigmas = all(entry.get("sigma") is not None for entry in metadata.values())
        schedule = (
            None
            if count is None
            else _fit_schedule(before, count, SIGMA_TOLERANCE if has_sigmas else TIMESTEP_TOLERANCE)
        )
        if schedule is None or count is None:
            raise NoGeometryError(
                f"the noise level after step {missing[0]} is not stored, and cannot be derived from the stored levels"
            )
        known |= {step: _compute_schedule_level(schedule, 1 - (step + 1) / count) for step in missing}
    return NoiseLevels(np.array([known[step] for step in steps], dtype=np.float64), warnings)


def _fit_schedule(before: Mapping[int, float], count: int, tolerance: float) -> tuple[float, float] | None:
    """Return q and r of the schedule through the levels before steps, or None if none fits."""
    if len(before) < 3:  # two parameters, and one level to check them
        return None
    t = 1 - np.array(list(before), dtype=np.float64) / count
    sigma = np.array(list(before.values()))
    (q, r), *_ = np.linalg.lstsq(np.stack([t, -t * sigma], axis=1), sigma, rcond=None)
    fitted = q * t / (1 + r * t)
    if q <= 0 or 1 + r <= 0 or not np.abs(fitted - sigma).max() <= tolerance:
        return None
    return float(q), float(r)


def _compute_schedule_level(schedule: tuple[float, float], t: float) -> float:
    q, r = schedule
    return q * t / (1 + r * t)


def _read_level(entry: Mapping[str, Any], step: int) -> float | None:
    if entry.get("sigma") is not None:
        return _read_number(entry, "sigma", step)
    return _read_number(entry, "timestep", step) / TRAIN_STEPS if entry.get("timestep") is not None else None


def _read_number(entry: Mapping[str, Any], name: str, step: int) -> float:
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise NoGeometryError(f"{name} of step {step} is {value!r}, but must be a non-negative number")
    return float(value)


def _read_step_count(metadata: Mapping[int, Mapping[str, Any]]) -> int | None:
    counts = {entry["total_steps"] for entry in metadata.values() if type(entry.get("total_steps")) is int}
    if len(counts) > 1:
        raise NoGeometryError(f"its metadata disagree on the number of steps: {', '.join(map(str, sorted(counts)))}")
    return next(iter(counts), None)
