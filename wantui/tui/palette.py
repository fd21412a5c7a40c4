"""Command palette: a search for actions of the current screen and of the application, and for themes."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.screen import ModalScreen
from textual.timer import Timer

from wantui.tui.entry_search import INDENT, SEARCH_BINDINGS, EntrySearchMixin, SearchEntry

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp

THEME_GROUP = "Theme"
CLAUSE_END_PATTERN = re.compile("[,;:] ")
PREVIEW_SECONDS = 0.1
"""Seconds for which the cursor stays on a theme before the theme is shown."""


class Palette(EntrySearchMixin, ModalScreen[None]):
    """Command palette with keys beside the commands; it previews a theme while the cursor is on the theme."""

    BINDINGS = [*SEARCH_BINDINGS]

    def __init__(self) -> None:
        super().__init__("Commands", "Find an action or a theme")
        self._first_theme = ""
        self._title_width_by_group: dict[str, int] = {}
        """Width of the titles, by group: those of themes are longer than those of actions."""
        self._preview_timer: Timer | None = None

    def on_mount(self) -> None:
        self._first_theme = self.app.theme

    def list_entries(self) -> Iterator[SearchEntry]:
        app = cast("WantuiApp", self.app)
        screen = app.screen_stack[0]
        for group in (screen.name or "", "app"):
            for entry in self.list_actions(group, app if group == "app" else screen):
                purpose = entry.help_text.removeprefix(f"{entry.title}: ")  # of a screen
                yield replace(entry, help_text=purpose[0].upper() + purpose[1:])
        for name, theme in app.available_themes.items():
            kind = "Dark" if theme.dark else "Light"
            text = f"{kind} theme in the 16 colours of the terminal." if theme.ansi else f"{kind} theme."
            yield SearchEntry(
                THEME_GROUP, name, "in use" if name == app.theme else "", text, partial(app.choose_theme, name)
            )

    def measure_columns(self) -> None:
        themes = [entry for entry in self.entries if entry.group == THEME_GROUP]
        actions = [entry for entry in self.entries if entry.group != THEME_GROUP]
        for entries in (themes, actions):
            width = max((len(self._format_title(entry)) for entry in entries), default=0)
            self._title_width_by_group |= {entry.group: width for entry in entries}

    def draw_entry(self, entry: SearchEntry, width: int) -> Text:
        line = Text(f"{self._format_title(entry):<{self._title_width_by_group[entry.group]}}  ")
        help_width = max(0, width - line.cell_len - len(entry.keys_text) - 1)
        help_text = Text(_shorten(entry.help_text, help_width), self.entry_list.make_colour_style("text-muted"))
        help_text.truncate(help_width, overflow="ellipsis", pad=True)
        line.append_text(help_text)
        line.append(f" {entry.keys_text}", self.entry_list.make_colour_style("accent"))
        return line

    def _format_title(self, entry: SearchEntry) -> str:
        return f"{entry.group}: {entry.title}" if self.has_query else f"{INDENT}{entry.title}"

    def show_selected(self) -> None:
        super().show_selected()
        if self._preview_timer is not None:
            self._preview_timer.stop()
        self._preview_timer = self.set_timer(PREVIEW_SECONDS, self._preview_theme)

    def _preview_theme(self) -> None:
        entry = self.get_selected()
        is_theme = entry is not None and entry.group == THEME_GROUP
        if entry is not None and is_theme and self.is_current:
            self.app.theme = entry.title
        elif self.app.theme != self._first_theme:
            self.app.theme = self._first_theme

    def run_selected(self) -> None:
        entry = self.get_selected()
        if entry is not None and entry.group == THEME_GROUP:
            self._first_theme = entry.title
        super().run_selected()

    def on_unmount(self) -> None:
        """Restore the initial theme, unless another theme was chosen."""
        if self.app.theme != self._first_theme:
            self.app.theme = self._first_theme


def _shorten(text: str, width: int) -> str:
    """Return a text that fits into a width if possible: whole, or up to the end of a clause."""
    clause_ends = [match.start() for match in CLAUSE_END_PATTERN.finditer(text) if match.start() < width]
    return text if len(text) <= width or not clause_ends else f"{text[: clause_ends[-1]]}…"
