"""Draw a screenshot of each screen to docs/screens/: `python docs/screens.py`.

A real engine generates a batch with nano in a temporary folder.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

TEMPLATE = "a large [red|blue] ([circle|star]) moving left over a dark background"
SIZE = (120, 34)
TIMEOUT_SECONDS = 120.0


async def draw_screens(folder: Path) -> None:
    """Compose and queue a batch, and draw the screens during and after its generation."""
    from textual.events import Paste

    from wantui.engine.control import stop_engine
    from wantui.queue.state_dir import find_state_directory
    from wantui.tui.app import WantuiApp
    from wantui.tui.drafts import Drafts, save_drafts
    from wantui.tui.settings import TuiSettings

    state_dir = find_state_directory()
    changes = {"attention_analysis_settings.store_attention": "true"}
    save_drafts(state_dir.directory, Drafts(welcomed=True, changes=changes))
    app = WantuiApp(state_dir, TuiSettings(preview_seconds=1), host="gpu1")
    async with app.run_test(size=SIZE) as pilot:

        async def wait_until(condition: Callable[[], object]) -> None:
            for _ in range(int(TIMEOUT_SECONDS / 0.05)):
                if condition():
                    await pilot.pause(0.3)
                    return
                await pilot.pause(0.05)
            raise TimeoutError(f"the condition of the next screenshot was not met in {TIMEOUT_SECONDS:g} s")

        def save_screenshot(name: str) -> None:
            picture = app.export_screenshot(title="wantui").replace(str(Path.cwd()), "/data")  # not a temporary folder
            (folder / f"{name}.svg").write_text(picture, encoding="utf-8")

        await wait_until(lambda: app.screen.name == "compose" and getattr(app.screen, "config", None))
        await pilot.press("t")
        app.post_message(Paste(TEMPLATE))
        await wait_until(lambda: getattr(app.screen, "preview", None))
        await pilot.press("escape", "f5", "3")
        await wait_until(lambda: any(progress.step >= 14 for progress in app.snapshot.progress_by_video.values()))
        await pilot.pause(1.2)
        app.clear_notifications()
        await pilot.pause(0.2)
        save_screenshot("monitor")
        await wait_until(lambda: app.snapshot.batches and app.snapshot.batches[0].counts.get("done", 0) >= 3)
        await pilot.press("2")
        await wait_until(lambda: app.snapshot.running_videos)
        save_screenshot("queue")
        await wait_until(lambda: app.snapshot.batches and not app.snapshot.batches[0].unfinished)
        app.clear_notifications()
        await pilot.press("1")
        await pilot.pause(1.0)
        save_screenshot("compose")
        await pilot.press("4")
        await pilot.pause(1.5)
        await pilot.press("enter", "down", "right")
        await pilot.pause(1.0)
        save_screenshot("library")
        await pilot.press("5")
        await wait_until(lambda: getattr(app.screen, "visible_rows", None))
        await pilot.press("a")
        await pilot.pause(3.0)
        save_screenshot("analysis")
    stop_engine(state_dir.directory, now=True)


@click.command()
def main() -> None:
    """Draw screenshots of all screens."""
    folder = Path(__file__).parent / "screens"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ |= {"XDG_STATE_HOME": temporary, "TEXTUAL_ANIMATIONS": "none"}
        os.chdir(temporary)
        asyncio.run(draw_screens(folder))
    click.echo(f"{len(list(folder.glob('*.svg')))} screens in {folder}")


if __name__ == "__main__":
    main()
