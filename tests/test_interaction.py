"""Interaction of two factors, against closed forms and scipy."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Wantui
from scipy import stats
from synthetic_videos import make_videos_of_two_words, synthetic_videos, use_videos

from wantui.analysis.answer_evidence import DISTANCE, FAMILIES_BY_METRIC, ROOM_METRICS
from wantui.analysis.declaration import Declaration
from wantui.analysis.dispersion import compute_unbiased_squared_mean
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.interaction import (
    CHANCE_HEADER,
    EFFECT_HEADERS,
    Contrast,
    Interaction,
    InteractionEffect,
    _compare_places,
    _measure_direction,
    find_factor_pairs,
    measure_interaction,
)
from wantui.analysis.interaction_text import (
    describe_direction,
    describe_interaction,
    judge_declared_metric,
    list_interaction_notes,
)
from wantui.analysis.matching import match_comparable_groups
from wantui.analysis.video import Video

pytestmark = pytest.mark.slow

GROUPING = "1,2"
WORDS = list(itertools.product(("red", "blue"), ("circle", "ring")))


def give_lengths(monkeypatch: pytest.MonkeyPatch, interaction: float) -> None:
    """Give all metrics large effects of both words, and an interaction."""

    def compute(video: Video, metric: str) -> float:
        is_red, is_ring = video.choices_by_bracket[1] == "red", video.choices_by_bracket[2] == "ring"
        generator = np.random.default_rng([video.seed, is_red, is_ring, *metric.encode()])
        return float(50 + 5 * is_red + 3 * is_ring + interaction * (is_red and is_ring) + generator.normal())

    monkeypatch.setattr(Video, "compute_metric", compute)


def find_effect(interaction: Interaction, metric: str) -> InteractionEffect:
    (effect,) = [effect for effect in interaction.effects if effect.metric == metric]
    return effect


@pytest.mark.parametrize("grouping", ["1", "2", "1,2", "variation"])
def test_levels_have_the_order_of_the_videos_in_every_grouping(tmp_path: Path, grouping: str) -> None:
    videos = make_videos_of_two_words(tmp_path)
    matched_groups, _ = match_comparable_groups(videos, grouping)
    matched_videos = [video for group in matched_groups.groups for video in group.videos]
    interaction = measure_interaction(matched_videos, GROUPING)
    assert interaction.levels == measure_interaction(videos, GROUPING).levels == (("red", "blue"), ("circle", "ring"))


def test_direction_of_place_equals_that_of_the_two_differences() -> None:
    rng = np.random.default_rng(5)
    means = np.array([[3.0, 0, 0, 0], [0, 2.0, 0, 0]])  # perpendicular, of lengths 3 and 2
    differences = means[:, None] + 0.1 * rng.normal(size=(2, 400, 4))
    direction = _measure_direction(differences, (differences**2).sum(2))
    pairs = [
        [
            np.mean([a @ b for s, a in enumerate(first[:40]) for t, b in enumerate(second[:40]) if s != t])
            for second in differences
        ]
        for first in differences
    ]
    small = _measure_direction(
        differences[:, :40], (differences[:, :40] ** 2).sum(2)
    )  # brute force over pairs of different seeds
    assert small.first_distance == pytest.approx(math.sqrt(pairs[0][0]), rel=1e-9)
    assert small.second_distance == pytest.approx(math.sqrt(pairs[1][1]), rel=1e-9)
    assert small.cosine == pytest.approx(pairs[0][1] / math.sqrt(pairs[0][0] * pairs[1][1]), rel=1e-6)
    assert direction.first_distance == pytest.approx(3, abs=0.02)
    assert direction.second_distance == pytest.approx(2, abs=0.02)
    assert direction.cosine == pytest.approx(0, abs=0.02)


def draw_differences(lengths: tuple[float, float], seeds: int = 6) -> np.ndarray:
    """Differences [2, seeds, 8] of these lengths in one direction, with scatter of length 0.3."""
    rng = np.random.default_rng(11)
    means = np.zeros((2, 1, 8))
    means[:, 0, 0] = lengths
    return means + 0.3 / math.sqrt(8) * rng.normal(size=(2, seeds, 8))


@pytest.mark.parametrize(
    ("lengths", "texts", "has_cosine"),
    [
        ((3.0, 2.0), ("apart with circle", "apart with ring"), True),
        ((3.0, 0.0), ("apart with circle", "not measurably apart with ring"), False),
        ((0.0, 0.0), ("not measurably apart with circle", "not measurably apart with ring"), False),
    ],
)
def test_insignificant_distance_is_not_reported(
    lengths: tuple[float, float], texts: tuple[str, str], has_cosine: bool
) -> None:
    differences = draw_differences(lengths)
    direction = _measure_direction(differences, (differences**2).sum(2))
    text = describe_direction(direction, Contrast(("red", "blue"), ("circle", "ring")))
    for length, part, expected_text in zip(
        lengths, text.partition("red and blue: ")[2].partition(" (cosine")[0].split(", "), texts, strict=True
    ):
        assert part.endswith(expected_text)
        assert part[0].isdigit() == (length > 0)
    assert ("cosine" in text) == math.isfinite(direction.cosine) == has_cosine


def test_equal_states_are_not_measurably_apart_despite_rounding() -> None:
    differences = 1e-9 * np.ones((2, 8, 4))
    direction = _measure_direction(differences, np.ones((2, 8)))
    assert (direction.first_distance, direction.first_p) == (0.0, 1.0)
    assert math.isnan(direction.cosine)


def test_estimate_far_above_1_is_not_reported_as_a_cosine() -> None:
    equal = np.array([[[1.0, 0.4], [1.0, -0.4]] * 4] * 2)
    assert _measure_direction(equal, (equal**2).sum(2)).cosine == pytest.approx(1)
    rng = np.random.default_rng(2)
    undefined_count = 0
    for _ in range(100):
        noisy = np.array([[1.0, 0.0]]) + rng.normal(scale=0.8, size=(2, 8, 2))
        direction = _measure_direction(noisy, (noisy**2).sum(2))
        totals = noisy.sum(1)
        products = (totals @ totals.T - np.einsum("isk,jsk->ij", noisy, noisy)) / (8 * 7)
        is_shown = max(direction.first_p, direction.second_p) <= 0.05 and min(products[0, 0], products[1, 1]) > 0
        ratio = products[0, 1] / math.sqrt(products[0, 0] * products[1, 1]) if is_shown else math.nan
        undefined_count += abs(ratio) > 1.05
        expected_cosine = math.nan if abs(ratio) > 1.05 else np.clip(ratio, -1, 1)
        assert direction.cosine == pytest.approx(expected_cosine, nan_ok=True)
    assert undefined_count > 0


def test_every_effect_has_its_chance_level_and_place_its_direction(tmp_path: Path) -> None:
    videos = make_videos_of_two_words(tmp_path)
    interaction = measure_interaction(videos, GROUPING)
    place, *metrics = interaction.effects
    assert place.direction is not None
    assert describe_direction(place.direction, place.contrast) in describe_interaction(interaction)["place"]
    assert f"by chance up to {place.chance:.3g} in this test alone" in describe_interaction(interaction)["place"]
    values = {
        (video.seed, video.choices_by_bracket[1], video.choices_by_bracket[2]): video.compute_metric("length")
        for video in videos
    }
    differences = [
        values[s, "red", "circle"] - values[s, "blue", "circle"] - values[s, "red", "ring"] + values[s, "blue", "ring"]
        for s in range(8)
    ]
    sizes = [abs(np.mean(np.multiply(signs, differences))) for signs in itertools.product((1, -1), repeat=8)]
    assert find_effect(interaction, "length").chance == pytest.approx(float(np.quantile(sizes, 0.95)))
    assert all(math.isfinite(effect.chance) and effect.direction is None for effect in metrics)
    column = EFFECT_HEADERS.index(CHANCE_HEADER)
    assert [effect.format_cells()[column] for effect in interaction.effects] == [
        f"{effect.chance:.3g}" for effect in interaction.effects
    ]


def test_difference_of_differences_equals_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_lengths(monkeypatch, 1)
    videos = make_videos_of_two_words(tmp_path)
    effect = find_effect(measure_interaction(videos, GROUPING), "length")
    values = {
        (video.seed, video.choices_by_bracket[1], video.choices_by_bracket[2]): video.compute_metric("length")
        for video in videos
    }
    differences = np.array(
        [
            (values[seed, "red", "circle"] - values[seed, "blue", "circle"])
            - (values[seed, "red", "ring"] - values[seed, "blue", "ring"])
            for seed in range(8)
        ]
    )
    by_scipy = stats.ttest_1samp(differences, 0).confidence_interval()
    test = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert effect.effect == pytest.approx(differences.mean())
    assert (effect.low, effect.high) == pytest.approx((by_scipy.low, by_scipy.high))
    assert effect.uncorrected_p == pytest.approx(test.pvalue)
    assert effect.p >= effect.uncorrected_p


def test_interaction_in_place_is_the_unbiased_length_of_the_difference(tmp_path: Path) -> None:
    videos = make_videos_of_two_words(tmp_path)
    effect = find_effect(measure_interaction(videos, GROUPING), "distance")
    ends = {
        (video.seed, video.choices_by_bracket[1], video.choices_by_bracket[2]): video.load_projected_path()[1][-1]
        / math.sqrt(60)
        for video in videos
    }
    differences = np.stack(
        [sum((-1) ** (i % 3 > 0) * ends[seed, *words] for i, words in enumerate(WORDS)) for seed in range(8)]
    )
    assert effect.effect == pytest.approx(math.sqrt(max(compute_unbiased_squared_mean(differences), 0)), abs=1e-6)


def test_large_effects_of_each_word_alone_are_not_an_interaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_lengths(monkeypatch, 0)
    interaction = measure_interaction(make_videos_of_two_words(tmp_path), GROUPING)
    assert not find_effect(interaction, "length").is_found
    assert describe_interaction(interaction)["room"].startswith(
        "cannot tell whether the difference between red, blue depends on circle, ring. "
    )
    give_lengths(monkeypatch, 20)
    interaction = measure_interaction(make_videos_of_two_words(tmp_path), GROUPING)
    assert find_effect(interaction, "length").is_found
    assert describe_interaction(interaction)["path"].startswith(
        "the difference between red, blue depends on circle, ring. "
    )


def test_declared_metric_has_a_verdict_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_lengths(monkeypatch, 20)
    videos = make_videos_of_two_words(tmp_path)
    declaration = Declaration("length", "before", "length, declared before the videos were generated")
    verdict = judge_declared_metric(measure_interaction(videos, GROUPING, declaration))
    effect = find_effect(measure_interaction(videos, GROUPING), "length")
    assert verdict.startswith(
        "verdict on a single metric: length, declared before the videos were generated: "
        "the difference between red, blue depends on circle, ring. "
    )
    assert verdict.endswith(f"p {effect.uncorrected_p:.3g} of this metric alone")  # one pair of levels: not corrected
    other = replace(declaration, metric="clip_score")
    assert "it is not tested for interactions" in judge_declared_metric(measure_interaction(videos, GROUPING, other))


def test_p_of_the_declared_metric_is_corrected_over_pairs_of_levels_only(tmp_path: Path) -> None:
    videos = make_videos_of_two_words(tmp_path)
    for effect in measure_interaction(videos, GROUPING).effects:
        assert effect.uncorrected_p <= effect.contrast_p + 1e-12
        assert effect.contrast_p <= effect.p + 1e-12
    effect = find_effect(measure_interaction(videos, GROUPING), "length")
    assert effect.contrast_p == effect.uncorrected_p  # there is one pair of levels


def test_interaction_of_few_seeds_says_how_many_are_needed(tmp_path: Path) -> None:
    notes = list_interaction_notes(measure_interaction(make_videos_of_two_words(tmp_path, 4), GROUPING))
    assert notes[0] == "4 seeds cannot give a p of 0.05: generate at least 6"
    assert "at least" not in " ".join(
        list_interaction_notes(measure_interaction(make_videos_of_two_words(tmp_path), GROUPING))
    )


def test_interaction_in_place_of_two_seeds_is_measured(tmp_path: Path) -> None:
    interaction = measure_interaction(make_videos_of_two_words(tmp_path, 2), GROUPING)
    assert find_effect(interaction, "distance").question == "place"
    assert "spread" in interaction.excluded_metrics


def test_pairs_of_factors_are_those_with_several_values(tmp_path: Path) -> None:
    videos = make_videos_of_two_words(tmp_path, 2)
    assert find_factor_pairs(videos) == ["1,2"]
    assert find_factor_pairs([video for video in videos if video.choices_by_bracket[1] == "red"]) == []
    scales = [
        replace(video, setting_values={"model_settings.cfg_scale": scale}) for video in videos for scale in (1, 4)
    ]
    assert find_factor_pairs(scales) == ["1,2", "1,cfg_scale", "2,cfg_scale"]


def test_rounding_errors_are_not_an_interaction() -> None:
    random = np.random.default_rng(0)
    noise, red, ring = random.normal(size=(8, 50)), random.normal(size=50), random.normal(size=50)
    states = np.stack([noise + i * red + j * ring for i in range(2) for j in range(2)]).astype(np.float32)
    contrast = Contrast(("red", "blue"), ("circle", "ring"))
    weights = np.array([[1.0, -1.0, -1.0, 1.0]])
    (effect,) = _compare_places(states.astype(np.float64), weights, [contrast])
    assert (effect.effect, effect.uncorrected_p, effect.p) == (0, 1, 1)
    states[3] += 1
    (effect,) = _compare_places(states.astype(np.float64), weights, [contrast])
    assert effect.p == 2 / 2**8
    assert effect.effect == pytest.approx(math.sqrt(50), rel=1e-6)
    assert math.isnan(effect.low)  # equal differences show no scatter


def test_incomplete_factors_are_refused(tmp_path: Path) -> None:
    videos = make_videos_of_two_words(tmp_path, 3)
    with pytest.raises(CannotCompareError, match="it needs two factors"):
        measure_interaction(videos, "1")
    some = [video for video in videos if tuple(video.choices_by_bracket.values()) != ("red", "ring")]
    with pytest.raises(CannotCompareError, match="no videos of red with ring"):
        measure_interaction(some, GROUPING)


def test_command_prints_the_interaction(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    use_videos(monkeypatch, make_videos_of_two_words(tmp_path))
    result = wantui("analyze", tmp_path, "--compare", "--by", "1,2", "--interaction")
    lines = result.out.splitlines()
    assert lines[0].startswith("interaction: does the difference between red, blue depend on circle, ring?")
    assert [line.split(":")[0] for line in lines[-3:]] == ["place", "room", "path"]
    assert not any("by chance, alone" in line for line in lines)
    for line in lines[-3:]:
        assert "the difference between red, blue depends on circle, ring" in line
    details = wantui("analyze", tmp_path, "--compare", "--by", "1,2", "--interaction", "--details").out.splitlines()
    assert details[-3:] == lines[-3:]
    assert any("by chance, alone" in line for line in details)
    chosen = ("analyze", tmp_path, "--compare", "--by", "1,2", "--interaction", "--metrics", "length,turning")
    lines = wantui(*chosen).out.splitlines()
    rows = lines[next(i for i, line in enumerate(lines) if "by chance, alone" in line) + 1 :]
    table = " ".join(rows[: next(i for i, line in enumerate(rows) if "note: " in line)]).split()
    names = [DISTANCE, *ROOM_METRICS, *FAMILIES_BY_METRIC]
    assert [name for name in names if name in table] == ["length", "turning"]
    effects = json.loads(wantui(*chosen, "--json").out)["interaction"]["effects"]
    assert [effect["metric"] for effect in effects] == ["length", "turning"]


def test_chosen_metric_without_a_test_is_named(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    use_videos(monkeypatch, make_videos_of_two_words(tmp_path, 2))
    command = ("analyze", tmp_path, "--compare", "--by", "1,2", "--interaction", "--primary", "length")
    result = wantui(*command, "--metrics", "length,spread")
    assert "note: no test for an interaction in spread" in result.out, result.err


def test_two_seeds_give_no_interval_of_place(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = []
    for video in synthetic_videos(tmp_path, {"red": 1.0, "blue": 1.0}, 2, phrasings=4):
        number = int(video.choices_by_bracket[7][-1])
        choices = {1: video.choices_by_bracket[3], 2: ("circle", "ring")[number // 2], 3: str(number % 2)}
        videos.append(replace(video, choices_by_bracket=choices))
    use_videos(monkeypatch, videos)
    command = ("analyze", tmp_path, "--compare", "--by", "1,2", "--interaction", "--primary", "length")
    assert "nan" not in wantui(*command).out
    effects = json.loads(wantui(*command, "--json").out)["interaction"]["effects"]
    (place,) = [effect for effect in effects if effect["question"] == "place"]
    assert place["low"] is place["high"] is None
