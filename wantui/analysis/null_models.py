"""Null models of a trajectory: random walks, and the Gaussian flow to the final states.

Each null model is a `Trajectory`, so that the same functions compute its metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.comparability import VideoNamer
from wantui.analysis.sampler_response import compute_sampler_response
from wantui.analysis.statistics import SEED
from wantui.analysis.trajectory import Floats, NoGeometryError, Trajectory
from wantui.analysis.video import Video
from wantui.schedule import UnknownSamplerError

DRAWN_PATHS = 32
"""Number of drawn paths of a Gaussian flow, over which metrics are averaged."""
MIN_COVARIANCE_VIDEOS = 50
"""Number of videos below which the covariance, of rank videos - 1, is visibly too small."""


def compute_random_walk_null(path: Trajectory) -> Trajectory:
    """Return a random walk with the step lengths of a path, in independent directions of many dimensions.

    Its k-th principal axis has 6 / (pi k)^2 of the variance (arXiv 1806.08805). For N equal steps its straightness is
    1 / sqrt(N). It turns by pi / 2 at every state.
    """
    travelled = np.concatenate([[0.0], np.cumsum(path.lengths**2)])
    gram = path.gram[0, 0] + np.minimum.outer(travelled, travelled)
    return Trajectory(path.sigmas, gram)


@dataclass(frozen=True)
class GaussianData:
    """Normal distribution with the mean and covariance of some states."""

    count: int
    """Number of states of the estimate."""
    dimension: int
    """Number of values of a state."""
    mean_square: float
    """Squared norm of the mean."""
    variances: Floats
    """[k] variances along the principal axes, of which there are at most count - 1; 0 along all other axes."""
    mean_components: Floats
    """[k] components of the mean along the principal axes."""

    @classmethod
    def estimate(cls, states: Floats, dimension: int) -> "GaussianData":
        """Estimate mean and covariance from states [n, values], or from a projection that preserves inner products.

        The axes come from the n x n inner products (the dual problem), because n is far below the number of values.
        """
        states = np.asarray(states, dtype=np.float64)
        n, mean = len(states), states.mean(0)
        centred = states - mean
        squares, vectors = np.linalg.eigh(centred @ centred.T)
        is_significant = squares > max(1e-12 * squares[-1], 1e-24 * n * float(mean @ mean), 1e-300)
        squares, vectors = squares[is_significant], vectors[:, is_significant]
        along = (centred @ mean) @ vectors / np.sqrt(squares)
        return cls(n, dimension, float(mean @ mean), squares / max(n - 1, 1), along)


def draw_gaussian_flow(data: GaussianData, sigmas: Floats, sampler: str, draws: int = DRAWN_PATHS) -> list[Trajectory]:
    """Draw paths from noise to Gaussian data, as a sampler integrates them.

    Args:
        sigmas: [S + 1] noise levels of all states of the sampler; of repeated levels (Heun) the last state counts.

    Raises:
        UnknownSamplerError: the sampler is unknown.
    """
    return draw_paths(data, sigmas, compute_sampler_response(sampler, sigmas, data.variances), draws)


def draw_paths(data: GaussianData, sigmas: Floats, factors: Floats, draws: int = DRAWN_PATHS) -> list[Trajectory]:
    """Draw paths from noise to Gaussian data, given the response of an integrator.

    The flow to N(mean, covariance) is x_sigma = (1 - sigma) mean + sum_k a_k(sigma) z_k u_k + sigma z_rest, with z the
    initial noise. It has neither guidance nor rounding.

    Args:
        factors: [S + 1, k], a_k for the variance v_k of axis u_k: the response of a sampler, or
            sqrt((1 - sigma)^2 v_k + sigma^2) for the exact flow.
    """
    sigmas = np.asarray(sigmas, dtype=np.float64)
    is_distinct = np.append(np.diff(sigmas) != 0, True)
    sigmas, factors = sigmas[is_distinct], factors[is_distinct]
    random, k = np.random.default_rng(SEED), len(data.variances)
    off_axis_variance = max(data.mean_square - float((data.mean_components**2).sum()), 0.0)
    paths = []
    for _ in range(draws):
        # One direction off the axes is that of the mean, so its component g enters both rest and off_axis_mean_product.
        g = float(random.standard_normal()) if data.dimension > k else 0.0
        off_axis_square = g**2 + (float(random.chisquare(data.dimension - k - 1)) if data.dimension > k + 1 else 0.0)
        off_axis_mean_product = np.sqrt(off_axis_variance) * g
        paths.append(
            compute_path_from_noise(
                data, sigmas, factors, random.standard_normal(k), off_axis_square, off_axis_mean_product
            )
        )
    return paths


def compute_path_from_noise(
    data: GaussianData,
    sigmas: Floats,
    factors: Floats,
    axis_components: Floats,
    off_axis_square: float,
    off_axis_mean_product: float,
) -> Trajectory:
    """Return the path from one noise z.

    Args:
        factors: [S + 1, k] response of each axis.
        axis_components: [k] components of z along the axes.
        off_axis_square: squared norm of the part of z off the axes.
        off_axis_mean_product: inner product of that part with the mean.
    """
    # Samplers treat the noise as a state of their first noise level, which may be slightly below 1.
    missing, shrink = 1 - sigmas[0], sigmas / sigmas[0]
    mean_rest = data.mean_square - float((data.mean_components**2).sum())
    axis_components = axis_components - missing * data.mean_components
    off_axis_square += missing**2 * mean_rest - 2 * missing * off_axis_mean_product
    with_mean = factors @ (data.mean_components * axis_components) + shrink * (
        off_axis_mean_product - missing * mean_rest
    )
    gram = (factors * axis_components**2) @ factors.T + np.outer(shrink, shrink) * off_axis_square
    gram += np.outer(1 - sigmas, 1 - sigmas) * data.mean_square
    gram += np.outer(1 - sigmas, with_mean) + np.outer(with_mean, 1 - sigmas)
    return Trajectory(sigmas, gram / data.dimension)


@dataclass(frozen=True)
class GaussianNull:
    """Gaussian flow to the final states of some videos, or the reason why there is none."""

    paths: tuple[Trajectory, ...] = ()
    count: int = 0
    """Number of videos whose final states determine the flow."""
    sampler: str = ""
    """Sampler that integrates the flow; empty if there is no flow."""
    reason: str = ""

    @property
    def description(self) -> str:
        if not self.paths:
            return f"no Gaussian flow: {self.reason}"
        text = (
            f"Gaussian flow to the mean and covariance of {self.count} final states, integrated with {self.sampler}, "
            "without guidance"
        )
        if self.count < MIN_COVARIANCE_VIDEOS:
            text += f"; with under {MIN_COVARIANCE_VIDEOS} videos the covariance is too small and the null too straight"
        return text


def build_gaussian_null(videos: Sequence[Video], final: Floats | None = None) -> GaussianNull:
    """Return the Gaussian flow to the final states of videos with equal settings.

    Args:
        final: [videos, k] projections of the final states, if already loaded.
    """
    usable = [video for video in videos if video.trajectory is not None]
    if len(usable) < 2:
        return GaussianNull(
            count=len(usable),
            reason="a covariance needs at least two videos with the same settings",
        )
    names = VideoNamer(videos)
    states: list[NDArray[np.floating]] = []
    for index, video in enumerate(usable):
        try:
            states.append(video.projected_path()[1][-1] if final is None else final[index])
            if index == 0:
                sigmas = video.noise_levels()
        except NoGeometryError as error:
            return GaussianNull(count=len(usable), reason=f"{names(video)}: {error}")
        if len(states[-1]) != len(states[0]):
            sizes = f"{len(states[-1])} values, but {len(states[0])} in {names(usable[0])}"
            return GaussianNull(count=len(usable), reason=f"{names(video)}: its final state has {sizes}")
        if not np.isfinite(states[-1]).all():
            return GaussianNull(count=len(usable), reason=f"{names(video)}: its final state contains NaN or infinity")
    first = usable[0]
    assert first.trajectory is not None
    sampler = str(first.settings.get("sampler", ""))
    try:
        paths = draw_gaussian_flow(GaussianData.estimate(np.stack(states), first.dimension), sigmas, sampler)
    except UnknownSamplerError as error:
        return GaussianNull(count=len(usable), reason=str(error))
    stored = first.trajectory.sigmas
    if len(stored) < len(paths[0].sigmas):  # computed from latents that were stored at intervals
        chosen = [int(np.flatnonzero(paths[0].sigmas == sigma)[-1]) for sigma in stored]
        paths = [Trajectory(stored, path.gram[np.ix_(chosen, chosen)]) for path in paths]
    return GaussianNull(tuple(paths), len(usable), sampler)


def build_gaussian_null_per_video(videos: Sequence[Video]) -> list[GaussianNull]:
    """Return for each video the Gaussian flow to the final states of all videos with its batch, prompt and weights."""

    def kind(video: Video) -> tuple[object, ...]:
        return video.folder, video.variation, video.prompt, video.weights

    members: dict[tuple[object, ...], list[Video]] = {}
    for video in videos:
        members.setdefault(kind(video), []).append(video)
    nulls = {key: build_gaussian_null(of_kind) for key, of_kind in members.items()}
    return [nulls[kind(video)] for video in videos]
