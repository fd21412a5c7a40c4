"""Decodability and variance shares over the noise level, against brute force, scikit-learn and closed forms."""

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import Wantui
from numpy.typing import NDArray
from scipy import stats
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from synthetic_videos import SIGMAS, synthetic_videos, use_videos

from wantui.analysis.decodability import (
    MAX_DECODED_GROUPS,
    compute_accuracy_interval,
    compute_decodability,
    compute_seed_shrinkage,
    score_held_out_seeds,
)
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.level_states import LevelStates, average_over_sigma, load_level_states
from wantui.analysis.statistics import draw_sign_flips, run_sign_flip_test
from wantui.analysis.variance_shares import SHARE_NAMES, compute_variance_shares, decompose_squares, separate_cell_means

FloatArray = NDArray[np.float64]


def draw_differences(seeds: int, phrasings: int, k: int, shift: float = 0.0, source: int = 1) -> FloatArray:
    """Differences whose first value is shifted; those of one seed resemble each other."""
    random = np.random.default_rng(source)
    differences = random.normal(size=(seeds, phrasings, k)) + random.normal(size=(seeds, 1, k))
    differences[..., 0] += shift
    return differences


def build_level_states(states: FloatArray, sigmas: Sequence[float]) -> LevelStates:
    """Level states from [groups, seeds, phrasings, L, k]."""
    names = tuple(f"group {g}" for g in range(len(states)))
    return LevelStates(names, tuple(range(states.shape[1])), np.array(sigmas), states, states.shape[-1])


# Decodability


def sort_by_brute_force(differences: FloatArray, signs: FloatArray, gamma: float) -> float:
    """Return the accuracy on held-out seeds of a direction that is solved for each of them."""
    seeds, _, k = differences.shape
    labelled = differences * signs[:, None, None]
    scatter = sum(z.T @ z for z in labelled) / seeds
    ridge = gamma / (1 - gamma) * np.trace(scatter) / k
    hits = 0
    for held_out in range(seeds):
        training = np.delete(labelled, held_out, axis=0).reshape(-1, k)
        direction = np.linalg.solve(training.T @ training + seeds * ridge * np.eye(k), training.sum(0))
        hits += int((labelled[held_out] @ direction > 0).sum())
    return hits / differences[..., 0].size


@pytest.mark.parametrize(("seeds", "phrasings", "k"), [(5, 1, 3), (7, 1, 40), (6, 3, 4), (6, 2, 30)])
def test_accuracy_equals_brute_force_over_held_out_seeds(seeds: int, phrasings: int, k: int) -> None:
    differences = draw_differences(seeds, phrasings, k, shift=1.0)
    flat = differences.reshape(-1, k)
    gamma = compute_seed_shrinkage(flat @ flat.T, seeds, k)
    flips, _ = draw_sign_flips(seeds)
    expected = [sort_by_brute_force(differences, signs, gamma) for signs in flips]
    np.testing.assert_allclose(score_held_out_seeds(differences, flips).mean(0), expected, rtol=0, atol=1e-12)


def test_direction_equals_that_of_linear_discriminant_analysis_of_centred_states() -> None:
    seeds, phrasings, k = 8, 2, 12
    differences = draw_differences(seeds, phrasings, k, shift=1.5)
    flat = differences.reshape(-1, k)
    gamma = compute_seed_shrinkage(flat @ flat.T, seeds, k)
    ridge = seeds * gamma / (1 - gamma) * np.trace(flat.T @ flat) / seeds / k
    hits = []
    for held_out in range(seeds):
        training = np.delete(differences, held_out, axis=0).reshape(-1, k)
        states, labels = np.concatenate([training / 2, -training / 2]), np.repeat([1, 0], len(training))
        # scikit-learn shrinks the covariance within groups; its ridge is to be that of the sum of z z'.
        within = sum(np.cov(states[labels == label].T, bias=True) for label in (0, 1)) / 2
        relative_ridge = ridge / (4 * len(training)) / (np.trace(within) / k)
        classifier = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=relative_ridge / (1 + relative_ridge), priors=[0.5, 0.5]
        ).fit(states, labels)
        hits += list(classifier.predict(differences[held_out] / 2) == 1)
    assert 0.5 < np.mean(hits) < 1
    assert score_held_out_seeds(differences, np.ones((1, seeds))).mean() == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("k", [3, 20, 200])
def test_shrinkage_of_one_phrasing_equals_that_of_ledoit_and_wolf(k: int) -> None:
    differences = np.random.default_rng(k).normal(size=(12, k)) * np.linspace(1, 5, k)
    expected = ledoit_wolf_shrinkage(differences, assume_centered=True)
    assert compute_seed_shrinkage(differences @ differences.T, 12, k) == pytest.approx(expected)


def test_shrinkage_treats_seeds_as_units() -> None:
    differences = draw_differences(6, 3, 5)
    flat = differences.reshape(-1, 5)
    parts = np.einsum("spi,spj->sij", differences, differences)
    scatter = parts.mean(0)
    sphere = np.trace(scatter) / 5 * np.eye(5)
    expected = ((parts - scatter) ** 2).sum((1, 2)).mean() / 6 / ((scatter - sphere) ** 2).sum()
    assert compute_seed_shrinkage(flat @ flat.T, 6, 5) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_accuracy_of_two_normal_groups_approaches_its_closed_form(distance: float) -> None:
    """States around the mean of their pair are `distance` standard deviations apart: Phi(distance / 2) are sorted."""
    seeds = 1200
    differences = np.random.default_rng(3).normal(size=(seeds, 1, 3))
    differences[..., 0] += distance / 2
    accuracy = score_held_out_seeds(differences, np.ones((1, seeds))).mean()
    expected = stats.norm.cdf(distance / 2)
    assert accuracy == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / seeds))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_accuracy_does_not_depend_on_the_scale_of_states(scale: float) -> None:
    differences, flips = draw_differences(6, 2, 10, 1.0), draw_sign_flips(6)[0]
    np.testing.assert_array_equal(
        score_held_out_seeds(scale * differences, flips).mean(0), score_held_out_seeds(differences, flips).mean(0)
    )


@pytest.mark.slow
def test_equal_states_are_sorted_by_chance_exactly(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=5)
    (pair,) = compute_decodability(load_level_states(videos, "1"))
    first = (pair.sigmas[0], pair.accuracy[0], pair.low[0], pair.high[0], pair.chance_low[0], pair.p[0])
    assert first == (1, 0.5, 0.5, 0.5, 0.5, 1)


@pytest.mark.slow
def test_test_of_accuracy_is_exact_over_all_exchanges_of_groups() -> None:
    states = np.random.default_rng(5).normal(size=(2, 6, 1, 3, 8))
    states[0, ..., 0] += 2
    (pair,) = compute_decodability(build_level_states(states, (1, 0.5, 0)))
    means = []
    for swapped in itertools.product((False, True), repeat=6):
        exchanged = np.where(np.array(swapped)[None, :, None, None, None], states[::-1], states)
        (other,) = compute_decodability(build_level_states(exchanged, (1, 0.5, 0)))
        means.append(other.mean_accuracy)
    assert pair.pair_p == np.mean(np.array(means) >= pair.mean_accuracy - 1e-12)
    assert pair.pair_p >= pair.min_attainable_p == 2 / 2**6


def test_p_of_several_pairs_is_corrected_by_holm() -> None:
    states = np.random.default_rng(6).normal(size=(3, 8, 1, 2, 4))
    states[2, ..., 0] += 4
    pairs = compute_decodability(build_level_states(states, (1, 0)))
    alone = [
        compute_decodability(build_level_states(states[list(members)], (1, 0)))[0].pair_p
        for members in itertools.combinations(range(3), 2)
    ]
    order = np.argsort(alone)
    expected = np.empty(3)
    expected[order] = np.minimum(np.maximum.accumulate(np.array(alone)[order] * [3, 2, 1]), 1)
    np.testing.assert_allclose([pair.pair_p for pair in pairs], expected)
    assert {pair.min_attainable_p for pair in pairs} == {3 * 2 / 2**8}


@pytest.mark.parametrize(("hits", "seed_count"), [(0, 6), (6, 6), (5, 6), (9, 10), (24, 24), (30, 50)])
def test_accuracy_interval_ends_where_the_score_equation_holds(hits: int, seed_count: int) -> None:
    accuracies = np.repeat([1.0, 0.0], [hits, seed_count - hits])[:, None]
    low, high = (float(end[0]) for end in compute_accuracy_interval(accuracies, 1))
    share = hits / seed_count
    assert 0 <= low <= share <= high <= 1
    design_effect = 1.0  # at most that of independent pairs
    for end in {low, high} - {0.0, 1.0}:
        variance = end * (1 - end)
        bound = stats.norm.ppf(0.975) ** 2 * variance * (1 + 4 * variance) * design_effect
        assert (share - end) ** 2 * seed_count == pytest.approx(bound, 1e-4)


def test_accuracy_interval_has_the_effective_number_of_seeds_of_several_phrasings() -> None:
    random = np.random.default_rng(3)
    accuracies = random.integers(0, 4, size=(12, 1)) / 3
    accuracy = accuracies.mean()
    design_effect = accuracies.var(ddof=1) / (accuracy * (1 - accuracy))
    assert 1 / 3 < design_effect < 1
    rarer_count = 36 * min(accuracy, 1 - accuracy)
    design_effect = (rarer_count * design_effect + 2) / (rarer_count + 2)
    low, _ = compute_accuracy_interval(accuracies, 3)
    variance = low[0] * (1 - low[0])
    bound = stats.norm.ppf(0.975) ** 2 * variance * (1 + 4 * variance) * design_effect
    assert (accuracy - low[0]) ** 2 * 12 == pytest.approx(bound, 1e-4)
    # Seeds that agree exactly count as no more than their pairs.
    alike_low, _ = compute_accuracy_interval(np.full((12, 1), 2 / 3), 3)
    variance = alike_low[0] * (1 - alike_low[0])
    bound = stats.norm.ppf(0.975) ** 2 * variance * (1 + 4 * variance)
    assert (2 / 3 - alike_low[0]) ** 2 * 12 == pytest.approx(bound * (12 / 3 + 2) / (12 + 2), 1e-4)


def test_halfway_level_is_interpolated_and_has_an_interval() -> None:
    """From sigma 0.5 on, the groups are far apart; before, they are equal."""
    random = np.random.default_rng(7)
    noise = random.normal(size=(1, 30, 1, 1, 6))
    states = np.repeat(np.repeat(noise, 2, axis=0), 5, axis=3) + 0.01 * random.normal(size=(2, 30, 1, 5, 6))
    states[:, ..., 0, :] = noise[..., 0, :]
    states[0, ..., 2:, 0] += 1
    (pair,) = compute_decodability(build_level_states(states, (1, 0.75, 0.5, 0.25, 0)))
    assert pair.accuracy[2:].tolist() == [1, 1, 1]
    share = (0.75 - max(pair.accuracy[1], 0.5)) / (1 - max(pair.accuracy[1], 0.5))
    assert 0.5 < pair.halfway_sigma <= 0.75 - 0.25 * share + 1e-9
    low, high = pair.halfway_interval
    assert 0.5 <= low <= pair.halfway_sigma <= high <= 1
    assert pair.halfway_levels == (0.75, 0.5)
    assert (
        f"passes 75 % between the measured sigma 0.75 and 0.5: interpolated {pair.halfway_sigma:.3g} (95 % interval "
        in pair.describe()
    )
    measured = replace(pair, halfway_sigma=0.5)
    assert measured.halfway_levels == (0.5, 0.5)
    assert "passes 75 % at the measured sigma 0.5 (95 % interval " in measured.describe()
    upper_end = replace(measured, halfway_interval=(math.nan, 0.6))
    assert "(95 % interval up to 0.6; too few seeds for a lower end)" in upper_end.describe()
    assert (
        "sigma 0.5 (too few seeds for a 95 % interval)"
        in replace(measured, halfway_interval=(math.nan, 0.5)).describe()
    )


def test_result_over_all_levels_mentions_an_insignificant_final_accuracy() -> None:
    states = np.random.default_rng(7).normal(size=(2, 10, 1, 3, 6))
    states[0, ..., 0] += 5
    (pair,) = compute_decodability(build_level_states(states, (1, 0.5, 0)))
    assert pair.is_decodable
    assert pair.p[-1] <= 0.05
    assert "this accuracy alone" not in pair.describe()
    weak_end = replace(pair, p=np.array([1, 0.001, 0.0703]))
    assert "they can be told apart (one test over all noise levels). " in weak_end.describe()
    assert "; this accuracy alone is not significant, p 0.0703); over all noise levels" in weak_end.describe()
    assert "this accuracy alone" not in replace(weak_end, pair_p=0.2).describe()
    one_of_15_pairs = replace(pair, p=np.array([1, 0.001, 0.04]), pair_count=15)
    assert "; this accuracy alone is not significant, p 0.6); over all noise levels" in one_of_15_pairs.describe()
    assert (
        "this accuracy alone is not significant, p 1)"
        in replace(one_of_15_pairs, p=np.array([1, 0.001, 0.2])).describe()
    )
    assert "this accuracy alone" not in replace(one_of_15_pairs, p=np.array([1, 0.001, 0.003])).describe()


def test_indistinguishable_groups_have_no_halfway_level() -> None:
    states = np.random.default_rng(8).normal(size=(2, 10, 1, 3, 50))
    (pair,) = compute_decodability(build_level_states(states, (1, 0.5, 0)))
    assert np.isnan(pair.halfway_sigma)
    assert pair.pair_p > 0.05
    assert "cannot tell them apart. " in pair.describe()


def test_large_p_gives_no_halfway_level_even_if_the_accuracy_passes_halfway() -> None:
    random = np.random.default_rng(8)
    states = random.normal(size=(2, 5, 1, 3, 50))
    states[0, ..., 0] += 9
    states[:, :, :, 0] = states[:1, :, :, 0]
    (pair,) = compute_decodability(build_level_states(states, (1, 0.5, 0)))
    assert np.isfinite(pair.halfway_sigma)
    assert pair.pair_p == 2 / 2**5  # too few seeds, whatever the accuracy
    assert "cannot tell them apart; 5 seeds cannot give a p below 0.0625; generate at least 6" in pair.describe()
    assert "at sigma" not in pair.describe()


@pytest.mark.parametrize(("group_count", "seeds_needed"), [(2, 6), (3, 7), (5, 9)])
def test_seeds_needed_count_the_pairs_of_groups(group_count: int, seeds_needed: int) -> None:
    states = np.random.default_rng(8).normal(size=(group_count, 4, 1, 2, 5))
    pairs = compute_decodability(build_level_states(states, (1, 0)))
    assert f"generate at least {seeds_needed}." in pairs[0].describe()
    assert len(pairs) * 2 / 2**seeds_needed <= 0.05 < len(pairs) * 2 / 2 ** (seeds_needed - 1)


def test_decodability_of_two_seeds_or_too_many_groups_is_refused() -> None:
    with pytest.raises(CannotCompareError, match=r"share 2 seeds, but 3 are needed, and 6 for p of 0\.05"):
        compute_decodability(build_level_states(np.zeros((2, 2, 1, 2, 3)), (1, 0)))
    too_many = MAX_DECODED_GROUPS + 1
    with pytest.raises(CannotCompareError, match=f"cannot distinguish {too_many} groups"):
        compute_decodability(build_level_states(np.zeros((too_many, 4, 1, 2, 3)), (1, 0)))


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "groups"), [(6, 2), (12, 2), (8, 3)])
def test_false_decodability_does_not_exceed_the_level(seeds: int, groups: int) -> None:
    random, calls = np.random.default_rng(9), 0
    for _ in range(200):
        shared = random.standard_t(3, size=(1, seeds, 1, 1, 10))
        states = shared + random.standard_t(3, size=(groups, seeds, 2, 3, 10))
        pairs = compute_decodability(build_level_states(states, (1, 0.5, 0)))
        calls += min(pair.pair_p for pair in pairs) <= 0.05
    assert calls / 200 <= 0.09


# Variance shares


def project(states: FloatArray, kept_axes: tuple[int, ...]) -> FloatArray:
    """Return the states [g, s, p, k] replaced by their means over the other factors."""
    others = tuple(axis for axis in range(3) if axis not in kept_axes)
    return np.broadcast_to(states.mean(others, keepdims=True), states.shape)


def decompose_by_brute_force(states: FloatArray) -> dict[str, float]:
    """Return the sums of squares of the effects from projections on the spaces of the factors."""
    effects: dict[tuple[int, ...], FloatArray] = {}
    for count in range(4):
        for axes in itertools.combinations(range(3), count):
            lower = [effects[part] for part in effects if set(part) < set(axes)]
            effects[axes] = project(states, axes) - sum(lower, np.zeros_like(states))
    squares = {axes: float((effect**2).sum()) for axes, effect in effects.items()}
    return {
        "seed": squares[1,],
        "wording": squares[2,],
        "group": squares[0,],
        "seed_group": squares[0, 1],
        "wording_group": squares[0, 2],
        "rest": squares[1, 2] + squares[0, 1, 2],
    }


@pytest.mark.parametrize("shape", [(2, 4, 1), (2, 5, 3), (3, 4, 2), (5, 3, 1)])
def test_shares_equal_projections_and_sum_to_the_total(shape: tuple[int, int, int]) -> None:
    states = np.random.default_rng(10).normal(2, 1, size=(*shape, 7))
    squares = decompose_squares(*separate_cell_means(states))
    expected = decompose_by_brute_force(states)
    assert squares == {name: pytest.approx(expected[name], rel=1e-10, abs=1e-10) for name in SHARE_NAMES}
    assert sum(squares.values()) == pytest.approx(((states - states.mean((0, 1, 2))) ** 2).sum(), rel=1e-13)
    shares = compute_variance_shares(build_level_states(states[..., None, :].repeat(2, 3), (1, 0)))
    assert sum(share[1] for share in shares.shares_by_effect.values()) == pytest.approx(1, rel=1e-14)


@pytest.mark.slow
def test_equal_noise_has_only_variance_of_seeds(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0, "third": 1.0}, seeds=4)
    shares = compute_variance_shares(load_level_states(videos, "1"))
    assert [shares.shares_by_effect[name][0] for name in SHARE_NAMES] == [1, 0, 0, 0, 0, 0]
    assert (shares.chance_mean[0], shares.p[0]) == (0, 1)
    noise = np.stack([np.random.default_rng([seed, 3]).normal(size=60) for seed in range(4)])
    assert shares.total[0] == pytest.approx(noise.var(axis=0).mean(), rel=1e-6)


def test_total_variance_counts_the_values_of_a_latent_state_instead_of_its_projection() -> None:
    states = np.random.default_rng(12).normal(size=(2, 5, 1, 1, 40))  # with the squared lengths of 200 values
    level_states = replace(build_level_states(states.repeat(2, 3), (1, 0)), dimension=200)
    squares = float(((states - states.mean((0, 1, 2))) ** 2).sum())
    assert compute_variance_shares(level_states).total == pytest.approx([squares / 10 / 200] * 2, rel=1e-12)


def test_test_of_the_group_share_in_one_dimension_is_the_sign_flip_test() -> None:
    states = np.random.default_rng(11).normal(size=(2, 9, 2, 1, 1))
    states[1] += 0.4
    level_states = build_level_states(states.repeat(2, 3), (1, 0))
    shares = compute_variance_shares(level_states)
    expected = run_sign_flip_test((states[1] - states[0]).mean((1, 2, 3)))
    assert shares.mean_p == shares.p[0] == pytest.approx(expected)


@pytest.mark.slow
def test_share_of_three_groups_is_tested_over_all_exchanges_and_sign_flips() -> None:
    states = np.random.default_rng(12).normal(size=(3, 4, 2, 1, 5))
    shares = compute_variance_shares(build_level_states(states.repeat(2, 3), (1, 0)))
    observed = decompose_by_brute_force(states[..., 0, :])["group"]
    exchanged = []
    for orders in itertools.product(itertools.permutations(range(3)), repeat=4):
        moved = np.stack([states[list(order), seed] for seed, order in enumerate(orders)], axis=1)
        exchanged.append(decompose_by_brute_force(moved[..., 0, :])["group"])
    seed_means, flipped = states.mean(0), []
    for signs in itertools.product((1, -1), repeat=4):
        moved = seed_means + np.array(signs)[None, :, None, None, None] * (states - seed_means)
        flipped.append(decompose_by_brute_force(moved[..., 0, :])["group"])
    p_by_test = [np.mean(np.array(group) >= observed * (1 - 1e-9)) for group in (exchanged, flipped)]
    assert shares.mean_p == pytest.approx(max(p_by_test))
    total = ((states - states.mean((0, 1, 2))) ** 2).sum()
    assert shares.chance_mean[0] == pytest.approx(np.mean(exchanged) / total)
    assert shares.min_attainable_p == 2 / 2**4


def test_equal_states_have_no_variance_shares() -> None:
    shares = compute_variance_shares(build_level_states(np.ones((2, 3, 1, 2, 4)), (1, 0)))
    assert np.isnan([shares.shares_by_effect[name][0] for name in SHARE_NAMES]).all()
    assert (shares.mean_p, shares.total[0]) == (1, 0)
    sentence = shares.describe()
    assert sentence.startswith(
        "variance between group 0, group 1: the finished videos are equal; over all noise levels 0.0 %, p 1 "
    )


# Loading, commands


def test_mean_over_noise_levels_weights_them_by_distance() -> None:
    assert average_over_sigma(np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.5, 0.0])) == 0.75
    assert average_over_sigma(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == 0.5


@pytest.mark.slow
def test_videos_with_an_unusable_projection_are_excluded_by_name(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=5)
    assert videos[0].trajectory_path is not None
    zarr.open_group(videos[0].trajectory_path)["projection"][3] = np.nan
    level_states = load_level_states(videos, "1")
    assert level_states.seeds == (1, 2, 3, 4)
    assert level_states.unreadable_videos == ("one_0 seed 0",)
    assert ("one_0 seed 0", "its projection contains NaN or infinity") in level_states.exclusion_reasons


@pytest.mark.slow
def test_groups_with_different_noise_levels_are_refused(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=4, phrasings=1)
    for video in videos[4:]:
        assert video.trajectory_path is not None
        zarr.open_group(video.trajectory_path)["sigmas"][:] = SIGMAS**2
    with pytest.raises(CannotCompareError, match="along the path: their states have different noise levels or sizes"):
        load_level_states(videos, "1")


def test_missing_projections_are_refused_with_the_reason(tmp_path: Path) -> None:
    videos = [
        replace(video, trajectory_path=None)
        for video in synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)
    ]
    with pytest.raises(CannotCompareError, match="no projection of its states is stored"):
        load_level_states(videos, "1")


@pytest.mark.slow
def test_commands_print_accuracy_and_shares(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=6)
    use_videos(monkeypatch, videos)
    result = wantui("analyze", tmp_path, "--decodability", "--by", "1")
    assert result.code == 0
    assert "one and other: " in result.out
    assert re.search(r"^1\.000 +50 % +50 % to 50 % +50 % to 50 % +1$", result.out, re.MULTILINE)
    result = wantui("analyze", tmp_path, "--shares", "--by", "1")
    assert result.code == 0
    assert "variance between one, other: " in result.out
    assert "100.0 %" in result.out
    assert "wording x group" in result.out
    record = json.loads(wantui("analyze", tmp_path, "--shares", "--by", "1", "--json").out)
    assert record["shares"]["seed"][0] == 1
    assert len(record["sigma"]) == len(SIGMAS)
    record = json.loads(wantui("analyze", tmp_path, "--decodability", "--by", "1", "--json").out)
    assert record["pairs"][0]["accuracy"][0] == 0.5
    assert record["groups"] == ["one", "other"]


@pytest.mark.parametrize("option", ["--primary=length", "--csv=table.csv", "--stride=2"])
def test_options_without_effect_on_decodability_are_refused(tmp_path: Path, wantui: Wantui, option: str) -> None:
    result = wantui("analyze", tmp_path, "--decodability", option)
    assert result.code == 2
    assert "cannot use" in result.err
