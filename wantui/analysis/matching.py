"""Matching of groups: the videos that all groups share, with final states if `spread` can be computed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wantui.analysis.advice import Advice, AdviceKind, AdvisedText, add_details
from wantui.analysis.comparability import VideoNamer
from wantui.analysis.final_states import (
    SPREAD_METRIC,
    FinalStates,
    UnusableProjectionsError,
    VideoKey,
    get_video_key,
)
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import MatchedGroups, select_videos_for_grouping
from wantui.analysis.trajectory import NoGeometryError
from wantui.analysis.video import Video
from wantui.formatting import format_count


def match_groups_and_final_states(
    videos: Sequence[Video], grouping: str, primary_metric: str
) -> tuple[MatchedGroups, list[tuple[str, str]], list[str], FinalStates | None, str]:
    """Return matched groups, excluded videos, and final states.

    The results are: matched groups; excluded videos, each with the reason; excluded videos whose projection cannot be
    used; final states; and the reason if there are no final states.

    If `spread` is declared, videos whose projection cannot be used are excluded. If another metric is declared, they
    stay, and `spread` is not compared.

    Raises:
        CannotCompareError: the groups cannot be compared, or have no final states and the declared metric needs them.
    """
    matched_groups, exclusion_reasons = match_comparable_groups(videos, grouping)
    unusable_reasons: dict[VideoKey, str] = {}
    first_error: NoGeometryError | None = None
    while True:
        try:
            video_namer = VideoNamer(videos)
            unreadable_videos = [
                video_namer.name_video(video) for video in videos if get_video_key(video) in unusable_reasons
            ]
            final_states = FinalStates.load(matched_groups.groups)
            if primary_metric == SPREAD_METRIC and final_states.no_spread_reason:
                raise NoGeometryError(final_states.no_spread_reason)
            return matched_groups, exclusion_reasons, unreadable_videos, final_states, ""
        except NoGeometryError as error:
            if primary_metric != SPREAD_METRIC:
                return matched_groups, exclusion_reasons, [], None, str(error)
            reason = f"cannot compare {SPREAD_METRIC}: {first_error or error}"
            refusal = CannotCompareError(AdvisedText(reason, Advice(AdviceKind.USE_OTHER_METRIC, "straightness")))
            if not isinstance(error, UnusableProjectionsError):
                raise refusal from None
            first_error = first_error or error
            unusable_reasons |= error.reasons
        try:
            matched_groups, exclusion_reasons = match_comparable_groups(
                exclude_videos(videos, unusable_reasons), grouping
            )
        except CannotCompareError:
            raise refusal from None


def exclude_videos(videos: Sequence[Video], reasons: Mapping[VideoKey, str]) -> list[Video]:
    """Return all videos; remove the trajectories of excluded videos, so that comparisons exclude these videos."""
    return [
        replace(video, trajectory=None, exclusion_reason=reason)
        if (reason := reasons.get(get_video_key(video)))
        else video
        for video in videos
    ]


def match_comparable_groups(videos: Sequence[Video], grouping: str) -> tuple[MatchedGroups, list[tuple[str, str]]]:
    """Return groups with the same seeds, and the names of excluded videos, each with the reason.

    Raises:
        CannotCompareError: there are fewer than two groups or seeds, or too many groups.
    """
    comparable_videos, excluded_videos = select_videos_for_grouping(videos, grouping)
    namer = VideoNamer(videos)
    try:
        matched_groups = MatchedGroups.match_groups(comparable_videos, grouping, namer)
    except CannotCompareError as error:
        if not excluded_videos:
            raise
        example = f"{namer.name_video(excluded_videos[0])}: {excluded_videos[0].exclusion_reason}"
        exclusions = (
            f"{len(excluded_videos)} of {format_count(len(videos), 'video')} "
            f"{'is' if len(excluded_videos) == 1 else 'are'} excluded, for example {example}"
        )
        raise CannotCompareError(add_details(error.message, exclusions)) from None
    return matched_groups, [
        (namer.name_video(video), video.exclusion_reason) for video in excluded_videos
    ] + matched_groups.exclusion_reasons
