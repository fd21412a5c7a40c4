"""Answers to "do the groups differ?": place, room and path, each as one sentence with its evidence."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

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
)
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.places import PlaceDifference
from wantui.analysis.statistics import count_min_pairs, run_omnibus_max_test
from wantui.formatting import capitalize_first, format_count, format_interval, format_percent, join_and_shorten

MAX_ORDERED_GROUPS = 10
"""Maximum number of groups that the answer on room puts in order."""
ORDER_SIGNS = {DIFFERS: "<", ALIKE: "=", CANNOT_TELL: "~"}
"""Signs between groups that are neighbours in the order of their means, by the kind of their difference."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer to one question about two groups, or about all groups."""

    question: str
    """place, room or path."""
    first_group: str = ""
    second_group: str = ""
    """Names of the groups; empty if the answer is about all groups."""
    kind: str
    """differs, cannot tell or not measured."""
    verdict_parts: tuple[str, ...]
    """Sentences of the answer in lower case, without full stops, the most important first, such as "red takes more room
    in log_volume of each path" and "cannot tell in spread between videos". Only the first can begin with a name."""
    effects_text: str
    """Metrics with effect, 95 % interval and p; the reason if nothing is measured."""
    p_text: str = ""
    """What p is corrected for, and the smallest possible p; with the clearest pair if the answer is about all groups.
    Empty if nothing is measured."""
    notes: tuple[str, ...] = ()
    """Sentences about intervals that disagree with p, and about excluded metrics."""
    p_by_metric: Mapping[str, float] = field(default_factory=dict)
    """Deciding p of each metric, corrected for the tests in `correction`."""
    min_attainable_p: float
    """Smallest p that this number of seeds can give."""
    correction: str = ""
    """Tests that p is corrected for, such as "3 metrics and 6 pairs"; empty if there is one test."""
    evidence: tuple[Evidence, ...] = ()
    """Effect, interval and p of each metric; empty if the answer is about all groups."""

    @property
    def verdict(self) -> str:
        """Return the answer in words."""
        return ". ".join((self.verdict_parts[0], *self.further_sentences))

    @property
    def further_sentences(self) -> list[str]:
        """Return the parts of the verdict after the first, capitalised."""
        return list(map(capitalize_first, self.verdict_parts[1:]))

    @property
    def details(self) -> str:
        """Return the evidence in words."""
        return "; ".join(filter(None, (self.effects_text, self.p_text)))

    @property
    def text(self) -> str:
        """Return the answer as one line."""
        return f"{self.question}: {self.verdict}. {self.details}"


def answer_questions(data: AnswerData) -> tuple[Answer, ...]:
    """Return the answers on place, room and path: for all groups if there are more than two, then for each pair."""
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
    if len(data.groups) > 2:
        answers += [_answer_for_all_groups(data, question, rows) for question, rows in rows_by_question.items()]
    for k in range(len(data.group_pairs)):
        answers += [_answer_for_pair(data, question, k, rows[k]) for question, rows in rows_by_question.items()]
    return tuple(answers)


def _answer_for_pair(data: AnswerData, question: str, pair_index: int, evidence: Sequence[Evidence]) -> Answer:
    i, j = data.group_pairs[pair_index]
    first_name, second_name = data.groups[i].name, data.groups[j].name
    correction = _describe_correction(len(evidence), len(data.group_pairs))
    min_p = data.min_attainable_p
    if not evidence:
        return Answer(
            question=question,
            first_group=first_name,
            second_group=second_name,
            kind=NOT_MEASURED,
            verdict_parts=(NOT_MEASURED,),
            effects_text=_explain_missing(data, question),
            min_attainable_p=min_p,
        )
    if question == PLACE:
        verdict_parts, effects_text = _describe_places(first_name, second_name, evidence[0], data.places[pair_index])
    elif question == ROOM:
        verdict_parts, effects_text = _describe_room(first_name, evidence, data.equivalence_margin)
    else:
        verdict_parts, effects_text = _describe_path(evidence)
    notes = [*_explain_conflicts(evidence, correction), *_list_unmeasured(data, question)]
    if min_p > SIGNIFICANCE_LEVEL:
        seeds_text = format_count(data.seed_count, "seed")
        needed_text = f"generate at least {count_min_pairs()}"
        notes.insert(0, f"{seeds_text} cannot give a p of {SIGNIFICANCE_LEVEL:g}: {needed_text}")
    return Answer(
        question=question,
        first_group=first_name,
        second_group=second_name,
        kind=DIFFERS if any(item.kind == DIFFERS for item in evidence) else CANNOT_TELL,
        verdict_parts=tuple(verdict_parts),
        effects_text=effects_text,
        p_text=_describe_p(correction, min_p),
        notes=tuple(notes),
        p_by_metric={item.metric: item.p for item in evidence},
        min_attainable_p=min_p,
        correction=correction,
        evidence=tuple(evidence),
    )


def _explain_missing(data: AnswerData, question: str) -> str:
    return data.no_place_reason if question == PLACE else "no metric has a value in all videos"


def _describe_p(correction: str, min_p: float) -> str:
    limit_text = f"smallest possible p {min_p:.3g}"
    return f"p over {correction}, {limit_text}" if correction else limit_text


def _describe_correction(metric_count: int, pair_count: int) -> str:
    parts = [format_count(metric_count, "metric")] if metric_count > 1 else []
    parts += [format_count(pair_count, "pair")] if pair_count > 1 else []
    return " and ".join(parts)


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


def _describe_room(first_name: str, evidence: Sequence[Evidence], equivalence_margin: float) -> tuple[list[str], str]:
    """Return the parts of the verdict on room, and its details."""
    items_by_claim = {
        f"{first_name} takes more room in": [item for item in evidence if item.kind == DIFFERS and item.effect > 0],
        f"{first_name} takes less room in": [item for item in evidence if item.kind == DIFFERS and item.effect < 0],
        f"alike within {format_percent(equivalence_margin)} in": [item for item in evidence if item.kind == ALIKE],
        "cannot tell in": [item for item in evidence if item.kind == CANNOT_TELL],
    }
    verdict_parts = [f"{claim} {_name_room_metrics(items)}" for claim, items in items_by_claim.items() if items]
    if len({item.effect > 0 for item in evidence if item.kind == DIFFERS}) > 1:
        more, less, *others = verdict_parts
        verdict_parts = [f"mixed: {more}, and {less.removeprefix(f'{first_name} takes ')}", *others]
    details = "; ".join(_describe_metric(item) for items in items_by_claim.values() for item in items)
    return verdict_parts, details


def _name_room_metrics(items: Sequence[Evidence]) -> str:
    """Name metrics of room, and say whether they describe each path or all videos of a group."""
    path_names = [item.metric for item in items if item.metric != SPREAD_METRIC]
    parts = [f"{', '.join(path_names)} of each path"] if path_names else []
    parts += [f"{SPREAD_METRIC} between videos"] if len(path_names) < len(items) else []
    return " and ".join(parts)


def _describe_path(evidence: Sequence[Evidence]) -> tuple[list[str], str]:
    """Return the parts of the verdict, and the details.

    The details are the clearest metric of each family that differs, or of all families if none does.
    """
    items_by_family: dict[str, list[Evidence]] = {}
    for item in evidence:
        items_by_family.setdefault(item.family, []).append(item)
    differing_families, details = [], []
    for family, items in items_by_family.items():
        if differing_items := [item for item in items if item.kind == DIFFERS]:
            differing_families.append(family)
            more_text = f" and {len(differing_items) - 1} more" if len(differing_items) > 1 else ""
            details.append(f"{family}: {_describe_metric(_find_clearest_evidence(differing_items))}{more_text}")
    other_families = [family for family in items_by_family if family not in differing_families]
    verdict_parts = [f"paths differ in {', '.join(differing_families)}"] if differing_families else []
    verdict_parts += [f"cannot tell in {', '.join(other_families)}"] if other_families else []
    if not differing_families:
        clearest = _find_clearest_evidence(evidence)
        details = [f"clearest is {clearest.family}: {_describe_metric(clearest)}"]
    return verdict_parts, "; ".join(details)


def _find_clearest_evidence(evidence: Sequence[Evidence]) -> Evidence:
    """Return the metric with the smallest p; of equal p, the metric with the narrowest relative interval.

    A metric without an interval comes last, such as a metric with the same difference for all seeds.
    """

    def get_key(item: Evidence) -> tuple[float, float]:
        width = item.high - item.low
        return item.p, width / (abs(item.effect) or 1e-300) if math.isfinite(width) else math.inf

    return min(evidence, key=get_key)


def _describe_metric(item: Evidence) -> str:
    return f"{item.label} {item.format_effect()}, p {item.p:.3g}"


def _explain_conflicts(evidence: Sequence[Evidence], correction: str) -> list[str]:
    """Return sentences about intervals that disagree with p."""
    skewed = [item.metric for item in evidence if item.p <= SIGNIFICANCE_LEVEL and item.kind == CANNOT_TELL]
    excluding = [
        item
        for item in evidence
        if item.p > SIGNIFICANCE_LEVEL and (item.low > 0 or item.high < 0) and item.kind != DIFFERS
    ]
    corrected = [item.metric for item in excluding if item.uncorrected_p <= SIGNIFICANCE_LEVEL]
    approximate = [item.metric for item in excluding if item.uncorrected_p > SIGNIFICANCE_LEVEL]
    sentences = []
    if skewed:
        sentences.append(
            f"{join_and_shorten(skewed)}: p is small, but the interval contains 0, so no difference is claimed"
        )
    if corrected:
        sentences.append(
            f"{join_and_shorten(corrected)}: the interval excludes 0, but unlike p it is not corrected for {correction}"
        )
    if approximate:
        sentences.append(
            f"{join_and_shorten(approximate)}: the interval excludes 0, but the exact test has p above 0.05"
        )
    return sentences


def _list_unmeasured(data: AnswerData, question: str) -> list[str]:
    if question == ROOM:
        return [
            f"{name} is not measured: {data.no_spread_reason if name == SPREAD_METRIC else 'some videos have no value'}"
            for name in ROOM_METRICS
            if name not in data.metric_names
        ]
    if question == PATH and data.unsettled_metrics:
        return [f"path excludes metrics that depend on the steps: {', '.join(sorted(data.unsettled_metrics))}"]
    return []


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
            effects_text=_explain_missing(data, question),
            min_attainable_p=min_p,
        )
    p_by_metric = _compute_omnibus_p(data, question, [item.metric for item in rows[0]])
    kind = DIFFERS if min(p_by_metric.values()) <= SIGNIFICANCE_LEVEL else CANNOT_TELL
    correction = _describe_correction(len(p_by_metric), 1)
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
    notes = _list_unmeasured(data, question)
    if bool(differing_names) != bool(differing_count):
        notes.append(_explain_disagreement(bool(differing_names), _describe_correction(len(p_by_metric), len(rows))))
    return Answer(
        question=question,
        kind=kind,
        verdict_parts=tuple(verdict_parts),
        effects_text=effects_text,
        p_text=f"{_describe_p(correction, min_p)}; {pairs_text}",
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


def _compute_omnibus_p(data: AnswerData, question: str, metric_names: Sequence[str]) -> dict[str, float]:
    """Return, by metric, the p for any difference between groups, corrected for these metrics."""
    if question == PLACE:
        return {metric_names[0]: data.place_omnibus_p}
    values = data.cell_values[..., [list(data.metric_names).index(name) for name in metric_names]]
    p = run_omnibus_max_test(values.mean(1))
    if data.tests_phrasings:
        p = np.maximum(p, run_omnibus_max_test(values.mean(0)))
    return dict(zip(metric_names, p.tolist(), strict=True))


def _describe_clearest_pair(data: AnswerData, rows: Sequence[Sequence[Evidence]]) -> str:
    clearest_items = [_find_clearest_evidence(row) for row in rows]
    clearest = _find_clearest_evidence(clearest_items)
    i, j = data.group_pairs[next(k for k, item in enumerate(clearest_items) if item is clearest)]
    return f"{data.groups[i].name} against {data.groups[j].name}, {_describe_metric(clearest)}"
