"""Draw a screenshot of each screen, and an animated tour of a session, to docs/screens/: `python docs/screens.py`.

A real engine generates the batch of the demo in a temporary folder.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from animation import build_animation, place_words

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from wantui.queue.records import BatchRow
    from wantui.tui.app import WantuiApp

SIZE = (120, 34)
TIMEOUT_SECONDS = 900.0
"""Longest wait for one screenshot."""
TYPED_LENGTHS = (9, 18, 29)
"""Numbers of characters of the template that the first frames of the tour show."""


class Recorder:
    """Screenshots of an application under test: single ones, and the frames of the tour.

    Args:
        app: the running application.
        folder: folder of the screenshots.
    """

    def __init__(self, app: "WantuiApp", pilot: "Pilot[None]", folder: Path) -> None:
        self.app, self.pilot, self.folder = app, pilot, folder
        self.frames: list[tuple[str, float]] = []

    async def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition, and for the screen to show it."""
        for _ in range(int(TIMEOUT_SECONDS / 0.05)):
            if condition():
                await self.pilot.pause(0.3)
                return
            await self.pilot.pause(0.05)
        raise TimeoutError(f"the condition of the next screenshot was not met in {TIMEOUT_SECONDS:g} s")

    def draw(self) -> str:
        """Return a screenshot without notifications, and without the path of the temporary folder."""
        screenshot = self.app.export_screenshot(title="wantui", simplify=True)
        return place_words(screenshot.replace(str(Path.cwd()), "/data"))

    async def add_frame(self, seconds: float, name: str = "") -> None:
        """Add a frame to the tour; with a name, also save it as a screenshot."""
        self.app.clear_notifications()
        await self.pilot.pause(0.2)
        self.frames.append((self.draw(), seconds))
        if name:
            await self.save(name)

    async def save(self, name: str) -> None:
        """Save a screenshot without notifications."""
        self.app.clear_notifications()
        await self.pilot.pause(0.2)
        (self.folder / f"{name}.svg").write_text(self.draw(), encoding="utf-8")

    async def press(self, *keys: str, wait_seconds: float = 0.5) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause(wait_seconds)


async def compose_batch(recorder: Recorder, template: str) -> None:
    """Type the template of the demo, and queue it."""
    from textual.events import Paste

    from wantui.tui.widgets.template_editor import TemplateEditor

    app = recorder.app
    await recorder.wait_until(lambda: app.screen.name == "compose" and getattr(app.screen, "config", None))
    await recorder.wait_until(lambda: isinstance(app.focused, TemplateEditor))
    for start, end in zip((0, *TYPED_LENGTHS), (*TYPED_LENGTHS, None), strict=True):
        app.post_message(Paste(template[start:end]))
        await recorder.pilot.pause(0.8)
        await recorder.add_frame(0.5 if end else 2.0)
    await recorder.press("escape", "f5", "3")


async def follow_batch(recorder: Recorder) -> None:
    """Show the Monitor and Queue screens while the videos are generated."""
    app = recorder.app
    for step in (2, 5, 8):
        await recorder.wait_until(
            lambda step=step: any(p.step_number == step for p in app.snapshot.progress_by_video.values())
        )
        await recorder.wait_until(lambda: app.screen.picture.pictures)
        await recorder.add_frame(1.2, "monitor" if step == 5 else "")
    batch_id = max(batch.id for batch in app.snapshot.batches)

    def find_batch() -> "BatchRow":
        return next(batch for batch in app.snapshot.batches if batch.id == batch_id)

    await recorder.wait_until(lambda: find_batch().counts.get("done", 0) >= 3)
    await recorder.press("2")
    await recorder.wait_until(lambda: app.snapshot.running_videos)
    await recorder.add_frame(2.0, "queue")
    await recorder.wait_until(lambda: not find_batch().unfinished_count)
    await recorder.press("1", wait_seconds=1.0)
    await recorder.save("compose")


async def look_at_results(recorder: Recorder) -> None:
    """Show the Library and Analysis screens."""
    app = recorder.app
    await recorder.press("4", wait_seconds=2.0)
    await recorder.press("enter", "down", "right", wait_seconds=1.5)
    await recorder.add_frame(2.0, "library")
    await recorder.press("p", wait_seconds=1.0)
    for _ in range(3):
        await recorder.add_frame(0.4)
    await recorder.press("escape")
    await recorder.press("5")
    await recorder.wait_until(lambda: getattr(app.screen, "visible_rows", None))
    await recorder.press("a", wait_seconds=3.0)
    await recorder.add_frame(2.5, "analysis")
    await recorder.press("c", wait_seconds=6.0)
    await recorder.add_frame(3.0)


async def draw_screens(folder: Path, size: tuple[int, int], records_tour: bool) -> None:
    """Compose and queue the demo, and draw the screens during and after its generation.

    Args:
        size: columns and rows of the terminal.
    """
    from wantui.batches.demo import DEMO_SETTINGS, DEMO_TEMPLATE
    from wantui.engine.control import stop_engine
    from wantui.queue.state_dir import find_state_directory
    from wantui.tui.app import WantuiApp
    from wantui.tui.drafts import Drafts, save_drafts
    from wantui.tui.settings import TuiSettings

    state_dir = find_state_directory()
    save_drafts(state_dir.directory, Drafts(welcomed=True, changes=DEMO_SETTINGS))
    app = WantuiApp(state_dir, TuiSettings(preview_seconds=1), host_name="gpu1")
    try:
        async with app.run_test(size=size) as pilot:
            recorder = Recorder(app, pilot, folder)
            await compose_batch(recorder, DEMO_TEMPLATE)
            await follow_batch(recorder)
            await look_at_results(recorder)
            if records_tour:
                (folder / "tour.svg").write_text(build_animation(recorder.frames), encoding="utf-8")
    finally:
        stop_engine(state_dir.directory, is_immediate=True)


def use_temporary_state(folder: str) -> None:
    """Use a folder for the queue and the batches, and a terminal with all colours."""
    os.environ |= {"XDG_STATE_HOME": folder, "TEXTUAL_ANIMATIONS": "none"}
    os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    os.environ.pop("NO_COLOR", None)
    os.chdir(folder)


@click.command()
@click.option("--png", "draws_png", is_flag=True, help="Draw PNG files of all screens in two sizes, with Chromium.")
@click.option("--size", default=f"{SIZE[0]}x{SIZE[1]}", show_default=True, help="Columns x rows of the terminal.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the pictures; without the tour.  [default: docs/screens]",
)
def main(draws_png: bool, size: str, folder: Path | None) -> None:
    """Draw screenshots of all screens, and the tour."""
    if draws_png:
        from pictures import draw_pictures

        draw_pictures((folder or Path(__file__).parent / "screens" / "now").resolve())
        return
    columns, rows = map(int, size.split("x"))
    records_tour = folder is None
    folder = (folder or Path(__file__).parent / "screens").resolve()
    folder.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        use_temporary_state(temporary)
        asyncio.run(draw_screens(folder, (columns, rows), records_tour))
    click.echo(f"{len(list(folder.glob('*.svg')))} screens in {folder}")


if __name__ == "__main__":
    main()
