"""Report of a comparison as one self-contained HTML page, including its plots."""

import base64
import html
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wantui import __version__
from wantui.analysis.attention_overlay import compute_scale_maximum, draw_strip, find_clip_path
from wantui.analysis.attention_summary import average_finite_values, compute_word_curves
from wantui.analysis.comparability import VideoNamer
from wantui.analysis.compare import Comparison
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.metrics import CURVES
from wantui.analysis.null_models import compute_random_walk_null
from wantui.analysis.report_batches import render_picture_section, render_recipe_section
from wantui.analysis.report_doses import render_dose_section
from wantui.analysis.statistics import RANDOM_SEED
from wantui.analysis.strides import MAX_SETTLED_RATIO, STRIDE_METRICS, STRIDE_MULTIPLES, measure_strides
from wantui.analysis.unguided import describe_unguided, find_unguided_difference
from wantui.analysis.video import Video
from wantui.atomic_files import write_text_atomically
from wantui.errors import UserError
from wantui.formatting import format_count, format_mean
from wantui.storage.attention_maps import open_attention_maps

GROUP_COLOURS = ("#2a6f97", "#c1551f", "#4f7942", "#7b4b94", "#a8802c", "#9c3848", "#4a8c8c", "#5c5c5c")
SHOWN_CURVES = ("norm", "velocity", "turning", "clean_distance")
MAX_ATTENTION_VIDEOS = 6
MAX_FIGURE_LABEL_LENGTH = 40
"""Maximum length of a group name in a figure, in characters; tables show the complete name."""
MATPLOTLIB_SETTINGS = {"text.parse_math": False, "svg.fonttype": "none"}
"""matplotlib settings: group names with $ are not parsed as formulas, and labels stay text in the SVG."""
PAGE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .85rem; } th, td { padding: .2rem .7rem .2rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 1px solid #999; }
.verdict { padding: .5rem .8rem; border-left: 4px solid #999; background: #f5f5f3; margin: .4rem 0; }
.differs { border-color: #c1551f; } .alike { border-color: #4f7942; }
.note { color: #666; font-size: .85rem; } svg, img { max-width: 100%; height: auto; }
"""


def write_report(report_path: Path, comparison: Comparison) -> None:
    """Write the report of a comparison."""
    with rc_context(MATPLOTLIB_SETTINGS):
        _write_report_page(report_path, comparison)


def _write_report_page(report_path: Path, comparison: Comparison) -> None:
    page_parts = [
        f"<h1>{html.escape(_format_title(comparison))}</h1>",
        _render_note(
            f"{format_count(len(comparison.seeds), 'seed')}, equal in all groups; {_describe_groups(comparison)}. "
            f"Trajectories are measured at stride {comparison.stride}. wantui {__version__}."
        ),
        "<h2>Verdicts</h2>",
        f"<p>Declared metric: <b>{comparison.primary_metric}</b>. Tests permute within seeds.</p>",
        *(f'<p class="verdict {v.kind.split()[0]}">{html.escape(v.verdict_text)}</p>' for v in comparison.verdicts),
        *(f'<p class="verdict">{html.escape(text)}</p>' for text in describe_unguided(comparison)),
        f"<p>{html.escape(_describe_tests(comparison))}</p>",
        *(_render_note(f"Note: {warning}") for warning in comparison.warnings),
        *(_render_note(f"Excluded: {name}: {why}") for name, why in comparison.exclusion_reasons),
        *(render_dose_section(comparison.dose_response, _render_svg) if comparison.dose_response is not None else []),
        *render_picture_section(comparison.groups),
        "<h2>Effects</h2>",
        _render_svg(_draw_effects(comparison)),
        _render_note(
            "Differences relative to the second group's mean, with 95 % intervals. Filled markers: p at most 0.05 over "
            "all metrics and pairs (max-T). Squares: the same prompts and seeds at guidance 1, if there are any."
        ),
        "<h2>Metrics and null models</h2>",
        _render_metrics_table(comparison),
        _render_note(
            "Mean ± standard deviation over videos; in parentheses the same metric on a random walk with the same step "
            "lengths, and on the Gaussian flow to the group's final states."
        ),
        *(_render_note(f"{name}: {null.description}.") for name, null in comparison.gaussian_nulls_by_group.items()),
        "<h2>Metrics that depend on the steps</h2>",
        _render_strides_table(comparison),
        _render_note(
            "Mean of each group, measured at strides "
            f"{', '.join(str(comparison.stride * m) for m in STRIDE_MULTIPLES)}. "
            f"Bold: a larger stride changes the value by more than a factor of {MAX_SETTLED_RATIO}, so it "
            "mostly reflects the "
            "sampler's steps or rounding, not the path; or there are too few steps to tell."
        ),
        "<h2>Curves</h2>",
        _render_svg(_draw_curves(comparison)),
        _render_note(
            "Mean and central 90 % of the videos of each group, over the noise level. Grey: central 95 % of the "
            "difference between two groups exchanged at random within seeds, around the mean of all videos. Dashed: a "
            "random walk with the same step lengths."
        ),
    ]
    if comparison.dispersion_curves_by_group:
        page_parts += ["<h2>Dispersion of each group</h2>", _render_svg(draw_dispersion(comparison))]
        page_parts += ["<h2>Paths</h2>", _render_svg(_draw_projected_paths(comparison))]
        page_parts.append(
            _render_note(
                "All states, projected to the first two principal axes of the final states. Dots are final states."
            )
        )
    compared_videos = [video for group in comparison.groups for video in group.videos]
    page_parts += _render_attention_section(compared_videos)
    page_parts += render_recipe_section(compared_videos)
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(_format_title(comparison))}</title>"
    write_text_atomically(report_path, page + f"<style>{PAGE_STYLE}</style>" + "\n".join(page_parts) + "</html>\n")


def _render_note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _format_title(comparison: Comparison) -> str:
    names = sorted({video.folder.name for group in comparison.groups for video in group.videos})
    return f"{', '.join(names)}: {' / '.join(group.name for group in comparison.groups)}"


def _describe_groups(comparison: Comparison) -> str:
    return ", ".join(
        f"{group.name}: {format_count(len(group.videos), 'video')} of {format_count(group.phrasing_count, 'phrasing')}"
        for group in comparison.groups
    )


def _describe_tests(comparison: Comparison) -> str:
    sentences = [f"Any group differs in {comparison.primary_metric}: p {comparison.omnibus_p:.3g}"]
    if comparison.spread_test is not None:
        sentences.append(
            f"Spread of the final states (PERMDISP): F {comparison.spread_test.pseudo_f:.3g}, p "
            f"{comparison.spread_test.p_value:.3g}"
        )
    sentences += [
        f"{text[0].upper()}{text[1:]}"
        for text in (comparison.describe_location(), comparison.describe_chance())
        if text
    ]
    return ". ".join(sentences) + "."


def _format_figure_label(name: str) -> str:
    """Return the name of a group for a figure: one short line, without a leading underscore, which would hide it from
    a matplotlib legend."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split()) or "?"
    text = text if len(text) <= MAX_FIGURE_LABEL_LENGTH else f"{text[: MAX_FIGURE_LABEL_LENGTH - 13]}...{text[-10:]}"
    return f" {text}" if text.startswith("_") else text


def _render_svg(figure: Figure) -> str:
    svg_buffer = io.StringIO()
    with warnings.catch_warnings():
        # The font is used for layout only: the browser draws the text with its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(svg_buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = svg_buffer.getvalue()
    return text[text.index("<svg") :]


def _simplify_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _draw_effects(comparison: Comparison) -> Figure:
    shown_differences = [
        d for d in comparison.differences if np.isfinite([d.relative_difference, d.relative_low, d.relative_high]).all()
    ]
    figure = Figure(figsize=(8, 0.6 + 0.22 * max(1, len(shown_differences))))
    axes = figure.subplots()
    has_several_pairs = len({(d.first_group, d.second_group) for d in shown_differences}) > 1
    for row, d in enumerate(reversed(shown_differences)):
        colour = GROUP_COLOURS[1] if d.metric == comparison.primary_metric else GROUP_COLOURS[0]
        if (unguided := find_unguided_difference(comparison, d)) is not None:
            axes.plot(100 * unguided.relative_difference, row, "s", ms=5, color="#999", mfc="none")
        axes.plot([100 * d.relative_low, 100 * d.relative_high], [row, row], color=colour, lw=1.5)
        is_significant = d.family_p <= 0.05
        axes.plot(100 * d.relative_difference, row, "o", ms=5, color=colour, mfc=colour if is_significant else "white")
    pair_labels = [
        f"{_format_figure_label(d.first_group)} against {_format_figure_label(d.second_group)}"
        for d in reversed(shown_differences)
    ]
    tick_labels = [
        f"{comparison.groups[0].label_metric(d.metric)}, {pair}"
        if has_several_pairs
        else comparison.groups[0].label_metric(d.metric)
        for d, pair in zip(reversed(shown_differences), pair_labels, strict=True)
    ]
    axes.set_yticks(range(len(shown_differences)), tick_labels)
    axes.axvline(0, color="#999", lw=0.8)
    axes.set_xlabel(
        "difference, %" if has_several_pairs or not shown_differences else f"{pair_labels[0]}, %", fontsize=9
    )
    axes.margins(y=0.02)
    _simplify_axes(axes)
    return figure


def _draw_curves(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).ravel(), SHOWN_CURVES, strict=True):
        curve_values: list[NDArray[np.float64]] = []
        curve_sigmas: list[NDArray[np.float64]] = []
        for colour, group in zip(_assign_group_colours(comparison), comparison.groups, strict=True):
            curves = [CURVES[name](v.trajectory) for v in group.videos if v.trajectory is not None]
            values = np.stack([values for _, values in curves])
            sigmas = curves[0][0]
            axes.plot(sigmas, values.mean(0), color=colour, lw=1.4, label=_format_figure_label(group.name))
            axes.fill_between(sigmas, *np.quantile(values, [0.05, 0.95], axis=0), color=colour, alpha=0.15, lw=0)
            curve_values.append(values)
            curve_sigmas.append(sigmas)
        # Values at different noise levels are not exchangeable, even if the curves have equally many points.
        if all(np.array_equal(curve_sigmas[0], grid) for grid in curve_sigmas):
            low, high = _compute_chance_band(curve_values, len(comparison.seeds))
            axes.fill_between(sigmas, low, high, color="#000", alpha=0.12, lw=0, label="by chance")
        first_trajectory = comparison.groups[0].videos[0].trajectory
        assert first_trajectory is not None
        sigmas, random_walk_values = CURVES[name](compute_random_walk_null(first_trajectory))
        axes.plot(sigmas, random_walk_values, color="#999", lw=1, ls="--")
        axes.invert_xaxis()
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("noise level", fontsize=8)
        _simplify_axes(axes)
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def _compute_chance_band(
    values_by_group: Sequence[NDArray[np.float64]], seed_count: int, draw_count: int = 500
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the central 95 % of differences between two groups exchanged within seeds, around the mean of all
    videos."""
    seed_means = np.stack(
        [values.reshape(seed_count, -1, values.shape[1]).mean(1) for values in values_by_group], axis=1
    )
    generator, differences = np.random.default_rng(RANDOM_SEED), []
    for _ in range(draw_count):
        orders = np.argsort(generator.random(seed_means.shape[:2]), axis=1)[..., None]
        exchanged = np.take_along_axis(seed_means, orders, axis=1)
        differences.append((exchanged[:, 0] - exchanged[:, 1]).mean(0))
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    return seed_means.mean((0, 1)) + low, seed_means.mean((0, 1)) + high


def draw_dispersion(comparison: Comparison) -> Figure:
    """Draw the dispersion of each group over the noise level."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, curve) in zip(
        _assign_group_colours(comparison), comparison.dispersion_curves_by_group.items(), strict=True
    ):
        axes.plot(curve.sigmas, curve.dispersion, color=colour, label=_format_figure_label(name))
    axes.invert_xaxis()
    axes.set_xlabel("noise level", fontsize=8)
    axes.set_ylabel("sqrt(W² / D)", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    _simplify_axes(axes)
    return figure


def _draw_projected_paths(comparison: Comparison) -> Figure:
    from sklearn.decomposition import PCA

    paths_by_group = [[video.load_projected_path()[1] for video in group.videos] for group in comparison.groups]
    final_states = np.stack([projected_path[-1] for group in paths_by_group for projected_path in group]).astype(
        np.float64
    )
    # Axes of the final states: axes of all states would mostly show the seeds' initial noise.
    with np.errstate(invalid="ignore"):  # identical final states have no variance, and shares of it are NaN
        pca = PCA(2, svd_solver="randomized", random_state=0).fit(final_states)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for colour, group, paths in zip(_assign_group_colours(comparison), comparison.groups, paths_by_group, strict=True):
        for index, projected_path in enumerate(paths):
            plane_path = pca.transform(projected_path)
            axes.plot(
                *plane_path.T,
                color=colour,
                lw=0.7,
                alpha=0.6,
                label=_format_figure_label(group.name) if index == 0 else None,
            )
            axes.plot(*plane_path[-1], "o", color=colour, ms=3)
    variance_percents = 100 * np.nan_to_num(pca.explained_variance_ratio_)
    axes.set_xlabel(f"first axis, {variance_percents[0]:.0f} % of the variance", fontsize=8)
    axes.set_ylabel(f"second axis, {variance_percents[1]:.0f} %", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    _simplify_axes(axes)
    return figure


def _assign_group_colours(comparison: Comparison) -> list[str]:
    return [GROUP_COLOURS[index % len(GROUP_COLOURS)] for index in range(len(comparison.groups))]


def _render_metrics_table(comparison: Comparison) -> str:
    group_names = [group.name for group in comparison.groups]
    header_cells = "".join(f"<th>{html.escape(name)}</th>" for name in group_names)
    rows = []
    for metric, by_group in comparison.summaries_by_metric.items():
        cells = []
        for name in group_names:
            summary = by_group[name]
            null_text = (
                ""
                if metric == SPREAD_METRIC
                else (
                    f" <span class=note>({_format_number_or_dash(summary.random_walk_mean)}; "
                    f"{_format_number_or_dash(summary.gaussian_flow_mean)})</span>"
                )
            )
            cells.append(f"<td>{format_mean(summary.mean, summary.standard_deviation, 4)}{null_text}</td>")
        rows.append(f"<tr><td>{comparison.groups[0].label_metric(metric)}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th>metric</th>{header_cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _render_strides_table(comparison: Comparison) -> str:
    group_names = [group.name for group in comparison.groups]
    rows = []
    for metric in STRIDE_METRICS:
        cells = []
        for group in comparison.groups:
            trajectories = [video.trajectory for video in group.videos if video.trajectory is not None]
            stride_check = measure_strides(trajectories, metric, comparison.stride)
            text = ", ".join(_format_number_or_dash(value) for value in stride_check.means)
            cells.append(f"<td>{text if stride_check.is_settled else f'<b>{text}</b>'}</td>")
        rows.append(f"<tr><td>{metric}</td>{''.join(cells)}</tr>")
    header_cells = "".join(f"<th>{html.escape(name)}</th>" for name in group_names)
    return f"<table><thead><tr><th>metric</th>{header_cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _format_number_or_dash(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "–"


def _render_attention_section(videos: Sequence[Video]) -> list[str]:
    videos_with_maps = [video for video in videos if video.attention_path is not None][:MAX_ATTENTION_VIDEOS]
    if not videos_with_maps:
        return []
    section_parts, namer = ["<h2>Attention</h2>"], VideoNamer(videos)
    for video in videos_with_maps:
        assert video.attention_path is not None
        try:
            maps = open_attention_maps(video.attention_path)
            words = list(maps.metadata_by_word)
            scale_maximum = compute_scale_maximum(maps, words)
            clip_path = find_clip_path(video)
            for word in words:
                mean_mass = average_finite_values(compute_word_curves(maps, word).mass)
                word_text = maps.metadata_by_word[word]["text"]
                label = f"{namer.name_video(video)}, {word_text}: {mean_mass:.2%} of the attention"
                section_parts.append(_render_note(f"{label}; colours from 0 to {scale_maximum:.2g}"))
                section_parts.append(_render_png(draw_strip(clip_path, maps, word, scale_maximum)))
        except UserError as error:
            section_parts.append(_render_note(f"{namer.name_video(video)}: {error}"))
    return section_parts


def _render_png(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    png_buffer = io.BytesIO()
    Image.fromarray(picture).save(png_buffer, format="PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png_buffer.getvalue()).decode()}">'
