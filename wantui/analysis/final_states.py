"""Final states of matched groups: distances, spread of each group, and tests of spread and location."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.comparability import VideoNamer
from wantui.analysis.dispersion import (
    MIN_VIDEOS,
    Floats,
    PermutationTest,
    compute_distances_to_median,
    compute_median_weights,
    compute_squared_distances,
    compute_total_variance,
    compute_unbiased_squared_mean,
    run_permanova,
    run_permdisp,
)
from wantui.analysis.groups import Group, MatchedGroups
from wantui.analysis.statistics import SEED, run_sign_flip_test
from wantui.analysis.trajectory import NoGeometryError
from wantui.analysis.video import Video

SPREAD_METRIC = "spread"
"""Name of the metric "spread": distance of the final latents to the spatial median of their group, / sqrt(D)."""
RELABELLING_COUNT = 500
"""Number of random exchanges of groups, over all pairs."""


VideoKey = tuple[Path, int]
"""Batch folder and number of a video."""


class UnusableProjectionsError(NoGeometryError):
    """Raised if the projections of some videos cannot be used; the message names the first of them.

    Args:
        groups: groups that contain the videos.
        reasons: reasons by video.
    """

    def __init__(self, groups: Sequence[Group], reasons: Mapping[VideoKey, str]) -> None:
        every = [video for group in groups for video in group.videos]
        names = VideoNamer(every)
        unusable = [video for video in every if get_video_key(video) in reasons]
        text = f"{names(unusable[0])}: {reasons[get_video_key(unusable[0])]}"
        if len(unusable) > 1:
            text += f" ({len(unusable) - 1} of the other videos cannot be used either)"
        super().__init__(text)
        self.reasons = reasons


@dataclass(frozen=True)
class DispersionCurve:
    """Dispersion of the videos of a group at every noise level, whatever the stride of the trajectories."""

    sigmas: Floats
    """[N + 1] noise levels, without those of Heun's predictors."""
    values: Floats
    """[N + 1] sqrt(W^2 / D) at each noise level."""


@dataclass(frozen=True)
class FinalStates:
    """Final states of all groups, ordered by group, with their distances and dispersion."""

    distances: Floats
    """[videos, videos] squared distances / D."""
    points: Floats
    """[groups, videos, k] final states / sqrt(D)."""
    spread: Mapping[str, Floats]
    """Distance of each video to the spatial median of its group, by group."""
    dimension: int
    """D, values of a state."""
    curves: Mapping[str, DispersionCurve]
    """Dispersion by group."""

    @classmethod
    def load(cls, groups: Sequence[Group]) -> "FinalStates":
        """Load the stored projections of groups of equal size.

        Raises:
            UnusableProjectionsError: projections are missing, not finite, or differ in shape from most of their group.
            NoGeometryError: there are too few videos, or the projections of the groups differ in size.
        """
        if (videos := len(groups[0].videos)) < MIN_VIDEOS:
            raise NoGeometryError(
                f"{SPREAD_METRIC} needs {MIN_VIDEOS} videos in each group, but there are {videos}. Generate more seeds "
                "(videos_per_variation)"
            )
        dimension = groups[0].videos[0].dimension
        curves: dict[str, DispersionCurve] = {}
        final: list[Floats] = []
        reasons: dict[VideoKey, str] = {}
        for group in groups:
            sigmas, states, unusable = _load_group_states(group)
            reasons |= unusable
            if not unusable:
                final.append(states[:, -1].astype(np.float64))
                curves[group.name] = _compute_dispersion_curve(sigmas, states, dimension)
        if reasons:
            raise UnusableProjectionsError(groups, reasons)
        if len(widths := {states.shape[1] for states in final}) > 1:
            raise NoGeometryError(f"the projections of the groups have different numbers of values: {widths}")
        points = np.stack(final) / np.sqrt(dimension)
        distances = compute_squared_distances(points.reshape(-1, points.shape[2]))
        to_medians = {
            group.name: compute_distances_to_median(
                distances[g * videos : (g + 1) * videos, g * videos : (g + 1) * videos]
            )
            for g, group in enumerate(groups)
        }
        return cls(distances, points, to_medians, dimension, curves)

    def compute_centroid_distances(
        self, matched: MatchedGroups, pairs: Sequence[tuple[int, int]]
    ) -> dict[tuple[str, str], float]:
        """Return the unbiased |mean paired difference|^2 of each pair of groups."""
        seeds, names = len(matched.seeds), [group.name for group in matched.groups]
        by_seed = self.points.reshape(len(names), seeds, -1, self.points.shape[2]).mean(2)
        return {(names[i], names[j]): compute_unbiased_squared_mean(by_seed[i] - by_seed[j]) for i, j in pairs}

    def run_permanova(self, matched: MatchedGroups) -> PermutationTest:
        return run_permanova(self.distances, matched.cells)

    def run_permdisp(self, matched: MatchedGroups) -> PermutationTest:
        return run_permdisp(self.distances, matched.cells)

    def resample_spread(self, matched: MatchedGroups, pairs: Sequence[tuple[int, int]]) -> tuple[Floats, Floats]:
        """Exchange two groups at random within each seed, and recompute `spread` and its test.

        Groups are first moved so that their medians coincide, because a distance between groups is not spread. The
        results show the procedure on these videos under the null hypothesis. The share of rejections can exceed the
        level of the test, because each relabelling moves the medians to which all distances are measured.

        Returns:
            [relabellings] differences in mean spread, and the sign-flip p of each.
        """
        random = np.random.default_rng(SEED)
        seeds = len(matched.seeds)
        differences, p = [], []
        for i, j in pairs:
            states = np.concatenate([_centre_on_median(self.points[i]), _centre_on_median(self.points[j])])
            distances = compute_squared_distances(states)
            indices = np.arange(len(states)).reshape(2, seeds, -1)
            for _ in range(max(1, RELABELLING_COUNT // len(pairs))):
                swapped = random.integers(0, 2, seeds).astype(bool)[:, None]
                first_indices = np.where(swapped, indices[1], indices[0])
                second_indices = np.where(swapped, indices[0], indices[1])
                by_seed = [
                    compute_distances_to_median(distances[np.ix_(members.ravel(), members.ravel())])
                    for members in (first_indices, second_indices)
                ]
                by_pair = by_seed[0].reshape(seeds, -1).mean(1) - by_seed[1].reshape(seeds, -1).mean(1)
                differences.append(by_pair.mean())
                p.append(run_sign_flip_test(by_pair))
        return np.array(differences), np.array(p)


def get_video_key(video: Video) -> VideoKey:
    """Return the key of a video in `UnusableProjectionsError.reasons`."""
    return video.folder, video.number


def _load_group_states(group: Group) -> tuple[Floats, NDArray[np.float32], dict[VideoKey, str]]:
    """Return noise levels [N + 1], projected states [videos, N + 1, k], and the videos whose projection cannot be used.

    The states are complete only if no video is unusable.
    """
    paths: list[tuple[VideoKey, Floats, NDArray[np.float32]]] = []
    reasons: dict[VideoKey, str] = {}
    for video in group.videos:
        key = get_video_key(video)
        try:
            sigmas, states = video.projected_path()
        except NoGeometryError as error:
            reasons[key] = str(error)
            continue
        paths.append((key, sigmas, states))
        if not np.isfinite(states).all():
            reasons[key] = "its projection contains NaN or infinity"
    usual = Counter(states.shape for _, _, states in paths).most_common(1)
    for key, _, states in paths:
        if states.shape != usual[0][0]:
            reasons[key] = f"its projection has shape {states.shape}, but {usual[0][0]} in most videos"
    if reasons:
        return np.empty(0), np.empty((0, 0, 0), dtype=np.float32), reasons
    return paths[0][1], np.stack([states for _, _, states in paths]), {}


def _compute_dispersion_curve(sigmas: Floats, states: NDArray[np.float32], dimension: int) -> DispersionCurve:
    """Return the dispersion of projected states [videos, N + 1, k]."""
    variances = [
        compute_total_variance(compute_squared_distances(states[:, i]) / dimension) for i in range(states.shape[1])
    ]
    return DispersionCurve(sigmas, np.sqrt(variances))


def _centre_on_median(states: Floats) -> Floats:
    """Shift states [n, k] so that their spatial median is 0."""
    return states - compute_median_weights(compute_squared_distances(states)) @ states
