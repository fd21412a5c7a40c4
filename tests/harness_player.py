"""The player of the application under test, with made-up clips."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from clip_batches import FRAME_COUNT, write_clip_batch
from harness_tui import AppUnderTest, application, run

from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.player import Player


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


async def open_player(it: AppUnderTest, *keys: str) -> Player:
    """Press keys that open the player, wait for its first pictures, pause it, and show the first frame."""
    await it.press(*keys)
    player: Player = await it.until(lambda: isinstance(it.app.screen, Player) and it.app.screen)
    await it.until(lambda: all(view.picture is not None for view in player.views))
    await it.until(lambda: player.playback.frame_count == FRAME_COUNT)
    if player.playback.is_playing:
        await it.press("space")
    await it.press("g")
    return player
