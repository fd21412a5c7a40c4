"""Geometry of trajectories, against shapes whose geometry is known: the oracles C1 to C8 of the analysis."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import recipe_for
from diffusers import WanPipeline
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from wantui.analysis.metrics import METRICS, compute_metric
from wantui.analysis.null_models import (
    GaussianData,
    compute_random_walk_null,
    compute_trajectory_from_noise,
    draw_gaussian_flow,
    draw_gaussian_paths,
)
from wantui.analysis.sampler_response import SOLVERS, NoResponseError, compute_clean_weights, compute_sampler_response
from wantui.analysis.strided_states import select_strided_states
from wantui.analysis.strides import STRIDE_METRICS, measure_strides
from wantui.analysis.trajectory import DamagedGeometryError, NoGeometryError, Trajectory, build_trajectory
from wantui.generation.denoise import prepare_inputs
from wantui.generation.samplers import build_scheduler
from wantui.models.catalogue import WanModel
from wantui.samplers import SCHEDULES, SamplerName, UnknownSamplerError

GEOMETRY_METRICS = [name for name, metric in METRICS.items() if not metric.needs_guidance_gap]
"""Metrics that every trajectory has."""
pytestmark = pytest.mark.torch

FloatArray = NDArray[np.float64]


def trajectory_of(states: FloatArray, sigmas: FloatArray | None = None) -> Trajectory:
    return build_trajectory(
        states @ states.T, np.linspace(1, 0, len(states)) if sigmas is None else sigmas, states.shape[1]
    )


def grid(steps: int, shift: float) -> FloatArray:
    u = np.linspace(1, 0, steps + 1)
    return shift * u / (1 + (shift - 1) * u)


def euler(variance: float, steps: int, shift: float) -> float:
    """Final over initial value of Euler's method on the Gaussian flow."""
    x = 1.0
    sigmas = grid(steps, shift)
    for sigma, after in itertools.pairwise(sigmas):
        x += (after - sigma) * (sigma - (1 - sigma) * variance) / ((1 - sigma) ** 2 * variance + sigma**2) * x
    return x


def exact_response(sigmas: FloatArray, variances: FloatArray) -> FloatArray:
    """Return factors [S + 1, k] of the exact flow, over its first value."""
    spread = np.sqrt((1 - sigmas[:, None]) ** 2 * variances + sigmas[:, None] ** 2)
    return np.asarray(spread / spread[0])


def flow(sigmas: FloatArray, variances: FloatArray) -> Trajectory:
    """The exact flow to N(0, variances) in very many dimensions, which the variances divide into equal parts."""
    scale = exact_response(sigmas, variances)
    return Trajectory(sigmas, scale @ scale.T / len(variances))


def test_even_steps_on_a_line_are_straight_with_constant_velocity() -> None:
    start, direction = np.array([3.0, 0, 4]), np.array([0.0, 2, 0])
    result = trajectory_of(np.stack([start + i / 4 * direction for i in range(5)]))
    assert (result.length, result.chord) == pytest.approx((2 / math.sqrt(3), 2 / math.sqrt(3)))
    assert (result.straightness, result.first_pc_variance, result.effective_dimension) == pytest.approx((1, 1, 1))
    assert result.turning == pytest.approx([0, 0, 0], abs=1e-6)
    assert result.velocity == pytest.approx([2 / math.sqrt(3)] * 4)
    assert result.norm[0] == pytest.approx(5 / math.sqrt(3))
    assert (result.largest_deviation, result.flow_straightness) == pytest.approx((0, 0), abs=1e-7)
    assert result.acceleration == pytest.approx([0, 0, 0], abs=1e-6)
    assert result.chord_alignment == pytest.approx(1)
    assert result.log_volume == float("-inf")


def test_square_path_turns_by_a_right_angle_at_each_corner() -> None:
    result = trajectory_of(np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], dtype=float))
    assert result.turning == pytest.approx([math.pi / 2] * 3)
    assert result.length == pytest.approx(4 / math.sqrt(2))
    assert result.chord == 0
    assert result.straightness == 0
    assert math.isnan(result.largest_deviation)


def test_arc_has_the_turning_and_curvature_of_its_circle() -> None:
    angles = np.linspace(0, 2, 101)
    radius = 3.0
    result = trajectory_of(radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert result.total_turning == pytest.approx(99 * 0.02)
    assert result.chord == pytest.approx(2 * radius * math.sin(1) / math.sqrt(2))
    # Lengths are divided by sqrt(2), hence curvature 1 / r times sqrt(2).
    assert result.curvature == pytest.approx(np.full(99, math.sqrt(2) / radius), rel=1e-3)
    assert result.acceleration == pytest.approx(np.full(99, radius * 2**2 / math.sqrt(2)), rel=1e-3)
    assert result.largest_deviation == pytest.approx((1 - math.cos(1)) / (2 * math.sin(1)), rel=1e-3)


def test_scaled_trajectory_is_longer_with_equal_turning() -> None:
    states = np.random.default_rng(2).normal(size=(8, 300))
    one, twice = trajectory_of(states), trajectory_of(2 * states)
    assert twice.length == pytest.approx(2 * one.length)
    assert twice.turning == pytest.approx(one.turning)
    assert twice.log_volume == pytest.approx(one.log_volume + 3 * math.log(2))
    assert twice.curvature == pytest.approx(one.curvature / 2)


def test_metrics_from_the_gram_matrix_equal_metrics_from_states() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, 400)).cumsum(0)
    sigmas = grid(8, 3)
    result, d = trajectory_of(x, sigmas), np.diff(x, axis=0)
    spans, chord, scale = np.diff(sigmas)[:, None], x[-1] - x[0], math.sqrt(400)
    v = d / spans
    a = np.diff(v, axis=0) / ((sigmas[2:] - sigmas[:-2])[:, None] / 2)
    middle = (v[1:] + v[:-1]) / 2
    along = (middle * a).sum(1)
    speed = np.linalg.norm(middle, axis=1)
    bend = np.sqrt(speed**2 * (a**2).sum(1) - along**2) / speed**3 * scale
    assert result.acceleration == pytest.approx(np.linalg.norm(a, axis=1) / scale)
    assert result.curvature == pytest.approx(bend)
    unit = chord / np.linalg.norm(chord)
    off = (x - x[0]) - np.outer((x - x[0]) @ unit, unit)
    assert result.largest_deviation == pytest.approx(np.linalg.norm(off, axis=1).max() / np.linalg.norm(chord))
    weights = np.abs(np.diff(sigmas)) / np.abs(np.diff(sigmas)).sum()
    straight = (weights * ((chord / (sigmas[-1] - sigmas[0]) - v) ** 2).sum(1)).sum() / 400
    assert result.flow_straightness == pytest.approx(straight)
    assert result.chord_alignment == pytest.approx(np.mean(d @ unit / np.linalg.norm(d, axis=1)))
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / 9 / 400
    assert result.principal_variances[:8] == pytest.approx(variances[:8])
    assert result.effective_dimension == pytest.approx(variances.sum() ** 2 / (variances**2).sum())
    assert result.log_volume == pytest.approx(0.5 * np.log(variances[:3]).sum())
    clean = x[:-1] - sigmas[:-1, None] * v
    distance = np.linalg.norm(clean - x[-1], axis=1) / scale
    assert result.clean_distance == pytest.approx(distance, abs=1e-9)
    settled = [i for i in range(8) if (distance[i:] <= distance[0] / 2).all()]
    assert sigmas[settled[0]] <= result.commitment < sigmas[settled[0] - 1]


def test_c1_initial_noise_has_gaussian_norm_and_distance() -> None:
    shape = (1, 16, 21, 60, 104)
    noise = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).double() for seed in (0, 1)]
    assert float(noise[0].norm()) == pytest.approx(1447.98, abs=4 * 0.71)
    assert float((noise[0] - noise[1]).norm()) == pytest.approx(2047.7, abs=4)
    cosine = float((noise[0] * noise[1]).sum() / noise[0].norm() / noise[1].norm())
    assert abs(cosine) < 4 * 0.00069


def test_c2_initial_noise_depends_on_the_seed_not_the_prompt(
    tiny: WanPipeline, tiny_models: dict[str, WanModel]
) -> None:
    one, other = (
        prepare_inputs(tiny, recipe_for(tiny_models["wan2.1"], prompt=prompt)) for prompt in ("a star", "two rings")
    )
    assert torch.equal(one.noise, other.noise)


@pytest.mark.parametrize(
    ("variance", "steps", "expected"),
    [(1, 10, 0.83302), (1, 20, 0.91332), (1, 50, 0.96445), (1, 200, 0.99100), (0.25, 50, 0.47159), (2, 50, 1.37191)],
)
def test_c3_euler_on_the_gaussian_flow_has_known_end_values(variance: float, steps: int, expected: float) -> None:
    assert euler(variance, steps, 3) == pytest.approx(expected, abs=1e-5)


def test_c4_unit_variance_flow_is_a_line_that_returns_to_its_start() -> None:
    result = flow(grid(50, 3), np.array([1.0]))
    assert result.first_pc_variance == pytest.approx(1)
    assert result.straightness == pytest.approx(0, abs=1e-12)
    assert result.total_turning == pytest.approx(math.pi, abs=1e-4)
    symmetric = flow(np.linspace(1, 0, 51), np.array([1.0]))
    assert symmetric.least_norm == pytest.approx(math.sqrt(0.5))


def test_c5_flow_of_variance_one_quarter_has_known_metrics() -> None:
    result = flow(grid(50, 3), np.array([0.25]))
    assert result.length == pytest.approx(0.60544, abs=1e-5)
    assert (result.chord, result.straightness) == pytest.approx((0.5, 0.825846), abs=1e-6)
    assert result.least_norm == pytest.approx(0.447, abs=5e-4)
    assert result.total_turning == pytest.approx(math.pi, abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (50, (0.788231, 0.488439, 0.267614, 0.619665, 2.618897, 0.760144, 1.573937)),
        (20, (0.787090, 0.488439, 0.267586, 0.620563, 2.548557, 0.744659, 1.613641)),
    ],
)
def test_c6_flow_of_two_variances_has_known_metrics(steps: int, expected: tuple[float, ...]) -> None:
    result = flow(grid(steps, 3), np.array([2.0, 0.2]))
    metrics = (
        result.length,
        result.chord,
        result.largest_deviation * result.chord,
        result.straightness,
        result.total_turning,
        result.first_pc_variance,
        result.effective_dimension,
    )
    assert metrics == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("dtype", "shift", "turning", "within"),
    [
        (np.float32, 3, 0.0, 1e-3),
        (np.float32, 8, 0.0, 1e-3),
        (np.float16, 3, 1.10, 0.03),
        (np.float16, 5, 1.64, 0.03),
        (np.float16, 8, 2.49, 0.04),
    ],
)
def test_c7_rounding_adds_a_known_turning_to_a_straight_line(
    dtype: type, shift: float, turning: float, within: float
) -> None:
    rng = np.random.default_rng(0)
    noise, data = rng.standard_normal((2, 200_000))
    sigmas = grid(50, shift)[:, None]
    states = (sigmas * noise + (1 - sigmas) * data).astype(dtype).astype(np.float64)
    result = trajectory_of(states, sigmas[:, 0])
    assert result.total_turning == pytest.approx(turning, abs=within)
    assert result.straightness == pytest.approx(1, abs=1e-3)


def test_c8_random_walk_has_known_spectrum_straightness_and_turning() -> None:
    result = compute_random_walk_null(trajectory_of(np.eye(51) * np.sqrt(np.arange(51))[:, None]))
    even = Trajectory(np.linspace(1, 0, 2001), np.minimum.outer(np.arange(2001.0), np.arange(2001.0)))
    shares = even.principal_variances[:3] / even.principal_variances.sum()
    assert shares == pytest.approx([0.608, 0.152, 0.068], abs=1e-3)
    walk = compute_random_walk_null(
        Trajectory(np.linspace(1, 0, 51), np.minimum.outer(np.arange(51.0), np.arange(51.0)))
    )
    assert walk.straightness == pytest.approx(1 / math.sqrt(50))
    assert walk.total_turning == pytest.approx(49 * math.pi / 2)
    assert result.total_turning == pytest.approx(49 * math.pi / 2)
    drawn = trajectory_of(np.random.default_rng(1).normal(size=(51, 50_000)).cumsum(0))
    for metric in ("straightness", "turning", "first_pc_variance", "effective_dimension", "length"):
        assert compute_metric(compute_random_walk_null(drawn), metric) == pytest.approx(
            compute_metric(drawn, metric), rel=0.02
        )


def test_c10_path_drawn_from_a_spectrum_matches_its_null() -> None:
    variances = np.random.default_rng(8).lognormal(size=16)
    axes = np.repeat(variances, 2000)
    noise = np.random.default_rng(9).standard_normal(axes.size)
    sigmas = grid(20, 3)[:, None]
    result = trajectory_of(np.sqrt((1 - sigmas) ** 2 * axes + sigmas**2) * noise, sigmas[:, 0])
    null = flow(sigmas[:, 0], variances)
    for metric in GEOMETRY_METRICS:
        assert compute_metric(result, metric) == pytest.approx(compute_metric(null, metric), rel=0.05, abs=0.02), metric


# S2: the null took the spectrum of channels only, with mean 0.


def gaussian_velocity(mean: FloatArray, covariance: FloatArray) -> Callable[[float, FloatArray], FloatArray]:
    """The exact model of N(mean, covariance): E[noise - data | x], by matrices and nothing else."""

    def velocity(sigma: float, x: FloatArray) -> FloatArray:
        total = (1 - sigma) ** 2 * covariance + sigma**2 * np.eye(len(mean))
        whitened = np.linalg.solve(total, x - (1 - sigma) * mean)
        return sigma * whitened - mean - (1 - sigma) * covariance @ whitened

    return velocity


def few_states(n: int = 4, dimension: int = 9) -> FloatArray:
    return 2 + np.random.default_rng(20).normal(size=(n, dimension)) * np.geomspace(3, 0.1, dimension)


def null_of(x0: FloatArray, states: FloatArray, sigmas: FloatArray, factors: FloatArray) -> Trajectory:
    """The null from a noise given in coordinates, with the axes found by an SVD."""
    data = GaussianData.estimate_distribution(states, states.shape[1])
    mean = states.mean(0)
    _, _, axes = np.linalg.svd(states - mean, full_matrices=False)
    axes = axes[: len(data.variances)][::-1]  # eigenvalues come in ascending order
    axes = axes * np.sign((axes @ mean) * data.mean_components)[:, None]
    along = axes @ x0
    rest = x0 - along @ axes
    return compute_trajectory_from_noise(data, sigmas, factors, along, float(rest @ rest), float(rest @ mean))


def test_gaussian_flow_equals_an_ode_solution() -> None:
    states, sigmas = few_states(), np.append(grid(12, 3)[:-1], 0.01)  # at 0 the covariance has no inverse
    velocity = gaussian_velocity(states.mean(0), np.cov(states.T))
    x0 = np.random.default_rng(21).normal(size=9)
    solved = solve_ivp(velocity, (1, 0.01), x0, t_eval=sigmas, rtol=1e-11, atol=1e-12, method="DOP853").y.T
    data = GaussianData.estimate_distribution(states, 9)
    null = null_of(x0, states, sigmas, exact_response(sigmas, data.variances))
    assert null.gram * 9 == pytest.approx(solved @ solved.T, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 15, 20])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_sampler_response_on_gaussian_data_equals_diffusers(sampler: SamplerName, steps: int) -> None:
    states = few_states()
    velocity = gaussian_velocity(states.mean(0), np.cov(states.T))
    scheduler = build_scheduler(sampler, 5.0, seed=1)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    sigmas = scheduler.sigmas.double().numpy()
    x = np.random.default_rng(21).normal(size=9)
    path = [x]
    for sigma, timestep in zip(sigmas, scheduler.timesteps, strict=False):
        output, state = (torch.from_numpy(own)[None, None, None, None] for own in (velocity(sigma, x), x))
        x = scheduler.step(output, timestep, state, return_dict=False)[0].numpy().ravel()
        path.append(x)
    factors = compute_sampler_response(sampler, sigmas, GaussianData.estimate_distribution(states, 9).variances)
    null = null_of(path[0], states, sigmas, factors)
    assert null.gram * 9 == pytest.approx(np.stack(path) @ np.stack(path).T, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_clean_weights_recover_the_predictions_that_a_sampler_received(sampler: SamplerName, steps: int) -> None:
    scheduler = build_scheduler(sampler, 5.0, seed=1)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    sigmas, rng = scheduler.sigmas.double().numpy(), np.random.default_rng(31)
    states = [rng.normal(size=9)]
    predictions = []
    for sigma, timestep in zip(sigmas, scheduler.timesteps, strict=False):
        velocity = rng.normal(size=9)  # no model: nothing but the update rule can find the predictions
        predictions.append(states[-1] - sigma * velocity)
        output, state = (torch.from_numpy(own)[None, None, None, None] for own in (velocity, states[-1]))
        states.append(scheduler.step(output, timestep, state, return_dict=False)[0].numpy().ravel())
    recovered = compute_clean_weights(sampler, sigmas) @ np.stack(states)
    assert recovered == pytest.approx(np.stack(predictions), rel=1e-3, abs=1e-3)


def test_sampler_responses_cover_exactly_the_samplers_without_noise() -> None:
    assert set(SOLVERS) == {name for name, schedule in SCHEDULES.items() if not schedule.adds_noise}
    with pytest.raises(NoResponseError, match=r"^lcm adds noise in each step, so the initial noise does not "):
        compute_sampler_response("lcm", grid(8, 3), np.ones(1))
    with pytest.raises(
        UnknownSamplerError, match=r"unknown sampler 'ddim'; known samplers: unipc, unipc-3, dpm\+\+2m, "
    ):
        compute_sampler_response("ddim", grid(8, 3), np.ones(1))


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_gram_matrices_of_drawn_paths_are_valid_for_their_dimension(sampler: str, dimension: int) -> None:
    # The noise off the axes and its component along the mean share a direction.
    states = np.random.default_rng(26).normal(size=(3, dimension)) + 3
    sigmas = np.repeat(grid(10, 3), [1, *[2] * 9, 1]) if sampler == "heun" else grid(10, 3) * (1 - 1e-3)
    for path in draw_gaussian_flow(
        GaussianData.estimate_distribution(states, dimension), sigmas, sampler, path_count=200
    ):
        values = np.linalg.eigvalsh(path.gram)
        assert values[0] >= -1e-12 * values[-1]
        assert (values > 1e-9 * values[-1]).sum() <= dimension


@pytest.mark.parametrize("sampler", SOLVERS)
def test_flow_to_data_without_covariance_is_a_straight_line(sampler: str) -> None:
    states = np.tile(np.random.default_rng(22).normal(size=300), (5, 1))
    data = GaussianData.estimate_distribution(states, 300)
    assert len(data.variances) == 0
    sigmas = np.repeat(grid(10, 3), [1, *[2] * 9, 1]) if sampler == "heun" else grid(10, 3) * (1 - 1e-6)
    for path in draw_gaussian_flow(data, sigmas, sampler, path_count=3):
        assert (path.straightness, path.first_pc_variance) == pytest.approx((1, 1))
        assert path.total_turning == pytest.approx(0, abs=1e-5)
        assert path.final_norm == pytest.approx(math.sqrt((states[0] ** 2).mean()))


def test_flow_to_zero_mean_data_depends_only_on_its_spectrum() -> None:
    variances = np.array([4.0, 1.0, 0.25, 0.01])
    data = GaussianData(8000, 0.0, np.repeat(variances, 2000), np.zeros(8000))
    null = flow(grid(20, 3), variances)
    for path in draw_gaussian_paths(data, grid(20, 3), exact_response(grid(20, 3), data.variances), path_count=2):
        for metric in GEOMETRY_METRICS:
            assert compute_metric(path, metric) == pytest.approx(compute_metric(null, metric), rel=0.05, abs=0.02), (
                metric
            )


def test_paths_to_low_rank_data_with_a_mean_match_their_null() -> None:
    # The null of before said straightness 0.48 of such data, and the path was "straighter than the null".
    rng = np.random.default_rng(23)
    axes = np.linalg.qr(rng.normal(size=(3000, 6)))[0].T
    data = 0.8 * rng.normal(size=3000) + (rng.normal(size=(400, 6)) * np.sqrt([900, 400, 100, 50, 20, 10])) @ axes
    mean, covariance = data.mean(0), 0
    fitted = GaussianData.estimate_distribution(data, 3000)
    assert fitted.variances[-6:] == pytest.approx([10, 20, 50, 100, 400, 900], rel=0.2)
    sigmas = grid(20, 3)
    result = []
    for _ in range(40):
        z = rng.normal(size=3000)
        along = axes @ z
        covariance = (exact_response(sigmas, np.array([900.0, 400, 100, 50, 20, 10])) * along) @ axes
        result.append(
            trajectory_of((1 - sigmas)[:, None] * mean + covariance + sigmas[:, None] * (z - along @ axes), sigmas)
        )
    null = draw_gaussian_paths(fitted, sigmas, exact_response(sigmas, fitted.variances))
    for metric in ("straightness", "turning", "curvature", "effective_dimension", "log_volume"):
        truth = np.array([compute_metric(path, metric) for path in result])
        null_values = np.array([compute_metric(path, metric) for path in null])
        error = math.hypot(truth.std() / math.sqrt(40), null_values.std() / math.sqrt(32))
        assert null_values.mean() == pytest.approx(truth.mean(), abs=3 * error + 0.02 * abs(truth.mean())), metric
    assert np.mean([compute_metric(path, "straightness") for path in null]) > 0.9


# S9: commitment was the grid's: it moved with every doubling of the steps.


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_commitment_converges_as_steps_increase(variance: float, shift: float) -> None:
    # Of N(0, v) the clean latents are half way where (1 - s) sqrt(3 v) = s.
    limit = math.sqrt(3 * variance) / (1 + math.sqrt(3 * variance))
    errors = [abs(flow(grid(steps, shift), np.array([variance])).commitment - limit) for steps in (50, 200, 800)]
    assert errors[2] < 2e-3
    assert errors[2] < errors[1] < errors[0] < 0.03


# S1: bends that are the sampler's or the rounding's.


def test_smooth_path_has_stable_metrics_at_every_stride() -> None:
    angles = np.linspace(0, 2, 41)
    result = trajectory_of(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    for metric in ("turning", "curvature", "acceleration"):
        check = measure_strides([result], metric)
        assert check.is_settled
        assert check.means[2] == pytest.approx(check.means[0], rel=0.2)
    assert all(measure_strides([result], metric).is_settled for metric in STRIDE_METRICS)


def test_turning_from_rounding_shrinks_with_the_stride_and_is_unsettled() -> None:
    rng = np.random.default_rng(0)
    noise, data = rng.standard_normal((2, 50_000))
    sigmas = grid(50, 3)[:, None]
    states = (sigmas * noise + (1 - sigmas) * data).astype(np.float16).astype(np.float64)
    check = measure_strides([trajectory_of(states, sigmas[:, 0])], "turning")
    assert check.means[0] > 1.6 * check.means[1] > 1.6 * 1.6 * check.means[2]
    assert check.settled_stride is None
    assert "mostly reflects the sampler's steps or rounding" in check.description
    exact = trajectory_of(sigmas * noise + (1 - sigmas) * data, sigmas[:, 0])
    assert measure_strides([exact], "turning").is_settled  # a straight line has no bend to be doubted


def test_path_that_oscillates_every_step_settles_at_stride_two() -> None:
    angles = np.linspace(0, 1.5, 41)
    swing = 0.004 * np.where(np.arange(41) % 2, 1, -1)
    result = trajectory_of(np.stack([np.cos(angles), np.sin(angles), swing], axis=1))
    check = measure_strides([result], "turning")
    assert (check.is_settled, check.settled_stride) == (False, 2)
    assert check.means[1] == pytest.approx(1.5, rel=0.1)
    assert "--stride 2 reflects the path better" in check.description


@pytest.mark.parametrize(
    ("steps", "stride", "kept"), [(8, 2, [0, 2, 4, 6, 8]), (7, 2, [0, 3, 5, 7]), (10, 4, [0, 6, 10])]
)
def test_stride_counts_from_the_last_state(steps: int, stride: int, kept: list[int]) -> None:
    result = trajectory_of(np.random.default_rng(24).normal(size=(steps + 1, 30)))
    strided = select_strided_states(result, stride)
    assert strided.sigmas == pytest.approx(result.sigmas[kept])
    assert strided.gram == pytest.approx(result.gram[np.ix_(kept, kept)])


def test_strides_ignore_predictor_states() -> None:
    angles = np.linspace(0, 2, 21)
    path = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sigmas = np.linspace(1, 0, 21)
    with_predictors = np.repeat(path, [1, *[2] * 19, 1], axis=0)
    with_predictors[1:-1:2] += 9
    repeated = np.repeat(sigmas, [1, *[2] * 19, 1])
    check, alone = (
        measure_strides([trajectory_of(*both)], "turning") for both in ((with_predictors, repeated), (path, sigmas))
    )
    assert check.means == pytest.approx(alone.means)
    assert check.is_settled


def test_metric_is_settled_only_if_all_larger_strides_agree() -> None:
    # The first pair agrees and the second does not: a quarter of the path's turning is of swings over four states.
    swing = 0.03 * np.array([1, 1, -1, -1])[np.arange(41) % 4]
    result = trajectory_of(np.stack([np.linspace(0, 1, 41), swing], axis=1))
    check = measure_strides([result], "turning")
    assert check.means[0] < 1.6 * check.means[1]
    assert check.means[1] > 1.6 * check.means[2]
    assert (check.is_settled, check.settled_stride) == (False, None)


def test_metric_that_grows_with_the_stride_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    result = trajectory_of(np.random.default_rng(24).normal(size=(41, 30)))
    monkeypatch.setattr(
        "wantui.analysis.strided_states.compute_metric", lambda trajectory, metric: 40.0 / len(trajectory.sigmas)
    )
    assert measure_strides([result], "curvature").settled_stride is None
    result = replace(result)  # without the values that it remembers
    monkeypatch.setattr(
        "wantui.analysis.strided_states.compute_metric", lambda trajectory, metric: 1.0 + (len(trajectory.sigmas) > 40)
    )
    assert measure_strides([result], "curvature").settled_stride == 2


@pytest.mark.parametrize("steps", range(6, 21))
def test_smooth_path_is_settled_with_few_steps(steps: int) -> None:
    angles = np.linspace(0, 1.5, steps + 1)
    result = trajectory_of(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert measure_strides([result], "turning").is_settled


@pytest.mark.parametrize("stride", [21, 40, 100])
def test_stride_that_leaves_two_states_is_refused(stride: int) -> None:
    result = trajectory_of(np.random.default_rng(24).normal(size=(41, 30)))
    with pytest.raises(NoGeometryError, match=f"stride {stride} leaves 2 of 41 states, but an angle needs three"):
        select_strided_states(result, stride)
    assert len(select_strided_states(result, 20).sigmas) == 3


def test_few_steps_give_no_verdict_on_strides() -> None:
    check = measure_strides([trajectory_of(np.random.default_rng(25).normal(size=(5, 30)))], "turning")
    assert not check.is_settled
    assert "too few steps to tell" in check.description


def test_commitment_within_the_first_steps_is_not_settled() -> None:
    # It heads for its end from the second state on, whatever the steps are.
    start, end, elsewhere = np.eye(3) * 10
    sigmas = np.linspace(1, 0, 41)[:, None]
    states = sigmas * start + (1 - sigmas) * end
    states[1:] += 0.02 * sigmas[1:] * elsewhere
    assert not measure_strides([trajectory_of(states, sigmas[:, 0])], "commitment").is_settled
    assert measure_strides([flow(grid(40, 1), np.array([1.0]))], "commitment").is_settled


def test_random_walk_null_preserves_step_lengths() -> None:
    result = trajectory_of(np.random.default_rng(4).normal(size=(12, 100)).cumsum(0))
    assert compute_random_walk_null(result).step_lengths == pytest.approx(result.step_lengths)
    assert compute_random_walk_null(result).norm[0] == pytest.approx(result.norm[0])


def test_second_heun_state_at_a_noise_level_is_used() -> None:
    states = np.random.default_rng(5).normal(size=(4, 50))
    with_predictors = np.concatenate([states[:1], 9 + states[1:2], states[1:2], 9 + states[2:3], states[2:]])
    sigmas = np.array([1, 0.6, 0.6, 0.3, 0.3, 0.0])
    assert trajectory_of(with_predictors, sigmas).gram == pytest.approx(
        trajectory_of(states, np.array([1, 0.6, 0.3, 0.0])).gram
    )


REFUSED: dict[str, tuple[Callable[[], tuple[FloatArray, FloatArray]], str]] = {
    "two states": (lambda: (np.eye(2), np.array([1.0, 0.0])), "2 states are stored, but an angle needs three"),
    "NaN": (lambda: (np.full((3, 3), np.nan), np.array([1.0, 0.5, 0.0])), "NaN or infinity"),
    "one level": (lambda: (np.eye(3), np.array([0.5, 0.5, 0.5])), "1 states are stored"),
    "shapes": (lambda: (np.eye(4), np.array([1.0, 0.5, 0.0])), r"shape \(4, 4\) do not match 3 noise levels"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_invalid_trajectory_is_refused_with_a_reason(fault: str) -> None:
    make, why = REFUSED[fault]
    with pytest.raises(NoGeometryError, match=why):
        build_trajectory(*make(), 10)


def test_repeated_state_does_not_change_turning_or_direction() -> None:
    corner = np.zeros((4, 50))
    corner[1:] += 1.3 * np.eye(50)[0]
    corner[3] += np.eye(50)[1]
    offset = np.random.default_rng(0).normal(size=50)  # so that equal states differ by rounding of their products
    sigmas = np.array([1, 0.6, 0.4, 0.0])
    result = build_trajectory((corner + offset) @ (corner + offset).T, sigmas, 50)
    once = build_trajectory(np.delete(corner, 2, 0) @ np.delete(corner, 2, 0).T, np.delete(sigmas, 2), 50)
    for metric in ("turning", "chord_alignment", "length", "largest_deviation"):
        assert compute_metric(result, metric) == pytest.approx(compute_metric(once, metric)), metric
    assert compute_metric(result, "turning") == pytest.approx(math.pi / 2)


def test_motionless_path_has_no_shape_metrics() -> None:
    state = np.random.default_rng(1).normal(size=60)
    result = build_trajectory(np.full((6, 6), state @ state) * (1 + 1e-16 * np.arange(6)), np.linspace(1, 0, 6), 60)
    for metric in ("first_pc_variance", "effective_dimension", "straightness", "chord_alignment"):
        assert math.isnan(compute_metric(result, metric)), metric
    assert compute_metric(result, "length") == 0


def test_path_that_returns_to_its_start_despite_rounding_has_no_chord() -> None:
    states = np.random.default_rng(1).normal(size=(6, 60))
    states[-1] = states[0]
    gram = states @ states.T
    gram[0, -1] = gram[-1, 0] = gram[0, 0] * (1 - 2e-16)
    result = build_trajectory(gram, np.linspace(1, 0, 6), 60)
    assert compute_metric(result, "chord") == 0
    assert math.isnan(compute_metric(result, "largest_deviation"))


def test_path_that_pauses_has_no_velocity_or_bend_where_it_pauses() -> None:
    states = np.random.default_rng(2).normal(size=(9, 60))
    states[3:6] = states[3]
    gram = states @ states.T + 1e-15 * np.random.default_rng(3).normal(size=(9, 9))
    result = build_trajectory((gram + gram.T) / 2, np.linspace(1, 0, 9), 60)
    assert result.velocity[3:5].tolist() == [0, 0]
    assert (result.acceleration[3], result.curvature[3]) == (0, 0)
    still = build_trajectory(np.full((6, 6), 60.0) * (1 + 1e-16 * np.arange(6)), np.linspace(1, 0, 6), 60)
    assert compute_metric(still, "flow_straightness") == 0


def test_straight_path_does_not_make_the_strides_of_others_unsettled() -> None:
    smooth = trajectory_of(np.stack([np.cos(np.linspace(0, 2, 41)), np.sin(np.linspace(0, 2, 41))], axis=1))
    still = trajectory_of(np.ones((41, 2)))
    alone, both = (measure_strides(paths, "curvature") for paths in ([smooth], [smooth, still]))
    assert both == alone
    assert both.is_settled


def test_straight_path_of_constant_velocity_is_committed_from_the_start() -> None:
    noise, data = np.random.default_rng(2).normal(size=(2, 3000))
    for steps in (5, 20, 51):
        sigmas = 5 * np.linspace(1, 0, steps) / (1 + 4 * np.linspace(1, 0, steps))
        states = sigmas[:, None] * noise + (1 - sigmas[:, None]) * data
        assert compute_metric(build_trajectory(states @ states.T, sigmas, 3000), "commitment") == 1.0


def test_log_volume_of_four_states_is_undefined() -> None:
    result = trajectory_of(np.random.default_rng(6).normal(size=(4, 30)))
    assert math.isnan(compute_metric(result, "log_volume"))
    assert all(math.isfinite(compute_metric(result, metric)) for metric in GEOMETRY_METRICS if metric != "log_volume")


@pytest.mark.parametrize("seed", range(5))
def test_straight_path_in_float32_has_no_detour(seed: int) -> None:
    ends = np.random.default_rng(seed).normal(size=(2, 200))
    levels = grid(20, 3.0)
    states = (levels[:, None] * ends[0] + (1 - levels[:, None]) * ends[1]).astype(np.float32).astype(np.float64)
    assert compute_metric(trajectory_of(states, levels), "detour") == 0
    bent = states + 1e-4 * np.sin(np.pi * levels)[:, None] * np.random.default_rng(9).normal(size=200)
    assert compute_metric(trajectory_of(bent, levels), "detour") > 0


@pytest.mark.parametrize("damage", [{(2, 2): -1.0}, {(1, 3): 1e9}, {(0, 0): 0.0}, {(1, 3): 0.5}])
def test_inner_products_of_no_states_are_refused_by_name(damage: dict[tuple[int, int], float]) -> None:
    states = np.random.default_rng(1).normal(size=(6, 60))
    gram = states @ states.T
    for place, number in damage.items():
        gram[place] = number
    with pytest.raises(DamagedGeometryError, match="are damaged: no set of states has these inner products"):
        build_trajectory(gram, np.linspace(1, 0, 6), 60)


@pytest.mark.parametrize("sigmas", [[1, 0.8, 1e300], [1, 0.5, -0.1], [0, 0.5, 1], [1, 0.4, 0.6]])
def test_impossible_noise_levels_are_refused_by_name(sigmas: list[float]) -> None:
    states = np.random.default_rng(1).normal(size=(3, 60))
    with pytest.raises(
        DamagedGeometryError, match="the stored noise levels are damaged: they must fall, from at most 1"
    ):
        build_trajectory(states @ states.T, np.array(sigmas), 60)


def bent_states(dimension: int, angle: float, seed: int = 0) -> NDArray[np.float64]:
    """Return [21, dimension] states of constant speed that are exact in float64 if straight; all turns are `angle`."""
    rng = np.random.default_rng([seed, dimension])
    start, step = (rng.integers(-(2**32), 2**32, dimension) * 2.0**-31 for _ in range(2))
    if angle == 0:
        return start + np.arange(21)[:, None] * step * 2**-5
    step /= np.linalg.norm(step)
    side = rng.normal(size=dimension)
    side -= side @ step * step
    side /= np.linalg.norm(side)
    turned = angle * np.arange(20)
    steps = np.cos(turned)[:, None] * step + np.sin(turned)[:, None] * side
    return start + np.concatenate([np.zeros((1, dimension)), np.cumsum(steps, 0)]) * 0.05 * math.sqrt(dimension)


@pytest.mark.parametrize("dimension", [16, 512, 60_000])
@pytest.mark.parametrize("seed", range(4))
def test_straight_path_has_no_bend_from_the_rounding_of_its_inner_products(dimension: int, seed: int) -> None:
    states = bent_states(dimension, 0, seed)
    gram = np.array([[left @ right for right in states] for left in states])  # each sum in the order of its own kernel
    path = build_trajectory(gram, np.linspace(1, 0, 21), dimension)
    assert not path.turning.any()
    assert not path.curvature.any()
    assert not path.acceleration.any()
    assert path.total_turning == 0
    assert path.largest_deviation == 0
    assert path.detour == 0


@pytest.mark.parametrize("dimension", [16, 512, 60_000])
@pytest.mark.parametrize("angle", [1e-4, 1e-3, 0.1])
def test_small_bend_is_measured_within_the_rounding_of_inner_products(dimension: int, angle: float) -> None:
    states = bent_states(dimension, angle)
    path = build_trajectory(states @ states.T, np.linspace(1, 0, 21), dimension)
    # The oracle measures angles from the states, where nothing cancels.
    steps = np.diff(states, axis=0)
    steps /= np.linalg.norm(steps, axis=1)[:, None]
    pairs = itertools.pairwise(steps)
    angles = np.array([2 * np.arctan2(np.linalg.norm(b - a), np.linalg.norm(a + b)) for a, b in pairs])
    assert angles == pytest.approx(np.full(19, angle), rel=1e-6)
    # A cosine that is wrong by e moves an angle by e / angle; e is 5 + sqrt(D) roundings of eight terms over a step.
    moved = 8 * (5 + math.sqrt(dimension)) * 2.0**-53 * (states**2).sum(1).max() / 0.05**2 / dimension / angle
    assert np.abs(path.turning - angles).max() < moved
    # Each step takes 1/20 of the noise levels and has the speed 1.
    assert path.curvature == pytest.approx(2 * np.tan(angles / 2) * 20 / np.cos(angles / 2), abs=21 * moved)


def test_path_that_turns_back_turns_by_exactly_pi() -> None:
    states = bent_states(512, 0)[[0, 10, 5, 12]]
    path = build_trajectory(states @ states.T, np.array([1, 0.6, 0.3, 0]), 512)
    assert path.turning.tolist() == [math.pi, math.pi]


def test_equal_states_of_many_values_have_no_step_between_them() -> None:
    # Of a million values, sums in different orders differ by more than 1e-14.
    gram = np.array([[2.0, 1, 1, 0.5], [1, 2, 2, 0.9], [1, 2, 2, 0.9], [0.5, 0.9, 0.9, 2]])
    gram[2, 2] *= 1 + 1e-13
    path = build_trajectory(gram * 1e6, np.array([1, 0.6, 0.3, 0]), 1_000_000)
    assert path.step_lengths[1] == 0
    exact = build_trajectory(gram[np.ix_([0, 1, 3], [0, 1, 3])] * 1e6, np.array([1, 0.6, 0]), 1_000_000)
    assert path.total_turning == pytest.approx(exact.total_turning, rel=1e-12)
