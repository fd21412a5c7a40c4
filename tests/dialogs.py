"""Every dialog of the application, opened as it is in use, and the bytes that a terminal gets under it."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from textual.drivers.headless_driver import HeadlessDriver
from textual.screen import ModalScreen

import wantui.tui
from wantui.tui.app import WantuiApp
from wantui.tui.palette import Palette
from wantui.tui.screens.choose_batches import BatchChooser
from wantui.tui.screens.dialogs import Confirm, InputDialog, TextViewer
from wantui.tui.screens.help import Help
from wantui.tui.screens.history import History
from wantui.tui.screens.player import ClipsLoaded, Player
from wantui.tui.screens.welcome import Welcome
from wantui.tui.screens.yaml_editor import YamlEditor


class PausedPlayer(Player):
    """The player of two clips that were made up, which does not play: a clip that plays is a change."""

    def load_clips(self) -> None:  # type: ignore[override]
        self.is_playing = False
        frames = [np.full((64, 64, 3), 40 * number, np.uint8) for number in range(3)]
        self.post_message(ClipsLoaded([frames] * len(self.captioned_paths), ""))


DIALOGS: dict[type[ModalScreen[Any]], Callable[[], ModalScreen[Any]]] = {
    InputDialog: lambda: InputDialog("Save as:", "mine"),
    BatchChooser: lambda: BatchChooser([Path("one"), Path("two")], [Path("one")]),
    Confirm: lambda: Confirm("Cancel it?", "Cancel"),
    Help: lambda: Help("compose", None),
    History: lambda: History(["a red circle", "a blue circle"]),
    Palette: Palette,
    Player: lambda: PausedPlayer([(Path("a"), "a"), (Path("b"), "b")], 8.0),
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
def counted_bytes(app: WantuiApp) -> Iterator[list[str]]:
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
