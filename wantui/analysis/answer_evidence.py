"""Evidence for the answers on groups: effects, intervals and corrected p of place, room and path."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.differences import (
    SIGNIFICANCE_LEVEL,
    Difference,
    GroupIndexPairs,
    PairEffects,
    compare_group_pairs,
    compute_family_p,
    format_effect_parts,
)
from wantui.analysis.dose_response import Doses
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group import Group
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.metrics import METRICS, describe_ratio_base
from wantui.analysis.places import (
    ContrastDistance,
    PlaceDifference,
    compare_places,
    compute_contrast_gram,
    measure_contrast,
    run_omnibus_place_test,
    run_place_test,
)
from wantui.analysis.statistics import compute_min_attainable_p, run_omnibus_max_test
from wantui.analysis.verdicts import MIN_PHRASINGS, is_within_margin

PLACE, ROOM, PATH = "place", "room", "path"
QUESTIONS = {
    PLACE: "do the groups lie in different places of latent space?",
    ROOM: "does one group take more room?",
    PATH: "do the paths from noise to video differ?",
}
"""Question in words, by the name of its answer."""
CHANCE_NOTE = (
    "by chance: 95 % of the distances are smaller if the difference of each seed gets a random sign; this limit is "
    "computed from the observed differences, so it grows with the distance. Between two seeds: typical distance "
    "between two seeds of a group, each averaged over its phrasings"
)
"""Meaning of the figures beside a distance."""
DISTANCE = "distance"
"""Metric that represents the question of place: the distance between the means of two groups' final states."""
ROOM_METRICS = ("log_volume", "effective_dimension", SPREAD_METRIC)
"""Metrics of room; more is more room."""
EQUIVALENCE_METRICS = ("log_volume", SPREAD_METRIC)
"""Metrics of room in which two groups can be called alike. effective_dimension is left out: its values are near 1, so
a margin of 5 % would hide a large change."""
PATH_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "length": ("length", "chord", "velocity"),
    "bend": (
        "straightness",
        "detour",
        "turning",
        "largest_deviation",
        "flow_straightness",
        "chord_alignment",
        "curvature",
        "acceleration",
        "first_pc_variance",
    ),
    "timing": ("commitment",),
    "norm": ("final_norm", "least_norm"),
    "guidance": ("guidance_gap", "guidance_gap_early", "guidance_gap_late"),
}
"""Metrics of path, by family."""
FAMILIES_BY_METRIC = {metric: family for family, metrics in PATH_FAMILIES.items() for metric in metrics}
DIFFERS, ALIKE, CANNOT_TELL, NOT_MEASURED = "differs", "alike", "cannot tell", "not measured"


@dataclass(frozen=True)
class Evidence:
    """One metric of an answer."""

    metric: str
    label: str
    """Name of the metric, marked if it is measured at a larger stride."""
    family: str
    """Family of a path metric; empty for other metrics."""
    effect: float
    low: float
    high: float
    """Effect with its 95 % interval: as `Difference.relative_difference` if `is_relative`, otherwise in `unit`."""
    is_relative: bool
    unit: str
    p: float
    """Deciding p: corrected for the metrics and pairs that `Answer.correction` names."""
    uncorrected_p: float
    """p of this metric and pair alone, over seeds."""
    kind: str
    """differs, alike or cannot tell."""

    def format_effect(self) -> str:
        """Return the effect with its interval, such as "+12.3 % (95 %: +3.1 % to +20.0 %)"."""
        specification = ".3g" if self.metric == DISTANCE else "+.3g"
        effect, low, high = format_effect_parts(
            self.effect, self.low, self.high, self.unit, self.is_relative, specification
        )
        base = describe_ratio_base(self.metric) if self.is_relative else ""
        return f"{effect}{base} (95 %: {low} to {high})" if low else f"{effect}{base}"


@dataclass(frozen=True)
class AnswerData:
    """Values that the answers are computed from."""

    groups: Sequence[Group]
    group_pairs: GroupIndexPairs
    metric_names: Sequence[str]
    """Metrics that all videos have, including `spread` if it can be computed."""
    cell_values: FloatArray
    """[seeds, phrasings, groups, metrics]."""
    effects: PairEffects
    """Tests of all pairs and metrics."""
    unsettled_metrics: frozenset[str]
    """Metrics that depend on the number of steps; the answer about path excludes them."""
    equivalence_margin: float
    absolute_metrics: Collection[str] = ()
    """Metrics whose differences are never in percent."""
    places: Sequence[PlaceDifference] = ()
    """Distance of each pair of groups; empty without final states."""
    place_phrasing_p: Sequence[float] = ()
    """p of each pair with phrasings as units; empty with fewer than MIN_PHRASINGS."""
    place_omnibus_p: float = math.nan
    """p of the test for any difference in place between the groups."""
    doses: Doses | None = None
    """Numbers of the grouping setting; None if it is not numeric."""
    place_slope: ContrastDistance | None = None
    """Change of the mean final states for each unit of the setting, with the larger p of seeds and, if they are tested,
    phrasings; None without numbers or final states."""
    no_place_reason: str = ""
    """Reason why there are no final states."""
    no_spread_reason: str = ""
    """Reason why there is no spread, such as too few videos of a group."""

    @property
    def seed_count(self) -> int:
        return self.cell_values.shape[0]

    @property
    def tests_phrasings(self) -> bool:
        """Return whether p is the larger of the p over seeds and the p over phrasings."""
        return self.cell_values.shape[1] >= MIN_PHRASINGS

    @property
    def min_attainable_p(self) -> float:
        """Return the smallest p that the seeds and, if they are tested, the phrasings can give."""
        counts = [self.seed_count, self.cell_values.shape[1]] if self.tests_phrasings else [self.seed_count]
        return max(map(compute_min_attainable_p, counts))


def collect_answer_data(
    matched_groups: MatchedGroups,
    final_states: FinalStates | None,
    metric_names: Sequence[str],
    cell_values: FloatArray,
    effects: PairEffects,
    unsettled_metrics: Iterable[str],
    equivalence_margin: float,
    no_place_reason: str,
    no_spread_reason: str,
    absolute_metrics: Collection[str],
    doses: Doses | None,
) -> AnswerData:
    """Return the values that the answers are computed from, with the distances between all pairs of groups.

    Args:
        metric_names: metrics of `cell_values` [seeds, phrasings, groups, metrics].
        effects: tests of all pairs and metrics.
        no_place_reason: reason why `final_states` is None.
        no_spread_reason: reason why `spread` is not among the metrics.
        absolute_metrics: metrics whose differences are never in percent.
        doses: numbers of the grouping setting, if it is numeric.
    """
    groups = matched_groups.groups
    group_pairs = list(itertools.combinations(range(len(groups)), 2))
    unsettled = frozenset(unsettled_metrics)
    data = AnswerData(
        groups,
        group_pairs,
        metric_names,
        cell_values,
        effects,
        unsettled,
        equivalence_margin,
        absolute_metrics,
        no_place_reason=no_place_reason,
        no_spread_reason=no_spread_reason,
        doses=doses,
    )
    if final_states is None:
        return data
    states = final_states.group_by_seed(len(matched_groups.seeds))
    omnibus_p = run_omnibus_place_test(states.mean(2))
    places = compare_places(states.mean(2), group_pairs)
    slope = None
    if doses is not None:
        weights = doses.make_group_weights(len(groups))
        slope = measure_contrast(compute_contrast_gram(states.mean(2), weights))
    phrasing_p: list[float] = []
    if data.tests_phrasings:
        numbers = matched_groups.phrasing_numbers
        phrasing_states = np.stack(
            [states[:, :, numbers == number].mean((1, 2)) for number in range(matched_groups.phrasing_count)], axis=1
        )
        phrasing_p = [place.family_p for place in compare_places(phrasing_states, group_pairs)]
        omnibus_p = max(omnibus_p, run_omnibus_place_test(phrasing_states))
        if slope is not None:
            slope = replace(slope, p=max(slope.p, run_place_test(compute_contrast_gram(phrasing_states, weights))))
    return replace(data, places=places, place_phrasing_p=phrasing_p, place_omnibus_p=omnibus_p, place_slope=slope)


def collect_place_evidence(data: AnswerData) -> list[Evidence]:
    evidence = []
    for k, place in enumerate(data.places):
        p = max(place.family_p, data.place_phrasing_p[k]) if data.tests_phrasings else place.family_p
        differs = p <= SIGNIFICANCE_LEVEL and not place.distance_low <= 0
        evidence.append(
            Evidence(
                metric=DISTANCE,
                label=DISTANCE,
                family="",
                effect=place.distance,
                low=place.distance_low,
                high=place.distance_high,
                is_relative=False,
                unit="",
                p=p,
                uncorrected_p=place.p,
                kind=DIFFERS if differs else CANNOT_TELL,
            )
        )
    return evidence


def collect_metric_evidence(data: AnswerData, metric_names: Sequence[str]) -> list[list[Evidence]]:
    """Return the evidence of each pair of groups in each metric, with p corrected for these metrics and pairs."""
    if not metric_names:
        return [[] for _ in data.group_pairs]
    columns = [list(data.metric_names).index(name) for name in metric_names]
    values = data.cell_values[..., columns]
    effects = data.effects.select_metrics(columns)
    differences = compare_group_pairs(
        data.groups, metric_names, values, data.group_pairs, data.equivalence_margin, effects, data.absolute_metrics
    )
    p = np.array([difference.family_p for difference in differences]).reshape(-1, len(metric_names))
    if data.tests_phrasings:
        phrasing_p = np.array([difference.phrasing_p for difference in differences]).reshape(p.shape)
        p = np.maximum(p, compute_family_p(values.mean(0), data.group_pairs, phrasing_p))
    axes = (1, 0) if data.tests_phrasings else (1,)
    labels = [data.groups[0].label_metric(name) for name in metric_names]
    evidence = []
    for k, (i, j) in enumerate(data.group_pairs):
        row = []
        for m in range(len(metric_names)):
            difference = differences[k * len(metric_names) + m]
            value_pairs = [(values[..., i, m].mean(axis), values[..., j, m].mean(axis)) for axis in axes]
            is_alike = difference.metric in EQUIVALENCE_METRICS and all(
                is_within_margin(difference.metric, *pair, data.equivalence_margin) for pair in value_pairs
            )
            row.append(_make_metric_evidence(difference, labels[m], float(p[k, m]), is_alike))
        evidence.append(row)
    return evidence


def _make_metric_evidence(difference: Difference, label: str, p: float, is_alike: bool) -> Evidence:
    effect, is_relative = difference.paired_effect, difference.is_relative
    low, high = effect.interval_low, effect.interval_high
    kind = CANNOT_TELL
    if p <= SIGNIFICANCE_LEVEL and not low <= 0 <= high:
        kind = DIFFERS
    elif is_alike and p > SIGNIFICANCE_LEVEL:
        kind = ALIKE
    return Evidence(
        metric=difference.metric,
        label=label,
        family=FAMILIES_BY_METRIC.get(difference.metric, ""),
        effect=difference.relative_difference if is_relative else effect.mean,
        low=difference.relative_low if is_relative else low,
        high=difference.relative_high if is_relative else high,
        is_relative=is_relative,
        unit=METRICS[difference.metric].unit if difference.metric in METRICS else "",
        p=p,
        uncorrected_p=effect.p,
        kind=kind,
    )


def compute_omnibus_p(data: AnswerData, question: str, metric_names: Sequence[str]) -> dict[str, float]:
    """Return, by metric, the p for any difference between groups, corrected for these metrics."""
    if question == PLACE:
        return {metric_names[0]: data.place_omnibus_p}
    values = data.cell_values[..., [list(data.metric_names).index(name) for name in metric_names]]
    p = run_omnibus_max_test(values.mean(1))
    if data.tests_phrasings:
        p = np.maximum(p, run_omnibus_max_test(values.mean(0)))
    return dict(zip(metric_names, p.tolist(), strict=True))
