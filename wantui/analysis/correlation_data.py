"""Values of videos to correlate: metrics, attention to marked words, and external labels, by variation and seed."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.advice import Advice, AdviceKind, AdvisedText
from wantui.analysis.arrays import FloatArray
from wantui.analysis.attention_summary import average_finite_values, summarise_all_words
from wantui.analysis.correlations import (
    ACROSS_SEEDS,
    ACROSS_VARIATIONS,
    MIN_SEEDS,
    Correlation,
    MergedCorrelation,
    correlate_values,
    find_clearest_correlation,
    merge_equal_correlations,
)
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group import Group
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import group_comparable_videos
from wantui.analysis.strides import find_unsettled_metrics
from wantui.analysis.trajectory import NoGeometryError
from wantui.analysis.video import Video
from wantui.formatting import format_count, join_and_shorten
from wantui.storage.attention_maps import AttentionMapsError, open_attention_maps

ATTENTION_VALUES = ("mass", "entropy")
"""Summaries of a marked word that metrics are correlated with: means over the stored steps."""


@dataclass(frozen=True)
class CorrelationData:
    """Metrics, attention and labels of the same videos; every variation has all seeds."""

    variation_names: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, FloatArray]
    """[variations, seeds] values by metric."""
    covariates: dict[str, FloatArray]
    """[variations, seeds] attention and labels by name."""
    warnings: tuple[str, ...]
    exclusion_reasons: tuple[tuple[str, str], ...]
    unsettled_metrics: tuple[str, ...] = ()
    """Metrics that depend on the steps of the sampler at every stride."""


@dataclass(frozen=True)
class VideoCorrelations:
    """Correlations of videos' metrics with their attention and external labels."""

    data: CorrelationData
    correlations_by_kind: dict[str, list[Correlation]]
    """Correlations across seeds and, if there are several, across variations."""

    def select(self, kind: str, chosen_metrics: Sequence[str] = ()) -> list[MergedCorrelation]:
        """Return the correlations of one kind that are shown, the clearest first.

        These are all correlations of the chosen metrics. Without chosen metrics, they are all significant correlations,
        or the clearest one if none is significant.

        If there are too few seeds or variations for a p of SIGNIFICANCE_LEVEL, no correlation can be significant, and
        only chosen metrics are shown. Values that rank the videos in the same way, such as mass and entropy of one
        word, share one row.
        """
        correlations = [item for item in self.correlations_by_kind[kind] if math.isfinite(item.rho)]
        shown = [item for item in correlations if (item.metric in chosen_metrics if chosen_metrics else item.is_found)]
        if not shown and correlations and correlations[0].min_attainable_p <= SIGNIFICANCE_LEVEL:
            shown = [find_clearest_correlation(correlations)]
        shown.sort(key=lambda item: (item.family_p, -abs(item.rho)))
        return merge_equal_correlations(shown)


def correlate_videos(
    videos: Sequence[Video],
    metric_names: Sequence[str],
    label_names: Sequence[str],
    on_video: Callable[[int], None] = lambda _: None,
) -> VideoCorrelations:
    """Correlate metrics with attention and labels; arguments and errors as in `collect_correlation_data`."""
    data = collect_correlation_data(videos, metric_names, label_names, on_video)
    kinds = [ACROSS_SEEDS, *([ACROSS_VARIATIONS] if len(data.variation_names) > 1 else [])]
    correlations_by_kind = {
        kind: [
            replace(item, is_settled=item.metric not in data.unsettled_metrics)
            for item in correlate_values(data.metrics, data.covariates, kind)
        ]
        for kind in kinds
    }
    return VideoCorrelations(data, correlations_by_kind)


def collect_correlation_data(
    videos: Sequence[Video],
    metric_names: Sequence[str],
    label_names: Sequence[str],
    on_video: Callable[[int], None] = lambda _: None,
) -> CorrelationData:
    """Collect metrics, attention and labels of the comparable videos; exclude seeds that some variation lacks.

    Args:
        metric_names: metrics; `spread` is added if the final states can be read.
        on_video: called with the number of videos whose attention maps are read.

    Raises:
        CannotCompareError: there are too few seeds, or neither attention maps nor labels.
        AttentionMapsError: attention maps are damaged.
    """
    groups, exclusion_reasons = group_comparable_videos([v for v in videos if not v.is_damaged], "variation")
    if not groups and exclusion_reasons:
        name, reason = exclusion_reasons[0]
        excluded_text = format_count(len(exclusion_reasons), "video")
        raise CannotCompareError(
            f"cannot correlate: no video can be used. {excluded_text} excluded, first {name}: {reason}"
        )
    has_maps = any(video.attention_path is not None for group in groups for video in group.videos)
    if not has_maps and not label_names:
        reason = "cannot correlate: the videos have no attention maps, and there are no external labels"
        raise CannotCompareError(AdvisedText(reason, Advice(AdviceKind.ADD_MAPS_OR_LABELS)))
    strata = _match_seeds(groups, needs_maps=has_maps)
    ordered_videos = [video for stratum in strata for video in stratum.videos]
    shape = (len(strata), -1)
    warnings: list[str] = []
    metrics = {name: np.array([v.compute_metric(name) for v in ordered_videos]).reshape(shape) for name in metric_names}
    try:
        metrics[SPREAD_METRIC] = _load_spread(strata)
    except NoGeometryError as error:
        warnings.append(f"{SPREAD_METRIC} is not correlated: {error}")
    covariates: dict[str, FloatArray] = {}
    if has_maps:
        covariates, unmatched_words = _read_attention(strata, on_video)
        if unmatched_words:
            warnings.append(
                f"words that some prompts do not mark are not correlated: {join_and_shorten(unmatched_words)}"
            )
    covariates |= {name: np.array([v.labels[name] for v in ordered_videos]).reshape(shape) for name in label_names}
    for values_by_name in (metrics, covariates):
        for name in [name for name, values in values_by_name.items() if not np.isfinite(values).all()]:
            warnings.append(f"{name} is not correlated: some videos have no value")
            del values_by_name[name]
    if left_out := sum(len(group.videos) for group in groups) - len(ordered_videos):
        warnings.append(
            f"{format_count(left_out, 'video')} excluded: a correlation uses a seed only if every variation has a "
            "usable video with it"
        )
    names, seeds = tuple(stratum.name for stratum in strata), tuple(video.seed for video in strata[0].videos)
    unsettled_metrics = tuple(name for name in find_unsettled_metrics(ordered_videos) if name in metrics)
    return CorrelationData(
        names, seeds, metrics, covariates, tuple(warnings), tuple(exclusion_reasons), unsettled_metrics
    )


def _match_seeds(groups: Sequence[Group], needs_maps: bool) -> list[Group]:
    """Return the variations with the seeds that all of them have, in ascending order.

    There is one group of variations for each cell of a sweep.
    """
    videos_by_stratum: dict[str, dict[int, Video]] = {}
    for group in groups:
        for video in group.videos:
            name = ", ".join(filter(None, (group.name, video.cell_label)))
            if not needs_maps or video.attention_path is not None:
                videos_by_stratum.setdefault(name, {})[video.seed] = video
    shared_seeds = sorted(set.intersection(*map(set, videos_by_stratum.values()))) if videos_by_stratum else []
    if len(shared_seeds) < MIN_SEEDS:
        verb, seed_noun = ("has", "usable seed") if len(videos_by_stratum) == 1 else ("share", "seed")
        raise CannotCompareError(
            f"cannot correlate: {format_count(len(videos_by_stratum), 'variation')} {verb} only "
            f"{format_count(len(shared_seeds), seed_noun)}, but rank correlations need at least {MIN_SEEDS}. Generate "
            "videos with more seeds"
        )
    return [
        Group(name, tuple(videos_by_seed[seed] for seed in shared_seeds))
        for name, videos_by_seed in videos_by_stratum.items()
    ]


def _load_spread(strata: Sequence[Group]) -> FloatArray:
    """Return the spread of each variation's videos, [variations, seeds].

    Raises:
        NoGeometryError: the final states cannot be read, or there are too few for a spread.
    """
    final_states = FinalStates.load(strata)
    if final_states.no_spread_reason:
        raise NoGeometryError(final_states.no_spread_reason)
    return np.stack([final_states.spread_by_group[stratum.name] for stratum in strata])


def _read_attention(
    strata: Sequence[Group], on_video: Callable[[int], None]
) -> tuple[dict[str, FloatArray], list[str]]:
    """Return mean mass and entropy of the marked words, [variations, seeds] by name, and the words without a match."""
    values_by_video: list[list[dict[str, float]]] = []
    texts_by_video: list[list[str]] = []
    for number, video in enumerate((video for stratum in strata for video in stratum.videos), 1):
        assert video.attention_path is not None
        try:
            word_curves, _ = summarise_all_words(open_attention_maps(video.attention_path, video.recipe))
        except AttentionMapsError as error:
            raise AttentionMapsError(f"cannot correlate: {video.name}: {error}") from None
        values_by_video.append(
            [
                {"mass": average_finite_values(curves.mass), "entropy": average_finite_values(curves.entropy)}
                for curves in word_curves
            ]
        )
        texts_by_video.append([curves.word_text for curves in word_curves])
        on_video(number)
    matches, unmatched_words = _match_words(texts_by_video)
    labels = [
        "/".join(dict.fromkeys(texts[index] for texts, index in zip(texts_by_video, indices, strict=True)))
        for indices in matches
    ]
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    names = [f"{label} ({number})" if label in repeated else label for number, label in enumerate(labels, 1)]
    return {
        f"{kind} of {name}": np.array(
            [values[index][kind] for values, index in zip(values_by_video, indices, strict=True)]
        ).reshape(len(strata), -1)
        for name, indices in zip(names, matches, strict=True)
        for kind in ATTENTION_VALUES
    }, unmatched_words


def _match_words(texts_by_video: Sequence[Sequence[str]]) -> tuple[list[tuple[int, ...]], list[str]]:
    """Match the marked words of the videos; return the indices of each word, one per video, and the unmatched words.

    Words are matched by their order, because variations may mark different words. Prompts with different numbers of
    marks have no common order, so their words are matched by text.
    """
    if len(set(map(len, texts_by_video))) == 1:
        return [(index,) * len(texts_by_video) for index in range(len(texts_by_video[0]))], []
    indices_by_video = []
    for texts in texts_by_video:
        # The second occurrence of a word is a word of its own.
        keys = [(text, texts[:index].count(text)) for index, text in enumerate(texts)]
        indices_by_video.append({key: index for index, key in enumerate(keys)})
    all_keys = dict.fromkeys(key for indices in indices_by_video for key in indices)
    shared_keys = [key for key in all_keys if all(key in indices for indices in indices_by_video)]
    unmatched_words = dict.fromkeys(text for text, occurrence in all_keys if (text, occurrence) not in shared_keys)
    return [tuple(indices[key] for indices in indices_by_video) for key in shared_keys], list(unmatched_words)
