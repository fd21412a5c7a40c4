"""Checks of groups, and error messages about groups that cannot be matched."""

from collections.abc import Mapping, Sequence, Set

from wantui.analysis.advice import Advice, AdviceKind, AdvisedText
from wantui.analysis.group import Group, PhrasingSeed
from wantui.analysis.group_names import CannotCompareError, find_grouping_parts
from wantui.analysis.setting_values import list_differing_paths, list_setting_paths, shorten_path
from wantui.analysis.statistics import count_min_pairs
from wantui.analysis.swept_settings import find_other_swept_paths, make_other_swept_values_key
from wantui.analysis.template_parts import NO_OPTION_LABEL, list_bracket_options, list_template_brackets
from wantui.analysis.video import Video
from wantui.config.sweep_syntax import describe_seeds
from wantui.formatting import format_count, join_and_shorten, shorten_text

MAX_GROUPS = 50
"""Maximum number of groups in a comparison: 50 groups have 1,225 pairs, and time grows faster than the number of
pairs."""


def explain_too_few_seeds(groups: Sequence[Group], grouping: str, seed_count: int, has_shared_phrasings: bool) -> str:
    """Return why groups share too few seeds to be compared, and what to do."""
    text = (
        f"cannot compare {len(groups)} groups: they share {format_count(seed_count, 'seed')}, but a comparison "
        f"needs two, and a significant difference needs at least {count_min_pairs()}. "
    )
    if not has_shared_phrasings:
        return _explain_no_shared_phrasing(text, groups, grouping)
    seeds_text = "; ".join(
        f"{group.name}: {shorten_text(describe_seeds({video.seed for video in group.videos}))}" for group in groups[:4]
    )
    return text + f"Generate every variation with the same seeds (videos_per_variation). Seeds: {seeds_text}"


def _explain_no_shared_phrasing(text: str, groups: Sequence[Group], grouping: str) -> str:
    """Explain why no phrasing is in every group, and suggest another grouping that would help."""
    videos = [video for group in groups for video in group.videos]
    condition_paths = find_other_swept_paths(videos, find_grouping_parts(videos, grouping).setting_paths)
    differing_paths = [path for path in list_differing_paths(videos) if path in condition_paths]
    get_condition = make_other_swept_values_key(videos, grouping)
    if not set.intersection(*({get_condition(video) for video in group.videos} for group in groups)):
        all_paths = list_setting_paths(videos)
        names = [shorten_path(path, all_paths) for path in differing_paths]
        reason = f"{text}No value of {', '.join(names)} is in every group"
        return AdvisedText(reason, Advice(AdviceKind.GROUP_BY_SETTING, names[0]))
    brackets = ", ".join(str(number + 1) for number in range(len(list_template_brackets(videos))))
    others = [f"a bracket ({brackets})"] if brackets and grouping in ("variation", "prompt") else []
    others += ["variation"] if grouping not in ("variation", "prompt") else []
    return f"{text}No phrasing is in every group: compare batches of one template" + "".join(
        f", or group by {other}" for other in others
    )


def explain_missing_seeds(
    groups: Sequence[Group],
    cells_by_group: Sequence[Mapping[PhrasingSeed, Video]],
    shared_phrasings: Set[tuple[str, str]],
) -> dict[int, str]:
    """Return which groups lack each excluded seed in a shared phrasing."""
    phrasing_text = " in some phrasing" if len(shared_phrasings) > 1 else ""
    seeds_by_lacking_groups: dict[tuple[str, ...], list[int]] = {}
    for seed in sorted({seed for cells in cells_by_group for _, seed in cells}):
        lacking_names = tuple(
            group.name
            for group, cells in zip(groups, cells_by_group, strict=True)
            if any((phrasing, seed) not in cells for phrasing in shared_phrasings)
        )
        if lacking_names:
            seeds_by_lacking_groups.setdefault(lacking_names, []).append(seed)
    return {
        seed: (
            f"{join_and_shorten(names)} {'lacks' if len(names) == 1 else 'lack'} seed{'s' if len(seeds) > 1 else ''} "
            f"{describe_seeds(seeds)}{phrasing_text}"
        )
        for names, seeds in seeds_by_lacking_groups.items()
        for seed in seeds
    }


def check_group_count(groups: Sequence[Group], grouping: str) -> None:
    """Raise CannotCompareError if there are fewer than two groups or more than MAX_GROUPS."""
    if len(groups) < 2 and (unfinished_text := _describe_unfinished_options(groups, grouping)):
        reason = f"cannot compare groups by {grouping}: {unfinished_text}"
        raise CannotCompareError(AdvisedText(reason, Advice(AdviceKind.CHOOSE_GROUPING)))
    if len(groups) < 2:
        reason = f"cannot compare groups by {grouping}: there is only one group{_name_only_group(groups, grouping)}"
        raise CannotCompareError(AdvisedText(reason, Advice(AdviceKind.CHOOSE_GROUPING)))
    if len(groups) > MAX_GROUPS:
        raise CannotCompareError(
            f"cannot compare {len(groups):,} groups: the maximum is {MAX_GROUPS}. Group by a bracket with fewer "
            "options, or choose fewer videos or batches"
        )


def _describe_unfinished_options(groups: Sequence[Group], grouping: str) -> str:
    """Return the options of the grouping's only bracket without a finished video; empty if every option has one."""
    videos = [video for group in groups for video in group.videos]
    parts = find_grouping_parts(videos, grouping)
    if len(parts.brackets) != 1 or parts.setting_paths:
        return ""
    bracket = parts.brackets[0]
    texts = {video.choices_by_bracket.get(bracket, "") or NO_OPTION_LABEL for video in videos}
    others = [option for option in list_bracket_options(videos, bracket) if option not in texts]
    if not others:
        return ""
    return (
        f"only {groups[0].name} has finished videos; {join_and_shorten(others)} of the template "
        f"{'has' if len(others) == 1 else 'have'} none yet"
    )


def _name_only_group(groups: Sequence[Group], grouping: str) -> str:
    """Return the only value of the grouping's setting, and the settings in which the videos differ."""
    videos = [video for group in groups for video in group.videos]
    if not find_grouping_parts(videos, grouping).setting_paths:
        return ""
    paths = list_setting_paths(videos)
    names = ", ".join(shorten_path(path, paths) for path in list_differing_paths(videos))
    return f" ({groups[0].name}); the compared videos differ in {names or 'no setting'}"
