"""How often cluster tests and rank correlations call noise a result, and how often intervals contain the true rho.
python tests/benchmarks/curves_and_ranks.py.

Each run draws values with a known truth: curves of equal groups whose noise levels are correlated,
with normal values and with heavy tails, and values of seeds and variations with effects of their own. About five
minutes; no model is needed.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import click
import numpy as np
from numpy.typing import NDArray

from wantui.analysis.clusters import compute_family_mass_p, compute_family_masses, run_cluster_test
from wantui.analysis.correlations import ACROSS_SEEDS, ACROSS_VARIATIONS, correlate_values

FloatArray = NDArray[np.float64]
ALPHA = 0.05
LEVELS = 30
"""Noise levels of a curve."""
LEVEL_CORRELATION = 0.8
"""Correlation of neighbouring noise levels."""


def draw_curves(random: np.random.Generator, seeds: int, groups: int, has_heavy_tails: bool = False) -> FloatArray:
    """Return curves [seeds, groups, levels] of like groups."""
    curves = random.normal(size=(seeds, groups, LEVELS))
    for level in range(1, LEVELS):
        curves[..., level] *= math.sqrt(1 - LEVEL_CORRELATION**2)
        curves[..., level] += LEVEL_CORRELATION * curves[..., level - 1]
    # A curve divided by the root of a chi-squared value has values of Student's t with two degrees of freedom.
    return curves / np.sqrt(random.chisquare(2, (seeds, groups, 1))) if has_heavy_tails else curves


def compare_two_groups(random: np.random.Generator, seeds: int, has_heavy_tails: bool) -> bool:
    """Return whether a curve of two like groups is called different."""
    curves = draw_curves(random, seeds, 2, has_heavy_tails)
    return any(cluster.p <= ALPHA for cluster in run_cluster_test(curves[:, 0] - curves[:, 1]).clusters)


def compare_three_groups(random: np.random.Generator, seeds: int) -> bool:
    """Return whether any of two curves and three pairs of like groups is called different, by p over all of them."""
    curves, pairs = [draw_curves(random, seeds, 3) for _ in range(2)], list(itertools.combinations(range(3), 2))
    masses = compute_family_masses(curves, pairs)
    tests = [run_cluster_test(values[:, i] - values[:, j]) for values in curves for i, j in pairs]
    clusters = [cluster for test in tests for cluster in test.clusters]
    return any(max(c.p, compute_family_mass_p(c.mass, tests, masses)) <= ALPHA for c in clusters)


def correlate_noise(random: np.random.Generator, seeds: int, variations: int, across: str) -> bool:
    """Return whether values that depend on seeds and prompts, but not on each other, are called correlated; tails are
    heavy."""
    draws = random.standard_t(2, size=(2, variations, seeds)) + 2 * random.standard_t(2, size=(2, 1, seeds))
    draws += 2 * random.standard_t(2, size=(2, variations, 1))
    (result,) = correlate_values({"metric": draws[0]}, {"value": draws[1]}, across)
    return result.p <= ALPHA


def contains_true_rho(random: np.random.Generator, seeds: int, variations: int, correlation: float) -> bool | None:
    """Return whether the interval contains Spearman's rho of normal values, of which half is shared by variations;
    None if there is no interval, as with few seeds in the same order."""
    draws = random.normal(size=(2, variations, seeds)) + random.normal(size=(2, 1, seeds))
    others = correlation * draws[0] + math.sqrt(1 - correlation**2) * draws[1]
    (result,) = correlate_values({"metric": draws[0]}, {"value": others}, ACROSS_SEEDS)
    if math.isnan(result.low):
        return None
    return bool(result.low <= 6 / math.pi * math.asin(correlation / 2) <= result.high)


Case = tuple[str, int, Callable[[np.random.Generator], bool | None]]


def list_cases() -> list[Case]:
    """Return the description, the number of seeds and the function of each case."""
    cases: list[Case] = []
    for heavy, seeds in itertools.product((False, True), (6, 8, 12)):
        text = f"cluster test, {'heavy tails' if heavy else 'normal values'}: like curves called different"
        cases.append((text, seeds, partial(compare_two_groups, seeds=seeds, has_heavy_tails=heavy)))
    for seeds in (6, 8):
        text = "cluster tests of 3 groups and 2 curves: any pair called different by p over all"
        cases.append((text, seeds, partial(compare_three_groups, seeds=seeds)))
    for (variations, across), seeds in itertools.product(
        ((1, ACROSS_SEEDS), (4, ACROSS_SEEDS), (5, ACROSS_VARIATIONS)), (6, 12)
    ):
        text = f"correlation across {across}, {variations} variations, heavy tails: noise called correlated"
        cases.append((text, seeds, partial(correlate_noise, seeds=seeds, variations=variations, across=across)))
    for correlation, seeds in itertools.product((0.0, 0.5, 0.8), (6, 10, 16, 24, 50)):
        text = f"correlation of {correlation:g}, 2 variations: interval contains rho"
        cases.append((text, seeds, partial(contains_true_rho, seeds=seeds, variations=2, correlation=correlation)))
    return cases


@click.command()
@click.option("--runs", default=400, show_default=True, help="Number of runs of each case.")
def main(runs: int) -> None:
    """Print the share of runs of each case."""
    click.echo(f"{runs} runs of each case; standard error at most {0.5 / math.sqrt(runs):.1%}\n")
    click.echo("| case | seeds | share of runs |\n|---|---|---|")
    for text, seeds, run in list_cases():
        random = np.random.default_rng(20240229)
        answers = [answer for _ in range(runs) if (answer := run(random)) is not None]
        missing = f" ({1 - len(answers) / runs:.0%} of the runs have none)" if len(answers) < runs else ""
        click.echo(f"| {text}{missing} | {seeds} | {np.mean(answers):.1%} |")


if __name__ == "__main__":
    main()
