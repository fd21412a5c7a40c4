"""The geometry of one trajectory, from its Gram matrix: lengths and angles need inner products and nothing else.

With stored states x_0 (the initial noise) to x_N and differences d_i = x_{i+1} - x_i,
<d_i, d_j> = G_{i+1,j+1} - G_{i+1,j} - G_{i,j+1} + G_{i,j}. All in float64. Lengths are divided by sqrt(D),
where D is the number of values of a state, so that sizes can be compared.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.errors import UserError

Floats = NDArray[np.float64]


class TooShort(UserError):
    """A trajectory with fewer states than its geometry needs, or with values that are not finite."""


@dataclass(frozen=True)
class Trajectory:
    """Curves and sums of one trajectory of N + 1 states."""

    sigmas: Floats
    """[N + 1], noise level of each state."""
    norm: Floats
    """[N + 1], |x_i| / sqrt(D)."""
    velocity: Floats
    """[N], |d_i| / (sqrt(D) |sigma_{i+1} - sigma_i|)."""
    turning: Floats
    """[N - 1], angle between d_i and d_{i+1}, radians."""
    length: float
    """Sum of |d_i| / sqrt(D)."""
    chord: float
    """|x_N - x_0| / sqrt(D)."""

    @property
    def straightness(self) -> float:
        """Chord over length: 1 is a straight line (arXiv 2209.03003 measures the same by its square)."""
        return self.chord / self.length if self.length > 0 else float("nan")

    @property
    def total_turning(self) -> float:
        """Radians, over all steps; a random walk in many dimensions turns by pi / 2 at each."""
        return float(self.turning.sum())


def trajectory(gram: Floats, sigmas: Floats, dimension: int) -> Trajectory:
    """The geometry of one trajectory.

    Args:
        gram: [N + 1, N + 1] float64, inner products of the states.
        sigmas: [N + 1].
        dimension: number of values of a state.

    Raises:
        TooShort: fewer than three states, values that are not finite, or noise levels that do not change.
    """
    gram, sigmas = np.asarray(gram, dtype=np.float64), np.asarray(sigmas, dtype=np.float64)
    n = len(gram)
    if n < 3:
        raise TooShort(f"{n} states are stored, and an angle needs three: store more steps")
    if not (np.isfinite(gram).all() and np.isfinite(sigmas).all()):
        raise TooShort("the stored inner products hold NaN or infinity")
    spans = np.abs(np.diff(sigmas))
    if not spans.all():
        raise TooShort("two stored states have the same noise level")
    steps = gram[1:, 1:] - gram[1:, :-1] - gram[:-1, 1:] + gram[:-1, :-1]
    lengths = np.sqrt(np.maximum(np.diagonal(steps), 0))
    along = np.diagonal(steps, 1)
    both = lengths[:-1] * lengths[1:]
    cosine = np.divide(along, both, out=np.ones_like(along), where=both > 0)
    scale = np.sqrt(dimension)
    chord = np.sqrt(max(gram[0, 0] + gram[-1, -1] - 2 * gram[0, -1], 0.0))
    return Trajectory(
        sigmas,
        np.sqrt(np.diagonal(gram)) / scale,
        lengths / scale / spans,
        np.arccos(np.clip(cosine, -1, 1)),
        float(lengths.sum() / scale),
        float(chord / scale),
    )
