"""The result of a comparison of groups."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wantui.analysis.answer import Answer
from wantui.analysis.arrays import FloatArray
from wantui.analysis.declaration import Declaration
from wantui.analysis.differences import Difference, format_relative_changes
from wantui.analysis.dispersion import PermutationTest
from wantui.analysis.dose_response import DoseResponse
from wantui.analysis.final_states import SPREAD_METRIC, DispersionCurve
from wantui.analysis.group import Group, GroupSummary
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.metrics import describe_ratio_base, get_metric_unit
from wantui.analysis.null_models import GaussianNull
from wantui.analysis.verdicts import Verdict
from wantui.analysis.video import Video
from wantui.analysis.video_guidance import is_unguided
from wantui.formatting import format_share


@dataclass(frozen=True)
class Comparison:
    """Result of comparing video groups."""

    grouping: str
    primary_metric: str
    seeds: tuple[int, ...]
    groups: tuple[Group, ...]
    """Compared groups, all with the same seeds."""
    summaries_by_metric: Mapping[str, Mapping[str, GroupSummary]]
    """Summaries by metric, then by group."""
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    omnibus_p: float
    """p for any difference between groups in the declared metric."""
    location_test: PermutationTest | None
    """PERMANOVA of the final states."""
    spread_test: PermutationTest | None
    """PERMDISP of the final states."""
    squared_centroid_distances_by_pair: Mapping[tuple[str, str], float]
    """Squared distance of the mean final states by pair of groups, divided by D.

    The estimate is |mean paired difference|^2 without its bias, so chance can make it negative."""
    dispersion_curves_by_group: Mapping[str, DispersionCurve]
    """Dispersion over all noise levels, by group."""
    sigmas_by_group: Mapping[str, FloatArray]
    """Noise levels of the measured states, by group."""
    chance_interval: tuple[float, float]
    """Central 95 % of the differences in the declared metric between two groups that are exchanged at random within
    seeds."""
    false_positive_rate: float
    """Share of these exchanges in which the test calls the groups different at the 5 % level.

    Computed for `spread` only, whose values are recomputed in each exchange. NaN for other metrics, for which it is
    5 % by construction, and NaN with fewer than MIN_SEEDS_FOR_FALSE_POSITIVE_RATE seeds."""
    gaussian_nulls_by_group: Mapping[str, GaussianNull]
    """Gaussian null models by group."""
    stride: int = 1
    """Stride of the trajectories, in stored states."""
    warnings: tuple[str, ...] = ()
    exclusion_reasons: tuple[tuple[str, str], ...] = ()
    """Name and reason of each excluded video."""
    unreadable_videos: tuple[str, ...] = ()
    """Names of the excluded videos whose projection cannot be used."""
    dose_response: DoseResponse | None = None
    """How the metrics change with the grouping setting; None if that setting is not numeric."""
    phrasing_numbers: tuple[int, ...] = ()
    """Phrasing number, from 0, for each of a seed's videos."""
    answers: tuple[Answer, ...] = ()
    """Place, room and path in reading order: of all groups if there are more than two, then of each pair."""
    declaration: Declaration | None = None
    """When the declared metric was declared; None if unknown."""
    unguided: "Comparison | None" = None
    """Comparison of the same prompts and seeds at cfg_scale 1, if there are such videos (`compare_with_unguided`)."""

    relative_chance_interval: tuple[float, float] = (math.nan, math.nan)
    """`chance_interval` as a share of the second group's mean, as the differences are; NaN if they are in the unit."""

    @property
    def videos(self) -> list[Video]:
        """Return the compared videos."""
        return [video for group in self.groups for video in group.videos]

    @property
    def used_controls(self) -> set[str]:
        """Return the names of the controls that changed any compared video."""
        return {
            key.partition(".")[0] for video in self.videos for key, value in video.settings.items() if value is not None
        }

    def find_difference(self, metric: str, first_group: str, second_group: str) -> Difference | None:
        """Return the difference between two groups in a metric; None if it was not computed."""
        key = (metric, first_group, second_group)
        return next(
            (item for item in self.differences if (item.metric, item.first_group, item.second_group) == key), None
        )

    def find_verdict(self, first_group: str, second_group: str) -> Verdict | None:
        """Return the verdict on a pair of groups; None if there is none."""
        pair = (first_group, second_group)
        return next((item for item in self.verdicts if (item.first_group, item.second_group) == pair), None)

    @property
    def answered_pairs(self) -> list[tuple[str, str]]:
        """Return the answers' group pairs, in order; two empty names stand for all groups."""
        return list(dict.fromkeys((answer.first_group, answer.second_group) for answer in self.answers))

    def find_answers(self, first_group: str = "", second_group: str = "") -> list[Answer]:
        """Return the answers on place, room and path of a pair of groups, or of all groups; empty if none exist."""
        pair = (first_group, second_group)
        return [item for item in self.answers if (item.first_group, item.second_group) == pair]

    @property
    def main_answers(self) -> list[Answer]:
        """Return the answers of all groups or, if there are none, of the only pair."""
        return self.find_answers(*self.answered_pairs[0]) if self.answers else []

    @property
    def matched_groups(self) -> MatchedGroups:
        """Return the compared groups with their shared seeds and phrasings."""
        return MatchedGroups(self.groups, self.seeds, [], np.array(self.phrasing_numbers))

    @property
    def is_guided(self) -> bool:
        """Return whether any of the compared videos was generated with guidance."""
        return not all(map(is_unguided, self.videos))

    def describe_chance(self) -> str:
        """Describe the differences that arise by chance; empty if there are too few seeds."""
        low, high = self.chance_interval
        if not math.isfinite(low):
            return ""
        unit = f" {get_metric_unit(self.primary_metric)}".rstrip()
        ends = [f"{low:+.3g}{unit}", f"{high:+.3g}{unit}"]
        base = ""
        if math.isfinite(self.relative_chance_interval[0]):
            ends = format_relative_changes(self.relative_chance_interval)
            base = describe_ratio_base(self.primary_metric)
        description = (
            f"with groups exchanged at random within seeds, 95 % of the differences in "
            f"{self.primary_metric} are between {ends[0]} and {ends[1]}{base}"
        )
        if math.isfinite(self.false_positive_rate):
            rate_text = format_share(self.false_positive_rate, 1)
            description += f"; with {SPREAD_METRIC} recomputed, the test at the 5 % level calls the groups "
            description += f"different in {rate_text} of the exchanges (up to 8 % is chance)"
        return description
