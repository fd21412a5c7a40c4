"""Inner products and projections of a trajectory, computed step by step."""

import math

import numpy as np
import pytest
import torch

from wantui.generation.gram import GramMatrix, StateProjection

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def test_gram_matrix_equals_exact_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    states = [1e3 + torch.randn(1, 16, 5, 60, 60, generator=generator) for _ in range(4)]
    gram = GramMatrix(4, CPU)
    for state in states:
        gram.add_state(state)
    flat = [state.double().flatten().tolist() for state in states]
    exact = [[math.fsum(a * b for a, b in zip(one, other, strict=True)) for other in flat] for one in flat]
    assert np.abs(gram.values / exact - 1).max() < 1e-12
    assert gram.earlier_states is None  # nothing is held when the last one has come


def test_bfloat16_states_are_summed_exactly() -> None:
    state = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    gram = GramMatrix(2, CPU)
    gram.add_state(state)
    assert gram.values[0, 0] == pytest.approx(float(state.double().square().sum()), rel=1e-14)


def test_projected_distances_are_within_the_stated_error() -> None:
    generator = torch.Generator().manual_seed(0)
    dimension, k = 200_000, 4096
    project = StateProjection(dimension, CPU)
    assert project.description == "balanced count sketch, 4096, seed 0"
    states = [torch.randn(dimension, generator=generator) for _ in range(24)]
    sketches = [project(state).astype(np.float64) for state in states]
    ratios = [
        float(((sketches[i] - sketches[j]) ** 2).sum()) / float((states[i] - states[j]).double().square().sum())
        for i in range(24)
        for j in range(i)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)
    assert np.std(ratios) == pytest.approx(math.sqrt(2 / k), rel=0.25)


def test_projection_is_linear_and_reproducible() -> None:
    one, other = StateProjection(10_000, CPU), StateProjection(10_000, CPU)
    a, b = torch.arange(10_000.0), torch.ones(10_000)
    assert np.array_equal(one(a), other(a))
    assert np.allclose(one(a + 2 * b), one(a) + 2 * one(b), rtol=1e-5)
    # Each value goes to one of the sums, with a sign.
    counts = np.abs(np.stack([one(row) for row in torch.eye(10_000)[:50]])).sum(1)
    assert counts.tolist() == [1.0] * 50


def test_projection_of_small_states_is_identity() -> None:
    state = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    project = StateProjection(72, CPU)
    assert project.description == "identity, 72"
    assert np.array_equal(project(state), state.flatten().numpy())
