"""Effects compared with the calibration: whether frequency or appearance can explain them."""

import html
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.style import Style
from scipy import stats
from synthetic_videos import build_sensitivity, set_values, synthetic_videos

from wantui.analysis.calibrated import GUIDED, Sensitivity, read_calibration
from wantui.analysis.calibrated_effect import (
    CALIBRATED_SETTINGS,
    MAX_CALIBRATED_RATIO,
    CalibratedEffect,
    _describe_frequency,
    compute_appearance_bound,
    compute_appearance_difference,
    describe_calibrated_scale,
    explain_effect,
    find_calibrated_effect,
)
from wantui.analysis.compare import compare_groups
from wantui.analysis.comparison import Comparison
from wantui.analysis.effect_table import describe_response_column
from wantui.analysis.report import write_report
from wantui.analysis.serialize import build_comparison_record
from wantui.analysis.training_frequency import describe_uniform_words
from wantui.analysis.video import Video
from wantui.models.nano.attributes import FREQUENCY_BY_SHAPE
from wantui.tui.analysis.comparison_view import draw_comparison
from wantui.tui.analysis.views import Canvas
from wantui.tui.plain_names import replace_names

pytestmark = pytest.mark.slow

LOG_VOLUME = read_calibration().sensitivities["log_volume"][GUIDED]


@pytest.mark.torch
@pytest.mark.parametrize("metric", ["log_volume", "spread", "straightness"])
def test_typical_appearance_difference_is_the_rms_over_all_pairs_of_shapes(metric: str) -> None:
    from benchmarks.calibration import DATA_FOLDER  # loads torch
    from benchmarks.calibration_fits import fit_measure, read_models

    fit = fit_measure(read_models(DATA_FOLDER), f"{metric}|{GUIDED} main")
    squares = [(a - b) ** 2 for a, b in itertools.combinations(fit.unit_effects, 2)]
    sensitivity = read_calibration().sensitivities[metric][GUIDED]
    assert compute_appearance_difference(sensitivity) == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-3)


def test_appearance_bound_covers_95_percent_of_pairs_of_new_shapes() -> None:
    rng = np.random.default_rng(7)
    shapes = rng.normal(size=(40_000, 8))  # six are calibrated, and two compared
    deviations = shapes[:, :6].std(axis=1)
    bounds = np.array([compute_appearance_bound(replace(LOG_VOLUME, appearance=float(d))) for d in deviations])
    assert np.mean(np.abs(shapes[:, 6] - shapes[:, 7]) <= bounds) == pytest.approx(0.95, abs=0.005)
    assert compute_appearance_bound(LOG_VOLUME) == pytest.approx(
        stats.t(5).ppf(0.975) * LOG_VOLUME.appearance * math.sqrt(12 / 5), rel=1e-9
    )


def build_effect(effect: float, sensitivity: Sensitivity, half_width: float = 0.0) -> CalibratedEffect:
    return CalibratedEffect(effect, effect - half_width, effect + half_width, sensitivity)


BY_FREQUENCY, BY_APPEARANCE = build_sensitivity(-0.3, -0.2, 1.5), build_sensitivity(-0.3, 0.2, 1.5)
SMALL_SLOPES = build_sensitivity(-0.02, -0.02, 0.1)
REACH = {"appearance": 2.5706 * 0.1 * math.sqrt(12 / 5), "frequency": math.log(15) * 0.3}
"""Sizes that appearance and frequency explain in these sensitivities: 0.398 and 0.812."""
NEITHER_ALONE = (
    "more than appearance alone explains; frequency alone can explain it only beyond the calibrated ratio of 15"
)
EITHER, APPEARANCE = "either can explain it", "appearance alone can explain it"
FREQUENCY, NEITHER = (
    "larger than appearance explains, but frequency can explain it",
    "more than the calibration explains",
)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("size", "sensitivity", "answer"),
    [
        (0.99 * REACH["appearance"], BY_FREQUENCY, EITHER),
        (1.01 * REACH["appearance"], BY_FREQUENCY, FREQUENCY),
        (0.99 * REACH["frequency"], BY_FREQUENCY, FREQUENCY),
        (
            1.01 * REACH["frequency"],
            BY_FREQUENCY,
            f"{NEITHER_ALONE}; both together can explain it",
        ),
        (0.99 * sum(REACH.values()), BY_FREQUENCY, f"{NEITHER_ALONE}; both together can explain it"),
        (1.01 * sum(REACH.values()), BY_FREQUENCY, f"{NEITHER_ALONE}; both together do not explain it either"),
        (0.99 * REACH["appearance"], BY_APPEARANCE, APPEARANCE),
        (1.01 * REACH["appearance"], BY_APPEARANCE, NEITHER),
        (0.3, SMALL_SLOPES, f"{APPEARANCE}; frequency only beyond the calibrated ratio of 15"),
        (0.99 * 0.02 * math.log(15), SMALL_SLOPES, EITHER),
    ],
)
def test_effect_is_explained_by_causes_that_reach_its_size(
    size: float, sensitivity: Sensitivity, answer: str, sign: int
) -> None:
    assert build_effect(sign * size, sensitivity).answer == answer
    assert replace(build_effect(sign * size, sensitivity), low=math.nan, high=math.nan).answer == answer


@pytest.mark.parametrize("sign", [1, -1])
def test_effect_exceeds_an_explanation_only_if_its_whole_interval_does(sign: int) -> None:
    assert build_effect(sign * 0.6, BY_APPEARANCE, 0.19).answer == NEITHER  # 0.41 to 0.79
    assert build_effect(sign * 0.6, BY_APPEARANCE, 0.21).answer == APPEARANCE  # 0.39 to 0.81
    assert build_effect(sign * 0.6, BY_APPEARANCE, 0.9).answer == APPEARANCE  # contains 0
    assert build_effect(sign * 1.0, BY_FREQUENCY, 0.2).answer == FREQUENCY  # 0.8 to 1.2
    assert build_effect(sign * 1.0, BY_FREQUENCY, 0.1).answer.startswith(NEITHER_ALONE)


def test_calibrated_ratio_equals_that_of_nanos_frequencies() -> None:
    assert max(FREQUENCY_BY_SHAPE.values()) / min(FREQUENCY_BY_SHAPE.values()) == pytest.approx(MAX_CALIBRATED_RATIO)


def test_frequency_ratios_times_slopes_give_the_effect() -> None:
    ratios = build_effect(0.6, BY_FREQUENCY).frequency_ratios
    assert ratios is not None
    assert ratios == pytest.approx((math.exp(-2), math.exp(-3)))
    assert build_effect(0.6, BY_APPEARANCE).frequency_ratios is None
    assert build_effect(-1e4, BY_FREQUENCY).frequency_ratios == (math.inf, math.inf)


CALIBRATED_VALUES = {**CALIBRATED_SETTINGS, "model_settings.cfg_scale": 4.0}


def set_calibrated(videos: list[Video]) -> list[Video]:
    return [replace(video, setting_values=CALIBRATED_VALUES, settings={}) for video in videos]


def compare_shifted(folder: Path, monkeypatch: pytest.MonkeyPatch, shift: float) -> Comparison:
    """Compare two words, of which the first one's values are larger by a shift that scatters little over seeds."""
    videos = set_calibrated(synthetic_videos(folder, {"cross": 1.0, "square": 1.0}, 8))
    set_values(monkeypatch, lambda video: 1 + (video.prompt.startswith("cross")) * (shift + 0.001 * video.seed))
    return compare_groups(videos, "1", "log_volume")


def test_average_of_several_guidance_scales_has_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, 0.567)
    pooled_groups = tuple(
        replace(
            group,
            videos=tuple(
                replace(
                    video, setting_values=CALIBRATED_VALUES | {"model_settings.cfg_scale": 2.0 * (1 + video.seed % 2)}
                )
                for video in group.videos
            ),
        )
        for group in comparison.groups
    )
    pooled = replace(comparison, groups=pooled_groups)
    assert explain_effect(pooled, pooled.verdicts[0]) == (
        "frequency or appearance? no answer, because the values are averaged over cfg_scale 2, 4; choose one scale, as "
        "with `wantui analyze --where cfg_scale=4`"
    )


def test_command_screen_report_and_json_say_what_can_explain_the_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, 0.567)
    (verdict,) = comparison.verdicts
    text = explain_effect(comparison, verdict)
    assert text == (
        "frequency or appearance? either can explain it. 1.8 times the typical difference due to appearance (95 % "
        "interval 1.8 to 1.8); as if cross were 4.4 times (first sentence form) or 12 times (held-out sentence form) "
        "rarer than square in training. In nano's training, square was 5 times as frequent as cross, which gives cross "
        "+0.616 nats (first sentence form) or +0.367 nats (held-out sentence form) log_volume"
    )
    scale_text = describe_calibrated_scale(comparison)
    assert scale_text == (
        "calibration on nano (50 Euler steps at cfg_scale 4): two shapes of equal frequency differ in log_volume by "
        "0.318 nats (root mean square; 95 % up to 0.818 nats); a word 2.7 times as frequent changes it by -0.382 nats "
        "(-0.228 nats in the held-out sentence form), measured for frequency ratios up to 15"
    )
    lines, _ = draw_comparison(comparison, "cross", [], Canvas(600, 40, lambda _: Style.null()))
    assert {replace_names(text), replace_names(scale_text)} <= {line.plain for line in lines}
    write_report(tmp_path / "report.html", comparison)
    page = html.unescape((tmp_path / "report.html").read_text("utf-8")).casefold()
    assert text.casefold() in page
    assert scale_text.casefold() in page
    assert build_comparison_record(comparison)["verdicts"][0]["explanation"] == text


@pytest.mark.parametrize(("metric", "origin"), [("spread", 0.0), ("straightness", 1.0), ("detour", 0.0)])
def test_percentages_are_relative_to_the_mean_of_both_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, origin: float
) -> None:
    videos = synthetic_videos(tmp_path, {"cross": 3.0, "square": 1.0}, 8)
    if metric != "spread":  # a value of straightness is below 1
        sign = -1 if origin else 1
        set_values(
            monkeypatch,
            lambda video: origin + sign * (0.1 + 0.2 * video.prompt.startswith("cross") + 0.001 * (video.seed % 3)),
        )
    comparison = compare_groups(videos, "1", metric)
    first, second = (comparison.summaries_by_metric[metric][name].mean - origin for name in ("cross", "square"))
    effect = find_calibrated_effect(comparison, comparison.differences[0])
    assert effect is not None
    assert comparison.differences[0].metric == metric
    assert effect.effect == pytest.approx((first - second) / abs((first + second) / 2), rel=1e-9)
    in_own_unit = replace(comparison.differences[0], is_relative=False)
    assert find_calibrated_effect(comparison, in_own_unit) is None, "the other texts are in its unit too"


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        (
            (0.25, 0.1),
            "as if a were 4 times (first sentence form) or 10 times (held-out sentence form) rarer than b in training",
        ),
        ((1.5, 1.52), "as if a were 1.5 times more frequent than b in training (both sentence forms)"),
        (
            (12.0, 16.0),
            "as if a were 12 times (first sentence form) or more than 15 times (held-out sentence form) more frequent "
            "than b in training, beyond what the calibration measured",
        ),
        (
            (1e-5, 0.0),
            "as if a were more than 15 times rarer than b in training (both sentence forms), beyond what the "
            "calibration measured",
        ),
        (
            (math.inf, math.inf),
            "as if a were more than 15 times more frequent than b in training (both sentence forms), beyond what the "
            "calibration measured",
        ),
    ],
)
def test_ratios_of_frequencies_are_named_by_sentence_form(ratios: tuple[float, float], text: str) -> None:
    assert _describe_frequency(ratios, "a", "b") == text


def test_insignificant_effect_is_not_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, -0.0035)  # mean difference 0
    assert explain_effect(comparison, comparison.verdicts[0]) == ""
    assert describe_calibrated_scale(comparison).startswith(
        "frequency or appearance? no effect in log_volume was found. Calibration on nano (50 Euler steps at "
        "cfg_scale 4): "
    )


def test_metric_without_calibration_has_no_answer(tmp_path: Path) -> None:
    videos = [
        replace(video, labels={"quality": float(video.prompt.startswith("cross")) + 0.01 * video.seed})
        for video in synthetic_videos(tmp_path, {"cross": 1.0, "square": 1.0}, 8)
    ]
    comparison = compare_groups(videos, "1", "quality")
    assert comparison.verdicts[0].kind == "differs"
    assert explain_effect(comparison, comparison.verdicts[0]) == ""
    expected_text = "frequency or appearance? cannot tell, because quality was not calibrated"
    assert describe_calibrated_scale(comparison) == expected_text


def test_groups_of_settings_are_not_explained_by_frequency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [
        replace(video, setting_values={"model_settings.steps": 10 * (1 + video.prompt.startswith("cross"))})
        for video in synthetic_videos(tmp_path, {"cross": 1.0, "square": 1.0}, 8)
    ]
    videos = [replace(video, prompt="a", choices_by_bracket={}, variation="a") for video in videos]
    set_values(monkeypatch, lambda video: video.setting_values["model_settings.steps"] + 0.001 * video.seed)
    comparison = compare_groups(videos, "steps", "log_volume")
    assert comparison.verdicts[0].kind == "differs"
    assert explain_effect(comparison, comparison.verdicts[0]) == ""
    assert describe_calibrated_scale(comparison) == ""


NO_PREDICTION = ". These numbers do not predict the results of these videos, which have "


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, ""),
        ({"model_settings.cfg_scale": 4}, ""),
        ({"model_settings.cfg_scale": 6.0}, "cfg_scale 6"),
        ({"model_settings.steps": 20, "model_settings.sampler": "unipc"}, "steps 20; sampler unipc"),
        ({"video_settings.width": 64, "video_settings.frames": 33}, "width 64; frames 33"),
        ({"model_settings.model_id": "wan2.1-14b", "model_settings.cfg_scale": 5.0}, "model wan2.1-14b; cfg_scale 5"),
    ],
)
def test_scale_names_settings_other_than_those_of_the_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], text: str
) -> None:
    comparison = change_videos(compare_shifted(tmp_path, monkeypatch, 0.567), setting_values=CALIBRATED_VALUES | values)
    scale_text = describe_calibrated_scale(comparison)
    assert scale_text.partition(" frequency ratios up to 15")[2] == (f"{NO_PREDICTION}{text}" if text else "")
    assert bool(explain_effect(comparison, comparison.verdicts[0])) == ("model" not in text)


def change_videos(comparison: Comparison, **fields: Any) -> Comparison:
    groups = tuple(
        replace(group, videos=tuple(replace(video, **fields) for video in group.videos)) for group in comparison.groups
    )
    return replace(comparison, groups=groups)


def test_scale_names_controls_and_word_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, 0.567)
    comparison = change_videos(
        comparison, settings={"lora": {"strength": 1.0}, "guidance": None}, word_weights="cross:2"
    )
    assert describe_calibrated_scale(comparison).endswith(f"{NO_PREDICTION}lora; word weights")


@pytest.mark.parametrize(
    ("grouping", "first_text", "second_text", "is_answered"),
    [
        ("1", "cross", "square", True),
        ("1", "red cross", "red ring", True),
        ("1", "red cross", "blue ring", False),
        ("1", "large cross", "cross", False),
        ("1", "", "cross", False),
        ("1", "cube", "sphere", False),
        ("1", "shape", "ring", False),
        ("prompt", "A large cross moving left.", "A large star moving left.", True),
        ("prompt", "A large cross moving left.", "A small cross moving right.", False),
    ],
)
def test_only_two_shapes_of_nano_have_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouping: str, first_text: str, second_text: str, is_answered: bool
) -> None:
    videos = set_calibrated(synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, 8, phrasings=1))
    texts = {"one": first_text, "other": second_text}
    videos = [replace(video, labels={"is_first": float(video.choices_by_bracket[3] == "one")}) for video in videos]
    videos = [
        replace(video, choices_by_bracket={3: text}, options_by_bracket={3: text})
        if grouping == "1"
        else replace(video, choices_by_bracket={}, prompt=text)
        for video in videos
        for text in [texts[video.choices_by_bracket[3]]]
    ]
    set_values(monkeypatch, lambda video: 1 + 0.567 * video.labels["is_first"] * (1 + 0.001 * video.seed))
    comparison = compare_groups(videos, grouping, "log_volume")
    (verdict,) = comparison.verdicts
    assert verdict.kind == "differs"
    assert bool(explain_effect(comparison, verdict)) == is_answered
    text = f"{NO_PREDICTION}words other than two of nano's shapes"
    assert describe_calibrated_scale(comparison).endswith(text) != is_answered


def compare_texts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, ...], shift: float, metric: str = "log_volume"
) -> Comparison:
    """Compare groups with these texts in their bracket; each differs from the one before by a shift."""
    videos = set_calibrated(synthetic_videos(folder, dict.fromkeys(texts, 1.0), 8))
    videos = [replace(video, labels={"rank": texts.index(video.choices_by_bracket[3])}) for video in videos]
    set_values(monkeypatch, lambda video: 2 - shift * video.labels["rank"] * (1 + 0.001 * video.seed))
    return compare_groups(videos, "1", metric)


@pytest.mark.parametrize("texts", [("red", "blue"), ("left", "still"), ("small", "large"), ("grey", "sandy")])
def test_words_of_uniform_attributes_are_not_explained_by_frequency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, str]
) -> None:
    comparison = compare_texts(tmp_path, monkeypatch, texts, 0.5)
    expected_text = f"{texts[0]} and {texts[1]} were equally frequent in nano's training, so frequency "
    assert explain_effect(comparison, comparison.verdicts[0]) == (
        f"frequency or appearance? {expected_text}cannot explain this"
    )
    assert describe_response_column(comparison).endswith(f"{expected_text}explains none of these differences")
    adapted = change_videos(comparison, settings={"lora": {"strength": 1.0}, "guidance": None})
    assert explain_effect(adapted, adapted.verdicts[0]) == (
        f"frequency or appearance? {expected_text}can explain this only through the training of the LoRA adapters"
    )
    assert describe_uniform_words(adapted) == (
        f"{expected_text}can explain these differences only through the training of the LoRA adapters"
    )
    weighted = change_videos(comparison, settings={"lora": None, "word_weights": "red:2"})
    assert explain_effect(weighted, weighted.verdicts[0]) == explain_effect(comparison, comparison.verdicts[0])
    others = change_videos(comparison, setting_values=CALIBRATED_VALUES | {"model_settings.model_id": "wan2.1-14b"})
    assert explain_effect(others, others.verdicts[0]) == describe_uniform_words(others) == ""


def test_uniform_words_are_named_for_all_groups_and_only_without_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compare_texts(tmp_path / "a", monkeypatch, ("red", "blue", "green"), 0.5)
    assert describe_uniform_words(comparison).startswith("red, blue and green were equally frequent")
    comparison = compare_texts(tmp_path / "b", monkeypatch, ("red", "blue", "circle"), 0.5)
    assert describe_uniform_words(comparison) == ""
    assert explain_effect(comparison, comparison.verdicts[1]) == ""  # a colour against a shape


def test_frequency_in_the_other_direction_does_not_explain_the_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compare_texts(tmp_path, monkeypatch, ("circle", "square"), 0.3)  # frequent words have less volume
    text = explain_effect(comparison, comparison.verdicts[0])
    assert text.startswith(
        "frequency or appearance? appearance alone can explain it; frequency would change it in the opposite "
        "direction. "
    )
    assert "In nano's training, circle was 1.8 times as frequent as square, which gives circle -0.2" in text


def test_answer_is_conditional_for_other_steps_than_those_of_the_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, 0.567)
    comparison = change_videos(comparison, setting_values=CALIBRATED_VALUES | {"model_settings.steps": 20})
    assert explain_effect(comparison, comparison.verdicts[0]).startswith(
        "frequency or appearance? if the calibration (50 Euler steps, cfg_scale 4) also holds for steps 20: either can "
        "explain it. "
    )


def test_interval_is_relative_to_the_mean_of_both_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = set_calibrated(synthetic_videos(tmp_path, {"cross": 3.0, "square": 1.0}, 8))
    set_values(monkeypatch, lambda video: 0.5 - 0.2 * video.prompt.startswith("cross") * (1 + 0.1 * (video.seed % 3)))
    comparison = compare_groups(videos, "1", "straightness")
    difference = comparison.differences[0]
    effect = find_calibrated_effect(comparison, difference)
    assert effect is not None
    # Distances from 1: with r = 1 - x / y for a share x of the second mean, the share of the common mean is below.
    for share, common_share in ((difference.relative_low, effect.low), (difference.relative_high, effect.high)):
        first, second = -1 + share, -1.0
        assert common_share == pytest.approx((first - second) / abs((first + second) / 2), rel=1e-12)
    assert effect.low < effect.effect < effect.high
