"""Response of each sampler to Gaussian data, axis by axis: its integration of the flow of a normal distribution.

For data N(m, v) on an axis the exact model predicts x - sigma u with u linear in x - (1 - sigma) m. Every sampler takes
linear combinations of states and predictions, and all of them keep a state on the line (1 - sigma) m, so that a state
is (1 - sigma) m + a z with z the initial noise and one factor a for each variance. The factors are computed here in
float64, with the coefficients of diffusers' samplers as `wantui.generation.samplers` builds them; tests compare with
those.
"""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wantui.schedule import SamplerName, UnknownSamplerError

Floats = NDArray[np.float64]
SHORT = 15
"""Steps below which DPM-Solver takes lower orders at its end."""


def sampler_response(sampler: str, sigmas: Floats, variances: Floats) -> Floats:
    """Return factors [S + 1, k] of a sampler by its name.

    Args:
        sigmas: [S + 1] noise levels of all its states, as stored; those of Heun's method come twice.
        variances: [k] of the data.

    Raises:
        UnknownSamplerError: names those that are known.
    """
    for name, solve in SOLVERS.items():
        if name == sampler:
            return solve(np.asarray(sigmas, dtype=np.float64), np.asarray(variances))
    raise UnknownSamplerError(f"unknown sampler {sampler!r}; known are {', '.join(SOLVERS)}")


def _clean(sigma: float, state: Floats, variances: Floats) -> Floats:
    """Return the predicted clean state, E[data | state]."""
    return (1 - sigma) * variances / ((1 - sigma) ** 2 * variances + sigma**2) * state


def _slope(sigma: float, state: Floats, variances: Floats) -> Floats:
    """Return the model's output, E[noise - data | state]."""
    spread = (1 - sigma) ** 2 * variances + sigma**2
    return (sigma - (1 - sigma) * variances) / spread * state


def _euler(sigmas: Floats, variances: Floats) -> Floats:
    states = [np.ones_like(variances)]
    for here, there in itertools.pairwise(sigmas.tolist()):
        states.append(states[-1] + (there - here) * _slope(here, states[-1], variances))
    return np.stack(states)


def _heun(sigmas: Floats, variances: Floats) -> Floats:
    """Return the predictors and corrected states in turn; the last step is Euler's."""
    states = [np.ones_like(variances)]
    for index in range(len(sigmas) - 1):
        if index % 2 == 0:
            begin, slope = states[-1], _slope(sigmas[index], states[-1], variances)
            states.append(begin + (sigmas[index + 1] - sigmas[index]) * slope)
        else:
            both = (slope + _slope(sigmas[index], states[-1], variances)) / 2
            states.append(begin + (sigmas[index] - sigmas[index - 1]) * both)
    return np.stack(states)


def _half_log_snr(sigmas: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(1 - sigmas) - np.log(sigmas)


def _dpm(order: int) -> Callable[[Floats, Floats], Floats]:
    """Return the solver of DPM-Solver++ (Lu et al. 2022), midpoint form, multistep."""

    def solve(sigmas: Floats, variances: Floats) -> Floats:
        levels, steps = _half_log_snr(sigmas), len(sigmas) - 1
        states = [np.ones_like(variances)]
        clean: list[Floats] = []
        for i in range(steps):
            clean.append(_clean(sigmas[i], states[-1], variances))
            h = levels[i + 1] - levels[i]
            used_order = min(order, i + 1)
            if i == steps - 1:
                used_order = 1
            elif i == steps - 2 and steps < SHORT:
                used_order = min(used_order, 2)
            shrink, alpha = np.expm1(-h), 1 - sigmas[i + 1]
            after = sigmas[i + 1] / sigmas[i] * states[-1] - alpha * shrink * clean[-1]
            if used_order > 1:
                r0 = (levels[i] - levels[i - 1]) / h
                first = (clean[-1] - clean[-2]) / r0
                if used_order == 2:
                    after = after - 0.5 * alpha * shrink * first
                else:
                    r1 = (levels[i - 1] - levels[i - 2]) / h
                    bend = (first - (clean[-2] - clean[-3]) / r1) / (r0 + r1)
                    after = after + alpha * (shrink / h + 1) * (first + r0 * bend)
                    after = after - alpha * ((shrink + h) / h**2 - 0.5) * bend
            states.append(after)
        return np.stack(states)

    return solve


def _unipc(order: int) -> Callable[[Floats, Floats], Floats]:
    """Return the solver of UniPC (Zhao et al. 2023), B2 form, predicting clean states; states are the predictor's, as
    stored."""

    def solve(sigmas: Floats, variances: Floats) -> Floats:
        levels, steps = _half_log_snr(sigmas), len(sigmas) - 1
        states = [np.ones_like(variances)]
        clean: list[Floats] = []
        begin, used_order = states[0], 0
        for i in range(steps):
            predicted = _clean(sigmas[i], states[-1], variances)
            sample = states[-1]
            if i > 0:
                sample = _unipc_update(sigmas, levels, i - 1, used_order, begin, clean, predicted)
            clean.append(predicted)
            used_order = min(order, steps - i, i + 1)
            begin = sample
            states.append(_unipc_update(sigmas, levels, i, used_order, sample, clean, None))
        return np.stack(states)

    return solve


def _unipc_update(
    sigmas: Floats, levels: Floats, i: int, order: int, state: Floats, clean: list[Floats], there: Floats | None
) -> Floats:
    """Return the state after step i; corrected where the prediction at its end is given.

    Args:
        clean: predictions at the noise levels up to i.
        there: the prediction at level i + 1.
    """
    h = levels[i + 1] - levels[i]
    scale, alpha = np.expm1(-h), 1 - sigmas[i + 1]
    ratios = np.array([(levels[i - k] - levels[i]) / h for k in range(1, order)] + [1.0])
    changes = [(clean[i - k] - clean[i]) / ratio for k, ratio in enumerate(ratios[:-1], start=1)]
    weights = _unipc_weights(-h, ratios)
    after = sigmas[i + 1] / sigmas[i] * state - alpha * scale * clean[i]
    if there is not None:
        rho = np.array([0.5]) if order == 1 else np.linalg.solve(*weights)
        changes.append(there - clean[i])
    else:
        matrix, right = weights
        rho = np.array([0.5]) if order == 2 else np.linalg.solve(matrix[:-1, :-1], right[:-1])
    return after - alpha * scale * sum((r * change for r, change in zip(rho, changes, strict=False)), 0 * state)


def _unipc_weights(hh: float, ratios: Floats) -> tuple[Floats, Floats]:
    phi, factorial = np.expm1(hh) / hh - 1 if np.isfinite(hh) else -1.0, 1
    matrix, right = [], []
    for power in range(len(ratios)):
        matrix.append(ratios**power)
        right.append(phi * factorial / np.expm1(hh))
        factorial *= power + 2
        phi = phi / hh - 1 / factorial
    return np.stack(matrix), np.array(right)


SOLVERS: dict[SamplerName, Callable[[Floats, Floats], Floats]] = {
    "unipc": _unipc(2),
    "unipc-3": _unipc(3),
    "dpm++2m": _dpm(2),
    "dpm++3m": _dpm(3),
    "euler": _euler,
    "heun": _heun,
}
