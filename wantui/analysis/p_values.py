"""The p that is printed with a difference, and why it can differ from other p values of the same difference."""

from typing import TYPE_CHECKING

from wantui.analysis.answer_evidence import PATH, ROOM
from wantui.analysis.differences import SIGNIFICANCE_LEVEL, Difference
from wantui.formatting import format_count, join_and_shorten

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison

MAX_NAMED_METRICS = 4
"""Maximum number of metrics that a sentence names."""


def find_question(comparison: "Comparison", metric: str) -> str:
    """Return the question whose answer includes a metric; empty if no answer includes it."""
    questions = [answer.question for answer in comparison.answers if metric in answer.p_by_metric]
    return questions[0] if questions else ""


def find_decisive_p(comparison: "Comparison", difference: Difference) -> float:
    """Return the p that decides on a difference.

    It is the p in the answer that includes the metric or, if no answer does, the p over all printed metrics.
    """
    answers = comparison.find_answers(difference.first_group, difference.second_group)
    p_values = [answer.p_by_metric[difference.metric] for answer in answers if difference.metric in answer.p_by_metric]
    return p_values[0] if p_values else difference.family_p


def describe_p_values(comparison: "Comparison") -> list[str]:
    """Return sentences about the tests that p is corrected for, and about p values that lead to different decisions."""
    metric_counts = {
        answer.question: len(answer.p_by_metric) for answer in comparison.answers if answer.question in (ROOM, PATH)
    }
    pair_count = len(comparison.verdicts)
    pairs_text = f" and for {pair_count} pairs" if pair_count > 1 else ""
    families_text = " or ".join(f"{count} of {question}" for question, count in metric_counts.items() if count)
    printed = list(dict.fromkeys(difference.metric for difference in comparison.differences))
    others = [metric for metric in printed if not find_question(comparison, metric)]
    all_text = f"for the {format_count(len(printed), 'metric')} of this table"
    if families_text:
        sentences = [f"p is corrected for the metrics of its answer ({families_text}){pairs_text}, by max-T"]
        sentences[0] += f"; the p of {join_and_shorten(others, MAX_NAMED_METRICS)} {all_text}" if others else ""
    else:
        sentences = [f"p is corrected {all_text}{pairs_text}, by max-T"]
    sentences[0] += f"; the verdict's p is the p of {comparison.primary_metric} alone"
    sentences[0] += ", corrected for the pairs only" if pair_count > 1 else ", and not corrected"
    hidden = [
        difference
        for difference in comparison.differences
        if difference.paired_effect.p <= SIGNIFICANCE_LEVEL < find_decisive_p(comparison, difference)
    ]
    if hidden:
        names = list(dict.fromkeys(difference.metric for difference in hidden))
        sentences.append(
            f"{join_and_shorten(names, MAX_NAMED_METRICS)}: p is at most {SIGNIFICANCE_LEVEL:g} only before the "
            f"correction. Among {format_count(len(comparison.differences), 'test')}, this can happen by chance"
        )
    return [*sentences, *explain_declared_p(comparison)]


def explain_declared_p(comparison: "Comparison") -> list[str]:
    """Return sentences about pairs and a slope whose declared metric is decided otherwise as one of several metrics."""
    declared, decisive = {}, {}
    for verdict in comparison.verdicts:
        difference = comparison.find_difference(verdict.metric, verdict.first_group, verdict.second_group)
        if difference is not None:
            subject = f"{verdict.metric}, {verdict.first_group} against {verdict.second_group}"
            declared[subject], decisive[subject] = verdict.p, find_decisive_p(comparison, difference)
    if (dose_response := comparison.dose_response) is not None:
        trend = dose_response.trends[0]
        subject = f"{trend.metric}, slope over {dose_response.doses.setting_name}"
        declared[subject], decisive[subject] = trend.declared_p, trend.answer_or_family_p
    return [
        f"{subject}: p {p:.3g} as the declared metric, without correction for other metrics; "
        f"{decisive[subject]:.3g} as one of several metrics"
        for subject, p in declared.items()
        if (p <= SIGNIFICANCE_LEVEL) != (decisive[subject] <= SIGNIFICANCE_LEVEL)
    ]
