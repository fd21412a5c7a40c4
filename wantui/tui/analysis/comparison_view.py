"""Drawing of a comparison of groups: verdicts, forest plot, tests, dispersion and notes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.advice import replace_options_by_keys
from wantui.tui.analysis.answers_view import VERDICT_COLOURS, draw_answer_details, draw_answer_verdicts
from wantui.tui.analysis.dose_view import draw_dose_response
from wantui.tui.analysis.forest_plot import (
    ForestLayout,
    build_forest_rows,
    choose_layout,
    describe_symbols,
    draw_directions,
    draw_forest_header,
    draw_forest_rows,
    get_relative_change,
    label_compared_metric,
    sort_by_effect,
)
from wantui.tui.analysis.metric_notes import describe_least_p
from wantui.tui.analysis.views import Canvas
from wantui.tui.plain_names import replace_names
from wantui.tui.plots import draw_sparkline
from wantui.tui.wrapping import append_right, wrap_text

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison
    from wantui.analysis.final_states import DispersionCurve
    from wantui.analysis.verdicts import Verdict

MAX_DRAWN_PAIRS = 20
"""Maximum number of group pairs that are drawn: pairs of the marked group come first."""
MAX_LISTED_EXCLUSIONS = 5
"""Maximum number of excluded videos that are listed by name."""


def draw_comparison(
    comparison: "Comparison",
    first_group: str,
    exclusion_reasons: Sequence[tuple[str, str]],
    canvas: Canvas,
    colours_by_group: Mapping[str, str] = {},
    charted_metric: str = "",
) -> tuple[list[Text], dict[str, int]]:
    """Draw the comparison; also return the index of the line with the first row of each metric.

    It consists of the verdicts and plots of all groups and of each pair, with their evidence below; then tests,
    dispersion, notes and excluded videos.

    Args:
        first_group: name of the group whose pairs come first.
        exclusion_reasons: name and reason of the videos excluded from the group means; the comparison excludes
            further ones.
        colours_by_group: theme colours of the groups.
        charted_metric: metric whose dose-response curve is shown; empty for the declared one.
    """
    from wantui.analysis.calibrated import describe_responses

    metric_names, width = list(comparison.summaries_by_metric), canvas.width
    general_answers = comparison.find_answers()
    lines = draw_answer_verdicts(general_answers, canvas)
    row_by_metric: dict[str, int] = {}
    if (dose_response := comparison.dose_response) is not None:
        unsettled_metrics = comparison.groups[0].videos[0].unsettled_metrics  # equal for all compared videos
        dose_lines, row_by_metric = draw_dose_response(
            dose_response, canvas, len(lines), colours_by_group, charted_metric, unsettled_metrics
        )
        lines += [*dose_lines, Text("")]
    verdicts = sorted(
        comparison.verdicts, key=lambda verdict: first_group not in (verdict.first_group, verdict.second_group)
    )
    layout = choose_layout(
        [label_compared_metric(comparison, name) for name in metric_names],
        list(map(get_relative_change, comparison.differences)),
        width,
    )
    for number, verdict in enumerate(verdicts[:MAX_DRAWN_PAIRS]):
        pair_lines, pair_rows = _draw_pair(
            comparison, verdict, layout, canvas, len(lines), names_pair=bool(general_answers), has_legend=not number
        )
        row_by_metric = pair_rows | row_by_metric
        lines += pair_lines
        if number == 0 and general_answers:
            lines += [Text("all groups", Style(bold=True)), *draw_answer_details(general_answers, canvas), Text("")]
    if (hidden_count := len(verdicts) - MAX_DRAWN_PAIRS) > 0:
        text = f"{hidden_count:,} more pairs: move to another group in the table, or export a report of all (ctrl+s)"
        lines += wrap_text(text, width)
    lines += _draw_tests(comparison, width)
    for number, text in enumerate(describe_responses(metric_names, is_guided=comparison.is_guided)):
        lines += wrap_text(
            replace_names(f"{'  ' if number else ''}{text}"), width, canvas.get_style("text-muted"), indent="    "
        )
    lines += [_draw_dispersion(name, curve, canvas) for name, curve in comparison.dispersion_curves_by_group.items()]
    for warning in comparison.warnings:
        lines += wrap_text(
            f"note: {replace_names(replace_options_by_keys(warning))}", width, canvas.get_style("text-muted")
        )
    lines += list_exclusions("left out", exclusion_reasons, canvas)
    further_reasons = [video for video in comparison.exclusion_reasons if video not in set(exclusion_reasons)]
    return [*lines, *list_exclusions("not compared", further_reasons, canvas)], row_by_metric


def _draw_pair(
    comparison: "Comparison",
    verdict: "Verdict",
    layout: ForestLayout,
    canvas: Canvas,
    lines_above: int,
    *,
    names_pair: bool,
    has_legend: bool,
) -> tuple[list[Text], dict[str, int]]:
    """Draw the comparison of two groups; also return the line of each metric.

    It consists of place, room and path, the forest plot with significant metrics first, the verdict, and the evidence
    in words. The legend is below the forest plot, or above it if it would be out of sight there.
    """
    from wantui.analysis.p_values import find_decisive_p

    pair = (verdict.first_group, verdict.second_group)
    answers = comparison.find_answers(*pair)
    lines = [Text(replace_names(f"{pair[0]} against {pair[1]}"), Style(bold=True))] if names_pair else []
    lines += draw_answer_verdicts(answers, canvas)
    legend: list[Text] = []
    if has_legend:
        labels = [label_compared_metric(comparison, name) for name in comparison.summaries_by_metric]
        legend_text = describe_symbols(labels, canvas.width, has_unguided=comparison.unguided is not None)
        legend = wrap_text(legend_text, canvas.width, Style(dim=True))
    differences = [d for d in comparison.differences if (d.first_group, d.second_group) == pair]
    directions = draw_directions(*pair, layout, canvas.get_style)
    if answers and differences:
        least_p_notes = describe_least_p(answers[0].min_attainable_p, len(differences[0].seed_values))
        append_right(directions, least_p_notes, canvas.width, 2, canvas.get_style("text-muted"))
    plot_height = 2 + len(differences)
    is_legend_below = lines_above + len(lines) + plot_height + len(legend) <= canvas.height
    if not is_legend_below:
        lines += legend
    lines += [directions, draw_forest_header(layout)]
    first_row = lines_above + len(lines)
    primary = next((each for each in differences if each.metric == comparison.primary_metric), None)
    differences = sort_by_effect(
        differences, partial(find_decisive_p, comparison), get_relative_change, primary=primary
    )
    rows = build_forest_rows(comparison, differences, canvas.get_style)
    row_lines = draw_forest_rows(rows, layout, canvas.get_style)
    verdict_lines, details = _draw_verdict(comparison, verdict, canvas), draw_answer_details(answers, canvas)
    row_by_metric = {difference.metric: row for row, difference in enumerate(differences, first_row)}
    if is_legend_below:
        row_lines += [*legend, Text("")]
    return [*lines, *row_lines, *verdict_lines, *details, Text("")], row_by_metric


def _draw_verdict(comparison: "Comparison", verdict: "Verdict", canvas: Canvas) -> list[Text]:
    """Draw the verdict on a pair of groups, what can explain the verdict, and the pair's verdicts at cfg_scale 1."""
    from wantui.analysis.calibrated_effect import explain_effect
    from wantui.analysis.unguided import describe_remaining_effect

    width, colour_name = canvas.width, VERDICT_COLOURS.get(verdict.kind, "")
    style = canvas.get_style(colour_name) if colour_name else None
    lines = wrap_text(replace_names(verdict.verdict_text), width, style)
    lines += wrap_text(replace_names(explain_effect(comparison, verdict)), width)
    muted = canvas.get_style("text-muted")
    if (unguided := comparison.unguided) is None:
        return lines
    if (unguided_verdict := unguided.find_verdict(verdict.first_group, verdict.second_group)) is not None:
        for text in filter(None, [unguided_verdict.verdict_text, explain_effect(unguided, unguided_verdict)]):
            lines += wrap_text(replace_names(f"at cfg_scale 1: {text}"), width, muted)
    return lines + wrap_text(replace_names(describe_remaining_effect(comparison, verdict)), width, muted)


def _draw_dispersion(name: str, curve: "DispersionCurve", canvas: Canvas) -> Text:
    dispersion = curve.dispersion
    text = f"  dispersion: {dispersion[0]:.3f} at the first noise level, {dispersion[-1]:.3f} at the last"
    sparkline = (draw_sparkline(dispersion.tolist(), 24), canvas.get_style("accent"))
    return Text.assemble((f"{replace_names(name):<20.20} ", ""), sparkline, (text, "dim"))


def _draw_tests(comparison: "Comparison", width: int) -> list[Text]:
    """Draw for what p is corrected, the test of all groups, and the differences that arise by chance."""
    from wantui.analysis.calibrated_effect import describe_calibrated_scale
    from wantui.analysis.metrics import describe_ratio_origins
    from wantui.analysis.p_values import describe_p_values

    texts = [] if comparison.declaration is None else [f"verdict on {comparison.declaration.text}"]
    texts += filter(None, [describe_calibrated_scale(comparison)])
    texts += describe_p_values(comparison)
    if len(comparison.groups) > 2:
        metric, p = comparison.primary_metric, comparison.omnibus_p
        texts.append(f"test for any difference between the groups in {metric}: p {p:.3g}")
    origins_text = describe_ratio_origins(difference.metric for difference in comparison.differences)
    texts += filter(None, [origins_text, comparison.describe_chance()])
    return [line for text in texts for line in wrap_text(replace_names(text), width)]


def list_exclusions(label: str, exclusion_reasons: Sequence[tuple[str, str]], canvas: Canvas) -> list[Text]:
    """Return lines with the first excluded videos and the reasons, and with the number of further excluded videos."""
    exclusion_texts = [f"{label}: {name}: {reason}" for name, reason in exclusion_reasons[:MAX_LISTED_EXCLUSIONS]]
    if hidden_count := len(exclusion_reasons) - len(exclusion_texts):
        exclusion_texts.append(f"{label}: {hidden_count} more; the report lists all (ctrl+s)")
    style = canvas.get_style("text-muted")
    return [line for text in exclusion_texts for line in wrap_text(replace_names(text), canvas.width, style)]
