"""Groups by the brackets of a template with nested brackets, of all videos, selected ones, and a running batch."""

import re
from pathlib import Path

import pytest
from template_batches import CONFIG_TEXT, NESTED_TEMPLATE, load_planned_videos

from wantui.analysis.compare import compare_groups
from wantui.analysis.conditions import explain_too_few_selected, select_videos_by_condition
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import find_dividing_groupings, group_videos
from wantui.analysis.matching import match_comparable_groups
from wantui.analysis.training_frequency import find_exchanged_words
from wantui.analysis.video import Video
from wantui.batches.power import list_grouping_powers
from wantui.config import parse_config
from wantui.errors import UserError
from wantui.planning import preview_batch
from wantui.storage.manifest import VideoEntry

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
    with pytest.raises(UserError, match=r"bracket 1 has no value 'gren'\. Choose from: red, blue$"):
        select_videos_by_condition(videos, ["1=gren"])


@pytest.mark.parametrize(
    ("grouping", "names", "left_out_count"),
    [
        ("2", ["circle", "square", "cross", "ring"], 0),
        ("3", ["circle", "square"], 48),
        ("4", ["cross", "ring"], 48),
        ("3,4", ["circle", "square", "cross", "ring"], 0),
        ("2,3,4", ["circle", "square", "cross", "ring"], 0),
        ("5,4", ["left, cross", "up, cross", "left, ring", "up, ring"], 48),
    ],
)
def test_nested_brackets_form_groups_of_the_videos_that_have_them(
    tmp_path: Path, grouping: str, names: list[str], left_out_count: int
) -> None:
    videos = load_planned_videos(tmp_path, NESTED_TEMPLATE)
    matched, exclusion_reasons = match_comparable_groups(videos, grouping)
    assert sorted(group.name for group in matched.groups) == sorted(names)
    assert len(exclusion_reasons) == left_out_count
    assert sum(len(group.videos) for group in matched.groups) == len(videos) - left_out_count
    phrasing_count = 2 if "5" in grouping else 4  # colours x directions
    assert matched.phrasing_count == phrasing_count
    for group in matched.groups:
        words = group.name.split(", ")
        assert all(set(words) <= set(video.prompt.split()) for video in group.videos)
    for _, reason in exclusion_reasons:
        assert reason.startswith("its prompt has another option instead of the nested bracket ")
    if grouping == "3":
        assert exclusion_reasons[0][1].endswith("bracket 3 (circle|square)")


def test_text_around_nested_brackets_is_part_of_the_phrasing(tmp_path: Path) -> None:
    videos = load_planned_videos(tmp_path, "a [big [circle|square]|small [circle|square]] moving [left|up]")
    matched, _ = match_comparable_groups(videos, "2")
    assert [group.name for group in matched.groups] == ["circle", "square"]
    assert {video.prompt.split()[1] for group in matched.groups for video in group.videos} == {"big"}
    with pytest.raises(CannotCompareError, match="No phrasing is in every group"):  # big against small
        match_comparable_groups(select_videos_by_condition(videos, ["1=big circle", "1=small square"]), "2,3")


@pytest.mark.parametrize(
    ("template", "options"),
    [
        ("a [[(circle:2)|square]|ring] moves", {"(circle:2)", "square", "ring"}),
        ("a [[(circle:2)|square] x|ring] moves", {"(circle:2) x", "square x", "ring"}),
    ],
)
def test_outer_option_contains_the_weight_and_the_text_around_a_nested_one(
    tmp_path: Path, template: str, options: set[str]
) -> None:
    assert {video.options_by_bracket[1] for video in load_planned_videos(tmp_path, template)} == options


def test_nested_shapes_are_two_words_of_nano(tmp_path: Path) -> None:
    comparison = compare_groups(load_planned_videos(tmp_path, NESTED_TEMPLATE), "2,3,4", "length")
    assert find_exchanged_words(comparison, "circle", "ring") == ("circle", "ring")


def test_preview_offers_the_groups_that_nested_brackets_form() -> None:
    preview = preview_batch(parse_config(CONFIG_TEXT, "my.yaml", ["seeds=1..8"]), NESTED_TEMPLATE)
    counts = {power.title: power.group_count for power in list_grouping_powers(preview)}
    assert counts["circle|square"] == counts["cross|ring"] == 2


def test_only_group_of_a_running_batch_is_named_with_those_that_are_missing(tmp_path: Path) -> None:
    videos = load_planned_videos(tmp_path, NESTED_TEMPLATE, is_done=lambda video: "red" in video.recipe.prompt)
    with pytest.raises(
        CannotCompareError,
        match=r"by 1: only red has finished videos; blue of the template has none yet\. Choose another",
    ):
        match_comparable_groups(videos, "1")


def test_missing_seeds_of_a_running_batch_have_one_reason(tmp_path: Path) -> None:
    def is_done(video: VideoEntry) -> bool:
        return "blue circle" not in video.recipe.prompt or video.seed <= 4

    videos = load_planned_videos(tmp_path, NESTED_TEMPLATE, is_done=is_done)
    matched, exclusion_reasons = match_comparable_groups(videos, "1")
    assert matched.seeds == (1, 2, 3, 4)
    assert {reason for _, reason in exclusion_reasons} == {"blue lacks seeds 5 to 6 in some phrasing"}
    assert {name.rpartition("seed ")[2] for name, _ in exclusion_reasons} == {"5", "6"}


@pytest.mark.parametrize(
    ("grouping", "message"),
    [
        ("red,blue", "cannot group by 'red,blue': red is a word of bracket 1, blue is a word of bracket 1. Group by 1"),
        ("ring", "cannot group by 'ring': ring is a word of bracket 2. Group by 2"),
    ],
)
def test_grouping_by_a_word_names_its_bracket(tmp_path: Path, grouping: str, message: str) -> None:
    videos = load_planned_videos(tmp_path, NESTED_TEMPLATE)
    with pytest.raises(CannotCompareError, match=f"^{re.escape(message)}$"):
        group_videos(videos, grouping)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("shape=circle", "circle is a word of bracket 2: write --where 2=circle"),
        (
            "2=circle,cros",
            "bracket 2 has no value 'cros'. Did you mean cross? Choose from: circle, square, cross, ring",
        ),
    ],
)
def test_condition_on_words_is_corrected(tmp_path: Path, condition: str, message: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(message)}$"):
        select_videos_by_condition(load_planned_videos(tmp_path, NESTED_TEMPLATE), [condition])


def test_batches_of_different_templates_are_matched_by_their_prompts(tmp_path: Path) -> None:
    nested = load_planned_videos(tmp_path / "nested", NESTED_TEMPLATE)
    flat = load_planned_videos(tmp_path / "flat", "a large red [circle|ring] moving [left|up]")
    matched, _ = match_comparable_groups([*nested, *flat], "batch")
    assert [group.name for group in matched.groups] == ["nested", "flat"]
    for pair in zip(*(group.videos for group in matched.groups), strict=True):
        assert len({(video.prompt, video.seed) for video in pair}) == 1
    assert (matched.phrasing_count, len(matched.seeds)) == (4, 6)
