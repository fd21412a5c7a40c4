"""Draw each screen of the terminal application at work into docs/screens/: python docs/screens.py.

A batch of nano is made for it by a real engine, in a folder that is removed afterwards.
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


async def draw(into: Path) -> None:
    """Compose and queue a batch, and go through the screens while and after it is made."""
    from textual.events import Paste

    from wantui.engine.control import stop_engine
    from wantui.queue.state_dir import find_state_directory
    from wantui.tui.app import WantuiApp
    from wantui.tui.drafts import Drafts, save_drafts
    from wantui.tui.settings import TuiSettings

    place = find_state_directory()
    changes = {"attention_analysis_settings.store_attention": "true"}
    save_drafts(place.directory, Drafts(welcomed=True, changes=changes))
    app = WantuiApp(place, TuiSettings(preview_seconds=1), host="gpu1")
    async with app.run_test(size=SIZE) as pilot:

        async def until(what: Callable[[], object]) -> None:
            for _ in range(int(TIMEOUT_SECONDS / 0.05)):
                if what():
                    await pilot.pause(0.3)
                    return
                await pilot.pause(0.05)
            raise TimeoutError("a screen did not become what it was to show")

        def keep(name: str) -> None:
            (into / f"{name}.svg").write_text(app.export_screenshot(title="wantui"), encoding="utf-8")

        await until(lambda: app.screen.name == "compose" and getattr(app.screen, "config", None))
        await pilot.press("t")
        app.post_message(Paste(TEMPLATE))
        await until(lambda: getattr(app.screen, "preview", None))
        await pilot.press("escape", "f5", "3")
        await until(lambda: any(trail.step >= 14 for trail in app.snapshot.progress.values()))
        await pilot.pause(1.2)
        app.clear_notifications()
        await pilot.pause(0.2)
        keep("monitor")
        await until(lambda: app.snapshot.batches and app.snapshot.batches[0].counts.get("done", 0) >= 3)
        await pilot.press("2")
        await until(lambda: app.snapshot.running)
        keep("queue")
        await until(lambda: app.snapshot.batches and not app.snapshot.batches[0].unfinished)
        app.clear_notifications()
        await pilot.press("1")
        await pilot.pause(1.0)
        keep("compose")
        await pilot.press("4")
        await pilot.pause(1.5)
        await pilot.press("enter", "down", "right")
        await pilot.pause(1.0)
        keep("library")
        await pilot.press("5")
        await until(lambda: getattr(app.screen, "visible_rows", None))
        await pilot.press("a")
        await pilot.pause(3.0)
        keep("analysis")
    stop_engine(place.directory, now=True)


@click.command()
def main() -> None:
    """Draw them all."""
    into = Path(__file__).parent / "screens"
    into.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_STATE_HOME": folder, "TEXTUAL_ANIMATIONS": "none"}
        os.chdir(folder)
        asyncio.run(draw(into))
    click.echo(f"{len(list(into.glob('*.svg')))} screens in {into}")


if __name__ == "__main__":
    main()
