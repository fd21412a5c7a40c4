"""Final states of matched groups: their distances, how spread each group is, and what chance alone would make of
that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.dispersion import (
    MIN_VIDEOS,
    Floats,
    PermutationTest,
    dispersion,
    divergence,
    median_weights,
    permanova,
    permdisp,
    squared_distances,
    to_median,
)
from wantui.analysis.groups import Group, Matched
from wantui.analysis.statistics import SEED, sign_flip
from wantui.analysis.trajectory import NoGeometryError

SPREAD = "spread"
"""Distance of the final latents to the spatial median of their group, / sqrt(D): what "takes more room" means."""
RELABELLINGS = 500


@dataclass(frozen=True)
class DispersionCurve:
    """Dispersion of the videos of a group along their paths, independent of the stride of their trajectories."""

    sigmas: Floats
    """[N + 1] noise levels, without those of predictors."""
    values: Floats
    """[N + 1] sqrt(W^2 / D) at each noise level."""


@dataclass(frozen=True)
class FinalStates:
    """Distances between the final states of all groups, groups one after the other."""

    distances: Floats
    """[videos, videos] squared distances / D."""
    ends: Floats
    """[groups, videos, k] final states / sqrt(D)."""
    spread: Mapping[str, Floats]
    """Distance of each video to the spatial median of its group, by group."""
    dimension: int
    """D, values of a state."""
    curves: Mapping[str, DispersionCurve]
    """Dispersion by group."""

    @classmethod
    def read(cls, groups: Sequence[Group]) -> "FinalStates":
        """Read the stored projections of equally large groups.

        Raises:
            NoGeometryError: too few videos, or projections that are missing or differ in shape.
        """
        if (videos := len(groups[0].videos)) < MIN_VIDEOS:
            raise NoGeometryError(
                f"{SPREAD} needs {MIN_VIDEOS} videos in each group, and there are {videos}. Make more seeds "
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
                raise NoGeometryError(f"{group.name}: a stored projection holds NaN or infinity")
        if len(widths := {states.shape[2] for states in projected.values()}) > 1:
            raise NoGeometryError(f"the projections of the groups have different numbers of values: {widths}")
        dimension = groups[0].videos[0].dimension
        curves = {
            name: DispersionCurve(
                levels[name],
                np.sqrt([dispersion(squared_distances(states[:, i]) / dimension) for i in range(states.shape[1])]),
            )
            for name, states in projected.items()
        }
        ends = np.stack([projected[group.name][:, -1] for group in groups]).astype(np.float64) / np.sqrt(dimension)
        distances = squared_distances(ends.reshape(-1, ends.shape[2]))
        to_medians = {
            group.name: to_median(distances[g * videos : (g + 1) * videos, g * videos : (g + 1) * videos])
            for g, group in enumerate(groups)
        }
        return cls(distances, ends, to_medians, dimension, curves)

    def centroid_distance(self, matched: Matched, pairs: Sequence[tuple[int, int]]) -> dict[tuple[str, str], float]:
        """Return |mean paired difference|^2 of each pair of groups, without bias."""
        seeds, names = len(matched.seeds), [group.name for group in matched.groups]
        by_seed = self.ends.reshape(len(names), seeds, -1, self.ends.shape[2]).mean(2)
        return {(names[i], names[j]): divergence(by_seed[i] - by_seed[j]) for i, j in pairs}

    def permanova(self, matched: Matched) -> PermutationTest:
        return permanova(self.distances, matched.cells)

    def permdisp(self, matched: Matched) -> PermutationTest:
        return permdisp(self.distances, matched.cells)

    def relabelled(self, matched: Matched, pairs: Sequence[tuple[int, int]]) -> tuple[Floats, Floats]:
        """Exchange two groups at random within each seed, and recompute `spread` and its test.

        The groups are first moved so that their medians coincide: a distance between them is no spread. The results are
        those of the procedure for these videos under the null hypothesis. Their share of rejections can exceed the
        level of the test, as each relabelling moves the medians from which all distances are taken.

        Returns:
            [relabellings] differences in mean spread, and p of the sign-flip test of each.
        """
        random = np.random.default_rng(SEED)
        seeds = len(matched.seeds)
        differences, p = [], []
        for i, j in pairs:
            states = np.concatenate([_centred(self.ends[i]), _centred(self.ends[j])])
            distances = squared_distances(states)
            places = np.arange(len(states)).reshape(2, seeds, -1)
            for _ in range(max(1, RELABELLINGS // len(pairs))):
                swapped = random.integers(0, 2, seeds).astype(bool)[:, None]
                one = np.where(swapped, places[1], places[0])
                other = np.where(swapped, places[0], places[1])
                by_seed = [to_median(distances[np.ix_(members.ravel(), members.ravel())]) for members in (one, other)]
                by_pair = by_seed[0].reshape(seeds, -1).mean(1) - by_seed[1].reshape(seeds, -1).mean(1)
                differences.append(by_pair.mean())
                p.append(sign_flip(by_pair))
        return np.array(differences), np.array(p)


def _centred(states: Floats) -> Floats:
    """Move states [n, k] so that their spatial median is 0."""
    return states - median_weights(squared_distances(states)) @ states
