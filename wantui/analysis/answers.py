"""Answers to "do the groups differ?": place, room and path, each as one sentence with its evidence."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from wantui.analysis.answer import (
    Answer,
    describe_correction,
    describe_metric,
    describe_p,
    describe_path,
    describe_room,
    describe_units_for_correction,
    explain_conflicts,
    explain_missing,
    find_clearest_evidence,
    list_unmeasured,
    warn_about_few_seeds,
)
from wantui.analysis.answer_evidence import (
    ALIKE,
    CANNOT_TELL,
    DIFFERS,
    DISTANCE,
    FAMILIES_BY_METRIC,
    NOT_MEASURED,
    PATH,
    PLACE,
    ROOM,
    ROOM_METRICS,
    AnswerData,
    Evidence,
    collect_metric_evidence,
    collect_place_evidence,
    compute_omnibus_p,
)
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.places import PlaceDifference
from wantui.analysis.trend_answers import answer_trend_question
from wantui.formatting import format_count, format_interval, format_percent, join_and_shorten

MAX_ORDERED_GROUPS = 10
"""Maximum number of groups that the answer on room puts in order."""
ORDER_SIGNS = {DIFFERS: "<", ALIKE: "=", CANNOT_TELL: "~"}
"""Signs between groups that are neighbours in the order of their means, by the kind of their difference."""


def answer_questions(data: AnswerData) -> tuple[Answer, ...]:
    """Return the answers on place, room and path: first for all groups, then for each pair.

    Answers for all groups exist if there are more than two groups, or if the setting that forms them is numeric; they
    are then about its slopes.
    """
    path_names = [
        name for name in data.metric_names if name in FAMILIES_BY_METRIC and name not in data.unsettled_metrics
    ]
    room_names = [name for name in ROOM_METRICS if name in data.metric_names]
    place_evidence = [[evidence] for evidence in collect_place_evidence(data)]
    rows_by_question = {
        PLACE: place_evidence or [[] for _ in data.group_pairs],
        ROOM: collect_metric_evidence(data, room_names),
        PATH: collect_metric_evidence(data, path_names),
    }
    answers = []
    if data.doses is not None:
        names_by_question = {PLACE: [], ROOM: room_names, PATH: path_names}
        answers += [answer_trend_question(data, data.doses, *item) for item in names_by_question.items()]
    elif len(data.groups) > 2:
        answers += [_answer_for_all_groups(data, question, rows) for question, rows in rows_by_question.items()]
    for k in range(len(data.group_pairs)):
        answers += [_answer_for_pair(data, question, k, rows[k]) for question, rows in rows_by_question.items()]
    return tuple(answers)


def _answer_for_pair(data: AnswerData, question: str, pair_index: int, evidence: Sequence[Evidence]) -> Answer:
    i, j = data.group_pairs[pair_index]
    first_name, second_name = data.groups[i].name, data.groups[j].name
    correction = describe_correction(len(evidence), len(data.group_pairs))
    min_p = data.min_attainable_p
    if not evidence:
        return Answer(
            question=question,
            first_group=first_name,
            second_group=second_name,
            kind=NOT_MEASURED,
            verdict_parts=(NOT_MEASURED,),
            effects_text=explain_missing(data, question),
            min_attainable_p=min_p,
        )
    if question == PLACE:
        verdict_parts, effects_text = _describe_places(first_name, second_name, evidence[0], data.places[pair_index])
    elif question == ROOM:
        alike_claim = f"alike within {format_percent(data.equivalence_margin)} in"
        claims = (f"{first_name} takes ", "more room in", "less room in", alike_claim)
        verdict_parts, effects_text = describe_room(claims, evidence)
    else:
        verdict_parts, effects_text = describe_path("paths differ in", evidence)
    notes = [
        *warn_about_few_seeds(data),
        *explain_conflicts(evidence, correction),
        *list_unmeasured(data, question),
    ]
    return Answer(
        question=question,
        first_group=first_name,
        second_group=second_name,
        kind=DIFFERS if any(item.kind == DIFFERS for item in evidence) else CANNOT_TELL,
        verdict_parts=tuple(verdict_parts),
        effects_text=effects_text,
        p_text="; ".join(
            filter(
                None,
                (
                    describe_p(correction, min_p),
                    describe_units_for_correction(data, evidence, len(data.group_pairs)),
                ),
            )
        ),
        notes=tuple(notes),
        p_by_metric={item.metric: item.p for item in evidence},
        min_attainable_p=min_p,
        correction=correction,
        evidence=tuple(evidence),
    )


def _describe_places(
    first_name: str, second_name: str, item: Evidence, place: PlaceDifference
) -> tuple[list[str], str]:
    """Return verdict and details of the distance between two groups."""
    claim = f"{first_name} and {second_name} lie apart"
    interval_text = f"95 %: {format_interval(item.low, item.high, '.3g')}; " if math.isfinite(item.low) else ""
    return (
        [claim if item.kind == DIFFERS else f"cannot tell whether {claim}"],
        f"{DISTANCE} {item.effect:.3g} ({interval_text}by chance up to {place.chance_distance:.3g}; between two seeds "
        f"{place.seed_distance:.3g}), p {item.p:.3g}",
    )


def _answer_for_all_groups(data: AnswerData, question: str, rows: Sequence[Sequence[Evidence]]) -> Answer:
    """Return the answer to "does any group differ?", with the pair that differs most.

    Args:
        rows: evidence of each pair of groups.
    """
    min_p = data.min_attainable_p
    if not rows[0]:
        return Answer(
            question=question,
            kind=NOT_MEASURED,
            verdict_parts=(NOT_MEASURED,),
            effects_text=explain_missing(data, question),
            min_attainable_p=min_p,
        )
    p_by_metric = compute_omnibus_p(data, question, [item.metric for item in rows[0]])
    kind = DIFFERS if min(p_by_metric.values()) <= SIGNIFICANCE_LEVEL else CANNOT_TELL
    correction = describe_correction(len(p_by_metric), 1)
    differing_names = [name for name, p in p_by_metric.items() if p <= SIGNIFICANCE_LEVEL]
    shown_names = sorted(differing_names or p_by_metric, key=lambda name: p_by_metric[name])
    effects_text = join_and_shorten([f"{name} p {p_by_metric[name]:.3g}" for name in shown_names])
    groups_text = f"{len(data.groups)} groups"
    if question == PLACE:
        verdict_parts = [
            f"the {groups_text} do not all lie in one place"
            if differing_names
            else f"cannot tell whether the {groups_text} lie in different places"
        ]
        effects_text = f"p {p_by_metric[DISTANCE]:.3g}"
    elif differing_names:
        subjects = join_and_shorten(list(dict.fromkeys(map(_find_family, shown_names))))
        verdict_parts = [f"the {groups_text} differ in {subjects}"]
        if question == ROOM and len(data.groups) <= MAX_ORDERED_GROUPS:
            verdict_parts.append(f"by their means, {_order_groups(data, rows, shown_names)}")
    else:
        verdict_parts = [f"cannot tell whether the {groups_text} differ"]
    differing_count = sum(any(item.kind == DIFFERS for item in row) for row in rows)
    pairs_text = f"{differing_count} of {format_count(len(rows), 'pair')} differ; clearest: "
    pairs_text += _describe_clearest_pair(data, rows)
    notes = list_unmeasured(data, question)
    if bool(differing_names) != bool(differing_count):
        notes.append(_explain_disagreement(bool(differing_names), describe_correction(len(p_by_metric), len(rows))))
    return Answer(
        question=question,
        kind=kind,
        verdict_parts=tuple(verdict_parts),
        effects_text=effects_text,
        p_text=f"{describe_p(correction, min_p)}; {pairs_text}",
        notes=tuple(notes),
        p_by_metric=p_by_metric,
        min_attainable_p=min_p,
        correction=correction,
    )


def _explain_disagreement(groups_differ: bool, pair_correction: str) -> str:
    """Return a sentence about a test of all groups that disagrees with the tests of the pairs."""
    if groups_differ:
        return (
            "the groups differ as a whole, but no single pair is significant: the p of each pair is corrected for "
            f"{pair_correction}"
        )
    return (
        "a pair can be significant although the test of all groups is not: the p of the pair is corrected for "
        f"{pair_correction}"
    )


def _order_groups(data: AnswerData, rows: Sequence[Sequence[Evidence]], metrics: Sequence[str]) -> str:
    """Return the groups in the order of their means, with a legend of the symbols between neighbours.

    An example is "log_volume: circle < square = cross ~ ring (=: alike within 5 %; ~: cannot tell)".
    """
    orders, shown_kinds = [], set()
    for metric in metrics:
        means = data.cell_values[..., list(data.metric_names).index(metric)].mean((0, 1))
        order = np.argsort(means, kind="stable").tolist()
        kind_by_pair = {
            frozenset(pair): next(item.kind for item in row if item.metric == metric)
            for pair, row in zip(data.group_pairs, rows, strict=True)
        }
        text = f"{metric}: {data.groups[order[0]].name}"
        for smaller, larger in itertools.pairwise(order):
            kind = kind_by_pair[frozenset((smaller, larger))]
            shown_kinds.add(kind)
            text += f" {ORDER_SIGNS[kind]} {data.groups[larger].name}"
        orders.append(text)
    meanings = {ALIKE: f"alike within {format_percent(data.equivalence_margin)}", CANNOT_TELL: "cannot tell"}
    legend = "; ".join(f"{ORDER_SIGNS[kind]}: {text}" for kind, text in meanings.items() if kind in shown_kinds)
    return "; ".join(orders) + (f" ({legend})" if legend else "")


def _find_family(metric: str) -> str:
    """Return the family of a path metric; return any other metric unchanged."""
    return FAMILIES_BY_METRIC.get(metric, metric)


def _describe_clearest_pair(data: AnswerData, rows: Sequence[Sequence[Evidence]]) -> str:
    clearest_items = [find_clearest_evidence(row) for row in rows]
    clearest = find_clearest_evidence(clearest_items)
    i, j = data.group_pairs[next(k for k, item in enumerate(clearest_items) if item is clearest)]
    return f"{data.groups[i].name} against {data.groups[j].name}, {describe_metric(clearest)}"
