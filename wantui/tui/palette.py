"""Command palette: a search for actions of the current screen and of the application."""

from typing import Any

from textual.app import App, ComposeResult
from textual.command import CommandInput, CommandPalette, SearchIcon
from textual.containers import Horizontal, Vertical
from textual.system_commands import SystemCommandsProvider
from textual.widgets import LoadingIndicator

from wantui.tui.backdrop import BackdropMixin
from wantui.tui.widgets.line_input import LineInputMixin
from wantui.tui.widgets.option_lists import PagedCommandList

PALETTE_PLACEHOLDER = "Find an action ..."


class PaletteInput(LineInputMixin, CommandInput):
    """Input of the command palette."""


class Palette(BackdropMixin, CommandPalette):
    """Textual's palette without animations, which would send data while idle."""

    def __init__(self) -> None:
        super().__init__(providers=[SystemCommandsProvider], placeholder=PALETTE_PLACEHOLDER)

    def compose(self) -> ComposeResult:
        with Vertical(id="--container"):
            with Horizontal(id="--input"):
                yield SearchIcon()
                yield PaletteInput(placeholder=self._placeholder, select_on_focus=False)
            with Vertical(id="--results"):
                yield PagedCommandList()
                yield LoadingIndicator()

    def on_mount(self) -> None:
        self.query_one(LoadingIndicator).auto_refresh = None  # 16 frames/s, even while hidden


def open_palette(app: App[Any]) -> None:
    """Open the command palette unless it is open."""
    if not CommandPalette.is_open(app):
        app.push_screen(Palette())
