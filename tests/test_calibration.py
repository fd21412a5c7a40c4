"""Figures of the calibration: shapes are its units, not seeds."""

import itertools

import numpy as np
import pytest
from benchmarks.calibration import p_over_shapes

pytestmark = pytest.mark.torch

LOGARITHMS = np.log([0.45, 0.25, 0.14, 0.08, 0.05, 0.03])


def test_p_over_shapes_of_a_perfect_line_is_the_minimum_for_six_shapes() -> None:  # S10
    assert np.isclose(p_over_shapes(LOGARITHMS, 3 - 0.2 * LOGARITHMS), 1 / 720)


def test_p_over_shapes_equals_an_exhaustive_permutation_test() -> None:  # S10
    means = np.random.default_rng(3).normal(size=6)
    orders = itertools.permutations(range(6))
    slopes = [abs(np.polyfit(LOGARITHMS, means[list(order)], 1)[0]) for order in orders]
    expected = np.mean(np.array(slopes) >= slopes[0] - 1e-12)
    assert np.isclose(p_over_shapes(LOGARITHMS, means), expected)
