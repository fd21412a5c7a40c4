"""Pictures (PNG) of every screen of the application, in small and large terminals, for docs/screens/README.md."""

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

import click
from animation import place_words
from screens import Recorder, compose_batch, follow_batch, use_temporary_state

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = ((80, 24), (140, 40))
"""Columns and rows of the terminals."""
SWEEP_TEMPLATE = "a large [red|blue] circle moving left over a dark background"
SWEEP_SETTINGS = {
    "batch_name": "guidance",
    "videos_per_variation": "6",
    "sweeps": "cfg_scale=1,4,8",
    "model_settings.device": "cpu",
    "model_settings.steps": "8",
}
"""Settings of the batch with a sweep by dotted key; all others are those of the preset nano."""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
COLOUR_COUNT, FREQUENT_COLOUR_COUNT = 256, 32
"""Colours of a picture, and how many of them are its most frequent ones, unchanged."""
FRAME = (9, 41, 9, 9)
"""Pixels of the window that Textual draws around a screenshot: left, top, right, bottom."""
VIEW_BOX_PATTERN = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
FONT_PATTERN = re.compile(r"@font-face \{.*?\}", re.DOTALL)
CONTENT_PATTERN = re.compile(r">([^<]*)</text>")


class PictureRecorder(Recorder):
    """Recorder that keeps only the screenshots of still screens."""

    async def add_frame(self, seconds: float, name: str = "") -> None:
        if name:
            await self.save(name)

    async def save(self, name: str) -> None:
        """Save a screenshot without notifications."""
        self.app.clear_notifications()
        await self.pilot.pause(0.5)
        columns, rows = self.app.size
        (self.folder / f"{name}_{columns}x{rows}.svg").write_text(self.draw(), encoding="utf-8")

    def draw(self) -> str:
        """Return a screenshot in a font of this machine."""
        screenshot = self.app.export_screenshot(title="wantui")
        screenshot = FONT_PATTERN.sub("", screenshot).replace("Fira Code", "DejaVu Sans Mono")
        return place_words(CONTENT_PATTERN.sub(_shorten_path, screenshot))


def _shorten_path(match: re.Match[str]) -> str:
    """Replace the temporary folder with a short one, and add spaces, so that all characters keep their places."""
    content = match[1].replace(str(Path.cwd()), "/data")
    return f">{content}{'&#160;' * (len(match[1]) - len(content))}</text>"


async def draw_demo(recorder: PictureRecorder) -> None:
    """Queue the demo, and draw all screens during and after its generation."""
    from wantui.batches.demo import DEMO_TEMPLATE

    app = recorder.app
    await compose_batch(recorder, DEMO_TEMPLATE)
    await follow_batch(recorder)
    await recorder.press("question_mark", wait_seconds=1.0)
    await recorder.save("help")
    await recorder.press("escape", "ctrl+p", wait_seconds=1.0)
    await recorder.save("commands")
    await recorder.press("escape", "4", wait_seconds=2.0)
    await recorder.press("enter", "down", "right", wait_seconds=1.5)
    await recorder.save("library")
    await draw_library_dialogs(recorder)
    await recorder.press("p", wait_seconds=1.5)
    await recorder.save("player")
    await recorder.press("escape", "s", wait_seconds=2.0)
    await recorder.press(*4 * ["left"])
    await recorder.save("forming")
    await recorder.press("escape", "5")
    await recorder.wait_until(lambda: getattr(app.screen, "visible_rows", None))
    await recorder.pilot.pause(3.0)
    await recorder.save("analysis")
    await recorder.press("b", wait_seconds=1.0)
    await recorder.save("batches")
    await recorder.press("escape")
    await recorder.press("a", wait_seconds=3.0)
    await recorder.press(*8 * ["full_stop"], wait_seconds=1.0)
    await recorder.save("attention")
    await recorder.press("c", wait_seconds=8.0)
    await recorder.save("comparison")


async def draw_library_dialogs(recorder: PictureRecorder) -> None:
    """Draw the recipe of a video, the differences of two recipes, and the two clips side by side."""
    await recorder.press("i", wait_seconds=1.0)
    await recorder.save("recipe")
    await recorder.press("escape", "m", "up", "m", "d", wait_seconds=1.0)
    await recorder.save("differences")
    await recorder.press("escape", "c", wait_seconds=1.5)
    await recorder.press("d", wait_seconds=1.5)
    await recorder.save("comparison_of_clips")
    await recorder.press("escape", "C", "down", wait_seconds=1.0)


async def draw_sweep(recorder: PictureRecorder) -> None:
    """Queue a sweep unless an earlier size did, and draw its draft, its matrix and its dose-response."""
    app = recorder.app
    await recorder.wait_until(lambda: app.screen.name == "compose" and getattr(app.screen, "config", None))
    await recorder.press("escape", wait_seconds=2.0)
    if not app.snapshot.batches:
        await recorder.press("f5")
        await recorder.wait_until(lambda: app.snapshot.batches and not app.snapshot.batches[0].unfinished_count)
    await recorder.press("1", "s", "slash", *"sweeps", wait_seconds=2.0)
    await recorder.save("compose_sweep")
    await recorder.press("escape", "escape", "4", wait_seconds=3.0)
    await recorder.press("enter", "down", "right", wait_seconds=2.0)
    await recorder.save("library_sweep")
    await recorder.press("5")
    await recorder.wait_until(lambda: getattr(app.screen, "visible_rows", None))
    while app.screen.grouping != "cfg_scale":
        await recorder.press("c", wait_seconds=1.0)
    await recorder.wait_until(lambda: app.screen.comparison_outcome)
    await recorder.save("dose_response")


async def draw_all_screens(folder: Path) -> None:
    """Draw every screen at every size to a folder: `NAME_COLUMNSxROWS.svg`."""
    from wantui.batches.demo import DEMO_SETTINGS
    from wantui.engine.control import stop_engine
    from wantui.queue.state_dir import find_state_directory
    from wantui.tui.app import WantuiApp
    from wantui.tui.drafts import Drafts, save_drafts
    from wantui.tui.settings import TuiSettings

    state_dir = find_state_directory()
    demo_settings = DEMO_SETTINGS | {"latent_analysis_settings.store_latents": "true"}
    scenes = [
        (draw_sweep, Drafts(welcomed=True, changes=SWEEP_SETTINGS, template=SWEEP_TEMPLATE)),
        (draw_demo, Drafts(welcomed=True, changes=demo_settings)),
    ]
    try:
        for (draw_scene, drafts), size in product(scenes, SIZES):
            save_drafts(state_dir.directory, drafts)
            app = WantuiApp(state_dir, TuiSettings(preview_seconds=1), host_name="gpu1")
            async with app.run_test(size=size) as pilot:
                await draw_scene(PictureRecorder(app, pilot, folder))
    finally:
        stop_engine(state_dir.directory, is_immediate=True)


def convert_to_png(svg_path: Path, png_path: Path) -> None:
    """Convert a screenshot to a PNG with few colours."""
    from PIL import Image

    if BROWSER is None:
        raise click.ClickException("cannot make PNG files: there is no Chromium. Install it")
    match = VIEW_BOX_PATTERN.search(svg_path.read_text(encoding="utf-8"))
    assert match is not None, "this is not a screenshot of Textual"
    width, height = (round(float(length)) for length in match.groups())
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--default-background-color=00000000"]
    command += [f"--window-size={width},{height}", f"--screenshot={png_path}", svg_path.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(png_path) as image:
        left, top, right, bottom = FRAME
        content = image.convert("RGB").crop((left, top, width - right, height - bottom))
    reduce_colours(content).save(png_path, optimize=True)


def reduce_colours(picture: "Image") -> "Image":
    """Return a picture with `COLOUR_COUNT` colours: its most frequent ones, and averages of all others.

    Averages count a colour by the square root of its pixels, so that the colours of a single word and of each cell of
    a colour scale differ from their neighbours.
    """
    from PIL import Image

    pixel_counts = sorted(picture.getcolors(picture.width * picture.height), reverse=True)
    frequent, others = pixel_counts[:FREQUENT_COLOUR_COUNT], pixel_counts[FREQUENT_COLOUR_COUNT:]
    palette = Image.new("P", (1, 1))
    channels = [channel for _, colour in frequent for channel in colour]
    if others:
        weighted = [colour for count, colour in others for _ in range(round(count**0.5))]
        sample = Image.new("RGB", (len(weighted), 1))
        sample.putdata(weighted)
        average_count = COLOUR_COUNT - FREQUENT_COLOUR_COUNT
        averages = sample.quantize(average_count, kmeans=1, dither=Image.Dither.NONE).getpalette()
        channels += averages[: 3 * average_count]
    palette.putpalette(channels)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


@contextmanager
def make_short_folder() -> Iterator[Path]:
    """Make a temporary folder whose path is about as long as that in the pictures, so that lines break as there."""
    for name in ascii_lowercase:
        folder = Path(tempfile.gettempdir()) / name
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    raise click.ClickException(f"cannot make a folder with a short name: {tempfile.gettempdir()} has all of them")


def draw_pictures(folder: Path) -> None:
    """Draw a picture of every screen at every size to a folder: `NAME_COLUMNSxROWS.png`."""
    folder.mkdir(exist_ok=True, parents=True)
    with make_short_folder() as data_folder, tempfile.TemporaryDirectory() as svg_folder:
        use_temporary_state(str(data_folder))
        asyncio.run(draw_all_screens(Path(svg_folder)))
        for svg_path in sorted(Path(svg_folder).glob("*.svg")):
            convert_to_png(svg_path, folder / f"{svg_path.stem}.png")
