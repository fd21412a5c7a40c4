"""Values at cfg_scale 1 beside every comparison."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Wantui, recipe_for
from rich.console import Console
from rich.style import Style
from scipy import stats
from synthetic_videos import CFG_PATH, set_setting, synthetic_videos, use_videos

from wantui.analysis.calibrated_effect import describe_calibrated_scale
from wantui.analysis.compare import compare_groups
from wantui.analysis.comparison import Comparison
from wantui.analysis.effect_table import build_effect_rows
from wantui.analysis.final_states import FinalStates
from wantui.analysis.group import Group
from wantui.analysis.loading import collect_control_settings
from wantui.analysis.report import write_report
from wantui.analysis.serialize import build_comparison_record
from wantui.analysis.unguided import compare_with_unguided, describe_unguided
from wantui.analysis.video import Video
from wantui.analysis.video_guidance import describe_pooled_guidance, is_unguided
from wantui.models.catalogue import NANO
from wantui.tui.analysis.advice import replace_options_by_keys
from wantui.tui.analysis.data import FigureKey, Separation, compute_figure
from wantui.tui.analysis.level_view import draw_separation
from wantui.tui.analysis.views import Canvas

pytestmark = pytest.mark.slow


def guided_and_unguided(folder: Path, seeds: int = 8, unguided_seeds: int = 8) -> list[Video]:
    """Return videos whose groups differ in length at cfg_scale 4 and not at cfg_scale 1."""
    videos = []
    for scale, effect in ((4.0, 8.0), (1.0, 1.0)):
        batch = folder / f"cfg{scale:g}"
        for g, lengths in enumerate((1.0, effect)):
            name = ("one", "other")[g]
            count = seeds if scale > 1 else unguided_seeds
            both = synthetic_videos(batch / name, {"one": 1.0, "other": 1.0}, count, phrasings=1, lengths=lengths)
            own = [video for video in both if video.choices_by_bracket[3] == name]
            videos += [set_setting(video, batch, CFG_PATH, scale, guidance_scale=scale) for video in own]
    return videos


def list_differences(comparison: Comparison) -> Any:
    """Return the differences with None for NaN, so that equal ones are equal."""
    return build_comparison_record(comparison)["differences"]


def test_value_at_guidance_1_equals_that_of_its_videos_alone(tmp_path: Path) -> None:
    videos = guided_and_unguided(tmp_path)
    comparison = compare_with_unguided(videos, "variation", "length")
    assert comparison.unguided is not None
    for scale, result in ((4.0, comparison), (1.0, comparison.unguided)):
        videos_of_scale = [video for video in videos if video.setting_values[CFG_PATH] == scale]
        assert list_differences(result) == list_differences(compare_groups(videos_of_scale, "variation", "length"))
        assert {video.setting_values[CFG_PATH] for group in result.groups for video in group.videos} == {scale}
    assert comparison.exclusion_reasons == ()
    assert [verdict.kind for verdict in comparison.verdicts] == ["differs"]
    assert [verdict.kind for verdict in comparison.unguided.verdicts] == ["cannot tell"]
    verdict_text, scale_text, remaining_text = describe_unguided(comparison)[-3:]
    assert remaining_text == (
        "one_0 against other_0 in length: no significant effect at cfg_scale 1, so guidance alone may "
        "cause the effect with guidance"
    )
    assert verdict_text.startswith("at cfg_scale 1: one_0 against other_0: cannot tell in length")
    assert scale_text.startswith(
        "frequency or appearance? no effect in length was found at cfg_scale 1. "
        "Calibration on nano (50 Euler steps at cfg_scale 1): two shapes"
    )


def test_groups_of_guided_videos_name_their_scales_and_their_number_of_videos(tmp_path: Path) -> None:
    """The videos at cfg_scale 1 are counted apart, and pooled guidance has no calibrated effect."""
    videos = guided_and_unguided(tmp_path)
    doubled = [
        set_setting(video, tmp_path / "cfg2", CFG_PATH, 2.0, guidance_scale=2.0)
        for video in videos
        if not is_unguided(video)
    ]
    axes = ((CFG_PATH,),)
    swept = [replace(video, folder=tmp_path, swept_axes=axes) for video in [*doubled, *videos]]
    comparison = compare_with_unguided(swept, "variation", "length")
    assert [len(group.videos) for group in comparison.groups] == [16, 16]
    averaged_text, separate_text = [text for text in comparison.warnings if "in each" in text or "averaged" in text]
    assert "averaged over cfg_scale (2, 4); each group has 16 videos" in averaged_text
    assert separate_text == (
        "the result is about the guided videos only (16 videos in each group); those at cfg_scale 1 (8 videos in each "
        "group) are compared separately"
    )
    assert describe_calibrated_scale(comparison) == ""
    assert describe_pooled_guidance(comparison.videos) == (
        "the values are averaged over cfg_scale 2, 4; choose one scale, as with `wantui analyze --where cfg_scale=4`"
    )
    assert comparison.unguided is not None
    assert describe_pooled_guidance(comparison.unguided.videos) == ""
    assert describe_calibrated_scale(comparison.unguided) != ""


@pytest.mark.parametrize(
    ("unguided_effect", "text"),
    [
        (
            0.5,
            "25 % of the effect remains at cfg_scale 1, in the model's own prediction for the prompt; guidance adds "
            "the rest",
        ),
        (3.0, "the effect is 1.5 times as large at cfg_scale 1, so guidance reduces it"),
        (-0.5, "the effect has the opposite sign at cfg_scale 1, so guidance causes the effect with guidance"),
    ],
)
def test_share_of_the_effect_that_remains_at_guidance_1_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unguided_effect: float, text: str
) -> None:
    def compute(video: Video, metric: str) -> float:
        effect = unguided_effect if is_unguided(video) else 2.0
        # The mean of the second group is 10 at both scales, so that relative and absolute effects have one ratio.
        return 10 + (video.choices_by_bracket[3] == "one") * effect + 0.001 * (video.seed % 3)

    monkeypatch.setattr(Video, "compute_metric", compute)
    comparison = compare_with_unguided(guided_and_unguided(tmp_path), "1", "length")
    assert describe_unguided(comparison)[-1].startswith(f"one against other in length: {text}")


@pytest.mark.parametrize("metric", ["length", "log_volume"])
@pytest.mark.parametrize(
    ("unguided_effect", "text"),
    [
        (
            1.9,
            "about 95 % of the effect remains at cfg_scale 1, in the model's own prediction for the prompt; it is "
            "unclear whether guidance adds to it",
        ),
        (
            2.1,
            "the effect is about 1.05 times as large at cfg_scale 1, but it is unclear whether guidance changes it (",
        ),
    ],
)
def test_change_by_guidance_within_the_scatter_of_seeds_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unguided_effect: float, text: str, metric: str
) -> None:
    def compute(video: Video, metric: str) -> float:
        effect = unguided_effect if is_unguided(video) else 2.0
        scatter = 0.5 * math.cos(2 * math.pi * video.seed / 8 + 2 * is_unguided(video))  # sums to 0 over the seeds
        return 10 + (video.choices_by_bracket[3] == "one") * (effect + scatter)

    monkeypatch.setattr(Video, "compute_metric", compute)
    comparison = compare_with_unguided(guided_and_unguided(tmp_path), "1", metric)
    result = describe_unguided(comparison)[-1]
    assert result.startswith(f"one against other in {metric}: {text}")
    # The second group is 10 in all videos, so that the relative effects of the seeds are exact too.
    effects = [
        [compute(group.videos[seed], metric) - 10 for seed in range(8)]
        for item in (comparison, comparison.unguided)
        if item is not None
        for group in item.groups
        if group.name == "one"
    ]
    expected = stats.ttest_rel(*effects).confidence_interval()
    ends = re.search(r"95 % interval (\S+)(?: %)? to ([^ ,]+)", result)
    assert ends is not None
    scale = 10 if metric == "length" else 1  # percent of 10
    assert [float(end) for end in ends.groups()] == pytest.approx(np.array(expected) * scale, rel=0.02)


def scatter_turning(monkeypatch: pytest.MonkeyPatch, scattering_is_unguided: bool) -> None:
    """Let `turning` scatter so much at one guidance that its mean may be 0; all other values scatter little."""

    def compute(video: Video, metric: str) -> float:
        scatters = is_unguided(video) == scattering_is_unguided and metric == "turning"
        mean, scatter = (0.0, 9.0) if scatters else (5.0, 0.1)
        sign = (0, 0.05, 1, 0.1, 0, 0.7, 0.2, 0.1)[(video.seed + (video.choices_by_bracket[3] == "one")) % 8]
        return mean + scatter * sign

    monkeypatch.setattr(Video, "compute_metric", compute)


@pytest.mark.parametrize("scattering_is_unguided", [True, False])
def test_texts_with_and_without_guidance_have_one_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scattering_is_unguided: bool
) -> None:
    """The values at one guidance scale scatter so much that their mean may be 0."""

    scatter_turning(monkeypatch, scattering_is_unguided)
    videos = guided_and_unguided(tmp_path)
    for metric, unit, is_relative in (("turning", "rad", False), ("length", "%", True)):
        comparison = compare_with_unguided(videos, "1", metric)
        assert comparison.unguided is not None
        (row,) = build_effect_rows(comparison, [item for item in comparison.differences if item.metric == metric])
        assert [text.split()[-1] for text in (row.change, row.unguided_change)] == [unit, unit]
        answered_units = set()
        for result in (comparison, comparison.unguided):
            (verdict,) = result.verdicts
            assert re.search(rf"[+-]\S+ {unit} \(", verdict.verdict_text)
            evidence = [item for answer in result.answers for item in answer.evidence if item.metric == metric]
            assert [item.is_relative for item in evidence] == [is_relative]
            text = " ".join(answer.text for answer in result.answers)
            answered_units |= set(re.findall(rf"{metric} [+-]\S+ (\S+)", text))
            assert math.isfinite(result.relative_chance_interval[0]) == is_relative
            assert f" {unit} and " in result.describe_chance()
        assert answered_units == {unit}


def test_metric_without_percentages_repeats_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = guided_and_unguided(tmp_path)
    loaded_counts = []
    load = FinalStates.load

    def load_counted(groups: Sequence[Group]) -> FinalStates:
        loaded_counts.append(len(groups))
        return load(groups)

    monkeypatch.setattr(FinalStates, "load", load_counted)
    scatter_turning(monkeypatch, scattering_is_unguided=True)
    comparison = compare_with_unguided(videos, "1", "length")
    assert comparison.unguided is not None
    for result in (comparison, comparison.unguided):
        assert not any(difference.is_relative for difference in result.differences if difference.metric == "turning")
    assert loaded_counts == [2, 2]


def test_linearised_ratio_has_the_scatter_of_the_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(video: Video, metric: str) -> float:
        is_first = video.choices_by_bracket[3] == "one"
        generator = np.random.default_rng([video.seed, is_first])
        return float(generator.normal(12 if is_first else 10, 0.3))

    monkeypatch.setattr(Video, "compute_metric", compute)
    videos = [video for video in guided_and_unguided(tmp_path, 12, 0) if not is_unguided(video)]
    (difference,) = [item for item in compare_groups(videos, "1", "length").differences if item.metric == "length"]
    effects = difference.compute_seed_effects(is_relative=True)
    assert effects.mean() == pytest.approx(difference.relative_difference)
    first, second = difference.seed_values.T
    omitted = np.arange(12)
    jackknife = np.array([first[omitted != i].mean() / second[omitted != i].mean() for i in omitted])
    deviation = np.sqrt(11 * jackknife.var())
    assert stats.sem(effects) == pytest.approx(deviation, rel=0.02)


def test_guided_videos_alone_are_told_what_guidance_1_would_show(tmp_path: Path) -> None:
    guided_videos = [video for video in guided_and_unguided(tmp_path) if not is_unguided(video)]
    (text,) = describe_unguided(compare_with_unguided(guided_videos, "1", "length"))
    assert "with cfg_scale 1 would show how much of the effect guidance adds" in text
    swept_videos = [replace(video, swept_axes=((CFG_PATH,),)) for video in guided_videos]
    assert describe_unguided(compare_with_unguided(swept_videos, "1", "length")) == []
    unguided_videos = [video for video in guided_and_unguided(tmp_path) if is_unguided(video)]
    assert describe_unguided(compare_with_unguided(unguided_videos, "1", "length")) == []


def test_only_compared_seeds_and_prompts_are_shown_at_guidance_1(tmp_path: Path) -> None:
    videos = guided_and_unguided(tmp_path, seeds=4, unguided_seeds=6)
    comparison = compare_with_unguided(videos, "variation", "length")
    assert comparison.unguided is not None
    assert comparison.unguided.seeds == comparison.seeds == (0, 1, 2, 3)


def test_unguided_videos_that_cannot_be_compared_are_reported(tmp_path: Path) -> None:
    videos = guided_and_unguided(tmp_path, unguided_seeds=1)
    comparison = compare_with_unguided(videos, "variation", "length")
    assert comparison.unguided is None
    assert comparison.warnings[-1].startswith("the videos at cfg_scale 1 are not compared: cannot compare 2 groups")


def test_reason_without_a_comparison_at_guidance_1_has_keys_on_the_screen(tmp_path: Path) -> None:
    videos = [
        video
        for video in guided_and_unguided(tmp_path)
        if not is_unguided(video) or video.choices_by_bracket[3] == "one"
    ]
    warning = compare_with_unguided(videos, "variation", "length").warnings[-1]
    reason = "the videos at cfg_scale 1 are not compared: cannot compare groups by variation: there is only one"
    assert warning.startswith(reason)
    assert warning.endswith(". Choose another --by")
    assert replace_options_by_keys(warning).startswith(reason)
    assert replace_options_by_keys(warning).endswith(". Press c for another grouping")


@pytest.mark.parametrize("grouping", ["cfg_scale", "batch"])
def test_groups_by_guidance_or_batch_have_no_values_at_guidance_1(tmp_path: Path, grouping: str) -> None:
    comparison = compare_with_unguided(guided_and_unguided(tmp_path), grouping, "length")
    assert comparison.unguided is None
    assert len(comparison.groups) == 2


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_videos_with_one_guidance_scale_are_compared_as_before(tmp_path: Path, scale: float) -> None:
    videos = [video for video in guided_and_unguided(tmp_path) if video.setting_values[CFG_PATH] == scale]
    comparison = compare_with_unguided(videos, "variation", "length")
    assert comparison.unguided is None
    assert list_differences(comparison) == list_differences(compare_groups(videos, "variation", "length"))


def test_guidance_schedule_is_not_guidance_1(tmp_path: Path) -> None:
    video = guided_and_unguided(tmp_path, 2, 2)[-1]
    assert is_unguided(video)
    assert not is_unguided(replace(video, settings={**video.settings, "guidance_schedule": {"scale": "0: 7, 50%: 1"}}))
    assert not is_unguided(replace(video, setting_values={}))


@pytest.mark.parametrize(("scales", "is_without"), [((1, 1), True), ((1, 7), False), ((0, 0), False)])
def test_guidance_schedule_of_1_at_every_step_is_guidance_1(
    tmp_path: Path, scales: tuple[float, float], is_without: bool
) -> None:
    video = guided_and_unguided(tmp_path, 2, 2)[0]
    keyframes = {"times": {"unit": "fraction", "moments": [0.0, 1.0]}, "scales": scales}
    controls = {"guidance_schedule": {"schedule": keyframes, "interpolation": "linear"}}
    recipe = recipe_for(NANO, guidance_scale=4.0, controls=controls)
    settings = {**video.settings, **collect_control_settings(recipe)}
    assert is_unguided(replace(video, recipe=recipe, settings=settings)) is is_without


def test_every_output_has_the_value_at_guidance_1(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_videos(monkeypatch, guided_and_unguided(tmp_path))
    options = ("analyze", tmp_path, "--compare", "--primary", "length")
    result = wantui(*options, "--details")
    assert "at cfg_scale 1: one_0 against other_0: cannot tell in length" in " ".join(result.out.split())
    (header,) = [line for line in result.out.splitlines() if line.startswith("groups ")]
    assert "95 %  " in header
    assert "at cfg_scale 1  d_z" in header
    record = json.loads(wantui(*options, "--json").out)
    comparison = compare_with_unguided(guided_and_unguided(tmp_path), "variation", "length")
    assert comparison.unguided is not None
    assert record["unguided"]["differences"] == list_differences(comparison.unguided)
    write_report(tmp_path / "report.html", comparison)
    page = (tmp_path / "report.html").read_text()
    assert "at cfg_scale 1: one_0 against other_0: cannot tell in length" in page


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_separation_on_the_screen_says_why_guidance_1_is_not_compared(tmp_path: Path, size: tuple[int, int]) -> None:
    videos = [
        video
        for video in guided_and_unguided(tmp_path)
        if not is_unguided(video) or video.choices_by_bracket[3] == "one"
    ]
    separation = compute_figure(videos, FigureKey("separation", "variation")).figure
    assert isinstance(separation, Separation)
    assert separation.unguided_pairs == []
    lines = draw_separation(separation, "one_0", Canvas(*size, lambda _: Style()))
    text = " ".join(line.plain for line in lines)
    assert "the videos at cfg scale 1 are not compared: cannot compare groups by variation" in text
    assert "--by" not in text
    assert "cfg_scale" not in text
    assert "…" not in text


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
@pytest.mark.parametrize(("p", "is_found"), [(0.05, True), (0.051, False)])
def test_verdict_on_a_separation_is_bold_only_if_it_is_significant(
    tmp_path: Path, size: tuple[int, int], p: float, is_found: bool
) -> None:
    videos = [video for video in guided_and_unguided(tmp_path) if not is_unguided(video)]
    separation = compute_figure(videos, FigureKey("separation", "variation")).figure
    assert isinstance(separation, Separation)
    (pair,) = separation.pairs
    pair = replace(pair, pair_p=p)
    separation = replace(separation, pairs=[pair])
    lines = draw_separation(separation, "one_0", Canvas(*size, lambda _: Style()))
    (line,) = [line for line in lines if pair.verdict in line.plain]
    end = line.plain.index(". ")
    assert [bool(line.get_style_at_offset(Console(), offset).bold) for offset in (0, end - 1, end)] == [
        is_found,
        is_found,
        False,
    ]
