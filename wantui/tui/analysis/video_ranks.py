"""Rank of one video among others in a metric, and the metrics in which it is the highest or the lowest."""

import math
from collections.abc import Sequence
from statistics import median

from wantui.analysis.metrics import METRICS
from wantui.analysis.video import Video
from wantui.formatting import format_count
from wantui.tui.plain_names import replace_names

MIN_COMPARED_VIDEOS, MAX_COMPARED_VIDEOS = 4, 1000
"""Least number of videos among which one can stand out, and largest number that is compared while the cursor moves."""
MAX_NAMED_EXTREMES = 6
"""Maximum number of metrics that are named as highest or lowest."""


def describe_ranks(video: Video, videos: Sequence[Video], metric: str, width: int) -> str:
    """Return the rank of a video in a metric among all videos, and the metrics in which it is the highest or lowest.

    Metrics that depend on the steps of the sampler are left out. Metrics that are not named are counted.

    Args:
        metric: metric whose rank comes first.
        width: maximum number of characters; the metrics that stand out least are left out first.
    """
    if not MIN_COMPARED_VIDEOS <= len(videos) <= MAX_COMPARED_VIDEOS or video.trajectory is None:
        return ""
    rank_text = "" if metric in video.unsettled_metrics else _describe_rank(video, videos, metric)
    extremes = [
        (share, name, side)
        for name in METRICS
        if name != metric and name not in video.unsettled_metrics
        for share, side in [_find_extreme(video, videos, name)]
        if side
    ]
    extremes.sort(reverse=True)
    for count in range(min(len(extremes), MAX_NAMED_EXTREMES), 0, -1):
        extremes_text = f"this video is {' and '.join(_list_extremes(extremes[:count]))}"
        if hidden_count := len(extremes) - count:
            extremes_text += f"; highest or lowest in {hidden_count} more"
        text = "; ".join(filter(None, [rank_text, extremes_text]))
        if len(text) <= width:
            return text
    return rank_text if len(rank_text) <= width else ""


def _describe_rank(video: Video, videos: Sequence[Video], metric: str) -> str:
    """Return the rank of a video in a metric, with the number of videos that share it, and the median."""
    values = [value for each in videos if math.isfinite(value := each.compute_metric(metric))]
    value = video.compute_metric(metric)
    if not math.isfinite(value) or len(values) < MIN_COMPARED_VIDEOS:
        return ""
    name, count = replace_names(metric), len(values)
    lowest, highest = min(values), max(values)
    if lowest == highest:
        return f"{name} is equal in all {count} videos"
    rank = 1 + sum(other > value for other in values)
    videos_text = f"of {count} videos"
    rank_text = {highest: f"the highest {videos_text}", lowest: f"the lowest {videos_text}"}.get(
        value, f"number {rank} {videos_text} from the top"
    )
    tied_count = values.count(value) - 1
    tie_text = f" (tied with {format_count(tied_count, 'other')})" if tied_count else ""
    return f"{name} is {rank_text}{tie_text}; the median is {median(values):.4g}"


def _find_extreme(video: Video, videos: Sequence[Video], metric: str) -> tuple[float, str]:
    """Return how far a value is from the median, and "highest" or "lowest".

    The distance is in median absolute deviations. The text is empty for a value that is neither.
    """
    value = video.compute_metric(metric)
    values = [each.compute_metric(metric) for each in videos]
    others = [other for each, other in zip(videos, values, strict=True) if each is not video and math.isfinite(other)]
    if not math.isfinite(value) or len(others) + 1 < MIN_COMPARED_VIDEOS:
        return 0.0, ""
    side = "highest" if value > max(others) else "lowest" if value < min(others) else ""
    centre = median([value, *others])
    deviation = median([abs(other - centre) for other in [value, *others]])
    return (abs(value - centre) / deviation if deviation else math.inf), side


def _list_extremes(extremes: Sequence[tuple[float, str, str]]) -> list[str]:
    """Return the named metrics by side, such as "lowest in detour, turning"."""
    sides = dict.fromkeys(side for _, _, side in extremes)
    return [
        f"{side} in {', '.join(replace_names(name) for _, name, each in extremes if each == side)}" for side in sides
    ]
