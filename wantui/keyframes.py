"""Keyframes: values at some moments of a denoising run, and the value that they give for every model evaluation.

A control that changes during a denoising run, such as a guidance schedule, is written as keyframes. Imports no torch.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from wantui.formatting import shorten_text

KeyframeUnit = Literal["step", "fraction", "sigma"]
"""Unit of a moment. step: index of a step, from 0. fraction: 0 is the first step and 1 the last. sigma: noise level."""
UNIT_NAMES: dict[KeyframeUnit, str] = {"step": "step", "fraction": "percentage", "sigma": "noise level"}
Interpolation = Literal["linear", "step", "cosine"]
"""Value between two keyframes. linear: on a line. step: the value of the previous keyframe. cosine: half a cosine
wave."""
MOMENT_REMEDY = "Write the index of a step from 0 (10), a percentage of the steps (50%), or a noise level (sigma 0.8)"
MAX_KEYFRAME_COUNT = 1000
MOMENT_TOLERANCE = 1e-6
"""Difference of two fractions or noise levels up to which they count as equal."""


class KeyframeTimes(BaseModel):
    """Moments of keyframes in one unit, in the order of the denoising: rising steps or fractions, falling sigmas."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    unit: KeyframeUnit
    moments: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_KEYFRAME_COUNT)]

    @model_validator(mode="after")
    def check_keyframes(self) -> Self:
        """Reject moments that are outside the range of their unit, out of order, or equal."""
        for moment in self.moments:
            if moment < 0 or (self.unit != "step" and moment > 1):
                raise PydanticCustomError(
                    "keyframes", f"a keyframe has the {self.unit} {moment:g}, which is out of range"
                )
            if self.unit == "step" and moment != int(moment):
                raise PydanticCustomError("keyframes", f"a keyframe has the step {moment:g}, which is not an integer")
        ordered = sorted(self.moments, reverse=self.unit == "sigma")
        if list(self.moments) != ordered or len(set(ordered)) != len(ordered):
            raise PydanticCustomError("keyframes", "the keyframes are not in denoising order")
        return self


class KeyframeError(ValueError):
    """Raised for keyframes that cannot be parsed, or do not fit the steps; the message gives the reason."""


def parse_keyframes(written: Mapping[Any, Any]) -> tuple[KeyframeTimes, tuple[Any, ...]]:
    """Parse a mapping from written moments to values; return the moments and the values in their order.

    A moment is the index of a step (0, "10"), a percentage of the steps ("50%"), or a noise level ("sigma 0.8"). With
    percentages, the step 0 is 0%.

    Raises:
        KeyframeError: a moment cannot be read, two keyframes have the same moment, or their units differ.
    """
    if not written:
        raise KeyframeError("the schedule has no keyframe. Add at least one")
    if len(written) > MAX_KEYFRAME_COUNT:
        raise KeyframeError(f"the schedule has {len(written)} keyframes; at most {MAX_KEYFRAME_COUNT} are allowed")
    keyframes = [(*_parse_moment(moment), moment, value) for moment, value in written.items()]
    if any(unit == "fraction" for unit, *_ in keyframes):
        keyframes = [("fraction" if number == 0 else unit, number, *rest) for unit, number, *rest in keyframes]
    unit = keyframes[0][0]
    moment_by_unit: dict[KeyframeUnit, Any] = {}
    for other_unit, number, moment, _ in keyframes:
        if other_unit not in moment_by_unit or number != 0:  # a 0 goes with several units, and would not explain
            moment_by_unit[other_unit] = moment
    if len(moment_by_unit) > 1:
        units = [f"{_quote(moment)} is a {UNIT_NAMES[other_unit]}" for other_unit, moment in moment_by_unit.items()]
        raise KeyframeError(f"{', but '.join(units)}. Use one unit")
    keyframes.sort(key=lambda keyframe: keyframe[1], reverse=unit == "sigma")
    for (_, moment, written_first, _), (_, next_moment, written_second, _) in pairwise(keyframes):
        if moment == next_moment:
            raise KeyframeError(
                f"two keyframes, {_quote(written_first)} and {_quote(written_second)}, have the same {UNIT_NAMES[unit]}"
            )
    times = KeyframeTimes(unit=unit, moments=tuple(keyframe[1] for keyframe in keyframes))
    return times, tuple(keyframe[3] for keyframe in keyframes)


def format_moment(unit: KeyframeUnit, moment: float) -> str:
    """Return a moment for a sentence: `step 10`, `50%` or `sigma 0.8`; `parse_keyframes` reads it without `step`."""
    return {"step": f"step {moment:.0f}", "fraction": f"{100 * moment:.6g}%", "sigma": f"sigma {moment:.6g}"}[unit]


def _quote(written: Any) -> str:
    return shorten_text(repr(written))


def _parse_moment(written: Any) -> tuple[KeyframeUnit, float]:
    text = "" if isinstance(written, bool) else str(written).strip().lower()
    unit: KeyframeUnit = "step"
    number_text = text
    if text.endswith("%"):
        unit, number_text = "fraction", text[:-1]
    elif text.startswith("sigma"):
        unit, number_text = "sigma", text[len("sigma") :].lstrip(" =:")
    try:
        if "_" in number_text or not number_text.isascii():  # float reads 1_0 and the digits of every script
            raise ValueError
        number = float(number_text)
    except ValueError:
        raise KeyframeError(f"cannot read the moment {_quote(written)}. {MOMENT_REMEDY}") from None
    if unit == "fraction":
        number /= 100
    maximum = math.inf if unit == "step" else 1
    if not (math.isfinite(number) and 0 <= number <= maximum) or (unit == "step" and number != int(number)):
        raise KeyframeError(f"cannot use the moment {_quote(written)}. {MOMENT_REMEDY}")
    return unit, number


def parse_moment_range(text: str) -> KeyframeTimes:
    """Parse a range of moments, such as `0..9`, `20%..60%` or `sigma 1..0.8`, or a single moment.

    The unit may be written at one of the two moments only. Both moments belong to the range.

    Raises:
        KeyframeError: a moment cannot be read, or the last one is before the first one.
    """
    first, separator, last = (part.strip().lower() for part in text.partition(".."))
    if separator:
        if last.endswith("%") and not first.endswith("%"):
            first += "%"
        if first.startswith("sigma") and not last.startswith("sigma"):
            last = f"sigma {last}"
    unit, first_moment = _parse_moment(first)
    last_unit, last_moment = _parse_moment(last) if separator else (unit, first_moment)
    if last_unit != unit:
        raise KeyframeError(f"the range {_quote(text)} has two units. Use one unit")
    if (first_moment < last_moment) if unit == "sigma" else (first_moment > last_moment):
        raise KeyframeError(f"the range {_quote(text)} ends before it begins. Noise levels fall, steps rise")
    return KeyframeTimes(unit=unit, moments=tuple(dict.fromkeys((first_moment, last_moment))))


def format_moments(times: KeyframeTimes) -> list[str]:
    """Return the moments as `parse_keyframes` reads them: 10, 50%, or sigma 0.8."""
    if times.unit == "fraction":
        return [f"{moment * 100:.10g}%" for moment in times.moments]
    return [f"{'sigma ' if times.unit == 'sigma' else ''}{moment:.10g}" for moment in times.moments]


@dataclass(frozen=True)
class EvaluationMoment:
    """Moment of one model evaluation, relative to the keyframes around it."""

    before: int
    """Index of the last keyframe at or before the evaluation; 0 before the first one."""
    after: int
    """Index of the next keyframe; equal to `before` outside the keyframes and exactly at a keyframe."""
    share: float
    """Share of the way from `before` to `after` in the keyframes' unit, from 0 to below 1."""


def find_evaluation_moments(
    times: KeyframeTimes, noise_levels: Sequence[float], step_count: int
) -> list[EvaluationMoment]:
    """Locate every model evaluation relative to the keyframes around it.

    An evaluation at the end point of a step of `heun` belongs to the next step, which has the same noise level. The
    value of a schedule is then a function of the noise level, as the solver assumes.

    Args:
        noise_levels: sigma of each evaluation, as from `samplers.compute_noise_levels`.

    Raises:
        KeyframeError: a keyframe is at a step that the denoising does not have.
    """
    rising_moments = [-m if times.unit == "sigma" else m for m in times.moments]
    tolerance = _get_tolerance(times.unit)
    positions = _find_positions(times, noise_levels, step_count)
    return [_find_keyframe_share(rising_moments, position, tolerance) for position in positions]


def find_evaluations_in_range(times: KeyframeTimes, noise_levels: Sequence[float], step_count: int) -> list[bool]:
    """Return whether each model evaluation is between the first and the last moment, both included.

    Args:
        noise_levels: sigma of each evaluation, as from `samplers.compute_noise_levels`.

    Raises:
        KeyframeError: a moment is at a step that the denoising does not have.
    """
    first, last = sorted(-m if times.unit == "sigma" else m for m in (times.moments[0], times.moments[-1]))
    tolerance = _get_tolerance(times.unit)
    positions = _find_positions(times, noise_levels, step_count)
    return [first - tolerance <= position <= last + tolerance for position in positions]


def find_evaluations_since(times: KeyframeTimes, noise_levels: Sequence[float], step_count: int) -> list[bool]:
    """Return whether each model evaluation is at or after the first moment.

    Raises:
        KeyframeError: as for `find_evaluation_moments`.
    """
    first = -times.moments[0] if times.unit == "sigma" else times.moments[0]
    tolerance = _get_tolerance(times.unit)
    return [position >= first - tolerance for position in _find_positions(times, noise_levels, step_count)]


def find_first_step(fraction: float, step_count: int) -> int:
    """Return the first step at or after a fraction of the denoising: the step at which a schedule reaches it."""
    last_step = max(1, step_count - 1)
    steps = (step for step in range(step_count) if step / last_step >= fraction - MOMENT_TOLERANCE)
    return next(steps, step_count - 1)


def _get_tolerance(unit: KeyframeUnit) -> float:
    return 0.0 if unit == "step" else MOMENT_TOLERANCE


def _find_positions(times: KeyframeTimes, noise_levels: Sequence[float], step_count: int) -> list[float]:
    """Return the position of each evaluation in the unit of the moments, rising."""
    if times.unit == "step" and times.moments[-1] >= step_count:
        raise KeyframeError(
            f"a keyframe is at step {times.moments[-1]:g}, but the steps are 0 to {step_count - 1}. "
            "Use a smaller step, or a percentage"
        )
    if times.unit == "sigma":
        return [-sigma for sigma in noise_levels]
    last_step = 1 if times.unit == "step" else max(1, step_count - 1)
    return [step / last_step for step in list_evaluation_steps(len(noise_levels), step_count)]


def list_evaluation_steps(evaluation_count: int, step_count: int) -> list[int]:
    """Return the step of each evaluation."""
    evaluates_twice = evaluation_count > step_count
    return [find_evaluation_step(index, evaluates_twice) for index in range(evaluation_count)]


def find_evaluation_step(index: int, evaluates_twice: bool) -> int:
    """Return the step of an evaluation, both from 0.

    Args:
        evaluates_twice: whether the sampler is `heun`, whose evaluation at the end of a step belongs to the next step.
    """
    return (index + 1) // 2 if evaluates_twice else index


def _find_keyframe_share(moments: Sequence[float], position: float, tolerance: float) -> EvaluationMoment:
    before = max(0, bisect_right(moments, position + tolerance) - 1)
    if position <= moments[before] + tolerance or before + 1 == len(moments):
        return EvaluationMoment(before, before, 0.0)
    return EvaluationMoment(before, before + 1, (position - moments[before]) / (moments[before + 1] - moments[before]))


def interpolate_values(
    moments: Sequence[EvaluationMoment], values: Sequence[float], interpolation: Interpolation
) -> list[float]:
    """Return the value of each evaluation; the first value holds before the first keyframe, the last after the last."""
    return [
        values[moment.before]
        + _apply_easing(moment.share, interpolation) * (values[moment.after] - values[moment.before])
        for moment in moments
    ]


def _apply_easing(share: float, interpolation: Interpolation) -> float:
    if interpolation == "step":
        return 0.0
    return share if interpolation == "linear" else (1 - math.cos(math.pi * share)) / 2
