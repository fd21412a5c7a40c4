"""Drawing of how groups separate along the path: decodability of the pairs of groups, and shares of the variance."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.formatting import format_share
from wantui.tui.analysis.advice import replace_options_by_keys
from wantui.tui.analysis.views import (
    GROUP_SYMBOLS,
    LOW_VIEW_HEIGHT,
    SIGMA_AXIS_NAME,
    WIDE_VIEW_WIDTH,
    Canvas,
)
from wantui.tui.chart import MIN_CHART_HEIGHT, Chart, find_value_range, join_columns
from wantui.tui.plain_names import replace_names
from wantui.tui.series_colours import SERIES_COLOURS
from wantui.tui.wrapping import join_texts, wrap_text

if TYPE_CHECKING:
    from wantui.analysis.decodability import Decodability
    from wantui.analysis.variance_shares import VarianceShares
    from wantui.tui.analysis.data import Separation

CURVE_COLOURS = tuple(f"series-{name}" for name in SERIES_COLOURS[: len(GROUP_SYMBOLS)])
"""Theme colour names of the curves."""
MAX_DRAWN_PAIRS = len(CURVE_COLOURS)
"""Maximum number of group pairs whose accuracy is drawn."""
ACCURACY_NOTES = ("pairs sorted correctly; guessing sorts 0.5", "by guessing: 0.5")
SHARE_NOTES = ("share of each source in all states", "share of each source")
"""Explanations of the charts, and short explanations for narrow charts."""
SENTENCE_END = ". "
LOW_BLOCK_HEIGHT = 12
"""Height of a chart with its legend in lines below which its last note is left out."""


def draw_separation(separation: "Separation", highlighted_group: str, canvas: Canvas) -> list[Text]:
    """Return the charts of accuracy and variance shares, and a sentence on each pair of groups.

    Args:
        highlighted_group: name of the group whose pairs come first.
    """
    pairs = sorted(separation.pairs, key=lambda pair: highlighted_group not in (pair.first_group, pair.second_group))[
        :MAX_DRAWN_PAIRS
    ]
    is_wide = canvas.width >= WIDE_VIEW_WIDTH
    width = (canvas.width - 2) // 2 if is_wide else canvas.width
    is_low = canvas.height < LOW_VIEW_HEIGHT
    notes = _list_short_notes(separation, pairs) if is_low else _list_notes(separation, pairs)
    if separation.no_unguided_reason:
        notes.insert(0, replace_options_by_keys(separation.no_unguided_reason))
    if (hidden_count := len(separation.pairs) - len(pairs)) > 0:
        notes.append(f"{hidden_count} pairs of groups not drawn")
    note_lines = [line for note in notes for line in wrap_text(replace_names(note), canvas.width, Style(dim=True))]
    if pairs and pairs[0].is_decodable and not separation.no_unguided_reason:
        _highlight_sentence(note_lines[0], canvas.get_style("found") + Style(bold=True, dim=False))
    block_height = max(MIN_CHART_HEIGHT + 2, (canvas.height - len(note_lines)) // (1 if is_wide else 2))
    accuracy_lines = _draw_accuracy(pairs, separation.unguided_pairs, width, block_height, canvas)
    share_lines = _draw_shares(separation.variance_shares, width, block_height, canvas)
    charts = join_columns(accuracy_lines, share_lines, width + 2) if is_wide else [*accuracy_lines, *share_lines]
    return [*charts, *note_lines]


def _highlight_sentence(line: Text, style: Style) -> None:
    """Draw the first sentence of a line in a style."""
    line.stylize(style, 0, line.plain.index(SENTENCE_END) if SENTENCE_END in line.plain else len(line))


def _list_notes(separation: "Separation", pairs: "Sequence[Decodability]") -> list[str]:
    from wantui.analysis.calibrated import describe_measure

    names = {"decodability": "decodability", "variance_share": "the share of the groups"}
    return [
        *(pair.describe() for pair in pairs[:1]),
        separation.variance_shares.describe(),
        *(describe_measure(measure, name) for measure, name in names.items()),
    ]


def _list_short_notes(separation: "Separation", pairs: "Sequence[Decodability]") -> list[str]:
    """Return the tests alone, for a low pane."""
    shares = separation.variance_shares
    texts = [
        f"{pair.first_group} - {pair.second_group}: {pair.verdict}. {format_share(pair.mean_accuracy)} over all "
        f"noise levels, p {pair.pair_p:.3g}"
        for pair in pairs[:1]
    ]
    return [*texts, f"group: {format_share(shares.mean_group_share, 1)} over all noise levels, p {shares.mean_p:.3g}"]


def _draw_accuracy(
    pairs: "Sequence[Decodability]",
    unguided_pairs: "Sequence[Decodability]",
    width: int,
    height: int,
    canvas: Canvas,
) -> list[Text]:
    """Return the chart of accuracies; for a single pair, add chance and the accuracy at cfg_scale 1."""
    entries = [f"{pair.first_group} - {pair.second_group}" for pair in pairs]
    legend = [_draw_title("decodability", ACCURACY_NOTES, width), *_draw_legend(entries, width, canvas)]
    is_single = len(pairs) == 1
    if is_single and height >= LOW_BLOCK_HEIGHT:
        legend.append(
            Text("dotted: by chance" + (", faint line: cfg scale 1" if unguided_pairs else ""), Style(dim=True))
        )
    chart = Chart(width, height - len(legend), (1.0, 0.0), (0.0, 1.0), SIGMA_AXIS_NAME)
    if is_single:
        pair = pairs[0]
        muted = canvas.get_style("text-muted") + Style(dim=True)
        chart.add_band(pair.sigmas.tolist(), pair.chance_low.tolist(), pair.chance_high.tolist(), muted)
        for unguided in unguided_pairs:
            chart.add_line(unguided.sigmas.tolist(), unguided.accuracy.tolist(), canvas.get_style("text-muted"))
    for index, pair in enumerate(pairs):
        style = canvas.get_style(CURVE_COLOURS[index])
        _add_curve(chart, index, pair.sigmas.tolist(), pair.accuracy.tolist(), style)
    return _cut_lines([*legend, *chart.draw_lines()], width)


def _draw_shares(variance_shares: "VarianceShares", width: int, height: int, canvas: Canvas) -> list[Text]:
    """Return the chart of the variance shares."""
    names = variance_shares.varying_effects
    legend = [_draw_title("variance", SHARE_NOTES, width), *_draw_legend(variance_shares.effect_titles, width, canvas)]
    curves = [variance_shares.shares_by_effect[name].tolist() for name in names]
    chart = Chart(width, height - len(legend), (1.0, 0.0), find_value_range(curves), SIGMA_AXIS_NAME)
    for index, curve in enumerate(curves):
        _add_curve(chart, index, variance_shares.sigmas.tolist(), curve, canvas.get_style(CURVE_COLOURS[index]))
    return _cut_lines([*legend, *chart.draw_lines()], width)


def _draw_title(name: str, notes: Sequence[str], width: int) -> Text:
    """Return the name of a chart and the first note that fits."""
    note = next((note for note in notes if len(name) + 2 + len(note) <= width), "")
    return Text.assemble((name, "bold"), (f"  {note}", "dim"))


def _cut_lines(lines: Sequence[Text], width: int) -> list[Text]:
    """Return the lines cut to a width."""
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return list(lines)


def _add_curve(chart: Chart, index: int, sigmas: Sequence[float], values: Sequence[float], style: Style) -> None:
    """Draw a curve with its legend symbol at some noise levels."""
    chart.add_line(sigmas, values, style, is_thick=chart.plot_height >= LOW_BLOCK_HEIGHT)
    for position in range(index + 1, len(sigmas), max(2, len(sigmas) // 4)):
        chart.add_symbol(sigmas[position], values[position], GROUP_SYMBOLS[index], style)


def _draw_legend(entries: Sequence[str], width: int, canvas: Canvas) -> list[Text]:
    """Return symbols and names, as many on a line as fit."""
    items = [
        Text(f"{GROUP_SYMBOLS[index]} {entry}", canvas.get_style(CURVE_COLOURS[index]))
        for index, entry in enumerate(entries)
    ]
    return join_texts(_cut_lines(items, width), width)
