"""Null models of a trajectory: random walks, and the Gaussian flow to the final states.

Each null model is a `Trajectory`, so that the same functions compute its metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray, mark_last_repeats
from wantui.analysis.comparability import VideoNamer
from wantui.analysis.sampler_response import NoResponseError, compute_sampler_response
from wantui.analysis.statistics import RANDOM_SEED
from wantui.analysis.trajectory import NoGeometryError, Trajectory
from wantui.analysis.video import Video
from wantui.samplers import UnknownSamplerError

DRAWN_PATH_COUNT = 32
"""Number of paths that are drawn from a Gaussian flow, over which metrics are averaged."""
MIN_COVARIANCE_VIDEOS = 50
"""Number of videos below which the covariance, of rank videos - 1, is visibly too small."""


def compute_random_walk_null(trajectory: Trajectory) -> Trajectory:
    """Return a random walk with the step lengths of a path, in independent directions of many dimensions.

    Its k-th principal axis has 6 / (pi k)^2 of the variance (arXiv 1806.08805). For N equal steps its straightness is
    1 / sqrt(N). It turns by pi / 2 at every state.
    """
    squared_travel = np.concatenate([[0.0], np.cumsum(trajectory.step_lengths**2)])
    gram = trajectory.gram[0, 0] + np.minimum.outer(squared_travel, squared_travel)
    return Trajectory(trajectory.sigmas, gram)


@dataclass(frozen=True)
class GaussianData:
    """Normal distribution with the mean and covariance of some states."""

    dimension: int
    """Number of values per state."""
    squared_mean_norm: float
    """Squared norm of the mean."""
    variances: FloatArray
    """[k] variances along the at most n - 1 principal axes; 0 along all other axes."""
    mean_components: FloatArray
    """[k] components of the mean along the principal axes."""

    @classmethod
    def estimate_distribution(cls, states: FloatArray, dimension: int) -> "GaussianData":
        """Estimate mean and covariance from states [n, values], or from a projection that preserves inner products.

        The axes come from the n x n inner products (the dual problem), because n is far below the number of values.
        """
        states = np.asarray(states, dtype=np.float64)
        n, mean = len(states), states.mean(0)
        centred = states - mean
        eigenvalues, eigenvectors = np.linalg.eigh(centred @ centred.T)
        is_significant = eigenvalues > max(1e-12 * eigenvalues[-1], 1e-24 * n * float(mean @ mean), 1e-300)
        eigenvalues, eigenvectors = eigenvalues[is_significant], eigenvectors[:, is_significant]
        mean_components = (centred @ mean) @ eigenvectors / np.sqrt(eigenvalues)
        return cls(dimension, float(mean @ mean), eigenvalues / max(n - 1, 1), mean_components)


def draw_gaussian_flow(
    data: GaussianData, sigmas: FloatArray, sampler_name: str, path_count: int = DRAWN_PATH_COUNT
) -> list[Trajectory]:
    """Draw paths from noise to Gaussian data, as a sampler integrates them.

    Args:
        sigmas: [S + 1] noise levels of all states of the sampler; of repeated levels (Heun) the last state counts.

    Raises:
        UnknownSamplerError: the sampler is unknown.
        NoResponseError: the sampler adds noise in each step.
    """
    return draw_gaussian_paths(data, sigmas, compute_sampler_response(sampler_name, sigmas, data.variances), path_count)


def draw_gaussian_paths(
    data: GaussianData, sigmas: FloatArray, response: FloatArray, path_count: int = DRAWN_PATH_COUNT
) -> list[Trajectory]:
    """Draw paths from noise to Gaussian data, given the response of an integrator.

    The flow to N(mean, covariance) is x_sigma = (1 - sigma) mean + sum_k a_k(sigma) z_k u_k + sigma z_rest, with z the
    initial noise. It has neither guidance nor rounding.

    Args:
        response: [S + 1, k], a_k for the variance v_k of axis u_k: the response of a sampler, or
            sqrt((1 - sigma)^2 v_k + sigma^2) for the exact flow.
    """
    sigmas = np.asarray(sigmas, dtype=np.float64)
    is_distinct = mark_last_repeats(sigmas)
    sigmas, response = sigmas[is_distinct], response[is_distinct]
    generator, k = np.random.default_rng(RANDOM_SEED), len(data.variances)
    squared_off_axis_mean = max(data.squared_mean_norm - float((data.mean_components**2).sum()), 0.0)
    trajectories = []
    for _ in range(path_count):
        # One direction off the axes is that of the mean, so its component g enters both rest and off_axis_mean_product.
        g = float(generator.standard_normal()) if data.dimension > k else 0.0
        off_axis_square = g**2 + (float(generator.chisquare(data.dimension - k - 1)) if data.dimension > k + 1 else 0.0)
        off_axis_mean_product = np.sqrt(squared_off_axis_mean) * g
        trajectories.append(
            compute_trajectory_from_noise(
                data, sigmas, response, generator.standard_normal(k), off_axis_square, off_axis_mean_product
            )
        )
    return trajectories


def compute_trajectory_from_noise(
    data: GaussianData,
    sigmas: FloatArray,
    response: FloatArray,
    axis_components: FloatArray,
    off_axis_square: float,
    off_axis_mean_product: float,
) -> Trajectory:
    """Return the path from one noise z.

    Args:
        response: [S + 1, k] response of each axis.
        axis_components: [k] components of z along the axes.
        off_axis_square: squared norm of z's component off the axes.
        off_axis_mean_product: inner product of that part with the mean.
    """
    # Samplers treat the noise as a state of their first noise level, which may be slightly below 1.
    initial_data_share, noise_shares = 1 - sigmas[0], sigmas / sigmas[0]
    squared_off_axis_mean = data.squared_mean_norm - float((data.mean_components**2).sum())
    axis_components = axis_components - initial_data_share * data.mean_components
    off_axis_square += initial_data_share**2 * squared_off_axis_mean - 2 * initial_data_share * off_axis_mean_product
    mean_products = response @ (data.mean_components * axis_components) + noise_shares * (
        off_axis_mean_product - initial_data_share * squared_off_axis_mean
    )
    gram = (response * axis_components**2) @ response.T + np.outer(noise_shares, noise_shares) * off_axis_square
    gram += np.outer(1 - sigmas, 1 - sigmas) * data.squared_mean_norm
    gram += np.outer(1 - sigmas, mean_products) + np.outer(mean_products, 1 - sigmas)
    return Trajectory(sigmas, gram / data.dimension)


@dataclass(frozen=True)
class GaussianNull:
    """Gaussian flow to the final states of some videos, or the reason why it cannot be computed."""

    trajectories: tuple[Trajectory, ...] = ()
    video_count: int = 0
    """Number of videos whose final states determine the flow."""
    sampler_name: str = ""
    """Sampler that integrates the flow; empty if there is no flow."""
    missing_reason: str = ""

    @property
    def description(self) -> str:
        if not self.trajectories:
            return f"no Gaussian flow: {self.missing_reason}"
        description = (
            f"Gaussian flow to the mean and covariance of {self.video_count} final states, integrated with "
            f"{self.sampler_name}, without guidance"
        )
        if self.video_count < MIN_COVARIANCE_VIDEOS:
            description += (
                f"; with fewer than {MIN_COVARIANCE_VIDEOS} videos the covariance is underestimated, so the "
                "null paths are too straight"
            )
        return description


def build_gaussian_null(videos: Sequence[Video], final_states: FloatArray | None = None) -> GaussianNull:
    """Return the Gaussian flow to the final states of videos with equal settings.

    Args:
        final_states: [videos with a trajectory, k] projections of their final states, if already loaded.
    """
    usable_videos = [video for video in videos if video.trajectory is not None]

    def refuse(reason: str) -> GaussianNull:
        return GaussianNull(video_count=len(usable_videos), missing_reason=reason)

    if len(usable_videos) < 2:
        return refuse("a covariance needs at least two videos with the same settings")
    namer = VideoNamer(videos)
    states: list[NDArray[np.floating]] = []
    for index, video in enumerate(usable_videos):
        try:
            states.append(video.load_projected_path()[1][-1] if final_states is None else final_states[index])
            if index == 0:
                sigmas = video.load_noise_levels()
        except NoGeometryError as error:
            return refuse(f"{namer.name_video(video)}: {error}")
        if len(states[-1]) != len(states[0]):
            sizes_text = f"{len(states[-1])} values, but {len(states[0])} in {namer.name_video(usable_videos[0])}"
            return refuse(f"{namer.name_video(video)}: its final state has {sizes_text}")
        if not np.isfinite(states[-1]).all():
            return refuse(f"{namer.name_video(video)}: its final state contains NaN or infinity")
    first_video = usable_videos[0]
    assert first_video.trajectory is not None
    sampler_name = str(first_video.settings.get("sampler", ""))
    try:
        data = GaussianData.estimate_distribution(np.stack(states), first_video.dimension)
        trajectories = draw_gaussian_flow(data, sigmas, sampler_name)
    except (UnknownSamplerError, NoResponseError) as error:
        return refuse(str(error))
    stored_sigmas = first_video.trajectory.sigmas
    if len(stored_sigmas) < len(trajectories[0].sigmas):  # computed from latents that were stored at intervals
        state_indices = [int(np.flatnonzero(trajectories[0].sigmas == sigma)[-1]) for sigma in stored_sigmas]
        trajectories = [
            Trajectory(stored_sigmas, path.gram[np.ix_(state_indices, state_indices)]) for path in trajectories
        ]
    return GaussianNull(tuple(trajectories), len(usable_videos), sampler_name)


def build_gaussian_nulls_per_video(videos: Sequence[Video]) -> list[GaussianNull]:
    """Return for each video the Gaussian flow to the final states of all videos with its batch, prompt and weights."""

    def get_kind(video: Video) -> tuple[object, ...]:
        return video.folder, video.variation, video.prompt, video.word_weights

    videos_by_kind: dict[tuple[object, ...], list[Video]] = {}
    for video in videos:
        videos_by_kind.setdefault(get_kind(video), []).append(video)
    nulls_by_kind = {kind: build_gaussian_null(kind_members) for kind, kind_members in videos_by_kind.items()}
    return [nulls_by_kind[get_kind(video)] for video in videos]
