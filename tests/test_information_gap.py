"""The information gap: quadrature, table by word, generic words and the file, against closed forms and scipy."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import recipe_for
from scipy import integrate, stats

from wantui.analysis.information_gap import (
    HIGHEST_SIGMA,
    LOWEST_SIGMA,
    InformationGap,
    ScoredVideo,
    build_information_table,
    choose_quadrature_levels,
    integrate_levels,
)
from wantui.config import load_config
from wantui.config.problems import ConfigError
from wantui.generic_words import (
    GenericWordsError,
    convert_to_generic_words_text,
    find_generic_sentence,
    parse_generic_words,
)
from wantui.models.catalogue import NANO
from wantui.planning import TimedVideo
from wantui.planning.pass_time import estimate_pass_seconds
from wantui.storage.information_file import (
    InformationFile,
    InformationFileError,
    LevelEntry,
    ScoreEntry,
    get_information_path,
    merge_information,
    read_information,
)


def bayes_gaps(sigma: float, points: np.ndarray, shares: np.ndarray, concept: int, count: int) -> tuple[float, float]:
    """Return the mean squared gap and pointwise gain of a perfect model of a mixture of points [k, D] with shares [k].

    The prompt names one point; the generic sentence leaves the mixture open, whose mean is the Bayes estimate.
    """
    noise = np.random.default_rng([concept, int(1e6 * sigma)]).normal(size=(count, points.shape[1]))
    noised = (1 - sigma) * points[concept] + sigma * noise
    log_weights = np.log(shares) - ((noised[:, None] - (1 - sigma) * points) ** 2).sum(2) / (2 * sigma**2)
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    conditional, generic = (noised - points[concept]) / sigma, (noised - weights @ points) / sigma
    target = noise - points[concept]
    gap = ((conditional - generic) ** 2).sum(1)
    gain = ((generic - target) ** 2).sum(1) - ((conditional - target) ** 2).sum(1)
    return float(gap.mean()), float(gain.mean())


@pytest.mark.slow
@pytest.mark.parametrize("distance", [25.0, 80.0, 300.0, 600.0])
def test_information_of_a_mixture_is_minus_the_logarithm_of_the_share(distance: float) -> None:
    shares = np.array([0.45, 0.25, 0.14, 0.08, 0.05, 0.03])
    points = distance / math.sqrt(2) * np.eye(6)
    levels = choose_quadrature_levels()
    for concept, share in enumerate(shares):
        gaps, gains = zip(*(bayes_gaps(level.sigma, points, shares, concept, 20_000) for level in levels), strict=True)
        information = integrate_levels(levels, gaps, gains)
        assert information.gap_whole == pytest.approx(-math.log(share), rel=0.03, abs=0.05)
        assert information.pointwise_whole == pytest.approx(-math.log(share), rel=0.03, abs=0.15)
        if distance > 50:  # otherwise, noise of 0.9 hides part of what the points differ in
            assert information.gap == pytest.approx(information.gap_whole, abs=0.01)


@pytest.mark.parametrize("boundary", [None, 0.875, 0.95])
def test_levels_integrate_smooth_functions_like_scipy(boundary: float | None) -> None:
    def squared_gap(sigma: float) -> float:
        return 3 * sigma**2 + 2 * math.cos(3 * sigma)

    levels = choose_quadrature_levels(boundary=boundary)
    assert len(levels) == 16
    values = [squared_gap(level.sigma) for level in levels]
    information = integrate_levels(levels, values, [2 * value for value in values])
    window, _ = integrate.quad(lambda s: (1 - s) / s * squared_gap(s), 0.9, 1)
    whole, _ = integrate.quad(lambda s: (1 - s) / s * squared_gap(s), LOWEST_SIGMA, 1)
    assert information.gap == pytest.approx(window, rel=1e-3)
    assert information.gap_whole == pytest.approx(whole, rel=0.04)
    assert information.pointwise == pytest.approx(2 * information.gap)


def test_no_quadrature_interval_spans_the_switch_of_transformers() -> None:
    def jump(sigma: float) -> float:
        return 5.0 if sigma < 0.875 else 1.0

    def measure(boundary: float | None) -> float:
        levels = choose_quadrature_levels(boundary=boundary, rest_count=16)
        values = [jump(level.sigma) for level in levels]
        return integrate_levels(levels, values, values).gap_whole

    exact, _ = integrate.quad(lambda s: (1 - s) / s * jump(s), LOWEST_SIGMA, 1, points=[0.875])
    assert measure(0.875) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("start", [0.0, LOWEST_SIGMA, HIGHEST_SIGMA, 1.0, math.nan])
def test_window_outside_the_measured_range_is_refused(start: float) -> None:
    with pytest.raises(ValueError, match="must start between"):
        choose_quadrature_levels(start)


def score_video(word: str, seed: int, value: float, sentence: str = "a shape") -> ScoredVideo:
    return ScoredVideo(word, sentence, "", seed, InformationGap(value, value / 2, 2 * value, value))


def test_table_pairs_words_by_seed_like_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    circle, ring = random.normal(1, 0.3, 8), random.normal(2, 0.3, 8)
    videos = [
        score_video(word, s, v) for word, values in (("ring", ring), ("circle", circle)) for s, v in enumerate(values)
    ]
    table = build_information_table(videos)
    assert [word.word for word in table.words] == ["circle", "ring"]
    assert table.words[0].mean_by_quantity["gap"] == pytest.approx(circle.mean() / 2)
    pointwise = next(difference for difference in table.differences if difference.quantity == "pointwise")
    assert (pointwise.first_word, pointwise.second_word) == ("ring", "circle")
    test = stats.ttest_rel(ring, circle)
    interval = test.confidence_interval()
    assert pointwise.effect.interval_low == pytest.approx(interval.low)
    assert pointwise.effect.interval_high == pytest.approx(interval.high)
    flips = stats.permutation_test((ring - circle,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert pointwise.effect.p == pytest.approx(flips.pvalue)
    assert table.min_attainable_p == 2 / 2**8
    assert table.probability_sum == pytest.approx(math.exp(-circle.mean()) + math.exp(-ring.mean()))


def test_p_of_words_is_corrected_over_pairs_and_both_forms() -> None:
    random = np.random.default_rng(5)
    values = {word: random.normal(mean, 0.5, (7, 2)) for word, mean in (("circle", 1), ("ring", 1.4))}
    videos = [
        ScoredVideo(word, "a shape", "", seed, InformationGap(pair[0], pair[1], 0.0, 0.0))
        for word, pairs in values.items()
        for seed, pair in enumerate(pairs)
    ]
    table = build_information_table(videos)
    differences = values["ring"] - values["circle"]
    signs = np.array(list(itertools.product((1, -1), repeat=7)))
    t = np.array([stats.ttest_1samp(sign[:, None] * differences, 0).statistic for sign in signs])
    largest = np.abs(t).max(1)
    for form, quantity in enumerate(("pointwise", "gap")):
        (item,) = [difference for difference in table.differences if difference.quantity == quantity]
        assert item.family_p == np.mean(largest >= abs(t[0, form]) * (1 - 1e-9))
        assert item.family_p >= item.effect.p


def test_large_negative_information_gives_an_infinite_sum() -> None:
    table = build_information_table([score_video("circle", 1, -5000.0)])
    assert table.probability_sum == math.inf


def test_sentences_of_a_seed_are_averaged_and_not_treated_as_replicates() -> None:
    random = np.random.default_rng(1)
    values = {(word, s): random.normal(size=2) for word in ("circle", "ring") for s in range(4)}
    videos = [
        score_video(word, seed, value, sentence)
        for (word, seed), pair in values.items()
        for sentence, value in zip(("a shape", "one shape"), pair, strict=True)
    ]
    table = build_information_table(videos)
    assert table.phrasing_count == 2
    assert table.differences[0].effect.pair_count == 4
    means = {word: np.mean([values[word, s] for s in range(4)]) for word in ("circle", "ring")}
    assert abs(table.differences[0].effect.mean) == pytest.approx(abs(means["circle"] - means["ring"]))


def test_videos_without_a_partner_are_counted_but_excluded_from_differences() -> None:
    videos = [score_video(word, s, float(s)) for word in ("circle", "ring") for s in range(4)]
    videos += [score_video("circle", 9, 100.0), score_video("ring", 1, 50.0, "one shape")]
    table = build_information_table(videos)
    assert table.unpaired_count == 2
    assert table.seeds == (0, 1, 2, 3)
    assert table.differences[0].effect.mean == 0


def test_words_of_a_declaration_are_replaced_as_complete_words() -> None:
    declared = parse_generic_words("circle|old man: thing; red: coloured")
    sentence = find_generic_sentence("A circle beside circles, a Circle", declared[:1])
    assert sentence.generic_prompt == "A thing beside circles, a Thing"
    hindi = parse_generic_words("लाल|नीला: रंगीन")
    assert find_generic_sentence("लाल गोला और लाली", hindi).generic_prompt == "रंगीन गोला और लाली"
    assert find_generic_sentence("an old man and a woman", declared[:1]).generic_prompt == "an thing and a woman"
    assert find_generic_sentence("a red circle", declared, "coloured").generic_prompt == "a coloured circle"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a blue square", r"none of the declared words: circle, ring \(shape\); red \(coloured\)"),
        ("a red circle", r"several generic words replace \(shape, coloured\). Choose one with --of"),
        ("a circle and a ring", "several concepts of shape: circle, ring. .*--generic 'circle: shape'"),
    ],
)
def test_prompt_without_one_generic_word_is_refused_by_name(prompt: str, message: str) -> None:
    with pytest.raises(GenericWordsError, match=message):
        find_generic_sentence(prompt, parse_generic_words("circle|ring: shape; red: coloured"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("circle shape", "cannot read 'circle shape'. Write it like circle|square: shape"),
        ("circle|: shape", "cannot read"),
        ("circle: a|b", "cannot read"),
        ("circle: ", "cannot read"),
        ("circle|Circle: shape", "'Circle' is declared twice"),
        ("circle: shape; circle: form", "'circle' is declared twice"),
        ("shape: shape", "'shape' is its own generic word"),
    ],
)
def test_unreadable_declaration_is_refused_with_its_form(text: str, message: str) -> None:
    with pytest.raises(GenericWordsError, match=message.replace("|", r"\|")):
        parse_generic_words(text)
    with pytest.raises(ConfigError, match=r"prompt_settings\.generic_words"):
        load_config("nano", [f"prompt_settings.generic_words={text}"])


def test_config_accepts_a_mapping_and_the_preset_of_nano_declares_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("prompt_settings:\n  generic_words:\n    circle|square: shape\n    man: person\n")
    assert load_config(path).settings.prompt_settings.generic_words == "circle|square: shape; man: person"
    assert convert_to_generic_words_text(" ; ") is None
    nano = load_config("nano").settings.prompt_settings.generic_words
    assert nano is not None
    assert find_generic_sentence("a red ring", parse_generic_words(nano)).generic_prompt == "a red shape"


@pytest.mark.parametrize(("guidance_scale", "passes"), [(1.0, 1), (4.0, 2)])
def test_seconds_of_a_pass_are_past_step_seconds_divided_by_passes(guidance_scale: float, passes: int) -> None:
    recipe = recipe_for(NANO, guidance_scale=guidance_scale, sampler="heun", steps=7)
    past = TimedVideo(recipe, "cpu", 0.5, 3.0, None, "resident")
    estimate = estimate_pass_seconds(recipe, "cpu", [past])
    assert estimate.value == pytest.approx(0.5 / passes)
    assert "1 similar video on this machine: 0.5 s per step" in estimate.basis
    assert estimate_pass_seconds(recipe, "cuda", [past]).value is None


LEVELS = [LevelEntry(sigma=0.95, weight=0.1, is_in_window=True)]


def content_of(*ids: str, draws: int = 1) -> InformationFile:
    entry = ScoreEntry(
        prompt="a ring",
        word="ring",
        generic_prompt="a shape",
        latents_sha256="",
        device="cpu",
        squared_gaps=[0.1 + 0.2],
        pointwise_gains=[-1e-300],
        squared_errors=[1e17],
    )
    return InformationFile(wantui="1", generic="shape", draws=draws, levels=LEVELS, videos=dict.fromkeys(ids, entry))


def test_file_contains_exact_values_and_those_of_earlier_measurements(tmp_path: Path) -> None:
    merge_information(tmp_path, content_of("a"))
    path = merge_information(tmp_path, content_of("b"))
    assert read_information(path) == content_of("a", "b")
    with pytest.raises(InformationFileError, match="was measured with 1 draw at"):
        merge_information(tmp_path, content_of("c", draws=2))
    assert read_information(path) == content_of("a", "b")
    merge_information(tmp_path, content_of("c", draws=2), replaces_other=True)
    assert read_information(path) == content_of("c", draws=2)


def test_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = merge_information(tmp_path, content_of("a"))
    document = json.loads(path.read_text())
    document["videos"]["a"]["squared_gaps"] = [0.5]
    for text in (json.dumps(document), "{", "[]", ""):
        path.write_text(text)
        with pytest.raises(InformationFileError, match=r"information_shape\.json"):
            read_information(path)
    assert read_information(tmp_path / "missing.json") is None


def test_generic_words_of_any_text_have_a_file_of_their_own(tmp_path: Path) -> None:
    words = ["shape", "a/b", "a b", "a_b", "../x", "é" * 300, "x" * 300]
    paths = {get_information_path(tmp_path, word) for word in words}
    assert len(paths) == len(words)
    assert all(path.parent == tmp_path / "analysis" and len(path.name.encode()) < 250 for path in paths)
