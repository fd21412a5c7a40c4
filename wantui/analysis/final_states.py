"""Final states of matched groups: distances, spread of each group, and tests of spread and location."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

SPREAD_METRIC = "spread"
"""Name of the metric "spread": distance of the final latents to the spatial median of their group, / sqrt(D)."""
RELABELLING_COUNT = 500
"""Number of random exchanges of groups, over all pairs."""


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
            NoGeometryError: there are too few videos, or projections are missing or differ in shape.
        """
        if (videos := len(groups[0].videos)) < MIN_VIDEOS:
            raise NoGeometryError(
                f"{SPREAD_METRIC} needs {MIN_VIDEOS} videos in each group, but there are {videos}. Generate more seeds "
                "(videos_per_variation)"
            )
        projected: dict[str, NDArray[np.float32]] = {}
        levels: dict[str, Floats] = {}
        for group in groups:
            paths = [video.projected_path() for video in group.videos]
            levels[group.name], states = paths[0][0], [states for _, states in paths]
            if len(shapes := {path.shape for path in states}) > 1:
                raise NoGeometryError(f"{group.name}: the stored projections have different shapes: {shapes}")
            projected[group.name] = np.stack(states)
            if not np.isfinite(projected[group.name]).all():
                raise NoGeometryError(f"{group.name}: a stored projection contains NaN or infinity")
        if len(widths := {states.shape[2] for states in projected.values()}) > 1:
            raise NoGeometryError(f"the projections of the groups have different numbers of values: {widths}")
        dimension = groups[0].videos[0].dimension
        curves = {
            name: DispersionCurve(
                levels[name],
                np.sqrt(
                    [
                        compute_total_variance(compute_squared_distances(states[:, i]) / dimension)
                        for i in range(states.shape[1])
                    ]
                ),
            )
            for name, states in projected.items()
        }
        points = np.stack([projected[group.name][:, -1] for group in groups]).astype(np.float64) / np.sqrt(dimension)
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


def _centre_on_median(states: Floats) -> Floats:
    """Shift states [n, k] so that their spatial median is 0."""
    return states - compute_median_weights(compute_squared_distances(states)) @ states
