"""Update rules of the samplers in float64, and the response factors and clean weights that they determine.

Every sampler takes linear combinations of states and of the clean states predicted by the model.

Response to Gaussian data: for data N(m, v) on an axis, the exact model predicts x - sigma u with u linear in
x - (1 - sigma) m, and the samplers map the line (1 - sigma) m to itself. A state is therefore (1 - sigma) m + a z, with
z the initial noise and a factor a that depends on v only.

Predicted clean states: solving the update rule of each step for its prediction gives the predictions as linear
combinations of the states.

The coefficients equal the diffusers samplers that `wantui.generation.samplers` builds; tests compare both.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.samplers import find_sampler_schedule

CleanPredictor = Callable[[int, float, FloatArray], FloatArray]
"""Function of an evaluation's index, its noise level and its state that returns the predicted clean state."""
MIN_FULL_ORDER_STEPS = 15
"""Minimum number of steps for which DPM-Solver keeps its full order near the end."""


class NoResponseError(ValueError):
    """Raised for a sampler whose states are not determined by the initial noise."""


def compute_sampler_response(sampler_name: str, sigmas: FloatArray, variances: FloatArray) -> FloatArray:
    """Return the response factors [S + 1, k] of a sampler.

    Args:
        sigmas: [S + 1] noise levels of all states, as stored; Heun's method repeats each level.
        variances: [k] variances of the data.

    Raises:
        UnknownSamplerError: the sampler is unknown.
        NoResponseError: the sampler adds noise in each step.
    """
    variances = np.asarray(variances, dtype=np.float64)
    predict_clean = partial(_predict_gaussian_clean, variances)
    return _find_solver(sampler_name)(np.asarray(sigmas, dtype=np.float64), np.ones_like(variances), predict_clean)


def compute_clean_weights(sampler_name: str, sigmas: FloatArray) -> FloatArray:
    """Return the weights [S, S + 1] that give the predicted clean states of all evaluations from the states.

    The prediction of evaluation i is the sum of `weights[i, k]` times state k; the weights of states after i + 1 are 0.

    Args:
        sigmas: [S + 1] noise levels of all states, as stored.

    Raises:
        UnknownSamplerError: the sampler is unknown.
        NoResponseError: the sampler adds noise in each step.
    """
    # Axis 0 carries the initial noise, axis i + 1 the prediction of evaluation i.
    axes = np.eye(len(sigmas))
    solve = _find_solver(sampler_name)
    states = solve(np.asarray(sigmas, dtype=np.float64), axes[0], lambda index, sigma, state: axes[index + 1])
    noise_shares, prediction_shares = states[1:, :1], states[1:, 1:]
    # states[1:] = noise_shares * noise + prediction_shares @ predictions, a triangular system
    right_hand_side = np.concatenate([-noise_shares, np.eye(len(sigmas) - 1)], axis=1)
    return np.tril(np.linalg.solve(prediction_shares, right_hand_side), 1)


def _find_solver(sampler_name: str) -> Callable[[FloatArray, FloatArray, CleanPredictor], FloatArray]:
    if find_sampler_schedule(sampler_name).adds_noise:
        raise NoResponseError(
            f"{sampler_name} adds noise in each step, so the initial noise does not determine its paths"
        )
    return SOLVERS[sampler_name]


def _predict_gaussian_clean(variances: FloatArray, index: int, sigma: float, state: FloatArray) -> FloatArray:
    """Return the predicted clean state of Gaussian data, E[data | state]."""
    return (1 - sigma) * variances / ((1 - sigma) ** 2 * variances + sigma**2) * state


def _solve_euler(sigmas: FloatArray, noise: FloatArray, predict_clean: CleanPredictor) -> FloatArray:
    states = [noise]
    for index, (sigma, next_sigma) in enumerate(itertools.pairwise(sigmas.tolist())):
        velocity = (states[-1] - predict_clean(index, sigma, states[-1])) / sigma
        states.append(states[-1] + (next_sigma - sigma) * velocity)
    return np.stack(states)


def _solve_heun(sigmas: FloatArray, noise: FloatArray, predict_clean: CleanPredictor) -> FloatArray:
    """Return predictors and corrected states alternately; the last step is an Euler step."""
    states = [noise]
    for index in range(len(sigmas) - 1):
        next_velocity = (states[-1] - predict_clean(index, sigmas[index], states[-1])) / sigmas[index]
        if index % 2 == 0:
            start_state, velocity = states[-1], next_velocity
            states.append(start_state + (sigmas[index + 1] - sigmas[index]) * velocity)
        else:
            mean_velocity = (velocity + next_velocity) / 2
            states.append(start_state + (sigmas[index] - sigmas[index - 1]) * mean_velocity)
    return np.stack(states)


def _compute_half_log_snr(sigmas: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.log(1 - sigmas) - np.log(sigmas)


def _make_dpm_solver(order: int) -> Callable[[FloatArray, FloatArray, CleanPredictor], FloatArray]:
    """Return multistep DPM-Solver++ (Lu et al. 2022) of an order, in midpoint form."""

    def solve(sigmas: FloatArray, noise: FloatArray, predict_clean: CleanPredictor) -> FloatArray:
        levels, steps = _compute_half_log_snr(sigmas), len(sigmas) - 1
        states = [noise]
        clean_predictions: list[FloatArray] = []
        for i in range(steps):
            clean_predictions.append(predict_clean(i, sigmas[i], states[-1]))
            h = levels[i + 1] - levels[i]
            used_order = min(order, i + 1)
            if i == steps - 1:
                used_order = 1
            elif i == steps - 2 and steps < MIN_FULL_ORDER_STEPS:
                used_order = min(used_order, 2)
            shrink, alpha = np.expm1(-h), 1 - sigmas[i + 1]
            next_state = sigmas[i + 1] / sigmas[i] * states[-1] - alpha * shrink * clean_predictions[-1]
            if used_order > 1:
                r0 = (levels[i] - levels[i - 1]) / h
                first_difference = (clean_predictions[-1] - clean_predictions[-2]) / r0
                if used_order == 2:
                    next_state = next_state - 0.5 * alpha * shrink * first_difference
                else:
                    r1 = (levels[i - 1] - levels[i - 2]) / h
                    second_difference = (first_difference - (clean_predictions[-2] - clean_predictions[-3]) / r1) / (
                        r0 + r1
                    )
                    next_state = next_state + alpha * (shrink / h + 1) * (first_difference + r0 * second_difference)
                    next_state = next_state - alpha * ((shrink + h) / h**2 - 0.5) * second_difference
            states.append(next_state)
        return np.stack(states)

    return solve


def _make_unipc_solver(order: int) -> Callable[[FloatArray, FloatArray, CleanPredictor], FloatArray]:
    """Return UniPC (Zhao et al. 2023) of an order, in B2 form with clean-state prediction.

    Its states are the predictor's, as stored.
    """

    def solve(sigmas: FloatArray, noise: FloatArray, predict_clean: CleanPredictor) -> FloatArray:
        levels, steps = _compute_half_log_snr(sigmas), len(sigmas) - 1
        states = [noise]
        clean_predictions: list[FloatArray] = []
        start_state, used_order = states[0], 0
        for i in range(steps):
            clean_prediction = predict_clean(i, sigmas[i], states[-1])
            corrected_state = states[-1]
            if i > 0:
                corrected_state = _compute_unipc_state(
                    sigmas, levels, i - 1, used_order, start_state, clean_predictions, clean_prediction
                )
            clean_predictions.append(clean_prediction)
            used_order = min(order, steps - i, i + 1)
            start_state = corrected_state
            states.append(_compute_unipc_state(sigmas, levels, i, used_order, corrected_state, clean_predictions, None))
        return np.stack(states)

    return solve


def _compute_unipc_state(
    sigmas: FloatArray,
    levels: FloatArray,
    i: int,
    order: int,
    state: FloatArray,
    clean_predictions: list[FloatArray],
    next_clean_prediction: FloatArray | None,
) -> FloatArray:
    """Return the state after step i, corrected if the prediction at the end of the step is given.

    Args:
        clean_predictions: predictions at the noise levels up to i.
        next_clean_prediction: prediction at level i + 1, for the corrector; None for the predictor.
    """
    h = levels[i + 1] - levels[i]
    scale, alpha = np.expm1(-h), 1 - sigmas[i + 1]
    ratios = np.array([(levels[i - k] - levels[i]) / h for k in range(1, order)] + [1.0])
    clean_differences = [
        (clean_predictions[i - k] - clean_predictions[i]) / ratio for k, ratio in enumerate(ratios[:-1], start=1)
    ]
    weights = _compute_unipc_weights(-h, ratios)
    next_state = sigmas[i + 1] / sigmas[i] * state - alpha * scale * clean_predictions[i]
    if next_clean_prediction is not None:
        rho = np.array([0.5]) if order == 1 else np.linalg.solve(*weights)
        clean_differences.append(next_clean_prediction - clean_predictions[i])
    else:
        matrix, right_hand_side = weights
        rho = np.array([0.5]) if order == 2 else np.linalg.solve(matrix[:-1, :-1], right_hand_side[:-1])
    return next_state - alpha * scale * sum(
        (r * change for r, change in zip(rho, clean_differences, strict=False)), 0 * state
    )


def _compute_unipc_weights(hh: float, ratios: FloatArray) -> tuple[FloatArray, FloatArray]:
    phi, factorial = np.expm1(hh) / hh - 1 if np.isfinite(hh) else -1.0, 1
    matrix, right_hand_side = [], []
    for power in range(len(ratios)):
        matrix.append(ratios**power)
        right_hand_side.append(phi * factorial / np.expm1(hh))
        factorial *= power + 2
        phi = phi / hh - 1 / factorial
    return np.stack(matrix), np.array(right_hand_side)


SOLVERS: dict[str, Callable[[FloatArray, FloatArray, CleanPredictor], FloatArray]] = {
    "unipc": _make_unipc_solver(2),
    "unipc-3": _make_unipc_solver(3),
    "dpm++2m": _make_dpm_solver(2),
    "dpm++3m": _make_dpm_solver(3),
    "euler": _solve_euler,
    "heun": _solve_heun,
}
