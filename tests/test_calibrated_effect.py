"""Effects beside what the calibration measured: whether frequency or appearance can explain them."""

import html
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.style import Style
from scipy import stats
from test_analysis import set_values, synthetic_videos
from test_calibrated import build_sensitivity

from wantui.analysis.calibrated import GUIDED, Sensitivity, read_calibration
from wantui.analysis.calibrated_effect import (
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
from wantui.analysis.report import write_report
from wantui.analysis.serialize import build_comparison_record
from wantui.tui.analysis.comparison_view import draw_comparison
from wantui.tui.analysis.views import Canvas

LOG_VOLUME = read_calibration().sensitivities["log_volume"][GUIDED]


@pytest.mark.torch
@pytest.mark.parametrize("metric", ["log_volume", "spread", "straightness"])
def test_typical_difference_of_appearance_is_that_of_all_pairs_of_shapes(metric: str) -> None:
    from benchmarks.calibration import DATA_FOLDER  # loads torch
    from benchmarks.calibration_fits import fit_measure, read_models

    fit = fit_measure(read_models(DATA_FOLDER), f"{metric}|{GUIDED} main")
    squares = [(a - b) ** 2 for a, b in itertools.combinations(fit.unit_effects, 2)]
    sensitivity = read_calibration().sensitivities[metric][GUIDED]
    assert compute_appearance_difference(sensitivity) == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-3)


def test_bound_of_appearance_covers_95_percent_of_pairs_of_further_shapes() -> None:
    rng = np.random.default_rng(7)
    shapes = rng.normal(size=(40_000, 8))  # six are calibrated, and two compared
    deviations = shapes[:, :6].std(axis=1)
    bounds = np.array([compute_appearance_bound(replace(LOG_VOLUME, appearance=float(d))) for d in deviations])
    assert np.mean(np.abs(shapes[:, 6] - shapes[:, 7]) <= bounds) == pytest.approx(0.95, abs=0.005)
    assert compute_appearance_bound(LOG_VOLUME) == pytest.approx(
        stats.t(5).ppf(0.975) * LOG_VOLUME.appearance * math.sqrt(12 / 5), rel=1e-9
    )


@pytest.mark.parametrize(
    ("effect", "sensitivity", "answer"),
    [
        (0.3, build_sensitivity(-0.3, -0.2, 1.5), "either can explain it"),
        (-0.3, build_sensitivity(-0.3, -0.2, 1.5), "either can explain it"),
        (0.3, build_sensitivity(-0.3, 0.2, 1.5), "appearance alone can explain it"),
        (0.3, build_sensitivity(-0.02, -0.02, 0.1), "appearance alone can explain it"),
        (1.0, build_sensitivity(-0.3, -0.2, 1.5), "more than appearance explains; frequency can"),
        (9.0, build_sensitivity(-0.3, -0.2, 1.5), "more than the calibration explains"),
        (9.0, build_sensitivity(-0.3, 0.2, 1.5), "more than the calibration explains"),
    ],
)
def test_effect_is_explained_by_what_reaches_its_size(effect: float, sensitivity: Sensitivity, answer: str) -> None:
    assert CalibratedEffect(effect, sensitivity).answer == answer  # appearance reaches 2.57 * 0.1 * sqrt(12 / 5) = 0.40


def test_frequency_ratios_cause_the_effect_by_the_slopes() -> None:
    ratios = CalibratedEffect(0.6, build_sensitivity(-0.3, -0.2, 1.5)).frequency_ratios
    assert ratios is not None
    assert ratios == pytest.approx((math.exp(-2), math.exp(-3)))
    assert CalibratedEffect(0.6, build_sensitivity(-0.3, 0.2, 1.5)).frequency_ratios is None
    assert CalibratedEffect(-1e4, build_sensitivity(-0.3, -0.2, 1.5)).frequency_ratios == (math.inf, math.inf)


def compare_shifted(folder: Path, monkeypatch: pytest.MonkeyPatch, shift: float) -> Comparison:
    """Compare two words, of which the first one's values are larger by a shift that scatters little over seeds."""
    videos = synthetic_videos(folder, {"cross": 1.0, "square": 1.0}, 8)
    set_values(monkeypatch, lambda video: 1 + (video.prompt.startswith("cross")) * (shift + 0.001 * video.seed))
    return compare_groups(videos, "1", "log_volume")


def test_command_screen_report_and_json_say_what_can_explain_the_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, 0.567)
    (verdict,) = comparison.verdicts
    text = explain_effect(comparison, verdict)
    assert text == (
        "frequency or appearance? either can explain it. 1.8 times the typical difference of appearance; as if cross "
        "were 4.5 to 12 times rarer than square in training"
    )
    scale_text = describe_calibrated_scale(comparison)
    assert "two shapes of equal frequency differ in log_volume by 0.323 nats" in scale_text
    lines = draw_comparison(comparison, "cross", [], Canvas(400, 40, lambda _: Style.null()))
    assert {text, scale_text} <= {line.plain for line in lines}
    write_report(tmp_path / "report.html", comparison)
    page = html.unescape((tmp_path / "report.html").read_text("utf-8")).casefold()
    assert text.casefold() in page
    assert scale_text.casefold() in page
    assert build_comparison_record(comparison)["verdicts"][0]["explanation"] == text


@pytest.mark.parametrize(("metric", "origin"), [("spread", 0.0), ("straightness", 1.0), ("detour", 0.0)])
def test_shares_are_of_the_mean_of_both_groups(
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


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        ((0.25, 0.1), "4 to 10 times rarer than"),
        ((1.5, 1.52), "1.5 times more frequent than"),
        ((812.0, 5000.0), "810 to more than 1,000 times more frequent than"),
        ((1e-5, 0.0), "more than 1,000 times rarer than"),
        ((math.inf, math.inf), "more than 1,000 times more frequent than"),
    ],
)
def test_ratios_of_frequencies_are_named(ratios: tuple[float, float], text: str) -> None:
    assert _describe_frequency(ratios) == text


def test_effect_that_is_not_shown_is_not_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, -0.0035)  # mean difference 0
    assert explain_effect(comparison, comparison.verdicts[0]) == ""
    assert describe_calibrated_scale(comparison).startswith(
        "frequency or appearance? no effect in log_volume is shown. Calibration on nano at guidance 4: "
    )


def test_metric_without_calibration_has_no_answer(tmp_path: Path) -> None:
    videos = [
        replace(video, labels={"quality": float(video.prompt.startswith("cross")) + 0.01 * video.seed})
        for video in synthetic_videos(tmp_path, {"cross": 1.0, "square": 1.0}, 8)
    ]
    comparison = compare_groups(videos, "1", "quality")
    assert comparison.verdicts[0].kind == "differs"
    assert explain_effect(comparison, comparison.verdicts[0]) == ""
    expected_text = "frequency or appearance? cannot tell: quality was not calibrated"
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


@pytest.mark.parametrize(
    ("model", "guidance", "text"),
    [
        ("nano", 4.0, ""),
        ("nano", 6.0, ". These videos are at guidance 6: the figures are no forecast for them"),
        ("wan2.1-14b", 4.0, ". These videos are of wan2.1-14b: the figures are no forecast for them"),
        ("wan2.1-14b", 5.0, ". These videos are of wan2.1-14b at guidance 5: the figures are no forecast for them"),
    ],
)
def test_scale_names_another_model_and_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, guidance: float, text: str
) -> None:
    comparison = compare_shifted(tmp_path, monkeypatch, 0.567)
    values = {"model_settings.model_id": model, "model_settings.cfg_scale": guidance}
    groups = tuple(
        replace(group, videos=tuple(replace(video, setting_values=values) for video in group.videos))
        for group in comparison.groups
    )
    scale_text = describe_calibrated_scale(replace(comparison, groups=groups))
    assert scale_text.partition(" in another sentence)")[2] == text
