"""How often every test of the analysis calls equal groups different, and how many of its intervals are right.

python tests/benchmarks/false_positives.py [--part tests|intervals|special]

Values are simulated, so the truth is known: groups with equal distributions, with heavy tails, odd videos or unequal
wordings; groups with equal means but distributions of different shape or variance; a word with a different effect in
every sentence; a metric declared afterwards because it is the best of several. About ten minutes; no model is needed.

With --permuted BATCH --by 1, groups of a real batch are exchanged within seeds; with --disjoint BATCH, two halves of
the seeds of one prompt are compared.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.null_batches import print_rates
from benchmarks.simulated_intervals import SEED_COUNTS, list_coverages
from benchmarks.simulated_nulls import NULL_CASES, compute_false_positive_rates

from wantui.analysis.differences import compute_family_p
from wantui.analysis.dispersion import compute_distances_to_median, compute_squared_distances
from wantui.analysis.metrics import METRICS
from wantui.analysis.statistics import compute_paired_effect, compute_ratio_interval, run_sign_flip_test, run_trend_test
from wantui.formatting import format_share

FloatArray = NDArray[np.float64]
ALPHA = 0.05
VALUES = 50
"""Values of a state."""
TESTED_SEED_COUNTS = (6, 10, 16)
"""Numbers of seeds at which all tests are simulated."""


def simulate_odd_videos(random: np.random.Generator, seeds: int) -> tuple[bool, bool]:
    """Compare the spread of like groups in which one video of twenty is five times as far as is typical.

    Returns:
        Whether the test on distances to the centroid, and on distances to the spatial median, calls them different.
    """
    shared = random.normal(size=(seeds, VALUES))
    groups = [np.sqrt(0.5) * (shared + random.normal(size=(seeds, VALUES))) for _ in range(2)]
    for group in groups:
        group[random.random(seeds) < 0.05] *= 5
    centroid = [np.linalg.norm(group - group.mean(0), axis=1) for group in groups]
    median = [compute_distances_to_median(compute_squared_distances(group)) for group in groups]
    return run_sign_flip_test(centroid[0] - centroid[1]) <= ALPHA, run_sign_flip_test(median[0] - median[1]) <= ALPHA


def simulate_other_shape(random: np.random.Generator, seeds: int, scatter: float) -> tuple[bool, bool]:
    """Compare lognormal with normal values of the same mean and `scatter` times the standard deviation.

    Returns:
        Whether they are called different, and whether the interval of the ratio of their means contains 1.
    """
    lognormal = random.lognormal(0, 1, seeds)
    mean, deviation = np.exp(0.5), scatter * np.sqrt((np.e - 1) * np.e)
    normal = random.normal(mean, deviation, seeds)
    low, high = compute_ratio_interval(normal, lognormal)
    return run_sign_flip_test(lognormal - normal) <= ALPHA, bool(low <= 1 <= high)


def simulate_other_variance(random: np.random.Generator, seeds: int, groups: int) -> bool:
    """Return whether some pair of groups of one mean, of which one has ten times the variance, is called different."""
    values = random.normal(size=(seeds, groups, 1))
    values[:, 0] *= np.sqrt(10)
    pairs = list(itertools.combinations(range(groups), 2))
    raw = np.array([[compute_paired_effect(values[:, i, 0] - values[:, j, 0]).p] for i, j in pairs])
    return bool(compute_family_p(values, pairs, raw).min() <= ALPHA)


def simulate_other_sentences(random: np.random.Generator, seeds: int, sentences: int = 8) -> tuple[bool, bool]:
    """Compare groups whose word has another effect in each sentence, and none on average over all sentences.

    Returns:
        Whether they are called different by seeds alone, and by the larger p of seeds and sentences.
    """
    differences = random.normal(size=sentences) + random.normal(0, 0.3, size=(seeds, sentences))
    by_seed, by_sentence = run_sign_flip_test(differences.mean(1)), run_sign_flip_test(differences.mean(0))
    return by_seed <= ALPHA, max(by_seed, by_sentence) <= ALPHA


def simulate_best_metric(random: np.random.Generator, seeds: int, correlation: float) -> bool:
    """Return whether the best of all metrics, equally correlated and without any effect, is called different."""
    count = len(METRICS) + 1
    shared, alone = random.normal(size=(seeds, 1)), random.normal(size=(seeds, count))
    values = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * alone
    return min(run_sign_flip_test(values[:, m]) for m in range(count)) <= ALPHA


def simulate_other_trend(random: np.random.Generator, seeds: int, skewed: bool) -> tuple[bool, bool]:
    """Compare values of one distribution at the doses 1, 2 and 8, two phrasings for each seed.

    Returns:
        Whether a slope is called by the sign-flip test alone, and by the larger p of it and the permutation test.
    """
    shared = random.normal(size=(seeds, 1, 1))
    values = random.lognormal(0, 1, (seeds, 2, 3)) if skewed else shared + random.normal(size=(seeds, 2, 3))
    weights = np.array([1.0, 2.0, 8.0]) - 11 / 3
    by_sign = run_sign_flip_test((values @ weights).mean(1))
    return by_sign <= ALPHA, max(by_sign, run_trend_test(values.mean(1), weights)) <= ALPHA


def compute_answer_shares(simulate: Callable[[np.random.Generator, int], object], seeds: int, runs: int) -> list[float]:
    """Return in what share of the runs each answer is yes."""
    random = np.random.default_rng(seeds)
    answers = np.array([simulate(random, seeds) for _ in range(runs)], dtype=np.float64).reshape(runs, -1)
    return [float(share) for share in answers.mean(0)]


def list_special_cases(runs: int) -> Iterable[tuple[str, int, str, float]]:
    """Yield case, seeds, question and share."""
    for seeds in (6, 10, 20):
        centroid, median = compute_answer_shares(simulate_odd_videos, seeds, runs)
        yield (
            "one outlier in 20 videos",
            seeds,
            "groups called different, by the test on distances to the centroid",
            centroid,
        )
        yield (
            "one outlier in 20 videos",
            seeds,
            "groups called different, by the test on distances to the spatial median",
            median,
        )
    for scatter, seeds in itertools.product((1.0, 0.1), (10, 20)):
        called, covered = compute_answer_shares(partial(simulate_other_shape, scatter=scatter), seeds, runs)
        case = f"lognormal against normal with the same mean and {scatter:g} times the standard deviation"
        yield case, seeds, "groups called different", called
        yield case, seeds, "interval of the ratio contains 1", covered
    for groups, seeds in ((3, 8), (3, 20), (6, 8)):
        (called,) = compute_answer_shares(partial(simulate_other_variance, groups=groups), seeds, runs)
        yield f"{groups} groups, one with 10 times the variance", seeds, "at least one pair called different", called
    alone, both = compute_answer_shares(simulate_other_sentences, 12, runs)
    case = "effect that is 0 on average, but varies over 8 phrasings"
    yield case, 12, "groups called different, tested over seeds only", alone
    yield case, 12, "groups called different, tested over seeds and phrasings", both
    for skewed, seeds in itertools.product((False, True), (8, 20)):
        sign, both = compute_answer_shares(partial(simulate_other_trend, skewed=skewed), seeds, runs)
        case = f"slope over a setting without an effect, {'lognormal' if skewed else 'normal'} values"
        yield case, seeds, "slope reported, from signs of the slopes only", sign
        yield case, seeds, "slope reported, from signs and permutations", both
    for correlation in (0.9, 0.5, 0.0):
        (called,) = compute_answer_shares(partial(simulate_best_metric, correlation=correlation), 12, runs)
        case = f"best of {len(METRICS) + 1} metrics without an effect, correlation {correlation:g}"
        yield case, 12, "groups called different", called


def print_test_rates(runs: int, seed_counts: Sequence[int]) -> None:
    """Print the rate of each test for each case and number of seeds; six groups have half of the runs."""
    errors = [format_share(np.sqrt(ALPHA * (1 - ALPHA) / count), 1) for count in (runs, runs // 2)]
    click.echo(f"{runs} runs, {runs // 2} of 6 groups; standard error at 5 %: {errors[0]} and {errors[1]}\n")
    for seed_count in seed_counts:
        rates = {
            case.name: compute_false_positive_rates(case, seed_count, runs if case.group_count < 6 else runs // 2)
            for case in NULL_CASES
        }
        click.echo(f"| {seed_count} seeds | {' | '.join(rates)} |\n|---|{'---|' * len(rates)}")
        for name in next(iter(rates.values())):
            cells = [format_share(rates[case][name], 1) if name in rates[case] else "" for case in rates]
            click.echo(f"| {name} | {' | '.join(cells)} |")
        click.echo()


def print_coverages(runs: int) -> None:
    """Print what share of 95 % intervals contains the true value."""
    click.echo(f"| interval | case | {' | '.join(f'{count} seeds' for count in SEED_COUNTS)} |")
    click.echo(f"|---|---|{'---|' * len(SEED_COUNTS)}")
    for name, case, coverages in list_coverages(runs):
        click.echo(f"| {name} | {case} | {' | '.join(format_share(coverage, 1) for coverage in coverages)} |")


@click.command()
@click.option("--runs", default=1000, show_default=True, help="Runs of each case.")
@click.option("--part", type=click.Choice(["tests", "intervals", "special"]), help="Part to print.  [default: all]")
@click.option("--seeds", "seed_counts", type=int, multiple=True, default=TESTED_SEED_COUNTS, help="Seeds of the tests.")
@click.option("--permuted", type=click.Path(exists=True, path_type=Path), help="Batch whose groups are exchanged.")
@click.option("--disjoint", type=click.Path(exists=True, path_type=Path), help="Batch whose seeds are split.")
@click.option("--by", "grouping", default="variation", show_default=True, help="Groups that --permuted exchanges.")
@click.option("--where", "conditions", metavar="NAME=VALUE", multiple=True, help="Videos of the batch to use.")
def main(
    runs: int,
    part: str | None,
    seed_counts: tuple[int, ...],
    permuted: Path | None,
    disjoint: Path | None,
    grouping: str,
    conditions: tuple[str, ...],
) -> None:
    """Print the share of runs in which equal groups are called different at 5 %, and the coverage of intervals."""
    if permuted is not None or disjoint is not None:
        if permuted is not None:
            print_rates(permuted, grouping, conditions, runs)
        if disjoint is not None:
            print_rates(disjoint, None, conditions, runs)
        return
    if part in (None, "tests"):
        print_test_rates(runs, seed_counts)
    if part in (None, "intervals"):
        print_coverages(runs)
        click.echo()
    if part in (None, "special"):
        click.echo("| case | seeds | result | share of runs |\n|---|---|---|---|")
        for case, seeds, answer, share in list_special_cases(runs):
            click.echo(f"| {case} | {seeds} | {answer} | {format_share(share, 1)} |")


if __name__ == "__main__":
    main()
