"""What a trajectory is held against: paths that mean nothing, with the same noise levels.

Each null is a Gram matrix, from which the same functions compute the same metrics.
"""

import numpy as np

from wantui.analysis.trajectory import Floats, Trajectory


def random_walk(found: Trajectory) -> Trajectory:
    """Steps of the same lengths in directions that have nothing to do with each other, in many dimensions.

    Its first principal axes take 6 / (pi k)^2 of the variance (arXiv 1806.08805), its straightness is 1 / sqrt(N) for
    equal steps, and it turns by pi / 2 at every state.
    """
    travelled = np.concatenate([[0.0], np.cumsum(found.lengths**2)])
    gram = found.gram[0, 0] + np.minimum.outer(travelled, travelled)
    return Trajectory(found.sigmas, gram)


def gaussian_flow(sigmas: Floats, variances: Floats) -> Trajectory:
    """The exact flow to Gaussian data with these variances, in many dimensions.

    Of data N(0, v) the path is x_sigma = sqrt((1 - sigma)^2 v + sigma^2) x_0 in each axis: whatever structure it has,
    the spectrum alone has made.

    Args:
        variances: one for each equally large part of the axes, as the mean square of each channel.
    """
    scale = np.sqrt((1 - sigmas[:, None]) ** 2 * variances + sigmas[:, None] ** 2)
    return Trajectory(np.asarray(sigmas, dtype=np.float64), scale @ scale.T / len(variances))
