"""Null models of a trajectory: paths that mean nothing, with the same noise levels.

Each null is a Gram matrix, from which the same functions compute the same metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.sampler_response import sampler_response
from wantui.analysis.statistics import SEED
from wantui.analysis.trajectory import Floats, NoGeometryError, Trajectory
from wantui.analysis.video import Video
from wantui.schedule import UnknownSamplerError

DRAWS = 32
"""Paths of the Gaussian flow that are drawn; their metrics are averaged."""
ENOUGH_VIDEOS = 50
"""Videos below which the covariance, of rank videos - 1, is visibly too small."""


def random_walk(path: Trajectory) -> Trajectory:
    """Return steps of the same lengths in directions that have nothing to do with each other, in many dimensions.

    Its first principal axes take 6 / (pi k)^2 of the variance (arXiv 1806.08805), its straightness is 1 / sqrt(N) for
    equal steps, and it turns by pi / 2 at every state.
    """
    travelled = np.concatenate([[0.0], np.cumsum(path.lengths**2)])
    gram = path.gram[0, 0] + np.minimum.outer(travelled, travelled)
    return Trajectory(path.sigmas, gram)


@dataclass(frozen=True)
class GaussianData:
    """A normal distribution with the mean and covariance of some states: all that the Gaussian flow uses."""

    count: int
    """States that it was estimated from."""
    dimension: int
    """Values of a state."""
    mean_square: float
    """|mean|^2."""
    variances: Floats
    """[k] along the principal axes, at most count - 1 of them; 0 along all others."""
    mean_along: Floats
    """[k], the mean's components along those axes."""

    @classmethod
    def of(cls, states: Floats, dimension: int) -> "GaussianData":
        """Estimate from states [n, values], or a projection that keeps their inner products.

        The axes are those of the n x n inner products (the dual problem), as n is far below the number of values.
        """
        states = np.asarray(states, dtype=np.float64)
        n, mean = len(states), states.mean(0)
        centred = states - mean
        squares, vectors = np.linalg.eigh(centred @ centred.T)
        kept = squares > max(1e-12 * squares[-1], 1e-24 * n * float(mean @ mean), 1e-300)
        squares, vectors = squares[kept], vectors[:, kept]
        along = (centred @ mean) @ vectors / np.sqrt(squares)
        return cls(n, dimension, float(mean @ mean), squares / max(n - 1, 1), along)


def gaussian_flow(data: GaussianData, sigmas: Floats, sampler: str, draws: int = DRAWS) -> list[Trajectory]:
    """Return paths from drawn noises to Gaussian data, as a sampler integrates them.

    Args:
        sigmas: [S + 1] of every state of the sampler; a noise level that comes twice (Heun) counts the second time.

    Raises:
        UnknownSamplerError: names those that are known.
    """
    return drawn_paths(data, sigmas, sampler_response(sampler, sigmas, data.variances), draws)


def drawn_paths(data: GaussianData, sigmas: Floats, factors: Floats, draws: int = DRAWS) -> list[Trajectory]:
    """Return paths from drawn noises to Gaussian data.

    The flow to N(mean, covariance) is x_sigma = (1 - sigma) mean + sum_k a_k(sigma) z_k u_k + sigma z_rest, with z the
    initial noise. It has neither guidance nor rounding.

    Args:
        factors: [S + 1, k], a_k for the variance v_k of axis u_k: a sampler's, or sqrt((1 - sigma)^2 v_k + sigma^2) of
            the exact flow.
    """
    sigmas = np.asarray(sigmas, dtype=np.float64)
    kept = np.append(np.diff(sigmas) != 0, True)
    sigmas, factors = sigmas[kept], factors[kept]
    random, k = np.random.default_rng(SEED), len(data.variances)
    left = max(data.mean_square - float((data.mean_along**2).sum()), 0.0)
    paths = []
    for _ in range(draws):
        # One of the directions off the axes is that of the mean, so that its component g counts in both numbers.
        g = float(random.standard_normal()) if data.dimension > k else 0.0
        rest = g**2 + (float(random.chisquare(data.dimension - k - 1)) if data.dimension > k + 1 else 0.0)
        mean_along_rest = np.sqrt(left) * g
        paths.append(path_of_noise(data, sigmas, factors, random.standard_normal(k), rest, mean_along_rest))
    return paths


def path_of_noise(
    data: GaussianData, sigmas: Floats, factors: Floats, along: Floats, rest: float, mean_along_rest: float
) -> Trajectory:
    """Return the path from one noise z.

    Args:
        factors: [S + 1, k] of each axis.
        along: [k], components of z along the axes.
        rest: |z|^2 off the axes.
        mean_along_rest: inner product of that part with the mean.
    """
    # Samplers take the noise for a state of their first noise level, which may be a little below 1.
    missing, shrink = 1 - sigmas[0], sigmas / sigmas[0]
    mean_rest = data.mean_square - float((data.mean_along**2).sum())
    along = along - missing * data.mean_along
    rest += missing**2 * mean_rest - 2 * missing * mean_along_rest
    with_mean = factors @ (data.mean_along * along) + shrink * (mean_along_rest - missing * mean_rest)
    gram = (factors * along**2) @ factors.T + np.outer(shrink, shrink) * rest
    gram += np.outer(1 - sigmas, 1 - sigmas) * data.mean_square
    gram += np.outer(1 - sigmas, with_mean) + np.outer(with_mean, 1 - sigmas)
    return Trajectory(sigmas, gram / data.dimension)


@dataclass(frozen=True)
class GaussianNull:
    """The Gaussian flow to the final states of some videos, or why there is none."""

    paths: tuple[Trajectory, ...] = ()
    count: int = 0
    """Videos whose final states it knows."""
    sampler: str = ""
    """Sampler that integrates it; empty where there is no flow."""
    reason: str = ""

    @property
    def in_words(self) -> str:
        if not self.paths:
            return f"no Gaussian flow: {self.reason}"
        text = (
            f"Gaussian flow to the mean and covariance of {self.count} final states, integrated with {self.sampler}, "
            "without guidance"
        )
        if self.count < ENOUGH_VIDEOS:
            text += (
                f"; from fewer than {ENOUGH_VIDEOS} videos the covariance is too small, and the null straighter than "
                "it should be"
            )
        return text


def gaussian_null(videos: Sequence[Video], final: Floats | None = None) -> GaussianNull:
    """Return the Gaussian flow to the final states of videos that share their settings.

    Args:
        final: [videos, k] projections of the final states, where they were read before.
    """
    usable = [video for video in videos if video.trajectory is not None]
    if len(usable) < 2:
        return GaussianNull(
            count=len(usable),
            reason="a covariance needs at least two videos with the same settings",
        )
    try:
        states = [video.projection()[-1] for video in usable] if final is None else list(final)
        sigmas = usable[0].noise_levels()
    except NoGeometryError as error:
        return GaussianNull(count=len(usable), reason=str(error))
    first = usable[0]
    assert first.trajectory is not None
    if len({len(state) for state in states}) > 1 or not all(np.isfinite(state).all() for state in states):
        return GaussianNull(count=len(usable), reason="the final states differ in size, or hold NaN")
    sampler = str(first.settings.get("sampler", ""))
    try:
        paths = gaussian_flow(GaussianData.of(np.stack(states), first.dimension), sigmas, sampler)
    except UnknownSamplerError as error:
        return GaussianNull(count=len(usable), reason=str(error))
    stored = first.trajectory.sigmas
    if len(stored) < len(paths[0].sigmas):  # of latents that were stored at intervals
        chosen = [int(np.flatnonzero(paths[0].sigmas == sigma)[-1]) for sigma in stored]
        paths = [Trajectory(stored, path.gram[np.ix_(chosen, chosen)]) for path in paths]
    return GaussianNull(tuple(paths), len(usable), sampler)


def null_of_each(videos: Sequence[Video]) -> list[GaussianNull]:
    """Return for each video the Gaussian flow to the final states of those with its batch, prompt and weights."""

    def kind(video: Video) -> tuple[object, ...]:
        return video.folder, video.variation, video.prompt, video.weights

    kinds = {kind(video): video for video in videos}
    nulls = {key: gaussian_null([video for video in videos if kind(video) == key]) for key in kinds}
    return [nulls[kind(video)] for video in videos]
