"""Differences between groups in each metric: paired by seed, with intervals and p over the whole family."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.final_states import SPREAD
from wantui.analysis.groups import Group
from wantui.analysis.statistics import (
    Effect,
    Floats,
    effect,
    false_discovery,
    max_t,
    pairs_needed,
    ratio_interval,
    t_statistic,
    within_seed_permutations,
)
from wantui.analysis.trajectory import METRICS
from wantui.formatting import format_percent_change

ALPHA = 0.05
ROUNDING = 1e-10
"""Relative difference that counts as rounding and is set to 0, so that it has no sign."""
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Difference:
    """One metric between two groups."""

    metric: str
    first: str
    second: str
    effect: Effect
    share: float
    """Difference relative to the other group's mean: 0.1 is 10 % more. NaN for logarithms, which have no ratio."""
    low: float
    high: float
    """95 % interval of the share, with both means uncertain (Fieller)."""
    family_p: float
    """p over all metrics and pairs of groups (max-T); at least the sign-flip p of this pair."""
    discovery_p: float
    """Benjamini and Hochberg's, over the same."""
    needed: int | None
    """Seeds with which a difference as large as the declared margin would be found in four of five studies."""
    phrasings: int
    """Phrasings that both groups share."""
    phrasing_p: float
    """Sign-flip p with phrasings in the place of seeds; NaN with fewer than two."""


def is_ratio(metric: str) -> bool:
    """Return whether a relative difference of the metric is meaningful."""
    return metric == SPREAD or METRICS[metric].is_ratio


def family_p(values: Floats, pairs: Pairs, raw: Floats) -> Floats:
    """Return p [pairs, metrics] over the whole family, of values [units, groups, metrics], permuted within units.

    With three groups or more all groups are permuted, which has more orders than the signs of one pair: p could fall
    below that of the pair's own test, which assumes nothing of the other groups. The larger one is returned.

    Args:
        raw: [pairs, metrics] sign-flip p of each pair's own test.
    """
    n, groups, metrics = values.shape
    if groups == 2:
        return max_t(values[:, 0] - values[:, 1])[None]
    one, other = [i for i, _ in pairs], [j for _, j in pairs]
    greatest: list[Floats] = []
    observed = np.empty(0)
    orders = within_seed_permutations(n, groups)
    for some in np.array_split(orders, max(1, len(orders) * n * len(pairs) * metrics // 2_000_000)):
        permuted = np.take_along_axis(values[None], some[..., None], axis=2)
        differences = permuted[:, :, one] - permuted[:, :, other]
        t = t_statistic(differences.mean(1), differences.var(axis=1, ddof=1), n).reshape(len(some), -1)
        observed = t[0] if not greatest else observed
        greatest.append(t.max(1))
    largest = np.concatenate(greatest)
    adjusted = np.array([np.mean(largest >= t * (1 - 1e-9)) for t in observed])
    return np.maximum(adjusted.reshape(len(pairs), metrics), raw)


def without_rounding(cells: Floats) -> Floats:
    """Return values [..., groups, metrics] in which groups that differ by rounding only are equal.

    Else all differences of a metric that is the same everywhere could happen to have one sign, and be "significant".
    """
    order = np.argsort(cells, axis=-2)
    ascending = np.take_along_axis(cells, order, axis=-2)
    for group in range(1, cells.shape[-2]):
        below, above = ascending[..., group - 1, :], ascending[..., group, :]
        with np.errstate(invalid="ignore"):
            ascending[..., group, :] = np.where(above - below <= ROUNDING * np.abs(above), below, above)
    result = np.empty_like(cells)
    np.put_along_axis(result, order, ascending, axis=-2)
    return result


def differences(
    groups: Sequence[Group], names: Sequence[str], cells: Floats, pairs: Pairs, margin: float
) -> list[Difference]:
    """Return the difference of each pair of groups in each metric.

    Args:
        cells: [seeds, phrasings, groups, metrics].
        margin: the declared share (or amount, of a logarithm) that matters.
    """
    values, by_phrasing = cells.mean(1), cells.mean(0)
    effects = [[effect(values[:, i, m] - values[:, j, m]) for m in range(len(names))] for i, j in pairs]
    raw = np.array([[each.p for each in row] for row in effects])
    family = family_p(values, pairs, raw)
    discovery = false_discovery(raw.ravel()).reshape(family.shape)
    result = []
    for k, (i, j) in enumerate(pairs):
        for m, name in enumerate(names):
            one, other = values[:, i, m], values[:, j, m]
            share, low, high = _share(one, other) if is_ratio(name) else (float("nan"),) * 3
            phrasings = by_phrasing[:, i, m] - by_phrasing[:, j, m]
            matters = margin * abs(float(other.mean())) if is_ratio(name) else margin
            tests = len(pairs) * (1 if m == 0 else len(names))
            result.append(
                Difference(
                    name,
                    groups[i].name,
                    groups[j].name,
                    effects[k][m],
                    share,
                    low,
                    high,
                    float(family[k, m]),
                    float(discovery[k, m]),
                    _needed(one - other, matters, tests),
                    len(phrasings),
                    effect(phrasings).p if len(phrasings) > 1 else float("nan"),
                )
            )
    return result


def _share(one: Floats, other: Floats) -> tuple[float, float, float]:
    """Return the difference as a share of the other's mean, with its interval."""
    mean = float(other.mean())
    if mean == 0:
        return float("nan"), float("nan"), float("nan")
    low, high = ratio_interval(one, other)
    sign = 1 if mean > 0 else -1
    low, high = sorted((sign * (low - 1), sign * (high - 1)))
    return float((one - other).mean()) / abs(mean), low, high


def _needed(paired: Floats, matters: float, tests: int) -> int | None:
    deviation = float(paired.std(ddof=1))
    return pairs_needed(matters / deviation, alpha=ALPHA / tests) if deviation > 0 else None


def interval_in_words(difference: Difference) -> str:
    """Return the difference with its interval: in percent, or in the metric's unit if ratios are meaningless."""
    if np.isfinite([difference.share, difference.low, difference.high]).all():
        change = format_percent_change(difference.share)
        low, high = format_percent_change(difference.low), format_percent_change(difference.high)
        return f"{change} (95 % interval {low} to {high})"
    unit = "" if difference.metric == SPREAD else f" {METRICS[difference.metric].unit}".rstrip()
    e = difference.effect
    return f"{e.mean:+.3g}{unit} (95 % interval {e.low:+.3g} to {e.high:+.3g})"
