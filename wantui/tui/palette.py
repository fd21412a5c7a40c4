"""The command palette: all actions of the application and of the screen in front, found by their names."""

from typing import Any

from textual.app import App
from textual.command import CommandPalette
from textual.system_commands import SystemCommandsProvider


def open_palette(app: App[Any]) -> None:
    """Open it, unless it is open."""
    if not CommandPalette.is_open(app):
        app.push_screen(CommandPalette(providers=[SystemCommandsProvider], placeholder="Find an action ..."))
