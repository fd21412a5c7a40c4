"""Geometry of one trajectory from its Gram matrix; lengths and angles need only inner products.

States are x_0 (the initial noise) to x_N, at noise levels sigma_i, with differences d_i = x_{i+1} - x_i. So
<d_i, d_j> = G_{i+1,j+1} - G_{i+1,j} - G_{i,j+1} + G_{i,j}, in float64. Lengths are divided by sqrt(D), where D is the
number of values per state, so that videos of different sizes can be compared.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wantui.analysis.arrays import FloatArray, mark_last_repeats
from wantui.analysis.guidance_gap import GuidanceGap
from wantui.errors import UserError

VOLUME_DIMENSIONS = 3
"""Number of dimensions of the log-volume; fixed, because otherwise the volume would depend on the number of steps."""
ROUNDING_TOLERANCE = 1e-14
"""Squared distance, relative to the terms of its sum, up to which it counts as rounding and is set to 0."""
UNIT_ROUNDOFF = 2.0**-53
"""Largest relative error of one rounded float64 operation."""
ROUNDINGS_PER_DIFFERENCE = 5
"""Rounded operations behind an inner product of steps, besides its sums: storage, division by D, three differences."""
DETOUR_ROUNDING_TOLERANCE = 1e-12
"""Detour up to which a path is straight: the rounding of float32 states alone gives about 1e-13."""
MAX_SIGMA = 1 + 1e-6
"""Largest noise level, with room for rounding in float32: level 1 is pure noise."""
INNER_PRODUCT_TOLERANCE = 1e-6
"""Share by which an inner product may exceed the product of the two norms; more is damage, not rounding."""


class NoGeometryError(UserError):
    """Raised for a trajectory whose geometry cannot be computed; the message gives the reason."""


class DamagedGeometryError(NoGeometryError):
    """Raised for stored values that no denoising gives: the capture was damaged or changed."""


@dataclass(frozen=True)
class Trajectory:
    """One trajectory of N + 1 states; curves are computed on first access."""

    sigmas: FloatArray
    """[N + 1] noise level of each state; neighbours differ."""
    gram: FloatArray
    """[N + 1, N + 1] inner products of the states, divided by D."""
    dimension: int = 1
    """D, values per state: products that were summed for each inner product, which determines its rounding error."""
    guidance_gap: GuidanceGap | None = None
    """Difference between the passes with and without the prompt; None if it is not stored."""

    @cached_property
    def values_by_metric(self) -> dict[str, float]:
        """Return the cache of `compute_metric`: the values computed so far, by metric."""
        return {}

    @cached_property
    def norm(self) -> FloatArray:
        """Return [N + 1], |x_i| / sqrt(D)."""
        return np.sqrt(np.maximum(np.diagonal(self.gram), 0))

    @cached_property
    def sigma_steps(self) -> FloatArray:
        """Return [N], sigma_{i+1} - sigma_i; negative."""
        return np.diff(self.sigmas)

    @cached_property
    def step_products(self) -> FloatArray:
        """Return [N, N], inner products of the differences; 0 between states that are equal up to rounding."""
        gram, squared_norms = self.gram, np.diagonal(self.gram)
        step_products = gram[1:, 1:] - gram[1:, :-1] - gram[:-1, 1:] + gram[:-1, :-1]
        is_moving = _zero_rounding_errors(
            np.diagonal(step_products), squared_norms[:-1] + squared_norms[1:]
        ) > np.diagonal(self._step_product_errors)
        return np.where(np.logical_and.outer(is_moving, is_moving), step_products, 0.0)

    @property
    def _relative_rounding_error(self) -> float:
        """Return the rounding error of a difference of inner products, relative to the sum of their magnitudes.

        The error of a sum of D rounded terms stays below sqrt(D) units (Higham and Mary 2019, SIAM J. Sci. Comput. 41);
        summation in blocks lowers it. Sums by torch on a CPU reach 0.6 sqrt(D), for D from 512 to 2.1 million.
        """
        return (ROUNDINGS_PER_DIFFERENCE + math.sqrt(self.dimension)) * UNIT_ROUNDOFF

    @cached_property
    def _step_product_errors(self) -> FloatArray:
        """Return [N, N], largest rounding errors of the differences' inner products."""
        absolute_products = np.abs(self.gram)
        return self._relative_rounding_error * (
            absolute_products[1:, 1:]
            + absolute_products[1:, :-1]
            + absolute_products[:-1, 1:]
            + absolute_products[:-1, :-1]
        )

    @cached_property
    def step_lengths(self) -> FloatArray:
        """Return [N], |d_i| / sqrt(D); 0 between states that are equal up to rounding."""
        return np.sqrt(np.diagonal(self.step_products))

    @cached_property
    def velocity(self) -> FloatArray:
        """Return [N], |d_i| / (sqrt(D) |sigma_{i+1} - sigma_i|); the norm of the model's output only for Euler."""
        return self.step_lengths / np.abs(self.sigma_steps)

    @cached_property
    def turning(self) -> FloatArray:
        """Return [N - 1], angle between d_i and d_{i+1}, radians; exactly 0 or pi if only rounding makes it differ."""
        return _compute_turning_angles(self.step_products, self._step_product_errors)

    @cached_property
    def _velocity_products(self) -> FloatArray:
        """Return [N, N], inner products of v_i = d_i / (sigma_{i+1} - sigma_i)."""
        return self.step_products / np.outer(self.sigma_steps, self.sigma_steps)

    @cached_property
    def acceleration(self) -> FloatArray:
        """Return [N - 1], |v_{i+1} - v_i| / ((sigma_{i+2} - sigma_i) / 2) / sqrt(D): change of velocity per sigma."""
        sigma_step_products = np.outer(self.sigma_steps, self.sigma_steps)
        squared_velocity_changes = _sum_neighbours(self._velocity_products, -1)
        # The products of falling noise levels are positive, so the errors of all terms add up.
        squared_velocity_changes = np.where(
            squared_velocity_changes > _sum_neighbours(self._step_product_errors / sigma_step_products, 1),
            squared_velocity_changes,
            0.0,
        )
        return np.sqrt(squared_velocity_changes) / self._half_spans

    @property
    def _half_spans(self) -> FloatArray:
        """Return [N - 1], half of the noise levels that each pair of steps crosses."""
        return np.abs(self.sigmas[2:] - self.sigmas[:-2]) / 2

    @cached_property
    def curvature(self) -> FloatArray:
        """Return [N - 1], sqrt(D) sqrt(|v|^2 |a|^2 - <v, a>^2) / |v|^3, with derivatives in sigma.

        In the middle of two steps, v = (v_i + v_{i+1}) / 2 and a = (v_{i+1} - v_i) / ((sigma_{i+2} - sigma_i) / 2). The
        area spanned by v and a is that of v_i and v_{i+1}, divided by half the range of noise levels. It is computed
        from their angle, without cancellation.
        """
        area = self.velocity[:-1] * self.velocity[1:] * np.sin(self.turning) / self._half_spans
        cubed_speed = (_sum_neighbours(self._velocity_products, 1) / 4) ** 1.5
        return np.divide(area, cubed_speed, out=np.zeros_like(area), where=cubed_speed > 0)

    @cached_property
    def length(self) -> float:
        """Return the sum of |d_i| / sqrt(D)."""
        return float(self.step_lengths.sum())

    @cached_property
    def chord(self) -> float:
        """Return |x_N - x_0| / sqrt(D)."""
        end_squares = self.gram[0, 0] + self.gram[-1, -1]
        squared_chord = _zero_rounding_errors(end_squares - 2 * self.gram[0, -1], end_squares)
        return float(np.sqrt(squared_chord)) if squared_chord > self._chord_error else 0.0

    @property
    def _chord_error(self) -> float:
        """Return the largest rounding error of the squared chord."""
        return self._relative_rounding_error * float(self.gram[0, 0] + self.gram[-1, -1] + 2 * abs(self.gram[0, -1]))

    @property
    def straightness(self) -> float:
        """Return chord / length: 1 for a straight line, 0 for the Gaussian flow of unit variance, which turns back."""
        return self.chord / self.length if self.length > 0 else float("nan")

    @property
    def detour(self) -> float:
        """Return 1 - straightness; near 0 for flow models, so compare it on a logarithmic scale."""
        detour = 1 - self.straightness
        return 0.0 if abs(detour) < DETOUR_ROUNDING_TOLERANCE else detour

    @property
    def largest_deviation(self) -> float:
        """Return the largest distance of a state from the line through the first and last states, over the chord."""
        gram, absolute_products, chord = self.gram, np.abs(self.gram), self.chord
        if chord == 0:
            return float("nan")
        squared_start_distances = np.diagonal(gram) + gram[0, 0] - 2 * gram[0]
        chord_components = (gram[:, -1] - gram[:, 0] - gram[0, -1] + gram[0, 0]) / chord
        start_errors = self._relative_rounding_error * (
            np.diagonal(absolute_products) + absolute_products[0, 0] + 2 * absolute_products[0]
        )
        along_errors = (
            self._relative_rounding_error
            * (absolute_products[:, -1] + absolute_products[:, 0] + absolute_products[0, -1] + absolute_products[0, 0])
            / chord
        )
        square_errors = (
            start_errors
            + 2 * np.abs(chord_components) * along_errors
            + (chord_components / chord) ** 2 * self._chord_error
        )
        squared_deviations = squared_start_distances - chord_components**2
        return float(np.sqrt(np.where(squared_deviations > square_errors, squared_deviations, 0.0)).max() / chord)

    @property
    def flow_straightness(self) -> float:
        """Return the sum of w_i |(x_N - x_0) / (sigma_N - sigma_0) - v_i|^2 / D; 0 for constant velocity.

        w_i is the share of step i in the range of noise levels (Liu et al. 2022, arXiv 2209.03003).
        """
        sigma_span = self.sigmas[-1] - self.sigmas[0]
        weights = np.abs(self.sigma_steps) / np.abs(self.sigma_steps).sum()
        chord_velocity_products = self.step_products.sum(0) / sigma_span / self.sigma_steps  # <x_N - x_0, v_i> / total
        squared_deviations = (
            self.chord**2 / sigma_span**2 - 2 * chord_velocity_products + np.diagonal(self._velocity_products)
        )
        return float((weights * np.maximum(squared_deviations, 0)).sum())

    @property
    def chord_alignment(self) -> float:
        """Return the mean cosine of the angle between a step and the chord, over steps of non-zero length."""
        length_products = self.step_lengths * self.chord
        is_moving = length_products > 0
        return (
            float((self.step_products.sum(0)[is_moving] / length_products[is_moving]).mean())
            if is_moving.any()
            else float("nan")
        )

    @property
    def total_turning(self) -> float:
        """Return the sum of turning over all states, in radians; a random walk in many dimensions turns pi / 2 at each.

        Steps of length 0 have no direction and are skipped: the angle is between the steps before and after.
        """
        moving_steps = np.flatnonzero(self.step_lengths > 0)
        moving_pairs = np.ix_(moving_steps, moving_steps)
        return float(
            _compute_turning_angles(self.step_products[moving_pairs], self._step_product_errors[moving_pairs]).sum()
        )

    @property
    def mean_curvature(self) -> float:
        """Return the mean curvature, weighted by the length of the path."""
        weights = (self.step_lengths[:-1] + self.step_lengths[1:]) / 2
        return float((weights * self.curvature).sum() / weights.sum()) if weights.sum() > 0 else float("nan")

    @cached_property
    def principal_variances(self) -> FloatArray:
        """Return [N + 1] variances of the states along their principal axes, the largest first."""
        n = len(self.gram)
        centre = np.eye(n) - 1 / n
        variances = np.maximum(np.linalg.eigvalsh(centre @ self.gram @ centre)[::-1], 0) / n
        return _zero_rounding_errors(variances, np.trace(self.gram) / n)

    @property
    def first_pc_variance(self) -> float:
        """Return the share of the variance on the first principal axis. A random walk already has 6 / pi^2 = 0.608."""
        total_variance = self.principal_variances.sum()
        return float(self.principal_variances[0] / total_variance) if total_variance > 0 else float("nan")

    @property
    def effective_dimension(self) -> float:
        """Return the participation ratio (sum of variances)^2 / sum of squared variances; at most N."""
        squares = (self.principal_variances**2).sum()
        return float(self.principal_variances.sum() ** 2 / squares) if squares > 0 else float("nan")

    @property
    def log_volume(self) -> float:
        """Return half the sum of the logarithms of the three largest variances; -inf for a path in a plane."""
        largest_variances = self.principal_variances[:VOLUME_DIMENSIONS]
        # smaller variances are rounding errors
        min_variance = 1e-14 * self.principal_variances[0] if len(self.principal_variances) else 0.0
        return (
            float(0.5 * np.log(largest_variances).sum()) if (largest_variances > min_variance).all() else float("-inf")
        )

    @cached_property
    def clean_distance(self) -> FloatArray:
        """Return [N], |c_i - x_N| / sqrt(D), where c_i = x_i - sigma_i v_i is step i extended to sigma = 0."""
        # c_i = (1 - r) x_i + r x_{i+1} with r = sigma_i / (sigma_i - sigma_{i+1})
        extension_ratio, gram = -self.sigmas[:-1] / self.sigma_steps, self.gram
        squared_norms = np.diagonal(gram)[:-1]
        next_squared_norms = np.diagonal(gram)[1:]
        neighbour_products = np.diagonal(gram, 1)
        squared_clean_norms = (
            (1 - extension_ratio) ** 2 * squared_norms
            + extension_ratio**2 * next_squared_norms
            + 2 * extension_ratio * (1 - extension_ratio) * neighbour_products
        )
        end_products = (1 - extension_ratio) * gram[:-1, -1] + extension_ratio * gram[1:, -1]
        squared_terms = (
            (1 - extension_ratio) ** 2 * squared_norms + extension_ratio**2 * next_squared_norms + gram[-1, -1]
        )
        return np.sqrt(_zero_rounding_errors(squared_clean_norms + gram[-1, -1] - 2 * end_products, squared_terms))

    @property
    def commitment(self) -> float:
        """Return the largest noise level below which `clean_distance` stays within half of its first value.

        The value is interpolated between states; otherwise, it could only be the noise level of a state.
        """
        distances = np.append(self.clean_distance, 0.0)
        half_distance = distances[0] / 2
        distant_states = np.flatnonzero(distances > half_distance)
        if not len(distant_states):  # the path heads for its end from the first step, or all distances are NaN
            return float(self.sigmas[0]) if np.isfinite(distances).all() else float("nan")
        last_distant = distant_states[-1]
        crossing_fraction = (distances[last_distant] - half_distance) / (
            distances[last_distant] - distances[last_distant + 1]
        )
        return float(self.sigmas[last_distant] + crossing_fraction * self.sigma_steps[last_distant])

    def compute_guidance_gap(self, window: tuple[float, float]) -> float:
        """Return the mean of |v_c - v_u| / sqrt(D) over a window of noise levels; NaN if it is not stored."""
        return float("nan") if self.guidance_gap is None else self.guidance_gap.compute_mean(window)

    @property
    def final_norm(self) -> float:
        """Return |x_N| / sqrt(D)."""
        return float(self.norm[-1])

    @property
    def least_norm(self) -> float:
        """Return the smallest |x_i| / sqrt(D)."""
        return float(self.norm.min())


def _zero_rounding_errors(squares: FloatArray | float, terms: FloatArray | float) -> FloatArray:
    """Set to 0 each sum of squares that is so small, compared with its terms, that it is only a rounding error."""
    return np.where(squares > ROUNDING_TOLERANCE * terms, squares, 0.0)


def _compute_turning_angles(step_products: FloatArray, step_product_errors: FloatArray) -> FloatArray:
    """Return the angles between successive steps; 0 if a step has no length.

    Near 0 and pi, a cosine that is wrong by e gives an angle that is wrong by up to sqrt(2 e). Angles that rounding
    cannot distinguish from 0 or pi are therefore 0 or pi.

    Args:
        step_products: [n, n] inner products of the steps.
        step_product_errors: [n, n] their largest rounding errors.
    """
    squared_lengths = np.diagonal(step_products)
    length_products = np.sqrt(squared_lengths[:-1] * squared_lengths[1:])
    is_moving = length_products > 0
    cosines = np.divide(
        np.diagonal(step_products, 1), length_products, out=np.ones_like(length_products), where=is_moving
    )
    relative_length_errors = np.divide(
        np.diagonal(step_product_errors), squared_lengths, out=np.zeros_like(squared_lengths), where=squared_lengths > 0
    )
    cosine_errors = np.divide(
        np.diagonal(step_product_errors, 1), length_products, out=np.zeros_like(length_products), where=is_moving
    )
    # the last term: a product, a root, a division, 1 - cosine
    cosine_errors += (relative_length_errors[:-1] + relative_length_errors[1:]) / 2 + 4 * UNIT_ROUNDOFF
    angles = np.arccos(np.clip(cosines, -1, 1))
    return np.where(1 - cosines <= cosine_errors, 0.0, np.where(1 + cosines <= cosine_errors, np.pi, angles))


def _sum_neighbours(products: FloatArray, sign: int) -> FloatArray:
    """Return |v_i + v_{i+1}|^2 (with sign -1, |v_i - v_{i+1}|^2) from the inner products of vectors v_i."""
    squares = np.diagonal(products)
    return np.maximum(squares[:-1] + squares[1:] + 2 * sign * np.diagonal(products, 1), 0)


def build_trajectory(gram: FloatArray, sigmas: FloatArray, dimension: int) -> Trajectory:
    """Build a trajectory from the inner products of its states.

    Of successive states with equal noise levels (Heun's method), only the last is kept.

    Args:
        gram: [N + 1, N + 1] float64 inner products of the states.
        sigmas: [N + 1] noise levels of the states.
        dimension: number of values per state.

    Raises:
        NoGeometryError: there are fewer than three states.
        DamagedGeometryError: values are not finite, shapes do not match, or no denoising has these inner products or
            noise levels.
    """
    gram, sigmas = np.asarray(gram, dtype=np.float64), np.asarray(sigmas, dtype=np.float64)
    if gram.shape != (len(sigmas), len(sigmas)):
        raise DamagedGeometryError(f"inner products of shape {gram.shape} do not match {len(sigmas)} noise levels")
    if not (np.isfinite(gram).all() and np.isfinite(sigmas).all()):
        raise DamagedGeometryError("the stored inner products contain NaN or infinity")
    if sigmas.min() < 0 or sigmas.max() > MAX_SIGMA or (np.diff(sigmas) > 0).any():
        raise DamagedGeometryError("the stored noise levels are damaged: they must fall, from at most 1 to at least 0")
    norm_bounds = np.sqrt(np.maximum(np.diagonal(gram), 0)) * np.sqrt(1 + INNER_PRODUCT_TOLERANCE)
    with np.errstate(over="ignore"):
        bounds = np.outer(norm_bounds, norm_bounds)
        asymmetry = np.abs(gram - gram.T)
    is_possible = (np.diagonal(gram) >= 0).all() and (np.abs(gram) <= bounds).all()
    if not is_possible or (asymmetry > INNER_PRODUCT_TOLERANCE * bounds).any():
        raise DamagedGeometryError("the stored inner products are damaged: no set of states has these inner products")
    distinct_indices = np.flatnonzero(mark_last_repeats(sigmas))
    if len(distinct_indices) < 3:
        raise NoGeometryError(f"{len(distinct_indices)} states are stored, but an angle needs three: store more steps")
    return Trajectory(sigmas[distinct_indices], gram[np.ix_(distinct_indices, distinct_indices)] / dimension, dimension)
