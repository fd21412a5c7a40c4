"""The comparison of groups as one HTML page that needs nothing else: plots are in it."""

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
from wantui.analysis.attention_summary import mean_of_known, word_curves
from wantui.analysis.comparable import VideoNames
from wantui.analysis.compare import Comparison
from wantui.analysis.differences import Difference
from wantui.analysis.final_states import SPREAD
from wantui.analysis.nulls import random_walk
from wantui.analysis.overlay import clip_of, scale_of, strip
from wantui.analysis.statistics import SEED
from wantui.analysis.strides import CHECKED, MAX_RATIO, MULTIPLES, strides
from wantui.analysis.trajectory import CURVES
from wantui.analysis.video import Video
from wantui.atomic_files import write_text
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.storage.attention_maps import open_attention_maps

COLOURS = ("#2a6f97", "#c1551f", "#4f7942", "#7b4b94", "#a8802c", "#9c3848", "#4a8c8c", "#5c5c5c")
SHOWN_CURVES = ("norm", "velocity", "turning", "clean_distance")
MAX_OVERLAYS = 6
MAX_LABEL = 40
"""Longest name of a group in a figure, characters; the tables have all of it."""
PLAIN_TEXT = {"text.parse_math": False, "svg.fonttype": "none"}
"""Settings of matplotlib: names of groups are no formulas, whatever signs they have, and are text in the page."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .85rem; } th, td { padding: .2rem .7rem .2rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 1px solid #999; }
.verdict { padding: .5rem .8rem; border-left: 4px solid #999; background: #f5f5f3; margin: .4rem 0; }
.differs { border-color: #c1551f; } .alike { border-color: #4f7942; }
.note { color: #666; font-size: .85rem; } svg, img { max-width: 100%; height: auto; }
"""


def write_report(path: Path, comparison: Comparison) -> None:
    """Write the page of a comparison."""
    with rc_context(PLAIN_TEXT):
        _write_page(path, comparison)


def _write_page(path: Path, comparison: Comparison) -> None:
    parts = [
        f"<h1>{html.escape(_title(comparison))}</h1>",
        _note(
            f"{format_count(len(comparison.seeds), 'seed')}, the same in each group; {_groups(comparison)}. "
            f"Trajectories are measured at stride {comparison.stride}. wantui {__version__}."
        ),
        "<h2>Verdicts</h2>",
        f"<p>Declared metric: <b>{comparison.primary}</b>. Tests permute within seeds.</p>",
        *(f'<p class="verdict {v.kind.split()[0]}">{html.escape(v.text)}</p>' for v in comparison.verdicts),
        f"<p>{html.escape(_omnibus(comparison))}</p>",
        *(_note(f"Note: {warning}") for warning in comparison.warnings),
        *(_note(f"Left out: {name}: {why}") for name, why in comparison.left_out),
        "<h2>Effects</h2>",
        _svg(_forest(comparison.differences, comparison.primary)),
        _note(
            "Differences as shares of the second group's mean, with 95 % intervals. Filled: p below 0.05 over all "
            "metrics and pairs (max-T)."
        ),
        "<h2>Metrics and their nulls</h2>",
        _metrics(comparison),
        _note(
            "Mean ± standard deviation over videos; in brackets the same metric of a random walk with the same step "
            "lengths, and of the Gaussian flow to the group's final states."
        ),
        *(_note(f"{name}: {null.in_words}.") for name, null in comparison.nulls.items()),
        "<h2>What depends on the steps</h2>",
        _strides(comparison),
        _note(
            f"Mean of each group, measured at strides {', '.join(str(comparison.stride * m) for m in MULTIPLES)}. "
            f"Bold: a larger stride changes the first value by more than a factor of {MAX_RATIO}, so that it is mostly "
            "the sampler's steps or their rounding, not the path's; or there are too few steps to tell."
        ),
        "<h2>Curves</h2>",
        _svg(_curves(comparison)),
        _note(
            "Mean and range of the middle 90 % of the videos of each group over the noise level. Grey: how far two "
            "groups are apart, around the mean of all, in 95 of 100 random exchanges within seeds. Dashed: a random "
            "walk with the same step lengths."
        ),
    ]
    if comparison.dispersion:
        parts += ["<h2>Room that each group takes</h2>", _svg(dispersion_figure(comparison))]
        parts += ["<h2>Paths</h2>", _svg(_paths(comparison))]
        parts.append(_note("All states in the plane of the first two principal axes of their ends; a dot is an end."))
    parts += _attention([video for group in comparison.groups for video in group.videos])
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(_title(comparison))}</title>"
    write_text(path, page + f"<style>{STYLE}</style>" + "\n".join(parts) + "</html>\n")


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _title(comparison: Comparison) -> str:
    names = sorted({video.folder.name for group in comparison.groups for video in group.videos})
    return f"{', '.join(names)}: {' / '.join(group.name for group in comparison.groups)}"


def _groups(comparison: Comparison) -> str:
    return ", ".join(
        f"{group.name}: {format_count(len(group.videos), 'video')} of {format_count(group.phrasings, 'phrasing')}"
        for group in comparison.groups
    )


def _omnibus(comparison: Comparison) -> str:
    parts = [f"Any group differs in {comparison.primary}: p {comparison.omnibus_p:.3g}"]
    if comparison.spread is not None:
        parts.append(f"Spread of the final states (PERMDISP): F {comparison.spread.f:.3g}, p {comparison.spread.p:.3g}")
    parts += [f"{text[0].upper()}{text[1:]}" for text in (comparison.place(), comparison.by_chance()) if text]
    return ". ".join(parts) + "."


def _label(name: str) -> str:
    """Return the name of a group for a figure: one short line that matplotlib does not leave out of a legend."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split()) or "?"
    text = text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 13]}...{text[-10:]}"
    return f" {text}" if text.startswith("_") else text


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    with warnings.catch_warnings():
        # The browser draws the text, and has the characters that the font of the layout lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(written, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _forest(differences: Sequence[Difference], primary: str) -> Figure:
    shown = [d for d in differences if np.isfinite([d.share, d.low, d.high]).all()]
    figure = Figure(figsize=(8, 0.6 + 0.22 * max(1, len(shown))))
    axes = figure.subplots()
    several = len({(d.first, d.second) for d in shown}) > 1
    for row, d in enumerate(reversed(shown)):
        colour = COLOURS[1] if d.metric == primary else COLOURS[0]
        axes.plot([100 * d.low, 100 * d.high], [row, row], color=colour, lw=1.5)
        filled = d.family_p <= 0.05
        axes.plot(100 * d.share, row, "o", ms=5, color=colour, mfc=colour if filled else "white")
    pairs = [f"{_label(d.first)} against {_label(d.second)}" for d in reversed(shown)]
    names = [f"{d.metric}, {pair}" if several else d.metric for d, pair in zip(reversed(shown), pairs, strict=True)]
    axes.set_yticks(range(len(shown)), names)
    axes.axvline(0, color="#999", lw=0.8)
    axes.set_xlabel("difference, %" if several or not shown else f"{pairs[0]}, %", fontsize=9)
    axes.margins(y=0.02)
    _bare(axes)
    return figure


def _curves(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).ravel(), SHOWN_CURVES, strict=True):
        every: list[NDArray[np.float64]] = []
        levels: list[NDArray[np.float64]] = []
        for colour, group in zip(_colours(comparison), comparison.groups, strict=True):
            drawn = [CURVES[name](v.trajectory) for v in group.videos if v.trajectory is not None]
            values = np.stack([values for _, values in drawn])
            sigmas = drawn[0][0]
            axes.plot(sigmas, values.mean(0), color=colour, lw=1.4, label=_label(group.name))
            axes.fill_between(sigmas, *np.quantile(values, [0.05, 0.95], axis=0), color=colour, alpha=0.15, lw=0)
            every.append(values)
            levels.append(sigmas)
        # Values at other noise levels are not exchangeable, even where there are as many.
        if all(np.array_equal(levels[0], grid) for grid in levels):
            low, high = _curve_band(every, len(comparison.seeds))
            axes.fill_between(sigmas, low, high, color="#000", alpha=0.12, lw=0, label="by chance")
        first = comparison.groups[0].videos[0].trajectory
        assert first is not None
        sigmas, walk = CURVES[name](random_walk(first))
        axes.plot(sigmas, walk, color="#999", lw=1, ls="--")
        axes.invert_xaxis()
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("noise level", fontsize=8)
        _bare(axes)
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def _curve_band(
    groups: Sequence[NDArray[np.float64]], seeds: int, draws: int = 500
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the central 95 % of the differences of two groups exchanged within seeds, around the mean of all
    videos."""
    by_seed = np.stack([values.reshape(seeds, -1, values.shape[1]).mean(1) for values in groups], axis=1)
    random, differences = np.random.default_rng(SEED), []
    for _ in range(draws):
        orders = np.argsort(random.random(by_seed.shape[:2]), axis=1)[..., None]
        exchanged = np.take_along_axis(by_seed, orders, axis=1)
        differences.append((exchanged[:, 0] - exchanged[:, 1]).mean(0))
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    return by_seed.mean((0, 1)) + low, by_seed.mean((0, 1)) + high


def dispersion_figure(comparison: Comparison) -> Figure:
    """Draw the dispersion of each group over the noise level."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, curve) in zip(_colours(comparison), comparison.dispersion.items(), strict=True):
        axes.plot(curve.sigmas, curve.values, color=colour, label=_label(name))
    axes.invert_xaxis()
    axes.set_xlabel("noise level", fontsize=8)
    axes.set_ylabel("sqrt(W² / D)", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    _bare(axes)
    return figure


def _paths(comparison: Comparison) -> Figure:
    from sklearn.decomposition import PCA

    states = [[video.projected_path()[1] for video in group.videos] for group in comparison.groups]
    pooled = np.stack([one[-1] for group in states for one in group]).astype(np.float64)
    # The plane in which the ends differ most; that of all states would show the seeds' noise.
    pca = PCA(2, svd_solver="randomized", random_state=0).fit(pooled)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for colour, group, paths in zip(_colours(comparison), comparison.groups, states, strict=True):
        for index, one in enumerate(paths):
            path = pca.transform(one)
            axes.plot(*path.T, color=colour, lw=0.7, alpha=0.6, label=_label(group.name) if index == 0 else None)
            axes.plot(*path[-1], "o", color=colour, ms=3)
    shares = 100 * pca.explained_variance_ratio_
    axes.set_xlabel(f"first axis, {shares[0]:.0f} % of the variance", fontsize=8)
    axes.set_ylabel(f"second axis, {shares[1]:.0f} %", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    _bare(axes)
    return figure


def _colours(comparison: Comparison) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(comparison.groups))]


def _metrics(comparison: Comparison) -> str:
    names = [group.name for group in comparison.groups]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for metric, by_group in comparison.described.items():
        cells = []
        for name in names:
            d = by_group[name]
            nulls = (
                ""
                if metric == SPREAD
                else f" <span class=note>({_number(d.random_walk)}; {_number(d.gaussian_flow)})</span>"
            )
            cells.append(f"<td>{d.mean:.4g} ± {d.deviation:.2g}{nulls}</td>")
        rows.append(f"<tr><td>{metric}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th>metric</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _strides(comparison: Comparison) -> str:
    names = [group.name for group in comparison.groups]
    rows = []
    for metric in CHECKED:
        cells = []
        for group in comparison.groups:
            paths = [video.trajectory for video in group.videos if video.trajectory is not None]
            measured = strides(paths, metric, comparison.stride)
            text = ", ".join(_number(value) for value in measured.values)
            cells.append(f"<td>{text if measured.is_settled else f'<b>{text}</b>'}</td>")
        rows.append(f"<tr><td>{metric}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return f"<table><thead><tr><th>metric</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "–"


def _attention(videos: Sequence[Video]) -> list[str]:
    with_maps = [video for video in videos if video.attention is not None][:MAX_OVERLAYS]
    if not with_maps:
        return []
    parts, names = ["<h2>Attention</h2>"], VideoNames(videos)
    for video in with_maps:
        assert video.attention is not None
        try:
            maps = open_attention_maps(video.attention)
            words = list(maps.words)
            scale = scale_of(maps, words)
            clip = clip_of(video)
            for word in words:
                mean = mean_of_known(word_curves(maps, word).mass)
                label = f"{names(video)}, {maps.words[word]['text']}: {mean:.2%} of the attention"
                parts.append(_note(f"{label}; colours from 0 to {scale:.2g}"))
                parts.append(_png(strip(clip, maps, word, scale)))
        except UserError as error:
            parts.append(_note(f"{names(video)}: {error}"))
    return parts


def _png(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(picture).save(written, format="PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}">'
