"""Causal commitment: whether a video keeps its concept if the rest of the denoising leaves the concept open.

The denoising is continued with the generic prompt below a noise level s: after a switch of the prompt, or after the
final latents were noised again (U-turn). p(stays | s) is the share of seeds whose final video still shows the concept
(Biroli et al. 2024, arXiv 2402.18491; Sclocchi et al. 2024, arXiv 2402.16991). The seed is the unit: a seed has one
outcome at each noise level, and outcomes of a seed at several levels are not independent.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray
from wantui.analysis.differences import compute_family_p
from wantui.analysis.proportions import (
    HalfShareLevel,
    Proportion,
    find_half_share_level,
)
from wantui.analysis.statistics import (
    MEAN_ROUNDING_TOLERANCE,
    Effect,
    adjust_family_wise,
    compute_mean_half_width,
    compute_min_attainable_p,
    compute_paired_effect,
)

HOLM, MAX_T = "Holm", "max-T"
"""Corrections of p over the pairs of concepts."""


@dataclass(frozen=True)
class ConceptOutcomes:
    """What the continued videos of one concept show."""

    concept: str
    sigmas: tuple[float, ...]
    """[s] rising noise levels at which the prompt becomes generic."""
    seeds: tuple[int, ...]
    labels: tuple[tuple[str, ...], ...]
    """[seeds][s] concept that each final video shows."""

    @property
    def stays(self) -> NDArray[np.bool_]:
        """Return whether each video still shows its concept, as an array [seeds, s]."""
        return np.array([[label == self.concept for label in row] for row in self.labels], dtype=bool)


@dataclass(frozen=True)
class ConceptCommitment:
    """Commitment of one concept."""

    outcomes: ConceptOutcomes
    stay_shares: tuple[Proportion, ...]
    """Share of seeds that stay, by noise level."""
    label_counts: tuple[Mapping[str, int], ...]
    """Number of videos by the concept that they show, by noise level."""
    half_share_level: HalfShareLevel
    """Noise level at which half of the seeds stay (s50), with its 95 % interval."""
    kept_ranges: FloatArray
    """[seeds] kept range of each seed (`compute_kept_ranges`)."""
    returning_count: int
    """Number of seeds that leave at a noise level and stay at a higher one."""

    @property
    def kept_range_interval(self) -> tuple[float, float]:
        """Return Student's 95 % interval of the mean kept range over seeds; NaN for one seed or equal kept ranges."""
        if np.ptp(self.kept_ranges) <= MEAN_ROUNDING_TOLERANCE:
            return math.nan, math.nan
        mean, half_width = float(self.kept_ranges.mean()), float(compute_mean_half_width(self.kept_ranges))
        return mean - half_width, mean + half_width


@dataclass(frozen=True)
class CommitmentDifference:
    """Difference in commitment between two concepts with the same generic prompt, first minus second."""

    first: str
    second: str
    half_share_level_difference: float
    """Difference of s50; NaN if a concept has no s50. The kept range has the interval and the test."""
    kept_range: Effect
    """Paired difference of the kept ranges, over seeds."""
    min_attainable_p: float
    """Smallest p of this pair alone that its seeds can give."""
    shared_seed_count: int
    family_p: float = 1.0
    """p of the kept range, corrected for the pairs of concepts by `correction`."""
    correction: str = HOLM
    """MAX_T if all concepts have the same seeds, otherwise HOLM."""
    min_family_p: float = 1.0
    """Smallest `family_p` that these seeds can give."""
    unshared_seeds_by_concept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Seeds of each concept that the other concept lacks; the paired difference excludes them."""


def compute_kept_ranges(sigmas: Sequence[float], stays: NDArray[np.bool_]) -> FloatArray:
    """Return the kept range of each seed: total width of the noise levels at which the concept stays.

    The kept range is the integral of "stays" over the noise level, on lines between the measured levels; at 0 every
    video stays. It is defined for every seed, even if s50 is outside the measured levels (as the restricted mean of a
    survival time).

    Args:
        sigmas: [s] rising noise levels.
        stays: [seeds, s].
    """
    levels = np.array([0.0, *sigmas])
    values = np.column_stack([np.ones(len(stays)), stays])
    return np.asarray(np.trapezoid(values, levels, axis=1))


def count_unprompted_videos(concept: str, all_outcomes: Sequence[ConceptOutcomes]) -> Proportion:
    """Count the videos of other concepts that show this concept, although their prompt did not ask for it.

    Only the videos that switch to the generic prompt at the highest noise level are counted, because they keep the
    least of their own concept. A concept that the generic prompt draws in any case would "stay" at every noise level,
    whatever the path.
    """
    labels = [row[-1] for outcomes in all_outcomes if outcomes.concept != concept for row in outcomes.labels]
    return Proportion(labels.count(concept), len(labels))


def measure_commitment(outcomes: ConceptOutcomes) -> ConceptCommitment:
    """Return the commitment of a concept: stay shares, s50 and kept ranges."""
    stays, seed_count = outcomes.stays, len(outcomes.seeds)
    counts = stays.sum(0).tolist()
    return ConceptCommitment(
        outcomes,
        tuple(Proportion(count, seed_count) for count in counts),
        tuple(Counter(row[index] for row in outcomes.labels) for index in range(len(outcomes.sigmas))),
        find_half_share_level(outcomes.sigmas, counts, seed_count),
        compute_kept_ranges(outcomes.sigmas, stays),
        int((np.diff(stays.astype(int), axis=1) > 0).any(1).sum()),
    )


def compare_commitments(commitments: Sequence[ConceptCommitment]) -> list[CommitmentDifference]:
    """Return the commitment difference of each pair of concepts with equal noise levels and at least two shared seeds.

    All pairs are one family of tests.
    """
    differences = []
    for first, second in combinations(commitments, 2):
        shared_seeds = [seed for seed in first.outcomes.seeds if seed in second.outcomes.seeds]
        if first.outcomes.sigmas != second.outcomes.sigmas or len(shared_seeds) < 2:
            continue
        ranges = [
            each.kept_ranges[[each.outcomes.seeds.index(seed) for seed in shared_seeds]] for each in (first, second)
        ]
        differences.append(
            CommitmentDifference(
                first.outcomes.concept,
                second.outcomes.concept,
                first.half_share_level.estimate - second.half_share_level.estimate,
                compute_paired_effect(ranges[0] - ranges[1]),
                compute_min_attainable_p(len(shared_seeds)),
                len(shared_seeds),
                unshared_seeds_by_concept={
                    each.outcomes.concept: tuple(seed for seed in each.outcomes.seeds if seed not in shared_seeds)
                    for each in (first, second)
                },
            )
        )
    return _correct_over_pairs(commitments, differences)


def _correct_over_pairs(
    commitments: Sequence[ConceptCommitment], differences: Sequence[CommitmentDifference]
) -> list[CommitmentDifference]:
    """Return the differences with p corrected for all pairs: by max-T if all concepts share their seeds, else Holm."""
    if not differences:
        return []
    pairwise_p = np.array([difference.kept_range.p for difference in differences])
    pairs = list(combinations(range(len(commitments)), 2))
    has_shared_seeds = len({(each.outcomes.sigmas, frozenset(each.outcomes.seeds)) for each in commitments}) == 1
    if has_shared_seeds and len(differences) == len(pairs):
        seeds = commitments[0].outcomes.seeds
        rows = [[each.outcomes.seeds.index(seed) for seed in seeds] for each in commitments]
        ranges = np.stack([each.kept_ranges[row] for each, row in zip(commitments, rows, strict=True)], axis=1)
        family_p = compute_family_p(ranges[:, :, None], pairs, pairwise_p[:, None])[:, 0]
        return [
            replace(each, family_p=float(p), correction=MAX_T, min_family_p=each.min_attainable_p)
            for each, p in zip(differences, np.maximum(family_p, pairwise_p), strict=True)
        ]
    return [
        replace(each, family_p=float(p), min_family_p=min(1.0, len(differences) * each.min_attainable_p))
        for each, p in zip(differences, adjust_family_wise(pairwise_p), strict=True)
    ]
