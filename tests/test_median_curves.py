"""Median curves behind the curves of one video."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.style import Style
from synthetic_videos import synthetic_videos

from wantui.analysis.mean_curves import compute_median_curves
from wantui.analysis.metrics import CURVES
from wantui.tui.analysis.views import MEDIAN_COLOUR, SHOWN_CURVES, Canvas, draw_video_curves


@pytest.mark.parametrize("name", CURVES)
def test_median_curve_is_the_median_of_the_videos_at_each_noise_level(tmp_path: Path, name: str) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 1.5}, seeds=3, phrasings=1)
    trajectories = [video.trajectory for video in videos if video.trajectory is not None]
    curves = [CURVES[name](trajectory) for trajectory in trajectories]
    ((key, curve),) = compute_median_curves(videos, [name]).items()
    assert key == (name, tuple(curves[0][0].tolist()))
    assert curve.video_count == len(videos) == 6
    for level, value in enumerate(curve.values):
        ordered = sorted(float(values[level]) for _, values in curves)
        assert value == pytest.approx((ordered[2] + ordered[3]) / 2, rel=1e-15)


def test_videos_with_other_noise_levels_or_without_a_trajectory_are_not_in_the_median(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0}, seeds=5, phrasings=1)
    first = videos[0].trajectory
    assert first is not None
    moved = replace(first, sigmas=np.concatenate([[0.99], first.sigmas[1:]]))
    videos = [replace(videos[0], trajectory=moved), replace(videos[1], trajectory=None), *videos[2:]]
    curves = compute_median_curves(videos, ["norm"])
    assert [curve.video_count for curve in curves.values()] == [1, 3]


def test_curves_of_a_video_have_the_median_of_all_as_a_thin_line_behind_them(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0, "b": 3.0}, seeds=3, phrasings=1)
    medians = compute_median_curves(videos, SHOWN_CURVES)
    styles = [Style(color="red"), Style(color="blue")]
    for width, height in ((78, 20), (140, 20), (78, 8)):
        canvas = Canvas(width, height, lambda name: Style(color="red" if name == MEDIAN_COLOUR else "blue"))
        legend, *lines = draw_video_curves(videos[0], medians, canvas)
        assert legend.plain.startswith(f"━━ {videos[0].name}   ── median of 6 videos")
        assert legend.plain.endswith("2 of 4 charts: z Enlarge") == (height < 10)
        cell_counts = [sum(span.style == style for line in lines for span in line.spans) for style in styles]
        assert min(cell_counts) > 20


def test_title_of_a_curve_that_ends_early_names_its_last_noise_level(tmp_path: Path) -> None:
    video = synthetic_videos(tmp_path, {"a": 1.0}, seeds=1, phrasings=1)[0]
    assert video.trajectory is not None
    last_sigma = CURVES["velocity"](video.trajectory)[0][-1]
    lines = [line.plain for line in draw_video_curves(video, {}, Canvas(140, 24, lambda _: Style()))]
    assert lines[1].count(" at σ") == 1
    assert lines[1].endswith(f" at σ {last_sigma:.2g}")
    *_, last_row, labels = lines
    assert labels.split()[0] == "σ"
    assert "┤" in last_row
    assert "└" not in last_row


def test_axes_of_all_curves_end_at_the_lowest_noise_level(tmp_path: Path) -> None:
    video = synthetic_videos(tmp_path, {"a": 1.0}, seeds=1, phrasings=1)[0]
    assert video.trajectory is not None
    assert CURVES["velocity"](video.trajectory)[0][-1] > CURVES["norm"](video.trajectory)[0][-1] == 0
    lines = [line.plain for line in draw_video_curves(video, {}, Canvas(140, 24, lambda _: Style()))]
    axes = [line for line in lines if "σ 1.0" in line]
    assert [axis.split().count("0.0") for axis in axes] == [2, 2], "two charts in each row"


@pytest.mark.parametrize("height", [12, 13])
def test_low_pane_gives_its_rows_to_four_curves_above_one_axis(tmp_path: Path, height: int) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0}, seeds=3, phrasings=1)
    lines = [line.plain for line in draw_video_curves(videos[0], {}, Canvas(78, height, lambda _: Style()))]
    assert height - 1 <= len(lines) <= height
    assert sum(line.count("│") + line.count("┤") for line in lines) == 4 * ((height - 2) // 2 - 1)
    assert ["σ 1.0" in line for line in lines] == [False] * (len(lines) - 1) + [True]


def test_curves_have_the_colour_of_their_variation(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0}, seeds=3, phrasings=1)
    canvas = Canvas(78, 20, lambda name: Style(meta={"name": name}))
    lines = draw_video_curves(videos[0], {}, canvas, colour_name="series-red")
    names = {span.style.meta.get("name") for line in lines for span in line.spans if isinstance(span.style, Style)}
    assert names - {None} == {"series-red"}


def test_three_videos_have_no_median(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"a": 1.0}, seeds=3, phrasings=1)
    medians = compute_median_curves(videos, SHOWN_CURVES)
    lines = draw_video_curves(videos[0], medians, Canvas(78, 20, lambda _: Style()))
    assert not any("median" in line.plain for line in lines)
