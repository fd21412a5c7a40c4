"""Place, room and path: distances between groups, their tests and intervals, and the answers in words."""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from conftest import Wantui
from numpy.typing import NDArray
from rich.console import Console
from rich.style import Style
from scipy import stats
from synthetic_videos import oscillating_videos, synthetic_videos, use_videos

from wantui.analysis.answer import Answer, describe_room, describe_units_for_correction
from wantui.analysis.answer_evidence import (
    ALIKE,
    CANNOT_TELL,
    DIFFERS,
    FAMILIES_BY_METRIC,
    NOT_MEASURED,
    PATH,
    PLACE,
    ROOM,
    ROOM_METRICS,
    AnswerData,
    Evidence,
)
from wantui.analysis.answers import _order_groups
from wantui.analysis.compare import compare_groups
from wantui.analysis.comparison import Comparison
from wantui.analysis.declaration import Declaration, choose_primary_metric
from wantui.analysis.differences import (
    PairEffects,
    _compute_relative_difference,
    format_difference,
    format_difference_parts,
    format_effect_parts,
)
from wantui.analysis.dispersion import compute_squared_distances, compute_unbiased_squared_mean, run_permanova
from wantui.analysis.distance_intervals import (
    compute_upper_tail,
    estimate_distance_interval,
    estimate_squared_distance,
)
from wantui.analysis.effect_table import build_effect_rows
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.group import Group
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.metrics import METRICS
from wantui.analysis.p_values import describe_p_values, find_decisive_p, find_question
from wantui.analysis.places import (
    compare_places,
    run_omnibus_place_test,
    run_place_test,
)
from wantui.analysis.statistics import (
    compute_min_attainable_p,
    compute_ratio_interval,
    run_omnibus_max_test,
    run_sign_flip_test,
)
from wantui.analysis.verdicts import MIN_PHRASINGS
from wantui.analysis.video import Video
from wantui.config.dump import convert_settings_to_dict
from wantui.config.load import load_config
from wantui.config.problems import ConfigError
from wantui.metric_names import MetricName
from wantui.tui.analysis.answers_view import draw_answer_details, draw_answer_verdicts
from wantui.tui.analysis.forest_axis import ForestAxis
from wantui.tui.analysis.forest_plot import ForestLayout, build_forest_rows, draw_forest_rows
from wantui.tui.analysis.views import Canvas

FloatArray = NDArray[np.float64]


def draw_states(
    seed: int, group_count: int = 2, seed_count: int = 7, dimension: int = 12, correlation: float = 0.5
) -> FloatArray:
    """Return [groups, seeds, dimension] states whose seeds share noise."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(1, seed_count, dimension))
    own = generator.normal(size=(group_count, seed_count, dimension))
    return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own


# Texts of effects


@pytest.mark.parametrize(
    ("effect", "low", "high", "texts"),
    [
        (0.1234, 0.031, 0.2, ("+12.3 %", "+3.1 %", "+20.0 %")),
        (0.0004, -0.0001, 0.0009, ("+0.040 %", "-0.010 %", "+0.090 %")),
        (-0.004, -0.006, -0.002, ("-0.40 %", "-0.60 %", "-0.20 %")),
        (14.26, 2.2, 30.3, ("+1426 %", "+220 %", "+3030 %")),
        (0.0, math.nan, math.nan, ("+0.000 %", "", "")),
    ],
)
def test_relative_effects_have_decimals_for_their_size(
    effect: float, low: float, high: float, texts: tuple[str, str, str]
) -> None:
    assert format_effect_parts(effect, low, high, is_relative=True) == texts


def test_verdict_answer_table_and_screen_show_the_same_digits_of_a_change(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=6)
    comparison = compare_groups(videos, grouping="1", primary_metric="length")
    layout = ForestLayout(30, ForestAxis(25, 1.0), 20)
    rows = build_forest_rows(comparison, comparison.differences, lambda _: Style())
    forest_rows = [row.plain for row in draw_forest_rows(rows, layout, lambda _: Style())]
    for difference, line in zip(comparison.differences, forest_rows, strict=True):
        change, low, high = format_difference_parts(difference)
        assert format_difference(difference).startswith(change)
        assert f"{low} to {high}" in format_difference(difference)
        (row,) = build_effect_rows(comparison, [difference])
        assert (row.change, row.interval) == (change, f"{low} to {high}")
        assert all(text in line for text in (change, low, high))
    evidence_texts = {each.metric: each.format_effect() for answer in comparison.answers for each in answer.evidence}
    for difference in comparison.differences:
        if difference.metric in evidence_texts:
            assert evidence_texts[difference.metric].startswith(format_difference_parts(difference)[0])


def test_differences_of_all_pairs_in_one_metric_have_one_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the third group scatters so much that its mean may be 0, which also decides the unit of the first pair."""

    def compute(video: Video, metric: str) -> float:
        group = video.choices_by_bracket[3]
        values = {"one": (8.0, 0.1), "two": (5.0, 0.1), "three": (0.0, 9.0)}
        mean, scatter = values[group] if metric == "turning" else (5.0, 0.1)
        return mean + scatter * (0, 0.05, 1, 0.1, 0, 0.7)[video.seed]

    monkeypatch.setattr(Video, "compute_metric", compute)
    videos = synthetic_videos(tmp_path, {"one": 1.0, "two": 1.0, "three": 1.0}, seeds=6)
    comparison = compare_groups(videos, "1", "turning")
    shares = [item.relative_difference for item in comparison.differences if item.metric == "turning"]
    assert sorted(map(math.isfinite, shares)) == [False, False, True]
    rows = build_effect_rows(comparison, comparison.differences)
    units_by_metric = {metric: {row.change.split()[-1] for row in rows if row.metric == metric} for metric in METRICS}
    assert units_by_metric["turning"] == {"rad"}
    assert units_by_metric["length"] == {"%"}
    forest_rows = build_forest_rows(comparison, comparison.differences, lambda _: Style())
    turning_rows = [row for row in forest_rows if "turning" in row.label.plain]
    assert [math.isfinite(row.change[0]) for row in turning_rows] == [False] * 3
    assert all(
        "rad" in verdict.verdict_text and "%" not in verdict.verdict_text.split("(")[0]
        for verdict in comparison.verdicts
    )
    turning_evidence = [item for answer in comparison.answers for item in answer.evidence if item.metric == "turning"]
    assert [item.is_relative for item in turning_evidence] == [False] * len(turning_evidence)


# Places


def test_distance_equals_the_unbiased_mean_of_paired_differences() -> None:
    states = draw_states(0)
    states[0] += 0.7
    (place,) = compare_places(states, [(0, 1)])
    differences = states[0] - states[1]
    by_hand = np.mean([differences[s] @ differences[t] for s, t in itertools.permutations(range(7), 2)])
    assert place.squared_distance == pytest.approx(by_hand)
    assert place.squared_distance == pytest.approx(compute_unbiased_squared_mean(differences))
    seed_distances = [
        ((group[s] - group[t]) ** 2).sum() for group in states for s, t in itertools.combinations(range(7), 2)
    ]
    assert place.seed_distance == pytest.approx(math.sqrt(np.mean(seed_distances)))


def test_place_p_equals_all_exchanges_permanova_and_scipy() -> None:
    states = draw_states(1)
    states[0] += 0.35
    (place,) = compare_places(states, [(0, 1)])
    differences = states[0] - states[1]
    lengths = [np.linalg.norm(np.array(signs) @ differences) for signs in itertools.product((1, -1), repeat=7)]
    assert place.p == np.mean(np.array(lengths) >= lengths[0] * (1 - 1e-12))
    indices = np.arange(14).reshape(2, 7, 1).transpose(1, 0, 2)
    assert place.p == run_permanova(compute_squared_distances(states.reshape(14, -1)), indices).p_value
    (line,) = compare_places(states[..., :1], [(0, 1)])
    by_scipy = stats.permutation_test(
        (differences[:, 0],), lambda d: abs(d.mean()), permutation_type="samples", alternative="greater"
    )
    assert line.p == pytest.approx(by_scipy.pvalue)
    assert line.p == run_sign_flip_test(differences[:, 0])
    assert 0 < place.p < 1


def test_distance_interval_approaches_students_on_a_line() -> None:
    differences = np.random.default_rng(2).normal(5, 1, 400)
    low, high = estimate_distance_interval(np.outer(differences, differences), 0.0001)
    by_scipy = stats.ttest_1samp(differences, 0).confidence_interval()
    assert (low, high) == pytest.approx((by_scipy.low, by_scipy.high), rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["normal", "t with 3 d.f."])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed_count", [6, 12])
def test_distance_interval_has_nominal_coverage(seed_count: int, shift: float, distribution: str) -> None:
    """The mean difference is in the directions in which seeds scatter."""
    generator, covered, run_count = np.random.default_rng(seed_count), 0, 500
    scales = np.sqrt(0.8 ** np.arange(40))
    for _ in range(run_count):
        differences = generator.normal(size=(seed_count, 40)) * scales
        if distribution != "normal":
            differences /= np.sqrt(generator.chisquare(3, size=(seed_count, 1)) / 3)
        differences[:, :3] += shift
        gram = differences @ differences.T
        low, high = estimate_distance_interval(gram, run_place_test(gram))
        covered += low <= shift * math.sqrt(3) <= high
    # 93 to 98 %, and three standard errors of the rate.
    assert 0.91 <= covered / run_count <= (1.0 if seed_count == 6 else 0.99)


def test_lower_end_of_a_distance_is_the_shortest_length_that_sign_flips_do_not_reject() -> None:
    differences = np.random.default_rng(4).normal(size=(7, 3))
    differences[:, 0] += 1.5
    gram = differences @ differences.T
    low, high = estimate_distance_interval(gram, run_place_test(gram))
    direction = differences.mean(0) / np.linalg.norm(differences.mean(0))
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=7)))

    def estimate(rows: FloatArray) -> float:
        return float(np.mean([rows[s] @ rows[t] for s, t in itertools.permutations(range(7), 2)]))

    def is_rejected(length: float) -> bool:
        centre = length * direction
        estimates = np.array([estimate(centre + flips[:, None] * (differences - centre)) for flips in signs])
        return bool(
            np.mean(estimates >= estimate(differences) - 1e-9) <= compute_upper_tail(length**2 / estimates.std())
        )

    assert 0 < low < high
    assert is_rejected(0.99 * low)
    assert not is_rejected(1.01 * low)


def test_upper_end_of_a_distance_inverts_students_quantile() -> None:
    differences = np.random.default_rng(6).normal(size=(8, 3)) + 0.6
    gram = differences @ differences.T
    squared = estimate_squared_distance(gram)
    assert squared == pytest.approx(np.mean([gram[s, t] for s, t in itertools.permutations(range(8), 2)]))
    _, high = estimate_distance_interval(gram, run_place_test(gram))
    # An unbiased estimate of the trace of the squared covariance, from all quadruples of different seeds.
    products = [
        ((differences[a] - differences[b]) @ (differences[c] - differences[d])) ** 2 / 4
        for a, b, c, d in itertools.permutations(range(8), 4)
    ]
    mean = differences.mean(0)
    variance_along_mean = (differences @ mean / np.linalg.norm(mean)).var(ddof=1)
    error = math.sqrt(4 * high**2 * variance_along_mean / 8 + 2 * np.mean(products) / 56)
    lower_tail = 0.05 - compute_upper_tail(high**2 / error)
    assert (squared - high**2) / error == pytest.approx(stats.t.ppf(lower_tail, 7), rel=1e-4)


@pytest.mark.parametrize("mean", [0.05, 0.5, 1.0, 1.5, 1.9, 3.0])
def test_tails_contain_the_values_with_the_smallest_likelihood_ratio(mean: float) -> None:
    """Brute force of Feldman and Cousins (1998): the most likely 95 % of all values, by ratio of likelihoods."""
    values = np.arange(-60, 12, 0.0005)
    ratio = -0.5 * (values - mean) ** 2 + 0.5 * (values - np.maximum(values, 0)) ** 2
    order = np.argsort(-ratio, kind="stable")
    accepted = values[order[: np.searchsorted(np.cumsum(stats.norm.pdf(values[order] - mean)) * 0.0005, 0.95) + 1]]
    assert compute_upper_tail(mean) == pytest.approx(stats.norm.sf(accepted.max() - mean), abs=2e-4)


def test_upper_tail_is_everything_at_the_bound_and_half_far_from_it() -> None:
    assert compute_upper_tail(0) == 0.05
    assert compute_upper_tail(1.97) == compute_upper_tail(math.inf) == 0.025


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 4.0])
@pytest.mark.parametrize("seed_count", [6, 10, 24])
@pytest.mark.parametrize("dimension", [2, 30])
def test_place_does_not_respond_to_spread_alone(ratio: float, seed_count: int, dimension: int) -> None:
    runs, found = 800, 0
    for run in range(runs):
        states = draw_states(run, seed_count=seed_count, dimension=dimension)
        states[0] *= ratio
        found += compare_places(states, [(0, 1)])[0].p <= 0.05
    assert found / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def iterate_orders(seed_count: int, group_count: int) -> Iterator[FloatArray]:
    yield from itertools.product(itertools.permutations(range(group_count)), repeat=seed_count)


def test_family_p_of_places_equals_all_exchanges() -> None:
    states = draw_states(3, group_count=3, seed_count=4, dimension=3)
    states[0] += 0.8
    pairs = [(0, 1), (0, 2), (1, 2)]

    def compute_statistics(arranged: FloatArray) -> list[float]:
        differences = [arranged[i] - arranged[j] for i, j in pairs]
        return [float((d.sum(0) ** 2).sum() / (d**2).sum()) for d in differences]

    observed = np.array(compute_statistics(states))
    largest = []
    for orders in iterate_orders(4, 3):
        arranged = np.stack([states[list(order), s] for s, order in enumerate(orders)], axis=1)
        largest.append(max(compute_statistics(arranged)))
    expected = np.array([np.mean(np.array(largest) >= value * (1 - 1e-9)) for value in observed])
    places = compare_places(states, pairs)
    pair_p = np.array([place.p for place in places])
    assert np.array([place.family_p for place in places]) == pytest.approx(np.maximum(expected, pair_p))
    assert len(set(expected)) > 1


@pytest.mark.slow
def test_family_of_places_has_at_most_5_percent_false_positives_with_unequal_spread() -> None:
    runs, found = 400, 0
    for run in range(runs):
        states = draw_states(run, group_count=3, seed_count=8, dimension=6)
        states[0] *= 3
        places = compare_places(states, [(0, 1), (0, 2), (1, 2)])
        found += min(place.family_p for place in places) <= 0.05
    assert found / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.slow
@pytest.mark.parametrize("seed_count", [6, 10, 24])
@pytest.mark.parametrize("dimension", [2, 30])
def test_place_of_three_groups_does_not_respond_to_spread_alone(seed_count: int, dimension: int) -> None:
    run_count, found = 600, 0
    for run in range(run_count):
        states = draw_states(run, group_count=3, seed_count=seed_count, dimension=dimension)
        states[0] *= 3
        found += run_omnibus_place_test(states) <= 0.05
    assert found / run_count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / run_count)


def test_place_of_all_groups_equals_the_test_of_two_and_all_sign_flips() -> None:
    states = draw_states(8, group_count=3, seed_count=6)
    states[0] += 0.4
    assert run_omnibus_place_test(states[:2]) == compare_places(states[:2], [(0, 1)])[0].p
    deviations = states - states.mean(0)
    distances = [
        ((np.array(signs)[None, :, None] * deviations).mean(1) ** 2).sum()
        for signs in itertools.product((1, -1), repeat=6)
    ]
    assert run_omnibus_place_test(states) == np.mean(np.array(distances) >= distances[0] * (1 - 1e-12))


def test_equal_states_are_in_one_place() -> None:
    states = draw_states(4)
    states[1] = states[0]
    (place,) = compare_places(states, [(0, 1)])
    assert (place.distance, place.distance_low, place.distance_high, place.p) == (0, 0, 0, 1)
    third = np.concatenate([states, states[:1]])
    assert [place.family_p for place in compare_places(third, [(0, 1), (0, 2), (1, 2)])] == [1, 1, 1]


@pytest.mark.parametrize("seed_count", [6, 8, 16])
def test_distance_interval_contains_zero_exactly_if_the_test_does_not_reject(seed_count: int) -> None:
    significant_count = 0
    for seed in range(60):
        states = draw_states(seed, seed_count=seed_count, dimension=3)
        states[0, :, 0] += 0.6
        (place,) = compare_places(states, [(0, 1)])
        assert (place.distance_low > 0) is (place.p <= 0.05)
        assert place.distance_low <= place.distance <= place.distance_high
        significant_count += place.p <= 0.05
    assert 5 < significant_count < 60


def test_differences_without_scatter_give_no_interval() -> None:
    gram = np.outer(np.full(8, 0.3), np.full(8, 0.3))
    assert all(map(math.isnan, estimate_distance_interval(gram, run_place_test(gram))))
    one_differs = np.zeros((8, 8))
    one_differs[2, 2] = 0.04
    low, high = estimate_distance_interval(one_differs, run_place_test(one_differs))
    assert low == 0
    assert high > math.sqrt(0.04) / 8


@pytest.mark.parametrize("seed_count", [2, 3])
def test_fewer_than_four_seeds_give_no_interval(seed_count: int) -> None:
    (place,) = compare_places(draw_states(5, seed_count=seed_count), [(0, 1)])
    assert math.isnan(place.distance_low)
    assert math.isnan(place.distance_high)
    assert place.min_attainable_p == 2 / 2**seed_count


# Tests of all groups in several metrics


def test_omnibus_test_over_metrics_equals_all_sign_flips() -> None:
    values = np.random.default_rng(6).normal(size=(5, 3, 2))
    values[:, 0, 0] += 1.2
    deviations = values - values.mean(1, keepdims=True)
    shares = np.array(
        [
            5 * ((np.array(signs)[:, None, None] * deviations).mean(0) ** 2).sum(0) / (deviations**2).sum((0, 1))
            for signs in itertools.product((1, -1), repeat=5)
        ]
    )
    expected = [np.mean(shares.max(1) >= share * (1 - 1e-9)) for share in shares[0]]
    assert run_omnibus_max_test(values) == pytest.approx(expected)


def test_omnibus_of_two_groups_and_one_metric_is_the_sign_flip_test() -> None:
    values = np.random.default_rng(7).normal(size=(6, 2, 1))
    values[:, 0] += 0.5
    assert run_omnibus_max_test(values)[0] == run_sign_flip_test(values[:, 0, 0] - values[:, 1, 0])
    assert run_omnibus_max_test(np.ones((5, 3, 2))).tolist() == [1, 1]


@pytest.mark.slow
def test_omnibus_has_at_most_5_percent_false_positives_with_unequal_variance() -> None:
    generator, run_count, found = np.random.default_rng(9), 600, 0
    for _ in range(run_count):
        values = generator.normal(size=(10, 3, 4)) + generator.normal(size=(10, 1, 4))
        values[:, 0] *= 4
        found += run_omnibus_max_test(values).min() <= 0.05
    assert found / run_count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / run_count)


# Answers


def find_answer(comparison: Comparison, question: str, first: str = "", second: str = "") -> Answer:
    (answer,) = [
        answer
        for answer in comparison.answers
        if (answer.question, answer.first_group, answer.second_group) == (question, first, second)
    ]
    return answer


@pytest.mark.parametrize(
    ("phrasings", "uncorrected_p", "p", "text"),
    [
        (1, 2 / 64, 0.0625, "this correction needs about 10 seeds (now 6)"),
        (6, 2 / 64, 0.0625, "this correction needs about 10 seeds (now 6) and 10 phrasings (now 6)"),
        (1, 4 / 64, 0.125, ""),  # the p without correction is not the smallest possible
        (1, 2 / 64, 2 / 64, ""),
    ],
)
def test_correction_that_the_smallest_p_does_not_pass_names_the_seeds_that_it_needs(
    phrasings: int, uncorrected_p: float, p: float, text: str
) -> None:
    data: Any = SimpleNamespace(min_attainable_p=2 / 64, seed_count=6, cell_values=np.zeros((6, phrasings, 2, 15)))
    evidence: Any = [SimpleNamespace(uncorrected_p=uncorrected_p, p=p)] * 15
    assert 15 * 2 / 2**10 <= 0.05 < 15 * 2 / 2**9
    assert describe_units_for_correction(data, evidence, 1) == text


def test_correction_that_a_metric_passes_needs_no_more_seeds() -> None:
    data: Any = SimpleNamespace(min_attainable_p=2 / 64, seed_count=6, cell_values=np.zeros((6, 1, 2, 15)))
    evidence: Any = [SimpleNamespace(uncorrected_p=2 / 64, p=p) for p in (2 / 64, 6 / 64)]
    assert describe_units_for_correction(data, evidence, 1) == ""


def test_each_metric_belongs_to_one_question() -> None:
    assert {*FAMILIES_BY_METRIC, *ROOM_METRICS} == {*METRICS, SPREAD_METRIC}
    assert not set(FAMILIES_BY_METRIC) & set(ROOM_METRICS)


@pytest.mark.slow
def test_groups_of_unequal_spread_differ_in_room_but_not_in_place(tmp_path: Path) -> None:
    comparison = compare_groups(synthetic_videos(tmp_path, {"wide": 3, "narrow": 1}, 8), "1")
    assert [answer.question for answer in comparison.answers] == [PLACE, ROOM, PATH]
    place, room = (find_answer(comparison, question, "wide", "narrow") for question in (PLACE, ROOM))
    assert place.kind == CANNOT_TELL
    assert place.text.startswith("place: cannot tell whether wide and narrow lie apart. distance ")
    assert room.kind == DIFFERS
    assert "wide takes more room in" in room.verdict
    assert SPREAD_METRIC in room.verdict.split(";")[0]
    (spread,) = [item for item in room.evidence if item.metric == SPREAD_METRIC]
    assert spread.p == room.p_by_metric[SPREAD_METRIC] <= 0.05
    assert spread.low > 0
    assert "p corrected for 2 metrics, smallest possible p 0.00781" in room.details
    assert "log_volume is not measured: some videos have no value" in room.notes


@pytest.mark.slow
def test_answers_do_not_depend_on_the_metrics_shown(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"wide": 3, "narrow": 1}, 6)
    every = compare_groups(videos, "1")
    few = compare_groups(videos, "1", "length", ["length"])
    assert few.answers == every.answers
    assert [difference.metric for difference in few.differences] == ["length", SPREAD_METRIC]


@pytest.mark.slow
def test_three_groups_are_answered_together_before_their_pairs(tmp_path: Path) -> None:
    comparison = compare_groups(synthetic_videos(tmp_path, {"wide": 4, "narrow": 1, "other": 1}, 8), "1")
    pairs = [(answer.first_group, answer.second_group) for answer in comparison.answers]
    assert pairs[::3] == [("", ""), ("wide", "narrow"), ("wide", "other"), ("narrow", "other")]
    room = find_answer(comparison, ROOM)
    assert room.kind == DIFFERS
    assert "the 3 groups differ in" in room.verdict
    assert "2 of 3 pairs differ; clearest: wide against" in room.details
    assert find_answer(comparison, ROOM, "narrow", "other").kind == CANNOT_TELL
    assert "p corrected for 2 metrics and 3 pairs" in find_answer(comparison, ROOM, "wide", "other").details


@pytest.mark.slow
def test_five_seeds_cannot_tell_and_say_so(tmp_path: Path) -> None:
    comparison = compare_groups(synthetic_videos(tmp_path, {"wide": 9, "narrow": 1}, 5), "1")
    for answer in comparison.answers:
        assert answer.kind == CANNOT_TELL
        assert answer.min_attainable_p == 0.0625
        assert answer.notes[0] == "5 seeds cannot give a p of 0.05: generate at least 6"


@pytest.mark.slow
def test_answers_without_projections_give_the_reason(tmp_path: Path) -> None:
    videos = [replace(video, trajectory_path=None) for video in synthetic_videos(tmp_path, {"a": 1, "b": 1}, 6)]
    comparison = compare_groups(videos, "1", "length")
    place, room = (find_answer(comparison, question, "a", "b") for question in (PLACE, ROOM))
    assert place.kind == NOT_MEASURED
    assert "spread" not in place.details
    assert "is stored" in place.details
    assert room.kind != NOT_MEASURED
    assert any(note.startswith("spread is not measured: ") for note in room.notes)


@pytest.mark.slow
def test_questions_without_data_have_the_smallest_p_of_the_others(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1, "b": 1, "c": 1}, 8, phrasings=MIN_PHRASINGS)
    answers = compare_groups([replace(video, trajectory_path=None) for video in videos], "1", "length").answers
    assert {answer.kind == NOT_MEASURED for answer in answers} == {True, False}
    least = max(compute_min_attainable_p(8), compute_min_attainable_p(MIN_PHRASINGS))
    assert {answer.min_attainable_p for answer in answers} == {least}


# One rule for p


def declare_values(monkeypatch: pytest.MonkeyPatch, shifts_by_metric: dict[str, float], scatter: float) -> None:
    """Give metrics a shift between the groups, and seeds an alternating scatter that lies around the shift."""

    def compute(video: Video, metric: str) -> float:
        shift = shifts_by_metric.get(metric, 0.0) if video.choices_by_bracket[3] == "a" else 0.0
        generator = np.random.default_rng([video.seed, len(metric), ord(metric[0]), video.choices_by_bracket[3] == "a"])
        return 10 + shift + scatter * float(generator.normal())

    monkeypatch.setattr(Video, "compute_metric", compute)


@pytest.mark.slow
def test_table_prints_the_p_of_the_answers_and_explains_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1, "b": 1}, 8, phrasings=1)
    declare_values(monkeypatch, {"length": 1.05}, 1)
    comparison = compare_groups(videos, "1", "length")
    (length,) = [difference for difference in comparison.differences if difference.metric == "length"]
    path = find_answer(comparison, PATH, "a", "b")
    assert find_decisive_p(comparison, length) == path.p_by_metric["length"]
    assert length.paired_effect.p <= 0.05 < path.p_by_metric["length"]
    sentences = describe_p_values(comparison)
    assert sentences[0].startswith("p is corrected for the metrics of its answer (3 of room or ")
    assert any(sentence.startswith("length: p is at most 0.05 only before the correction") for sentence in sentences)
    declared = f"length, a against b: p {length.paired_effect.p:.3g} as the declared metric"
    assert sentences[-1].startswith(declared)


@pytest.mark.slow
def test_p_of_labels_alone_is_explained_without_an_answer(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1, "b": 1}, 6, phrasings=1)
    videos = [replace(video, labels={"rating": float(video.seed)}) for video in videos]
    comparison = compare_groups(videos, "1", "rating", ["rating"])
    unanswered = replace(comparison, answers=(), differences=comparison.differences[:1])
    sentence = describe_p_values(unanswered)[0]
    assert sentence.startswith("p is corrected for the 1 metric of this table, by max-T; the verdict's p is")
    assert "()" not in sentence


@pytest.mark.slow
def test_interval_and_p_that_disagree_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1, "b": 1}, 8, phrasings=1)
    declare_values(monkeypatch, {"length": 1.05}, 1)
    path = find_answer(compare_groups(videos, "1", "length"), PATH, "a", "b")
    (length,) = [item for item in path.evidence if item.metric == "length"]
    assert length.low > 0
    assert length.kind == CANNOT_TELL
    assert any(
        note.startswith("length: the interval excludes 0, but unlike p it is not corrected for ") for note in path.notes
    )


@pytest.mark.slow
def test_metrics_that_depend_on_the_steps_are_excluded_and_named(tmp_path: Path) -> None:
    comparison = compare_groups(oscillating_videos(tmp_path), "variation")
    path = find_answer(comparison, PATH, "one", "other")
    assert "turning" not in path.p_by_metric
    assert any("path excludes metrics that depend on the steps: " in note for note in path.notes)
    (turning,) = [difference for difference in comparison.differences if difference.metric == "turning"]
    assert find_decisive_p(comparison, turning) == turning.family_p
    assert find_question(comparison, "turning") == ""
    note = describe_p_values(comparison)[0]
    assert re.search(r"; the p of [\w, ]*turning[\w, ]* for the \d+ metrics of this table", note)


@pytest.mark.slow
def test_command_explains_each_p_and_each_number_of_seeds(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_videos(monkeypatch, synthetic_videos(tmp_path, {"wide": 3, "narrow": 1}, 8))
    shown = wantui("analyze", "made_up", "--compare", "--by", "1", "--primary", "spread", "--details")
    assert shown.code == 0, shown.err
    text = " ".join(shown.out.split())
    (verdict,) = re.findall(r"wide against narrow: more spread.*? 8 seeds", text)
    assert ", p 0.00781 of this metric alone, 8 seeds" in verdict
    assert "d_z p, corrected seeds to detect 5 % responds to" in text
    assert "seeds to detect 5 %: seeds needed to detect a true difference of 5 % with 80 % power" in text
    (chance,) = re.findall(r"95 % of the differences in spread are between (.*?) and (.*?) %", text)
    assert chance[0].endswith(" %")


@pytest.mark.slow
@pytest.mark.parametrize("names", [("one", "other"), ("one", "other", "third")])
def test_command_prints_the_answers_last_and_tables_on_request(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    use_videos(monkeypatch, synthetic_videos(tmp_path, dict.fromkeys(names, 1.0), 8))
    options = ("analyze", "made_up", "--compare", "--by", "1")
    short = wantui(*options).out
    answers = short.splitlines()[-3:]
    assert [line.split(":")[0] for line in answers] == [PLACE, ROOM, PATH]
    assert all("p " in line for line in answers)
    for tables in (wantui(*options, "--details").out, wantui(*options, "--metrics", "length,spread").out):
        assert tables.splitlines()[-3:] == answers
        assert "responds to" in tables
        assert "curves over the noise level" in tables
        assert ("one against third" in tables) == (len(names) == 3)
    assert "responds to" not in short
    assert "curves over the noise level" not in short
    assert "verdict on a single metric" in short
    assert "--details" in short.splitlines()[0]
    for refused in ((*options, "--details", "--json"), ("analyze", "made_up", "--groups", "--details")):
        assert "cannot use --details here" in wantui(*refused).err


# The declared metric


def test_config_can_declare_each_metric() -> None:
    assert set(get_args(MetricName)) == {SPREAD_METRIC, *METRICS}


def with_declaration(videos: list[Video], metric: str, folder: Path) -> list[Video]:
    return [replace(video, declared_metric=metric, folder=folder) for video in videos]


def test_metric_of_the_config_is_declared_before_the_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1}, 2)
    declared = with_declaration(videos, "length", tmp_path / "one")
    undeclared = with_declaration(videos, "", tmp_path / "two")
    assert choose_primary_metric(declared) == Declaration(
        "length", "before", "length, declared before the videos were generated"
    )
    assert choose_primary_metric(declared, "length") == choose_primary_metric(declared)
    partly = choose_primary_metric([*declared, *undeclared])
    assert (partly.metric, partly.kind) == ("length", "partly before")
    assert partly.text == "length, declared before the videos of 1 of 2 batches were generated"
    other = choose_primary_metric(declared, "turning")
    assert (other.metric, other.kind) == ("turning", "after")
    assert other.text.endswith("after the videos were generated; length was declared before the videos were generated")
    planar_path = choose_primary_metric(undeclared)  # its third variance is 0, so that log_volume has no value
    assert (planar_path.metric, planar_path.kind) == ("spread", "default")
    assert planar_path.text.startswith("spread, because not every video has a log_volume; no metric was declared")
    monkeypatch.setattr(Video, "compute_metric", lambda video, metric: 1.0)
    default = choose_primary_metric(undeclared)
    assert (default.metric, default.kind) == ("log_volume", "default")


def test_batches_that_declare_different_metrics_need_a_choice(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1}, 2)
    both = [*with_declaration(videos, "length", tmp_path / "one"), *with_declaration(videos, "chord", tmp_path / "two")]
    with pytest.raises(CannotCompareError, match="the batches declare chord and length"):
        choose_primary_metric(both)
    assert choose_primary_metric(both, "chord").kind == "after"


def test_unknown_metric_cannot_be_declared() -> None:
    with pytest.raises(ConfigError, match="primary_metric"):
        load_config("nano", ["primary_metric=beauty"])
    assert load_config("nano", ["primary_metric=log_volume"]).settings.primary_metric == "log_volume"
    assert "primary_metric" not in convert_settings_to_dict(load_config("nano").settings)


def test_place_of_two_seeds_is_measured_although_spread_is_not(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)
    comparison = compare_groups(videos, "1", "length")
    place, room = (find_answer(comparison, question, "one", "other") for question in (PLACE, ROOM))
    assert place.kind == CANNOT_TELL
    states = np.stack([[video.load_projected_path()[1][-1] for video in group.videos] for group in comparison.groups])
    differences = (states[0] - states[1]).astype(np.float64)
    squared = max(float(differences[0] @ differences[1]), 0.0) / comparison.groups[0].videos[0].dimension
    assert place.evidence[0].effect == pytest.approx(math.sqrt(squared))
    assert "spread" not in place.text
    assert "2 seeds cannot give a p of 0.05: generate at least 6" in place.notes
    assert any(note.startswith("spread is not measured: spread needs 3 videos in each group") for note in room.notes)
    assert sum("spread is not compared" in warning for warning in comparison.warnings) == 1


def test_difference_from_a_mean_that_may_be_zero_is_not_in_percent() -> None:
    """Values above 0 that scatter as much as their mean: the interval of the ratio has an impossible end below 0."""
    first, second = np.array([0.1, 9.0, 0.2, 4.0, 0.1, 7.0]), np.array([5.0, 5.5, 6.0, 4.5, 5.2, 5.8])
    assert compute_ratio_interval(first, second)[0] < 0
    for values, reference in ((first, second), (second, first)):
        assert np.isnan(_compute_relative_difference("turning", values, reference)).all()
    low, high = compute_ratio_interval(first + 20, second + 20)
    relative = (first - second).mean() / (second + 20).mean()
    assert _compute_relative_difference("turning", first + 20, second + 20) == pytest.approx(
        (relative, low - 1, high - 1)
    )


def build_room_evidence(metric: str, effect: float, kind: str) -> Evidence:
    return Evidence(metric, metric, "", effect, effect - 0.1, effect + 0.1, False, "", 0.01, 0.01, kind)


@pytest.mark.parametrize(
    ("effects_by_metric", "verdict_parts"),
    [
        (
            {"log_volume": 0.0, "effective_dimension": 0.2, "spread": -0.3},
            [
                "mixed: red takes more room in effective_dimension of each path, and less room in spread between "
                "videos",
                "cannot tell in log_volume of each path",
            ],
        ),
        (
            {"log_volume": -0.5, "effective_dimension": -0.2, "spread": 0.0},
            [
                "red takes less room in log_volume, effective_dimension of each path",
                "cannot tell in spread between videos",
            ],
        ),
    ],
)
def test_room_of_two_kinds_that_disagree_is_mixed(
    effects_by_metric: dict[str, float], verdict_parts: list[str]
) -> None:
    evidence = [
        build_room_evidence(metric, effect, DIFFERS if effect else CANNOT_TELL)
        for metric, effect in effects_by_metric.items()
    ]
    assert (
        describe_room(("red takes ", "more room in", "less room in", "alike within 5 % in"), evidence)[0]
        == verdict_parts
    )


def test_long_verdict_is_shortened_to_its_first_part_whatever_the_names_contain() -> None:
    parts = ("St. Paul; old takes more room in spread", "cannot tell in log_volume")
    answer = Answer(
        question=ROOM,
        first_group="St. Paul; old",
        second_group="b",
        kind=DIFFERS,
        verdict_parts=parts,
        effects_text="log_volume +1 %",
        min_attainable_p=0.01,
    )
    canvas = Canvas(60, 9, lambda _: Style())
    (verdict_line,) = draw_answer_verdicts([answer], canvas)
    assert verdict_line.plain == "room   St. Paul; old takes more room in spread"
    (details_line,) = draw_answer_details([answer], canvas)
    assert details_line.plain == "room   Cannot tell in log volume. log volume +1 %"
    assert answer.text == "room: St. Paul; old takes more room in spread. Cannot tell in log_volume. log_volume +1 %"


def test_only_the_findings_of_a_verdict_are_bold() -> None:
    answer = Answer(
        question=ROOM,
        first_group="a",
        second_group="b",
        kind=DIFFERS,
        verdict_parts=("a takes more room in spread", "cannot tell in log_volume"),
        effects_text="",
        min_attainable_p=0.01,
    )
    (line,) = draw_answer_verdicts([answer], Canvas(70, 9, lambda _: Style()))
    console = Console()
    bold = "".join(segment.text for segment in line.render(console) if segment.style and segment.style.bold)
    assert bold.strip() == "a takes more room in spread."


def test_evidence_on_place_is_drawn_once_beside_the_verdict_or_below() -> None:
    evidence = (build_room_evidence("distance", 1.06, DIFFERS),)
    answer = Answer(
        question="place",
        first_group="a",
        second_group="b",
        kind=DIFFERS,
        verdict_parts=("a and b lie apart",),
        effects_text="distance 1.06 (95 %: 0.74 to 1.22), p 0.0312",
        p_text="smallest possible p 0.0312",
        min_attainable_p=0.03,
        evidence=evidence,
    )
    for width, has_line_below in ((90, False), (60, True)):
        canvas = Canvas(width, 9, lambda _: Style())
        lines = [*draw_answer_verdicts([answer], canvas), *draw_answer_details([answer], canvas)]
        assert ("95 %" in lines[0].plain, len(lines) > 1) == (not has_line_below, has_line_below)
        assert "".join(line.plain for line in lines).count("0.74 to 1.22") == 1


@pytest.mark.slow
def test_room_of_several_groups_is_in_the_order_of_their_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    means = {"ring": 4.0, "square": 2.0, "circle": 1.0, "cross": 4.001}
    videos = synthetic_videos(tmp_path, dict.fromkeys(means, 1.0), 10, phrasings=1)

    def compute(video: Video, metric: str) -> float:
        generator = np.random.default_rng([video.seed, list(means).index(video.choices_by_bracket[3])])
        return means[video.choices_by_bracket[3]] + 0.05 * float(generator.normal())

    monkeypatch.setattr(Video, "compute_metric", compute)
    comparison = compare_groups(videos, "1", "log_volume")
    room = find_answer(comparison, ROOM)
    sampled = {group.name: np.mean([compute(video, "") for video in group.videos]) for group in comparison.groups}
    last_names = sorted(("ring", "cross"), key=lambda name: sampled[name])
    assert f"log_volume: circle < square < {' ~ '.join(last_names)}; " in room.verdict
    assert room.verdict.endswith(" (~: cannot tell)")
    sentence, order = room.verdict.split(". By their means, ")
    assert sentence.startswith("the 4 groups differ in ")
    assert order == room.verdict_parts[1].removeprefix("by their means, ")
    place = find_answer(comparison, PLACE)
    assert (place.kind, place.verdict) == (CANNOT_TELL, "cannot tell whether the 4 groups lie in different places")


def test_signs_between_ordered_groups_tell_equivalence_from_the_absence_of_evidence() -> None:
    names, means = ("a~b", "circle", "square", "ring"), (4.0, 1.0, 1.01, 2.0)
    pairs = list(itertools.combinations(range(4), 2))

    def order(kinds: dict[tuple[int, int], str]) -> str:
        rows = [[build_room_evidence("log_volume", 0.0, kinds.get(pair, DIFFERS))] for pair in pairs]
        data = AnswerData(
            [Group(name, ()) for name in names],
            pairs,
            ["log_volume"],
            np.array(means).reshape(1, 1, 4, 1),
            PairEffects([], np.empty(0)),
            frozenset(),
            0.05,
        )
        return _order_groups(data, rows, ["log_volume"])

    assert order({}) == "log_volume: circle < square < ring < a~b"
    assert order({(1, 2): ALIKE}) == "log_volume: circle = square < ring < a~b (=: alike within 5 %)"
    assert order({(1, 2): ALIKE, (2, 3): CANNOT_TELL}) == (
        "log_volume: circle = square ~ ring < a~b (=: alike within 5 %; ~: cannot tell)"
    )
    assert order({(0, 1): CANNOT_TELL}) == order({})  # these are no neighbours
