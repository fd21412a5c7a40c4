"""Groups by the brackets of a template with nested brackets, of all videos, selected ones, and a running batch."""

from pathlib import Path

import pytest
from template_batches import NESTED_TEMPLATE, load_planned_videos

from wantui.analysis.conditions import explain_too_few_selected, select_videos_by_condition
from wantui.analysis.groups import find_dividing_groupings, group_videos
from wantui.analysis.video import Video
from wantui.errors import UserError

pytestmark = pytest.mark.slow


def list_group_names(videos: list[Video], grouping: str) -> list[str]:
    return [group.name for group in group_videos(videos, grouping)]


@pytest.mark.parametrize("conditions", [(), ("2=circle",), ("2=ring",), ("1=blue", "2=cross")])
def test_bracket_numbers_do_not_change_with_the_selected_videos(tmp_path: Path, conditions: tuple[str, ...]) -> None:
    videos = select_videos_by_condition(load_planned_videos(tmp_path, NESTED_TEMPLATE), conditions)
    assert list_group_names(videos, "5") == ["left", "up"]
    assert {video.choices_by_bracket[5] for video in select_videos_by_condition(videos, ["5=up"])} == {"up"}
    assert "up" not in list_group_names(videos, "4")


@pytest.mark.parametrize("word", ["circle", "ring"])
def test_bracket_numbers_do_not_change_with_the_finished_videos(tmp_path: Path, word: str) -> None:
    videos = load_planned_videos(tmp_path, NESTED_TEMPLATE, is_done=lambda video: word in video.recipe.prompt)
    assert {video.choices_by_bracket[2] for video in videos} == {word}
    assert list_group_names(videos, "5") == ["left", "up"]
    assert [name for name in find_dividing_groupings(videos) if name.isdecimal()] == ["1", "5"]


def test_condition_that_leaves_no_video_with_a_bracket_is_the_named_cause(tmp_path: Path) -> None:
    videos = load_planned_videos(tmp_path, NESTED_TEMPLATE)
    selected = select_videos_by_condition(videos, ["2=circle"])
    text = explain_too_few_selected(videos, selected, ["2=circle"], "4", 2)
    assert "cannot compare groups by 4: --where 2=circle leaves only (nothing), not cross, ring" in text


def test_missing_word_is_answered_with_all_words_of_the_template(tmp_path: Path) -> None:
    videos = load_planned_videos(tmp_path, NESTED_TEMPLATE, is_done=lambda video: "red" in video.recipe.prompt)
    with pytest.raises(UserError, match=r"bracket 1 has no value 'gren'\. It has red, blue$"):
        select_videos_by_condition(videos, ["1=gren"])
