"""Clips in the Library: played, marked and compared, with their recipes."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from clip_batches import write_clip_batch
from harness_tui import AppUnderTest, application, run

from wantui.tui.screens.library import LibraryScreen

pytestmark = pytest.mark.terminal


def on_clips(test: Callable[[AppUnderTest, LibraryScreen], Awaitable[None]], **options: object) -> None:
    """Run a test on the Library screen with a batch of four variations by two seeds, whose matrix has the focus."""
    folder = Path("outputs/clips").absolute()
    if not folder.exists():
        write_clip_batch(folder)

    async def wrapper() -> None:
        async with application(**options) as it:  # type: ignore[arg-type]
            await it.press("4")
            screen = it.screen(LibraryScreen)
            await it.until(lambda: screen.shown_manifest)
            await it.press("enter")
            await test(it, screen)

    run(wrapper)


def test_marks_are_set_removed_and_cleared() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "down", "right", "m")
        assert screen.matrix.marked_cells == {(0, 0), (1, 1)}
        assert [clip.path.name for clip in screen.marked_clips] == ["video_001.mp4", "video_002.mp4"]
        await it.press("m")
        assert screen.matrix.marked_cells == {(0, 0)}
        await it.press("C")
        assert not screen.marked_clips
        assert not screen.matrix.marked_cells

    on_clips(test)


def test_tenth_mark_is_refused() -> None:
    write_clip_batch(Path("outputs/clips").absolute(), seeds=5)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press(*("m", "right") * 5, "down", *("m", "left") * 5)
        assert len(screen.marked_clips) == 9
        assert "cannot mark another video: 9 are marked" in it.notifications()

    on_clips(test)
