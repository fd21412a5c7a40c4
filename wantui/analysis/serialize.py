"""Serialisation of analysis results to JSON and CSV; missing values are null in JSON and empty in CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wantui.analysis.answer import Answer
from wantui.analysis.calibrated import describe_response
from wantui.analysis.calibrated_effect import explain_effect
from wantui.analysis.comparison import Comparison
from wantui.analysis.differences import Difference
from wantui.analysis.dispersion import PermutationTest
from wantui.analysis.dose_response import DoseResponse, Trend
from wantui.analysis.group import Group, GroupSummary
from wantui.analysis.groups import summarise_group_metric
from wantui.analysis.metrics import CURVES, METRICS, get_ratio_origin
from wantui.analysis.null_models import GaussianNull, compute_random_walk_null
from wantui.analysis.statistics import Effect
from wantui.analysis.strides import check_metric_strides
from wantui.analysis.verdicts import Verdict
from wantui.analysis.video import Video
from wantui.atomic_files import atomic_write
from wantui.json_values import to_json_values

INTERVAL_METHOD = "t"
"""Method that computes an effect's interval: Student's t."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Characters that start a formula in spreadsheets (OWASP), with their full-width forms."""
_NUMBER_PATTERN = re.compile(r"[+-]?(\d+(?:\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def build_video_record(
    video: Video, metrics: Sequence[str], gaussian_null: GaussianNull | None = None, with_curves: bool = False
) -> dict[str, Any]:
    """Return the JSON record of one video: identity, metrics with null models, strides and, on request, curves.

    Args:
        gaussian_null: Gaussian flow to the final states of the videos with its batch, prompt and weights.
    """
    record: dict[str, Any] = {
        "batch": str(video.folder),
        "id": video.id,
        "variation": video.variation,
        "prompt": video.prompt,
        "seed": video.seed,
        "cell": video.cell_label,
        "stride": video.stride,
    }
    trajectory = video.trajectory
    if trajectory is None:
        return record | {"reason": video.exclusion_reason}
    random_walk = compute_random_walk_null(trajectory)
    flow_trajectories = gaussian_null.trajectories if gaussian_null is not None else ()
    record["metrics"] = {
        name: {
            "value": video.compute_metric(name),
            "random_walk": video.compute_path_metric(random_walk, name),
            "gaussian_flow": float(np.mean([video.compute_path_metric(path, name) for path in flow_trajectories]))
            if flow_trajectories
            else None,
            "stride": video.get_stride(name),
        }
        for name in metrics
    }
    record["gaussian_flow"] = None if gaussian_null is None else _build_null_record(gaussian_null)
    record["strides"] = _build_stride_records([video], metrics)
    if with_curves:
        curves_by_name = {name: curve(trajectory) for name, curve in CURVES.items()}
        record["curves"] = {name: {"sigma": sigma, "value": values} for name, (sigma, values) in curves_by_name.items()}
        record["spectrum"] = trajectory.principal_variances
    return to_json_values(record)


def _build_null_record(gaussian_null: GaussianNull) -> dict[str, Any]:
    return {
        "videos": gaussian_null.video_count,
        "sampler": gaussian_null.sampler_name or None,
        "description": gaussian_null.description,
    }


def _build_stride_records(videos: Sequence[Video], metrics: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of STRIDE_METRICS at each stride, and whether they have settled."""
    return {
        stride_check.metric: {
            "values": dict(zip(stride_check.strides, stride_check.means, strict=True)),
            "settled_at": stride_check.settled_stride,
            "is_checked": stride_check.is_checked,
        }
        for stride_check in check_metric_strides(videos, metrics)
    }


def build_group_record(group: Group, metrics: Sequence[str], gaussian_null: GaussianNull) -> dict[str, Any]:
    """Return the JSON record of one group: summaries of its metrics with null models, and strides."""
    return to_json_values(
        {
            "group": group.name,
            "stride": group.stride,
            "metrics": {
                name: _build_summary_record(summarise_group_metric(group, name, gaussian_null)) for name in metrics
            },
            "gaussian_flow": _build_null_record(gaussian_null),
            "strides": _build_stride_records(group.videos, metrics),
        }
    )


def _build_summary_record(summary: GroupSummary) -> dict[str, Any]:
    return {
        "n": summary.video_count,
        "mean": summary.mean,
        "deviation": summary.standard_deviation,
        "random_walk": summary.random_walk_mean,
        "gaussian_flow": summary.gaussian_flow_mean,
        "gaussian_flow_deviation": summary.gaussian_flow_standard_deviation,
        "stride": summary.stride,
    }


def _build_verdict_record(comparison: Comparison, verdict: Verdict) -> dict[str, Any]:
    return {
        "first": verdict.first_group,
        "second": verdict.second_group,
        "kind": verdict.kind,
        "p": verdict.p,
        "text": verdict.verdict_text,
        "metric": verdict.metric,
        "explanation": explain_effect(comparison, verdict) or None,
    }


def build_answer_record(answer: Answer) -> dict[str, Any]:
    """Return the JSON record of an answer to place, room or path."""
    return {
        "question": answer.question,
        "first": answer.first_group or None,
        "second": answer.second_group or None,
        "kind": answer.kind,
        "verdict": answer.verdict,
        "details": answer.details,
        "notes": answer.notes,
        "p_by_metric": answer.p_by_metric,
        "any_difference_p": answer.any_difference_p,
        "least_p": answer.min_attainable_p,
        "correction": answer.correction or None,
        "evidence": [
            {
                "metric": item.metric,
                "family": item.family or None,
                "kind": item.kind,
                "effect": item.effect,
                "low": item.low,
                "high": item.high,
                "is_share": item.is_relative,
                "share_origin": get_ratio_origin(item.metric) if item.is_relative else None,
                "unit": item.unit or None,
                "p": item.p,
                "uncorrected_p": item.uncorrected_p,
            }
            for item in answer.evidence
        ],
    }


def _build_difference_record(difference: Difference) -> dict[str, Any]:
    return {
        "metric": difference.metric,
        "first": difference.first_group,
        "second": difference.second_group,
        "effect": _build_effect_record(difference.paired_effect),
        "share": difference.relative_difference,
        "share_origin": get_ratio_origin(difference.metric),
        "low": difference.relative_low,
        "high": difference.relative_high,
        "family_p": difference.family_p,
        "discovery_p": difference.discovery_p,
        "needed": difference.seeds_needed,
        "phrasings": difference.phrasing_count,
        "phrasing_p": difference.phrasing_p,
    }


def _build_effect_record(effect: Effect) -> dict[str, Any]:
    return {
        "n": effect.pair_count,
        "mean": effect.mean,
        "low": effect.interval_low,
        "high": effect.interval_high,
        "size": effect.d_z,
        "p": effect.p,
        "method": INTERVAL_METHOD,
    }


def _build_test_record(test: PermutationTest) -> dict[str, Any]:
    return {"f": test.pseudo_f, "p": test.p_value}


def build_comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return the JSON record of a comparison."""
    record = {
        "by": comparison.grouping,
        "primary": comparison.primary_metric,
        "declaration": None
        if comparison.declaration is None
        else {"kind": comparison.declaration.kind, "text": comparison.declaration.text},
        "stride": comparison.stride,
        "seeds": comparison.seeds,
        "groups": [
            {"name": group.name, "videos": len(group.videos), "phrasings": group.phrasing_count}
            for group in comparison.groups
        ],
        "answers": [build_answer_record(answer) for answer in comparison.answers],
        "calibration": {name: describe_response(name) for name in comparison.summaries_by_metric},
        "verdicts": [_build_verdict_record(comparison, verdict) for verdict in comparison.verdicts],
        "omnibus_p": comparison.omnibus_p,
        "permanova": None if comparison.location_test is None else _build_test_record(comparison.location_test),
        "permdisp": None if comparison.spread_test is None else _build_test_record(comparison.spread_test),
        "centroid_distances": [
            {"first": first, "second": second, "squared": value}
            for (first, second), value in comparison.squared_centroid_distances_by_pair.items()
        ],
        "null_band": comparison.chance_interval,
        "null_rate": comparison.false_positive_rate,
        "metrics": {
            name: {group: _build_summary_record(summary) for group, summary in by_group.items()}
            for name, by_group in comparison.summaries_by_metric.items()
        },
        "gaussian_flow": {name: _build_null_record(null) for name, null in comparison.gaussian_nulls_by_group.items()},
        "strides": {group.name: _build_stride_records(group.videos, list(METRICS)) for group in comparison.groups},
        "dose_response": _build_dose_response_record(comparison.dose_response),
        "unguided": None if comparison.unguided is None else build_comparison_record(comparison.unguided),
        "differences": [_build_difference_record(difference) for difference in comparison.differences],
        "dispersion": {
            name: {"sigma": curve.sigmas, "value": curve.dispersion}
            for name, curve in comparison.dispersion_curves_by_group.items()
        },
        "sigmas": comparison.sigmas_by_group,
        "warnings": comparison.warnings,
        "excluded": [{"video": name, "reason": reason} for name, reason in comparison.exclusion_reasons],
    }
    return to_json_values(record)


def _build_dose_response_record(dose_response: DoseResponse | None) -> dict[str, Any] | None:
    if dose_response is None:
        return None
    return {
        "setting": dose_response.doses.setting_name,
        "values": dose_response.doses.values,
        "groups": dose_response.group_names,
        "kind": dose_response.verdict_kind,
        "text": dose_response.verdict_text,
        "trends": {trend.metric: _build_trend_record(trend) for trend in dose_response.trends},
    }


def _build_trend_record(trend: Trend) -> dict[str, Any]:
    return {
        "slope": _build_effect_record(trend.slope),
        "permutation_p": trend.permutation_p,
        "share": trend.relative_slope,
        "share_origin": get_ratio_origin(trend.metric),
        "low": trend.relative_low,
        "high": trend.relative_high,
        "family_p": trend.family_p,
        "discovery_p": trend.discovery_p,
        "phrasings": trend.phrasing_count,
        "phrasing_p": trend.phrasing_p,
        "mean": trend.means,
        "mean_low": trend.means - trend.half_widths,
        "mean_high": trend.means + trend.half_widths,
    }


def build_video_rows(videos: Sequence[Video], metrics: Sequence[str]) -> list[list[str]]:
    """Return the header and rows of a video table."""
    rows = [["batch", "id", "variation", "prompt", "seed", *metrics, "reason", "stride", "cell", "metric_strides"]]
    for video in videos:
        metric_cells = [_format_csv_number(video.compute_metric(name)) for name in metrics]
        identity_cells = [str(video.folder), video.id, video.variation, video.prompt, str(video.seed)]
        strides_text = ";".join(f"{name}={stride}" for name, stride in video.stride_by_metric.items())
        last_cells = [video.exclusion_reason, str(video.stride), video.cell_label, strides_text]
        rows.append([*identity_cells, *metric_cells, *last_cells])
    return rows


def build_difference_rows(comparison: Comparison) -> list[list[str]]:
    """Return the header and rows of a table of differences."""
    header = ["metric", "first", "second", "n", "mean", "low", "high", "method", "d_z", "p", "family_p", "discovery_p"]
    rows = [[*header, "phrasings", "phrasing_p", "stride"]]
    for d in comparison.differences:
        effect = d.paired_effect
        interval_cells = map(_format_csv_number, (effect.mean, effect.interval_low, effect.interval_high))
        effect_numbers = (effect.d_z, effect.p, d.family_p, d.discovery_p)
        stride = comparison.groups[0].videos[0].get_stride(d.metric)
        last_cells = [str(d.phrasing_count), _format_csv_number(d.phrasing_p), str(stride)]
        rows.append(
            [
                d.metric,
                d.first_group,
                d.second_group,
                str(effect.pair_count),
                *interval_cells,
                INTERVAL_METHOD,
                *map(_format_csv_number, effect_numbers),
                *last_cells,
            ]
        )
    return rows


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a table as CSV with CRLF line ends; an existing file stays unchanged if the new one cannot be written.

    The new file gets the permissions of the earlier one. A symbolic link is kept; the file that it names is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    text = format_csv(rows, "\r\n")
    if path.exists() and not path.is_file():  # a pipe or device
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write(text)
        return
    target = path.resolve()
    with atomic_write(target) as partial_path, partial_path.open("w", newline="", encoding="utf-8") as file:
        file.write(text)


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
    return cell if _NUMBER_PATTERN.fullmatch(cell) else f"'{cell}"


def _format_csv_number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""
