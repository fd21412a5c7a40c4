"""The verdict on one video among others: ranks and extremes against counts by hand."""

from pathlib import Path

import numpy as np
import pytest
from test_analysis import synthetic_videos

from wantui.analysis.metrics import METRICS
from wantui.tui.analysis.metric_titles import name_metrics
from wantui.tui.analysis.standing import MIN_COMPARED_VIDEOS, describe_standing


def test_standing_names_rank_and_extremes_as_counted_by_hand(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 2.0}, seeds=4, phrasings=1)
    for video in videos:
        text = describe_standing(video, videos, "length", 1000)
        lengths = sorted((each.compute_metric("length") for each in videos), reverse=True)
        rank = lengths.index(video.compute_metric("length")) + 1
        place = {1: "highest", 8: "lowest"}.get(rank, f"number {rank} from the top")
        first, *parts = text.split("; ")
        assert first == f"length: {place} of 8 videos, median {np.median(lengths):.4g}"
        for part in parts:
            side, _, names = part.partition(" ")
            for name in names.split(", "):
                metric = next(each for each in METRICS if name_metrics(each) == name)
                values = [each.compute_metric(metric) for each in videos]
                assert video.compute_metric(metric) == (max if side == "highest" else min)(values)
                assert values.count(video.compute_metric(metric)) == 1


@pytest.mark.parametrize("width", [20, 60, 100])
def test_standing_fits_the_width(tmp_path: Path, width: int) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 2.0}, seeds=4, phrasings=1)
    assert all(len(describe_standing(video, videos, "length", width)) <= width for video in videos)


def test_few_videos_have_no_standing(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=MIN_COMPARED_VIDEOS - 1, phrasings=1)
    assert describe_standing(videos[0], videos, "length", 1000) == ""
