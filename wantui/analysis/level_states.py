"""Projected states of matched groups at every noise level, to measure how groups separate along the path."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.advice import add_details, add_reason_prefix
from wantui.analysis.arrays import FloatArray
from wantui.analysis.comparability import VideoNamer
from wantui.analysis.final_states import VideoKey, get_video_key, load_group_states
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.matching import exclude_videos, match_comparable_groups
from wantui.analysis.unguided import split_by_guidance
from wantui.analysis.video import Video


@dataclass(frozen=True)
class LevelStates:
    """Projected states of groups with the same seeds and phrasings, at every noise level."""

    group_names: tuple[str, ...]
    seeds: tuple[int, ...]
    sigmas: FloatArray
    """[L] noise levels, falling, without those of Heun's predictors."""
    states: NDArray[np.floating]
    """[groups, seeds, phrasings, L, k] projected states. Other swept settings count as phrasings."""
    dimension: int
    """Number of values per latent state, D. Squared distances of projected states refer to all D values."""
    exclusion_reasons: tuple[tuple[str, str], ...] = ()
    """Name and reason of each excluded video."""
    unreadable_videos: tuple[str, ...] = ()
    """Names of the excluded videos whose projection cannot be used."""

    @property
    def phrasing_count(self) -> int:
        """Return the number of phrasings that all groups share."""
        return self.states.shape[2]


def load_level_states(videos: Sequence[Video], grouping: str) -> LevelStates:
    """Load the stored projections of the videos that all groups share. Needs videos * L * k * 4 bytes of memory.

    Videos whose projection cannot be used are excluded, together with the videos of other groups to which they were
    matched.

    Raises:
        CannotCompareError: the groups cannot be matched, or their projections have different noise levels or sizes.
    """
    unusable_reasons: dict[VideoKey, str] = {}
    while True:
        try:
            matched_groups, exclusion_reasons = match_comparable_groups(
                exclude_videos(videos, unusable_reasons), grouping
            )
        except CannotCompareError as error:
            if not unusable_reasons:
                raise
            example = next(iter(unusable_reasons.values()))
            details = f"Some projections cannot be used, for example: {example}"
            raise CannotCompareError(add_details(error.message, details)) from None
        loaded_groups = [load_group_states(group) for group in matched_groups.groups]
        new_reasons = {key: reason for _, _, reasons in loaded_groups for key, reason in reasons.items()}
        if not new_reasons:
            break
        unusable_reasons |= new_reasons
    namer = VideoNamer(videos)
    return LevelStates(
        tuple(group.name for group in matched_groups.groups),
        matched_groups.seeds,
        loaded_groups[0][0],
        _stack_states(matched_groups, loaded_groups),
        matched_groups.groups[0].videos[0].dimension,
        tuple(exclusion_reasons),
        tuple(namer.name_video(video) for video in videos if get_video_key(video) in unusable_reasons),
    )


def load_guided_and_unguided(videos: Sequence[Video], grouping: str) -> tuple[LevelStates, LevelStates | None, str]:
    """Load the states of the compared videos and, if stored, of the same prompts and seeds at cfg_scale 1.

    Also return the reason why states at cfg_scale 1 cannot be compared; empty if they can, or if there are none.

    Raises:
        CannotCompareError: as for `load_level_states`.
    """
    guided_videos, unguided_videos = split_by_guidance(videos, grouping)
    level_states = load_level_states(guided_videos, grouping)
    if not unguided_videos:
        return level_states, None, ""
    prompts = {(video.prompt, video.word_weights) for video in guided_videos}
    matching_videos = [
        video
        for video in unguided_videos
        if (video.prompt, video.word_weights) in prompts and video.seed in level_states.seeds
    ]
    try:
        return level_states, load_level_states(matching_videos, grouping), ""
    except CannotCompareError as error:
        reason = add_reason_prefix("the videos at cfg_scale 1 are not compared: ", error.message)
        return level_states, None, reason


def _stack_states(
    matched_groups: MatchedGroups,
    loaded_groups: Sequence[tuple[FloatArray, NDArray[np.float32], dict[VideoKey, str]]],
) -> NDArray[np.float32]:
    """Return states [groups, seeds, phrasings, L, k].

    Raises:
        CannotCompareError: the groups have different noise levels or sizes.
    """
    first_sigmas, first_states, _ = loaded_groups[0]
    for group, (sigmas, states, _) in zip(matched_groups.groups, loaded_groups, strict=True):
        if states.shape[1:] != first_states.shape[1:] or not np.allclose(sigmas, first_sigmas, rtol=0, atol=1e-6):
            raise CannotCompareError(
                f"cannot compare {matched_groups.groups[0].name} with {group.name} along the path: their states have "
                "different noise levels or sizes. Compare videos with equal sampler, step count, shift and size"
            )
    seed_count = len(matched_groups.seeds)
    return np.stack([states.reshape(seed_count, -1, *first_states.shape[1:]) for _, states, _ in loaded_groups])


def average_over_sigma(values: FloatArray, sigmas: FloatArray) -> FloatArray:
    """Return curves [..., L] averaged over the noise level, by the trapezoidal rule."""
    return np.asarray(np.trapezoid(values, sigmas, axis=-1) / (sigmas[-1] - sigmas[0]))
