"""Group comparisons, attention summaries and command output, on trajectories with known geometry."""

import csv
import json
import math
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import TEMPLATE, MakeOnce, Wantui, batch, generate_batch
from numpy.typing import NDArray
from pydantic import BaseModel
from synthetic_videos import (
    DIMENSION,
    SETTINGS,
    SIGMAS,
    STATES,
    oscillating_videos,
    set_values,
    synthetic_videos,
    use_videos,
    with_states,
)

from wantui.analysis import differences, final_states, report
from wantui.analysis import gram as products
from wantui.analysis.attention_overlay import compute_scale_maximum, draw_overlay, find_clip_path, find_latent_frame
from wantui.analysis.attention_summary import average_map_over_steps, compute_word_curves, summarise_all_words
from wantui.analysis.comparability import select_comparable_videos
from wantui.analysis.compare import compare_groups
from wantui.analysis.comparison import Comparison
from wantui.analysis.curve_comparison import compare_curves
from wantui.analysis.dispersion import (
    PermutationTest,
    compute_distances_to_median,
    compute_squared_distances,
    run_permanova,
    run_permdisp,
)
from wantui.analysis.gram import ReadStates, StateBuffer, compute_gram
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import (
    find_dividing_groupings,
    group_comparable_videos,
    group_videos,
    summarise_group_metric,
)
from wantui.analysis.loading import collect_control_settings, read_batch_videos
from wantui.analysis.metrics import METRICS
from wantui.analysis.null_models import build_gaussian_null
from wantui.analysis.report_curves import draw_curves
from wantui.analysis.report_page import format_figure_label
from wantui.analysis.report_states import draw_dispersion
from wantui.analysis.serialize import build_comparison_record
from wantui.analysis.strides import apply_stride_to_videos
from wantui.analysis.trajectory import NoGeometryError, Trajectory, build_trajectory
from wantui.analysis.video import Video
from wantui.controls import ControlKind, ControlRequest
from wantui.errors import UserError
from wantui.samplers import SCHEDULES
from wantui.storage.attention_maps import AttentionMapsError, StoredAttentionMaps, open_attention_maps
from wantui.storage.layout import BatchFolder
from wantui.storage.mp4 import read_frames
from wantui.tui.analysis.attention_film import MEAN_STEP, OverlayKey, load_attention_film

pytestmark = pytest.mark.slow


def test_compare_finds_the_group_with_the_larger_spread(tmp_path: Path) -> None:
    result = compare_groups(synthetic_videos(tmp_path, {"wide": 1.5, "narrow": 1.0}, seeds=12), grouping="1")
    (verdict,) = result.verdicts
    assert (verdict.kind, verdict.first_group, verdict.second_group) == ("differs", "wide", "narrow")
    assert verdict.p < 0.01
    spread = result.differences[0]
    assert (spread.metric, spread.paired_effect.pair_count) == ("spread", 12)
    assert spread.relative_low < spread.relative_difference < spread.relative_high
    assert result.spread_test is not None
    assert result.spread_test.p_value < 0.01
    assert "more spread" in verdict.verdict_text
    assert set(result.squared_centroid_distances_by_pair) == {("wide", "narrow")}
    assert result.squared_centroid_distances_by_pair["wide", "narrow"] < 0.5  # both lie around the same place


def test_false_positive_rate_does_not_exceed_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[Path, NDArray[np.float64]] = {}  # in memory: 1,200 stores on a disk take half a minute
    sigmas = np.array([1, 0.5, 0.0])
    monkeypatch.setattr(
        Video,
        "_read_stored_arrays",
        lambda video, names: [
            {"projection": states[video.trajectory_path].astype(np.float32), "sigmas": sigmas}[name] for name in names
        ],
    )
    monkeypatch.setattr(final_states, "RELABELLING_COUNT", 1)  # which only tell what chance makes, in no verdict
    called = 0
    for turn in range(60):
        rng = np.random.default_rng(turn)
        values = rng.normal(size=(2, 10, DIMENSION))
        videos = []
        for g, name in enumerate(("one", "other")):
            for seed in range(10):
                place = tmp_path / f"{turn}_{g}_{seed}.zarr"
                path = np.stack([np.zeros(DIMENSION), values[g, seed] / 2, values[g, seed]])
                states[place] = path
                result = build_trajectory(path @ path.T, sigmas, DIMENSION)
                videos.append(
                    Video(
                        tmp_path,
                        0,
                        "",
                        name,
                        name,
                        {},
                        seed,
                        SETTINGS,
                        result,
                        dimension=DIMENSION,
                        trajectory_path=place,
                    )
                )
        called += compare_groups(videos, metrics=["length"]).verdicts[0].kind == "differs"
    assert called / 60 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 60)


def test_null_rate_recomputes_spread_and_needs_ten_seeds(tmp_path: Path) -> None:
    # S6: halves of one group were called different at 5 % by construction, whatever the data.
    result = compare_groups(synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=10), metrics=["length"])
    assert result.describe_chance().startswith(
        "with groups exchanged at random within seeds, 95 % of the differences in spread are between -"
    )
    assert result.false_positive_rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)
    assert "with spread recomputed, the test at the 5 % level calls" in result.describe_chance()
    few = compare_groups(synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=9), metrics=["length"])
    assert math.isnan(few.false_positive_rate)
    assert "% of them" not in few.describe_chance()


@pytest.mark.parametrize(
    ("array", "description"), [("projection", "projection of its states"), ("sigmas", "noise levels")]
)
def test_unreadable_stored_array_is_named(tmp_path: Path, array: str, description: str) -> None:
    video = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=1, phrasings=1)[0]
    assert video.trajectory_path is not None
    shutil.rmtree(video.trajectory_path / array)
    with pytest.raises(NoGeometryError, match=f"^no {description} can be read: {video.trajectory_path}"):
        video.load_projected_path()
    shutil.rmtree(video.trajectory_path)
    with pytest.raises(NoGeometryError, match="no projection of its states can be read"):
        video.load_projected_path()


def test_null_rate_exposes_a_test_that_exceeds_its_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # S6: with distances to the centroid and one odd video the same figure fails, as it should.
    def to_centroid(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(np.maximum(distances.mean(-1) - distances.mean((-2, -1))[..., None] / 2, 0)))

    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=10, phrasings=1)
    odd = videos[3]
    assert odd.trajectory_path is not None
    states = odd.load_projection()
    states[-1] *= 8
    zarr.open_group(odd.trajectory_path, mode="a")["projection"][:] = states
    assert compare_groups(videos, metrics=["length"]).false_positive_rate < 0.08
    monkeypatch.setattr(final_states, "compute_distances_to_median", to_centroid)
    assert compare_groups(videos, metrics=["length"]).false_positive_rate > 0.3


def test_chance_band_is_computed_from_paired_seeds(tmp_path: Path) -> None:
    # S6: that of unpaired halves was 1.3 to 9 times too wide.
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=12, phrasings=1)
    result = compare_groups(videos, primary_metric="length", metrics=[])
    values = np.array([[video.compute_metric("length") for video in group.videos] for group in result.groups])
    half = 2.2 * (values[0] - values[1]).std(ddof=1) / math.sqrt(12)
    assert math.isnan(result.false_positive_rate)
    assert result.chance_interval == pytest.approx((-half, half), rel=0.25)
    share = result.chance_interval[1] / values[1].mean()
    assert result.relative_chance_interval == pytest.approx((-share, share))
    assert result.describe_chance().endswith(f"are between -{100 * share:.1f} % and +{100 * share:.1f} %")


def test_chance_band_has_the_unit_of_the_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=8, phrasings=1)
    with monkeypatch.context() as context:
        set_values(context, lambda video: np.random.default_rng(len(video.id) + video.video_index).normal())
        result = compare_groups(videos, primary_metric="log_volume", metrics=[])
    low, high = result.chance_interval
    assert result.describe_chance().endswith(f"are between {low:+.3g} nats and {high:+.3g} nats")
    bent = compare_groups(videos, primary_metric="straightness", metrics=[])
    assert bent.describe_chance().endswith(" % of the distance from 1")
    means = np.array([group.compute_mean("straightness") for group in bent.groups])
    assert bent.relative_chance_interval[1] == pytest.approx(bent.chance_interval[1] / (1 - means[1]))


def test_seeds_are_the_unit_for_any_number_of_phrasings(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"wide": 3.0, "narrow": 1.0}, seeds=4, phrasings=5)
    result = compare_groups(videos, grouping="1")
    assert result.seeds == (0, 1, 2, 3)
    assert len(result.groups[0].videos) == 20
    assert result.differences[0].paired_effect.pair_count == 4
    assert result.verdicts[0].kind == "cannot tell"
    assert "4 seeds cannot give a p below 0.125; generate at least 6" in result.verdicts[0].verdict_text


def test_verdict_alike_requires_equivalence(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 0.05, "other": 0.05}, seeds=14)
    alike = compare_groups(videos, grouping="1", primary_metric="length")
    assert alike.verdicts[0].kind == "alike"
    assert "alike in length, within 5 %" in alike.verdicts[0].verdict_text
    unsure = compare_groups(videos, grouping="1", primary_metric="length", equivalence_margin=1e-9)
    assert unsure.verdicts[0].kind == "cannot tell"


def test_several_groups_are_compared_pairwise_with_corrected_p(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.0, "c": 2.0}, seeds=10, phrasings=1)
    result = compare_groups(videos, grouping="variation", metrics=["length", "turning"])
    assert [(v.first_group, v.second_group, v.kind) for v in result.verdicts] == [
        ("a_0", "b_0", "cannot tell"),
        ("a_0", "c_0", "differs"),
        ("b_0", "c_0", "differs"),
    ]
    assert result.omnibus_p < 0.01
    assert len(result.differences) == 3 * 3
    assert all(d.family_p >= d.paired_effect.p for d in result.differences)  # C12
    assert all(d.discovery_p >= d.paired_effect.p for d in result.differences)
    assert any("only one phrasing" in warning for warning in result.warnings)


def test_verdict_names_its_metric_and_place_is_answered_separately(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=9, phrasings=1)
    for video in videos[9:]:
        assert video.trajectory_path is not None
        zarr.open_group(video.trajectory_path, mode="a")["projection"][:] = video.load_projection() + 3 * (
            1 - SIGMAS[:, None]
        )
    result = compare_groups(videos, metrics=[])
    assert result.verdicts[0].verdict_text.startswith("one_0 against other_0: cannot tell in spread; ")
    assert result.verdicts[0].metric == "spread"
    assert result.answers[0].text.startswith("place: one_0 and other_0 lie apart. distance ")
    assert result.location_test is not None
    assert result.location_test.p_value == pytest.approx(2 / 2**9)


def test_difference_in_some_phrasings_is_not_generalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # S8: with an interaction only, groups were called different in three of four runs.
    interaction = dict(zip(range(8), [1.0, -1, 1, -1, 1, 1, -1, 0.2], strict=True))

    def value_of(video: Video) -> float:
        phrasing = int(video.choices_by_bracket[7].split()[-1])
        noise = np.random.default_rng([video.seed, phrasing, len(video.choices_by_bracket[3])]).normal(0, 0.05)
        return float(10 + (video.choices_by_bracket[3] == "one") * interaction[phrasing] + noise)

    set_values(monkeypatch, value_of)
    many = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=12, phrasings=8)
    result = compare_groups(many, grouping="1", primary_metric="length", metrics=[])
    assert result.differences[0].paired_effect.p < 0.01  # by seeds alone
    assert result.verdicts[0].kind != "differs"
    assert "over 8 phrasings" in result.verdicts[0].verdict_text
    assert result.verdicts[0].p == result.differences[0].phrasing_p > 0.3
    few = [video for video in many if int(video.choices_by_bracket[7].split()[-1]) in (0, 2, 4, 5)]
    comparison = compare_groups(few, grouping="1", primary_metric="length", metrics=[])
    assert comparison.verdicts[0].kind == "differs"
    assert "more length, of these 4 phrasings" in comparison.verdicts[0].verdict_text
    assert any("the result applies to these sentences" in warning for warning in comparison.warnings)


def test_disagreeing_test_and_interval_give_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S7: all signs are alike, and one difference is nearly all of the mean
    excess = dict(zip(range(1, 7), [0.1, 0.1, 0.1, 0.1, 0.1, 9.0], strict=True))
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=6, phrasings=1)
    first = min(video.seed for video in videos)

    def value_of(video: Video) -> float:
        return 10 + (video.choices_by_bracket[3] == "one") * excess[video.seed - first + 1]

    set_values(monkeypatch, value_of)
    result = compare_groups(videos, grouping="1", primary_metric="length", metrics=[])
    assert result.differences[0].paired_effect.p == pytest.approx(2 / 2**6)
    assert result.verdicts[0].kind == "cannot tell"
    assert "the interval contains 0" in result.verdicts[0].verdict_text


def test_difference_in_all_phrasings_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_values(
        monkeypatch,
        lambda video: float(
            10 + (video.choices_by_bracket[3] == "one") + 0.1 * np.random.default_rng([video.video_index]).normal()
        ),
    )
    result = compare_groups(
        synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=8, phrasings=6),
        grouping="1",
        primary_metric="length",
    )
    assert result.verdicts[0].kind == "differs"
    assert result.verdicts[0].p == 2 / 2**6
    assert "of these" not in result.verdicts[0].verdict_text


def test_required_seeds_follow_the_declared_margin_not_the_observed_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # S8: the effect that is seen scatters: 23 to 2,910 seeds were said where 34 are needed.
    rng = np.random.default_rng(30)
    noise = rng.normal(size=12)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    for seen in (0.0, 0.1, 0.3):
        set_values(
            monkeypatch,
            lambda video, seen=seen: (  # type: ignore[misc]
                1.0 + (video.choices_by_bracket[3] == "one") * (0.1 * noise[video.seed] + 0.1 * seen)
            ),
        )
        videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=12, phrasings=1)
        result = compare_groups(videos, grouping="1", primary_metric="length", metrics=[], equivalence_margin=0.05)
        assert result.differences[0].seeds_needed == 34  # 5 % of 1 over a deviation of 0.1 is d_z = .5
        assert "to find a difference of 5 %, about 34 seeds are needed" in result.verdicts[0].verdict_text


def test_rounding_differences_count_as_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_values(monkeypatch, lambda video: 1.0 + video.seed + (video.choices_by_bracket[3] == "one") * 1e-15)
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=10, phrasings=1)
    result = compare_groups(videos, grouping="1", primary_metric="length", metrics=[])
    assert result.verdicts[0].kind == "alike"
    assert (result.verdicts[0].p, result.omnibus_p) == (1, 1)


# Which videos make a group.


def weighted(videos: list[Video], weights: str, seeds: int = 0, **change: Any) -> list[Video]:
    """The same videos as a batch of another folder, with weights of the words in their first option."""
    result = []
    for video in videos:
        option = (
            f"({video.choices_by_bracket[3]}:{weights})"
            if weights and video.choices_by_bracket[3] == "one"
            else video.choices_by_bracket[3]
        )
        own: dict[str, Any] = {
            "options_by_bracket": {3: option, 7: video.choices_by_bracket[7]},
            "word_weights": option.strip("()") if option != video.choices_by_bracket[3] else "",
            "weighting_method": "attention" if option != video.choices_by_bracket[3] else "",
            "folder": video.folder / f"batch{weights}",
            "seed": video.seed + seeds,
        }
        result.append(replace(video, **(own | change)))
    return result


@pytest.mark.parametrize("by", ["1", "variation", "prompt"])
def test_words_with_different_weights_form_separate_groups(tmp_path: Path, by: str) -> None:
    # S5: seeds 0 to 3 without and 4 to 7 with a weight were one group of 8.
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=4, phrasings=1)
    mixed = weighted(videos, "") + weighted(videos, "6", seeds=4)
    names = [group.name for group in group_videos(mixed, by)]
    assert len(names) == 3
    assert sum("one:6" in name for name in names) == 1
    with pytest.raises(CannotCompareError, match=r"share 0 seeds.*: 0 to 3; .*: 0 to 7; .*one:6.*: 4 to 7"):
        compare_groups(mixed, grouping=by, primary_metric="length")
    assert [group.name for group in group_videos(weighted(videos, "6"), by)] == [
        group.name for group in group_videos(videos, by)
    ]


def test_weights_of_ungrouped_words_count_as_phrasings(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)
    plain, heavy = ([replace(video, template_skeleton=text) for video in videos] for text in ("a [1]", "a (big:2) [1]"))
    result = compare_groups(plain + heavy, grouping="1", primary_metric="length")
    assert len(result.groups[0].videos) == 6
    assert len(result.seeds) == 3


def test_videos_with_another_weighting_are_excluded_by_name(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=4, phrasings=1)
    by_attention = weighted(videos, "6")
    by_embedding = weighted(videos[:3], "6", weighting_method="multiply")
    kept, left = select_comparable_videos(by_attention + by_embedding)
    assert len(kept) == 8  # those without weights are comparable with both
    assert [video.exclusion_reason for video in left] == [
        "embedding_method is multiply, but attention in most videos"
    ] * 3


def test_duplicate_seed_is_excluded_with_its_reason(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)
    again = [replace(video, folder=tmp_path / "later") for video in videos]
    other = [replace(again[0], id="else")]
    result = compare_groups([*videos, *again, *other], grouping="1", primary_metric="length")
    assert len(result.exclusion_reasons) == 7
    first = f"is used from batch {tmp_path.name}"
    assert result.exclusion_reasons[0] == ("one_0 seed 0 of later", f"the same video {first}")
    assert ("one_0 seed 0 of later", f"a video with seed 0 and this phrasing {first}") in result.exclusion_reasons
    within = compare_groups(
        [*videos, replace(videos[0], id="x")], grouping="1", primary_metric="length"
    ).exclusion_reasons
    assert within == (("one_0 seed 0", "the group has another video with seed 0 and this phrasing"),)


def test_control_settings_contain_controls_with_a_section() -> None:
    class Request(BaseModel):
        scale: float

    kinds: Any = (
        ControlKind(name="bend", request_type=ControlRequest, section_key="bending"),
        ControlKind(name="in_template", request_type=ControlRequest),
    )
    recipe: Any = SimpleNamespace(find_control_request=lambda name: Request(scale=2.0))
    assert collect_control_settings(recipe, kinds) == {"bend": {"scale": 2.0}}
    recipe = SimpleNamespace(find_control_request=lambda name: None)
    assert collect_control_settings(recipe, kinds) == {"bend": None}


def test_batches_are_named_by_the_setting_that_differs(tmp_path: Path) -> None:
    # C12
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=6, phrasings=2)
    batches = [
        replace(video, folder=tmp_path / name, settings=SETTINGS | {"guidance_scale": scale})
        for name, scale in (("a", 1.0), ("b", 4.0))
        for video in videos
    ]
    result = compare_groups(batches, grouping="batch", primary_metric="length")
    assert [group.name for group in result.groups] == ["guidance_scale 1.0", "guidance_scale 4.0"]
    assert len(result.seeds) == 6
    assert result.exclusion_reasons == ()
    assert "the batches differ in guidance_scale only" in result.warnings
    both = [
        replace(video, settings={**video.settings, "steps": 20}) if video.folder.name == "b" else video
        for video in batches
    ]
    result = compare_groups(both, grouping="batch", primary_metric="length")
    assert [group.name for group in result.groups] == ["a", "b"]
    assert any(
        "differ in steps, guidance_scale: any of these may cause a difference" in text for text in result.warnings
    )
    wide = [
        replace(video, settings={**video.settings, "width": 128}) if video.folder.name == "b" else video
        for video in batches
    ]
    with pytest.raises(CannotCompareError, match="width is 128, but 64 in the compared videos"):
        compare_groups(wide, grouping="batch", primary_metric="length")
    heavy = weighted(synthetic_videos(tmp_path, {"one": 1.0}, seeds=4), "6")
    light = weighted(synthetic_videos(tmp_path, {"one": 1.0}, seeds=4), "")
    assert [
        group.name for group in compare_groups(light + heavy, grouping="batch", primary_metric="length").groups
    ] == [
        "no weights of words",
        "weights of words one:6",
    ]


def test_batches_with_equal_names_in_two_folders_are_two_groups(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=3, phrasings=1)
    both = [replace(video, folder=tmp_path / where / "kiss") for where in ("x", "y") for video in videos]
    assert [group.name for group in group_videos(both, "batch")] == ["x/kiss", "y/kiss"]


def test_compare_uses_common_videos_and_names_the_others(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=5)
    del videos[-1]  # the last seed of a phrasing of "other"
    result = compare_groups(videos, grouping="1")
    assert result.seeds == (0, 1, 2, 3)
    assert len(result.exclusion_reasons) == 3
    assert all(why == "other lacks seed 4 in some phrasing" for _, why in result.exclusion_reasons)


def test_videos_with_different_settings_are_excluded_by_name(tmp_path: Path) -> None:
    from dataclasses import replace

    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=5, phrasings=1)
    videos[2] = replace(videos[2], settings=SETTINGS | {"steps": 20})
    kept, left = select_comparable_videos(videos)
    assert (len(kept), len(left)) == (9, 1)
    assert left[0].exclusion_reason == "steps is 20, but 8 in most videos"
    assert compare_groups(videos, grouping="1").seeds == (0, 1, 3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grouping": "9"}, "the template has brackets 1 to 2"),
        ({"grouping": "colour"}, "cannot group by 'colour'"),
        ({"grouping": "batch"}, "cannot compare groups by batch: there is only one"),
        ({"primary_metric": "lenght"}, "unknown metric 'lenght'. Did you mean length\\? Known"),
        ({"metrics": ["x"]}, "unknown metric 'x'"),
    ],
)
def test_compare_names_what_it_cannot_compare(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        compare_groups(synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3), **change)  # type: ignore[arg-type]


def test_compare_without_comparable_videos_gives_the_reason(tmp_path: Path) -> None:
    one, *others = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=4)
    broken = [replace(video, trajectory=None, exclusion_reason="its file is gone") for video in others]
    with pytest.raises(
        CannotCompareError, match=r"there is only one.*15 of 16 videos are excluded, for example .*: its file is gone"
    ):
        compare_groups([one, *broken], grouping="1")


def test_trajectories_with_different_noise_levels_are_not_compared(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.0}, seeds=6, phrasings=1)
    mixed = [with_states(video, [0, 4, 8]) if video.seed > 3 else video for video in videos]
    left = select_comparable_videos(mixed)[1]
    assert {video.seed for video in left} == {4, 5}
    assert all(video.exclusion_reason.startswith("noise_levels is 3 (checksum ") for video in left)
    # As many states at other levels are another path too.
    other = [with_states(video, [0, 2, 8]) if video.seed > 3 else with_states(video, [0, 4, 8]) for video in videos]
    assert {video.seed for video in select_comparable_videos(other)[1]} == {4, 5}


def test_batches_with_different_capture_intervals_are_reported(tmp_path: Path) -> None:
    one = synthetic_videos(tmp_path / "one", {"a": 1.0}, seeds=6, phrasings=1)
    other = [
        replace(with_states(video, [0, 4, 8]), settings={**SETTINGS, "storage_interval": 4})
        for video in synthetic_videos(tmp_path / "other", {"a": 1.0}, seeds=6, phrasings=1)
    ]
    one = [replace(video, settings={**SETTINGS, "storage_interval": 1}) for video in one]
    result = compare_groups([*one, *other], grouping="batch", primary_metric="turning")
    assert [group.name for group in result.groups] == ["storage_interval 1", "storage_interval 4"]
    assert "the batches differ in storage_interval only" in result.warnings
    unsaid = [replace(video, settings=SETTINGS) for video in (*one, *other)]
    assert "the batches differ in noise_levels only" in compare_groups(unsaid, grouping="batch").warnings


def test_group_means_count_each_comparable_video_once(tmp_path: Path) -> None:
    one = synthetic_videos(tmp_path / "one", {"a": 1.0, "b": 1.0}, seeds=4, phrasings=1)
    again = [replace(video, folder=tmp_path / "again") for video in one[:2]]
    other = [replace(video, settings={**SETTINGS, "steps": 9}, seed=9) for video in one[:1]]
    groups, left = group_comparable_videos([*one, *again, *other], "1")
    assert [len(group.videos) for group in groups] == [4, 4]
    assert [why for _, why in left] == [
        "steps is 9, but 8 in most videos",
        *["the same video is used from batch one"] * 2,
    ]


@pytest.mark.parametrize(("power", "is_compared"), [(1, True), (2, False)])
def test_curves_with_different_noise_levels_have_no_difference(tmp_path: Path, power: int, is_compared: bool) -> None:
    one = synthetic_videos(tmp_path / "one", {"a": 1.0}, seeds=6, phrasings=1)
    other = []
    for video in synthetic_videos(tmp_path / "other", {"a": 1.0}, seeds=6, phrasings=1):
        assert video.trajectory is not None
        path = replace(video.trajectory, sigmas=SIGMAS**power)
        other.append(replace(video, trajectory=path, settings={**SETTINGS, "flow_shift": power}))
    result = compare_groups([*one, *other], grouping="batch", primary_metric="turning")
    figure = draw_curves(result, compare_curves(result.matched_groups))
    assert [axes.axison for axes in figure.axes[1::2]] == [is_compared] * 4
    assert all(len(axes.get_lines()) > 2 for axes in figure.axes[::2])


def test_group_summary_counts_finite_values_only(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0}, seeds=4, phrasings=1)
    videos[0] = replace(videos[0], trajectory=Trajectory(SIGMAS, np.ones((STATES, STATES))))  # it never moves
    described = summarise_group_metric(group_videos(videos, "1")[0], "straightness")
    assert described.video_count == 3
    assert described.mean == pytest.approx(np.mean([video.compute_metric("straightness") for video in videos[1:]]))


@pytest.mark.parametrize("by", ["0", "0,1", "-1", "1,-2", "3", "", "1,"])
def test_missing_bracket_is_refused(tmp_path: Path, by: str) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.0}, seeds=3)
    with pytest.raises(CannotCompareError, match="the template has brackets 1 to 2"):
        group_videos(videos, by)


def test_more_than_50_groups_are_refused(tmp_path: Path) -> None:
    videos = [
        Video(tmp_path, i, str(i), f"v{i}", f"prompt {i}", {1: str(i)}, 1, SETTINGS, dimension=DIMENSION,
              trajectory=build_trajectory(np.eye(STATES), SIGMAS, DIMENSION))
        for i in range(51)
    ]  # fmt: skip
    with pytest.raises(CannotCompareError, match="cannot compare 51 groups: the maximum is 50"):
        compare_groups(videos)
    assert len(group_videos(videos)) == 51


def test_groups_without_common_seeds_cannot_be_compared(tmp_path: Path) -> None:
    from dataclasses import replace

    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)
    videos = [replace(video, seed=video.seed + 100) if video.variation == "other_0" else video for video in videos]
    with pytest.raises(CannotCompareError, match="share 0 seeds"):
        compare_groups(videos, grouping="1")


@pytest.mark.parametrize("by", ["1,1", "1, 01"])
def test_repeated_bracket_is_refused(tmp_path: Path, by: str) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3)
    with pytest.raises(CannotCompareError, match="a bracket occurs twice"):
        compare_groups(videos, grouping=by)


def test_groups_with_identical_trajectories_cause_a_warning(tmp_path: Path) -> None:
    from dataclasses import replace

    one, other = (
        [
            video
            for video in synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, phrasings=1)
            if video.variation == name
        ]
        for name in ("one_0", "other_0")
    )
    same = [replace(video, trajectory=first.trajectory) for video, first in zip(other, one, strict=True)]
    expected = "3 of 3 videos of one and other have identical trajectories"
    assert any(
        expected in warning for warning in compare_groups([*one, *same], grouping="1", primary_metric="length").warnings
    )
    assert not any(
        "identical" in warning
        for warning in compare_groups([*one, *other], grouping="1", primary_metric="length").warnings
    )


def test_groups_of_equal_states_differ_neither_in_location_nor_in_spread() -> None:
    # F was 1e-28, and p what rounding made of it, 0.03 say.
    rng = np.random.default_rng(1)
    for seeds in (3, 6, 9):
        states = rng.normal(size=(seeds, 40)) * 1e3
        # In another order the sums round in another way.
        distances = compute_squared_distances(np.concatenate([states, states * (1 + 1e-15)]))
        cells = np.arange(2 * seeds).reshape(2, seeds, 1).transpose(1, 0, 2)
        for test in (run_permanova, run_permdisp):
            assert test(distances, cells) == PermutationTest(0.0, 1.0)


def test_spread_of_two_videos_is_not_compared(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)
    with pytest.raises(
        CannotCompareError, match=r"spread needs 3 videos in each group, but there are 2\. Generate more seeds"
    ):
        compare_groups(videos, grouping="1")
    with pytest.raises(CannotCompareError, match=r"videos_per_variation.*--primary straightness"):
        compare_groups(videos, grouping="1")
    result = compare_groups(videos, grouping="1", primary_metric="length")
    assert "nan" not in result.verdicts[0].verdict_text
    assert result.verdicts[0].kind == "cannot tell"
    assert "spread" not in {difference.metric for difference in result.differences}
    assert any("spread is not compared" in warning for warning in result.warnings)


def test_prompts_of_different_length_cause_a_warning(tmp_path: Path) -> None:
    from dataclasses import replace

    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3)
    videos = [replace(video, word_count=9) if video.choices_by_bracket[3] == "one" else video for video in videos]
    assert any(
        "differ in their number of words" in warning for warning in compare_groups(videos, grouping="1").warnings
    )


def test_options_with_commas_form_separate_groups(tmp_path: Path) -> None:
    video = synthetic_videos(tmp_path, {"only": 1.0}, seeds=1, phrasings=1)[0]
    choices = [
        ("red", "large, round"),
        ("red, large", "round"),
        ("red", "round"),
        ("", "round"),
        ("(nothing)", "round"),
    ]
    videos = [replace(video, choices_by_bracket={1: first, 2: second}) for first, second in choices]
    groups = group_videos(videos, "1,2")
    assert [(group.name, group.videos) for group in groups] == [
        ('"red", "large, round"', (videos[0],)),
        ('"red, large", "round"', (videos[1],)),
        ("red, round", (videos[2],)),
        ('"", "round"', (videos[3],)),
        ('"(nothing)", "round"', (videos[4],)),
    ]


def test_videos_are_grouped_by_variation_bracket_or_batch(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2)
    assert [group.name for group in group_videos(videos, "2")] == ["phrasing 0", "phrasing 1"]
    assert [group.name for group in group_videos(videos, "1,2")][1] == "one, phrasing 1"
    assert find_dividing_groupings(videos) == ["variation", "1", "2"]
    group = group_videos(videos, "1")[0]
    lengths = [video.compute_metric("length") for video in group.videos]
    summary = summarise_group_metric(group, "length")
    assert summary.video_count == 4
    assert summary.mean == pytest.approx(np.mean(lengths))
    assert summary.standard_deviation == pytest.approx(np.std(lengths, ddof=1))
    assert summary.random_walk_mean == pytest.approx(summary.mean)  # a walk keeps the step lengths
    assert math.isnan(summary.gaussian_flow_mean)


def in_memory(states: Any) -> ReadStates:
    """Return a reader of states that are in memory."""

    def read(which: range, rows: Sequence[NDArray[np.float32]]) -> None:
        for row, state in zip(rows, states[which.start : which.stop], strict=True):
            row[:] = np.asarray(state).ravel()

    return read


def test_blockwise_gram_matrix_equals_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    states = np.random.default_rng(0).normal(size=(7, 5, 40)).astype(np.float32)
    flat = states.reshape(7, -1).astype(np.float64)
    monkeypatch.setattr(products, "CHUNK_VALUES", 64)
    for part in (1, 2, 3, 8):
        monkeypatch.setattr(products, "OVERFLOW_ROWS", part)
        for rows in (1, 2, 3, 5, 6, 7, 9):
            monkeypatch.setattr(products, "BUFFER_BYTES", 4 * 200 * rows)
            held = StateBuffer()
            with ThreadPoolExecutor(3) as threads:
                result = threads.map(lambda _, held=held: compute_gram(in_memory(states), 7, 200, held), range(6))
                assert all(gram == pytest.approx(flat @ flat.T, rel=1e-12) for gram in result)
            assert len(held.free_rows) == len(held.values)


def test_failed_read_releases_buffer_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    states = list(np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32))
    monkeypatch.setattr(products, "BUFFER_BYTES", 4 * 20 * 6)
    held = StateBuffer()
    with pytest.raises(ValueError, match="broadcast"):
        compute_gram(in_memory([*states[:4], states[0][:3]]), 5, 20, held)
    flat = np.stack(states).astype(np.float64)
    assert compute_gram(in_memory(states), 5, 20, held) == pytest.approx(flat @ flat.T, rel=1e-12)


# Attention.


def maps_of(arrays: dict[str, NDArray[np.float64]], folder: Path) -> StoredAttentionMaps:
    group = zarr.open_group(folder / "maps.zarr", mode="w")
    for name, values in arrays.items():
        array = group.create_array(name, data=values[:, None, None].astype(np.float32))
        array.attrs["scale"] = 1.0
    n = len(next(iter(arrays.values())))
    group.create_array("steps", data=np.arange(n))
    group.create_array("sigmas", data=np.linspace(1, 0.1, n))
    group.attrs["words"] = {name: {"text": name, "pieces": [name]} for name in arrays}
    return open_attention_maps(folder / "maps.zarr")


def test_mass_entropy_centre_and_spread_match_known_maps(tmp_path: Path) -> None:
    even, point = np.full((2, 3, 4, 8), 0.01), np.zeros((2, 3, 4, 8))
    point[:, :, 1, 6] = 0.5
    two = np.zeros((2, 3, 4, 8))
    two[:, :, 2, 1] = two[:, :, 2, 5] = 0.25
    maps = maps_of({"even": even, "point": point, "two": two}, tmp_path)
    result = compute_word_curves(maps, "even")
    assert result.mass == pytest.approx([0.01, 0.01])
    assert result.entropy == pytest.approx([1, 1])
    assert result.centre[0, 0] == pytest.approx([0.5, 0.5])
    result = compute_word_curves(maps, "point")
    assert result.mass == pytest.approx([0.5 / 32] * 2)
    assert result.entropy == pytest.approx([math.log(3) / math.log(96)] * 2)
    assert result.centre[1, 2] == pytest.approx([6.5 / 8, 1.5 / 4])
    assert result.spread[0] == pytest.approx([0, 0, 0], abs=1e-6)
    result = compute_word_curves(maps, "two")
    assert result.centre[0, 0] == pytest.approx([3.5 / 8, 2.5 / 4])
    assert result.spread[0] == pytest.approx([2 / 8] * 3)
    _, overlaps = summarise_all_words(maps)
    assert overlaps["point"]["two"] == pytest.approx([0, 0])
    assert overlaps["even"]["point"] == pytest.approx([math.sqrt(3 / 96)] * 2)
    with pytest.raises(AttentionMapsError, match="Stored maps: even, point, two"):
        compute_word_curves(maps, "cat")


def test_words_are_summarised_from_one_read_of_each_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    maps = maps_of({f"word{i}": rng.random((2, 3, 4, 8)) for i in range(12)}, tmp_path)
    singles = [compute_word_curves(maps, name) for name in maps.metadata_by_word]
    read_maps = []
    read_map = StoredAttentionMaps.read_map

    def record_read(maps: StoredAttentionMaps, name: str, step_index: int) -> NDArray[np.float32]:
        read_maps.append((name, step_index))
        return read_map(maps, name, step_index)

    monkeypatch.setattr(StoredAttentionMaps, "read_map", record_read)
    curves, overlaps = summarise_all_words(maps)
    assert sorted(read_maps) == sorted((name, step) for name in maps.metadata_by_word for step in range(2))
    for curve, single in zip(curves, singles, strict=True):
        for name in ("mass", "entropy", "centre", "spread"):
            np.testing.assert_allclose(getattr(curve, name), getattr(single, name), rtol=1e-12)
    q, p = (a / a.sum() for a in (maps.read_mean_map("word2")[1], maps.read_mean_map("word7")[1]))
    assert overlaps["word2"]["word7"][1] == pytest.approx(np.sqrt(q * p).sum(), rel=1e-12)
    assert overlaps["word7"]["word2"][1] == overlaps["word2"]["word7"][1]


def test_maps_of_different_sizes_are_refused(tmp_path: Path) -> None:  # B7
    with pytest.raises(AttentionMapsError, match="its maps have different sizes"):
        maps_of({"cat": np.full((2, 3, 4, 8), 0.1), "dog": np.full((2, 3, 4, 6), 0.1)}, tmp_path)


def test_mean_map_skips_steps_without_maps(tmp_path: Path) -> None:
    values = np.full((3, 2, 4, 4), 0.25)
    values[1] = np.nan
    maps = maps_of({"cat": values}, tmp_path)
    assert np.isfinite(average_map_over_steps(maps, "cat")).all()
    result = compute_word_curves(maps, "cat")
    assert np.isnan(result.mass[1])
    assert np.isnan(result.entropy[1])
    assert result.entropy[[0, 2]] == pytest.approx([1, 1])


def test_frames_map_to_latent_frames_as_in_the_vae() -> None:
    assert [find_latent_frame(i) for i in range(10)] == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    frames = [np.zeros((16, 32, 3), np.uint8)] * 9
    attention = np.zeros((3, 2, 4))
    attention[1, 0, 3] = 1.0
    drawn = list(draw_overlay(frames, attention, 1.0))
    assert [bool(frame.any()) for frame in drawn] == [False, *[True] * 4, *[False] * 4]
    assert drawn[1][2, 30].sum() > 300
    assert drawn[1][14, 2].sum() == 0


# The command.


@pytest.fixture
def with_maps(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    """Six videos with attention maps, in a copy that the test may change."""
    options = ["-t", TEMPLATE, "--videos-per-variation", 3, "--store-attention", *small]
    made = make_once("with-maps", lambda folder: generate_batch(folder, *options))
    return BatchFolder(Path(shutil.copytree(made / "batch", "outputs/words")))


def test_analyze_prints_tables_json_csv_and_a_page(with_maps: BatchFolder, wantui: Wantui) -> None:
    root = with_maps.root
    videos = list(read_batch_videos(root))
    shown = wantui("analyze", root)
    assert shown.code == 0
    assert f"{videos[0].compute_metric('turning'):.5g}" in shown.out
    records = json.loads(wantui("analyze", root, "--json").out)
    assert records[0]["metrics"]["length"]["value"] == pytest.approx(videos[0].compute_metric("length"))
    assert records[0]["metrics"]["first_pc_variance"]["random_walk"] > 0.5
    assert records[0]["metrics"]["length"]["gaussian_flow"] is not None
    assert len(records[0]["curves"]["norm"]["value"]) == 4
    groups = wantui("analyze", root, "--groups", "--metrics", "length,chord")
    assert groups.out.splitlines()[0].split()[:3] == ["group", "n", "metric"]
    assert len(groups.out.splitlines()) == 1 + 2 * 2
    one = wantui("analyze", root, "--video-id", videos[1].id[:6], "--csv", "-", "--metrics", "length")
    rows = list(csv.DictReader(one.out.splitlines()))
    assert [row["seed"] for row in rows] == ["43"]
    assert float(rows[0]["length"]) == videos[1].compute_metric("length")
    listed = wantui("analyze", root, "--list-videos").out
    assert videos[0].id in listed
    assert "trajectory, attention" in listed
    compared = wantui("analyze", root, "--compare", "--html", "page.html", "--csv", "d.csv")
    assert "cannot tell in spread; 3 seeds" in compared.out
    page = Path("page.html").read_text()
    assert page.count("<svg") == 4
    assert "data:image/png;base64" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)  # nothing is loaded from elsewhere
    result = json.loads(wantui("analyze", root, "--compare", "--json").out)
    assert result["verdicts"][0]["kind"] == "cannot tell"
    assert len(Path("d.csv").read_text().splitlines()) == 1 + len(result["differences"])


def test_analyze_names_batches_if_there_are_several(with_maps: BatchFolder, wantui: Wantui) -> None:
    # C12
    clone = with_maps.root.with_name("a_clone")
    shutil.copytree(with_maps.root, clone)
    assert "batch" not in wantui("analyze", with_maps.root).out.splitlines()[0]
    lines = wantui("analyze", with_maps.root, clone).out.splitlines()
    assert lines[0].split()[:3] == ["batch", "variation", "seed"]
    assert [sum(line.startswith(name) for line in lines) for name in (with_maps.root.name, "a_clone")] == [6, 6]
    twice = wantui("analyze", clone, f"{clone}/../a_clone")
    assert twice.code == 1
    assert "it is the same batch as" in twice.err
    both = wantui("analyze", with_maps.root, clone, "--compare", "--primary", "length")
    assert "the same video is used from batch" in both.err


def test_analyze_reports_step_dependence_and_refuses_a_too_large_stride(with_maps: BatchFolder, wantui: Wantui) -> None:
    # S1
    assert "turning" in wantui("analyze", with_maps.root).err
    assert "too few steps to tell whether it reflects the path" in wantui("analyze", with_maps.root, "--groups").err
    (first, *_) = json.loads(wantui("analyze", with_maps.root, "--json").out)
    assert set(first["strides"]) == {"turning", "curvature", "acceleration", "commitment"}
    assert first["strides"]["turning"]["values"]["1"] == first["metrics"]["turning"]["value"]
    assert first["strides"]["turning"]["is_checked"] is False
    assert first["gaussian_flow"]["videos"] == 3
    assert "3 final states, integrated with unipc" in first["gaussian_flow"]["description"]
    refused = wantui("analyze", with_maps.root, "--json", "--stride", 2)
    assert refused.code != 0
    assert "cannot measure at stride 2: " in refused.err
    assert "stride 2 leaves 2 of 4 states, but an angle needs three. Choose a smaller stride" in refused.err


def test_stride_is_in_labels_and_advice(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    use_videos(monkeypatch, oscillating_videos(tmp_path))
    whole = wantui("analyze", tmp_path, "--metrics", "turning").err
    assert " at stride 1, " in whole
    strided = wantui("analyze", tmp_path, "--metrics", "turning", "--stride", 2)
    assert re.search(r"turning [\d.]+ at stride 2, [\d.]+ at stride 4, [\d.]+ at stride 8: it mostly", strided.err)
    assert strided.err.endswith("; --stride 4 reflects the path better\n")
    settled = wantui("analyze", tmp_path, "--metrics", "turning", "--stride", 4)
    assert (settled.code, settled.err) == (0, "")


def test_spread_is_a_metric_of_comparisons(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    use_videos(monkeypatch, synthetic_videos(tmp_path, {"red": 1.0, "blue": 2.0}, 4))
    options = ("analyze", tmp_path, "--compare", "--by", "1", "--primary", "length", "--json", "--metrics")
    compared = json.loads(wantui(*options, "spread").out)
    assert {difference["metric"] for difference in compared["differences"]} == {"length", "spread"}
    unknown = wantui(*options, "x")
    assert "unknown metric 'x'. Choose from: spread, length, " in unknown.err
    refusal = "--metrics: cannot choose spread here: "
    shown = wantui("analyze", tmp_path, "--groups", "--metrics", "spread,log_volume")
    assert (shown.code, f"{refusal}it needs the final states of compared groups. Use --compare" in shown.err) == (
        2,
        True,
    )
    correlated = wantui("analyze", tmp_path, "--correlate", "--metrics", "spread")
    assert (correlated.code, f"{refusal}it is always correlated. Omit it" in correlated.err) == (2, True)


def test_json_csv_and_pages_record_the_stride(tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    use_videos(monkeypatch, oscillating_videos(tmp_path))
    for stride in (1, 2):
        options = ("analyze", tmp_path, "--stride", stride)
        (video, *_) = json.loads(wantui(*options, "--json").out)
        (group, *_) = json.loads(wantui(*options, "--groups", "--metrics", "turning", "--json").out)
        page = tmp_path / f"{stride}.html"
        compared = json.loads(wantui(*options, "--compare", "--json", "--html", page).out)
        strides = {str(stride * multiple) for multiple in (1, 2, 4)}
        assert video["stride"] == group["stride"] == compared["stride"] == stride
        for checked in (video["strides"], group["strides"], compared["strides"]["one"]):
            assert set(checked["turning"]["values"]) == strides
            assert checked["turning"]["settled_at"] == (None if stride == 1 else 4)
        assert f"Trajectories are measured at stride {stride}." in page.read_text()
        assert f"measured at strides {stride}, {2 * stride}, {4 * stride}." in page.read_text()
        for more in ((), ("--compare",)):
            rows = list(csv.DictReader(wantui(*options, *more, "--csv", "-").out.splitlines()))
            assert {row["stride"] for row in rows} == {str(stride)}


def test_stride_that_leaves_too_few_states_is_refused(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = oscillating_videos(tmp_path)
    use_videos(monkeypatch, videos)
    for more in ((), ("--json",), ("--groups",), ("--compare",), ("--csv", "-")):
        result = wantui("analyze", tmp_path, "--stride", 21, *more)
        assert (result.code, result.out) == (2, "")
        assert "cannot measure at stride 21: one seed 0: stride 21 leaves 2 of 41 states" in result.err
    few = build_trajectory(np.eye(5), np.linspace(1, 0, 5), DIMENSION)
    use_videos(monkeypatch, [replace(videos[0], trajectory=few), *videos[1:]])
    result = wantui("analyze", tmp_path, "--stride", 20)
    assert "stride 20 leaves 2 of 5 states" in result.out.splitlines()[1]
    assert re.search(r"\bnan\b", result.out) is None
    assert "warning: log_volume needs 5 states, but the shortest trajectory has 3\n" in result.err
    assert "stride 20 leaves 2 of 5 states" in wantui("analyze", tmp_path, "--stride", 20, "--groups").err
    assert (
        "cannot use --stride here: it applies only to metrics"
        in wantui("analyze", tmp_path, "--stride", 2, "--list-videos").err
    )


@pytest.mark.parametrize("predictors", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_dispersion_is_stored_with_its_noise_levels(tmp_path: Path, predictors: bool, stride: int) -> None:
    videos = oscillating_videos(tmp_path, ("sigma", "other"), predictors)
    result = compare_groups(apply_stride_to_videos(videos, stride), metrics=["turning"])
    for name in ("sigma", "other"):
        record = build_comparison_record(result)["dispersion"][name]
        assert record["sigma"] == pytest.approx(np.linspace(1, 0, 41))
        assert len(record["value"]) == 41
    ends = np.stack([video.load_projection()[[0, -1]] for video in videos[:4]]).astype(np.float64)
    expected = np.sqrt(((ends - ends.mean(0)) ** 2).sum((0, 2)) / 3 / DIMENSION)
    assert result.dispersion_curves_by_group["sigma"].dispersion[[0, -1]] == pytest.approx(expected, rel=1e-5)
    assert np.abs(np.diff(result.dispersion_curves_by_group["sigma"].dispersion)).max() < 0.05  # predictors would jump
    (line, *_) = draw_dispersion(result).axes[0].lines
    assert np.asarray(line.get_xdata()) == pytest.approx(np.linspace(1, 0, 41))


@pytest.mark.parametrize("sampler", ["ddim", ""])
def test_unknown_sampler_has_no_gaussian_flow(tmp_path: Path, sampler: str) -> None:
    videos = [
        replace(video, settings={"sampler": sampler}) for video in synthetic_videos(tmp_path, {"one": 1.0}, seeds=3)
    ]
    null = build_gaussian_null(videos)
    assert (null.trajectories, null.sampler_name) == ((), "")
    assert null.description == f"no Gaussian flow: unknown sampler {sampler!r}; known samplers: {', '.join(SCHEDULES)}"


def test_sampler_that_adds_noise_has_no_gaussian_flow(tmp_path: Path) -> None:
    videos = [
        replace(video, settings={"sampler": "lcm"}) for video in synthetic_videos(tmp_path, {"one": 1.0}, seeds=3)
    ]
    null = build_gaussian_null(videos)
    assert null.trajectories == ()
    assert null.description.startswith("no Gaussian flow: lcm adds noise in each step")


def test_no_pair_of_groups_is_tested_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []

    def count_columns(name: str) -> None:
        function = getattr(differences, name)

        def counted(values: NDArray[np.float64]) -> object:
            calls.extend(column.tobytes() for column in values.T)
            return function(values)

        monkeypatch.setattr(differences, name, counted)

    count_columns("compute_paired_effects")
    count_columns("run_sign_flip_tests")
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.0, "c": 2.0}, seeds=5, phrasings=7)
    compare_groups(videos, grouping="1", metrics=["length", "turning"])
    metric_count = sum(not metric.needs_guidance_gap for metric in METRICS.values())
    assert len(calls) == 3 * metric_count * 2  # pairs, metrics, seeds and phrasings


def test_analyze_prints_attention_and_writes_an_overlay(with_maps: BatchFolder, wantui: Wantui) -> None:
    shown = wantui("analyze", with_maps.root, "--attention")
    assert shown.code == 0
    assert "circle" in shown.out.splitlines()[1]
    records = json.loads(wantui("analyze", with_maps.root, "--attention", "--json").out)
    maps = open_attention_maps(with_maps.make_attention_path(0, 1))
    assert records[0]["mass"] == pytest.approx(maps.read_mean_map("circle").mean((1, 2, 3)))
    several = wantui("analyze", with_maps.root, "--overlay", "circle")
    assert several.code == 2
    assert "needs exactly one video with attention maps, but 6 have them" in several.err
    ids = [video.id for video in read_batch_videos(with_maps.root)]
    drawn = wantui("analyze", with_maps.root, "--overlay", "circle", "--video-id", ids[0])
    assert drawn.code == 0
    assert Path(drawn.out.strip()).stat().st_size > 1000
    assert "no map of 'cat'" in wantui("analyze", with_maps.root, "--overlay", "cat", "--video-id", ids[0]).err


WRONG = {
    "no batch": (["nowhere"], "nowhere is not a batch folder: it does not exist"),
    "a file": (["BATCH/batch.json"], "is not a batch folder: it is a file. Give the folder that contains batch.json"),
    "interaction alone": (
        ["BATCH", "--interaction", "--by", "1,2"],
        "cannot use --interaction here: it applies only to",
    ),
    "metric": (["BATCH", "--metrics", "lenght"], "unknown metric 'lenght'"),
    "id": (["BATCH", "--video-id", "zzz"], "no finished video has an ID that starts with 'zzz'"),
    "empty id": (["BATCH", "--video-id", ""], "the id is empty"),
    "no metric": (["BATCH", "--metrics", " , "], "contains no metric"),
    "margin": (["BATCH", "--compare", "--margin", "3"], "is not between 0 and 1"),
    "by": (["BATCH", "--compare", "--by", "5"], "cannot group by '5'"),
    "csv": (["BATCH", "--csv", "/proc/x.csv"], "cannot write /proc/x.csv"),
    "csv folder": (["nowhere", "--csv", "."], "cannot write .: it is a folder"),
    "csv nowhere": (["nowhere", "--csv", "no/x.csv"], "no is missing. Create it"),
    "page": (["BATCH", "--html", "/proc/x.html"], "--html: cannot write /proc/x.html: "),
    "page folder": (["nowhere", "--html", "."], "cannot write .: it is a folder"),
    "page device": (["nowhere", "--html", "/dev/null"], "cannot write /dev/null: it is not a regular file"),
}


@pytest.mark.parametrize(
    "ignored",
    [
        "--json --csv x.csv",
        "--attention --csv x.csv",
        "--list-videos --html x.html",
        "--groups --html x.html",
        "-o x.mp4",
        "--primary turning",
        "--groups --margin 0.1",
        "--by 1",
        "--attention --metrics turning",
        "--attention --from-latents",
        "--overlay circle --json",
    ],
)
def test_option_without_effect_is_refused(with_maps: BatchFolder, wantui: Wantui, ignored: str) -> None:
    result = wantui("analyze", with_maps.root, *ignored.split())
    assert result.code == 2
    assert re.search(r"cannot use --[a-z-]+ here: it applies only to ", result.err)


@pytest.mark.parametrize("both", ["--list-videos --compare", "--groups --compare", "--attention --overlay circle"])
def test_second_output_option_is_not_dropped_silently(with_maps: BatchFolder, wantui: Wantui, both: str) -> None:
    result = wantui("analyze", with_maps.root, *both.split())
    assert result.code == 2
    assert "cannot combine --" in result.err


def test_word_without_attention_does_not_hide_other_words(
    wantui: Wantui, small: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    one = ["--videos-per-variation", "1"]
    made = batch(wantui("run", "-t", "a (cat:0) and a (dog) by a (tree)", "--store-attention", *one, *small))
    shown = wantui("analyze", made.root, "--attention")
    assert (shown.code, shown.err) == (0, "")
    cat, dog, tree = (line.split() for line in shown.out.splitlines()[1:])
    assert "nan" not in shown.out
    assert cat[-7:-1] != dog[-7:-1]
    maps = open_attention_maps(made.make_attention_path(0, 1))
    mean = float(np.mean(summarise_all_words(maps)[1]["dog"]["tree"]))
    assert [" ".join(row[-3:-1]) for row in (dog, tree)] == [f"{mean:.2f} tree", f"{mean:.2f} dog"]
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_overlay_is_written_inside_its_batch_for_any_video_id(
    with_maps: BatchFolder, wantui: Wantui, tmp_path: Path
) -> None:  # R10
    victim = tmp_path / "victim_circle.mp4"
    victim.write_text("precious")
    document = json.loads(with_maps.manifest_path.read_text())
    document["videos"][0]["id"] = str(tmp_path / "victim")
    with_maps.manifest_path.write_text(json.dumps(document))
    drawn = wantui("analyze", with_maps.root, "--overlay", "circle", "--video-id", str(tmp_path / "victim"))
    assert drawn.code == 0
    assert victim.read_text() == "precious"
    assert [path.parent for path in with_maps.root.rglob("*victim_circle.mp4")] == [with_maps.root / "analysis"]


def test_overlay_without_a_clip_is_an_error_message(with_maps: BatchFolder, wantui: Wantui) -> None:  # R12
    document = json.loads(with_maps.manifest_path.read_text())
    del document["videos"][0]["files"]["clip"]
    with_maps.manifest_path.write_text(json.dumps(document))
    result = wantui("analyze", with_maps.root, "--overlay", "circle", "--video-id", document["videos"][0]["id"])
    assert result.code == 2
    assert "its clip is not listed in batch.json" in result.err


def test_film_pictures_equal_the_frames_of_the_overlay(with_maps: BatchFolder) -> None:
    video = next(read_batch_videos(with_maps.root))
    assert video.attention_path is not None
    film, maps = load_attention_film(video, with_frames=True), open_attention_maps(video.attention_path)
    frames = list(read_frames(find_clip_path(video)))
    for index, word in enumerate(film.words):
        for step, word_map in [
            (MEAN_STEP, average_map_over_steps(maps, word.map_name)),
            (1, maps.read_mean_map(word.map_name)[1]),
        ]:
            expected = list(draw_overlay(frames, word_map, compute_scale_maximum(maps, list(maps.metadata_by_word))))
            for number, picture in enumerate(expected):
                assert np.array_equal(film.draw_picture(OverlayKey(index, step, number)), picture)
    last = film.clamp_key(OverlayKey(-1, 1000, 1000))
    assert last == OverlayKey(len(film.words) - 1, len(maps.evaluations) - 1, len(frames) - 1)
    assert film.clamp_key(OverlayKey(len(film.words), -5, -5)) == OverlayKey(0, MEAN_STEP, 0)


def test_report_and_screen_mention_an_unlisted_clip(with_maps: BatchFolder) -> None:
    document = json.loads(with_maps.manifest_path.read_text())
    for video in document["videos"]:
        del video["files"]["clip"]
    with_maps.manifest_path.write_text(json.dumps(document))
    videos = list(read_batch_videos(with_maps.root))
    with pytest.raises(UserError, match=r"its clip is not listed in batch\.json"):
        load_attention_film(videos[0], with_frames=True)
    assert not load_attention_film(videos[0], with_frames=False).frames
    report.write_report(with_maps.root / "page.html", compare_groups(videos, primary_metric="length"))
    assert "its clip is not listed in batch.json" in (with_maps.root / "page.html").read_text()


@pytest.mark.parametrize(
    "names",
    [
        ("$\\frac{1$", "$5 and $6"),
        ("_under", "x" * 5000),
        ("a\nb", "日本語"),
        ("a\tb", "أحمر"),
        ("\x07", "<b>&"),
    ],
)
def test_report_draws_groups_with_any_name(
    tmp_path: Path, names: tuple[str, str], recwarn: pytest.WarningsRecorder
) -> None:
    videos = [
        replace(video, choices_by_bracket={3: names[video.choices_by_bracket[3] != "one"]})
        for video in synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=4, phrasings=1)
    ]
    report.write_report(tmp_path / "page.html", compare_groups(videos, grouping="1", metrics=["length"]))
    page = (tmp_path / "page.html").read_text()
    drawn = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", page)).split()
    for name in names:
        wanted = format_figure_label(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split()
        assert all(drawn.count(word) >= 4 for word in wanted)  # in the effects, curves, room and paths
    assert not [warning for warning in recwarn if "matplotlib" in str(warning.filename) or "Glyph" in str(warning)]


def test_empty_maps_are_refused_without_a_numpy_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    maps = maps_of({"star": np.full((2, 1, 3, 3), np.nan)}, tmp_path)
    with pytest.raises(AttentionMapsError, match="no block computed attention at any stored step"):
        compute_scale_maximum(maps, ["star"])
    assert np.isnan(average_map_over_steps(maps, "star")).all()
    assert not list(recwarn)


def test_attention_table_names_batches_if_there_are_several(with_maps: BatchFolder, wantui: Wantui) -> None:
    clone = with_maps.root.with_name("a_clone")
    shutil.copytree(with_maps.root, clone)
    lines = wantui("analyze", with_maps.root, clone, "--attention").out.splitlines()
    assert lines[0].split()[:2] == ["batch", "variation"]
    assert sum(line.startswith("a_clone ") for line in lines) == 6
    records = json.loads(wantui("analyze", with_maps.root, clone, "--attention", "--json").out)
    assert {record["batch"] for record in records} == {str(with_maps.root), str(clone)}
    shutil.rmtree(clone / "attention_maps")
    assert "seed 42 of a_clone: " in wantui("analyze", with_maps.root, clone, "--attention").err


def test_unwritable_overlay_is_an_error_message(with_maps: BatchFolder, wantui: Wantui) -> None:
    video = next(video for video in read_batch_videos(with_maps.root) if video.attention_path)
    Path("file").write_text("")
    result = wantui("analyze", with_maps.root, "--overlay", "circle", "--video-id", video.id, "-o", "file/below.mp4")
    assert (result.code, "cannot write file/below.mp4: " in result.err) == (2, True)


def test_overlay_is_written_to_a_missing_folder_of_its_batch_and_replaces_no_file(
    with_maps: BatchFolder, wantui: Wantui
) -> None:
    video = next(video for video in read_batch_videos(with_maps.root) if video.attention_path)
    target = with_maps.root / "analysis" / "mine.mp4"
    assert not target.parent.exists()
    command = ("analyze", with_maps.root, "--overlay", "circle", "--video-id", video.id, "-o", target)
    assert (wantui(*command).code, target.is_file()) == (0, True)
    content = target.read_bytes()
    refused = wantui(*command)
    assert (refused.code, "it already exists. Choose another name" in refused.err) == (2, True)
    assert target.read_bytes() == content


@pytest.mark.parametrize("mistake", WRONG)
def test_invalid_analysis_is_an_error_message(with_maps: BatchFolder, wantui: Wantui, mistake: str) -> None:
    arguments, message = WRONG[mistake]
    result = wantui("analyze", *(word.replace("BATCH", str(with_maps.root)) for word in arguments))
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_missing_chunks_are_not_read_as_zeros(with_maps: BatchFolder) -> None:
    clone = with_maps.root.with_name("copied")
    shutil.copytree(with_maps.root, clone)
    first = next(iter(sorted(clone.glob("latents/*/*.zarr"))))
    shutil.rmtree(first / "gram" / "c")
    videos = list(read_batch_videos(clone))
    assert f"1 of the 1 chunks of {first / 'gram'} is missing" in videos[0].exclusion_reason
    assert all(video.trajectory is not None for video in videos[1:])
    maps = next(iter(sorted(clone.glob("attention_maps/*/*.zarr"))))
    shutil.rmtree(maps / "circle" / "c" / "1")
    with pytest.raises(AttentionMapsError, match=r"1 of the \d+ chunks of .*circle is missing. Copy .* again"):
        open_attention_maps(maps)


def test_analysis_skips_damaged_videos_of_a_batch(with_maps: BatchFolder, wantui: Wantui) -> None:
    for part in Path(with_maps.make_trajectory_path(1, 1) / "gram").rglob("*"):
        if part.is_file():
            part.unlink()
    (with_maps.make_attention_path(0, 1) / "zarr.json").write_text("{")
    videos = list(read_batch_videos(with_maps.root))
    assert videos[3].trajectory is None
    assert "cannot be read" in videos[3].exclusion_reason
    analysed = wantui("analyze", with_maps.root)
    assert analysed.code == 1  # B8: the others are analysed, and a script sees that one was not
    assert "left out: blue seed 42: its stored trajectory cannot be read" in analysed.err
    assert len(analysed.out.splitlines()) == 1 + len(videos)
    compared = wantui("analyze", with_maps.root, "--compare", "--primary", "length")
    assert compared.err.count("left out: blue seed 42: ") == 1
    attention = wantui("analyze", with_maps.root, "--attention")
    assert attention.code == 1
    assert "left out: red seed 42" in attention.err
    both = wantui("analyze", with_maps.root, "nowhere", "--list-videos")
    assert both.code == 1
    assert "left out: nowhere is not a batch folder" in both.err
    assert len(both.out.splitlines()) == 1 + len(videos)


def test_former_metric_name_is_accepted_on_the_command_line(wantui: Wantui, with_maps: BatchFolder) -> None:
    result = wantui(
        "analyze", with_maps.root, "--compare", "--primary", "line_share", "--metrics", "line_share,length", "--json"
    )
    comparison = json.loads(result.out)
    assert comparison["primary"] == "first_pc_variance"
    assert {difference["metric"] for difference in comparison["differences"]} >= {"first_pc_variance", "length"}
    table = wantui("analyze", with_maps.root, "--metrics", "line_share,first_pc_variance").out.splitlines()[0].split()
    assert table.count("first_pc_variance") == 1


def replace_path(video: Video, states: NDArray[np.float64]) -> Video:
    return replace(video, trajectory=build_trajectory(states @ states.T, SIGMAS, DIMENSION))


def test_means_of_a_group_and_its_random_walks_exclude_paths_without_the_metric(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=4, phrasings=1)
    (group,) = group_videos([replace_path(videos[0], np.ones((STATES, DIMENSION))), *videos[1:]], "1")
    (others,) = group_videos(videos[1:], "1")
    for metric in ("straightness", "curvature"):
        result, expected = summarise_group_metric(group, metric), summarise_group_metric(others, metric)
        assert (result.video_count, result.mean, result.random_walk_mean) == (
            3,
            expected.mean,
            expected.random_walk_mean,
        )


def test_spread_is_summarised_over_videos_like_other_metrics(tmp_path: Path) -> None:
    result = compare_groups(synthetic_videos(tmp_path, {"one": 1.0, "two": 1.5}, seeds=4, phrasings=3), grouping="1")
    for group, members in zip(result.groups, np.split(np.arange(24), 2), strict=True):
        assert len(members) == len(group.videos) == 12
        ends = np.stack([video.load_projection()[-1] for video in group.videos]).astype(np.float64) / math.sqrt(
            DIMENSION
        )
        spread = compute_distances_to_median(compute_squared_distances(ends))
        summary = result.summaries_by_metric["spread"][group.name]
        assert (summary.video_count, summary.mean, summary.standard_deviation) == pytest.approx(
            (12, spread.mean(), spread.std(ddof=1))
        )


def test_report_on_identical_final_states_has_shares_of_variance(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    video, *_ = synthetic_videos(tmp_path, {"one": 1.0}, seeds=1, phrasings=1)
    videos = [replace(video, seed=seed, choices_by_bracket={3: name}) for name in ("one", "two") for seed in range(4)]
    report.write_report(tmp_path / "page.html", compare_groups(videos, grouping="1", metrics=["length"]))
    page = (tmp_path / "page.html").read_text()
    assert "first axis, 0 % of the variance" in page
    assert not re.search(r"\bnan\b", page)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


UNUSABLE_PROJECTIONS = {
    "one axis": (np.ones(9), "the projection is float64 of shape (9,) instead of a row of floats for each state"),
    "no values": (np.ones((9, 0)), "the projection is float64 of shape (9, 0) instead of"),
    "three axes": (np.ones((9, 6, 1)), "the projection is float64 of shape (9, 6, 1) instead of"),
    "no states": (np.ones((0, 6)), "the projection is float64 of shape (0, 6) instead of"),
    "complex": (np.eye(9) * 1j, "the projection is complex128 of shape (9, 9) instead of"),
    "too few states": (np.ones((8, 60), dtype=np.float32), "8 projected states do not match 9 noise levels"),
    "other size": (np.ones((9, 6), dtype=np.float32), "its projection has shape (9, 6), but (9, 60) in most videos"),
    "NaN": (np.full((9, 60), np.nan, dtype=np.float32), "its projection contains NaN or infinity"),
    "infinity": (np.full((9, 60), np.inf, dtype=np.float32), "its projection contains NaN or infinity"),
    "too large": (np.full((9, 60), 1e200), "the projection contains values that are too large for a latent video"),
}


@pytest.fixture(scope="module")
def videos_and_rest(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Video], Comparison]:
    """Videos of two groups and five seeds, and the comparison of the groups without one seed."""
    videos = synthetic_videos(tmp_path_factory.mktemp("videos"), {"one": 1.0, "two": 1.0}, seeds=5, phrasings=1)
    return videos, compare_groups([video for video in videos if video.seed != 2], grouping="1")


@pytest.mark.parametrize(("damaged", "reason"), UNUSABLE_PROJECTIONS.values(), ids=UNUSABLE_PROJECTIONS)
def test_video_with_unusable_projection_is_excluded_by_name(
    videos_and_rest: tuple[list[Video], Comparison], tmp_path: Path, damaged: NDArray[Any], reason: str
) -> None:  # B8
    videos, rest = list(videos_and_rest[0]), videos_and_rest[1]
    assert videos[2].trajectory_path is not None
    copy = Path(shutil.copytree(videos[2].trajectory_path, tmp_path / "copy.zarr"))
    videos[2] = replace(videos[2], trajectory_path=copy)
    zarr.open_group(copy, mode="r+").create_array("projection", data=damaged, overwrite=True)
    result = compare_groups(videos, grouping="1")
    assert result.seeds == (0, 1, 3, 4)
    named = dict(result.exclusion_reasons)
    assert named["one_0 seed 2"].startswith(reason)
    assert result.unreadable_videos == ("one_0 seed 2",)
    assert not rest.unreadable_videos
    assert named["two_0 seed 2"] == "one lacks seed 2"
    assert [(d.metric, d.paired_effect) for d in result.differences] == [
        (d.metric, d.paired_effect) for d in rest.differences
    ]
    assert result.spread_test == rest.spread_test
    assert build_gaussian_null(videos).missing_reason.startswith("one_0 seed 2: ")


def test_unusable_projection_does_not_exclude_a_video_from_another_metric(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "two": 1.0}, seeds=5, phrasings=1)
    assert videos[2].trajectory_path is not None
    group = zarr.open_group(videos[2].trajectory_path, mode="r+")
    group.create_array("projection", data=np.full((9, 60), np.nan, dtype=np.float32), overwrite=True)
    result = compare_groups(videos, grouping="1", primary_metric="length")
    assert result.seeds == (0, 1, 2, 3, 4)
    assert "place and spread are not compared: one_0 seed 2: its projection contains NaN or infinity" in result.warnings


def test_spread_is_refused_by_name_if_too_few_projections_can_be_used(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "two": 1.0}, seeds=3, phrasings=1)
    for video in (videos[1], videos[5]):
        assert video.trajectory_path is not None
        group = zarr.open_group(video.trajectory_path, mode="r+")
        group.create_array("projection", data=np.full((9, 60), np.nan, dtype=np.float32), overwrite=True)
    unusable = r"cannot compare spread: one_0 seed 1: its projection contains NaN or infinity \(1 of the other videos"
    with pytest.raises(CannotCompareError, match=unusable):
        compare_groups(videos, grouping="1")
