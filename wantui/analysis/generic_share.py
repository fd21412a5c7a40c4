"""Shares of the concepts in the videos of a generic prompt, which asks for none of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from wantui.analysis.proportions import Proportion
from wantui.analysis.statistics import adjust_family_wise


@dataclass(frozen=True)
class ConceptShare:
    """Share of one concept in the videos of a generic prompt."""

    concept: str
    proportion: Proportion
    p_equal: float
    """Two-sided p of an exact binomial test against equal shares of all known concepts; NaN for other labels."""
    family_p: float
    """p_equal, corrected for the number of known concepts (Holm)."""


@dataclass(frozen=True)
class GenericShares:
    """Shares of all concepts in the videos of one generic prompt; the seed is the unit."""

    prompt: str
    guidance_scales: tuple[float, ...]
    """Guidance scales of the videos; only 1 draws from the model's own distribution."""
    shares: tuple[ConceptShare, ...]
    """Known concepts in their order, then other labels."""


def measure_generic_shares(
    prompt: str, guidance_scales: Sequence[float], labels: Mapping[int, str], known_concepts: Sequence[str]
) -> GenericShares:
    """Return the share of each concept with Wilson's interval.

    The null model gives each known concept the same share.

    Args:
        labels: what the video of each seed shows.
        known_concepts: all concepts that a video could show; those that no video shows have the share 0. Empty if they
            are unknown: concepts that are counted because they were seen have no null model.
    """
    counts, total = Counter(labels.values()), len(labels)
    others = sorted(set(counts) - set(known_concepts))
    concepts = (*known_concepts, *others)
    p = np.full(len(concepts), np.nan)
    if len(known_concepts) > 1 and total:
        for index, concept in enumerate(known_concepts):
            p[index] = stats.binomtest(counts[concept], total, 1 / len(known_concepts)).pvalue
    shares = tuple(
        ConceptShare(concept, Proportion(counts[concept], total), float(alone), float(corrected))
        for concept, alone, corrected in zip(concepts, p, adjust_family_wise(p), strict=True)
    )
    return GenericShares(prompt, tuple(sorted(set(guidance_scales))), shares)
