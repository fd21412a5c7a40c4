"""Report of a comparison as one self-contained HTML page, including its plots."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from numpy.typing import NDArray

from wantui import __version__
from wantui.analysis.attention_overlay import compute_scale_maximum, draw_strip, find_clip_path
from wantui.analysis.attention_summary import average_finite_values, compute_word_curves
from wantui.analysis.calibrated_effect import describe_calibrated_scale, explain_effect
from wantui.analysis.comparability import VideoNamer
from wantui.analysis.comparison import Comparison
from wantui.analysis.report_answers import render_answer_section
from wantui.analysis.report_batches import render_picture_section, render_recipe_section
from wantui.analysis.report_curves import render_curve_section
from wantui.analysis.report_definitions import render_definition_section
from wantui.analysis.report_doses import render_dose_section
from wantui.analysis.report_effects import render_effect_section
from wantui.analysis.report_page import (
    MATPLOTLIB_SETTINGS,
    format_number_or_dash,
    render_note,
    render_page,
    render_table,
    render_verdict,
)
from wantui.analysis.report_provenance import ReportProvenance, build_equivalent_command, render_provenance_section
from wantui.analysis.report_relations import render_correlation_section, render_interaction_section
from wantui.analysis.report_states import render_state_section
from wantui.analysis.strides import (
    MAX_SETTLED_COMMITMENT_RATIO,
    MAX_SETTLED_RATIO,
    STRIDE_METRICS,
    STRIDE_MULTIPLES,
    check_metric_strides,
)
from wantui.analysis.unguided import describe_unguided
from wantui.analysis.verdicts import Verdict
from wantui.analysis.video import Video
from wantui.atomic_files import write_text_atomically
from wantui.errors import UserError
from wantui.formatting import capitalize_first, format_count, format_mean, format_share
from wantui.storage.attention_maps import open_attention_maps

MAX_ATTENTION_VIDEOS = 6


def write_report(report_path: Path, comparison: Comparison, provenance: ReportProvenance | None = None) -> None:
    """Write the report of a comparison.

    Args:
        provenance: what the report says about itself; None names an equivalent command.
    """
    with rc_context(MATPLOTLIB_SETTINGS):
        parts = _render_parts(comparison, provenance or ReportProvenance(build_equivalent_command(comparison)))
        write_text_atomically(report_path, render_page(_format_title(comparison), parts))


def _render_parts(comparison: Comparison, provenance: ReportProvenance) -> list[str]:
    return [
        f"<header><h1>{html.escape(_format_title(comparison))}</h1>",
        render_note(
            f"{format_count(len(comparison.seeds), 'seed')}, equal in all groups; {_describe_groups(comparison)}. "
            f"Trajectories are measured at stride {comparison.stride}. wantui {__version__}."
        ),
        "</header>",
        *render_answer_section(comparison),
        *_render_verdicts(comparison),
        *(render_dose_section(comparison.dose_response) if comparison.dose_response is not None else []),
        *render_picture_section(comparison.groups),
        *render_effect_section(comparison),
        *render_interaction_section(comparison),
        *render_curve_section(comparison),
        *(render_state_section(comparison) if comparison.dispersion_curves_by_group else []),
        *_render_metric_section(comparison),
        *_render_stride_section(comparison),
        *_render_attention_section(comparison.videos),
        *render_correlation_section(comparison),
        *render_definition_section(comparison),
        *render_recipe_section(comparison.videos),
        *render_provenance_section(comparison, provenance),
    ]


def _render_verdicts(comparison: Comparison) -> list[str]:
    declaration = comparison.declaration
    subject = comparison.primary_metric if declaration is None else declaration.text
    return [
        "<h2>Verdict on a single metric</h2>",
        f"<p>Verdict on {html.escape(subject)}. Tests permute within seeds.</p>",
        *(part for verdict in comparison.verdicts for part in _render_verdict(comparison, verdict)),
        *(render_note(f"{capitalize_first(text)}.") for text in [describe_calibrated_scale(comparison)] if text),
        *map(render_verdict, describe_unguided(comparison)),
        f"<p>{html.escape(_describe_tests(comparison))}</p>",
        *(render_note(f"Note: {warning}") for warning in comparison.warnings),
        *(render_note(f"Excluded: {name}: {why}") for name, why in comparison.exclusion_reasons),
    ]


def _render_verdict(comparison: Comparison, verdict: Verdict) -> list[str]:
    """Return the HTML of a verdict, with an explanation of its effect."""
    parts = [render_verdict(verdict.verdict_text, verdict.kind)]
    if explanation := explain_effect(comparison, verdict):
        parts.append(f"<p>{html.escape(capitalize_first(explanation))}.</p>")
    return parts


def _format_title(comparison: Comparison) -> str:
    names = sorted({video.folder.name for video in comparison.videos})
    return f"{', '.join(names)}: {' / '.join(group.name for group in comparison.groups)}"


def _describe_groups(comparison: Comparison) -> str:
    return ", ".join(
        f"{group.name}: {format_count(len(group.videos), 'video')} of {format_count(group.phrasing_count, 'phrasing')}"
        for group in comparison.groups
    )


def _describe_tests(comparison: Comparison) -> str:
    metric, p = comparison.primary_metric, comparison.omnibus_p
    sentences = [f"Test for any difference between the groups in {metric}: p {p:.3g}"]
    if chance_text := comparison.describe_chance():
        sentences.append(capitalize_first(chance_text))
    return ". ".join(sentences) + "."


def _render_metric_section(comparison: Comparison) -> list[str]:
    """Return the HTML table of each metric's mean in each group, with its null models."""
    group_names = [group.name for group in comparison.groups]
    rows = []
    for metric, by_group in comparison.summaries_by_metric.items():
        cells = [html.escape(comparison.groups[0].label_metric(metric))]
        for name in group_names:
            summary = by_group[name]
            null_values = (summary.random_walk_mean, summary.gaussian_flow_mean)
            null_text = "; ".join(map(format_number_or_dash, null_values)) if np.isfinite(null_values).any() else ""
            mean_text = format_mean(summary.mean, summary.standard_deviation, 4)
            cells.append(f"{mean_text} <span class=note>({null_text})</span>" if null_text else mean_text)
        rows.append(cells)
    return [
        "<h2>Metrics and null models</h2>",
        render_table(("metric", *group_names), rows),
        render_note(
            "Mean ± standard deviation over videos; in parentheses the same metric on a random walk with the same step "
            "lengths, and on the Gaussian flow to the group's final states."
        ),
        *(render_note(f"{name}: {null.description}.") for name, null in comparison.gaussian_nulls_by_group.items()),
    ]


def _render_stride_section(comparison: Comparison) -> list[str]:
    """Return the HTML of the metrics that depend on the steps, at several strides."""
    columns = [list(STRIDE_METRICS)]
    for group in comparison.groups:
        cells = []
        for stride_check in check_metric_strides(group.videos, STRIDE_METRICS):
            text = ", ".join(format_number_or_dash(value) for value in stride_check.means)
            cells.append(text if stride_check.is_settled else f"<b>{text}</b>")
        columns.append(cells)
    return [
        "<h2>Metrics that depend on the steps</h2>",
        render_table(("metric", *(group.name for group in comparison.groups)), list(zip(*columns, strict=True))),
        render_note(
            "Mean of each group, measured at strides "
            f"{', '.join(str(comparison.stride * m) for m in STRIDE_MULTIPLES)}. "
            f"Bold: a larger stride changes the mean by more than a factor of {MAX_SETTLED_RATIO} (commitment: "
            f"{MAX_SETTLED_COMMITMENT_RATIO}), or there are too "
            "few steps to tell. Bold values may reflect the sampler's steps or rounding instead of the path. This "
            "check uses the mean over all videos of a batch or cell, selected or not."
        ),
    ]


def _render_attention_section(videos: Sequence[Video]) -> list[str]:
    videos_with_maps = [video for video in videos if video.attention_path is not None][:MAX_ATTENTION_VIDEOS]
    if not videos_with_maps:
        return []
    section_parts, namer = ["<h2>Attention</h2>"], VideoNamer(videos)
    for video in videos_with_maps:
        assert video.attention_path is not None
        try:
            maps = open_attention_maps(video.attention_path, video.recipe)
            words = list(maps.metadata_by_word)
            scale_maximum = compute_scale_maximum(maps, words)
            clip_path = find_clip_path(video)
            for word in words:
                mean_mass = average_finite_values(compute_word_curves(maps, word).mass)
                word_text = maps.metadata_by_word[word]["text"]
                label = f"{namer.name_video(video)}, {word_text}: {format_share(mean_mass, 2)} of the attention"
                section_parts.append(render_note(f"{label}; colours from 0 to {scale_maximum:.2g}"))
                section_parts.append(_render_png(draw_strip(clip_path, maps, word, scale_maximum)))
        except UserError as error:
            section_parts.append(render_note(f"{namer.name_video(video)}: {error}"))
    return section_parts


def _render_png(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    png_buffer = io.BytesIO()
    Image.fromarray(picture).save(png_buffer, format="PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png_buffer.getvalue()).decode()}">'
