"""Section of a report about the states of the groups: their dispersion, and their paths in a plane."""

import numpy as np
from matplotlib.figure import Figure

from wantui.analysis.comparison import Comparison
from wantui.analysis.report_page import choose_group_styles, format_figure_label, render_figure, simplify_axes

GROUP_MARKERS = ("o", "^", "s", "D", "P", "v")
"""Markers of each group's final states."""


def render_state_section(comparison: Comparison) -> list[str]:
    """Return the HTML section with the dispersion of each group, and the paths."""
    return [
        "<h2>Dispersion and paths</h2>",
        render_figure(
            draw_dispersion(comparison),
            "Dispersion of the videos of each group around their mean, at every noise level of the sampler.",
        ),
        render_figure(
            _draw_projected_paths(comparison),
            "All states, projected to the first two principal axes of the final states. Markers are final states.",
        ),
    ]


def draw_dispersion(comparison: Comparison) -> Figure:
    """Draw the dispersion of each group over the noise level."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    styles = choose_group_styles(len(comparison.groups))
    for (colour, line), (name, curve) in zip(styles, comparison.dispersion_curves_by_group.items(), strict=True):
        axes.plot(curve.sigmas, curve.dispersion, color=colour, ls=line, label=format_figure_label(name))
    axes.invert_xaxis()
    axes.set_xlabel("noise level", fontsize=8)
    axes.set_ylabel("sqrt(W² / D)", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    simplify_axes(axes)
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
    axes, styles = figure.subplots(), choose_group_styles(len(comparison.groups))
    for number, ((colour, line), group, paths) in enumerate(
        zip(styles, comparison.groups, paths_by_group, strict=True)
    ):
        for index, projected_path in enumerate(paths):
            plane_path = pca.transform(projected_path)
            axes.plot(
                *plane_path.T,
                color=colour,
                lw=0.7,
                ls=line,
                alpha=0.6,
                label=format_figure_label(group.name) if index == 0 else None,
            )
            axes.plot(*plane_path[-1], color=colour, ms=4, marker=GROUP_MARKERS[number % len(GROUP_MARKERS)])
    variance_percents = 100 * np.nan_to_num(pca.explained_variance_ratio_)
    axes.set_xlabel(f"first axis, {variance_percents[0]:.0f} % of the variance", fontsize=8)
    axes.set_ylabel(f"second axis, {variance_percents[1]:.0f} %", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    simplify_axes(axes)
    return figure
