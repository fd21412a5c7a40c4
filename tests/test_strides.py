"""Metrics that depend on the steps: the stride at which they settle, which a selection of videos leaves unchanged."""

import csv
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Wantui
from rich.style import Style
from synthetic_videos import synthetic_videos, use_videos

from wantui.analysis.compare import compare_groups
from wantui.analysis.correlation_data import correlate_videos
from wantui.analysis.group import Group
from wantui.analysis.groups import summarise_group_metric
from wantui.analysis.interaction import measure_interaction
from wantui.analysis.null_models import build_gaussian_null, compute_random_walk_null
from wantui.analysis.strided_states import compute_metric_at_stride
from wantui.analysis.strides import (
    BEND_METRICS,
    StrideCheck,
    apply_stride_to_videos,
    check_metric_strides,
    check_strides,
    describe_stride_checks,
    find_unsettled_metrics,
    measure_bends_at_settled_strides,
    measure_strides,
)
from wantui.analysis.trajectory import Trajectory, build_trajectory
from wantui.analysis.video import Video
from wantui.tui.analysis.views import Canvas, draw_video_curves

pytestmark = pytest.mark.slow


def add_swing(videos: Sequence[Video], folder: Path, period: int, size: float = 0.05) -> list[Video]:
    """Return the videos in another batch, with a swing of a period of states that has no bend at that stride."""
    swung = []
    for video in videos:
        assert video.trajectory is not None
        steps = np.arange(len(video.trajectory.sigmas))
        wave = size * np.where(steps % period < period / 2, 1.0, -1.0)
        gram = video.trajectory.gram + np.outer(wave, wave)
        swung.append(replace(video, folder=folder, trajectory=Trajectory(video.trajectory.sigmas, gram)))
    return swung


def curved_videos(folder: Path, count: int = 4) -> list[Video]:
    """Videos of 49 states on arcs, which turn by 1 radian at every stride."""
    angles, sigmas = np.linspace(0, 1, 49), np.linspace(1, 0, 49)
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return [
        Video(folder, n, f"{n}", "arc", "arc", {}, n, {}, Trajectory(sigmas, (1 + 0.1 * n) * arc @ arc.T))
        for n in range(count)
    ]


def test_bends_are_measured_at_the_stride_where_they_settle(tmp_path: Path) -> None:
    smooth = curved_videos(tmp_path)
    swung = add_swing(smooth, tmp_path, period=2)
    (video, *_) = measure_bends_at_settled_strides(swung)
    assert video.stride_by_metric == dict.fromkeys(BEND_METRICS, 2)
    assert swung[0].trajectory is not None
    assert video.compute_metric("turning") == compute_metric_at_stride(swung[0].trajectory, "turning", 2)
    assert video.compute_metric("turning") == pytest.approx(1, rel=0.1)
    assert swung[0].compute_metric("turning") > 5
    assert video.compute_metric("length") == swung[0].compute_metric("length")
    assert video.label_metric("turning") == "turning (stride 2)"
    assert video.label_metric("length") == "length"


def test_smooth_paths_keep_their_stride(tmp_path: Path) -> None:
    videos = curved_videos(tmp_path)
    assert [video.stride_by_metric for video in measure_bends_at_settled_strides(videos)] == [{}] * 4
    assert measure_bends_at_settled_strides([]) == []
    without = [replace(video, trajectory=None) for video in videos]
    assert measure_bends_at_settled_strides(without)[0].label_metric("turning") == "turning"


def test_all_batches_use_the_largest_stride_that_one_of_them_needs(tmp_path: Path) -> None:
    smooth = curved_videos(tmp_path / "smooth")
    videos = measure_bends_at_settled_strides([*smooth, *add_swing(smooth, tmp_path / "swung", period=2)])
    assert {video.get_stride("curvature") for video in videos} == {2}


def test_metric_that_settles_nowhere_is_marked(tmp_path: Path) -> None:
    (video, *_) = measure_bends_at_settled_strides(add_swing(curved_videos(tmp_path), tmp_path, period=4, size=0.3))
    assert video.label_metric("turning") == "turning (not settled)"
    assert video.get_stride("turning") == 1


@pytest.mark.parametrize(
    ("swing", "note"),
    [
        (None, ""),
        ((2, 0.05), "the sampler's steps dominate the curve of turning"),
        ((4, 0.3), "* not settled: turning, curvature, acceleration mostly reflect the sampler's steps, not the path"),
    ],
)
def test_note_below_curves_tells_what_the_steps_dominate(
    tmp_path: Path, swing: tuple[int, float] | None, note: str
) -> None:
    videos = curved_videos(tmp_path)
    if swing is not None:
        videos = add_swing(videos, tmp_path, *swing)
    (video, *_) = measure_bends_at_settled_strides(videos)
    lines = draw_video_curves(video, {}, Canvas(120, 24, lambda _: Style()))
    noted = [line.plain for line in lines if "steps" in line.plain]
    assert " ".join(noted) == note


def test_null_models_are_measured_at_the_stride_of_the_metric(tmp_path: Path) -> None:
    videos = [
        replace(video, stride_by_metric={"turning": 2}) for video in synthetic_videos(tmp_path, {"one": 1.0}, seeds=4)
    ]
    summary = summarise_group_metric(Group("one", tuple(videos)), "turning", build_gaussian_null(videos))
    trajectories = [video.trajectory for video in videos if video.trajectory is not None]
    expected = [compute_metric_at_stride(compute_random_walk_null(path), "turning", 2) for path in trajectories]
    assert summary.random_walk_mean == pytest.approx(np.mean(expected))
    # A random walk of 8 steps turns by pi / 2 seven times, and at stride 2 three times.
    assert summary.random_walk_mean == pytest.approx(3 * np.pi / 2)
    assert summary.stride == 2


def test_tables_name_the_stride_unless_one_is_chosen(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = add_swing([replace(v, seed=v.video_index) for v in curved_videos(tmp_path, 6)], tmp_path, period=2)
    use_videos(monkeypatch, videos)
    result = wantui("analyze", tmp_path, "--metrics", "turning,length")
    assert "turning (stride 2)  length" in result.out
    assert "measured at stride 2, the smallest at which it reflects the path" in result.err
    chosen = wantui("analyze", tmp_path, "--metrics", "turning,length", "--stride", 1)
    assert "turning  length" in chosen.out.replace("   ", "  ").replace("   ", "  ")
    assert "--stride 2 reflects the path better" in chosen.err
    (record, *_) = json.loads(wantui("analyze", tmp_path, "--json").out)
    assert {name: record["metrics"][name]["stride"] for name in ("turning", "length")} == {"turning": 2, "length": 1}
    (row, *_) = csv.DictReader(wantui("analyze", tmp_path, "--csv", "-").out.splitlines())
    assert row["metric_strides"] == "turning=2;curvature=2;acceleration=2"
    (group,) = json.loads(wantui("analyze", tmp_path, "--groups", "--metrics", "turning", "--json").out)
    assert group["metrics"]["turning"]["stride"] == 2


def test_labels_of_a_chosen_stride_equal_those_of_the_metric(tmp_path: Path) -> None:
    (video, *_) = apply_stride_to_videos(curved_videos(tmp_path), 2)
    assert (video.label_metric("turning"), video.get_stride("turning")) == ("turning", 2)


# What has settled is decided for each batch and cell, before videos are selected


def kicked_videos(folder: Path, first_kicked_seed: int, seeds: int = 8) -> list[Video]:
    """Videos of two words on arcs. Those from a seed on are kicked in their first step, which hides their commitment.

    The commitment of the arcs alone has settled, and so has the mean of arcs and kicked paths; that of kicked paths has
    not.
    """
    angles, sigmas = np.linspace(0, 1, 49), np.linspace(1, 0, 49)
    videos: list[Video] = []
    for word in ("red", "blue"):
        for seed in range(seeds):
            generator = np.random.default_rng([seed, word == "red"])
            states = np.stack([np.cos(angles), np.sin(angles), np.zeros(49)], axis=1) * generator.uniform(1, 1.1)
            if seed >= first_kicked_seed:
                states[1:, 2] += 0.1 * sigmas[1:]
            trajectory = Trajectory(sigmas, states @ states.T)
            video = Video(folder, len(videos), f"{word}{seed}", word, word, {1: word}, seed, {}, trajectory)
            videos.append(replace(video, labels={"rating": float(seed)}))
    return videos


def test_selection_does_not_change_which_metrics_have_settled(tmp_path: Path) -> None:
    videos = kicked_videos(tmp_path, first_kicked_seed=4)
    kicked = [video for video in videos if video.seed >= 4]
    assert "commitment" in find_unsettled_metrics(check_strides(kicked))
    checked = check_strides(videos)
    selected = [video for video in checked if video.seed >= 4]
    assert find_unsettled_metrics(selected) == find_unsettled_metrics(checked) == []
    other_batch = check_strides([*videos, *kicked_videos(tmp_path / "other", first_kicked_seed=0)])
    assert find_unsettled_metrics([video for video in other_batch if video.folder == tmp_path]) == []
    assert "commitment" in find_unsettled_metrics(other_batch)


@pytest.mark.parametrize("first_kicked_seed", [4, 0])
def test_commitment_counts_alike_in_compare_correlation_and_interaction(tmp_path: Path, first_kicked_seed: int) -> None:
    checked = check_strides(kicked_videos(tmp_path, first_kicked_seed))
    is_unsettled = first_kicked_seed == 0
    for videos in (checked, [video for video in checked if video.seed >= 2]):
        marked = measure_bends_at_settled_strides(videos)
        assert ("commitment" in marked[0].unsettled_metrics) == is_unsettled
        path = next(answer for answer in compare_groups(marked, "1", "length").answers if answer.question == "path")
        assert ("commitment" in path.p_by_metric) != is_unsettled
        data = correlate_videos(marked, ["length", "commitment"], ["rating"]).data
        assert ("commitment" in data.unsettled_metrics) == is_unsettled
        crossed = [
            replace(video, choices_by_bracket={1: video.variation, 2: shape}, variation=f"{video.variation} {shape}")
            for video in marked
            for shape in ("circle", "ring")
        ]
        excluded = measure_interaction(crossed, "1,2").excluded_metrics
        assert ("commitment" in excluded) == is_unsettled


@pytest.mark.parametrize("conditions", [[], ["--where", "seed=4..9"]])
def test_where_does_not_change_the_metrics_that_answer_the_question_about_path(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch, conditions: list[str]
) -> None:
    use_videos(monkeypatch, kicked_videos(tmp_path, first_kicked_seed=4, seeds=10))
    record = json.loads(wantui("analyze", tmp_path, "--compare", "--primary", "length", "--json", *conditions).out)
    (path,) = [answer for answer in record["answers"] if answer["question"] == "path"]
    assert "commitment" in path["p_by_metric"]


@pytest.mark.parametrize("conditions", [[], ["--where", "seed=4..9"]])
def test_where_does_not_change_the_settled_strides_of_json_and_report(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch, conditions: list[str]
) -> None:
    use_videos(monkeypatch, kicked_videos(tmp_path, first_kicked_seed=4, seeds=10))
    report_path = tmp_path / "report.html"
    options = ["analyze", tmp_path, *conditions]
    compared = json.loads(wantui(*options, "--compare", "--primary", "length", "--json", "--html", report_path).out)
    groups = json.loads(wantui(*options, "--groups", "--metrics", "commitment", "--json").out)
    videos = json.loads(wantui(*options, "--json").out)
    for strides in (*compared["strides"].values(), *(record["strides"] for record in (*groups, *videos))):
        assert strides["commitment"]["settled_at"] == 1
    assert re.search(r"<td[^>]*>commitment</td>(<td[^>]*>[\d.]+, [\d.]+, [\d.]+</td>){2}", report_path.read_text())


def test_settled_stride_of_a_group_is_the_largest_of_its_cells(tmp_path: Path) -> None:
    smooth = [replace(video, choices_by_bracket={1: str(video.seed % 2)}) for video in curved_videos(tmp_path)]
    swung = [replace(video, cell_label="heun") for video in add_swing(smooth, tmp_path, period=2)]
    videos = check_strides([*smooth, *swung])
    for members, settled_stride in ((smooth, 1), (swung, 2), (videos, 2)):
        (stride_check,) = check_metric_strides(members, ["turning"])
        assert stride_check.settled_stride == settled_stride


def test_stride_is_refused_if_the_selected_videos_are_too_short(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = curved_videos(tmp_path, 2)
    assert short.trajectory is not None
    few_states = Trajectory(short.trajectory.sigmas[-5:], short.trajectory.gram[-5:, -5:])
    use_videos(monkeypatch, [long, replace(short, trajectory=few_states)])
    options = ("analyze", tmp_path, "--stride", 4)
    for more in ((), ("--json",), ("--groups",)):
        result = wantui(*options, "--where", "seed=1", *more)
        assert (result.code, result.out) == (2, "")
        assert "cannot measure at stride 4: arc seed 1: stride 4 leaves 2 of 5 states" in result.err
        assert result.err.endswith(". Choose a smaller stride\n")
    assert wantui(*options, "--where", "seed=0").code == wantui(*options).code == 0


def test_stride_is_not_blamed_if_the_selected_videos_have_no_trajectory(
    tmp_path: Path, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, other = curved_videos(tmp_path, 2)
    use_videos(monkeypatch, [long, replace(other, trajectory=None, exclusion_reason="its trajectory is not stored")])
    result = wantui("analyze", tmp_path, "--stride", 4, "--where", "seed=1")
    assert result.code == 2
    assert "cannot analyse any video: arc seed 1: its trajectory is not stored" in result.err


def integrate_guided_mixture(step_count: int, seed: int, scale: float, distance: float) -> Trajectory:
    """Return the path of a perfect model of two points at +-distance, guided to one, by two-step Adams-Bashforth."""
    positions = np.linspace(1, 0, step_count + 1)
    sigmas = 3 * positions / (1 + 2 * positions)
    state = np.random.default_rng(seed).normal(size=20)
    axis = np.eye(20)[0]
    states, last_velocity, last_step = [state], np.zeros(20), 0.0
    for sigma, next_sigma in itertools.pairwise(sigmas):
        unconditional = distance * np.tanh((1 - sigma) * distance * state[0] / sigma**2) * axis
        velocity = (state - unconditional - scale * (distance * axis - unconditional)) / sigma
        step = next_sigma - sigma
        correction = 0.5 * step / last_step * (velocity - last_velocity) if last_step else 0.0
        state = state + step * (velocity + correction)
        states.append(state)
        last_velocity, last_step = velocity, step
    path = np.array(states)
    return build_trajectory(path @ path.T, sigmas, 20)


@pytest.mark.parametrize(("scale", "distance"), [(8, 3), (6, 6), (16, 1), (4, 1)])
def test_commitment_that_has_settled_is_near_its_limit(scale: float, distance: float) -> None:
    def measure(step_count: int) -> tuple[float, bool]:
        paths = [integrate_guided_mixture(step_count, seed, scale, distance) for seed in range(3)]
        check = measure_strides(paths, "commitment")
        return 1 - check.means[0], check.is_settled

    limit, _ = measure(768)
    results = {step_count: measure(step_count) for step_count in (6, 8, 10, 12, 16, 24, 48, 96)}
    assert [step_count for step_count in (6, 8, 10) if results[step_count][1]] == []
    assert all(results[step_count][1] for step_count in (48, 96))
    for value, is_settled in results.values():
        assert not is_settled or max(value / limit, limit / value) <= 1.25


def test_unsettled_metrics_of_a_comparison_share_one_sentence() -> None:
    checks = [
        StrideCheck("turning", (1, 2, 4), (5.0, 2.0, 1.0), None),
        StrideCheck("curvature", (1, 2, 4), (4.0, 2.0, 1.0), None),
        StrideCheck("commitment", (1, 2, 4), (0.9, 0.7, 0.5), None),
    ]
    assert describe_stride_checks(checks) == [
        "turning, curvature: each mostly reflects the sampler's steps or rounding, not the path; commitment: the steps "
        "are too long to resolve it"
    ]
    assert describe_stride_checks(checks[:1]) == [
        "turning 5 at stride 1, 2 at stride 2, 1 at stride 4: it mostly reflects the sampler's steps or rounding, not "
        "the path"
    ]
    assert describe_stride_checks([]) == []
