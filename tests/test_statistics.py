"""Tests, intervals and distances between groups, against closed forms, published tables and scipy."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from wantui.analysis.spread import dispersion, divergence, permanova, permdisp, squared_distances, to_centroid
from wantui.analysis.statistics import (
    effect,
    false_discovery,
    is_within,
    least_p,
    max_t,
    null_splits,
    omnibus,
    pairs_needed,
    sign_flip,
)


def test_a_sign_flip_test_of_few_pairs_is_exact() -> None:
    differences = np.array([0.3, 1.2, 0.8, -0.1, 0.9, 1.4])
    means = [abs(np.dot(flips, differences)) for flips in itertools.product((1, -1), repeat=6)]
    assert sign_flip(differences) == np.mean(np.array(means) >= abs(differences.sum()) - 1e-12)
    test = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(differences) == pytest.approx(test.pvalue)


@pytest.mark.parametrize(("n", "expected"), [(5, 0.0625), (6, 0.03125), (7, 0.015625), (8, 0.0078125)])
def test_the_smallest_p_of_so_many_pairs_is_known_beforehand(n: int, expected: float) -> None:
    assert least_p(n) == expected
    assert sign_flip(np.arange(1.0, n + 1)) == expected


def test_a_sign_flip_test_of_many_pairs_agrees_with_the_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 40)
    assert sign_flip(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_an_effect_of_few_pairs_has_students_interval_and_hedges_correction() -> None:
    differences = np.array([0.3, 1.2, 0.8, -0.1, 0.9, 1.4, 0.2, 0.6])
    found, by_scipy = effect(differences), stats.ttest_1samp(differences, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((by_scipy.low, by_scipy.high))
    assert found.method == "t"
    assert found.size == pytest.approx((1 - 3 / (4 * 7 - 1)) * differences.mean() / differences.std(ddof=1))


def test_an_effect_of_many_pairs_has_a_bca_interval_that_is_not_symmetric() -> None:
    found = effect(np.random.default_rng(1).lognormal(size=40))
    assert found.method == "BCa"
    assert found.high - found.mean > 1.1 * (found.mean - found.low)


def test_an_effect_of_one_pair_or_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="two finite differences at least, and has 1"):
        effect(np.array([1.0]))
    with pytest.raises(ValueError, match="has 2"):
        effect(np.array([1.0, np.nan, 2.0]))
    assert math.isnan(effect(np.array([0.5, 1.0])).size)
    same = effect(np.full(6, 0.5))
    assert (same.low, same.high, same.size, same.p) == (0.5, 0.5, math.inf, 0.03125)


def test_max_t_controls_the_family_and_one_metric_alone_keeps_its_p() -> None:
    rng = np.random.default_rng(2)
    alone = rng.normal(0.8, 1, (10, 1))
    t = np.abs([np.mean(flip) / np.std(flip, ddof=1) for flip in all_flips(alone[:, 0])])
    assert max_t(alone)[0] == pytest.approx(np.mean(t >= t[0] - 1e-12))
    false = 0
    for _ in range(300):
        shared = rng.normal(size=(8, 1))
        false += max_t(shared + rng.normal(size=(8, 15))).min() <= 0.05
    assert false / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    with_constant = np.concatenate([alone, np.zeros((10, 1))], axis=1)
    assert max_t(with_constant)[0] == pytest.approx(max_t(alone)[0])
    assert math.isnan(max_t(with_constant)[1])


def all_flips(values: np.ndarray) -> list[np.ndarray]:
    return [values * flips for flips in itertools.product((1, -1), repeat=len(values))]


def test_the_false_discovery_rate_is_scipys_and_nan_stays_nan() -> None:
    found = false_discovery(np.array([0.01, np.nan, 0.04, 0.03]))
    assert found[[0, 2, 3]] == pytest.approx(stats.false_discovery_control([0.01, 0.04, 0.03]))
    assert math.isnan(found[1])


@pytest.mark.parametrize(("size", "pairs"), [(0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6)])
def test_the_pairs_that_are_needed_are_those_of_the_table(size: float, pairs: int) -> None:
    assert pairs_needed(size) == pairs
    assert pairs_needed(-size) == pairs


def test_no_number_of_pairs_finds_no_effect() -> None:
    assert pairs_needed(0.0) is None
    assert pairs_needed(float("nan")) is None


def test_a_difference_is_called_none_only_when_it_is_shown_to_be_small() -> None:
    differences = np.random.default_rng(3).normal(0, 1, 30)
    assert is_within(differences, 1.0)
    assert not is_within(differences, 0.1)
    assert not is_within(differences[:3], 1.0)


def test_an_omnibus_test_finds_the_group_that_differs() -> None:
    values = np.random.default_rng(4).normal(size=(10, 4))
    assert omnibus(values) > 0.05
    values[:, 2] += 2
    assert omnibus(values) < 0.01


def test_random_halves_of_one_group_differ_as_often_as_they_should() -> None:
    rng, rates = np.random.default_rng(5), []
    for _ in range(12):
        differences, p = null_splits(rng.lognormal(size=40))
        assert len(differences) == len(p) == 500
        rates.append(np.mean(p <= 0.05))
    assert np.mean(rates) == pytest.approx(0.05, abs=0.015)


# Distances.


def states(seed: int, n: int, k: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).normal(size=(n, k))


def cells(blocks: int, groups: int, wordings: int = 1) -> np.ndarray:
    """Places of videos that lie group after group, and in a group seed after seed."""
    return np.arange(blocks * groups * wordings).reshape(groups, blocks, wordings).transpose(1, 0, 2)


def test_distances_centroids_and_dispersion_are_those_of_the_states() -> None:
    x = states(0, 9, 30)
    distances = squared_distances(x)
    assert distances == pytest.approx(((x[:, None] - x[None]) ** 2).sum(2))
    centred = np.linalg.norm(x - x.mean(0), axis=1)
    assert to_centroid(distances) == pytest.approx(centred * math.sqrt(9 / 8))
    assert dispersion(distances) == pytest.approx((centred**2).sum() / 8)


def test_two_videos_have_no_spread_that_could_be_compared() -> None:
    assert np.isnan(to_centroid(squared_distances(states(0, 2, 30)))).all()
    assert np.isfinite(to_centroid(squared_distances(states(0, 3, 30)))).all()


def test_distances_to_the_own_centroid_do_not_grow_with_the_group() -> None:
    few = np.mean([to_centroid(squared_distances(states(i, 4, 500))).mean() for i in range(50)])
    many = np.mean([to_centroid(squared_distances(states(i, 40, 500))).mean() for i in range(10)])
    assert few == pytest.approx(many, rel=0.01)


def test_permanova_is_the_anova_of_one_dimension() -> None:
    x = np.concatenate([states(1, 8, 1), states(2, 8, 1, shift=1.5), states(3, 8, 1)])
    found = permanova(squared_distances(x), cells(8, 3))
    assert found.f == pytest.approx(stats.f_oneway(x[:8, 0], x[8:16, 0], x[16:, 0]).statistic)


def test_permdisp_is_the_anova_of_the_distances_to_the_centroid() -> None:
    x = np.concatenate([states(1, 8, 20), states(2, 8, 20, scale=2)])
    z = [to_centroid(squared_distances(part)) for part in (x[:8], x[8:])]
    found = permdisp(squared_distances(x), cells(8, 2))
    assert found.f == pytest.approx(stats.f_oneway(*z).statistic)
    assert found.p < 0.02


def test_a_shift_is_one_of_location_and_not_of_spread_and_the_other_way_round() -> None:
    rng, called_spread = np.random.default_rng(0), 0
    for _ in range(200):
        x = np.concatenate([rng.normal(size=(10, 50)), rng.normal(size=(10, 50)) + 0.6])
        called_spread += permdisp(squared_distances(x), cells(10, 2), count=99).p <= 0.05
    assert called_spread / 200 == pytest.approx(0.05, abs=2.5 * math.sqrt(0.05 * 0.95 / 200))
    assert permanova(squared_distances(x), cells(10, 2)).p < 0.01
    wider = squared_distances(np.concatenate([states(1, 10, 50), states(2, 10, 50, scale=1.5)]))
    assert permdisp(wider, cells(10, 2)).p < 0.01


def test_wordings_of_one_seed_are_exchanged_together_and_are_no_replicates() -> None:
    # Two seeds, eight wordings that only repeat them: there are two exchanges, and p cannot fall below a half.
    base = np.concatenate([states(1, 2, 30), states(2, 2, 30, shift=5)])
    x = np.repeat(base, 8, axis=0)
    assert permanova(squared_distances(x), cells(2, 2, 8)).p > 0.4


def test_the_divergence_of_groups_that_are_alike_is_zero_on_average_and_can_be_negative() -> None:
    rng = np.random.default_rng(6)
    found = [divergence(0.3 * (rng.normal(size=(8, 400)) - rng.normal(size=(8, 400)))) / 400 for _ in range(200)]
    naive = np.mean([((0.3 * rng.normal(size=(8, 400)) * math.sqrt(2)).mean(0) ** 2).mean() for _ in range(50)])
    assert abs(np.mean(found)) < 0.001 < naive
    assert min(found) < 0
    assert divergence(np.ones((8, 400)) + rng.normal(size=(8, 400))) / 400 == pytest.approx(1, abs=0.1)
