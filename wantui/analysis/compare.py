"""Groups of videos compared: paired by seed, one declared metric first, and a verdict that can be "cannot tell"."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.nulls import gaussian_flow, random_walk
from wantui.analysis.read import Video, comparable
from wantui.analysis.spread import Permuted, dispersion, permanova, permdisp, squared_distances, to_centroid
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
from wantui.analysis.trajectory import METRICS, NoGeometry, value
from wantui.errors import UserError

SPREAD = "spread"
"""Distance of the final latents to the centroid of their group, / sqrt(D): what "takes more room" means."""
ALPHA = 0.05
MARGIN = 0.05
"""A difference that is shown to be smaller than this share of the mean is called none."""


class CannotCompare(UserError):
    """Groups between which nothing can be said; the text says why."""


@dataclass(frozen=True)
class Group:
    """Videos of one option (or variation)."""

    name: str
    videos: tuple[Video, ...]

    @property
    def wordings(self) -> int:
        """Different prompts."""
        return len({video.prompt for video in self.videos})


@dataclass(frozen=True)
class Described:
    """One metric of one group: a description, no test."""

    n: int
    mean: float
    deviation: float
    """n - 1."""
    walk: float
    """Mean of the metric on random walks with the same step lengths."""
    flow: float
    """Mean of the metric on the Gaussian flow to data with the channels' variances; NaN where these are not known."""


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
    dispersion: Mapping[str, Floats]
    """By group: [S + 1] sqrt(W^2 / D) at each noise level."""
    sigmas: Floats
    null_band: tuple[float, float]
    """Central 95 % of the differences between random halves of one group, in the declared metric."""
    null_rate: float
    """Share of 500 such splits that a test at 5 % calls different."""
    warnings: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = field(default=())
    """Videos that could not be taken, and why."""


def group_videos(videos: Sequence[Video], by: str = "variation") -> list[Group]:
    """Groups of videos, in the order in which they come.

    Args:
        by: "variation", "prompt", "batch", or brackets of the template by number from 1, as in "1" or "1,3".

    Raises:
        CannotCompare: the template has no such bracket.
    """
    key = _key(videos, by)
    found: dict[str, list[Video]] = {}
    for video in videos:
        found.setdefault(key(video), []).append(video)
    return [Group(name, tuple(own)) for name, own in found.items()]


def _brackets(videos: Sequence[Video]) -> list[int]:
    return sorted({bracket for video in videos for bracket in video.choices})


def _key(videos: Sequence[Video], by: str) -> Callable[[Video], str]:
    plain: dict[str, Callable[[Video], str]] = {
        "variation": lambda video: video.variation,
        "prompt": lambda video: video.prompt,
        "batch": lambda video: video.folder.name,
    }
    if by in plain:
        return plain[by]
    brackets = _brackets(videos)
    try:
        chosen = [brackets[int(word) - 1] for word in by.split(",") if int(word) > 0]
    except (ValueError, IndexError):
        many = f"brackets 1 to {len(brackets)}" if brackets else "no brackets"
        raise CannotCompare(
            f"cannot group by {by!r}: write variation, prompt, batch, or the number of a bracket; the template has "
            f"{many}"
        ) from None
    return lambda video: ", ".join(video.choices.get(bracket, "") or "(nothing)" for bracket in chosen)


def describe(group: Group, metric: str) -> Described:
    """Mean and standard deviation of a metric, and the same of its nulls."""
    usable = [video for video in group.videos if video.trajectory is not None]
    values = np.array([video.value(metric) for video in usable])
    if not len(usable):
        return Described(0, *[float("nan")] * 4)
    walks = [value(random_walk(video.trajectory), metric) for video in usable if video.trajectory is not None]
    flows = [
        value(gaussian_flow(video.trajectory.sigmas, video.channel_power), metric)
        for video in usable
        if video.trajectory is not None and video.channel_power is not None
    ]
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Described(
        len(values),
        float(values.mean()),
        deviation,
        float(np.mean(walks)),
        float(np.mean(flows)) if flows else float("nan"),
    )


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
    matched = _Matched.of(usable, by)
    left_out = [(video.name, video.why_not) for video in left] + matched.left_out
    groups, seeds = matched.groups, matched.seeds
    warnings = [
        f"{group.name}: one wording only; what is said is of this sentence, not of what it stands for"
        for group in groups
        if group.wordings == 1 and by != "prompt"
    ]
    lengths = {group.name: np.mean([video.tokens for video in group.videos]) for group in groups}
    if max(lengths.values()) - min(lengths.values()) >= 2:
        said = ", ".join(f"{name} {length:.1f}" for name, length in lengths.items())
        warnings.append(f"the prompts have different lengths in words ({said}): what differs may be the length")
    names = [name for name in dict.fromkeys((primary, *explored)) if name != SPREAD]
    try:
        room = _Room.of(groups)
    except NoGeometry as error:
        if primary == SPREAD:
            raise CannotCompare(f"{error}; declare another metric than {SPREAD}") from None
        warnings.append(f"nothing is said of {SPREAD}: {error}")
        room = None
    if room is not None:
        names.insert(0 if primary == SPREAD else 1, SPREAD)
    values = np.stack([matched.values(room, name) for name in names], axis=2)  # [seeds, groups, metrics]
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
    rate = float(np.mean(np.concatenate([p for _, p in splits]) <= ALPHA)) if splits else float("nan")
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
        room.curves if room is not None else {},
        first.sigmas,
        (float(np.quantile(band, 0.025)), float(np.quantile(band, 0.975))),
        rate,
        tuple(warnings),
        tuple(left_out),
    )


def _described(values: Floats) -> Described:
    nan = float("nan")
    return Described(len(values), float(values.mean()), float(values.std(ddof=1)), nan, nan)


@dataclass(frozen=True)
class _Matched:
    """Groups with the same seeds and the same wordings (but for what they are grouped by) in each."""

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    left_out: list[tuple[str, str]]

    @classmethod
    def of(cls, videos: Sequence[Video], by: str) -> "_Matched":
        groups = group_videos(videos, by)
        if len(groups) < 2:
            raise CannotCompare(f"grouped by {by} there is {len(groups)} group, and a comparison needs two")
        cells: list[dict[tuple[str, int], Video]] = []
        for group in groups:
            own: dict[tuple[str, int], Video] = {}
            for video in group.videos:
                own.setdefault((_rest(video, by, videos), video.seed), video)
            cells.append(own)
        rests = set.intersection(*({rest for rest, _ in own} for own in cells))
        seeds = [
            seed
            for seed in sorted({seed for own in cells for _, seed in own})
            if rests and all((rest, seed) in own for own in cells for rest in rests)
        ]
        if len(seeds) < 2:
            raise CannotCompare(
                f"the {len(groups)} groups have {len(seeds)} seeds in common, and a comparison needs two at least: "
                "make every variation with the same seeds (videos_per_variation)"
            )
        taken = {(rest, seed) for rest in rests for seed in seeds}
        left = [
            (video.name, "not in every group with this seed")
            for group, own in zip(groups, cells, strict=True)
            for video in group.videos
            if own.get((_rest(video, by, videos), video.seed)) is not video
            or (_rest(video, by, videos), video.seed) not in taken
        ]
        ordered = sorted(taken, key=lambda cell: (cell[1], cell[0]))
        kept = [
            Group(group.name, tuple(own[cell] for cell in ordered)) for group, own in zip(groups, cells, strict=True)
        ]
        return cls(tuple(kept), tuple(seeds), left)

    @property
    def cells(self) -> NDArray[np.int64]:
        """[seeds, groups, wordings] place of each video, groups one after the other."""
        places = np.arange(sum(len(group.videos) for group in self.groups))
        return places.reshape(len(self.groups), len(self.seeds), -1).transpose(1, 0, 2)

    def by_seed(self, values: Sequence[float]) -> Floats:
        """[seeds], mean over the wordings of each, from values in the order of a group's videos."""
        return np.asarray(values, dtype=np.float64).reshape(len(self.seeds), -1).mean(1)

    def values(self, room: "_Room | None", metric: str) -> Floats:
        """[seeds, groups]."""
        if metric == SPREAD:
            assert room is not None
            return np.stack([self.by_seed(room.to_centroid[group.name].tolist()) for group in self.groups], axis=1)
        columns = [self.by_seed([video.value(metric) for video in group.videos]) for group in self.groups]
        return np.stack(columns, axis=1)


def _rest(video: Video, by: str, videos: Sequence[Video]) -> str:
    """What of the wording is not what is grouped by."""
    if by in ("variation", "prompt"):
        return ""
    if by == "batch":
        return video.variation
    grouped = {_brackets(videos)[int(word) - 1] for word in by.split(",")}
    return "|".join(f"{b}={text}" for b, text in sorted(video.choices.items()) if b not in grouped)


@dataclass(frozen=True)
class _Room:
    """Distances between the videos of all groups."""

    final: Floats
    """[videos, videos] squared distances of the final states / D, groups one after the other."""
    to_centroid: Mapping[str, Floats]
    curves: Mapping[str, Floats]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "_Room":
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
        return cls(distances, own, curves)

    def location(self, matched: _Matched) -> Permuted:
        return permanova(self.final, matched.cells)

    def spread(self, matched: _Matched) -> Permuted:
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
    said = f"{interval_in_words(found)}, d_z {found.effect.size:.2f}, "
    said += f"p {p:.3g}{f' over {pairs} pairs of groups' if pairs > 1 else ''}, {n} seeds"
    names = f"{found.one} against {found.other}"
    if p <= ALPHA:
        word = "more" if found.effect.mean > 0 else "less"
        return Verdict(found.one, found.other, "differs", p, f"{names}: {word} {found.metric}: {said}")
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


def read_all(folders: Sequence[Path], from_latents: bool = False) -> list[Video]:
    """The videos of several batches."""
    from wantui.analysis.read import read_batch

    return [video for folder in folders for video in read_batch(folder, from_latents)]
