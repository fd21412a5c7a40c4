"""Views of the Analysis screen below its table, and the drawing of views with charts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.metrics import CURVES
from wantui.analysis.strides import BEND_METRICS
from wantui.analysis.trajectory import Trajectory
from wantui.analysis.video import Video
from wantui.formatting import format_count
from wantui.tui.analysis.metric_notes import UNSETTLED_SIGN
from wantui.tui.analysis.video_ranks import MIN_COMPARED_VIDEOS
from wantui.tui.chart import Chart, choose_curve_range, find_value_range, join_columns
from wantui.tui.plain_names import replace_names
from wantui.tui.wrapping import append_right, join_texts, wrap_text

if TYPE_CHECKING:
    from wantui.analysis.curve_comparison import CurveComparison
    from wantui.analysis.mean_curves import MeanCurve, MedianCurve, MedianCurves
    from wantui.analysis.path_components import PathComponents, PlanePath

VIEW_TITLES = {
    "curves": "Curves",
    "effects": "Effects",
    "means": "Mean curves",
    "paths": "PCA",
    "separation": "Separation",
    "interaction": "Interaction",
    "attention": "Attention",
    "correlations": "Correlations",
}
"""Titles of the views, in the order of the key that cycles through them."""
VIDEO_VIEWS = ("curves", "means", "paths", "attention", "correlations")
"""Views below a video table."""
GROUP_VIEWS = ("effects", "means", "paths", "separation", "interaction")
"""Views below a group table."""
FIGURE_VIEWS = ("means", "paths", "separation", "interaction", "correlations")
"""Views that are computed in the background."""
SHOWN_CURVES = ("norm", "velocity", "turning", "clean_distance")
"""Names of one video's curves; a low pane drops the last curves."""
WIDE_VIEW_WIDTH = 72
"""Width of a pane in cells from which charts are side by side."""
AXIS_HEIGHT = 2
"""Lines for a chart's horizontal axis and its labels."""
MIN_ROW_HEIGHT = 5
"""Minimum height of a chart, in lines: its title and its plot."""
LOW_VIEW_HEIGHT = 16
"""Pane height, in lines, below which notes are shortened and fewer strips are drawn."""
GROUP_SYMBOLS = ("●", "▲", "■", "◆", "✚", "○")
"""Signs of the groups, so that they do not differ by colour alone; further groups are not drawn."""
START_SYMBOL = "∘"
"""Sign of a path's initial noise."""
SIGMA_AXIS_NAME = "σ"
MEDIAN_COLOUR = "text-muted"
"""Theme colour of the median over all videos."""
LEGEND_LINE, LEGEND_THIN_LINE, LEGEND_GAP = "━━", "──", 3
"""Signs of a thick and of a thin curve in a legend, and least number of cells between two parts of a legend."""
MAX_STRIPS = 3
"""Maximum number of group pairs whose clusters are drawn below the mean curves; one in a low pane."""

StyleGetter = Callable[[str], Style]
"""Function that returns the style of a theme colour."""
_CurveStyles = tuple[Style, Style]
"""Styles of a video's curve, and of the median."""


@dataclass(frozen=True)
class Canvas:
    """Size of a view in cells, and its colours."""

    width: int
    height: int
    get_style: StyleGetter


@dataclass(frozen=True)
class _VideoCurve:
    """Curve of one video, and the median of all videos with its noise levels."""

    name: str
    sigmas: list[float]
    values: list[float]
    median: "MedianCurve | None"
    """None if there are too few videos."""

    @property
    def last_sigma(self) -> float:
        """Return the lowest noise level; 0 if it leaves no axis."""
        return min(self.sigmas) if min(self.sigmas, default=1.0) < 1 else 0.0


@dataclass(frozen=True)
class _ClusterStrip:
    """Significant clusters of one group pair."""

    signs: str
    """Signs of the two groups."""
    spans: list[tuple[float, float]]
    """Noise levels at the ends of each cluster."""
    p: float
    """Smallest p of the clusters, over all pairs of groups."""


def draw_video_curves(
    video: Video,
    median_curves: "MedianCurves",
    canvas: Canvas,
    describe_ranks: Callable[[int], str] = lambda _: "",
    colour_name: str = "accent",
) -> list[Text]:
    """Return the curves of a trajectory over the noise level, one chart each.

    Args:
        median_curves: curves that are drawn behind those with the same noise levels.
        describe_ranks: returns the rank of the video among the others in at most this number of cells; it is in the
            legend above the charts.
        colour_name: theme colour of the video.
    """
    trajectory, width = video.trajectory, canvas.width
    if trajectory is None:
        return wrap_text(video.exclusion_reason, width)
    stride_note = _describe_strides(video) if canvas.height >= LOW_VIEW_HEIGHT else ""
    stride_notes = wrap_text(stride_note, width, canvas.get_style("warning"))[: canvas.height // 3]
    height = canvas.height - len(stride_notes) - 1  # the first line is the legend
    column_count = 2 if width >= WIDE_VIEW_WIDTH else 1
    max_row_count = len(SHOWN_CURVES) // column_count
    row_count = max(1, min(max_row_count, (height - 1) // MIN_ROW_HEIGHT))
    names = SHOWN_CURVES[: column_count * row_count]
    # In a low pane, only the last row of charts has the labels of the horizontal axis, which is the same for all.
    has_one_axis = canvas.height < LOW_VIEW_HEIGHT or height < row_count * (MIN_ROW_HEIGHT + 1)
    plots_height = height - (1 if has_one_axis else row_count)
    chart_width = (width - 2 * (column_count - 1)) // column_count
    chart_height = plots_height // row_count - 1 + AXIS_HEIGHT
    curves = [_get_video_curve(name, trajectory, median_curves) for name in names]
    last_sigma = min(curve.last_sigma for curve in curves)
    charts = [_make_chart(curve, chart_width, chart_height, last_sigma) for curve in curves]
    size = (chart_width, chart_height, max(chart.label_width for chart in charts))
    styles = canvas.get_style(colour_name), canvas.get_style(MEDIAN_COLOUR)
    lines = [_draw_curve_legend(video, curves, describe_ranks, width, styles)]
    for first in range(0, len(names), column_count):
        blocks = [_draw_video_curve(curve, size, last_sigma, styles) for curve in curves[first : first + column_count]]
        if has_one_axis and first + column_count < len(names):
            blocks = [block[:-1] for block in blocks]
        lines += blocks[0] if len(blocks) == 1 else join_columns(blocks[0], blocks[1], chart_width + 2)
    return [*lines, *stride_notes]


def _describe_strides(video: Video) -> str:
    """Name the metrics, or only the curve of turning, that mostly reflect the sampler's steps; empty if none do.

    Curves have the stride of the trajectory, even if the metric is measured at a larger one.
    """
    unsettled_names = ", ".join(name for name in BEND_METRICS if name in video.unsettled_metrics)
    if unsettled_names:
        return f"{UNSETTLED_SIGN} not settled: {unsettled_names} mostly reflect the sampler's steps, not the path"
    return "the sampler's steps dominate the curve of turning" if video.describe_stride("turning") else ""


def _get_video_curve(name: str, trajectory: Trajectory, median_curves: "MedianCurves") -> _VideoCurve:
    sigmas, values = (array.tolist() for array in CURVES[name](trajectory))
    median_curve = median_curves.get((name, tuple(sigmas)))
    has_median = median_curve is not None and median_curve.video_count >= MIN_COMPARED_VIDEOS
    return _VideoCurve(name, sigmas, values, median_curve if has_median else None)


def _make_chart(curve: _VideoCurve, width: int, height: int, last_sigma: float, label_width: int = 0) -> Chart:
    medians = [] if curve.median is None else curve.median.values.tolist()
    return Chart(
        width, height, (1.0, last_sigma), choose_curve_range([*curve.values, *medians]), SIGMA_AXIS_NAME, label_width
    )


def _draw_curve_legend(
    video: Video, curves: Sequence[_VideoCurve], describe_ranks: Callable[[int], str], width: int, styles: _CurveStyles
) -> Text:
    """Return the names of the video and the median, and the rank or the number of charts that a low pane shows."""
    legend = Text.assemble((f"{LEGEND_LINE} ", styles[0]), replace_names(video.name), no_wrap=True)
    video_count = max((curve.median.video_count for curve in curves if curve.median is not None), default=0)
    if video_count:
        legend.append(f"{'':{LEGEND_GAP}}{LEGEND_THIN_LINE}", styles[1])
        legend.append(f" median of {format_count(video_count, 'video')}", Style(dim=True))
    count_texts = [f"{len(curves)} of {len(SHOWN_CURVES)}{noun}: z Enlarge" for noun in (" charts", "")]
    rank_text = describe_ranks(width - legend.cell_len - LEGEND_GAP)
    if not append_right(legend, [rank_text], width, LEGEND_GAP, Style()) and len(curves) < len(SHOWN_CURVES):
        append_right(legend, count_texts, width, LEGEND_GAP, Style(dim=True))
    return legend


def _draw_video_curve(
    curve: _VideoCurve, size: tuple[int, int, int], last_sigma: float, styles: _CurveStyles
) -> list[Text]:
    """Return the title and the chart of a curve, in front of the median.

    The chart has no line of the horizontal axis, so that the vertical axis ends at its lowest tick.

    Args:
        size: width and height of the chart, and width of its labels, which aligns it with the charts above and below.
        last_sigma: noise level at the right end.
    """
    title = Text(f"{replace_names(curve.name)}  ", Style(bold=True), no_wrap=True)
    range_text = f"from {curve.values[0]:.4g} to {curve.values[-1]:.4g}"
    end_text = f" at {SIGMA_AXIS_NAME} {curve.sigmas[-1]:.2g}" if curve.sigmas[-1] > last_sigma else ""
    has_end = title.cell_len + len(range_text + end_text) <= size[0]
    title.append(range_text + end_text * has_end, Style(dim=True))
    chart = _make_chart(curve, size[0], size[1], last_sigma, size[2])
    if curve.median is not None:
        chart.add_line(curve.sigmas, curve.median.values.tolist(), styles[1])
    chart.add_line(curve.sigmas, curve.values, styles[0], is_thick=True)
    *plot, _, labels = chart.draw_lines()
    return [title, *plot, labels]


def draw_mean_curves(
    curve_name: str,
    curves: Sequence["MeanCurve"],
    highlighted_group: str,
    canvas: Canvas,
    colours_by_name: Mapping[str, str],
    comparison: "CurveComparison | None" = None,
) -> list[Text]:
    """Return the mean curves of groups with their 95 % intervals over seeds, and strips of the significant clusters.

    With more than three groups, only the highlighted one has a band.

    Args:
        colours_by_name: theme colours of all groups, including those without a curve.
        comparison: cluster tests of the curves.
    """
    shown_curves = list(curves[: len(GROUP_SYMBOLS)])
    colours = [colours_by_name.get(curve.group_name, "primary") for curve in curves]
    if not shown_curves:
        return [Text("no trajectory can be read")]
    has_all_bands = len(shown_curves) <= 3
    banded_indices = [
        index
        for index, curve in enumerate(shown_curves)
        if curve.seed_count > 1 and (has_all_bands or curve.group_name == highlighted_group)
    ]
    entries, notes = _describe_mean_curves(curves, shown_curves, bool(banded_indices))
    strips = _choose_strips(comparison, [curve.group_name for curve in shown_curves], highlighted_group)
    strips = strips[: MAX_STRIPS if canvas.height >= LOW_VIEW_HEIGHT else 1]
    note_texts = [f"{replace_names(curve_name)}: {'; '.join(notes)}", _describe_strips(comparison, strips)]
    legend = _draw_legend(entries, colours, [text for text in note_texts if text], canvas)
    value_lists = [curve.mean.tolist() for curve in shown_curves]
    value_lists += [
        end.tolist() for index in banded_indices for end in (shown_curves[index].low, shown_curves[index].high)
    ]
    height = canvas.height - len(legend) - len(strips)
    label_width = 2 if strips else 0
    chart = Chart(canvas.width, height, (1.0, 0.0), find_value_range(value_lists), SIGMA_AXIS_NAME, label_width)
    for number, index in enumerate(banded_indices):
        curve, style = shown_curves[index], canvas.get_style(colours[index]) + Style(dim=True)
        turn = (number, len(banded_indices))
        chart.add_band(curve.sigmas.tolist(), curve.low.tolist(), curve.high.tolist(), style, turn)
    for index, curve in enumerate(shown_curves):
        is_highlighted = curve.group_name == highlighted_group
        style = canvas.get_style(colours[index]) + Style(bold=is_highlighted)
        sigmas, means = curve.sigmas.tolist(), curve.mean.tolist()
        is_thick = canvas.height >= LOW_VIEW_HEIGHT
        chart.add_line(sigmas, means, style, is_thick=is_thick, is_in_front=is_highlighted)
        for position in range(index + 1, len(sigmas), max(2, len(sigmas) // 4)):
            chart.add_symbol(sigmas[position], means[position], GROUP_SYMBOLS[index], style)
    for strip in strips:
        chart.add_strip(strip.signs, strip.spans, canvas.get_style("accent"))
    return [*legend, *chart.draw_lines()]


def _describe_mean_curves(
    curves: Sequence["MeanCurve"], shown_curves: Sequence["MeanCurve"], has_bands: bool
) -> tuple[list[str], list[str]]:
    """Return the entries of the legend, one per shown curve, and notes about drawn and omitted content."""
    seed_counts = {curve.seed_count for curve in shown_curves}
    count_note = f" ({seed_counts.pop():,} each)" if len(seed_counts) == 1 else ""
    names = [replace_names(curve.group_name) for curve in shown_curves]
    entries = [
        name if count_note else f"{name} ({format_count(curve.seed_count, 'seed')})"
        for name, curve in zip(names, shown_curves, strict=True)
    ]
    notes = [f"{'mean and 95 % interval' if has_bands else 'mean'} over seeds{count_note}"]
    if len(curves) > len(shown_curves):
        notes.append(f"{format_count(len(curves) - len(shown_curves), 'group')} not drawn")
    if excluded_count := sum(curve.excluded_count for curve in curves):
        notes.append(f"{format_count(excluded_count, 'video')} left out: different noise levels")
    return entries, notes


def _choose_strips(
    comparison: "CurveComparison | None", group_names: Sequence[str], highlighted_group: str
) -> list[_ClusterStrip]:
    """Return the pairs of groups with significant clusters; pairs of the highlighted group come first."""
    if comparison is None:
        return []
    sigmas = comparison.curves[0].sigmas
    strips = []
    for difference in sorted(
        comparison.differences, key=lambda d: highlighted_group not in (d.first_group, d.second_group)
    ):
        names = (difference.first_group, difference.second_group)
        clusters = [cluster for cluster in difference.clusters if cluster.family_p <= SIGNIFICANCE_LEVEL]
        if clusters and all(name in group_names for name in names):
            spans = [(float(sigmas[c.first_level]), float(sigmas[c.last_level])) for c in clusters]
            signs = "".join(GROUP_SYMBOLS[group_names.index(name)] for name in names)
            strips.append(_ClusterStrip(signs, spans, min(cluster.family_p for cluster in clusters)))
    return strips


def _describe_strips(comparison: "CurveComparison | None", strips: Sequence[_ClusterStrip]) -> str:
    """Describe the cluster tests; a low p shows that curves differ, not where."""
    if comparison is None:
        return ""
    if comparison.untested_reason:
        return f"not tested: {comparison.untested_reason}"
    if not strips:
        return "cluster test: no pair of curves differs at p 0.05"
    pairs = ", ".join(f"{strip.signs} p {strip.p:.2g}" for strip in strips)
    scope = " over all curves and pairs" if len(comparison.differences) > 1 else " over all curves"
    warning = "" if comparison.is_settled else "; the sampler's steps dominate this curve"
    return f"cluster test{scope}: {pairs}; ━ where they differ most clearly{warning}"


def draw_paths(
    components: "PathComponents", highlighted_name: str, canvas: Canvas, colours_by_name: Mapping[str, str]
) -> list[Text]:
    """Return the paths of all videos in the plane of their first two principal components.

    Args:
        highlighted_name: name of the group or video whose paths are drawn last, in bold; the others are then dim.
        colours_by_name: theme colours of all groups, including those without a path.
    """
    group_names = list(dict.fromkeys(path.group_name for path in components.paths))
    shown_names = group_names[: len(GROUP_SYMBOLS)]
    colours = [colours_by_name.get(name, "primary") for name in shown_names]
    paths = [path for path in components.paths if path.group_name in shown_names]
    notes = [f"{START_SYMBOL} start (noise), sign: end (video)"]
    if hidden_count := len(group_names) - len(shown_names):
        notes.append(f"{format_count(hidden_count, 'group')} not drawn")
    if components.exclusion_reasons:
        name, reason = components.exclusion_reasons[0]
        notes.append(
            f"{format_count(len(components.exclusion_reasons), 'video')} left out, for example "
            f"{replace_names(f'{name}: {reason}')}"
        )
    counts = {name: sum(path.group_name == name for path in paths) for name in shown_names}
    entries = [f"{replace_names(name)} ({counts[name]})" for name in shown_names]
    legend = _draw_legend(entries, colours, ["; ".join(notes)], canvas)
    x_range, y_range = (find_value_range([path.states[:, axis].tolist() for path in paths]) for axis in (0, 1))
    margin = 0.03 * (x_range[1] - x_range[0])
    chart = Chart(canvas.width, canvas.height - len(legend), (x_range[0] - margin, x_range[1] + margin), y_range, "PC1")

    def is_highlighted(path: "PlanePath") -> bool:
        return highlighted_name in (path.group_name, path.video_name)

    has_highlight = any(map(is_highlighted, paths))
    for path in sorted(paths, key=is_highlighted):
        index = shown_names.index(path.group_name)
        is_quiet = has_highlight and not is_highlighted(path)
        style = canvas.get_style(colours[index]) + Style(dim=is_quiet, bold=is_highlighted(path))
        xs, ys = path.states[:, 0].tolist(), path.states[:, 1].tolist()
        chart.add_line(xs, ys, style, is_in_front=is_highlighted(path))
        chart.add_symbol(xs[0], ys[0], START_SYMBOL, style)
        chart.add_symbol(xs[-1], ys[-1], GROUP_SYMBOLS[index], style)
    return [*legend, *chart.draw_lines()]


def _draw_legend(entries: Sequence[str], colours: Sequence[str], notes: Sequence[str], canvas: Canvas) -> list[Text]:
    """Return the legend of the groups, with as many groups as fit on each line, followed by dim notes.

    The first note is beside the groups if it fits.
    """
    items = [
        Text(f"{GROUP_SYMBOLS[index]} {entry}", canvas.get_style(colours[index])) for index, entry in enumerate(entries)
    ]
    lines = join_texts(items, canvas.width, "   ")
    if len(lines) == 1 and notes and lines[0].cell_len + LEGEND_GAP + len(notes[0]) <= canvas.width:
        lines[0].append(" " * LEGEND_GAP).append(notes[0], Style(dim=True))
        notes = notes[1:]
    return [*lines, *(line for note in notes for line in wrap_text(note, canvas.width, Style(dim=True)))]
