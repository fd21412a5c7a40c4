"""Comparison of groups of videos: paired by seed, one declared metric first, and a verdict that can be "cannot
tell"."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.comparable import VideoNames, comparable, studied
from wantui.analysis.differences import ALPHA, Difference, Pairs, differences, family_p, without_rounding
from wantui.analysis.dispersion import PermutationTest
from wantui.analysis.final_states import SPREAD, DispersionCurve, FinalStates
from wantui.analysis.groups import CannotCompareError, Group, GroupSummary, Matched, describe
from wantui.analysis.nulls import GaussianNull, gaussian_null
from wantui.analysis.statistics import Floats, omnibus, signs
from wantui.analysis.strides import unsettled
from wantui.analysis.trajectory import METRICS, NoGeometryError
from wantui.analysis.verdicts import MIN_PHRASINGS, Verdict, verdict
from wantui.analysis.video import Video
from wantui.formatting import format_count

MARGIN = 0.05
"""A difference that is shown to be smaller than this share of the mean is called none."""


MIN_SEEDS_FOR_RATE = 10
"""Minimum number of seeds for reporting the false-positive rate; with fewer it is too noisy."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing groups of videos."""

    by: str
    primary: str
    seeds: tuple[int, ...]
    groups: tuple[Group, ...]
    """Compared groups, with the same seeds in each."""
    described: Mapping[str, Mapping[str, GroupSummary]]
    """Summaries by metric and group."""
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    omnibus_p: float
    """Permutation p, within seeds, that any group differs in the declared metric."""
    location: PermutationTest | None
    """PERMANOVA of the final states."""
    spread: PermutationTest | None
    """PERMDISP of the final states."""
    centroid_distance: Mapping[tuple[str, str], float]
    """Distance by pair: |mean paired difference of the final states|^2 / D, without bias; below 0 by chance."""
    dispersion: Mapping[str, DispersionCurve]
    """Dispersion by group, over all noise levels."""
    sigmas: Mapping[str, Floats]
    """Noise levels of the measured states, by group."""
    null_band: tuple[float, float]
    """Central 95 % of the differences in the declared metric between two groups, when groups are exchanged at random
    within seeds."""
    null_rate: float
    """Share of such exchanges that the test of `spread` calls different at 5 %, with spread computed anew in each; NaN
    of other metrics, for which it is 5 % by construction, and with fewer than MIN_SEEDS_FOR_RATE seeds."""
    nulls: Mapping[str, GaussianNull]
    """Values by name of the group."""
    stride: int = 1
    """Every how many stored states the trajectories take."""
    warnings: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    """Videos that are excluded, with reasons."""

    def by_chance(self) -> str:
        """Return how large a difference is where there is none, in words; nothing where there are too few seeds."""
        low, high = self.null_band
        if not math.isfinite(low):
            return ""
        text = (
            f"groups exchanged at random within seeds differ in {self.primary} by {low:+.3g} to {high:+.3g} in 95 of "
            "100 draws"
        )
        if math.isfinite(self.null_rate):
            text += f"; with {SPREAD} computed anew the test calls {self.null_rate:.1%} of them different at 5 %"
            text += " (up to 8 % is chance)"
        return text

    def place(self) -> str:
        """Return whether the final states of the groups lie in different places, in words; nothing where not known."""
        if self.location is None or self.spread is None:
            return ""
        if self.location.p > ALPHA:
            text = "cannot tell"
        elif self.spread.p > ALPHA:
            text = "differs"
        else:
            text = "differs, or only their spread does: this test responds to both"
        return f"in place of the final states: {text} (PERMANOVA F {self.location.f:.3g}, p {self.location.p:.3g})"


def compare(
    videos: Sequence[Video],
    by: str = "variation",
    primary: str = SPREAD,
    metrics: Sequence[str] | None = None,
    margin: float = MARGIN,
) -> Comparison:
    """Compare groups of videos.

    Seeds that are not in every group are left out, and so are videos whose settings differ from those of most. Where a
    group has several phrasings, those that all groups share are averaged for each seed: the seed is the unit.

    Args:
        primary: the declared metric, which carries the verdict; the others are explored.
        metrics: those of METRICS to explore; all by default.
        margin: a difference shown to be smaller than this share of the mean is called none.

    Raises:
        CannotCompareError: fewer than two groups or two seeds, or more than MAX_GROUPS groups; an unknown metric.
    """
    names = _metric_names(primary, metrics)
    matched, left_out = _matched(videos, by)
    groups = matched.groups
    pairs = list(itertools.combinations(range(len(groups)), 2))
    warnings = [*_identical(groups), *_warnings(matched, by)]
    final, without_final = _final_states(groups, primary)
    warnings += without_final
    if final is not None:
        names.insert(0 if primary == SPREAD else 1, SPREAD)
    names, cells, without_value = _cell_values(matched, final, names)
    warnings += without_value
    stride = groups[0].stride
    paths = [video.trajectory for group in groups for video in group.videos if video.trajectory is not None]
    warnings += [strides.in_words for strides in unsettled(paths, names, stride)]
    primary_cells = cells[..., 0]
    compared = differences(groups, names, cells, pairs, margin)
    nulls = {
        group.name: gaussian_null(group.videos, None if final is None else final.ends[g] * math.sqrt(final.dimension))
        for g, group in enumerate(groups)
    }
    band, rate = _exchange_band(matched, final, primary, primary_cells, pairs)
    return Comparison(
        by,
        primary,
        matched.seeds,
        groups,
        _describe(groups, names, cells, nulls),
        tuple(compared),
        tuple(_verdicts(compared, primary_cells, pairs, margin)),
        omnibus(primary_cells.mean(1)),
        final.permanova(matched) if final is not None else None,
        final.permdisp(matched) if final is not None else None,
        final.centroid_distance(matched, pairs) if final is not None else {},
        final.curves if final is not None else {},
        {group.name: _sigmas(group) for group in groups},
        band,
        rate,
        nulls,
        stride,
        tuple(warnings),
        tuple(left_out),
    )


def _metric_names(primary: str, metrics: Sequence[str] | None) -> list[str]:
    """Return the metrics to compare without `spread`, the declared one first.

    Raises:
        CannotCompareError: an unknown metric.
    """
    explored = list(METRICS) if metrics is None else list(metrics)
    for name in (primary, *explored):
        if name != SPREAD and name not in METRICS:
            raise CannotCompareError(f"unknown metric {name!r}; known are {SPREAD}, {', '.join(METRICS)}")
    return [name for name in dict.fromkeys((primary, *explored)) if name != SPREAD]


def _final_states(groups: Sequence[Group], primary: str) -> tuple[FinalStates | None, list[str]]:
    """Return the final states of the groups, or None and a warning where they cannot be compared.

    Raises:
        CannotCompareError: the declared metric needs them.
    """
    try:
        return FinalStates.read(groups), []
    except NoGeometryError as error:
        if primary == SPREAD:
            raise CannotCompareError(
                f"cannot compare {SPREAD}: {error}. Or declare another metric, as with --primary straightness"
            ) from None
        return None, [f"{SPREAD} is not compared: {error}"]


def _cell_values(
    matched: Matched, final: FinalStates | None, names: Sequence[str]
) -> tuple[list[str], Floats, list[str]]:
    """Return the metrics that all videos have, their values [seeds, phrasings, groups, metrics], and warnings.

    Args:
        names: metrics, the declared one first.

    Raises:
        CannotCompareError: some videos have no value of the declared metric.
    """
    cells = np.stack([np.stack(_cells(matched, final, name), axis=2) for name in names], axis=3)
    is_known = [bool(np.isfinite(cells[..., m]).all()) for m in range(len(names))]
    if not is_known[0]:
        raise CannotCompareError(f"the declared metric {names[0]} has no value for some videos; declare another one")
    warnings = []
    if missing := [name for name, known in zip(names, is_known, strict=True) if not known]:
        warnings.append(f"not compared, as some videos have no value of it: {', '.join(missing)}")
    kept = [name for name, known in zip(names, is_known, strict=True) if known]
    return kept, without_rounding(cells[..., np.array(is_known)]), warnings


def _matched(videos: Sequence[Video], by: str) -> tuple[Matched, list[tuple[str, str]]]:
    """Return groups with the same seeds, and which videos are left out for what reason."""
    usable, left = comparable(videos, by)
    names = VideoNames(videos)
    try:
        matched = Matched.of(usable, by, names)
    except CannotCompareError as error:
        if not left:
            raise
        example = f"{names(left[0])}: {left[0].reason}"
        raise CannotCompareError(
            f"{error}. {len(left)} of {format_count(len(videos), 'video')} are left out, as {example}"
        ) from None
    return matched, [(names(video), video.reason) for video in left] + matched.left_out


def _identical(groups: Sequence[Group]) -> list[str]:
    """Warn of groups whose videos have the same trajectories, as a copy of a batch has."""
    warnings = []
    for one, other in itertools.combinations(groups, 2):
        same = sum(_is_same_path(*both) for both in zip(one.videos, other.videos, strict=True))
        if same:
            every = f"{same} of {format_count(len(one.videos), 'video')}"
            warnings.append(
                f"{every} of {one.name} and {other.name} have identical trajectories: the same prompt, or a copy of "
                "the same batch; their differences of 0 are no result"
            )
    return warnings


def _is_same_path(one: Video, other: Video) -> bool:
    if one.trajectory is None or other.trajectory is None:
        return False
    return np.array_equal(one.trajectory.gram, other.trajectory.gram)


def _warnings(matched: Matched, by: str) -> list[str]:
    groups = matched.groups
    warnings = []
    if by == "batch":
        warnings.append(studied([video for group in groups for video in group.videos]).in_words)
    elif by != "prompt" and (ones := [group.name for group in groups if group.phrasings == 1]):
        warnings.append(
            f"{', '.join(ones)}: only one phrasing: the result applies to this sentence, not to the concept"
        )
    shared = matched.cells.shape[2]
    if 1 < shared < MIN_PHRASINGS and by != "batch":
        warnings.append(
            f"{shared} phrasings: the result applies to these sentences; it takes {MIN_PHRASINGS} to generalise"
        )
    lengths = {group.name: np.mean([video.words for video in group.videos]) for group in groups}
    if max(lengths.values()) - min(lengths.values()) >= 2:
        each = ", ".join(f"{name} {length:.1f}" for name, length in lengths.items())
        warnings.append(f"the prompts have different lengths in words ({each}): what differs may be the length")
    return warnings


def _cells(matched: Matched, final: FinalStates | None, metric: str) -> list[Floats]:
    """Return one metric as [seeds, phrasings] of each group."""
    if metric == SPREAD:
        assert final is not None
        return [matched.by_cell(final.spread[group.name].tolist()) for group in matched.groups]
    return [matched.by_cell([video.value(metric) for video in group.videos]) for group in matched.groups]


def _verdicts(compared: Sequence[Difference], values: Floats, pairs: Pairs, margin: float) -> list[Verdict]:
    """Return the verdict on each pair of groups; `values` is the declared metric [seeds, phrasings, groups]."""
    of_metric = [difference for difference in compared if difference.metric == compared[0].metric]
    raw = np.array([[difference.effect.p] for difference in of_metric])
    p = family_p(values.mean(1)[:, :, None], pairs, raw)[:, 0]
    phrasing_p = np.full(len(pairs), math.nan)
    if values.shape[1] >= MIN_PHRASINGS:
        raw = np.array([[difference.phrasing_p] for difference in of_metric])
        phrasing_p = family_p(values.mean(0)[:, :, None], pairs, raw)[:, 0]
    return [
        verdict(difference, values[..., i], values[..., j], float(p[k]), float(phrasing_p[k]), margin, len(pairs))
        for k, ((i, j), difference) in enumerate(zip(pairs, of_metric, strict=True))
    ]


def _describe(
    groups: Sequence[Group], names: Sequence[str], cells: Floats, nulls: Mapping[str, GaussianNull]
) -> dict[str, dict[str, GroupSummary]]:
    described = {}
    for m, name in enumerate(names):
        described[name] = {
            group.name: _described(cells[..., g, m]) if name == SPREAD else describe(group, name, nulls[group.name])
            for g, group in enumerate(groups)
        }
    return described


def _described(values: Floats) -> GroupSummary:
    by_seed, nan = values.mean(1), float("nan")
    return GroupSummary(len(by_seed), float(by_seed.mean()), float(by_seed.std(ddof=1)), nan, nan)


def _exchange_band(
    matched: Matched, final: FinalStates | None, primary: str, values: Floats, pairs: Pairs
) -> tuple[tuple[float, float], float]:
    """Return the central 95 % of differences when groups are exchanged within seeds, and how often a test calls one."""
    nan, n = float("nan"), len(matched.seeds)
    if n < 4:
        return (nan, nan), nan
    rate = nan
    if primary == SPREAD:
        assert final is not None
        band, p = final.relabelled(matched, pairs)
        if n >= MIN_SEEDS_FOR_RATE:
            rate = float(np.mean(p <= ALPHA))
    else:
        by_seed, (flips, _) = values.mean(1), signs(n)
        band = np.concatenate([flips @ (by_seed[:, i] - by_seed[:, j]) / n for i, j in pairs])
    return (float(np.quantile(band, 0.025)), float(np.quantile(band, 0.975))), rate


def _sigmas(group: Group) -> Floats:
    first = group.videos[0].trajectory
    assert first is not None
    return first.sigmas
