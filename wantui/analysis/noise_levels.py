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

from wantui.analysis.arrays import FloatArray
from wantui.analysis.trajectory import NoGeometryError

TRAINING_TIMESTEPS = 1000
"""Number of training timesteps; timestep / 1000 is the noise level."""
SIGMA_TOLERANCE, TIMESTEP_TOLERANCE = 2e-4, 2e-3
"""Maximum residuals of a fitted schedule: stored levels are rounded, and timesteps truncated to integers."""


@dataclass(frozen=True)
class NoiseLevels:
    """Noise levels of the stored states, with warnings about assumptions."""

    sigmas: FloatArray
    """[n] noise level after each stored step."""
    warnings: tuple[str, ...] = ()


def find_noise_levels_after_steps(
    steps: Sequence[int], metadata_by_step: Mapping[int, Mapping[str, Any]]
) -> NoiseLevels:
    """Return the noise level after each stored step.

    Args:
        steps: numbers of the stored steps, from 0, in order.
        metadata_by_step: stored metadata by step number.

    Raises:
        NoGeometryError: a level is not stored and cannot be derived from the others; names the step.
    """
    levels_before = {
        step: level
        for step, entry in metadata_by_step.items()
        if (level := _read_level_before(entry, step)) is not None
    }
    levels_after = {
        step: _read_metadata_number(entry, "sigma_after", step)
        for step, entry in metadata_by_step.items()
        if "sigma_after" in entry
    }
    step_count = _read_step_count(metadata_by_step)
    last_step = steps[-1]
    if step_count is not None and last_step >= step_count:
        raise NoGeometryError(f"step {last_step} is stored, but the metadata of the video declare {step_count} steps")
    if not levels_before and not levels_after:
        return NoiseLevels(
            np.array([1 - (step + 1) / (step_count or last_step + 1) for step in steps]),
            ("no noise levels are stored: equal steps are assumed, so curves are over steps, not noise levels",),
        )
    warnings: tuple[str, ...] = ()
    if step_count is None and last_step + 1 not in levels_before and last_step not in levels_after:
        if list(steps) != list(range(last_step + 1)):
            raise NoGeometryError(f"neither the noise level after step {last_step} nor the number of steps is stored")
        step_count = last_step + 1
        warnings = (f"the number of steps is not stored: step {last_step} is assumed to be the last",)
    known_levels = {step - 1: level for step, level in levels_before.items()} | levels_after
    if step_count is not None:
        known_levels.setdefault(step_count - 1, 0.0)
    missing_steps = [step for step in steps if step not in known_levels]
    if missing_steps:
        has_sigmas = all(entry.get("sigma") is not None for entry in metadata_by_step.values())
        schedule_parameters = (
            None
            if step_count is None
            else _fit_schedule(levels_before, step_count, SIGMA_TOLERANCE if has_sigmas else TIMESTEP_TOLERANCE)
        )
        if schedule_parameters is None or step_count is None:
            raise NoGeometryError(
                f"the noise level after step {missing_steps[0]} is not stored, and cannot be derived from "
                "the stored levels"
            )
        known_levels |= {
            step: _compute_schedule_level(schedule_parameters, 1 - (step + 1) / step_count) for step in missing_steps
        }
    return NoiseLevels(np.array([known_levels[step] for step in steps], dtype=np.float64), warnings)


def _fit_schedule(levels_before: Mapping[int, float], step_count: int, tolerance: float) -> tuple[float, float] | None:
    """Return q and r of the schedule that fits the noise levels before the steps, or None if no schedule fits them."""
    if len(levels_before) < 3:  # two parameters, and one level to check them
        return None
    t = 1 - np.array(list(levels_before), dtype=np.float64) / step_count
    sigma = np.array(list(levels_before.values()))
    (q, r), *_ = np.linalg.lstsq(np.stack([t, -t * sigma], axis=1), sigma, rcond=None)
    fitted = q * t / (1 + r * t)
    if q <= 0 or 1 + r <= 0 or not np.abs(fitted - sigma).max() <= tolerance:
        return None
    return float(q), float(r)


def _compute_schedule_level(schedule_parameters: tuple[float, float], t: float) -> float:
    q, r = schedule_parameters
    return q * t / (1 + r * t)


def _read_level_before(entry: Mapping[str, Any], step: int) -> float | None:
    if entry.get("sigma") is not None:
        return _read_metadata_number(entry, "sigma", step)
    return (
        _read_metadata_number(entry, "timestep", step) / TRAINING_TIMESTEPS
        if entry.get("timestep") is not None
        else None
    )


def _read_metadata_number(entry: Mapping[str, Any], name: str, step: int) -> float:
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise NoGeometryError(f"{name} of step {step} is {value!r}, but must be a non-negative number")
    return float(value)


def _read_step_count(metadata_by_step: Mapping[int, Mapping[str, Any]]) -> int | None:
    step_counts = {entry["total_steps"] for entry in metadata_by_step.values() if type(entry.get("total_steps")) is int}
    if len(step_counts) > 1:
        raise NoGeometryError(
            f"its metadata disagree on the number of steps: {', '.join(map(str, sorted(step_counts)))}"
        )
    return next(iter(step_counts), None)
