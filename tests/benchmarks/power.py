"""Smallest detectable effects of the comparison of groups: python tests/benchmarks/power.py.

Prints the table of wantui/analysis/power.py: for n seeds and k groups, the smallest d_z of a pair of groups that the
verdict calls different in 80 % of batches. The other groups lie where the second group of the pair lies, and the values
of all groups are normal with equal variances. A pair is called different if Student's interval excludes 0, and p is at
most 0.05 both in the pair's own sign-flip test and over the family of all pairs.

The test over the family permutes groups within seeds. On normal values, its critical |t| is the 95 % quantile of the
largest |t| of all pairs between equal groups, which is simulated; `--check` compares the power at the printed effects
with that of the permutation test itself. With three or more groups, the sign-flip test of the family must find the
pair, too, which matters for few seeds.
"""

import itertools
import math
from collections.abc import Callable

import click
import numpy as np
from scipy import special, stats

from wantui.analysis import statistics
from wantui.analysis.arrays import FloatArray
from wantui.analysis.differences import SIGNIFICANCE_LEVEL, compute_family_p
from wantui.analysis.power import GROUP_COUNTS, POWER, SEED_COUNTS, find_detectable_effect
from wantui.analysis.statistics import compute_absolute_t, draw_sign_flips, run_sign_flip_test

NULL_COUNT, EFFECT_COUNT = 200_000, 40_000
"""Simulated batches for a critical |t|, and for a power."""
MAX_FAMILY_SIGN_SEEDS = 10
"""Seeds up to which the sign-flip test of a pair can refuse what the family does not, with three groups or more."""
MAX_FAMILY_FLIP_SEEDS = 8
"""Seeds up to which sign flips of the whole family refuse what its permutations do not."""
MIN_FLIPPED_BATCHES, MAX_FLIPPED_BATCHES, FLIPPED_VALUE_COUNT = 1500, 8000, 40_000_000
"""Least and most batches of a power with sign flips of the family, and |t| of flips and pairs in all of them."""
MAX_SIMULATED_SEEDS = 24
"""Seeds above which the sign-flip test has the power of the t test within 0.2 %."""


@click.command()
@click.option("--check", is_flag=True, help="Simulate the permutation test at the stored effects instead.")
def main(check: bool) -> None:
    """Print the table of smallest detectable effects."""
    if check:
        for group_count, seed_count in itertools.product((2, 3, 4, 6), (6, 7, 8, 10, 16)):
            power = simulate_family_power(seed_count, group_count, 1000 if group_count == 2 else 300)
            click.echo(f"{seed_count:3d} seeds, {group_count} groups: power {power:.3f}")
        return
    for seed_count in SEED_COUNTS:
        effects = [find_smallest_effect(seed_count, group_count) for group_count in GROUP_COUNTS]
        click.echo(f"    {seed_count}: ({', '.join(f'{effect:.4g}' for effect in effects)}),")
    limits = [find_limit(group_count) for group_count in GROUP_COUNTS]
    click.echo(f"limits: ({', '.join(f'{limit:.4g}' for limit in limits)})")


def find_smallest_effect(seed_count: int, group_count: int) -> float:
    """Return the smallest d_z that is found with a power of 0.8."""
    critical_t = find_critical_t(seed_count, group_count)
    if group_count > 2 and seed_count <= MAX_FAMILY_FLIP_SEEDS:
        return bisect_effect(lambda d_z: simulate_flip_power(d_z, seed_count, group_count, critical_t))
    max_sign_seeds = MAX_SIMULATED_SEEDS if group_count == 2 else MAX_FAMILY_SIGN_SEEDS
    if seed_count > max_sign_seeds:
        return bisect_effect(lambda d_z: compute_t_power(d_z, seed_count, critical_t))
    noise = np.random.default_rng(seed_count).standard_normal((EFFECT_COUNT, seed_count))
    return bisect_effect(lambda d_z: simulate_power(noise + d_z, critical_t))


def bisect_effect(compute_power: Callable[[float], float]) -> float:
    """Return the smallest d_z at which a rising power is at least POWER."""
    low, high = 0.05, 16.0
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if compute_power(middle) < POWER else (low, middle)
    return high


def find_critical_t(seed_count: int, group_count: int) -> float:
    """Return the |t| that the largest of all pairs of equal groups exceeds in 5 % of batches."""
    if group_count == 2:
        return float(special.stdtrit(seed_count - 1, 1 - SIGNIFICANCE_LEVEL / 2))
    generator = np.random.default_rng([seed_count, group_count])
    first, second = np.triu_indices(group_count, 1)
    chunk_size, maxima = max(100, 2_000_000 // (group_count * (seed_count + group_count))), []
    for _ in range(math.ceil(NULL_COUNT / chunk_size)):
        values = generator.standard_normal((chunk_size, seed_count, group_count))
        means = values.mean(1)
        centred = values - means[:, None]
        covariances = centred.transpose(0, 2, 1) @ centred / (seed_count - 1)
        variances = np.einsum("bii->bi", covariances)
        pair_variances = variances[:, first] + variances[:, second] - 2 * covariances[:, first, second]
        maxima.append(compute_absolute_t(means[:, first] - means[:, second], pair_variances, seed_count).max(1))
    return float(np.quantile(np.concatenate(maxima), 1 - SIGNIFICANCE_LEVEL))


def simulate_power(differences: FloatArray, critical_t: float) -> float:
    """Return the share of batches, [batches, seeds] of paired differences, that are called different."""
    seed_count = differences.shape[1]
    flips, is_exact = draw_sign_flips(seed_count)
    if is_exact:  # a flip and its opposite have equal |sums|
        flips = flips[: len(flips) // 2]
    columns = flips.astype(np.float32).T
    p_chunks = []
    for chunk in np.array_split(differences, max(1, differences.shape[0] * columns.shape[1] // 20_000_000)):
        sums = np.abs(chunk.astype(np.float32) @ columns)
        p_chunks.append((sums >= sums[:, :1] * (1 - 1e-6)).mean(1))
    t = compute_absolute_t(differences.mean(1), differences.var(axis=1, ddof=1), seed_count)
    return float(np.mean((np.concatenate(p_chunks) <= SIGNIFICANCE_LEVEL) & (t >= critical_t)))


def simulate_flip_power(d_z: float, seed_count: int, group_count: int, critical_t: float) -> float:
    """Return the share of batches of three or more groups that pass both tests of the family and that of the pair."""
    flips, _ = draw_sign_flips(seed_count)
    half_flips = flips[: len(flips) // 2]  # a flip and its opposite have equal |t|
    first, second = np.triu_indices(group_count, 1)
    values_per_batch = len(half_flips) * len(first)
    batch_count = min(MAX_FLIPPED_BATCHES, max(MIN_FLIPPED_BATCHES, FLIPPED_VALUE_COUNT // values_per_batch))
    generator = np.random.default_rng([seed_count, group_count, 2])
    weights, found_count = (half_flips / seed_count).astype(np.float32), 0
    for chunk in np.array_split(np.arange(batch_count), 1 + batch_count * values_per_batch // 4_000_000):
        values = generator.standard_normal((len(chunk), seed_count, group_count), dtype=np.float32)
        values[:, :, 0] += d_z * math.sqrt(2)
        differences = values[:, :, first] - values[:, :, second]
        means = np.matmul(weights, differences)  # [batches, flips, pairs]
        mean_squares = (differences**2).mean(1, keepdims=True)
        t = np.abs(means) / np.sqrt((mean_squares - means**2) / (seed_count - 1))
        observed_t = t[:, 0, :1]
        family_p = (t.max(2) >= observed_t * (1 - 1e-5)).mean(1)
        pair_p = (np.abs(means[:, :, 0]) >= np.abs(means[:, :1, 0]) * (1 - 1e-5)).mean(1)
        is_found = (family_p <= SIGNIFICANCE_LEVEL) & (pair_p <= SIGNIFICANCE_LEVEL) & (observed_t[:, 0] >= critical_t)
        found_count += int(is_found.sum())
    return found_count / batch_count


def compute_t_power(d_z: float, seed_count: int, critical_t: float) -> float:
    return 1 - float(special.nctdtr(seed_count - 1, d_z * math.sqrt(seed_count), critical_t))


def find_limit(group_count: int) -> float:
    """Return d_z times the square root of the number of seeds, for many seeds."""
    quantile = stats.studentized_range.ppf(1 - SIGNIFICANCE_LEVEL, group_count, 1e6) / math.sqrt(2)
    return float(quantile + special.ndtri(POWER))


def simulate_family_power(seed_count: int, group_count: int, batch_count: int) -> float:
    """Return the share of batches in which the tests of the analysis find the stored effect of the first pair."""
    statistics.RESAMPLE_COUNT = 999
    d_z = find_detectable_effect(seed_count, group_count)
    assert d_z is not None
    generator = np.random.default_rng([seed_count, group_count, 1])
    pairs = list(itertools.combinations(range(group_count), 2))
    min_t = special.stdtrit(seed_count - 1, 1 - SIGNIFICANCE_LEVEL / 2)
    found_count = 0
    for _ in range(batch_count):
        values = generator.standard_normal((seed_count, group_count))
        values[:, 0] += d_z * math.sqrt(2)
        differences = values[:, 0] - values[:, 1]
        pairwise_p = np.zeros((len(pairs), 1))
        pairwise_p[0] = run_sign_flip_test(differences)
        family_p = compute_family_p(values[:, :, None], pairs, pairwise_p)[0, 0]
        t = abs(differences.mean()) / differences.std(ddof=1) * math.sqrt(seed_count)
        found_count += bool(family_p <= SIGNIFICANCE_LEVEL and t >= min_t)
    return found_count / batch_count


if __name__ == "__main__":
    main()
