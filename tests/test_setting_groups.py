"""Groups by a setting across batches, and the change of metrics with a number, on trajectories with known geometry."""

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeOnce, Wantui, generate_batch, recipe_for
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text
from scipy import stats
from synthetic_videos import CFG_PATH, SETTINGS, cfg_batches, set_setting, synthetic_videos, use_videos, with_states

from wantui.analysis import loading
from wantui.analysis.comparability import COMPARED_FIELDS, SEPARATELY_COMPARED_FIELDS, find_differing_settings
from wantui.analysis.compare import compare_groups
from wantui.analysis.conditions import select_videos_by_condition
from wantui.analysis.decodability import MIN_DECODED_SEEDS
from wantui.analysis.dose_response import Doses, Trend, compute_dose_response, find_doses
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import find_dividing_groupings, group_comparable_videos, group_videos
from wantui.analysis.loading import collect_control_settings, read_batch_videos
from wantui.analysis.serialize import build_video_record
from wantui.analysis.setting_values import (
    RECIPE_FIELDS_BY_PATH,
    SettingNameError,
    collect_setting_values,
    find_setting_path,
    flatten_settings,
    shorten_path,
)
from wantui.analysis.statistics import run_sign_flip_test, run_trend_test
from wantui.analysis.template_parts import TemplateParts, label_scheduled_options, split_template
from wantui.analysis.video import Video
from wantui.config import parse_config
from wantui.errors import UserError
from wantui.models.catalogue import NANO
from wantui.planning import Recipe, plan_batch, preview_batch
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VariationEntry, create_manifest, write_manifest
from wantui.tui.analysis.comparison_view import draw_comparison
from wantui.tui.analysis.dose_view import draw_dose_response
from wantui.tui.analysis.forest_plot import label_compared_metric
from wantui.tui.analysis.views import Canvas
from wantui.tui.plain_names import replace_names

pytestmark = pytest.mark.slow


def test_every_field_of_a_recipe_is_compared_and_can_be_named() -> None:
    """A field that is left out would pool videos that differ in it."""
    fields = set(Recipe.model_fields)
    assert set(COMPARED_FIELDS) | SEPARATELY_COMPARED_FIELDS == fields
    sampling_fields = ["negative_prompt", "sampler", "steps", "flow_shift", "guidance_scale", "guidance_scale_2"]
    assert list(COMPARED_FIELDS) == [*sampling_fields, "width", "height", "frames"]
    without_setting = {"format", "prompt", "marks", "seed", "capture", "controls"}
    named_otherwise = {"transformer_file", "magnitudes"}
    assert set(RECIPE_FIELDS_BY_PATH.values()) == fields - without_setting - named_otherwise


def test_batches_are_grouped_by_the_value_of_a_setting_in_numeric_order(tmp_path: Path) -> None:
    videos = cfg_batches(tmp_path, (8.0, 10.0, 2))
    result = compare_groups(videos, "cfg_scale", "length")
    assert [group.name for group in result.groups] == ["cfg_scale 2", "cfg_scale 8", "cfg_scale 10"]
    assert len(result.seeds) == 6
    assert result.exclusion_reasons == ()
    assert [group.name for group in group_videos(videos, "guidance_scale")] == [group.name for group in result.groups]
    assert "cfg_scale" in find_dividing_groupings(videos)


def test_equal_numbers_of_another_type_are_one_group(tmp_path: Path) -> None:
    assert [group.name for group in group_videos(cfg_batches(tmp_path, (2.0, 4)), "cfg_scale")] == [
        "cfg_scale 2",
        "cfg_scale 4",
    ]
    same = cfg_batches(tmp_path, (4.0,)) + cfg_batches(tmp_path, (4,))
    assert len(group_videos(same, "cfg_scale")) == 1


def test_setting_and_bracket_form_groups_together(tmp_path: Path) -> None:
    videos = [
        set_setting(video, tmp_path / str(scale), CFG_PATH, scale, guidance_scale=scale)
        for scale in (2, 4)
        for video in synthetic_videos(tmp_path / str(scale), {"red": 1.0, "blue": 1.0}, seeds=6)
    ]
    result = compare_groups(videos, "1,cfg_scale", "length")
    assert [group.name for group in result.groups] == [
        "red, cfg_scale 2", "blue, cfg_scale 2", "red, cfg_scale 4", "blue, cfg_scale 4"
    ]  # fmt: skip
    assert result.dose_response is None
    assert result.exclusion_reasons == ()


def test_other_differing_settings_exclude_videos_by_name(tmp_path: Path) -> None:
    videos = cfg_batches(tmp_path, (2, 4, 8))
    mixed = [replace(v, settings={**v.settings, "steps": 20}) if v.folder.name == "cfg8" else v for v in videos]
    result = compare_groups(mixed, "cfg_scale", "length")
    assert [group.name for group in result.groups] == ["cfg_scale 2", "cfg_scale 4"]
    assert {reason for _, reason in result.exclusion_reasons} == {"steps is 20, but 8 in most videos"}
    two = [video for video in mixed if video.folder.name != "cfg4"]
    message = r"only one group .cfg_scale 2.*12 of 24 videos are excluded.*steps is 20"
    with pytest.raises(CannotCompareError, match=message):
        compare_groups(two, "cfg_scale", "length")


def test_studied_schedule_may_have_other_noise_levels(tmp_path: Path) -> None:
    videos = cfg_batches(tmp_path, (2,))
    few = [
        set_setting(with_states(video, [0, 4, 8]), tmp_path / "few", "model_settings.steps", 2, steps=2)
        for video in videos
    ]
    many = [set_setting(video, tmp_path / "many", "model_settings.steps", 8, steps=8) for video in videos]
    result = compare_groups([*many, *few], "steps", "length")
    assert [group.name for group in result.groups] == ["steps 2", "steps 8"]


def test_sizes_cannot_be_compared_by_seed(tmp_path: Path) -> None:
    videos = [
        set_setting(video, tmp_path / str(width), "video_settings.width", width, width=width)
        for width in (64, 128)
        for video in synthetic_videos(tmp_path / str(width), {"one": 1.0}, seeds=6)
    ]
    with pytest.raises(CannotCompareError, match="the same seed gives different initial noise"):
        compare_groups(videos, "width", "length")
    assert "width" not in find_dividing_groupings(videos)


@pytest.mark.parametrize("name", ["schedule.1", "schedule.10", "adapters.batch", "adapters.variation"])
def test_setting_is_not_confused_with_another_grouping_of_its_last_part(tmp_path: Path, name: str) -> None:
    """`1` and `10` are brackets, and `batch` and `variation` are groupings of their own."""
    path = f"guidance_schedule_settings.{name}"
    videos = [
        set_setting(video, video.folder, path, 2.0 + video.seed % 2)
        for video in synthetic_videos(tmp_path, {"one": 1.0}, seeds=4, phrasings=1)
    ]
    assert find_dividing_groupings(videos) == [name]
    values_by_group = {
        group.name: {video.setting_values[path] for video in group.videos} for group in group_videos(videos, name)
    }
    assert values_by_group == {f"{name} 2": {2.0}, f"{name} 3": {3.0}}


def lora_request(strength: float, file: str = "a", **more: float) -> dict[str, Any]:
    return {"adapters": [{"name": "style", "file": file, "strength": strength}]} | more


def lora_batches(tmp_path: Path, requests: Sequence[dict[str, Any] | None]) -> list[Video]:
    videos: list[Video] = []
    for number, request in enumerate(requests):
        batch = synthetic_videos(tmp_path / str(number), {"one": 1.0}, seeds=6)
        values = flatten_settings(request, "lora_settings") if request else {}
        videos += [replace(v, settings={**SETTINGS, "lora": request}, setting_values=values) for v in batch]
    return videos


def test_settings_of_a_control_are_compared_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from wantui.analysis import setting_values

    monkeypatch.setattr(setting_values, "CONTROLS", (SimpleNamespace(name="lora", section_key="lora_settings"),))
    videos = lora_batches(tmp_path, [lora_request(0.5), lora_request(1.0), None])
    result = compare_groups(videos, "lora.style.strength", "length")
    names = ["strength none", "strength 0.5", "strength 1"]
    assert [group.name for group in result.groups] == names
    assert result.dose_response is not None
    assert result.dose_response.doses.values == (0.5, 1.0)
    result = compare_groups(videos[:-12], "batch", "length")
    assert "the batches differ in lora.adapters.style.strength only" in result.warnings
    assert result.dose_response is not None
    other = lora_batches(tmp_path, [lora_request(0.5), lora_request(0.7), lora_request(1.0, "b"), None])
    result = compare_groups(other, "strength", "length")
    assert [group.name for group in result.groups] == ["strength none", "strength 0.5", "strength 0.7"]
    reason = "lora.adapters.style.file is b, but a in most videos"
    assert {why for _, why in result.exclusion_reasons} == {reason}
    mixed = [video for video in other if video.folder.name in "013"]
    reasons = {why for _, why in group_comparable_videos(mixed, "variation")[1]}
    assert "lora is None, but on in most videos" in reasons


def test_names_of_settings_are_resolved_or_refused_by_name(tmp_path: Path) -> None:
    videos = lora_batches(tmp_path, [lora_request(0.5, scale=1.0), lora_request(1.0, scale=1.0)])
    values = {f"attention_bending_settings.bends.{name}.strength": 1 for name in ("flower", "sky")}
    videos = [replace(video, setting_values={**video.setting_values, **values}) for video in videos]
    style = "lora_settings.adapters.style.strength"
    for name in ("strength", "lora.style.strength", "style.strength", "lora_settings.adapters.style.strength"):
        assert find_setting_path(name, videos) == style  # the only strength that differs
    assert find_setting_path("bend.flower.strength", videos) == "attention_bending_settings.bends.flower.strength"
    assert shorten_path(style, videos[0].setting_values) == "style.strength"
    with pytest.raises(
        SettingNameError, match=r"no setting .* has this name. Did you mean scale\? The .* differ in: style"
    ):
        find_setting_path("cfg_scal", videos)
    with pytest.raises(SettingNameError, match=r"it may be flower.strength, sky.strength. Name one of these"):
        find_setting_path("bend.strength", videos)
    with pytest.raises(CannotCompareError, match=r"only one group .scale 1.*style.strength is 1.0"):
        compare_groups(videos, "scale", "length")


# Statistics


def test_trend_test_of_few_seeds_is_exact() -> None:
    values = np.random.default_rng(3).exponential(size=(3, 3))
    weights = np.array([-2.0, -0.5, 2.5])
    orders = list(itertools.permutations(range(3)))
    slopes = [
        abs(sum(weights @ values[seed][list(order)] for seed, order in enumerate(chosen)))
        for chosen in itertools.product(orders, repeat=3)
    ]
    assert run_trend_test(values, weights) == np.mean(np.array(slopes) >= abs((values @ weights).sum()) - 1e-12)


def test_trend_test_of_two_doses_is_the_sign_flip_test() -> None:
    values = np.random.default_rng(5).normal(0.5, 1, (8, 2))
    assert run_trend_test(values, np.array([-1.0, 1.0])) == run_sign_flip_test(values[:, 1] - values[:, 0])


def test_trend_test_of_many_seeds_agrees_with_normal_theory() -> None:
    values = np.random.default_rng(6).normal(size=(40, 4)) + np.array([0, 0.1, 0.2, 0.3])
    weights = np.array([-1.5, -0.5, 0.5, 1.5])
    centred = values - values.mean(1, keepdims=True)  # the permutation variance of each seed
    deviation = np.sqrt((weights**2).sum() * (centred**2).sum() / 3)
    expected = 2 * stats.norm.sf(abs((values @ weights).sum()) / deviation)
    assert run_trend_test(values, weights) == pytest.approx(expected, abs=0.02)
    assert run_trend_test(np.ones((5, 3)), np.array([-1.0, 0, 1])) == 1.0


def build_groups(tmp_path: Path, doses: Sequence[float], seeds: int, phrasings: int) -> Any:
    videos = []
    for dose in doses:
        for phrasing in range(phrasings):
            for seed in range(seeds):
                video = Video(tmp_path, 0, "", "", f"phrasing {phrasing}", {}, seed)
                videos.append(replace(video, setting_values={CFG_PATH: dose}))
    return group_videos(videos, "cfg_scale")


def find_existing_doses(groups: Any) -> Doses:
    doses = find_doses(groups, "cfg_scale")
    assert doses is not None
    return doses


def respond(tmp_path: Path, doses: Sequence[float], values: NDArray[np.float64]) -> Any:
    """Return the dose-response of [seeds, phrasings, doses, metrics] values; the first metric is `length`."""
    groups = build_groups(tmp_path, doses, values.shape[0], values.shape[1])
    names = ["length", "turning", "chord"][: values.shape[3]]
    return compute_dose_response(groups, find_existing_doses(groups), names, values, 0.05)


def test_slope_over_less_than_a_unit_is_called_an_extrapolation(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(10, 1, (6, 1, 3, 1))
    short = respond(tmp_path / "short", [0.0, 0.4, 0.8], values)
    note = "cfg_scale was measured only from 0 to 0.8, so a slope per unit extrapolates beyond this range"
    assert short.doses.describe_extrapolation() == note
    assert respond(tmp_path / "inexact", [3.1, 3.6, 4.1], values).doses.describe_extrapolation() == ""
    assert respond(tmp_path / "long", [0.0, 0.5, 1.0], values).doses.describe_extrapolation() == ""


def test_slopes_over_close_values_equal_those_of_exact_arithmetic(tmp_path: Path) -> None:
    doses = (3.0, 3.0000000000000004, 3.00000001)
    constant = respond(tmp_path / "constant", doses, np.full((6, 1, 3, 1), 7.1) + np.arange(6.0)[:, None, None, None])
    assert constant.trends[0].slope.mean == 0
    assert "+0 for each unit of cfg_scale (no interval" in constant.verdict_text
    values = np.random.default_rng(3).normal(5, 1, (6, 1, 3, 1))
    exact_doses = [Fraction(dose) for dose in doses]
    centred = [dose - sum(exact_doses) / 3 for dose in exact_doses]
    means = [Fraction(value) for value in values.mean((0, 1, 3))]
    slope = sum(c * y for c, y in zip(centred, means, strict=True)) / sum(c * c for c in centred)
    assert respond(tmp_path / "varied", doses, values).trends[0].slope.mean == pytest.approx(float(slope), rel=1e-6)


def test_slope_equals_the_mean_of_least_squares_slopes_of_blocks(tmp_path: Path) -> None:
    doses = (2.0, 4.0, 8.0)
    values = np.random.default_rng(0).normal(5, 1, (7, 3, 3, 2))
    result = respond(tmp_path, doses, values)
    for m, trend in enumerate(result.trends):
        slopes = np.array([[np.polyfit(doses, values[s, p, :, m], 1)[0] for p in range(3)] for s in range(7)])
        expected = stats.ttest_1samp(slopes.mean(1), 0)
        interval = expected.confidence_interval()
        assert trend.slope.mean == pytest.approx(slopes.mean())
        assert (trend.slope.interval_low, trend.slope.interval_high) == pytest.approx((interval.low, interval.high))
        assert trend.slope.p == run_sign_flip_test(slopes.mean(1))
        assert trend.phrasing_p == run_sign_flip_test(slopes.mean(0))
        seed_values = values[..., m].mean(1)
        assert trend.means == pytest.approx(seed_values.mean(0))
        half_widths = stats.t.ppf(0.975, 6) * stats.sem(seed_values, axis=0)
        assert trend.half_widths == pytest.approx(half_widths)
        assert trend.family_p >= trend.p
        assert trend.relative_low < trend.relative_slope < trend.relative_high


@pytest.mark.parametrize(
    ("seed_count", "summary"), [(7, "length rises with"), (5, "cannot tell with 5 seeds (6 needed)")]
)
def test_drawing_of_a_dose_response_begins_with_its_verdict_and_plot(
    tmp_path: Path, seed_count: int, summary: str
) -> None:
    doses = (1.0, 4.0, 8.0)
    noise = np.random.default_rng(0).normal(5, 0.01, (seed_count, 1, 3, 2))
    result = respond(tmp_path, doses, noise + np.array(doses)[:, None])
    for width, height in ((76, 13), (136, 30)):
        lines = [line.plain for line in draw_dose_response(result, Canvas(width, height, lambda _: Style()))[0]]
        assert summary in lines[0]
        title = next(row for row, line in enumerate(lines) if "mean and 95 % interval over seeds" in line)
        assert title == 0 or lines[title].startswith("length over cfg scale")
        for dose, line, mean in zip(doses, lines[title + 1 : title + 4], result.trends[0].means, strict=True):
            assert re.fullmatch(rf"cfg scale {dose:g} .*├─*●─*┤.* {mean:.3f}", line)
        assert re.search(r"╵\d+", lines[title + 4])
        assert next(filter(None, lines[title + 5 :])).startswith("metric")
        assert max(map(len, lines)) <= width
        assert " ".join(replace_names(result.verdict_text).split()) in " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", [20, 30, 40, 50])
def test_drawing_of_a_dose_response_without_room_for_a_plot_fits(tmp_path: Path, width: int) -> None:
    noise = np.random.default_rng(0).normal(5, 0.01, (7, 1, 3, 2))
    result = respond(tmp_path, (1.0, 4.0, 8.0), noise + np.array((1.0, 4.0, 8.0))[:, None])
    lines = [line.plain for line in draw_dose_response(result, Canvas(width, 13, lambda _: Style()))[0]]
    assert any(line.startswith("length") for line in lines)


def test_drawing_of_a_dose_response_marks_metrics_that_have_not_settled(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(5, 0.01, (7, 1, 3, 2))
    result = respond(tmp_path, (1.0, 4.0, 8.0), noise + np.array((1.0, 4.0, 8.0))[:, None])
    trends = tuple(replace(result.trends[0], metric=name) for name in ("length", "turning"))
    result, canvas = replace(result, trends=trends), Canvas(136, 30, lambda _: Style())
    texts = [
        "\n".join(line.plain for line in draw_dose_response(result, canvas, unsettled_metrics=unsettled)[0])
        for unsettled in ((), {"turning"})
    ]
    assert "turning (rad)" in texts[0]
    assert "turning* (rad)" in texts[1]
    assert "length*" not in texts[1]
    assert ["* mostly the sampler's steps" in text for text in texts] == [False, True]


def test_low_pane_shows_means_and_five_slopes_with_significant_ones_first(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(5, 0.01, (7, 1, 3, 2))
    result = respond(tmp_path, (1.0, 4.0, 8.0), noise + np.array((1.0, 4.0, 8.0))[:, None])
    p_by_metric = {"length": 0.2, "chord": 0.05, "detour": 0.051, "turning": math.nan, "velocity": 0.01, "spread": 0.3}
    trends = tuple(replace(result.trends[0], metric=name, family_p=p) for name, p in p_by_metric.items())
    result = replace(result, trends=trends, verdict_kind="unclear")
    order = ["chord", "velocity", "length", "detour", "turning", "spread"]
    for height in (9, 40):
        canvas = Canvas(76, height, lambda _: Style())
        lines, row_by_metric = draw_dose_response(result, canvas, lines_above=1)
        assert list(row_by_metric) == order
        assert sum(row < height for row in row_by_metric.values()) >= 5
        for metric, row in row_by_metric.items():
            line = lines[row - 1]
            assert line.plain.startswith(metric)
            is_bold = bool(line.get_style_at_offset(Console(), 0).bold)
            assert is_bold == (metric == "length"), "the charted metric alone is bold"
        assert not lines[0].get_style_at_offset(Console(), 0).bold
        means = f"mean length by cfg scale   ● 1: {trends[0].means[0]:.2f}   ● 4: {trends[0].means[1]:.2f}   ● 8: "
        assert (means in lines[1].plain) == (height == 9)


def test_intervals_of_a_dose_response_are_those_of_the_chosen_metric(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(5, 0.01, (7, 1, 3, 2))
    result = respond(tmp_path, (1.0, 4.0, 8.0), noise + np.array((1.0, 4.0, 8.0))[:, None])
    declared, other = result.trends[0], replace(result.trends[0], metric="chord", means=3 - result.trends[0].means)
    result = replace(result, trends=(declared, other))

    def draw(charted_metric: str, height: int) -> list[Text]:
        canvas = Canvas(100, height, lambda name: Style(color="cyan" if name == "accent" else None))
        return draw_dose_response(result, canvas, charted_metric=charted_metric)[0]

    for chosen, trend in (("", declared), ("chord", other), ("spread", declared)):
        lines = draw(chosen, 30)
        title = next(line.plain for line in lines if "mean and 95 % interval" in line.plain)
        assert title.startswith(f"{trend.metric} {'rises with' if trend is declared else 'over'} cfg scale")
        points = {row: line.plain.index("●") for row, line in enumerate(lines[:5]) if "●" in line.plain}
        assert list(points.values()) == sorted(points.values(), reverse=trend is other), "rising if declared"
        names = [line for line in lines if line.plain.startswith(("length ", "chord ")) and "over" not in line.plain]
        accented = [line.plain.split()[0] for line in names if line.get_style_at_offset(Console(), 0).color]
        assert accented == [trend.metric]
        first_mean = f"mean {trend.metric} by cfg scale   ● 1: {trend.means[0]:#.3g}   ● 4: "
        assert first_mean in "".join(line.plain for line in draw(chosen, 9))


def test_slopes_with_an_unbounded_interval_keep_their_percentage_and_name_the_unit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(5, 0.01, (7, 1, 3, 2))
    result = respond(tmp_path, (1.0, 4.0, 8.0), noise + np.array((1.0, 4.0, 8.0))[:, None])
    canvas = Canvas(136, 30, lambda _: Style())
    note = "unbounded interval: see it in the metric's unit"

    def draw(trends: tuple[Trend, ...]) -> str:
        return " ".join(line.plain for line in draw_dose_response(replace(result, trends=trends), canvas)[0])

    bounded = tuple(replace(trend, relative_slope=0.25, relative_low=0.2, relative_high=0.3) for trend in result.trends)
    assert note not in draw(bounded)
    slope = replace(bounded[0].slope, interval_low=0.5, interval_high=0.75)
    unbounded = replace(bounded[0], slope=slope, relative_low=-math.inf, relative_high=math.inf)
    text = draw((unbounded, *bounded[1:]))
    assert note in " ".join(text.split())
    assert re.search(r"\+25\.0 %\S* +\+0\.500 +to +\+0\.750 ", text)


def test_drawing_of_a_dose_response_names_unit_interval_and_origin_of_percentages(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(20, 3.0, (7, 1, 3, 1))
    result = respond(tmp_path, (1.0, 4.0, 8.0), noise + np.array((1.0, 4.0, 8.0))[:, None])
    canvas = Canvas(136, 30, lambda name: Style(color="cyan" if name == "series-2" else "blue"))
    trends = tuple(replace(result.trends[0], metric=metric) for metric in ("log_volume", "effective_dimension"))
    result = replace(result, trends=trends)
    lines, _ = draw_dose_response(result, canvas, colours_by_group={result.group_names[1]: "series-2"})
    texts = [line.plain for line in lines]
    assert texts[0].startswith("log volume ")
    assert "mean and 95 % interval over seeds, in nats" in texts[0]
    (header,) = [text for text in texts if text.startswith("metric")]
    assert header.index(" 0 ") < header.index("slope per 1 cfg scale") < header.index("effect") < header.index("adj. p")
    assert header.split()[:3] == ["metric", "log", "scale"]
    assert " ".join(texts).count("¹ % of distance to 1") == 1
    assert "effect: % of the mean per 1 cfg scale" in " ".join(texts)
    for line, colour in zip(lines[1:4], ("blue", "cyan", "blue"), strict=True):
        assert line.get_style_at_offset(Console(), line.plain.index("├")).color == Color.parse(colour)


@pytest.mark.parametrize(("slope", "colour"), [(0.5, "magenta"), (0.0, "green")])
def test_verdict_on_a_response_is_drawn_as_found_or_as_success(tmp_path: Path, slope: float, colour: str) -> None:
    doses = (1.0, 2.0, 4.0)
    noise = np.random.default_rng(1).normal(5, 0.01, (8, 1, 3, 1))
    result = respond(tmp_path, doses, noise + slope * np.array(doses)[:, None])
    colour_by_name = {"found": "magenta", "success": "green"}
    lines, _ = draw_dose_response(result, Canvas(136, 30, lambda name: Style(color=colour_by_name.get(name, "blue"))))
    assert lines[0].get_style_at_offset(Console(), 0).color == Color.parse(colour)


@pytest.mark.parametrize(("family_p", "is_bold"), [(0.05, True), (0.051, False)])
def test_verdict_on_a_response_is_bold_only_if_its_adjusted_p_is_significant(
    tmp_path: Path, family_p: float, is_bold: bool
) -> None:
    doses = (1.0, 2.0, 4.0)
    result = respond(tmp_path, doses, np.random.default_rng(1).normal(5, 0.01, (8, 1, 3, 1)) + np.array(doses)[:, None])
    assert result.verdict_kind == "rises"
    result = replace(result, trends=(replace(result.trends[0], family_p=family_p), *result.trends[1:]))
    lines, _ = draw_dose_response(result, Canvas(136, 30, lambda _: Style()))
    assert bool(lines[0].get_style_at_offset(Console(), 0).bold) == is_bold


def test_rising_flat_and_unknown_responses_are_distinguished(tmp_path: Path) -> None:
    random, doses = np.random.default_rng(1), (1.0, 2.0, 4.0)
    noise = random.normal(0, 0.01, (8, 1, 3, 1)) + random.normal(5, 1, (8, 1, 1, 1))
    rising = respond(tmp_path, doses, noise + 0.5 * np.array(doses)[:, None])
    assert rising.verdict_kind == "rises"
    assert rising.trends[0].slope.mean == pytest.approx(0.5, abs=0.02)
    assert "rises with cfg_scale from 1 to 4: +0.5" in rising.verdict_text
    assert respond(tmp_path, doses, noise - np.array(doses)[:, None]).verdict_kind == "falls"
    assert respond(tmp_path, doses, noise).verdict_kind == "flat"
    loud = respond(tmp_path, doses, noise + random.normal(0, 3, noise.shape))
    assert loud.verdict_kind == "cannot tell"
    few = respond(tmp_path, doses, noise[:4] + np.array(doses)[:, None])
    assert "4 seeds cannot give a p below 0.125; generate at least 6" in few.verdict_text


def test_response_of_one_word_is_not_generalised_over_phrasings(tmp_path: Path) -> None:
    doses = np.array([1.0, 2.0, 4.0])
    values = np.random.default_rng(2).normal(5, 0.01, (8, 8, 3, 1))
    values[:, 0] += 3 * doses[:, None]  # one phrasing of eight
    assert respond(tmp_path, tuple(doses), values).verdict_kind == "cannot tell"
    assert respond(tmp_path, tuple(doses), values[:, :5]).verdict_kind == "rises"  # "of these 5 phrasings"


def test_constant_metric_has_no_slope(tmp_path: Path) -> None:
    result = respond(tmp_path, (1.0, 2.0, 4.0), np.full((6, 2, 3, 1), 0.1))
    assert result.trends[0].p == 1.0
    assert result.verdict_kind == "flat"


@pytest.mark.parametrize("value", [0, 0.1, 1])
def test_constant_label_does_not_show_a_flat_response(tmp_path: Path, value: float) -> None:
    doses = (1.0, 2.0, 4.0)
    groups = build_groups(tmp_path, doses, seeds=8, phrasings=1)
    result = compute_dose_response(groups, find_existing_doses(groups), ["rating"], np.full((8, 1, 3, 1), value), 0.05)
    assert result.verdict_kind == "cannot tell"


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.lognormal(0, 1, (8, 2, 3, 1)),
        lambda random: random.normal(size=(8, 1, 1, 1)) + random.normal(size=(8, 2, 3, 1)),
    ],
    ids=["skewed", "shared noise"],
)
def test_false_slopes_do_not_exceed_the_level(
    tmp_path: Path, draw: Callable[[np.random.Generator], NDArray[np.float64]]
) -> None:
    random, runs, doses = np.random.default_rng(4), 400, (1.0, 2.0, 8.0)
    groups = build_groups(tmp_path, doses, 8, 2)
    called = 0
    for _ in range(runs):
        result = compute_dose_response(groups, find_existing_doses(groups), ["length"], draw(random), 0.05)
        called += result.verdict_kind in ("rises", "falls")
    assert called / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_doses_need_one_setting_of_several_numbers(tmp_path: Path) -> None:
    videos = cfg_batches(tmp_path, (2, 4))
    assert find_doses(group_videos(videos, "batch"), "batch") == Doses("guidance_scale", (2.0, 4.0), (0, 1))
    assert find_doses(group_videos(videos, "variation"), "variation") is None
    named = [set_setting(v, v.folder, "model_settings.sampler", v.folder.name) for v in videos]
    assert find_doses(group_videos(named, "sampler"), "sampler") is None


def test_setting_values_equal_those_of_the_recipe(make_once: MakeOnce, small: list[str]) -> None:
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest

    options = ["-t", "a [red|blue] circle", "--videos-per-variation", 6, *small]
    made = make_once("settings", lambda folder: generate_batch(folder, *options)) / "batch"
    manifest = read_manifest(BatchFolder(made))
    values = collect_setting_values(manifest.videos[0].recipe, manifest.config)
    assert manifest.config["model_settings"]["flow_shift"] is None  # the recipe has the default that was used
    assert values["model_settings.flow_shift"] == manifest.videos[0].recipe.flow_shift
    assert values[CFG_PATH] == manifest.videos[0].recipe.guidance_scale
    assert json.dumps(values)


@pytest.mark.torch
def test_analyze_compares_batches_by_a_setting(make_once: MakeOnce, small: list[str], wantui: Wantui) -> None:
    folders = []
    for scale in (2, 4, 8):
        options = ["-t", "a circle", "--videos-per-variation", 6, *small, "--set", f"{CFG_PATH}={scale}"]

        def generate(folder: Path, options: Sequence[object] = options) -> None:
            generate_batch(folder, *options)

        folders.append(make_once(f"cfg-{scale}", generate) / "batch")
    choice = ("--by", "cfg_scale", "--primary", "length", "--details")
    shown = wantui("analyze", "--compare", *folders, *choice, "--html", "page.html")
    assert shown.code == 0, shown.err
    assert "cfg_scale 2 against cfg_scale 8" in shown.out
    assert "slope per unit of cfg_scale" in shown.out
    assert "●" in shown.out
    assert "Change with cfg_scale" in Path("page.html").read_text()
    result = json.loads(wantui("analyze", "--compare", *folders, "--by", "batch", "--json").out)
    assert result["dose_response"]["values"] == [2.0, 4.0, 8.0]
    assert result["dose_response"]["setting"] == "guidance_scale"
    assert len(result["dose_response"]["trends"]["length"]["mean"]) == 3
    refused = wantui("analyze", "--compare", *folders, "--by", "cfg")
    assert refused.code != 0
    assert "cannot group by 'cfg': no setting of these videos has this name. The videos differ in: cfg_scale" in (
        refused.err
    )


# One batch with a sweep


def sweep_batch(tmp_path: Path, axes: tuple[tuple[str, ...], ...], values: dict[str, Sequence[Any]]) -> list[Video]:
    """Return a batch of two phrasings and six seeds for each combination of the values of the settings."""
    names = {
        CFG_PATH: "guidance_scale",
        "model_settings.steps": "steps",
        "prompt_settings.negative_prompt": "negative_prompt",
    }
    videos = []
    for combination in itertools.product(*values.values()):
        cell = dict(zip(values, combination, strict=True))
        compared = {names[path]: value for path, value in cell.items()}
        folder = tmp_path / "_".join(map(str, combination))
        for video in synthetic_videos(folder, {"one": 1.0}, seeds=6):
            settings = {**video.settings, **compared}
            cell_video = replace(video, folder=tmp_path, settings=settings, setting_values=cell, swept_axes=axes)
            videos.append(cell_video)
    return videos


def test_other_swept_settings_are_averaged_like_phrasings(tmp_path: Path) -> None:
    negative = "prompt_settings.negative_prompt"
    videos = sweep_batch(tmp_path, ((CFG_PATH,), (negative,)), {CFG_PATH: (2, 4), negative: ("", "dark", "noise")})
    result = compare_groups(videos, "cfg_scale", "length")
    assert [(group.name, len(group.videos)) for group in result.groups] == [("cfg_scale 2", 36), ("cfg_scale 4", 36)]
    assert result.exclusion_reasons == ()
    assert result.differences[0].phrasing_count == 2  # not six: the values of another setting are no phrasings
    assert [text for text in result.warnings if "averaged" in text] == [
        "the values of each seed are averaged over negative_prompt (empty, dark, noise); each group has 36 videos. "
        "Group by it to compare its values, or choose one with --where"
    ]
    values = np.array([[v.compute_metric("length") for v in group.videos] for group in result.groups])
    seed_means = values.reshape(2, 6, 6).mean(2)
    assert result.differences[0].paired_effect.mean == pytest.approx((seed_means[0] - seed_means[1]).mean())
    by_word = group_comparable_videos(videos, "1")[0]
    assert [len(group.videos) for group in by_word] == [72]


def test_swept_noise_levels_are_not_pooled(tmp_path: Path) -> None:
    steps = "model_settings.steps"
    videos = sweep_batch(tmp_path, ((CFG_PATH,), (steps,)), {CFG_PATH: (2, 4), steps: (8, 20)})
    result = compare_groups(videos, "cfg_scale", "length")
    assert {reason for _, reason in result.exclusion_reasons} == {"steps is 20, but 8 in the compared videos"}
    assert len(result.groups[0].videos) == 12


def test_videos_are_selected_by_values_of_settings(tmp_path: Path) -> None:
    steps = "model_settings.steps"
    videos = sweep_batch(tmp_path, ((CFG_PATH,), (steps,)), {CFG_PATH: (2.0, 4.0), steps: (8, 20)})
    chosen = select_videos_by_condition(videos, ["steps=20", "cfg_scale=2"])
    assert {(v.setting_values[CFG_PATH], v.setting_values[steps]) for v in chosen} == {(2.0, 20)}
    assert len(select_videos_by_condition(videos, ["steps=20", "steps=8"])) == len(videos)
    assert len(select_videos_by_condition(videos, ["steps=8, 20", "cfg_scale=4"])) == len(videos) // 2
    for condition, message in (
        ("steps", "has no value. Write NAME=VALUE"),
        ("steps=9", "steps has no value '9'. Choose from: 8, 20"),
        ("steps=8,9", "steps has no value '9'. Choose from: 8, 20"),
        (
            "stepps=8",
            r"cannot select 'stepps': no setting of these videos has this name. Did you mean steps\?",
        ),
    ):
        with pytest.raises(UserError, match=message):
            select_videos_by_condition(videos, [condition])


@pytest.mark.parametrize("grouping", ["seed", "Seeds", "model_settings.seed", "1,seed"])
def test_grouping_by_seed_is_refused_with_the_reason(tmp_path: Path, grouping: str) -> None:
    videos = sweep_batch(tmp_path, ((CFG_PATH,),), {CFG_PATH: (2, 4)})
    with pytest.raises(CannotCompareError, match="seeds form no groups, because the videos of groups are paired by se"):
        compare_groups(videos, grouping, "length")


def test_unknown_grouping_names_the_groupings_that_videos_have(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"red": 1.0, "blue": 1.0}, 2, phrasings=6)
    with pytest.raises(CannotCompareError) as error:
        compare_groups(videos, "colour", "length")
    phrasings = "|".join(f"phrasing {number}" for number in range(4))
    assert str(error.value) == (
        "cannot group by 'colour': no setting of these videos has this name. Use 1 (red|blue), "
        f"2 ({phrasings} and 2 more), variation, prompt or batch"
    )


@pytest.mark.parametrize(
    ("conditions", "grouping", "message"),
    [
        (
            ["seed=1"],
            "1",
            "cannot compare groups: --where seed=1 leaves 1 seed of 4, but the comparison needs 2. Choose more seeds",
        ),
        (
            ["1=red", "2=phrasing 1"],
            "1",
            "cannot compare groups by 1: --where 1=red --where 2=phrasing 1 leaves only red, not blue. Choose two "
            "groups or more",
        ),
        (["seed=1..2"], "1", ""),
    ],
)
def test_conditions_that_leave_one_seed_or_group_are_named(
    conditions: list[str], grouping: str, message: str, tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = synthetic_videos(tmp_path, {"red": 1.0, "blue": 1.0}, 4)
    use_videos(monkeypatch, videos)
    options = [option for condition in conditions for option in ("--where", condition)]
    for mode in ("--compare", "--decodability") if message else ("--compare",):
        result = wantui("analyze", tmp_path, mode, "--by", grouping, *options)
        if mode == "--decodability":
            message = message.replace("needs 2", f"needs {MIN_DECODED_SEEDS}")
        assert (result.code, message in result.err) == (2 if message else 0, True)


def test_videos_are_selected_by_word_and_seed(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"red": 1.0, "blue": 1.0}, 4)

    def choose(*conditions: str) -> list[tuple[str, str, int]]:
        return [
            (v.choices_by_bracket[3], v.choices_by_bracket[7], v.seed)
            for v in select_videos_by_condition(videos, conditions)
        ]

    assert choose("1=red", "seed=1..2", "2=phrasing 1") == [("red", "phrasing 1", 1), ("red", "phrasing 1", 2)]
    assert choose("seed=3", "seed=0") == [
        (colour, f"phrasing {phrasing}", seed) for colour in ("red", "blue") for phrasing in (0, 1) for seed in (0, 3)
    ]
    assert len(choose("1=red", "1=blue")) == len(videos)
    weighted = [replace(video, options_by_bracket={3: f"({video.choices_by_bracket[3]}:6)"}) for video in videos]
    assert len(select_videos_by_condition([*videos, *weighted], ["1=(red:6)"])) == len(videos) // 2
    assert len(select_videos_by_condition([*videos, *weighted], ["1=red"])) == len(videos)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("1=rd", "bracket 1 has no value 'rd'. Did you mean red? Choose from: red, blue"),
        ("3=red", "cannot select '3': the template has brackets 1 to 2"),
        ("1=", "bracket 1 has no value '(nothing)'. Choose from: red, blue"),
        ("1=(nothing)", "bracket 1 has no value '(nothing)'. Choose from: red, blue"),
        ("seed=9", "no video has seed 9. The videos have 0 to 3"),
        ("seed=a", "cannot read seed=a: a seed should be a whole number in decimal digits, got 'a' (examples: 7, 7"),
        ("seed=44..42", "the range 44..42 is empty. Write it as 44..42:-1 (examples: 7, 7,11 or 1..4)"),
        ("seeds=1", "Did you mean seed? Choose words by bracket (1=red), seeds by seed=1..4"),
        ("1", "'1' has no value. Write NAME=VALUE, such as cfg_scale=4, 1=red or seed=1..4"),
    ],
)
def test_condition_without_a_match_lists_the_known_values(tmp_path: Path, condition: str, message: str) -> None:
    videos = synthetic_videos(tmp_path, {"red": 1.0, "blue": 1.0}, 4)
    with pytest.raises(UserError, match=f"--where: .*{re.escape(message)}"):
        select_videos_by_condition(videos, [condition])


def test_empty_option_is_selected_by_the_name_of_its_group(tmp_path: Path) -> None:
    videos = [
        replace(video, choices_by_bracket={3: video.choices_by_bracket[3].replace("none", "")})
        for video in synthetic_videos(tmp_path, {"red": 1.0, "none": 1.0}, 4, phrasings=1)
    ]
    lacking = replace(videos[0], choices_by_bracket={})
    assert [group.name for group in group_videos(videos, "1")] == ["red", "(nothing)"]
    for condition in ("1=(nothing)", "1="):
        assert select_videos_by_condition([*videos, lacking], [condition]) == [*videos[4:], lacking]
    assert select_videos_by_condition(videos, ["1=red"]) == videos[:4]
    with pytest.raises(UserError, match=r"bracket 1 has no value 'blue'\. Choose from: red, \(nothing\)$"):
        select_videos_by_condition(videos, ["1=blue"])


def test_message_counts_the_values_that_it_does_not_name(tmp_path: Path) -> None:
    videos = [
        replace(video, choices_by_bracket={3: f"{video.seed:02d}"})
        for video in synthetic_videos(tmp_path, {"red": 1.0}, 12, phrasings=1)
    ]
    for count, ending in ((10, "08, 09"), (11, "08, 09 and 1 more"), (12, "08, 09 and 2 more")):
        with pytest.raises(UserError, match=f"Choose from: 00, 01, .*{ending}$"):
            select_videos_by_condition(videos[:count], ["1=blue"])


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("speeed", "speed"), ("sede", "seed"), ("seeds", "seed"), ("sped", "speed"), ("sed", "seed")],
)
def test_most_similar_name_is_suggested(tmp_path: Path, name: str, suggestion: str) -> None:
    videos = [
        replace(video, setting_values={"model_settings.speed": "fused", "model_settings.steps": 8})
        for video in synthetic_videos(tmp_path, {"red": 1.0}, 2)
    ]
    with pytest.raises(UserError, match=rf"cannot select '{name}': .*Did you mean {suggestion}\?"):
        select_videos_by_condition(videos, [f"{name}=1"])


def test_dissimilar_names_are_not_suggested(tmp_path: Path) -> None:
    videos = [
        replace(video, setting_values={"model_settings.sampler": ("euler", "unipc")[video.seed]})
        for video in synthetic_videos(tmp_path, {"red": 1.0}, 2)
    ]
    with pytest.raises(CannotCompareError, match=r"has this name. The videos differ in: sampler"):
        group_videos(videos, "shape")
    with pytest.raises(CannotCompareError, match=r"Did you mean sampler\?"):
        group_videos(videos, "samplr")


def test_baseline_of_a_sweep_has_one_name(tmp_path: Path) -> None:
    path = "prompt_schedule_settings.schedule"
    values = {0: None, 1: {"5%": "a"}, 2: {"10%": "a"}}
    videos = [
        replace(
            video,
            seed=video.seed // 3,
            swept_axes=((path,),),
            cell_label="baseline" if video.seed % 3 == 0 else f"schedule {video.seed % 3}",
            setting_values={path: values[video.seed % 3]},
        )
        for video in synthetic_videos(tmp_path, {"red": 1.0}, 6, phrasings=1)
    ]
    assert [group.name for group in group_videos(videos, "schedule")] == [
        "schedule baseline",
        "schedule 5%",
        "schedule 10%",
    ]
    for name in ("baseline", "none"):
        assert {video.cell_label for video in select_videos_by_condition(videos, [f"schedule={name}"])} == {"baseline"}
    with pytest.raises(UserError, match="Choose from: baseline, 5%, 10%"):
        select_videos_by_condition(videos, ["schedule=7%"])
    plain = [replace(video, cell_label="") for video in videos]
    assert group_videos(plain, "schedule")[0].name == "schedule none"


def test_settings_that_follow_from_a_swept_one_are_not_named(tmp_path: Path) -> None:
    section = "prompt_schedule_settings"
    videos = [
        replace(
            video,
            swept_axes=((f"{section}.schedule",),),
            setting_values={f"{section}.schedule": {"5%": "a"} if video.seed else None, f"{section}.unit": video.seed},
        )
        for video in synthetic_videos(tmp_path, {"red": 1.0}, 2)
    ]
    with pytest.raises(SettingNameError, match=r"Did you mean schedule\? The videos differ in: schedule$"):
        find_setting_path("shedule", videos)


def test_settings_that_change_together_are_named(tmp_path: Path) -> None:
    negative = "prompt_settings.negative_prompt"
    videos = sweep_batch(tmp_path, ((CFG_PATH, negative),), {CFG_PATH: (2, 4), negative: ("", "dark")})
    zipped = [v for v in videos if (v.setting_values[CFG_PATH] == 2) == (v.setting_values[negative] == "")]
    result = compare_groups(zipped, "cfg_scale", "length")
    assert [len(group.videos) for group in result.groups] == [12, 12]
    assert "negative_prompt changes together with cfg_scale: any of them may cause a difference" in result.warnings


CONTROLLED_CONFIG = """model_settings: {model_id: nano, steps: 4}
lora_settings: {adapters: ["nano-style:0.5"]}
cfg_schedule_settings: {schedule: {0: 5, 50%: 2}}
attention_bending_settings:
  bends:
    - {words: circle, mode: translate, translate_x: 0.1, steps: 0%..50%}
    - {words: all, mode: blur, blur_sigma: 1}
"""
SWEPT_VALUES = {
    "lora.nano-style.strength": ("0", "1"),
    "bend.circle.translate_x": ("-0.2", "0.2"),
    "bend.circle.steps": ('"0..1"', '"1..3"'),
    "cfg_schedule_settings.schedule.0": ("4", "6"),
    "cfg_schedule_settings.interpolation": ("linear", "step"),
}


def make_cell_videos(tmp_path: Path, sweep: str, config_text: str = CONTROLLED_CONFIG) -> list[Video]:
    """Return two phrasings and six seeds for each cell of a sweep over the controls of a config."""
    preview = preview_batch(parse_config(config_text, "my.yaml", [f"sweeps={sweep}"]), "a circle")
    assert preview.refusals == ()
    assert preview.sweep is not None
    config = preview.config.settings.model_dump(mode="json")
    axes = tuple(tuple(setting.path for setting in axis.settings) for axis in preview.sweep.axes)
    videos = []
    for cell in preview.cells:
        assert cell.cell is not None
        for video in synthetic_videos(tmp_path / cell.label, {"one": 1.0}, seeds=6):
            settings = {**SETTINGS, **collect_control_settings(cell.recipe)}
            values = collect_setting_values(cell.recipe, config, cell.cell.values)
            cell_video = replace(video, folder=tmp_path, settings=settings, setting_values=values, swept_axes=axes)
            videos.append(cell_video)
    return videos


@pytest.mark.parametrize("studied", SWEPT_VALUES)
@pytest.mark.parametrize("averaged", ["lora.nano-style.strength", "bend.circle.translate_x"])
def test_swept_settings_of_controls_form_groups(tmp_path: Path, studied: str, averaged: str) -> None:
    sweep = "; ".join(f"{name}={','.join(SWEPT_VALUES[name])}" for name in dict.fromkeys((studied, averaged)))
    groups, exclusion_reasons = group_comparable_videos(make_cell_videos(tmp_path, sweep), studied)
    assert exclusion_reasons == []
    values = [value.strip('"') for value in SWEPT_VALUES[studied]]
    assert [group.name.split()[-1] for group in groups] == values
    assert [len(group.videos) for group in groups] == [12 if studied == averaged else 24] * 2


UNBENT_CONFIG = CONTROLLED_CONFIG.partition("attention_bending_settings")[0]
"""Controls that can be combined with a prompt schedule."""
SCHEDULES = [
    ("prompt_schedule_settings.schedule", '{"1": "a shape"}', '{"2": "a shape"}', ["1", "2"]),
    ("prompt_schedule_settings.schedule", '{"1": "a shape"}', '{"1": "a thing"}', ["a shape", "a thing"]),
    ("cfg_schedule_settings.schedule", '{"0": 5, "50%": 2}', '{"0": 5, "50%": 3}', ["2", "3"]),
]


@pytest.mark.parametrize(("path", "first", "second", "labels"), SCHEDULES)
def test_swept_schedules_form_groups_that_are_named_by_what_differs(
    tmp_path: Path, path: str, first: str, second: str, labels: list[str]
) -> None:
    videos = make_cell_videos(tmp_path, f"{path}='{first}','{second}'", UNBENT_CONFIG)
    groups, exclusion_reasons = group_comparable_videos(videos, path)
    assert exclusion_reasons == []
    assert [group.name for group in groups] == [f"schedule {label}" for label in labels]
    for label in labels:
        assert len(select_videos_by_condition(videos, [f"{path}={label}"])) == 12


@pytest.mark.parametrize(("path", "first", "second", "labels"), SCHEDULES)
def test_swept_schedules_are_averaged_like_other_settings(
    tmp_path: Path, path: str, first: str, second: str, labels: list[str]
) -> None:
    videos = make_cell_videos(tmp_path, f"{path}='{first}','{second}'; lora.nano-style.strength=0,1", UNBENT_CONFIG)
    groups, exclusion_reasons = group_comparable_videos(videos, "lora.nano-style.strength")
    assert exclusion_reasons == []
    assert [len(group.videos) for group in groups] == [24, 24]


def test_groups_without_a_shared_value_of_a_swept_setting_name_the_setting(tmp_path: Path) -> None:
    negative = "prompt_settings.negative_prompt"
    values: dict[str, Sequence[Any]] = {CFG_PATH: (2, 4), negative: ("", "dark")}
    videos = sweep_batch(tmp_path, ((CFG_PATH,), (negative,)), values)
    crossed = [v for v in videos if (v.setting_values[CFG_PATH] == 2) == (v.setting_values[negative] == "")]
    with pytest.raises(CannotCompareError, match=r"negative_prompt is in every group\. Group by the setting .--by neg"):
        compare_groups(crossed, "cfg_scale", "length")


def test_error_for_different_templates_does_not_suggest_the_grouping_in_use(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=6, phrasings=1)
    other = [replace(v, template_skeleton="another") if v.choices_by_bracket[3] == "other" else v for v in videos]
    with pytest.raises(CannotCompareError, match="compare batches of one template, or group by variation"):
        compare_groups(other, "1", "length")


SCHEDULE_PATH = "prompt_schedule_settings.schedule"


def make_scheduled_videos(tmp_path: Path, template: str, schedule: str, sweep: str) -> list[Video]:
    """Return six seeds of each variation and cell of a batch with a prompt schedule, as they are loaded."""
    config_text = f"model_settings: {{model_id: nano, steps: 4}}\nprompt_schedule_settings: {{schedule: {schedule}}}\n"
    batch = plan_batch(parse_config(config_text, "my.yaml", ["seeds=0..5", f"sweeps={sweep}"]), template)
    manifest = create_manifest(batch, "batch")
    manifest = manifest.model_copy(update={"videos": [v.model_copy(update={"state": "done"}) for v in manifest.videos]})
    tmp_path.mkdir(exist_ok=True)
    write_manifest(BatchFolder(tmp_path), manifest)
    paths = synthetic_videos(tmp_path / "paths", {"one": 1.0}, seeds=6, phrasings=1)
    return [
        replace(
            video, trajectory=paths[video.seed].trajectory, dimension=paths[video.seed].dimension, exclusion_reason=""
        )
        for video in read_batch_videos(tmp_path)
    ]


@pytest.mark.parametrize(
    ("template", "schedule", "sweep", "grouping", "phrasing_count"),
    [
        ("a shape", '{1: "a [circle|star]"}', '{"1": "a [circle|star]"} or {"2": "a [circle|star]"}', SCHEDULE_PATH, 2),
        ("a [circle|star]", '{1: "a shape"}', '{"1": "a shape"} or {"2": "a shape"}', SCHEDULE_PATH, 2),
        ("a [circle|star]", '{1: "a shape"}', '{"1": "a shape"} or {"2": "a shape"}', "1", 1),
        ("a [circle|star]", '{1: "a shape"}', '{} or {"2": "a shape"}', SCHEDULE_PATH, 2),
        ("a [circle|star]", "{}", '{"0": "a ring"} or {"0": "a shape"}', SCHEDULE_PATH, 2),
        ("a shape", '{1: "a [circle|star]"}', "slerp or step", "interpolation", 2),
        ("a [circle|star]", '{1: "a shape"}', "true or false", "prompt_schedule_settings.enabled", 2),
    ],
)
def test_videos_of_a_swept_prompt_schedule_are_matched_by_their_options(
    tmp_path: Path, template: str, schedule: str, sweep: str, grouping: str, phrasing_count: int
) -> None:
    path = SCHEDULE_PATH if "{" in sweep else f"prompt_schedule_settings.{grouping.rpartition('.')[2]}"
    values = ",".join(f"'{value}'" for value in sweep.split(" or "))
    videos = make_scheduled_videos(tmp_path, template, schedule, f"{path}={values}")
    assert len(videos) == 24
    comparison = compare_groups(videos, grouping, "length")
    assert comparison.exclusion_reasons == ()
    assert [len(group.videos) for group in comparison.groups] == [12, 12]
    assert {difference.phrasing_count for difference in comparison.differences} == {phrasing_count}


def test_records_of_a_swept_prompt_schedule_have_its_prompts(tmp_path: Path) -> None:
    sweep = f"""{SCHEDULE_PATH}='{{"1": "a [circle|star]"}}','{{"2": "a [circle|star]"}}'"""
    videos = make_scheduled_videos(tmp_path, "a shape", '{1: "a [circle|star]"}', sweep)
    prompts = {build_video_record(video, ["length"])["prompt"] for video in videos}
    assert prompts == {"a shape → a circle", "a shape → a star"}
    assert {video.phrasing for video in videos} == {"a shape (circle)", "a shape (star)"}


def test_schedule_options_with_different_weights_are_different_phrasings_and_groups(tmp_path: Path) -> None:
    schedule = "a [(circle:1.5)|(circle:0.5)|star]"
    sweep = f"""{SCHEDULE_PATH}='{{"1": "{schedule}"}}','{{"2": "{schedule}"}}'"""
    videos = make_scheduled_videos(tmp_path, "a shape", f'{{1: "{schedule}"}}', sweep)
    comparison = compare_groups(videos, SCHEDULE_PATH, "length")
    assert comparison.exclusion_reasons == ()
    assert [(len(group.videos), group.phrasing_count) for group in comparison.groups] == [(18, 3)] * 2
    assert {difference.phrasing_count for difference in comparison.differences} == {3}
    names = ["circle (option 1)", "circle (option 2)", "star"]
    assert {video.phrasing for video in videos} == {f"a shape ({name})" for name in names}
    by_bracket = compare_groups(videos, "1", "length")
    assert [(group.name, len(group.videos)) for group in by_bracket.groups] == [(name, 12) for name in names]


def test_options_of_all_variations_are_read_once_per_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice_counts = []

    def count_choices(variations: Sequence[VariationEntry], template_parts: TemplateParts) -> list[dict[int, str]]:
        choice_counts.append(sum(len(variation.choices) for variation in variations))
        return label_scheduled_options(variations, template_parts)

    monkeypatch.setattr(loading, "label_scheduled_options", count_choices)
    videos = make_scheduled_videos(tmp_path, "a [red|blue|white] [circle|star]", "{}", f"{CFG_PATH}=2,4")
    assert len(videos) == 6 * 12
    assert choice_counts == [6 * 2]


def test_scheduled_options_are_labelled_by_variation() -> None:
    def make_variation(*choices: tuple[int, int, str]) -> VariationEntry:
        records = [{"bracket": bracket, "option": option, "text": text} for bracket, option, text in choices]
        return VariationEntry(id="v", prompt="a red", choices=records, marks=[])

    variations = [
        make_variation((1, 1, "red"), (2, 1, "ring")),
        make_variation((1, 2, "red"), (2, 2, "ring"), (3, 1, "big")),
        make_variation((1, 1, "red")),
    ]
    assert label_scheduled_options(variations, split_template("a [red|(red:2)]")) == [
        {2: "ring (option 1)"},
        {2: "ring (option 2)", 3: "big"},
        {},
    ]
    assert label_scheduled_options(variations, split_template("[a|b] [c|d] [e|f]")) == [{}, {}, {}]


def test_batches_whose_swept_prompt_schedules_differ_are_not_called_equal(tmp_path: Path) -> None:
    videos = []
    for name, first in (("one", "a circle"), ("other", "a star")):
        sweep = f"""{SCHEDULE_PATH}='{{"1": "{first}"}}','{{"1": "a ring"}}'"""
        videos += make_scheduled_videos(tmp_path / name, "a shape", "{}", sweep)
    assert find_differing_settings(videos).only_name == "prompt"


@pytest.mark.parametrize(
    ("speed", "name"), [("reference", ""), ("fused", "speed"), ("fp8", "speed"), ("cached", "speed")]
)
def test_batches_of_different_speed_are_not_called_equal(tmp_path: Path, speed: str, name: str) -> None:
    videos: list[Video] = []
    for each in ("reference", speed):
        recipe = recipe_for(NANO, speed=each)
        settings = {"cached": each == "cached", "fp8": each == "fp8"}
        batch = synthetic_videos(tmp_path / f"batch{len(videos)}", {"one": 1.0}, seeds=1)
        videos += [replace(video, recipe=recipe, settings={**video.settings, **settings}) for video in batch]
    assert find_differing_settings(videos).only_name == name


def test_empty_schedule_and_no_schedule_are_one_value_with_one_name(tmp_path: Path) -> None:
    sweep = f"""{SCHEDULE_PATH}='{{}}','{{"1": "a ring"}}'"""
    videos = make_scheduled_videos(tmp_path / "swept", "a shape", "{}", sweep)
    plain = make_scheduled_videos(tmp_path / "plain", "a shape", "{}", "cfg_scale=5")
    assert {video.setting_values.get(SCHEDULE_PATH) for video in plain} == {None}
    groups = group_videos([*videos, *plain], SCHEDULE_PATH)
    assert [(group.name, len(group.videos)) for group in groups] == [("schedule none", 12), ("schedule 1: a ring", 6)]
    assert select_videos_by_condition([*videos, *plain], ["schedule=none"]) == [*videos[:6], *plain]


def test_comparison_shows_significant_metrics_first(tmp_path: Path) -> None:
    comparison = compare_groups(cfg_batches(tmp_path, (2.0, 4.0)), "cfg_scale", "length")
    p_values = [0.05 if index % 3 == 1 else 0.06 for index in range(len(comparison.differences))]
    differences = tuple(
        replace(difference, family_p=p, phrasing_p=math.nan)
        for difference, p in zip(comparison.differences, p_values, strict=True)
    )
    metrics = [difference.metric for difference in differences]
    significant = [metric for metric, p in zip(metrics, p_values, strict=True) if p <= 0.05]
    comparison = replace(comparison, differences=differences, answers=(), dose_response=None)
    order = sorted(metrics, key=lambda metric: metric not in significant)
    for height in (15, 60):
        lines, row_by_metric = draw_comparison(comparison, "cfg_scale 2", [], Canvas(90, height, lambda _: Style()))
        assert list(row_by_metric) == order
        for metric, row in row_by_metric.items():
            assert lines[row].plain.startswith(label_compared_metric(comparison, metric).rstrip("¹"))
            is_bold = bool(lines[row].get_style_at_offset(Console(), 0).bold)
            assert is_bold == (metric in significant)


@pytest.mark.parametrize(
    ("scales", "label"), [((2.0, 4.0), None), ((2.0, 4.0, 8.0), None), ((2.0, 4.0, 8.0), "quality")]
)
def test_drawn_comparison_knows_the_first_line_of_each_metric(
    tmp_path: Path, scales: tuple[float, ...], label: str | None
) -> None:
    """A label has no percentages and no unit, so the text of its row does not tell that it is one."""
    videos = cfg_batches(tmp_path, scales)
    if label is not None:
        videos = [replace(video, labels={label: float(video.seed)}) for video in videos]
    comparison = compare_groups(videos, "cfg_scale", label or "length")
    lines, row_by_metric = draw_comparison(comparison, "cfg_scale 2", [], Canvas(90, 20, lambda _: Style()))
    assert set(row_by_metric) == set(comparison.summaries_by_metric)
    header_row = next(index for index, line in enumerate(lines) if line.plain.startswith("metric "))
    primary_labels = [name for name in row_by_metric if "(primary)" in label_compared_metric(comparison, name)]
    assert primary_labels == [comparison.primary_metric]
    assert min(row_by_metric.values()) == header_row + 1
    for metric, row in row_by_metric.items():
        name = label_compared_metric(comparison, metric).rstrip("¹").removesuffix(" (primary)")
        assert lines[row].plain.startswith(name)
