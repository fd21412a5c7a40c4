"""The analysis screen over several batches: what its means take, and what it names as left out."""

from dataclasses import replace
from pathlib import Path

import pytest
from harness_tui import AppUnderTest
from test_analysis import SETTINGS, synthetic_videos
from test_tui_screens import on

from wantui.analysis.groups import Group, pool_comparable_groups
from wantui.analysis.video import Video
from wantui.tui.analysis_data import ComparisonDone, TrajectoriesLoaded
from wantui.tui.screens.analysis import AnalysisScreen

pytestmark = pytest.mark.terminal


async def show(it: AppUnderTest, videos: list[Video], fault: str = "") -> AnalysisScreen:
    """Show videos as if they had been read from chosen batches."""
    screen = it.screen(AnalysisScreen)
    await it.until(lambda: screen.empty_text != "reading ...")
    folders = list(dict.fromkeys(video.folder for video in videos))
    screen.post_message(TrajectoriesLoaded(folders, folders, videos, fault))
    await it.until(lambda: screen.videos is videos)
    return screen


def in_two_batches(folder: Path) -> list[Video]:
    """Return 8 videos of one batch, and two of them again with another number of steps."""
    videos = synthetic_videos(folder, {"one": 1.0, "other": 1.0}, seeds=4, phrasings=1)
    later = [
        replace(video, folder=folder / "later", settings=SETTINGS | {"steps": 20})
        for video in videos
        if video.seed == 0
    ]
    return [*videos, *later]


def test_group_means_exclude_and_name_videos_with_other_settings(tmp_path: Path) -> None:
    videos = in_two_batches(tmp_path)
    pooled, left_out = pool_comparable_groups(videos, "variation")
    assert [name for name, _ in left_out] == ["one_0 seed 0 of later", "other_0 seed 0 of later"]

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: "one_0 (n = 4)" in it.text())
        shown = [row for row in screen.visible_rows if isinstance(row, Group)]
        assert [row.compute_mean("length") for row in shown] == [group.compute_mean("length") for group in pooled]
        assert "2 videos left out" in it.text()
        await it.until(lambda: "left out: one_0 seed 0 of later: steps is 20" in it.cells("#curve-cells"))
        assert "left out: other_0 seed 0 of later: steps is 20" in it.cells("#curve-cells")

    on("analysis", test)


def test_search_does_not_change_the_settings_of_group_means(tmp_path: Path) -> None:
    videos = in_two_batches(tmp_path)
    few = [videos[0], *videos[4:]]  # alone, the name "one_0" would have as many videos of each setting

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, few)
        await it.press("c", "slash")
        await it.paste("one_0")
        await it.until(lambda: len(screen.visible_rows) == 1)
        (group,) = screen.visible_rows
        assert isinstance(group, Group)
        assert [video.folder for video in group.videos] == [tmp_path]

    on("analysis", test)


def test_videos_of_one_variation_cannot_be_grouped(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: "cannot group: all videos are of one variation and one batch" in it.notifications())
        assert not screen.is_grouped

    on("analysis", test)


def test_unlisted_excluded_videos_are_counted(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=8, phrasings=1)
    twice = [replace(video, folder=tmp_path / "later") for video in videos[:9]]

    async def test(it: AppUnderTest) -> None:
        await show(it, [*videos, *twice])
        await it.press("c")
        await it.until(lambda: "left out: 4 more" in it.cells("#curve-cells"))

    on("analysis", test)


def test_groups_without_trajectories_explain_why_they_are_empty(tmp_path: Path) -> None:
    videos = [
        replace(video, trajectory=None, exclusion_reason="it has no stored trajectory")
        for video in synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)
    ]

    async def test(it: AppUnderTest) -> None:
        await show(it, videos)
        await it.press("c")
        await it.until(lambda: "no trajectory can be read" in it.text())
        await it.until(lambda: "left out: one_0 seed 0: it has no stored trajectory" in it.cells("#curve-cells"))

    on("analysis", test)


def test_unreadable_chosen_batch_is_reported_while_others_are_shown(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        await show(it, videos, "b/batch.json cannot be read: it is not JSON")
        assert "some batches are left out: b/batch.json cannot be read" in it.notifications()

    on("analysis", test)


@pytest.mark.parametrize("is_of_these_videos", [False, True])
def test_outdated_comparison_is_discarded(tmp_path: Path, is_of_these_videos: bool) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        await it.until(lambda: screen.comparison_outcome)
        screen.post_message(ComparisonDone(videos if is_of_these_videos else list(videos), "variation", None, "late"))
        await it.pilot.pause()
        assert (
            screen.comparison_outcome is not None and screen.comparison_outcome.error == "late"
        ) == is_of_these_videos

    on("analysis", test)


def test_regenerated_videos_are_compared_again(tmp_path: Path) -> None:
    videos = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1)

    async def test(it: AppUnderTest) -> None:
        screen = await show(it, videos)
        await it.press("c")
        first = await it.until(lambda: screen.comparison_outcome)
        screen.post_message(TrajectoriesLoaded([tmp_path], [tmp_path], list(videos), ""))
        await it.pilot.pause()
        assert screen.comparison_outcome is first
        again = synthetic_videos(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, phrasings=1, lengths=3.0)
        screen.post_message(TrajectoriesLoaded([tmp_path], [tmp_path], again, ""))
        await it.until(lambda: screen.comparison_outcome is not None and screen.comparison_outcome is not first)
        assert screen.comparison_outcome is not None
        assert screen.comparison_outcome.videos is again

    on("analysis", test)


def test_empty_details_pane_is_titled_by_its_mode() -> None:
    async def test(it: AppUnderTest) -> None:
        screen = it.screen(AnalysisScreen)
        await it.until(lambda: "no batch here has stored trajectories" in it.text())
        assert screen.details.border_title == "Curves"
        await it.press("a")
        assert screen.details.border_title == "Attention"

    on("analysis", test)
