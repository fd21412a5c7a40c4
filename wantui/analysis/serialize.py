"""Serialisation of analysis results to JSON and CSV; missing values are null in JSON and empty in CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wantui.analysis.compare import Comparison
from wantui.analysis.groups import Group, summarise_group
from wantui.analysis.null_models import GaussianNull, compute_random_walk_null
from wantui.analysis.strides import STRIDE_METRICS, measure_strides
from wantui.analysis.trajectory import CURVES, METRICS, Trajectory, compute_metric
from wantui.analysis.video import Video

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Characters that start a formula in spreadsheets (OWASP), with their full-width forms."""
_NUMBER = re.compile(r"[+-]?(\d+(?:\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def build_video_record(
    video: Video, metrics: Sequence[str], null: GaussianNull | None = None, curves: bool = False
) -> dict[str, Any]:
    """Return the JSON record of one video: identity, metrics with null models, strides and, on request, curves.

    Args:
        null: Gaussian flow to the final states of the videos with its batch, prompt and weights.
    """
    record: dict[str, Any] = {
        "batch": str(video.folder),
        "id": video.id,
        "variation": video.variation,
        "prompt": video.prompt,
        "seed": video.seed,
        "stride": video.stride,
    }
    trajectory = video.trajectory
    if trajectory is None:
        return record | {"reason": video.reason}
    walk, flow = compute_random_walk_null(trajectory), null.paths if null is not None else ()
    record["metrics"] = {
        name: {
            "value": compute_metric(trajectory, name),
            "random_walk": compute_metric(walk, name),
            "gaussian_flow": float(np.mean([compute_metric(path, name) for path in flow])) if flow else None,
        }
        for name in metrics
    }
    record["gaussian_flow"] = None if null is None else _build_null_record(null)
    record["strides"] = _build_stride_records([trajectory], metrics, video.stride)
    if curves:
        drawn = {name: curve(trajectory) for name, curve in CURVES.items()}
        record["curves"] = {name: {"sigma": sigma, "value": values} for name, (sigma, values) in drawn.items()}
        record["spectrum"] = trajectory.spectrum
    return to_json_values(record)


def _build_null_record(null: GaussianNull) -> dict[str, Any]:
    return {"videos": null.count, "sampler": null.sampler or None, "description": null.description}


def _build_stride_records(paths: Sequence[Trajectory], metrics: Sequence[str], stride: int) -> dict[str, Any]:
    """Return the metrics of STRIDE_METRICS at each stride, and whether they have settled."""
    checked = [measure_strides(paths, name, stride) for name in metrics if name in STRIDE_METRICS]
    return {
        measured.metric: {
            "values": dict(zip(measured.strides, measured.values, strict=True)),
            "settled_at": measured.settled_stride,
            "is_checked": measured.is_checked,
        }
        for measured in checked
    }


def build_group_record(group: Group, metrics: Sequence[str], null: GaussianNull) -> dict[str, Any]:
    """Return the JSON record of one group: summaries of its metrics with null models, and strides."""
    paths = [video.trajectory for video in group.videos if video.trajectory is not None]
    return to_json_values(
        {
            "group": group.name,
            "stride": group.stride,
            "metrics": {name: asdict(summarise_group(group, name, null)) for name in metrics},
            "gaussian_flow": _build_null_record(null),
            "strides": _build_stride_records(paths, metrics, group.stride) if paths else {},
        }
    )


def build_comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return the JSON record of a comparison."""
    record = {
        "by": comparison.grouping,
        "primary": comparison.primary_metric,
        "stride": comparison.stride,
        "seeds": comparison.seeds,
        "groups": [
            {"name": group.name, "videos": len(group.videos), "phrasings": group.phrasings}
            for group in comparison.groups
        ],
        "verdicts": [asdict(verdict) for verdict in comparison.verdicts],
        "omnibus_p": comparison.omnibus_p,
        "permanova": None if comparison.location_test is None else asdict(comparison.location_test),
        "permdisp": None if comparison.spread_test is None else asdict(comparison.spread_test),
        "centroid_distances": [
            {"first": first, "second": second, "squared": value}
            for (first, second), value in comparison.centroid_distances.items()
        ],
        "null_band": comparison.null_band,
        "null_rate": comparison.null_rate,
        "metrics": {
            name: {group: asdict(d) for group, d in by_group.items()} for name, by_group in comparison.summaries.items()
        },
        "gaussian_flow": {name: _build_null_record(null) for name, null in comparison.gaussian_nulls.items()},
        "strides": {
            group.name: _build_stride_records(
                [video.trajectory for video in group.videos if video.trajectory], list(METRICS), comparison.stride
            )
            for group in comparison.groups
        },
        "differences": [asdict(difference) for difference in comparison.differences],
        "dispersion": {
            name: {"sigma": curve.sigmas, "value": curve.values} for name, curve in comparison.dispersion_curves.items()
        },
        "sigmas": comparison.sigmas,
        "warnings": comparison.warnings,
        "excluded": [{"video": name, "reason": reason} for name, reason in comparison.excluded_videos],
    }
    return to_json_values(record)


def build_video_rows(videos: Sequence[Video], metrics: Sequence[str]) -> list[list[str]]:
    """Return the header and rows of a table of videos."""
    rows = [["batch", "id", "variation", "prompt", "seed", *metrics, "reason", "stride"]]
    for video in videos:
        values = [_format_number(video.compute_metric(name)) for name in metrics]
        about = [str(video.folder), video.id, video.variation, video.prompt, str(video.seed)]
        rows.append([*about, *values, video.reason, str(video.stride)])
    return rows


def build_difference_rows(comparison: Comparison) -> list[list[str]]:
    """Return the header and rows of a table of differences."""
    head = ["metric", "first", "second", "n", "mean", "low", "high", "method", "d_z", "p", "family_p", "discovery_p"]
    rows = [[*head, "phrasings", "phrasing_p", "stride"]]
    for d in comparison.differences:
        e = d.effect
        interval, numbers = map(_format_number, (e.mean, e.low, e.high)), (e.size, e.p, d.family_p, d.discovery_p)
        last = [str(d.phrasings), _format_number(d.phrasing_p), str(comparison.stride)]
        rows.append([d.metric, d.first, d.second, str(e.n), *interval, e.method, *map(_format_number, numbers), *last])
    return rows


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a table as CSV with CRLF line ends.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(format_csv(rows, "\r\n"))


def format_csv(rows: Sequence[Sequence[str]], line_end: str = "\n") -> str:
    """Format a table as CSV, with cells that spreadsheets would evaluate as formulas escaped."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_end).writerows([_escape_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _escape_formula(cell: str) -> str:
    """Prefix text that starts like a formula with an apostrophe, so that spreadsheets do not evaluate it.

    Prompts and ids are untrusted: `=cmd|'/C calc'!A0` would run a program on the machine of the reader.
    """
    if not cell.startswith(FORMULA_STARTS):
        return cell
    return cell if _NUMBER.fullmatch(cell) else f"'{cell}"


def _format_number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def to_json_values(value: Any) -> Any:
    """Convert a value to JSON types; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_json_values(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json_values(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
