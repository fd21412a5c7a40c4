"""Every dialog of the application, opened as it is in use, and the bytes that a terminal gets under it."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_batches import FPS, FRAME_COUNT, draw_clip, write_clip_batch
from conftest import recipe_for
from textual.app import App
from textual.drivers.headless_driver import HeadlessDriver
from textual.screen import ModalScreen

import wantui.tui
from wantui.models.catalogue import NANO
from wantui.storage.batch_index import BatchSummary
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import write_mp4
from wantui.storage.video_selection import SelectedVideo
from wantui.tui.palette import Palette
from wantui.tui.player.clips import PlayerClip
from wantui.tui.screens.choose_batches import BatchChooser
from wantui.tui.screens.dialogs import Confirm, InputDialog, TextViewer
from wantui.tui.screens.forming import FormingScreen
from wantui.tui.screens.help import Help
from wantui.tui.screens.history import TemplateHistory
from wantui.tui.screens.player import Player
from wantui.tui.screens.recipe_viewer import RecipeViewer
from wantui.tui.screens.welcome import Welcome
from wantui.tui.screens.yaml_editor import YamlEditor

RECIPE = recipe_for(NANO, fps=FPS, frames=FRAME_COUNT)


class PausedPlayer(Player):
    """The player of clips that were made up, which does not play: a clip that plays is a change."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            [PlayerClip(write_drawn_clip(Path(f"{name}.mp4")), RECIPE, name, (name,), Path(), name) for name in names]
        )
        self.playback.is_playing = False


def write_drawn_clip(path: Path) -> Path:
    """Write a clip of nine frames, unless it exists, and return its path."""
    if not path.exists():
        write_mp4(path.absolute(), draw_clip((40, 80, 120)), FPS, FRAME_COUNT, {})
    return path


def summarise_batch(name: str) -> BatchSummary:
    """Return the summary of a made-up batch."""
    return BatchSummary(Path(name), "2026-11-29T00:01:41+00:00", "a star", "nano", (("done", 3),), "", "42 to 44")


def open_forming_screen() -> FormingScreen:
    """Return the screen of a video without stored steps."""
    folder = Path("forming_batch")
    manifest = read_manifest(BatchFolder(folder)) if folder.exists() else write_clip_batch(folder)
    return FormingScreen(SelectedVideo(folder, manifest, manifest.videos[0]))


DIALOGS: dict[type[ModalScreen[Any]], Callable[[], ModalScreen[Any]]] = {
    InputDialog: lambda: InputDialog("Save as:", "mine"),
    BatchChooser: lambda: BatchChooser([summarise_batch("one"), summarise_batch("two")], [Path("one")]),
    Confirm: lambda: Confirm("Cancel it?", "Cancel"),
    FormingScreen: open_forming_screen,
    Help: lambda: Help("compose", None),
    TemplateHistory: lambda: TemplateHistory(["a red circle", "a blue circle"]),
    Palette: Palette,
    Player: lambda: PausedPlayer(["a", "b"]),
    RecipeViewer: lambda: RecipeViewer([("red", RECIPE)]),
    TextViewer: lambda: TextViewer("Recipe", "one\ntwo\n" * 50),
    Welcome: Welcome,
    YamlEditor: lambda: YamlEditor("model_settings:\n  model_id: nano\n", "mine"),
}
"""How each is opened."""


def dialog_types() -> set[type[ModalScreen[Any]]]:
    """Return every dialog that the application defines, found by looking through its modules."""
    for module in pkgutil.walk_packages(wantui.tui.__path__, "wantui.tui."):
        importlib.import_module(module.name)

    def below(kind: type[Any]) -> Iterator[type[Any]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    return {kind for kind in below(ModalScreen) if kind.__module__.startswith("wantui.")}


@contextmanager
def counted_bytes(app: App[Any]) -> Iterator[list[str]]:
    """Collect what a running application under test would write to a terminal."""
    written: list[str] = []
    driver = app._driver
    assert isinstance(driver, HeadlessDriver)

    class Terminal(HeadlessDriver):
        is_headless = False

        def write(self, data: str) -> None:
            written.append(data)

    driver.__class__ = Terminal
    try:
        yield written
    finally:
        driver.__class__ = HeadlessDriver
