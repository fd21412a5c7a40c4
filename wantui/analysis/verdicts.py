"""Verdicts on the declared metric between two groups."""

import math
from dataclasses import dataclass

from wantui.analysis.differences import ALPHA, Difference, format_interval, is_ratio_metric
from wantui.analysis.statistics import Floats, compute_min_attainable_p, is_equivalent, is_ratio_equivalent
from wantui.formatting import format_count, format_percent

MIN_PHRASINGS = 6
"""Minimum number of phrasings with which a sign-flip test over phrasings can give p below 0.05."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on the declared metric between two groups."""

    first: str
    second: str
    kind: str
    """differs, alike or cannot tell."""
    p: float
    """p by seeds over all pairs of groups; the larger of this and p by phrasings if there are MIN_PHRASINGS."""
    text: str
    metric: str = ""


def judge_difference(
    difference: Difference,
    first_cells: Floats,
    second_cells: Floats,
    p: float,
    phrasing_p: float,
    margin: float,
    pairs: int,
) -> Verdict:
    """Return the verdict on two groups.

    Args:
        first_cells, second_cells: values [seeds, phrasings] of the declared metric in each group.
        p: p by seeds, over all pairs of groups.
        phrasing_p: p by phrasings, over all pairs; not used with fewer than MIN_PHRASINGS.
        margin: equivalence margin, as a share of the mean (for logarithms, as an amount).
        pairs: number of pairs of groups.
    """
    n, phrasings = first_cells.shape
    by_phrasing = phrasings >= MIN_PHRASINGS
    units = [(first_cells.mean(1), second_cells.mean(1))]
    if by_phrasing:
        units.append((first_cells.mean(0), second_cells.mean(0)))
        said_p = f"p {p:.3g} by seeds, {phrasing_p:.3g} by {phrasings} phrasings"
        p = max(p, phrasing_p)
    else:
        said_p = f"p {p:.3g}"
    said_p += f" over {pairs} pairs of groups" if pairs > 1 else ""
    size = f"d_z {difference.effect.size:.2f}, " if math.isfinite(difference.effect.size) else ""  # two seeds give none
    evidence = f"{format_interval(difference)}, {size}{said_p}, {format_count(n, 'seed')}"
    names, metric = f"{difference.first} against {difference.second}", difference.metric
    of_these = "" if by_phrasing else f", of {'this sentence' if phrasings == 1 else f'these {phrasings} phrasings'}"
    alike = all(_is_within_margin(metric, *both, margin) for both in units)

    def make_verdict(kind: str, text: str) -> Verdict:
        return Verdict(difference.first, difference.second, kind, p, text, metric)

    if (
        p <= ALPHA and difference.effect.low <= 0 <= difference.effect.high
    ):  # signs and sizes of the differences disagree
        skewed = "the differences are skewed: p is significant, but the interval contains 0"
        return make_verdict("cannot tell", f"in {metric}, {names}: cannot tell: {skewed}. {evidence}")
    if p <= ALPHA:
        word = "more" if difference.effect.mean > 0 else "less"
        little = "; within the equivalence margin" if alike else ""
        return make_verdict("differs", f"{names}: {word} {metric}{of_these}: {evidence}{little}")
    if compute_min_attainable_p(n) > ALPHA:
        few = f"{format_count(n, 'seed')} cannot give p below {compute_min_attainable_p(n):.3g}; generate at least 6"
        return make_verdict("cannot tell", f"in {metric}, {names}: cannot tell: {few}. {evidence}")
    if alike:
        within = format_percent(margin) if is_ratio_metric(metric) else f"{margin:g}"
        return make_verdict("alike", f"{names}: alike in {metric}, within {within}{of_these}: {evidence}")
    seeds_advice = ""
    if difference.needed is not None and difference.needed > n:
        size = format_percent(margin) if is_ratio_metric(metric) else f"{margin:g}"
        seeds_advice = f"; to find a difference of {size}, about {difference.needed:,} seeds are needed"
    return make_verdict("cannot tell", f"in {metric}, {names}: cannot tell: {evidence}{seeds_advice}")


def _is_within_margin(metric: str, first_values: Floats, second_values: Floats, margin: float) -> bool:
    if is_ratio_metric(metric) and math.isfinite(second_values.mean()) and second_values.mean() != 0:
        return is_ratio_equivalent(first_values, second_values, margin)
    return is_equivalent(first_values - second_values, margin)
