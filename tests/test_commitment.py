"""Causal commitment: shares, s50 and differences, against closed forms and simulations of known distributions."""

import itertools
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import Wantui
from scipy import optimize, stats

from wantui.analysis.commitment import (
    HOLM,
    MAX_T,
    ConceptOutcomes,
    compare_commitments,
    compute_kept_ranges,
    count_unprompted_videos,
    measure_commitment,
)
from wantui.analysis.concept_labels import (
    CannotLabelError,
    find_judged_attribute,
    find_nearest_concept,
    read_concept_labels,
)
from wantui.analysis.continued_videos import find_concept_word
from wantui.analysis.differences import compute_family_p, describe_interval
from wantui.analysis.proportions import (
    Proportion,
    find_half_share_level,
    fit_monotonic,
)
from wantui.analysis.statistics import MAX_CORRECTED_TESTS, adjust_family_wise
from wantui.cli.commitment import _describe_difference, _describe_unmeasured_range
from wantui.errors import UserError

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHARE_OF_8 = (254 / 256 - 0.95) / (16 / 256)
WEIGHT_OF_8 = 7 * SHARE_OF_8 / (1 + 6 * SHARE_OF_8)
"""Weight of the second order statistics of eight seeds; those of the first have a coverage of 254 / 256, those of the
second one of 238 / 256 (Hettmansperger and Sheather 1986)."""


@pytest.mark.parametrize("total", [1, 6, 24, 96])
def test_wilson_interval_equals_scipy(total: int) -> None:
    for count in range(total + 1):
        expected = stats.binomtest(count, total).proportion_ci(method="wilson")
        assert Proportion(count, total).interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert Proportion(0, total).interval[0] == 0
    assert Proportion(total, total).interval[1] == 1


def test_share_of_no_seed_has_no_value() -> None:
    assert math.isnan(Proportion(0, 0).share)
    assert all(map(math.isnan, Proportion(0, 0).interval))


# A mixture of N(-m, v) and N(m, v) with the share w of the second, in the dimension that separates them.
MEAN, VARIANCE = 1.0, 0.01


def mixture_cdf(x: float, s: float, share: float) -> float:
    deviation = math.sqrt((1 - s) ** 2 * VARIANCE + s**2)
    centre = (1 - s) * MEAN
    return float(
        (1 - share) * stats.norm.cdf((x + centre) / deviation) + share * stats.norm.cdf((x - centre) / deviation)
    )


def exact_velocity(x: np.ndarray, s: float, share: float) -> np.ndarray:
    """The velocity of a perfect model, E[noise - data | x], of the mixture."""
    deviation2, centre = (1 - s) ** 2 * VARIANCE + s**2, (1 - s) * MEAN
    odds = (1 - share) / share * np.exp(-2 * x * centre / deviation2)
    means = []
    for sign in (-1, 1):
        clean = sign * MEAN + (1 - s) * VARIANCE / deviation2 * (x - sign * centre)
        means.append((x - clean) / s)
    p = 1 / (1 + odds)
    return np.asarray((1 - p) * means[0] + p * means[1])


def continue_with_generic(x: np.ndarray, s: float, share: float, step_count: int = 400) -> np.ndarray:
    """Integrate the flow of the mixture from the noise level s to 0, with Heun's method on a fine grid."""
    levels = np.linspace(s, 0, step_count + 1)
    for level, next_level in pairwise(levels):
        velocity = exact_velocity(x, level, share)
        predicted = x + (next_level - level) * velocity
        if next_level > 0:
            velocity = (velocity + exact_velocity(predicted, next_level, share)) / 2
        x = x + (next_level - level) * velocity
    return x


def stay_probability(s: float, share: float) -> float:
    """Closed form: the flow is monotone, so that x stays in the second component above the (1 - share) quantile."""
    if s == 0:
        return 1.0
    quantile = optimize.brentq(lambda x: mixture_cdf(x, s, share) - (1 - share), -20, 20)
    deviation = math.sqrt((1 - s) ** 2 * VARIANCE + s**2)
    return float(stats.norm.sf((quantile - (1 - s) * MEAN) / deviation))


def continue_seeds(share: float, seed_count: int, sigmas: tuple[float, ...], seed: int) -> np.ndarray:
    """[seeds, s] whether a video of the second component stays there after noise was added (a U-turn)."""
    random = np.random.default_rng(seed)
    clean = MEAN + math.sqrt(VARIANCE) * random.normal(size=seed_count)
    noise = random.normal(size=seed_count)
    references = {"low": np.array([-MEAN]), "high": np.array([MEAN])}
    stays = []
    for s in sigmas:
        finals = continue_with_generic((1 - s) * clean + s * noise, s, share)
        stays.append([find_nearest_concept(np.array([x]), references) == "high" for x in finals])
    return np.array(stays).T


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_stay_shares_and_s50_of_a_perfect_model_equal_the_closed_form(share: float) -> None:
    sigmas = tuple(np.round(np.linspace(0.1, 0.95, 12), 3).tolist())
    stays = continue_seeds(share, 2000, sigmas, 1)
    expected = np.array([stay_probability(s, share) for s in sigmas])
    assert np.abs(stays.mean(0) - expected).max() < 4 * 0.5 / math.sqrt(2000)
    half = find_half_share_level(sigmas, stays.sum(0).tolist(), len(stays))
    if share == 0.5:  # an equal component is left by at most half of the seeds, in the limit of pure noise
        assert half.is_above_range
        assert math.isnan(half.estimate)
        assert half.high == math.inf
    else:
        exact = optimize.brentq(lambda s: stay_probability(s, share) - 0.5, 0.1, 0.95)
        assert half.low <= exact <= half.high
        assert half.estimate == pytest.approx(exact, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("seed_count", [6, 10, 16, 24, 50])
@pytest.mark.parametrize("kind", ["monotone", "independent"])
def test_interval_of_s50_covers_it_however_the_levels_of_a_seed_depend_on_each_other(
    seed_count: int, kind: str
) -> None:
    sigmas = np.linspace(0.3, 0.95, 9)
    true_half, run_count = 0.7, 2000
    shares = stats.norm.sf((sigmas - true_half) / 0.12)
    random = np.random.default_rng(seed_count)
    missed = 0
    for _ in range(run_count):
        draws = random.random((seed_count, 1 if kind == "monotone" else len(sigmas)))
        counts = (draws < shares).sum(0).tolist()
        half = find_half_share_level(sigmas.tolist(), counts, seed_count)
        missed += not half.low <= true_half <= half.high
    assert missed / run_count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / run_count)


def test_interval_of_s50_equals_the_sign_test_for_seeds_that_leave_once() -> None:
    thresholds = [0.52, 0.61, 0.65, 0.66, 0.71, 0.74, 0.78, 0.82]
    grid = np.linspace(0.5, 0.9, 401)
    counts = [sum(threshold > s for threshold in thresholds) for s in grid]
    half = find_half_share_level(grid.tolist(), counts, len(thresholds))
    assert half.low == pytest.approx(0.52 + WEIGHT_OF_8 * 0.09, abs=0.002)
    assert half.high == pytest.approx(0.82 - WEIGHT_OF_8 * 0.04, abs=0.002)
    assert 0.66 < half.estimate < 0.71 + 0.002


@pytest.mark.parametrize(
    ("counts", "estimate", "low", "high", "above", "below"),
    [
        ([8, 8, 8, 0, 0, 0], 0.75, 0.7, 0.8, False, False),
        ([8, 8, 8, 8, 8, 8], math.nan, 0.95, math.inf, True, False),
        ([0, 0, 0, 0, 0, 0], math.nan, 0.0, 0.5, False, True),
        ([8, 8, 4, 4, 0, 0], 0.75, 0.6, 0.9, False, False),
        ([8, 4, 6, 4, 1, 0], 0.8, 0.5, 0.95 - 0.05 * WEIGHT_OF_8, False, False),
    ],
)
def test_s50_is_the_crossing_of_a_decreasing_fit_and_has_no_value_outside_the_levels(
    counts: list[int], estimate: float, low: float, high: float, above: bool, below: bool
) -> None:
    half = find_half_share_level(LEVELS, counts, 8)
    assert half.estimate == pytest.approx(estimate, nan_ok=True)
    assert (half.low, half.high) == pytest.approx((low, high))
    assert (half.is_above_range, half.is_below_range) == (above, below)


@pytest.mark.parametrize(
    ("counts", "seed_count", "estimate"),
    [([7, 2, 3, 5, 4], 7, 0.75), ([1, 1, 6, 6], 7, 0.65), ([3, 4, 8, 1], 10, 0.6), ([1, 3, 5], 6, 0.6)],
)
def test_s50_is_the_middle_of_the_levels_at_which_the_fit_is_one_half(
    counts: list[int], seed_count: int, estimate: float
) -> None:
    half = find_half_share_level(LEVELS[: len(counts)], counts, seed_count)
    assert half.estimate == pytest.approx(estimate)
    assert not half.is_above_range
    assert not half.is_below_range


@pytest.mark.parametrize("counts", [[6, 4, 4, 4], [5, 5, 4, 4]])
def test_isotonic_fit_has_no_rounding_error_at_three_quarters(counts: list[int]) -> None:
    assert fit_monotonic(np.array(counts) / 6, is_increasing=True).tolist() == [0.75] * 4


@pytest.mark.parametrize("seed_count", [2, 5])
def test_few_seeds_give_no_bound_of_s50(seed_count: int) -> None:
    half = find_half_share_level(LEVELS, [seed_count] * 3 + [0] * 3, seed_count)
    assert half.estimate == pytest.approx(0.75)
    assert (half.low, half.high) == (0.0, math.inf)


def test_one_concept_has_no_difference() -> None:
    assert compare_commitments([measure_commitment(outcomes("ring", {1: "rrrrcc", 2: "rrrccc"}))]) == []


def test_three_concepts_of_the_same_seeds_are_corrected_by_max_t_and_others_by_holm() -> None:
    rows = {
        "ring": ["rrrccc", "rrcccc", "rrrrcc", "rrrccc", "rrrrrc", "rrrccc", "rrrrcc"],
        "circle": ["cccccc", "cccccr", "ccccrr", "cccccc", "cccccc", "ccccrr", "cccccr"],
        "square": ["sscccc", "sccccc", "ssscss", "ssccss", "sssccc", "sccccc", "ssscss"],
    }
    commitments = [measure_commitment(outcomes(concept, dict(enumerate(labels)))) for concept, labels in rows.items()]
    results = compare_commitments(commitments)
    pairs = list(itertools.combinations(range(3), 2))
    ranges = np.stack([commitment.kept_ranges for commitment in commitments], axis=1)[..., None]
    alone = np.array([[result.kept_range.p] for result in results])
    assert [result.family_p for result in results] == compute_family_p(ranges, pairs, alone)[:, 0].tolist()
    assert {(result.correction, result.min_family_p) for result in results} == {(MAX_T, 2 / 2**7)}
    longer = measure_commitment(outcomes("square", dict(enumerate([*rows["square"], "ssscss"]))))
    by_holm = compare_commitments([*commitments[:2], longer])
    assert [result.family_p for result in by_holm] == adjust_family_wise(alone[:, 0]).tolist()
    assert {(result.correction, result.min_family_p) for result in by_holm} == {(HOLM, 3 * 2 / 2**7)}


def test_kept_range_is_the_integral_of_staying_over_the_noise_level() -> None:
    stays = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]], dtype=bool)
    assert compute_kept_ranges(LEVELS, stays) == pytest.approx([0.95, 0.25, 0.65, 0.55 + 0.1])


def outcomes(concept: str, rows: dict[int, str]) -> ConceptOutcomes:
    names = {"c": "circle", "r": "ring", "s": "square"}
    labels = tuple(tuple(names[letter] for letter in row) for row in rows.values())
    return ConceptOutcomes(concept, LEVELS, tuple(rows), labels)


def test_commitment_counts_stays_labels_and_returning_seeds() -> None:
    commitment = measure_commitment(outcomes("ring", {1: "rrrrcc", 2: "rrrccc", 3: "rrcrcs"}))
    assert [share.count for share in commitment.stay_shares] == [3, 3, 2, 2, 0, 0]
    assert dict(commitment.label_counts[-1]) == {"circle": 2, "square": 1}
    assert commitment.returning_count == 1
    assert commitment.kept_ranges == pytest.approx([0.85, 0.75, 0.65 + 0.1])


def test_kept_range_below_the_lowest_level_is_called_an_assumption() -> None:
    leaving = measure_commitment(outcomes("ring", {1: "rrrccc", 2: "cccccc", 3: "crcccc"}))
    note = _describe_unmeasured_range(leaving)
    assert note.startswith("ring is lost in 2 of 3 seeds even at the lowest measured noise level, 0.500; half of it")
    assert leaving.kept_ranges[1] == LEVELS[0] / 2
    assert _describe_unmeasured_range(measure_commitment(outcomes("ring", {1: "rrrccc", 2: "rccccc"}))) == ""


def test_mean_kept_range_has_the_interval_of_scipy_unless_it_does_not_scatter() -> None:
    commitment = measure_commitment(outcomes("ring", {1: "rrrrcc", 2: "rrrccc", 3: "rrcrcs", 4: "rccccc"}))
    ranges = commitment.kept_ranges
    expected = stats.t.interval(0.95, 3, loc=ranges.mean(), scale=stats.sem(ranges))
    assert commitment.kept_range_interval == pytest.approx(expected)
    for rows in ({1: "rrrccc"}, {1: "rrrccc", 2: "rrrccc"}):
        assert all(map(math.isnan, measure_commitment(outcomes("ring", rows)).kept_range_interval))


def test_difference_is_paired_by_seed_and_its_p_is_never_below_the_smallest() -> None:
    ring = measure_commitment(outcomes("ring", dict.fromkeys(range(8), "rrrccc") | {9: "cccccc"}))
    circle = measure_commitment(outcomes("circle", dict.fromkeys(range(8), "cccccc")))
    (difference,) = compare_commitments([circle, ring])
    assert (difference.first, difference.second, difference.shared_seed_count) == ("circle", "ring", 8)
    assert difference.kept_range.mean == pytest.approx(0.95 - 0.75)
    assert difference.kept_range.p == difference.min_attainable_p == pytest.approx(2 / 2**8)
    assert math.isnan(difference.half_share_level_difference)
    assert difference.unshared_seeds_by_concept == {"circle": (), "ring": (9,)}
    text = _describe_difference(difference, 1)
    assert ", 8 shared seeds (only ring has 9); " in text
    assert "8 shared seeds;" in _describe_difference(replace(difference, unshared_seeds_by_concept={}), 1)


def test_verdict_on_many_concepts_says_that_no_number_of_seeds_suffices() -> None:
    circle = measure_commitment(outcomes("circle", dict.fromkeys(range(8), "cccccc")))
    ring = measure_commitment(outcomes("ring", dict.fromkeys(range(8), "cccccc") | {9: "cccccc"}))
    (difference,) = compare_commitments([circle, ring])
    difference = replace(difference, family_p=1.0, min_family_p=1.0, correction=HOLM)
    assert "p = 0.05 needs at least 15 seeds" in _describe_difference(difference, MAX_CORRECTED_TESTS)
    assert "no number of seeds gives p = 0.05 for 501 pairs" in _describe_difference(difference, 501)


@pytest.mark.parametrize("seed_count", [2, 8])
def test_equal_kept_ranges_of_all_seeds_show_no_scatter_and_give_no_interval(seed_count: int) -> None:
    circle = measure_commitment(outcomes("circle", dict.fromkeys(range(seed_count), "cccccc")))
    for labels, expected_difference in (("rrrccc", 0.2), ("rrrrrr", 0.0)):
        ring = measure_commitment(outcomes("ring", dict.fromkeys(range(seed_count), labels)))
        (difference,) = compare_commitments([circle, ring])
        assert difference.kept_range.mean == pytest.approx(expected_difference)
        assert math.isnan(difference.kept_range.interval_low)
        assert math.isnan(difference.kept_range.interval_high)
        assert describe_interval(difference.kept_range).startswith("no interval: all seeds have the same difference")


def test_videos_that_turn_into_a_concept_count_as_drawn_unasked() -> None:
    circle = outcomes("circle", dict.fromkeys(range(3), "cccccc"))
    ring = outcomes("ring", {1: "rrrccc", 2: "rrrrcc", 3: "rrrrrr"})
    assert count_unprompted_videos("circle", [circle, ring]) == Proportion(2, 3)
    assert count_unprompted_videos("ring", [circle, ring]) == Proportion(0, 3)
    assert count_unprompted_videos("ring", [ring]) == Proportion(0, 0)


def test_p_of_pairs_of_concepts_is_corrected_by_holm() -> None:
    ring = measure_commitment(outcomes("ring", dict.fromkeys(range(8), "rrrccc") | {9: "cccccc"}))
    circle = measure_commitment(outcomes("circle", dict.fromkeys(range(8), "cccccc")))
    square = measure_commitment(outcomes("square", dict.fromkeys(range(6), "sccccc")))
    differences = compare_commitments([circle, ring, square])
    alone = [difference.kept_range.p for difference in differences]
    assert alone == pytest.approx([2 / 2**8, 2 / 2**6, 2 / 2**6])
    assert [difference.family_p for difference in differences] == pytest.approx([3 * 2 / 2**8, 4 / 2**6, 4 / 2**6])


def test_concepts_at_other_noise_levels_are_not_compared() -> None:
    ring = measure_commitment(outcomes("ring", {1: "rrrccc", 2: "rrrccc"}))
    other = measure_commitment(ConceptOutcomes("circle", LEVELS[:3], (1, 2), (("circle",) * 3,) * 2))
    assert compare_commitments([ring, other]) == []


@pytest.mark.slow
def test_equal_concepts_differ_in_at_most_five_percent_of_runs() -> None:
    random = np.random.default_rng(0)
    shares = stats.norm.sf((np.array(LEVELS) - 0.75) / 0.1)
    significant = []
    for _ in range(600):
        both = []
        for concept in ("ring", "circle"):
            draws = random.random((10, 1))
            labels = tuple(tuple(concept if stay else "other" for stay in row) for row in draws < shares)
            both.append(measure_commitment(ConceptOutcomes(concept, LEVELS, tuple(range(10)), labels)))
        significant.append(compare_commitments(both)[0].kept_range.p <= 0.05)
    assert np.mean(significant) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


@pytest.mark.parametrize(
    ("prompt", "generic_prompt", "word"),
    [
        ("a large red circle moving left", "a large red shape moving left", "circle"),
        ("an old man walks", "a person walks", "an old man"),
        ("circle", "shape", "circle"),
        ("a red shape", "a red shape", "a red shape"),
        ("a red ring over a red ring", "a red shape over a red shape", "ring"),
        ("an old man and an old man, old", "an person and an person, old", "old man"),
        ("a circle, red", "a shape, red", "circle"),
        ("a red circle.", "a red shape.", "circle"),
        ('a "circle" on paper', 'a "shape" on paper', "circle"),
        ("the old man's hat", "the person's hat", "old man"),
        ("लाल गोला, बड़ा", "लाल आकृति, बड़ा", "गोला"),
        ("a ring over a circle", "a shape over a ball", "ring over a circle"),
        ("Circle beside a circle", "Shape beside a shape", "circle"),
        ("Circle moving left", "Shape moving left", "circle"),
        ("Berlin in the rain", "city in the rain", "Berlin"),
    ],
)
def test_concept_is_the_text_that_the_generic_prompt_replaces(prompt: str, generic_prompt: str, word: str) -> None:
    assert find_concept_word(prompt, generic_prompt) == word


def test_nano_judge_is_used_only_for_words_that_it_knows() -> None:
    assert find_judged_attribute(["circle", "ring"]) == "shape"
    assert find_judged_attribute(["red", "blue"]) == "colour"
    assert find_judged_attribute(["left", "still"]) == "motion"
    assert find_judged_attribute(["circle", "red"]) is None


def test_nearest_reference_of_another_size_is_refused() -> None:
    with pytest.raises(CannotLabelError, match="the videos differ in size"):
        find_nearest_concept(np.zeros(3), {"ring": np.zeros(4)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,label\nab12,ring\n", "has no column id"),
        ("id\nab12\n", "has no column label"),
        ("id,label\nab,ring\n", "line 2: ab matches 2 videos"),
        ("id,label\nab12,\n", "line 2: ab12 has no label"),
        ("id,label\nab12,ring\nab12,circle\n", "line 3: ab12 has a second label"),
        ("id,label\nzz,ring\n", "names no video of these batches"),
        ("id,label\nab12,ring,circle\n", "line 2 has 3 cells, but the header has 2"),
        ('id,label\nab12,"ring\n', "line 2 is not valid CSV"),
    ],
)
def test_unusable_labels_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_concept_labels(path, ["ab12", "ab34"])


def test_labels_are_read_by_the_start_of_the_id(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("note,id,label\nx,ab1,ring\ny,ab34, other \n,qq,circle\n")
    assert read_concept_labels(path, ["ab12", "ab34"]) == {"ab12": "ring", "ab34": "other"}


def test_labels_may_be_separated_by_semicolons(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id;label\nab12;ring\n")
    assert read_concept_labels(path, ["ab12"]) == {"ab12": "ring"}


def test_commitment_refuses_an_unreadable_moment(wantui: Wantui) -> None:
    result = wantui("commitment", "run", "-t", "a large red [circle|ring]", "--switch-at", "50%,banana", "--preview")
    assert (result.code, result.out) == (2, "")
    assert "--switch-at: cannot read the moment 'banana'" in result.err


def test_moments_of_the_same_step_are_generated_once(wantui: Wantui) -> None:
    template = ("-t", "a large red [circle|ring]", "--generic", "circle|ring: shape")
    command = ("commitment", "run", "-c", "nano", *template, "--seeds", "1..7", "--preview", "--json")
    result = wantui(*command, "--set", "steps=6")
    assert [cell["label"] for cell in json.loads(result.out)["sweep"]["cells"]] == [
        "baseline", "schedule 5%", "schedule 30%", "schedule 55%", "schedule 75%"
    ]  # fmt: skip
    assert "of 5%, 10%, 15%, 20%, only 5% is generated: they switch the prompt at the same step" in result.err
    assert "of 30%, 40%, only 30% is generated" in result.err
    many = wantui(*command, "--set", "steps=20")
    assert "is generated" not in many.err
    assert len(json.loads(many.out)["sweep"]["cells"]) == 9
    swept = wantui(*command, "--sweep", "steps=6,20")
    assert "is generated" not in swept.err, "the moments differ with 20 steps"
    late = wantui(*command, "--set", "steps=6", "--switch-at", "2,9,9")
    assert late.code != 0
    assert "the steps are 0 to 5" in late.out + late.err


@pytest.mark.parametrize("options", [("--generic", "circle|ring: shape"), ()])
def test_config_from_a_pipe_is_read_once(tmp_path: Path, wantui: Wantui, options: tuple[str, ...]) -> None:
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    text = "model_settings: {model_id: nano, steps: 6}\nprompt_settings: {generic_words: 'circle|ring: shape'}\n"
    with ThreadPoolExecutor() as executor:
        writing = executor.submit(pipe.write_text, text)
        result = wantui("commitment", "run", "-c", pipe, "-t", "a [circle|ring]", *options, "--preview", "--json")
        writing.result()
    assert result.code == 0, result.err
    recipe = json.loads(result.out)["recipe"]
    assert (recipe["model"], recipe["steps"]) == ("nano", 6)
