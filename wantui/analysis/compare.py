"""Comparison of groups of videos, paired by seed, with a verdict on one declared metric."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.comparability import VideoNamer, find_differing_settings, select_comparable_videos
from wantui.analysis.differences import (
    ALPHA,
    Difference,
    GroupPairs,
    compare_pairs,
    compute_family_p,
    equalise_within_rounding,
)
from wantui.analysis.dispersion import PermutationTest
from wantui.analysis.final_states import (
    SPREAD_METRIC,
    DispersionCurve,
    FinalStates,
    UnusableProjectionsError,
    VideoKey,
    get_video_key,
)
from wantui.analysis.groups import CannotCompareError, Group, GroupSummary, MatchedGroups, summarise_group
from wantui.analysis.null_models import GaussianNull, build_gaussian_null
from wantui.analysis.statistics import Floats, flip_signs, run_omnibus_test
from wantui.analysis.strides import find_unsettled_metrics
from wantui.analysis.trajectory import METRICS, NoGeometryError
from wantui.analysis.verdicts import MIN_PHRASINGS, Verdict, judge_difference
from wantui.analysis.video import Video
from wantui.formatting import format_count

DEFAULT_MARGIN = 0.05
"""Default equivalence margin, as a share of the mean."""
MIN_SEEDS_FOR_RATE = 10
"""Minimum number of seeds for reporting the false-positive rate; with fewer it is too noisy."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing groups of videos."""

    grouping: str
    primary_metric: str
    seeds: tuple[int, ...]
    groups: tuple[Group, ...]
    """Compared groups, all with the same seeds."""
    summaries: Mapping[str, Mapping[str, GroupSummary]]
    """Summaries by metric, then by group."""
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    omnibus_p: float
    """p of the permutation test, within seeds, that any group differs in the declared metric."""
    location_test: PermutationTest | None
    """PERMANOVA of the final states."""
    spread_test: PermutationTest | None
    """PERMDISP of the final states."""
    centroid_distances: Mapping[tuple[str, str], float]
    """Squared distance by pair of groups: |mean paired difference of the final states|^2 / D, unbiased, so that chance
    can make it negative."""
    dispersion_curves: Mapping[str, DispersionCurve]
    """Dispersion over all noise levels, by group."""
    sigmas: Mapping[str, Floats]
    """Noise levels of the measured states, by group."""
    null_band: tuple[float, float]
    """Central 95 % of the differences in the declared metric between two groups, when groups are exchanged at random
    within seeds."""
    null_rate: float
    """Share of such exchanges that the test of `spread` calls different at 5 %, with spread recomputed in each; NaN
    with fewer than MIN_SEEDS_FOR_RATE seeds, and for other metrics, where it is 5 % by construction."""
    gaussian_nulls: Mapping[str, GaussianNull]
    """Gaussian null models by group."""
    stride: int = 1
    """Stride of the trajectories, in stored states."""
    warnings: tuple[str, ...] = ()
    excluded_videos: tuple[tuple[str, str], ...] = ()
    """Names of excluded videos, with reasons."""

    def describe_chance(self) -> str:
        """Describe the differences that arise by chance; empty if there are too few seeds."""
        low, high = self.null_band
        if not math.isfinite(low):
            return ""
        text = (
            f"with groups exchanged at random within seeds, 95 % of the differences in "
            f"{self.primary_metric} are between {low:+.3g} and {high:+.3g}"
        )
        if math.isfinite(self.null_rate):
            text += f"; with {SPREAD_METRIC} recomputed, the test calls {self.null_rate:.1%} of them different "
            text += "at the 5 % level (up to 8 % is chance)"
        return text

    def describe_location(self) -> str:
        """Describe whether the final states of the groups differ in location; empty if unknown."""
        if self.location_test is None or self.spread_test is None:
            return ""
        if self.location_test.p > ALPHA:
            text = "cannot tell"
        elif self.spread_test.p > ALPHA:
            text = "differs"
        else:
            text = "differs, or only the spread does: this test responds to both"
        test = self.location_test
        return f"location of the final states: {text} (PERMANOVA F {test.f:.3g}, p {test.p:.3g})"


def compare_groups(
    videos: Sequence[Video],
    by: str = "variation",
    primary: str = SPREAD_METRIC,
    metrics: Sequence[str] | None = None,
    margin: float = DEFAULT_MARGIN,
) -> Comparison:
    """Compare groups of videos.

    Excludes seeds that are not in every group, and videos whose settings differ from most. The seed is the unit: the
    phrasings that all groups share are averaged for each seed.

    Args:
        primary: declared metric, which decides the verdict; all other metrics are exploratory.
        metrics: metrics to explore; default all of METRICS.
        margin: equivalence margin, as a share of the mean.

    Raises:
        CannotCompareError: there are fewer than two groups or seeds, more than MAX_GROUPS groups, or an unknown metric.
    """
    names = _choose_metrics(primary, metrics)
    matched, left_out, final, without_final = _match_final_states(videos, by, primary)
    groups = matched.groups
    pairs = list(itertools.combinations(range(len(groups)), 2))
    warnings = [*_find_identical_path_warnings(groups), *_find_design_warnings(matched, by)]
    warnings += without_final
    if final is not None:
        names.insert(0 if primary == SPREAD_METRIC else 1, SPREAD_METRIC)
    names, cells, without_value = _compute_cell_values(matched, final, names)
    warnings += without_value
    stride = groups[0].stride
    paths = [video.trajectory for group in groups for video in group.videos if video.trajectory is not None]
    warnings += [strides.description for strides in find_unsettled_metrics(paths, names, stride)]
    primary_cells = cells[..., 0]
    compared = compare_pairs(groups, names, cells, pairs, margin)
    nulls = {
        group.name: build_gaussian_null(
            group.videos, None if final is None else final.points[g] * math.sqrt(final.dimension)
        )
        for g, group in enumerate(groups)
    }
    band, rate = _compute_exchange_band(matched, final, primary, primary_cells, pairs)
    return Comparison(
        by,
        primary,
        matched.seeds,
        groups,
        _summarise_groups(groups, names, cells, nulls),
        tuple(compared),
        tuple(_judge_pairs(compared, primary_cells, pairs, margin)),
        run_omnibus_test(primary_cells.mean(1)),
        final.run_permanova(matched) if final is not None else None,
        final.run_permdisp(matched) if final is not None else None,
        final.compute_centroid_distances(matched, pairs) if final is not None else {},
        final.curves if final is not None else {},
        {group.name: _find_group_noise_levels(group) for group in groups},
        band,
        rate,
        nulls,
        stride,
        tuple(warnings),
        tuple(left_out),
    )


def _choose_metrics(primary: str, metrics: Sequence[str] | None) -> list[str]:
    """Return the metrics to compare, except `spread`, the declared metric first.

    Raises:
        CannotCompareError: a metric is unknown.
    """
    explored = list(METRICS) if metrics is None else list(metrics)
    for name in (primary, *explored):
        if name != SPREAD_METRIC and name not in METRICS:
            raise CannotCompareError(f"unknown metric {name!r}. Known metrics: {SPREAD_METRIC}, {', '.join(METRICS)}")
    return [name for name in dict.fromkeys((primary, *explored)) if name != SPREAD_METRIC]


def _match_final_states(
    videos: Sequence[Video], by: str, primary: str
) -> tuple[MatchedGroups, list[tuple[str, str]], FinalStates | None, list[str]]:
    """Return matched groups, the excluded videos with reasons, final states, and warnings.

    If `spread` is declared, videos whose projection cannot be used are excluded. If another metric is declared, they
    stay, and `spread` is not compared.

    Raises:
        CannotCompareError: the groups cannot be compared, or have no final states and the declared metric needs them.
    """
    matched, left_out = _match_groups(videos, by)
    unusable: dict[VideoKey, str] = {}
    first_error: NoGeometryError | None = None
    while True:
        try:
            return matched, left_out, FinalStates.load(matched.groups), []
        except NoGeometryError as error:
            if primary != SPREAD_METRIC:
                return matched, left_out, None, [f"{SPREAD_METRIC} is not compared: {error}"]
            refusal = CannotCompareError(
                f"cannot compare {SPREAD_METRIC}: {first_error or error}. "
                "To use another metric, add for example --primary straightness"
            )
            if not isinstance(error, UnusableProjectionsError):
                raise refusal from None
            first_error = first_error or error
            unusable |= error.reasons
        rest = [
            replace(video, trajectory=None, reason=reason) if (reason := unusable.get(get_video_key(video))) else video
            for video in videos
        ]
        try:
            matched, left_out = _match_groups(rest, by)
        except CannotCompareError:
            raise refusal from None


def _compute_cell_values(
    matched: MatchedGroups, final: FinalStates | None, names: Sequence[str]
) -> tuple[list[str], Floats, list[str]]:
    """Return the metrics that all videos have, their values [seeds, phrasings, groups, metrics], and warnings.

    Args:
        names: metrics, the declared metric first.

    Raises:
        CannotCompareError: some videos have no value of the declared metric.
    """
    cells = np.stack([np.stack(_collect_cells_by_group(matched, final, name), axis=2) for name in names], axis=3)
    is_known = [bool(np.isfinite(cells[..., m]).all()) for m in range(len(names))]
    if not is_known[0]:
        raise CannotCompareError(
            f"cannot compare {names[0]}: some videos have no value of this metric. Declare another metric"
        )
    warnings = []
    if missing := [name for name, known in zip(names, is_known, strict=True) if not known]:
        warnings.append(f"not compared, because some videos have no value: {', '.join(missing)}")
    known_names = [name for name, known in zip(names, is_known, strict=True) if known]
    return known_names, equalise_within_rounding(cells[..., np.array(is_known)]), warnings


def _match_groups(videos: Sequence[Video], by: str) -> tuple[MatchedGroups, list[tuple[str, str]]]:
    """Return groups with the same seeds, and the names of excluded videos with reasons."""
    usable, excluded_videos = select_comparable_videos(videos, by)
    names = VideoNamer(videos)
    try:
        matched = MatchedGroups.match(usable, by, names)
    except CannotCompareError as error:
        if not excluded_videos:
            raise
        example = f"{names(excluded_videos[0])}: {excluded_videos[0].reason}"
        raise CannotCompareError(
            f"{error}. {len(excluded_videos)} of {format_count(len(videos), 'video')} are excluded, "
            f"for example {example}"
        ) from None
    return matched, [(names(video), video.reason) for video in excluded_videos] + matched.excluded_videos


def _find_identical_path_warnings(groups: Sequence[Group]) -> list[str]:
    """Return warnings about pairs of groups with identical trajectories, such as copies of a batch."""
    warnings = []
    for first, second in itertools.combinations(groups, 2):
        same = sum(_have_same_path(*both) for both in zip(first.videos, second.videos, strict=True))
        if same:
            share = f"{same} of {format_count(len(first.videos), 'video')}"
            warnings.append(
                f"{share} of {first.name} and {second.name} have identical trajectories, as from equal prompts "
                "or copies of a batch: their differences of 0 are meaningless"
            )
    return warnings


def _have_same_path(first: Video, second: Video) -> bool:
    if first.trajectory is None or second.trajectory is None:
        return False
    return np.array_equal(first.trajectory.gram, second.trajectory.gram)


def _find_design_warnings(matched: MatchedGroups, by: str) -> list[str]:
    groups = matched.groups
    warnings = []
    if by == "batch":
        warnings.append(find_differing_settings([video for group in groups for video in group.videos]).description)
    elif by != "prompt" and (ones := [group.name for group in groups if group.phrasings == 1]):
        warnings.append(
            f"only one phrasing of {', '.join(ones)}: the result applies to this sentence, not to the concept"
        )
    shared = matched.cells.shape[2]
    if 1 < shared < MIN_PHRASINGS and by != "batch":
        warnings.append(
            f"only {shared} phrasings: the result applies to these sentences; generalising takes {MIN_PHRASINGS}"
        )
    lengths = {group.name: np.mean([video.words for video in group.videos]) for group in groups}
    if max(lengths.values()) - min(lengths.values()) >= 2:
        each = ", ".join(f"{name} {length:.1f}" for name, length in lengths.items())
        warnings.append(f"the prompts differ in their number of words ({each}), which may cause a difference")
    return warnings


def _collect_cells_by_group(matched: MatchedGroups, final: FinalStates | None, metric: str) -> list[Floats]:
    """Return the values of one metric, [seeds, phrasings] for each group."""
    if metric == SPREAD_METRIC:
        assert final is not None
        return [matched.arrange_by_cell(final.spread[group.name].tolist()) for group in matched.groups]
    return [
        matched.arrange_by_cell([video.compute_metric(metric) for video in group.videos]) for group in matched.groups
    ]


def _judge_pairs(compared: Sequence[Difference], values: Floats, pairs: GroupPairs, margin: float) -> list[Verdict]:
    """Return the verdict on each pair of groups.

    Args:
        values: [seeds, phrasings, groups] of the declared metric.
    """
    of_metric = [difference for difference in compared if difference.metric == compared[0].metric]
    raw = np.array([[difference.effect.p] for difference in of_metric])
    p = compute_family_p(values.mean(1)[:, :, None], pairs, raw)[:, 0]
    phrasing_p = np.full(len(pairs), math.nan)
    if values.shape[1] >= MIN_PHRASINGS:
        raw = np.array([[difference.phrasing_p] for difference in of_metric])
        phrasing_p = compute_family_p(values.mean(0)[:, :, None], pairs, raw)[:, 0]
    return [
        judge_difference(
            difference, values[..., i], values[..., j], float(p[k]), float(phrasing_p[k]), margin, len(pairs)
        )
        for k, ((i, j), difference) in enumerate(zip(pairs, of_metric, strict=True))
    ]


def _summarise_groups(
    groups: Sequence[Group], names: Sequence[str], cells: Floats, nulls: Mapping[str, GaussianNull]
) -> dict[str, dict[str, GroupSummary]]:
    described = {}
    for m, name in enumerate(names):
        described[name] = {
            group.name: _summarise_spread(cells[..., g, m])
            if name == SPREAD_METRIC
            else summarise_group(group, name, nulls[group.name])
            for g, group in enumerate(groups)
        }
    return described


def _summarise_spread(values: Floats) -> GroupSummary:
    nan = float("nan")
    return GroupSummary(values.size, float(values.mean()), float(values.std(ddof=1)), nan, nan)


def _compute_exchange_band(
    matched: MatchedGroups, final: FinalStates | None, primary: str, values: Floats, pairs: GroupPairs
) -> tuple[tuple[float, float], float]:
    """Return the central 95 % of differences between groups exchanged within seeds, and the share that the test calls
    different."""
    nan, n = float("nan"), len(matched.seeds)
    if n < 4:
        return (nan, nan), nan
    rate = nan
    if primary == SPREAD_METRIC:
        assert final is not None
        band, p = final.resample_spread(matched, pairs)
        if n >= MIN_SEEDS_FOR_RATE:
            rate = float(np.mean(p <= ALPHA))
    else:
        by_seed, (flips, _) = values.mean(1), flip_signs(n)
        band = np.concatenate([flips @ (by_seed[:, i] - by_seed[:, j]) / n for i, j in pairs])
    return (float(np.quantile(band, 0.025)), float(np.quantile(band, 0.975))), rate


def _find_group_noise_levels(group: Group) -> Floats:
    first = group.videos[0].trajectory
    assert first is not None
    return first.sigmas
