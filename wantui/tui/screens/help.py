"""Help dialog: how a run goes, the keys of the screen, the terms of the screens, and the keys of the focused widget and
of the application."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.events import Resize
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Input, TextArea

from wantui.tui.actions import GROUP_TITLES
from wantui.tui.entry_search import INDENT, SEARCH_BINDINGS, EntrySearchMixin, SearchEntry
from wantui.tui.key_names import format_keys
from wantui.tui.screen_purposes import SCREEN_PURPOSES
from wantui.tui.terms import RUN_STEPS, TERMS
from wantui.tui.widgets.diff_text import DiffText

MAX_KEYS_WIDTH = 16
"""Maximum width of the key column, in cells; it is as wide as the longest keys."""
MIN_WIDE_WIDTH, MIN_WIDE_HEIGHT = 130, 34
"""Width of the screen in cells from which the dialog has two columns."""
RUN_GROUP, TERM_GROUP = "How a run goes", "Terms"
SIDE_GROUPS = (RUN_GROUP, TERM_GROUP)
"""Groups that a wide dialog has beside its list."""


SIDEWAYS_ACTIONS = ("scroll_left", "scroll_right", "page_left", "page_right")
"""Actions of all scrolling Textual widgets; nothing here scrolls sideways by these keys."""


class Help(EntrySearchMixin, ModalScreen[None]):
    """Dialog with keys, effects and names of actions.

    The names are valid under `keys:` in tui.yaml. Enter runs an entry. The keys of the application come last, because
    they are the same on every screen.
    """

    shows_names = True
    BINDINGS = [*SEARCH_BINDINGS, Binding("question_mark,f1", "dismiss", "Close", show=False, priority=True)]

    def __init__(self, screen_name: str, focused_widget: Widget | None) -> None:
        title = f"Help: keys of {GROUP_TITLES.get(screen_name, 'wantui')}, and terms"
        super().__init__(title, "Type to find a key or a term")
        self.screen_name, self.focused_widget = screen_name, focused_widget
        self._keys_width = 0

    def list_entries(self) -> Iterator[SearchEntry]:
        for step, task in RUN_STEPS.items():
            yield SearchEntry(RUN_GROUP, step, step, task, None)
        yield from self.list_actions(self.screen_name, self._find_screen())
        for term, meaning in TERMS.items():
            yield SearchEntry(TERM_GROUP, term, term, meaning, None)
        if self.focused_widget is not None:
            yield from self._list_widget_entries(self.focused_widget)
        yield from self.list_actions("app", self.app)

    def _find_screen(self) -> Screen[Any]:
        """Return the screen or dialog whose keys are shown."""
        screens = self.app.screen_stack
        return next((screen for screen in screens if screen.name == self.screen_name), screens[0])

    def _list_widget_entries(self, widget: Widget) -> Iterator[SearchEntry]:
        """Yield the keys of the focused widget; keys with the same effect share an entry."""
        group = "Text field" if isinstance(widget, Input | TextArea) else "List"
        keys_by_effect: dict[tuple[str, str], list[str]] = {}
        for key, binding in widget._bindings:
            if binding.description and binding.action not in SIDEWAYS_ACTIONS:
                keys_by_effect.setdefault((binding.description, binding.action), []).append(key)
        for (description, action), keys in keys_by_effect.items():
            run = partial(self.app.run_action, action, widget)
            yield SearchEntry(group, description, format_keys(",".join(keys)), f"{description}.", run)

    @property
    def _is_wide(self) -> bool:
        """Whether the steps of a run and the terms are beside the list instead of in it."""
        return self.size.width >= MIN_WIDE_WIDTH and self.size.height >= MIN_WIDE_HEIGHT

    def on_resize(self, event: Resize) -> None:
        if self.has_class("-two-columns") != self._is_wide:
            self.set_class(self._is_wide, "-two-columns")
            self._show_entries(self.query_one(Input).value)
        self.call_after_refresh(self._show_side)
        super().on_resize(event)

    def find_shown_entries(self, query: str) -> Sequence[SearchEntry]:
        entries = super().find_shown_entries(query)
        return entries if query.strip() or not self._is_wide else [e for e in entries if e.group not in SIDE_GROUPS]

    def _show_side(self) -> None:
        """Show the steps of a run and the terms beside the list."""
        side = self.query_one("#entry-side", DiffText)
        lines: list[Text] = []
        for group in SIDE_GROUPS:
            lines.append(self.draw_heading(group, side.content_size.width))
            lines += [self.draw_entry(entry, 0) for entry in self.entries if entry.group == group]
        side.show_lines(lines)

    def draw_heading(self, title: str, width: int) -> Text:
        """Return the title of a group with what the screen is for."""
        line = super().draw_heading(title, width)
        is_screen = title == GROUP_TITLES.get(self.screen_name)
        if is_screen and self.screen_name in SCREEN_PURPOSES:
            line.append(f"  {SCREEN_PURPOSES[self.screen_name]}", "not bold dim")
        return line

    def measure_columns(self) -> None:
        self._keys_width = min(MAX_KEYS_WIDTH, max(len(entry.keys_text) for entry in self.entries))

    def draw_entry(self, entry: SearchEntry, width: int) -> Text:
        is_term = entry.group == TERM_GROUP
        width = max(map(len, TERMS)) if is_term and self._is_wide else self._keys_width
        style = Style(bold=True) if is_term else self.entry_list.make_colour_style("accent")
        line = Text(INDENT).append(f"{entry.keys_text:<{width}}  ", style)
        line.append(entry.help_text)
        return line
