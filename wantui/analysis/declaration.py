"""The declared metric: which metric decides, and whether it was declared before the videos were generated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wantui.analysis.advice import Advice, AdviceKind, AdvisedText
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.video import Video
from wantui.formatting import format_count

CALIBRATED_METRIC = "log_volume"
"""Metric that decides by default: of the metrics that every trajectory has, it responds most to frequency."""
BEFORE, PARTLY_BEFORE, AFTER, DEFAULT = "before", "partly before", "after", "default"


@dataclass(frozen=True)
class Declaration:
    """The metric that decides the verdict."""

    metric: str
    kind: str
    """before (declared in the config of every batch, before the videos were generated), partly before (declared in the
    config of only some batches), after (named in the command), or default (not declared: `_choose_default_metric`)."""
    text: str
    """Which metric was declared and when, such as "log_volume, declared before the videos were generated"."""


def _choose_default_metric(videos: Sequence[Video]) -> str:
    """Return the calibrated metric, or `spread` if a video lacks it (too few states, or a path in a plane)."""
    measured_videos = [video for video in videos if video.trajectory is not None]
    has_all = all(math.isfinite(video.compute_metric(CALIBRATED_METRIC)) for video in measured_videos)
    return CALIBRATED_METRIC if measured_videos and has_all else SPREAD_METRIC


def choose_primary_metric(videos: Sequence[Video], requested_metric: str | None = None) -> Declaration:
    """Return the requested metric, or else the metric that the batches declared when they were queued.

    Raises:
        CannotCompareError: no metric is requested, and the batches declared different metrics.
    """
    declared_by_folder = {video.folder: video.declared_metric for video in videos}
    declared = sorted({metric for metric in declared_by_folder.values() if metric})
    declared_count = sum(map(bool, declared_by_folder.values()))
    batches_text = format_count(len(declared_by_folder), "batch", "batches")
    scope = f" of {declared_count} of {batches_text}" if declared_count < len(declared_by_folder) else ""
    if requested_metric is None and len(declared) > 1:
        reason = f"cannot choose the metric: the batches declare {' and '.join(declared)}"
        raise CannotCompareError(AdvisedText(reason, Advice(AdviceKind.CHOOSE_PRIMARY_METRIC)))
    if declared and requested_metric in (None, declared[0]) and len(declared) == 1:
        kind = PARTLY_BEFORE if scope else BEFORE
        return Declaration(declared[0], kind, f"{declared[0]}, declared before the videos{scope} were generated")
    if requested_metric is None:
        default_metric = _choose_default_metric(videos)
        reason = (
            "the default"
            if default_metric == CALIBRATED_METRIC
            else f"because not every video has a {CALIBRATED_METRIC}"
        )
        return Declaration(
            default_metric,
            DEFAULT,
            f"{default_metric}, {reason}; no metric was declared before the videos were generated",
        )
    verb = "was" if len(declared) == 1 else "were"
    earlier_text = (
        f"; {' and '.join(declared)} {verb} declared before the videos{scope} were generated" if declared else ""
    )
    text = f"{requested_metric}, declared with this command, after the videos were generated{earlier_text}"
    return Declaration(requested_metric, AFTER, text)
