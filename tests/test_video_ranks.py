"""The rank and the extremes of one video among others, against counts by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_videos import synthetic_videos

from wantui.analysis.metrics import METRICS
from wantui.analysis.video import Video
from wantui.tui.analysis.video_ranks import MAX_NAMED_EXTREMES, MIN_COMPARED_VIDEOS, describe_ranks
from wantui.tui.plain_names import replace_names


def count_extremes(video: Video, videos: list[Video], names: set[str]) -> list[tuple[float, str, str]]:
    """Return distance from the median in median absolute deviations, side and metric, the largest distance first."""
    extremes = []
    for name in names:
        values = np.array([each.compute_metric(name) for each in videos])
        value = video.compute_metric(name)
        if not np.isfinite(values).all() or (values == value).sum() > 1 or value not in (values.min(), values.max()):
            continue
        distance = abs(value - np.median(values)) / np.median(abs(values - np.median(values)))
        extremes.append((distance, "highest" if value == values.max() else "lowest", name))
    return sorted(extremes, reverse=True)


def list_named_extremes(text: str) -> list[tuple[str, str]]:
    """Return the sides and metrics that a text names, by side in the order of the text."""
    titles = {replace_names(name): name for name in METRICS}
    return [
        (side, titles[title])
        for part in text.rpartition("this video is ")[2].partition("; ")[0].split(" and ")
        if (side := part.partition(" ")[0]) in ("highest", "lowest")
        for title in part.partition(" in ")[2].split(", ")
    ]


def test_rank_text_names_rank_and_extremes_in_order(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 2.0}, seeds=4, phrasings=1)
    for video in videos:
        text = describe_ranks(video, videos, "length", 1000)
        lengths = sorted((each.compute_metric("length") for each in videos), reverse=True)
        rank = lengths.index(video.compute_metric("length")) + 1
        rank_text = {1: "the highest of 8 videos", 8: "the lowest of 8 videos"}.get(
            rank, f"number {rank} of 8 videos from the top"
        )
        assert text.startswith(f"length is {rank_text}; the median is {np.median(lengths):.4g}")
        extremes = count_extremes(video, videos, set(METRICS) - {"length"})
        expected, hidden_count = extremes[:MAX_NAMED_EXTREMES], len(extremes) - MAX_NAMED_EXTREMES
        assert ("more" in text) == (hidden_count > 0)
        assert hidden_count <= 0 or text.endswith(f"; highest or lowest in {hidden_count} more")
        for side in ("highest", "lowest"):
            assert [name for each, name in list_named_extremes(text) if each == side] == [
                name for _, each, name in expected if each == side
            ]


def test_ranks_exclude_unsettled_metrics(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 2.0}, seeds=4, phrasings=1)
    named = {name for video in videos for _, name in list_named_extremes(describe_ranks(video, videos, "length", 999))}
    assert len(named) > 1
    unsettled = ("length", min(named))
    marked = [replace(video, unsettled_metrics=unsettled) for video in videos]
    texts = [describe_ranks(video, marked, "length", 1000) for video in marked]
    assert any(texts)
    assert not any("length is" in text for text in texts)
    assert all(name not in unsettled for text in texts for _, name in list_named_extremes(text))


@pytest.mark.parametrize(
    ("values", "index", "expected"),
    [
        ([1, 1, 1, 5], 0, "score is the lowest of 4 videos (tied with 2 others); the median is 1"),
        ([1, 1, 1, 5], 3, "score is the highest of 4 videos; the median is 1"),
        ([5, 5, 2, 1], 1, "score is the highest of 4 videos (tied with 1 other); the median is 3.5"),
        ([9, 5, 5, 1], 1, "score is number 2 of 4 videos from the top (tied with 1 other); the median is 5"),
        ([9, 5, 4, 1], 2, "score is number 3 of 4 videos from the top; the median is 4.5"),
        ([3, 3, 3, 3], 2, "score is equal in all 4 videos"),
        ([3, 3, 3, math.nan], 2, ""),
    ],
)
def test_ties_are_named(tmp_path: Path, values: list[float], index: int, expected: str) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=4, phrasings=1)
    labelled = [replace(video, labels={"score": value}) for video, value in zip(videos, values, strict=True)]
    text = describe_ranks(labelled[index], labelled, "score", 1000)
    assert "; ".join(part for part in text.split("; ") if "this video" not in part and "more" not in part) == expected


@pytest.mark.parametrize("width", [20, 60, 100])
def test_rank_text_fits_the_width(tmp_path: Path, width: int) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 2.0}, seeds=4, phrasings=1)
    assert all(len(describe_ranks(video, videos, "length", width)) <= width for video in videos)


def test_ranks_need_a_minimum_number_of_videos(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=MIN_COMPARED_VIDEOS - 1, phrasings=1)
    assert describe_ranks(videos[0], videos, "length", 1000) == ""
