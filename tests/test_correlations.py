"""Rank correlations of metrics with attention and labels, against scipy and enumerations of all permutations."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Wantui
from numpy.typing import NDArray
from scipy import stats
from synthetic_videos import synthetic_videos, use_videos

from wantui.analysis import correlation_data
from wantui.analysis.attention_summary import WordCurves
from wantui.analysis.correlation_data import (
    CorrelationData,
    VideoCorrelations,
    collect_correlation_data,
    correlate_videos,
)
from wantui.analysis.correlation_text import describe_correlations, format_correlation, list_correlation_notes
from wantui.analysis.correlations import (
    ACROSS_SEEDS,
    ACROSS_VARIATIONS,
    MergedCorrelation,
    compute_mean_rho,
    compute_rho_interval,
    correlate_values,
)
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.video import Video

pytestmark = pytest.mark.slow

FloatArray = NDArray[np.float64]


def mean_rho_by_scipy(values: FloatArray, others: FloatArray) -> float:
    return float(np.mean([stats.spearmanr(x, y).statistic for x, y in zip(values, others, strict=True)]))


def test_rho_is_the_mean_of_spearmans_over_variations() -> None:
    random = np.random.default_rng(0)
    values, others = random.normal(size=(3, 9)), random.integers(0, 3, (3, 9)).astype(float)
    assert compute_mean_rho(values, others) == pytest.approx(mean_rho_by_scipy(values, others))
    constant = np.vstack([others, np.ones(9)])
    assert compute_mean_rho(np.vstack([values, values[0]]), constant) == pytest.approx(
        mean_rho_by_scipy(values, others)
    )
    assert math.isnan(compute_mean_rho(values, np.ones((3, 9))))


def test_p_across_seeds_equals_an_enumeration_of_all_orders_of_seeds() -> None:
    random = np.random.default_rng(1)
    values, others = random.normal(size=(2, 5)), random.normal(size=(2, 5))
    (result,) = correlate_values({"m": values}, {"c": others}, ACROSS_SEEDS)
    # Whole seeds are exchanged: the same order in both variations.
    null = [mean_rho_by_scipy(values, others[:, list(order)]) for order in itertools.permutations(range(5))]
    assert result.rho == pytest.approx(null[0])
    assert result.p == np.mean(np.abs(null) >= abs(null[0]) - 1e-9)
    assert result.min_attainable_p == 1 / 120


def test_p_of_one_variation_equals_that_of_scipy() -> None:
    random = np.random.default_rng(2)
    values, others = random.normal(size=7), random.normal(size=7)
    (result,) = correlate_values({"m": values[None]}, {"c": others[None]}, ACROSS_SEEDS)

    def compute_rho(x: FloatArray) -> float:
        return float(stats.spearmanr(x, others).statistic)

    test = stats.permutation_test((values,), compute_rho, permutation_type="pairings", n_resamples=np.inf)
    assert result.p == pytest.approx(test.pvalue, abs=1e-3)


def test_p_across_variations_equals_an_enumeration_of_all_orders_of_variations() -> None:
    random = np.random.default_rng(3)
    values, others = random.normal(size=(4, 5)), random.normal(size=(4, 5))
    (result,) = correlate_values({"m": values}, {"c": others}, ACROSS_VARIATIONS)
    # Whole variations are exchanged: the same order in all seeds.
    null = [mean_rho_by_scipy(values.T, others[list(order)].T) for order in itertools.permutations(range(4))]
    assert result.rho == pytest.approx(null[0])
    assert result.p == pytest.approx(np.mean(np.abs(null) >= abs(null[0]) - 1e-9))


@pytest.mark.parametrize(
    ("shape", "across", "min_p"),
    [((1, 4), ACROSS_SEEDS, 2 / 24), ((2, 6), ACROSS_VARIATIONS, 1.0), ((3, 4), ACROSS_VARIATIONS, 1 / 6)],
)
def test_no_p_is_below_the_smallest_possible_p(shape: tuple[int, int], across: str, min_p: float) -> None:
    random = np.random.default_rng(8)
    results = [
        correlate_values({"m": random.normal(size=shape)}, {"c": random.normal(size=shape)}, across)[0]
        for _ in range(100)
    ]
    assert {result.min_attainable_p for result in results} == {min_p}
    assert min(result.p for result in results) == pytest.approx(min_p)


def test_differences_between_variations_do_not_correlate_across_seeds() -> None:
    random = np.random.default_rng(4)
    offsets = 100 * np.arange(4.0)[:, None]
    values, others = random.normal(size=(4, 6)) + offsets, random.normal(size=(4, 6)) + offsets
    (across_seeds,) = correlate_values({"m": values}, {"c": others}, ACROSS_SEEDS)
    (shifted,) = correlate_values({"m": values - offsets}, {"c": others - offsets}, ACROSS_SEEDS)
    assert across_seeds == shifted
    (across_variations,) = correlate_values({"m": values}, {"c": others}, ACROSS_VARIATIONS)
    assert across_variations.rho == 1
    assert math.isnan(across_variations.low)  # a jackknife of ones has no width


def test_p_over_all_equals_that_of_the_largest_correlation() -> None:
    random = np.random.default_rng(5)
    metrics = {name: random.normal(size=(2, 5)) for name in "ab"}
    covariates = {name: random.normal(size=(2, 5)) for name in "xyz"}
    results = correlate_values(metrics, covariates, ACROSS_SEEDS)
    assert [(item.covariate, item.metric) for item in results] == list(itertools.product("xyz", "ab"))
    largest = [
        max(
            abs(mean_rho_by_scipy(values, others[:, list(order)]))
            for values in metrics.values()
            for others in covariates.values()
        )
        for order in itertools.permutations(range(5))
    ]
    for item in results:
        assert item.family_p == pytest.approx(np.mean(np.array(largest) >= abs(item.rho) - 1e-9))
        assert item.family_p >= item.p


@pytest.mark.parametrize(("variations", "across"), [(1, ACROSS_SEEDS), (3, ACROSS_SEEDS), (5, ACROSS_VARIATIONS)])
def test_independent_values_are_called_correlated_in_five_percent(variations: int, across: str) -> None:
    random, run_count, calls = np.random.default_rng(6), 400, 0
    for _ in range(run_count):
        # Seeds have effects of their own on both values, as initial noises do, and so do prompts; tails are heavy.
        draws = random.standard_t(2, size=(2, variations, 7)) + 2 * random.standard_t(2, size=(2, 1, 7))
        draws += 2 * random.standard_t(2, size=(2, variations, 1))
        (result,) = correlate_values({"m": draws[0]}, {"c": draws[1]}, across)
        calls += result.p <= 0.05
    low, high = stats.binom.interval(0.999, run_count, 0.05)
    assert low <= calls <= high


@pytest.mark.parametrize("seeds", [10, 24])
def test_jackknife_interval_contains_the_true_rho_in_95_percent(seeds: int) -> None:
    random, run_count, hits = np.random.default_rng(7), 200, 0
    true_rho = 6 / math.pi * math.asin(0.25)  # Spearman's of normal values with a correlation of 0.5
    for _ in range(run_count):
        values = random.normal(size=(2, seeds)) + random.normal(size=seeds)
        others = 0.5 * values + math.sqrt(0.75) * (random.normal(size=(2, seeds)) + random.normal(size=seeds))
        (result,) = correlate_values({"m": values}, {"c": others}, ACROSS_SEEDS)
        hits += result.low <= true_rho <= result.high
    low, high = stats.binom.interval(0.999, run_count, 0.95)
    assert low <= hits <= high


def leave_out_by_scipy(values: FloatArray, others: FloatArray) -> tuple[float, float]:
    """Return the jackknife interval over the units of values [blocks, units], one loop at a time."""
    count = values.shape[1]
    full = math.atanh(mean_rho_by_scipy(values, others))
    pseudovalues = []
    for unit in range(count):
        others_left = [other for other in range(count) if other != unit]
        part = math.atanh(mean_rho_by_scipy(values[:, others_left], others[:, others_left]))
        pseudovalues.append(count * full - (count - 1) * part)
    low, high = stats.t.interval(0.95, count - 1, np.mean(pseudovalues), stats.sem(pseudovalues))
    return math.tanh(low), math.tanh(high)


def test_jackknife_omits_seeds_across_seeds_and_variations_across_variations() -> None:
    random = np.random.default_rng(8)
    values, others = random.normal(size=(5, 7)), random.normal(size=(5, 7))
    (by_seed,) = correlate_values({"m": values}, {"c": others}, ACROSS_SEEDS)
    (by_variation,) = correlate_values({"m": values}, {"c": others}, ACROSS_VARIATIONS)
    assert (by_seed.low, by_seed.high) == pytest.approx(leave_out_by_scipy(values, others))
    assert (by_variation.low, by_variation.high) == pytest.approx(leave_out_by_scipy(values.T, others.T))


def test_three_variations_give_no_interval_for_any_number_of_seeds() -> None:
    random = np.random.default_rng(9)
    (result,) = correlate_values(
        {"m": random.normal(size=(3, 50))}, {"c": random.normal(size=(3, 50))}, ACROSS_VARIATIONS
    )
    assert math.isnan(result.low)
    assert math.isnan(result.high)


@pytest.mark.slow
@pytest.mark.parametrize("variations", [4, 8])
def test_interval_across_variations_contains_the_true_rho_in_95_percent(variations: int) -> None:
    random, run_count, hits = np.random.default_rng(10), 200, 0
    for _ in range(run_count):
        # Most of the variance lies between prompts, so that more seeds of a prompt say little.
        values = random.normal(size=(variations, 6)) + 1.5 * random.normal(size=(variations, 1))
        others = random.normal(size=(variations, 6)) + 1.5 * random.normal(size=(variations, 1))
        (result,) = correlate_values({"m": values}, {"c": 0.5 * values + math.sqrt(0.75) * others}, ACROSS_VARIATIONS)
        hits += result.low <= 6 / math.pi * math.asin(0.25) <= result.high
    low, high = stats.binom.interval(0.999, run_count, 0.95)
    assert low <= hits <= high


def make_labelled_videos(folder: Path, seeds: int = 6) -> list[Video]:
    videos = synthetic_videos(folder, {"a": 1.0, "b": 2.0}, seeds, phrasings=1)
    return [replace(video, labels={"rating": video.compute_metric("length") ** 3}) for video in videos]


def test_labels_and_metrics_are_matched_by_variation_and_seed(tmp_path: Path) -> None:
    videos = make_labelled_videos(tmp_path)[::-1]
    data = collect_correlation_data(videos, ["length", "turning"], ["rating"])
    assert set(data.variation_names) == {"a_0", "b_0"}
    assert data.seeds == tuple(range(6))
    assert list(data.metrics) == ["length", "turning", "spread"]
    by_key = {(video.variation, video.seed): video.compute_metric("length") for video in videos}
    expected = [[by_key[name, seed] for seed in data.seeds] for name in data.variation_names]
    assert np.array_equal(data.metrics["length"], expected)
    results = correlate_values(data.metrics, data.covariates, ACROSS_SEEDS)
    assert next(item.rho for item in results if item.metric == "length") == pytest.approx(1)


def test_metric_that_has_not_settled_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = make_labelled_videos(tmp_path)
    settled = correlate_videos(videos, ["length"], ["rating"])
    monkeypatch.setattr(correlation_data, "find_unsettled_metrics", lambda videos: ["length"])
    unsettled = correlate_videos(videos, ["length"], ["rating"])
    (before,) = [item for item in settled.correlations_by_kind[ACROSS_SEEDS] if item.metric == "length"]
    (after,) = [item for item in unsettled.correlations_by_kind[ACROSS_SEEDS] if item.metric == "length"]
    assert before.is_found
    assert not after.is_found
    assert (after.rho, after.family_p) == (before.rho, before.family_p)
    text = describe_correlations(unsettled.correlations_by_kind[ACROSS_SEEDS], ACROSS_SEEDS)
    assert "none of 2 correlations found" in text
    assert format_correlation(MergedCorrelation(("rating",), after))[1] == "length (not settled)"
    assert list_correlation_notes(unsettled.data) == [
        "confidence intervals for correlations across variations need at least 4 variations",
        "metrics that depend on the steps never count as significant: length",
    ]


def test_seeds_that_a_variation_lacks_are_excluded(tmp_path: Path) -> None:
    data = collect_correlation_data(make_labelled_videos(tmp_path)[:-1], ["length"], ["rating"])
    reason = "a correlation uses a seed only if every variation has a usable video with it"
    assert f"1 video excluded: {reason}" in data.warnings


def test_too_few_seeds_and_missing_values_are_refused(tmp_path: Path) -> None:
    videos = make_labelled_videos(tmp_path / "few", seeds=3)
    with pytest.raises(
        CannotCompareError, match="2 variations share only 3 seeds, but rank correlations need at least 4"
    ):
        collect_correlation_data(videos, ["length"], ["rating"])
    with pytest.raises(CannotCompareError, match="1 variation has only 3 usable seeds"):
        collect_correlation_data(videos[:3], ["length"], ["rating"])
    with pytest.raises(CannotCompareError, match="no attention maps, and there are no external labels"):
        collect_correlation_data(make_labelled_videos(tmp_path / "plain"), ["length"], [])


def test_excluded_videos_are_the_reason_why_nothing_is_correlated(tmp_path: Path) -> None:
    reason = "2 states are stored, but an angle needs three: store more steps"
    videos = [
        replace(video, trajectory=None, exclusion_reason=reason) for video in make_labelled_videos(tmp_path / "short")
    ]
    with pytest.raises(
        CannotCompareError, match=rf"no video can be used\. {len(videos)} videos excluded, .*: {reason}"
    ):
        collect_correlation_data(videos, ["length"], [])


def mark_words(
    videos: Sequence[Video], monkeypatch: pytest.MonkeyPatch, first_words: Sequence[str], second_words: Sequence[str]
) -> list[Video]:
    """Give the videos maps of these words; mass is the seed, plus the index of the word."""

    def summarise(path: Path) -> tuple[Sequence[WordCurves], dict[str, object]]:
        seed, nan = int(path.name), math.nan
        words = first_words if path.parent.name == "a_0" else second_words
        empty = np.empty((0, 1, 2))
        return [
            WordCurves(word, word, (word,), np.ones(3), np.array([seed, seed + 2 * k, nan]), np.ones(3), empty, empty)
            for k, word in enumerate(words)
        ], {}

    monkeypatch.setattr(correlation_data, "open_attention_maps", lambda path, recipe: path)
    monkeypatch.setattr(correlation_data, "summarise_all_words", summarise)
    return [replace(video, attention_path=Path(video.variation) / str(video.seed)) for video in videos]


def test_attention_of_marked_words_is_matched_by_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = mark_words(make_labelled_videos(tmp_path), monkeypatch, ("circle", "red"), ("square", "red"))
    data = collect_correlation_data(videos, ["length"], [])
    assert list(data.covariates) == [
        "mass of circle/square",
        "entropy of circle/square",
        "mass of red",
        "entropy of red",
    ]
    assert np.array_equal(data.covariates["mass of circle/square"], [range(6)] * 2)
    assert np.array_equal(data.covariates["mass of red"], [range(1, 7)] * 2)


def test_words_of_prompts_with_different_numbers_of_marks_are_matched_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = mark_words(make_labelled_videos(tmp_path), monkeypatch, ("red", "star", "star"), ("star", "left"))
    data = collect_correlation_data(videos, ["length"], [])
    assert list(data.covariates) == ["mass of star", "entropy of star"]
    assert np.array_equal(data.covariates["mass of star"], [range(1, 7), range(6)])
    assert "words that some prompts do not mark are not correlated: red, star, left" in data.warnings


@pytest.mark.parametrize("as_json", [True, False])
def test_command_correlates_labels(
    wantui: Wantui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    videos = synthetic_videos(tmp_path / "batch", {"a": 1.0, "b": 2.0}, seeds=6, phrasings=1)
    use_videos(monkeypatch, videos)
    path = tmp_path / "labels.csv"
    rows = "".join(f"{video.variation},{video.seed},{-video.compute_metric('length')}\n" for video in videos)
    path.write_text("variation,seed,rating\n" + rows)
    options = ("--correlate", "--metrics", "length", "--scores", path, *(["--json"] if as_json else []))
    result = wantui("analyze", tmp_path, *options)
    assert result.code == 0
    if as_json:
        record = json.loads(result.out)
        assert record["seeds"] == list(range(6))
        by_kind = {item["across"]: item for item in record["correlations"] if item["metric"] == "length"}
        assert by_kind.keys() == {"seeds", "variations"}
        assert by_kind["seeds"]["rho"] == pytest.approx(-1)
        assert by_kind["seeds"]["low"] is None
        assert by_kind["seeds"]["p"] == pytest.approx(by_kind["seeds"]["least_p"], abs=0.01)
    else:
        assert "2 variations with the same 6 seeds" in result.out
        assert "-1.00" in result.out
        assert "nan" not in result.out


@pytest.mark.parametrize(("metrics", "values"), [("length", {"x", "y"}), ("length,x", {"x"}), ("x", {"x"})])
def test_command_correlates_with_all_labels_unless_some_are_chosen(
    wantui: Wantui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: str, values: set[str]
) -> None:
    videos = synthetic_videos(tmp_path / "batch", {"a": 1.0, "b": 2.0}, seeds=6, phrasings=1)
    use_videos(monkeypatch, videos)
    path = tmp_path / "labels.csv"
    rows = "".join(f"{video.variation},{video.seed},{video.seed},{-video.seed}\n" for video in videos)
    path.write_text("variation,seed,x,y\n" + rows)
    result = wantui("analyze", tmp_path, "--correlate", "--metrics", metrics, "--scores", path, "--json")
    assert result.code == 0
    correlations = json.loads(result.out)["correlations"]
    assert {item["with"] for item in correlations} == values
    assert ("turning" in {item["metric"] for item in correlations}) is (metrics == "x")


def test_interval_contains_its_correlation_or_is_missing() -> None:
    orders = np.array(list(itertools.permutations(range(4))), dtype=float)
    intervals = {tuple(order): compute_rho_interval(np.arange(4.0)[None], order[None]) for order in orders}
    for order, (low, high) in intervals.items():
        rho = stats.spearmanr(range(4), order).statistic
        assert math.isnan(low) or low <= rho <= high
    assert any(math.isnan(low) for low, _ in intervals.values())


def correlate(metrics: dict[str, FloatArray], covariates: dict[str, FloatArray], across: str) -> VideoCorrelations:
    data = CorrelationData((), (), metrics, covariates, (), ())
    return VideoCorrelations(data, {across: correlate_values(metrics, covariates, across)})


def test_only_found_correlations_are_shown_the_clearest_first() -> None:
    values = np.random.default_rng(3).normal(size=(2, 9))
    noise = np.random.default_rng(4).normal(size=(3, 2, 9))
    metrics = {"same": values, "noise": noise[0], "near": values + 0.3 * noise[1]}
    result = correlate(metrics, {"mass": values, "label": noise[2]}, ACROSS_SEEDS)
    shown = [(item.correlation.metric, item.covariates) for item in result.select(ACROSS_SEEDS)]
    assert shown == [("same", ("mass",)), ("near", ("mass",))]
    chosen = [item.correlation.metric for item in result.select(ACROSS_SEEDS, ["noise"])]
    assert chosen == ["noise", "noise"]


def test_clearest_correlation_is_shown_if_none_is_found() -> None:
    noise = np.random.default_rng(5).normal(size=(3, 1, 8))
    result = correlate({"a": noise[0], "b": noise[1]}, {"mass": noise[2]}, ACROSS_SEEDS)
    items = result.correlations_by_kind[ACROSS_SEEDS]
    assert not any(item.is_found for item in items)
    (shown,) = result.select(ACROSS_SEEDS)
    assert shown.correlation == min(items, key=lambda item: item.family_p)
    assert f"clearest: {shown.correlation.metric} with mass" in describe_correlations(items, ACROSS_SEEDS)


def test_values_with_the_same_order_share_a_row() -> None:
    values = np.random.default_rng(6).normal(size=(1, 8))
    result = correlate({"m": values}, {"mass": values**3, "entropy": np.exp(values)}, ACROSS_SEEDS)
    (shown,) = result.select(ACROSS_SEEDS)
    assert shown.covariates == ("mass", "entropy")
    assert format_correlation(shown)[0] == "mass, entropy"


def test_too_few_variations_are_named_and_show_no_table() -> None:
    values = np.random.default_rng(7).normal(size=(3, 8))
    result = correlate({"m": values}, {"mass": values}, ACROSS_VARIATIONS)
    assert result.select(ACROSS_VARIATIONS) == []
    text = describe_correlations(result.correlations_by_kind[ACROSS_VARIATIONS], ACROSS_VARIATIONS)
    assert text.endswith("): too few variations for a p of 0.05 (smallest possible p 0.17). Generate more variations")
