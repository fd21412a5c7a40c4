"""Error messages about groups that cannot be matched."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wantui.analysis.advice import Advice, AdviceKind, AdvisedText
from wantui.analysis.group_names import find_grouping_parts, list_template_brackets
from wantui.analysis.setting_values import list_differing_paths, shorten_path
from wantui.analysis.swept_settings import choose_other_swept_key, find_other_swept_paths
from wantui.config.sweep_syntax import describe_seeds
from wantui.formatting import format_count, shorten_text

if TYPE_CHECKING:
    from wantui.analysis.groups import Group


def explain_too_few_seeds(groups: "Sequence[Group]", grouping: str, seed_count: int, has_shared_phrasings: bool) -> str:
    """Return why groups share too few seeds to be compared, and what to do."""
    text = (
        f"cannot compare {len(groups)} groups: they share {format_count(seed_count, 'seed')}, but a comparison "
        "needs two. "
    )
    if not has_shared_phrasings:
        return _explain_no_shared_phrasing(text, groups, grouping)
    seeds_text = "; ".join(
        f"{group.name}: {shorten_text(describe_seeds({video.seed for video in group.videos}))}" for group in groups[:4]
    )
    return text + f"Generate every variation with the same seeds (videos_per_variation). Seeds: {seeds_text}"


def _explain_no_shared_phrasing(text: str, groups: "Sequence[Group]", grouping: str) -> str:
    """Explain why no phrasing is in every group, and suggest another grouping that would help."""
    videos = [video for group in groups for video in group.videos]
    condition_paths = find_other_swept_paths(videos, find_grouping_parts(videos, grouping).setting_paths)
    differing_paths = [path for path in list_differing_paths(videos) if path in condition_paths]
    get_condition = choose_other_swept_key(videos, grouping)
    if not set.intersection(*({get_condition(video) for video in group.videos} for group in groups)):
        all_paths = dict.fromkeys(path for video in videos for path in video.setting_values)
        names = [shorten_path(path, all_paths) for path in differing_paths]
        reason = f"{text}No value of {', '.join(names)} is in every group"
        return AdvisedText(reason, Advice(AdviceKind.GROUP_BY_SETTING, names[0]))
    brackets = ", ".join(str(number + 1) for number in range(len(list_template_brackets(videos))))
    others = [f"a bracket ({brackets})"] if brackets and grouping in ("variation", "prompt") else []
    others += ["variation"] if grouping not in ("variation", "prompt") else []
    return f"{text}No phrasing is in every group: compare batches of one template" + "".join(
        f", or group by {other}" for other in others
    )
