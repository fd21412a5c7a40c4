"""Information gap: how much information a word gives a model, in nats, from the model's velocities at noised videos.

For videos x of the prompt c, noise e, and x_s = (1 - s) x + s e, the model predicts v_c(x_s) with the prompt, and
v_0(x_s) with the same sentence and a generic word. In a perfect model (I-MMSE: Guo, Shamai and Verdu 2005; for
diffusion models Kong et al. 2023, arXiv 2302.03792 and 2310.07972)

    I(c) = integral of (1 - s) / s E|v_c - v_0|^2 ds = KL(p(x|c) || p(x|0)) = -ln p(c|0),

where the last equality holds if x shows c and nothing else that p(x|0) leaves open. The pointwise form

    i(x; c) = integral of (1 - s) / s E(|v_0 - v*|^2 - |v_c - v*|^2) ds,   v* = e - x,

has the same mean. |.|^2 is summed over all values. With l = ln((1 - s) / s), the measure (1 - s) / s ds is
(1 - s)^2 dl.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray, exponentiate
from wantui.analysis.differences import compute_family_p
from wantui.analysis.statistics import Effect, compute_mean_half_width, compute_min_attainable_p, compute_paired_effect

DEFAULT_WINDOW_MIN_SIGMA = 0.9
"""Lowest noise level of the window, fixed before any video was seen: below it, errors of the model dominate."""
WINDOW_LEVEL_COUNT, REST_LEVEL_COUNT = 10, 6
"""Noise levels inside the window, and below it. In mixtures of distinct points, whose information is within a factor of
e in (1 - s) / s, the error of the integral stays below 2 %; with 8 and 4 levels, it reaches 3 % in the window, and 15 %
where the information is around the start of the window."""
LOWEST_SIGMA, HIGHEST_SIGMA = 0.02, 0.999
"""Ends of the measured range; above it, the value at the highest level is extended to 1."""


@dataclass(frozen=True)
class QuadratureLevel:
    """One noise level of the quadrature."""

    sigma: float
    weight: float
    """Factor of |v_c - v_0|^2 in the integral, in nats."""
    is_in_window: bool


def choose_quadrature_levels(
    window_min_sigma: float = DEFAULT_WINDOW_MIN_SIGMA,
    boundary: float | None = None,
    window_count: int = WINDOW_LEVEL_COUNT,
    rest_count: int = REST_LEVEL_COUNT,
) -> tuple[QuadratureLevel, ...]:
    """Return the noise levels of the integral, the highest first: Gauss-Legendre nodes in l = ln((1 - s) / s).

    Args:
        window_min_sigma: lowest noise level of the window, which ends at 1.
        boundary: noise level below which the model uses another transformer; no panel of the quadrature crosses it.

    Raises:
        ValueError: the window is not between LOWEST_SIGMA and HIGHEST_SIGMA.
    """
    if not LOWEST_SIGMA < window_min_sigma < HIGHEST_SIGMA:
        raise ValueError(f"the window must start between {LOWEST_SIGMA} and {HIGHEST_SIGMA}, got {window_min_sigma:g}")
    levels = _compute_quadrature_nodes(window_min_sigma, HIGHEST_SIGMA, boundary, window_count, True)
    levels += _compute_quadrature_nodes(LOWEST_SIGMA, window_min_sigma, boundary, rest_count, False)
    levels.sort(key=lambda level: -level.sigma)
    tail_weight = -math.log(HIGHEST_SIGMA) - (1 - HIGHEST_SIGMA)  # integral of (1 - s) / s above it
    return (QuadratureLevel(levels[0].sigma, levels[0].weight + tail_weight, True), *levels[1:])


def _compute_quadrature_nodes(
    low: float, high: float, boundary: float | None, count: int, is_in_window: bool
) -> list[QuadratureLevel]:
    """Return the nodes between two noise levels, at least two on each side of the boundary."""
    ends = [low, boundary, high] if boundary is not None and low < boundary < high else [low, high]
    ends_l = [math.log((1 - sigma) / sigma) for sigma in ends]
    levels = []
    for right, left in itertools.pairwise(ends_l):
        share = (right - left) / (ends_l[0] - ends_l[-1])
        node_count = min(max(2, round(count * share)), count - 2 * (len(ends) - 2))
        nodes, weights = np.polynomial.legendre.leggauss(node_count)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            sigma = 1 / (1 + math.exp((left + right) / 2 + (right - left) / 2 * node))
            levels.append(QuadratureLevel(sigma, weight * (right - left) / 2 * (1 - sigma) ** 2, is_in_window))
    return levels


@dataclass(frozen=True)
class InformationGap:
    """Information gap of one video, in nats."""

    pointwise: float
    """Gap from the pointwise form, in the window."""
    gap: float
    """Gap from |v_c - v_0|^2, in the window."""
    pointwise_whole: float
    gap_whole: float
    """Gaps over the whole measured range."""

    @property
    def values(self) -> tuple[float, float, float, float]:
        return self.pointwise, self.gap, self.pointwise_whole, self.gap_whole


QUANTITIES = ("pointwise", "gap", "pointwise_whole", "gap_whole")
"""Quantities of `InformationGap`, in the order of `InformationGap.values`."""


def integrate_levels(
    levels: Sequence[QuadratureLevel], squared_gaps: Sequence[float], pointwise_gains: Sequence[float]
) -> InformationGap:
    """Return the information gap of a video from its values at each level.

    Args:
        squared_gaps: mean |v_c - v_0|^2.
        pointwise_gains: mean |v_0 - v*|^2 - |v_c - v*|^2.
    """
    weights = np.array([level.weight for level in levels])
    in_window = np.array([level.is_in_window for level in levels])
    gaps, gains = np.asarray(squared_gaps), np.asarray(pointwise_gains)
    sums = [float((weights * values)[mask].sum()) for mask in (in_window, slice(None)) for values in (gains, gaps)]
    return InformationGap(*sums)


def convert_to_probability(nats: float) -> float:
    """Return exp(-nats); infinity if it overflows.

    It exceeds 1 if the nats are negative, as in models that are not calibrated.
    """
    return exponentiate(-nats)


@dataclass(frozen=True)
class ScoredVideo:
    """A video with its information gap."""

    word: str
    generic_prompt: str
    """Sentence with the generic word, which videos must share to be paired."""
    condition: str
    """Label of its cell in a sweep; empty without one."""
    seed: int
    information: InformationGap


@dataclass(frozen=True)
class WordInformation:
    """Mean information gap of one word's videos, over seeds."""

    word: str
    video_count: int
    mean_by_quantity: Mapping[str, float]
    half_width_by_quantity: Mapping[str, float]
    """Half of Student's 95 % interval over seeds; NaN for one seed."""


@dataclass(frozen=True)
class WordDifference:
    """Difference between two words, paired by seed."""

    first_word: str
    second_word: str
    quantity: str
    effect: Effect
    family_p: float
    """p over all pairs of words and both forms (max-T)."""


@dataclass(frozen=True)
class InformationTable:
    """Information gaps by word, and their paired differences."""

    words: tuple[WordInformation, ...]
    """Words in the order of increasing information (pointwise, in the window)."""
    differences: tuple[WordDifference, ...]
    seeds: tuple[int, ...]
    """Seeds with videos of every word."""
    phrasing_count: int
    """Number of sentences and conditions with videos of every word, which are averaged within a seed."""
    unpaired_count: int
    """Number of videos that lack a partner for some other word, and are therefore in no difference."""
    disagreement: Effect | None
    """Pointwise form minus gap in the window, over seeds; 0 on average in a calibrated model. None with one seed."""

    @property
    def min_attainable_p(self) -> float:
        """Return the smallest possible p of a pair with this number of seeds; NaN without pairs."""
        return compute_min_attainable_p(len(self.seeds)) if self.differences else math.nan

    @property
    def probability_sum(self) -> float:
        """Return the sum of exp(-I) over the words, from the pointwise form; at most 1 in a perfect model."""
        return sum(convert_to_probability(word.mean_by_quantity["pointwise"]) for word in self.words)


def build_information_table(videos: Sequence[ScoredVideo]) -> InformationTable:
    """Average the videos of each word over seeds, and compare the words within seeds.

    Values of a seed are averaged over its sentences. Differences use only the sentences and seeds that all words have;
    the unit is the seed, so videos of one seed are never replicates.
    """
    words = [_summarise_word(word, videos) for word in dict.fromkeys(video.word for video in videos)]
    words.sort(key=lambda word: word.mean_by_quantity["pointwise"])
    names = [word.word for word in words]
    values_by_measurement = {
        (video.word, video.generic_prompt, video.condition, video.seed): video.information.values for video in videos
    }
    phrasings, seeds = _find_shared_phrasings_and_seeds(names, values_by_measurement)
    used_count = len(names) * len(phrasings) * len(seeds)
    differences: list[WordDifference] = []
    if len(names) > 1 and len(seeds) > 1:
        seed_values = np.array(
            [
                [
                    np.mean([values_by_measurement[name, *phrasing, seed] for phrasing in phrasings], axis=0)
                    for name in names
                ]
                for seed in seeds
            ]
        )
        differences = _compare_words(names, seed_values)
    return InformationTable(
        tuple(words),
        tuple(differences),
        tuple(seeds),
        len(phrasings),
        len(videos) - used_count,
        _compute_disagreement(videos),
    )


def _average_by_seed(videos: Sequence[ScoredVideo]) -> FloatArray:
    """Return the values [seeds, quantities], averaged over the videos of each seed."""
    return np.array(
        [
            np.mean([video.information.values for video in videos if video.seed == seed], axis=0)
            for seed in sorted({video.seed for video in videos})
        ]
    )


def _summarise_word(word: str, videos: Sequence[ScoredVideo]) -> WordInformation:
    word_videos = [video for video in videos if video.word == word]
    seed_values = _average_by_seed(word_videos)
    half_widths = compute_mean_half_width(seed_values) if len(seed_values) > 1 else np.full(len(QUANTITIES), math.nan)
    return WordInformation(
        word,
        len(word_videos),
        dict(zip(QUANTITIES, seed_values.mean(0).tolist(), strict=True)),
        dict(zip(QUANTITIES, half_widths.tolist(), strict=True)),
    )


def _find_shared_phrasings_and_seeds(
    names: Sequence[str], values_by_measurement: Mapping[tuple[str, str, str, int], object]
) -> tuple[list[tuple[str, str]], list[int]]:
    """Return the sentences (with their condition) that all words share, and the seeds that have all these sentences."""
    sentences_by_word = [{key[1:3] for key in values_by_measurement if key[0] == name} for name in names]
    phrasings = sorted(set.intersection(*sentences_by_word))
    seeds = sorted({seed for *_, seed in values_by_measurement})
    complete = [
        seed
        for seed in seeds
        if phrasings
        and all((name, *phrasing, seed) in values_by_measurement for name in names for phrasing in phrasings)
    ]
    return phrasings, complete


def _compare_words(names: Sequence[str], seed_values: FloatArray) -> list[WordDifference]:
    """Return the differences of all word pairs in the window, in both forms.

    Args:
        seed_values: [seeds, words, quantities].
    """
    pairs = [(j, i) for i in range(len(names)) for j in range(i + 1, len(names))]
    values = seed_values[:, :, :2]
    effects = [[compute_paired_effect(values[:, i, form] - values[:, j, form]) for form in range(2)] for i, j in pairs]
    family_p = compute_family_p(values, pairs, np.array([[effect.p for effect in row] for row in effects]))
    return [
        WordDifference(names[i], names[j], quantity, effects[k][form], float(family_p[k, form]))
        for form, quantity in enumerate(QUANTITIES[:2])
        for k, (i, j) in enumerate(pairs)
    ]


def _compute_disagreement(videos: Sequence[ScoredVideo]) -> Effect | None:
    seed_values = _average_by_seed(videos)
    return compute_paired_effect(seed_values[:, 0] - seed_values[:, 1]) if len(seed_values) > 1 else None
