"""Groups of videos compared: paired by seed, one declared metric first, and a verdict that can be "cannot tell"."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wantui.analysis.groups import CannotCompare, Described, Group, Matched, describe
from wantui.analysis.read import comparable
from wantui.analysis.spread import (
    LEAST_VIDEOS,
    Permuted,
    dispersion,
    divergence,
    permanova,
    permdisp,
    squared_distances,
    to_centroid,
)
from wantui.analysis.statistics import (
    Effect,
    Floats,
    effect,
    false_discovery,
    is_within,
    least_p,
    max_t,
    null_splits,
    omnibus,
    pairs_needed,
    within_seed_permutations,
)
from wantui.analysis.trajectory import METRICS, NoGeometry
from wantui.analysis.video import Video

SPREAD = "spread"
"""Distance of the final latents to the centroid of their group, / sqrt(D): what "takes more room" means."""
ALPHA = 0.05
MARGIN = 0.05
"""A difference that is shown to be smaller than this share of the mean is called none."""
LEAST_SEEDS_FOR_RATE = 12
"""In halves of six: with five seeds no sign-flip test has a p below 2 / 2^5."""


@dataclass(frozen=True)
class Difference:
    """One metric between two groups."""

    metric: str
    one: str
    other: str
    effect: Effect
    share: float
    """Of the other group's mean: 0.1 is 10 % more. NaN for a logarithm, of which a share says nothing."""
    low: float
    high: float
    """95 % interval of the share."""
    family_p: float
    """Over all metrics and pairs of groups (max-T)."""
    discovery_p: float
    """Benjamini and Hochberg's, over the same."""
    needed: int | None
    """Seeds for which an effect of this size would be found in four of five studies."""


@dataclass(frozen=True)
class Verdict:
    """The declared metric between two groups, in words."""

    one: str
    other: str
    kind: str
    """differs, alike or cannot tell."""
    p: float
    """Over all pairs of groups."""
    text: str


@dataclass(frozen=True)
class Comparison:
    """All that is said of some groups."""

    by: str
    primary: str
    seeds: tuple[int, ...]
    groups: tuple[Group, ...]
    """What was compared, the same seeds in each."""
    described: Mapping[str, Mapping[str, Described]]
    """By metric and group."""
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    omnibus_p: float
    """That any group differs in the declared metric, by permutation within seeds."""
    location: Permuted | None
    """PERMANOVA of the final states."""
    spread: Permuted | None
    """PERMDISP of the final states."""
    apart: Mapping[tuple[str, str], float]
    """By pair of groups: |mean paired difference of the final states|^2 / D, without bias; below 0 by chance."""
    dispersion: Mapping[str, Floats]
    """By group: [S + 1] sqrt(W^2 / D) at each noise level."""
    sigmas: Floats
    null_band: tuple[float, float]
    """Central 95 % of the differences between random halves of one group, in the declared metric."""
    null_rate: float
    """Share of 500 such splits that a test at 5 % calls different; NaN where halves are too small for one to do so."""
    warnings: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = field(default=())
    """Videos that could not be taken, and why."""

    def halves(self) -> str:
        """How large a difference is where there is none, in words; nothing where there are too few seeds."""
        low, high = self.null_band
        if not math.isfinite(low):
            return ""
        said = f"random halves of one group differ in {self.primary} by {low:+.3g} to {high:+.3g} in 95 of 100 splits"
        if math.isfinite(self.null_rate):
            said += f"; {self.null_rate:.1%} of 500 are called different at 5 %"
        return said


def compare(
    videos: Sequence[Video],
    by: str = "variation",
    primary: str = SPREAD,
    metrics: Sequence[str] | None = None,
    margin: float = MARGIN,
) -> Comparison:
    """Compare groups of videos.

    Seeds that are not in every group are left out, and so are videos whose settings differ from those of most. Where a
    group has several wordings, those that all groups share are averaged for each seed: the seed is the unit.

    Args:
        primary: the declared metric, which carries the verdict; the others are explored.
        metrics: those of METRICS to explore; all by default.
        margin: a difference shown to be smaller than this share of the mean is called none.

    Raises:
        CannotCompare: fewer than two groups or two seeds; an unknown metric.
    """
    explored = list(METRICS) if metrics is None else list(metrics)
    for name in (primary, *explored):
        if name != SPREAD and name not in METRICS:
            raise CannotCompare(f"unknown metric {name!r}; known are {SPREAD}, {', '.join(METRICS)}")
    usable, left = comparable(videos)
    try:
        matched = Matched.of(usable, by)
    except CannotCompare as error:
        if not left:
            raise
        example = f"{left[0].name}: {left[0].why_not}"
        raise CannotCompare(f"{error}. {len(left)} of {len(videos)} videos are left out, as {example}") from None
    left_out = [(video.name, video.why_not) for video in left] + matched.left_out
    groups, seeds = matched.groups, matched.seeds
    warnings = [
        f"{group.name}: one wording only; what is said is of this sentence, not of what it stands for"
        for group in groups
        if group.wordings == 1 and by != "prompt"
    ]
    lengths = {group.name: np.mean([video.words for video in group.videos]) for group in groups}
    if max(lengths.values()) - min(lengths.values()) >= 2:
        said = ", ".join(f"{name} {length:.1f}" for name, length in lengths.items())
        warnings.append(f"the prompts have different lengths in words ({said}): what differs may be the length")
    names = [name for name in dict.fromkeys((primary, *explored)) if name != SPREAD]
    try:
        room = _Room.of(groups)
    except NoGeometry as error:
        if primary == SPREAD:
            raise CannotCompare(f"cannot tell: {error}, or declare another metric than {SPREAD}") from None
        warnings.append(f"nothing is said of {SPREAD}: {error}")
        room = None
    if room is not None:
        names.insert(0 if primary == SPREAD else 1, SPREAD)
    values = np.stack([_values(matched, room, name) for name in names], axis=2)  # [seeds, groups, metrics]
    finite = [bool(np.isfinite(values[:, :, m]).all()) for m in range(len(names))]
    for name, known in zip(names, finite, strict=True):
        if not known:
            warnings.append(f"{name} has no value for some videos, and is not compared")
    if not finite[names.index(primary)]:
        raise CannotCompare(f"the declared metric {primary} has no value for some videos; declare another one")
    names = [name for name, known in zip(names, finite, strict=True) if known]
    values = values[:, :, finite]
    pairs = list(itertools.combinations(range(len(groups)), 2))
    differences = _differences(groups, names, values, pairs)
    own = values[:, :, names.index(primary)]
    primary_p = _family(own[:, :, None], pairs)[:, 0]
    verdicts = [
        _verdict(
            next(d for d in differences if (d.metric, d.one, d.other) == (primary, groups[i].name, groups[j].name)),
            own[:, i] - own[:, j],
            float(p),
            margin * float(abs(own[:, j].mean())) if _is_ratio(primary) else margin,
            margin,
            len(pairs),
        )
        for (i, j), p in zip(pairs, primary_p, strict=True)
    ]
    described = {
        name: (
            {group.name: describe(group, name) for group in groups}
            if name != SPREAD
            else {group.name: _described(values[:, g, names.index(name)]) for g, group in enumerate(groups)}
        )
        for name in names
    }
    splits = [null_splits(own[:, g]) for g in range(len(groups))] if len(seeds) >= 4 else []
    band = np.concatenate([found for found, _ in splits]) if splits else np.array([np.nan])
    rate = float("nan")
    if len(seeds) >= LEAST_SEEDS_FOR_RATE:
        rate = float(np.mean(np.concatenate([p for _, p in splits]) <= ALPHA))
    first = groups[0].videos[0].trajectory
    assert first is not None
    return Comparison(
        by,
        primary,
        seeds,
        groups,
        described,
        tuple(differences),
        tuple(verdicts),
        omnibus(own),
        room.location(matched) if room is not None else None,
        room.spread(matched) if room is not None else None,
        room.apart(matched, pairs) if room is not None else {},
        room.curves if room is not None else {},
        first.sigmas,
        (float(np.quantile(band, 0.025)), float(np.quantile(band, 0.975))),
        rate,
        tuple(warnings),
        tuple(left_out),
    )


def _values(matched: Matched, room: "_Room | None", metric: str) -> Floats:
    """[seeds, groups] of one metric."""
    if metric == SPREAD:
        assert room is not None
        return np.stack([matched.by_seed(room.to_centroid[group.name].tolist()) for group in matched.groups], axis=1)
    columns = [matched.by_seed([video.value(metric) for video in group.videos]) for group in matched.groups]
    return np.stack(columns, axis=1)


def _described(values: Floats) -> Described:
    nan = float("nan")
    return Described(len(values), float(values.mean()), float(values.std(ddof=1)), nan, nan)


@dataclass(frozen=True)
class _Room:
    """Distances between the videos of all groups."""

    final: Floats
    """[videos, videos] squared distances of the final states / D, groups one after the other."""
    ends: Floats
    """[groups, videos, k] final states."""
    to_centroid: Mapping[str, Floats]
    curves: Mapping[str, Floats]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "_Room":
        if (videos := len(groups[0].videos)) < LEAST_VIDEOS:
            raise NoGeometry(
                f"{SPREAD} needs {LEAST_VIDEOS} videos in each group, and there are {videos}: make more seeds"
            )
        projected = {group.name: np.stack([video.projection() for video in group.videos]) for group in groups}
        shapes = {states.shape[1:] for states in projected.values()}
        if len(shapes) > 1:
            raise NoGeometry(f"the stored projections have different shapes: {shapes}")
        dimension = groups[0].videos[0].dimension
        steps = next(iter(shapes))[0]
        curves = {
            name: np.sqrt([dispersion(squared_distances(states[:, i]) / dimension) for i in range(steps)])
            for name, states in projected.items()
        }
        final = np.concatenate([projected[group.name][:, -1] for group in groups])
        distances = squared_distances(final) / dimension
        n = len(groups[0].videos)
        own = {
            group.name: to_centroid(distances[g * n : (g + 1) * n, g * n : (g + 1) * n])
            for g, group in enumerate(groups)
        }
        ends = np.stack([projected[group.name][:, -1] for group in groups]).astype(np.float64) / np.sqrt(dimension)
        return cls(distances, ends, own, curves)

    def apart(self, matched: Matched, pairs: Sequence[tuple[int, int]]) -> dict[tuple[str, str], float]:
        seeds, names = len(matched.seeds), [group.name for group in matched.groups]
        by_seed = self.ends.reshape(len(names), seeds, -1, self.ends.shape[2]).mean(2)
        return {(names[i], names[j]): divergence(by_seed[i] - by_seed[j]) for i, j in pairs}

    def location(self, matched: Matched) -> Permuted:
        return permanova(self.final, matched.cells)

    def spread(self, matched: Matched) -> Permuted:
        return permdisp(self.final, matched.cells)


def _family(values: Floats, pairs: Sequence[tuple[int, int]], count: int = 1999) -> Floats:
    """[pairs, metrics] p over the whole family, of values [seeds, groups, metrics], permuted within seeds."""
    n, groups, metrics = values.shape
    if groups == 2:
        return max_t(values[:, 0] - values[:, 1])[None]
    one, other = [i for i, _ in pairs], [j for _, j in pairs]
    largest: list[Floats] = []
    observed = np.empty(0)
    for orders in np.array_split(within_seed_permutations(n, groups, count), 40):
        permuted = np.take_along_axis(values[None], orders[..., None], axis=2)
        differences = permuted[:, :, one] - permuted[:, :, other]
        deviation = differences.std(axis=1, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(differences.mean(1)) / (deviation / np.sqrt(n))
        t = np.where(deviation > 0, t, -np.inf).reshape(len(orders), -1)
        observed = t[0] if not largest else observed
        largest.append(t.max(1))
    greatest = np.concatenate(largest)
    found = np.array([np.mean(greatest >= t * (1 - 1e-9)) if np.isfinite(t) else np.nan for t in observed])
    return found.reshape(len(pairs), metrics)


def _differences(
    groups: Sequence[Group], names: Sequence[str], values: Floats, pairs: Sequence[tuple[int, int]]
) -> list[Difference]:
    family = _family(values, pairs)
    effects = [[effect(values[:, i, m] - values[:, j, m]) for m in range(len(names))] for i, j in pairs]
    discovery = false_discovery(np.array([found.p for row in effects for found in row])).reshape(family.shape)
    found = []
    for k, (i, j) in enumerate(pairs):
        for m, name in enumerate(names):
            own, mean = effects[k][m], abs(values[:, j, m].mean()) or float("nan")
            if not _is_ratio(name):
                mean = float("nan")
            found.append(
                Difference(
                    name,
                    groups[i].name,
                    groups[j].name,
                    own,
                    own.mean / mean,
                    own.low / mean,
                    own.high / mean,
                    float(family[k, m]),
                    float(discovery[k, m]),
                    pairs_needed(own.size),
                )
            )
    return found


def _is_ratio(metric: str) -> bool:
    return metric == SPREAD or METRICS[metric].is_ratio


def interval_in_words(found: Difference) -> str:
    """The difference with its interval: in percent, or in the metric's unit where a share says nothing."""
    if np.isfinite(found.share):
        return f"{found.share:+.1%} (95 % interval {found.low:+.1%} to {found.high:+.1%})"
    unit = "" if found.metric == SPREAD else f" {METRICS[found.metric].unit}".rstrip()
    e = found.effect
    return f"{e.mean:+.3g}{unit} (95 % interval {e.low:+.3g} to {e.high:+.3g})"


def _verdict(found: Difference, differences: Floats, p: float, margin: float, share: float, pairs: int) -> Verdict:
    n = found.effect.n
    p = p if np.isfinite(p) else found.effect.p  # where all differences are equal there is no t
    said = f"{interval_in_words(found)}, d_z {found.effect.size:.2f}, "
    said += f"p {p:.3g}{f' over {pairs} pairs of groups' if pairs > 1 else ''}, {n} seeds"
    names = f"{found.one} against {found.other}"
    if p <= ALPHA:
        word = "more" if found.effect.mean > 0 else "less"
        little = "; so little that it may not matter" if is_within(differences, margin) else ""
        return Verdict(found.one, found.other, "differs", p, f"{names}: {word} {found.metric}: {said}{little}")
    if least_p(n) > ALPHA:
        text = f"{names}: cannot tell: {n} seeds can never give p below {least_p(n):.3g}; make 6 at least. {said}"
        return Verdict(found.one, found.other, "cannot tell", p, text)
    if is_within(differences, margin):
        within = f"{share:.0%}" if _is_ratio(found.metric) else f"{share:g}"
        text = f"{names}: alike in {found.metric}, within {within}: {said}"
        return Verdict(found.one, found.other, "alike", p, text)
    needed = found.needed
    more = "" if needed is None else f"; an effect of this size would need about {needed:,} seeds"
    return Verdict(found.one, found.other, "cannot tell", p, f"{names}: cannot tell: {said}{more}")
