"""One answer to "do the groups differ?", and the texts that answers on groups and on trends share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wantui.analysis.answer_evidence import (
    ALIKE,
    CANNOT_TELL,
    DIFFERS,
    PATH,
    PLACE,
    ROOM,
    ROOM_METRICS,
    AnswerData,
    Evidence,
)
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.statistics import MAX_CORRECTED_TESTS, count_min_pairs
from wantui.analysis.verdicts import MIN_PHRASINGS
from wantui.formatting import capitalize_first, format_count, join_and_shorten


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
    """Correction of p, and the smallest possible p; with the clearest pair if the answer is about all groups.
    Empty if nothing is measured."""
    notes: tuple[str, ...] = ()
    """Sentences about intervals that disagree with p, and about excluded metrics."""
    p_by_metric: Mapping[str, float] = field(default_factory=dict)
    """Deciding p of each metric, corrected for the tests in `correction`."""
    any_difference_p: Mapping[str, float] = field(default_factory=dict)
    """p of a separate test for any difference between the groups, by metric, corrected for the same metrics; it does
    not decide. Empty unless the evidence is slopes over more than two groups."""
    min_attainable_p: float
    """Smallest p that this number of seeds can give."""
    correction: str = ""
    """Tests that p is corrected for, such as "3 metrics and 6 pairs"; empty if there is one test."""
    evidence: tuple[Evidence, ...] = ()
    """Effect, interval and p of each metric; for an answer about all groups, the slopes if the setting is numeric."""
    setting_name: str = ""
    """Numeric setting whose slopes are the evidence; empty for the differences of a pair."""

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


def explain_missing(data: AnswerData, question: str) -> str:
    return data.no_place_reason if question == PLACE else "no metric has a value in all videos"


def describe_p(correction: str, min_p: float) -> str:
    limit_text = f"smallest possible p {min_p:.3g}"
    return f"p corrected for {correction}, {limit_text}" if correction else limit_text


def describe_units_for_correction(data: AnswerData, evidence: Sequence[Evidence], pair_count: int) -> str:
    """Return how many seeds and phrasings the correction needs.

    The text is empty unless the correction keeps every p above 0.05, including a smallest possible p.
    """
    limit = data.min_attainable_p * (1 + 1e-9)
    if any(item.p <= SIGNIFICANCE_LEVEL for item in evidence) or not any(
        item.uncorrected_p <= limit <= SIGNIFICANCE_LEVEL for item in evidence
    ):
        return ""
    test_count = len(evidence) * pair_count
    if test_count > MAX_CORRECTED_TESTS:
        return ""
    needed_count, phrasing_count = count_min_pairs(test_count), data.cell_values.shape[1]
    count_by_unit = {"seeds": data.seed_count}
    if phrasing_count >= MIN_PHRASINGS:  # p is then the larger of the tests over seeds and over phrasings
        count_by_unit["phrasings"] = phrasing_count
    parts = [f"{needed_count} {unit} (now {count})" for unit, count in count_by_unit.items() if count < needed_count]
    return f"this correction needs about {' and '.join(parts)}" if parts else ""


def describe_correction(metric_count: int, pair_count: int) -> str:
    parts = [format_count(metric_count, "metric")] if metric_count > 1 else []
    parts += [format_count(pair_count, "pair")] if pair_count > 1 else []
    return " and ".join(parts)


def describe_room(claims: tuple[str, str, str, str], evidence: Sequence[Evidence]) -> tuple[list[str], str]:
    """Return the parts of the verdict on room, and its details.

    Args:
        claims: the subject; then the claims of more room, less room and equivalence, which the names of metrics follow.
    """
    subject, more_claim, less_claim, alike_claim = claims
    items_by_claim = {
        f"{subject}{more_claim}": [item for item in evidence if item.kind == DIFFERS and item.effect > 0],
        f"{subject}{less_claim}": [item for item in evidence if item.kind == DIFFERS and item.effect < 0],
        alike_claim: [item for item in evidence if item.kind == ALIKE],
        "cannot tell in": [item for item in evidence if item.kind == CANNOT_TELL],
    }
    verdict_parts = [f"{claim} {_name_room_metrics(items)}" for claim, items in items_by_claim.items() if items]
    if len({item.effect > 0 for item in evidence if item.kind == DIFFERS}) > 1:
        more, less, *others = verdict_parts
        verdict_parts = [f"mixed: {more}, and {less.removeprefix(subject)}", *others]
    details = "; ".join(describe_metric(item) for items in items_by_claim.values() for item in items)
    return verdict_parts, details


def _name_room_metrics(items: Sequence[Evidence]) -> str:
    """Name metrics of room, and say whether they describe each path or all videos of a group."""
    path_names = [item.metric for item in items if item.metric != SPREAD_METRIC]
    parts = [f"{', '.join(path_names)} of each path"] if path_names else []
    parts += [f"{SPREAD_METRIC} between videos"] if len(path_names) < len(items) else []
    return " and ".join(parts)


def describe_path(claim: str, evidence: Sequence[Evidence]) -> tuple[list[str], str]:
    """Return the parts of the verdict, and the details.

    The details are the clearest metric of each family that differs, or of all families if none does. The names of the
    families follow the claim that they differ.
    """
    items_by_family: dict[str, list[Evidence]] = {}
    for item in evidence:
        items_by_family.setdefault(item.family, []).append(item)
    differing_families, details = [], []
    for family, items in items_by_family.items():
        if differing_items := [item for item in items if item.kind == DIFFERS]:
            differing_families.append(family)
            more_text = f" and {len(differing_items) - 1} more" if len(differing_items) > 1 else ""
            details.append(f"{family}: {describe_metric(find_clearest_evidence(differing_items))}{more_text}")
    other_families = [family for family in items_by_family if family not in differing_families]
    verdict_parts = [f"{claim} {', '.join(differing_families)}"] if differing_families else []
    verdict_parts += [f"cannot tell in {', '.join(other_families)}"] if other_families else []
    if not differing_families:
        clearest = find_clearest_evidence(evidence)
        details = [f"clearest is {clearest.family}: {describe_metric(clearest)}"]
    return verdict_parts, "; ".join(details)


def find_clearest_evidence(evidence: Sequence[Evidence]) -> Evidence:
    """Return the metric with the smallest p; among equal p, the metric with the narrowest relative interval.

    A metric without an interval comes last, such as a metric with the same difference for all seeds.
    """

    def get_key(item: Evidence) -> tuple[float, float]:
        width = item.high - item.low
        return item.p, width / (abs(item.effect) or 1e-300) if math.isfinite(width) else math.inf

    return min(evidence, key=get_key)


def describe_metric(item: Evidence) -> str:
    return f"{item.label} {item.format_effect()}, p {item.p:.3g}"


def warn_about_few_seeds(data: AnswerData) -> list[str]:
    """Return a sentence if the seeds are too few for a significant difference."""
    if data.min_attainable_p <= SIGNIFICANCE_LEVEL:
        return []
    seeds_text = format_count(data.seed_count, "seed")
    return [f"{seeds_text} cannot give a p of {SIGNIFICANCE_LEVEL:g}: generate at least {count_min_pairs()}"]


def explain_conflicts(evidence: Sequence[Evidence], correction: str) -> list[str]:
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


def list_unmeasured(data: AnswerData, question: str) -> list[str]:
    if question == ROOM:
        return [
            f"{name} is not measured: {data.no_spread_reason if name == SPREAD_METRIC else 'some videos have no value'}"
            for name in ROOM_METRICS
            if name not in data.metric_names
        ]
    if question == PATH and data.unsettled_metrics:
        return [f"path excludes metrics that depend on the steps: {', '.join(sorted(data.unsettled_metrics))}"]
    return []
