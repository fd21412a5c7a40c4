"""Keyframes: how moments are written, and the value of every model evaluation between them."""

import math

import numpy as np
import pytest

from wantui.keyframes import (
    KeyframeError,
    KeyframeTimes,
    find_evaluation_moments,
    find_first_step,
    interpolate_values,
    parse_keyframes,
)
from wantui.samplers import compute_noise_levels


def values_of(written: dict[object, float], step_count: int, interpolation: str, sampler: str = "euler") -> list[float]:
    times, values = parse_keyframes(written)
    moments = find_evaluation_moments(times, compute_noise_levels(sampler, step_count, 3.0), step_count)
    return interpolate_values(moments, values, interpolation)  # type: ignore[arg-type]


def test_linear_values_equal_those_of_numpy() -> None:
    values = values_of({8: 1.0, 2: 7.5, "5": -3.0}, 12, "linear")
    assert values == pytest.approx(np.interp(range(12), [2, 5, 8], [7.5, -3.0, 1.0]), abs=1e-12)


def test_step_values_hold_until_the_next_keyframe() -> None:
    assert values_of({0: 6.0, 3: 1.0}, 5, "step") == [6, 6, 6, 1, 1]


def test_cosine_values_follow_half_a_wave() -> None:
    expected = [(1 - math.cos(math.pi * step / 4)) / 2 for step in range(5)]
    assert values_of({0: 0.0, 4: 1.0}, 5, "cosine") == pytest.approx(expected, abs=1e-12)


def test_percentages_count_from_the_first_step_to_the_last() -> None:
    assert values_of({"0%": 0.0, "100 %": 10.0}, 11, "linear") == pytest.approx(list(range(11)), abs=1e-12)
    assert values_of({"50%": 3.0}, 1, "linear") == [3.0]


def test_percentage_names_the_step_at_which_a_schedule_reaches_it() -> None:
    assert find_first_step(0.5, 20) == 10  # half of the last step, 19, is between the steps 9 and 10
    for step_count in range(2, 60):
        for percentage in range(101):
            first_values = values_of({0: 0.0, f"{percentage}%": 1.0} if percentage else {0: 1.0}, step_count, "step")
            assert first_values.index(1.0) == find_first_step(percentage / 100, step_count)


def test_first_step_combines_with_percentages() -> None:
    assert values_of({"0": 2.0, "100%": 12.0}, 11, "linear") == values_of({"0%": 2.0, "100%": 12.0}, 11, "linear")
    with pytest.raises(KeyframeError, match="have the same percentage"):
        parse_keyframes({0: 2.0, "0%": 3.0})


def test_noise_levels_fall_during_the_denoising() -> None:
    sigmas = compute_noise_levels("unipc", 9, 3.0)
    values = values_of({"sigma 0.2": 1.0, "sigma=0.9": 5.0}, 9, "linear", "unipc")
    assert values == pytest.approx(np.interp(sigmas, [0.2, 0.9], [1.0, 5.0]), abs=1e-12)


def test_evaluations_of_heun_at_one_noise_level_have_one_value() -> None:
    sigmas = compute_noise_levels("heun", 6, 3.0)
    values = values_of({0: 1.0, 5: 6.0}, 6, "linear", "heun")
    assert len(values) == len(sigmas) == 11
    assert len(set(zip(sigmas, values, strict=True))) == 6
    assert values[0] == 1.0
    assert values[-1] == 6.0


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "no keyframe"),
        ({"1": 2.0, 1.0: 3.0}, "have the same step"),
        ({"50%": 1.0, "50.0 %": 2.0}, "have the same percentage"),
        ({1: 1.0, "50%": 2.0}, "1 is a step, but '50%' is a percentage. Use one unit"),
        ({0: 1.0, 3: 1.5, "50%": 2.0}, "'50%' is a percentage, but 3 is a step. Use one unit"),
        ({"50%": 1.0, "sigma 0.2": 2.0}, "'50%' is a percentage, but 'sigma 0.2' is a noise level. Use one unit"),
        ({-1: 1.0}, "cannot use the moment -1"),
        ({1.5: 1.0}, "cannot use the moment 1.5"),
        ({"101%": 1.0}, "cannot use the moment '101%'"),
        ({"sigma 1.2": 1.0}, "cannot use the moment"),
        ({"nan": 1.0}, "cannot use the moment 'nan'"),
        ({"later": 1.0}, "cannot read the moment 'later'"),
        ({"1_0": 1.0}, "cannot read the moment '1_0'"),
        ({True: 1.0}, "cannot read the moment True"),
        ({None: 1.0}, "cannot read the moment None"),
        (dict.fromkeys(range(1001), 1.0), "1001 keyframes"),
    ],
)
def test_unusable_moments_are_refused_by_name(written: dict[object, float], message: str) -> None:
    with pytest.raises(KeyframeError, match=message):
        parse_keyframes(written)


def test_evaluation_at_a_moment_has_its_value_despite_rounding() -> None:
    """Step 11 of 501 is at 11 / 500, which is less than 2.2 / 100 in float64."""
    assert 11 / 500 < 2.2 / 100
    assert values_of({0: 1.0, "2.2%": 5.0}, 501, "step")[10:12] == [1.0, 5.0]


def test_step_beyond_the_last_is_refused() -> None:
    times, _ = parse_keyframes({0: 1.0, 10: 2.0})
    with pytest.raises(KeyframeError, match="at step 10, but the steps are 0 to 9"):
        find_evaluation_moments(times, compute_noise_levels("euler", 10, 3.0), 10)


@pytest.mark.parametrize(
    ("unit", "moments"),
    [
        ("step", (3, 1)),
        ("step", (1, 1)),
        ("sigma", (0.1, 0.9)),
        ("fraction", (0.5, 1.5)),
        ("step", (0.5,)),
    ],
)
def test_stored_moments_are_checked(unit: str, moments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="keyframe"):
        KeyframeTimes(unit=unit, moments=moments)  # type: ignore[arg-type]
