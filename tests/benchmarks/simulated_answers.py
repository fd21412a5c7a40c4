"""Place, room and path of simulated videos over a numeric setting."""

import itertools

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.answer import Answer
from wantui.analysis.answer_evidence import FAMILIES_BY_METRIC, PATH, PLACE, ROOM, ROOM_METRICS, AnswerData
from wantui.analysis.differences import PairEffects
from wantui.analysis.dose_response import Doses
from wantui.analysis.group import Group
from wantui.analysis.places import compute_contrast_gram, measure_contrast, run_omnibus_place_test
from wantui.analysis.trend_answers import answer_trend_question

FloatArray = NDArray[np.float64]


class UnmarkedGroup(Group):
    """A group whose metric names have no marks, so that it needs no videos."""

    def label_metric(self, metric: str) -> str:
        return metric


def simulate_trend_answer(states: FloatArray, values: FloatArray, question: str) -> Answer:
    """Return the answer to a question over a setting of 1, 2, 4, ...

    Args:
        states: [groups, seeds, phrasings, k] final states.
        values: [seeds, groups, metrics] values of the metrics of room, then of as many metrics of path as are given.
    """
    group_count = len(states)
    doses = Doses("setting", tuple(2.0**g for g in range(group_count)), tuple(range(group_count)))
    names = [*ROOM_METRICS, *FAMILIES_BY_METRIC][: values.shape[2]]
    means = states.mean(2)
    data = AnswerData(
        groups=[UnmarkedGroup(str(g), ()) for g in range(group_count)],
        group_pairs=list(itertools.combinations(range(group_count), 2)),
        metric_names=names,
        cell_values=values[:, None],
        effects=PairEffects([], np.empty(0)),
        unsettled_metrics=frozenset(),
        equivalence_margin=0.05,
        place_omnibus_p=run_omnibus_place_test(means),
        doses=doses,
        place_slope=measure_contrast(compute_contrast_gram(means, doses.make_group_weights(group_count))),
    )
    metrics_by_question = {PLACE: [], ROOM: names[: len(ROOM_METRICS)], PATH: names[len(ROOM_METRICS) :]}
    return answer_trend_question(data, doses, question, metrics_by_question[question])
