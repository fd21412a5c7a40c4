"""Base of the help and the command palette: a search field above a list of entries that can be run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.style import Style
from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.dom import DOMNode
from textual.events import Resize
from textual.fuzzy import Matcher
from textual.widgets import Input

from wantui.tui.actions import ACTIONS_BY_SCREEN, GROUP_TITLES
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import make_content
from wantui.tui.key_names import format_keys
from wantui.tui.pane_titles import find_key_names
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.line_input import LineInput
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.wrapping import wrap_text

INDENT = "  "


@dataclass(frozen=True)
class SearchEntry:
    """One entry of the list."""

    group: str
    """Heading above the entries of the group."""
    title: str
    keys_text: str
    """Keys as shown, such as `c, F2`."""
    help_text: str
    run: Callable[[], object] | None
    """Function that is called after the dialog is closed; None if the entry only explains something."""
    name: str = ""
    """Name in tui.yaml; empty if it has none."""

    @property
    def searched_text(self) -> str:
        """Return the text that a search looks through."""
        return f"{self.title} {self.keys_text} {self.help_text} {self.name}".lower()


def find_entries(entries: Sequence[SearchEntry], query: str) -> list[SearchEntry]:
    """Return the entries with all words of a query, best titles first, and then entries with similar titles."""
    words = query.lower().split()
    if not words:
        return list(entries)
    ranked: list[tuple[float, int, SearchEntry]] = []
    matcher = Matcher("".join(words))
    for number, entry in enumerate(entries):
        if all(word in entry.searched_text for word in words):
            title_count = sum(word in f"{entry.title} {entry.keys_text}".lower() for word in words)
            ranked.append((-1 - title_count, number, entry))
        elif (score := matcher.match(entry.title)) > 0:
            ranked.append((1 / (1 + score), number, entry))
    return [entry for _, _, entry in sorted(ranked, key=lambda item: item[:2])]


SEARCH_BINDINGS = (
    Binding("enter", "run_selected", "Run", priority=True),
    Binding("up", "move(-1)", "Move", key_display="↑ ↓", priority=True),
    Binding("down", "move(1)", "Down", show=False, priority=True),
    Binding("tab", "move_group(1)", "Next part"),
    Binding("escape", "leave", "Close"),
    Binding("shift+tab", "move_group(-1)", "Previous part", show=False),
    Binding("pagedown", "page(1)", "Page down", show=False),
    Binding("pageup", "page(-1)", "Page up", show=False),
    Binding("ctrl+home", "page(-1000)", "First", show=False),
    Binding("ctrl+end", "page(1000)", "Last", show=False),
)
"""Keys that work while the search field has the focus."""


class EntrySearchMixin(BackdropMixin):
    """Mixin for modal screens with `SEARCH_BINDINGS`; subclasses list the entries and draw an entry.

    It is not a Textual class, so Textual ignores bindings and decorated handlers here.
    """

    shows_names = False
    """Whether the name of the action under the cursor is shown below the list."""
    entry_list = getters.query_one("#entries", VirtualList)
    help_text = getters.query_one("#entry-help", DiffText)

    def __init__(self, title: str, placeholder: str) -> None:
        super().__init__()
        self.search_title, self.placeholder = title, placeholder
        self.entries: list[SearchEntry] = []
        self.shown_rows: list[SearchEntry | str] = []
        """Entries, and headings of groups."""
        self._details_width = 0
        """Width of the list for which the height of the details was chosen."""

    def list_entries(self) -> Iterable[SearchEntry]:
        """Yield all entries, group by group."""
        raise NotImplementedError

    def list_actions(self, group: str, target: DOMNode) -> Iterator[SearchEntry]:
        """Yield entries for the actions of a screen or of the application; the actions run on `target`."""
        for action in ACTIONS_BY_SCREEN.get(group, ()):
            yield SearchEntry(
                GROUP_TITLES.get(group, "Application"),
                action.footer_label,
                format_keys(find_key_names(self, action.id)),
                action.help_text,
                partial(self.app.run_action, action.textual_action, target),
                action.id,
            )

    def measure_columns(self) -> None:
        """Choose the widths of columns before the entries are drawn."""
        raise NotImplementedError

    def draw_entry(self, entry: SearchEntry, width: int) -> Text:
        """Return the line of an entry."""
        raise NotImplementedError

    def draw_heading(self, title: str, width: int) -> Text:
        """Return the title line of a group."""
        return Text(title, self.entry_list.make_colour_style("accent") + Style(bold=True))

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog entry-search") as dialog:
            dialog.border_title = make_content(self.search_title)
            yield LineInput(placeholder=self.placeholder, compact=True, select_on_focus=False)
            entry_list = VirtualList(id="entries", empty_text="no entry matches; press escape to clear the filter")
            entry_list.can_focus, entry_list.shows_focus = False, True
            with Horizontal():
                yield entry_list
                yield DiffText(id="entry-side")
            yield DiffText(id="entry-help")
        yield KeyFooter()

    def on_mount(self) -> None:
        self.entries = list(self.list_entries())
        self.measure_columns()
        self._show_entries("")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show_entries(event.value)

    @property
    def has_query(self) -> bool:
        """Return whether the list is filtered; a filtered list has no headings."""
        return bool(self.query_one(Input).value.strip())

    def _show_entries(self, query: str) -> None:
        rows: list[SearchEntry | str] = []
        group = None
        for entry in self.find_shown_entries(query):
            if entry.group != group and not self.has_query:
                rows.append(entry.group)
                group = entry.group
            rows.append(entry)
        self.shown_rows = rows
        self.entry_list.fill_rows(len(rows), self._draw_row, keep_cursor=False)
        self._move_cursor(0, 1)
        self.show_selected()

    def find_shown_entries(self, query: str) -> Sequence[SearchEntry]:
        """Return the entries of the list."""
        return find_entries(self.entries, query)

    def _draw_row(self, index: int, width: int) -> Text:
        row = self.shown_rows[index]
        if isinstance(row, str):
            is_last = index == self.entry_list.get_visible_range()[1]
            return Text() if is_last else self.draw_heading(row, width - 1)  # a heading needs an entry below it
        return self.draw_entry(row, width - 1)  # keeps keys apart from the scroll bar

    def get_selected(self) -> SearchEntry | None:
        """Return the entry under the cursor; None if nothing matches."""
        row = self.shown_rows[self.entry_list.cursor] if self.shown_rows else None
        return row if isinstance(row, SearchEntry) else None

    def show_selected(self) -> None:
        """Show below the list what the line under the cursor leaves out; the height fits every entry."""
        entry, width = self.get_selected(), self.entry_list.row_width
        self.refresh_bindings()
        entries = [row for row in self.shown_rows if isinstance(row, SearchEntry)]
        place_text = "" if entry is None else f"{entries.index(entry) + 1} of {len(entries)}"
        self.query_one(".entry-search").border_subtitle = make_content(place_text)
        if width <= 1:  # not laid out yet
            return
        if self._details_width != width:
            self._details_width = width
            self.help_text.styles.height = max((len(self._draw_details(entry)) for entry in self.entries), default=0)
        self.help_text.show_lines([] if entry is None else self._draw_details(entry))

    def _draw_details(self, entry: SearchEntry) -> list[Text]:
        """Return the name of an entry, and its text if its line is too short for the text."""
        width = max(1, self.entry_list.row_width - 1)
        is_cut = entry.help_text not in self.draw_entry(entry, width).plain[:width]
        text = entry.help_text if is_cut else ""
        name_text = f"to change this key: {entry.name} in tui.yaml" if self.shows_names and entry.name else ""
        return [*wrap_text(text, width, indent=""), *wrap_text(name_text, width, Style(dim=True), indent="")]

    def on_resize(self, event: Resize) -> None:
        self.call_after_refresh(self.show_selected)

    def _move_cursor(self, index: int, step: int) -> None:
        """Move the cursor to the entry at an index, or to the nearest entry in the direction of `step`."""
        row_count = len(self.shown_rows)
        index = max(0, min(index, row_count - 1))
        later, earlier = range(index, row_count), range(min(index, row_count - 1), -1, -1)
        for candidate in (*later, *earlier) if step > 0 else (*earlier, *later):
            if isinstance(self.shown_rows[candidate], SearchEntry):
                self.entry_list.cursor = candidate
                if candidate == 1:
                    self.entry_list.scroll_to(y=0, animate=False, force=True)  # also shows the first heading
                return

    def action_move(self, step: int) -> None:
        self._move_cursor(self.entry_list.cursor + step, step)

    def action_move_group(self, step: int) -> None:
        """Move to the first entry of the next or previous group, and show its heading at the top."""
        headings = [index for index, row in enumerate(self.shown_rows) if isinstance(row, str)]
        if not headings:
            return
        current = sum(index < self.entry_list.cursor for index in headings) - 1
        heading = headings[(current + step) % len(headings)]
        self._move_cursor(heading, 1)
        self.entry_list.scroll_to(y=heading, animate=False, force=True)

    def action_page(self, pages: int) -> None:
        self._move_cursor(self.entry_list.cursor + pages * max(1, self.entry_list.size.height - 1), pages)

    def action_leave(self) -> None:
        """Clear the filter; without a filter, close the dialog."""
        search_input = self.query_one(Input)
        if search_input.value:
            search_input.value = ""
        else:
            self.dismiss(None)

    def on_virtual_list_highlighted(self) -> None:
        self.show_selected()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer enter only for an entry that can be run."""
        entry = self.get_selected() if action == "run_selected" else None
        return action != "run_selected" or (entry is not None and entry.run is not None)

    def on_virtual_list_chosen(self) -> None:
        self.run_selected()

    def action_run_selected(self) -> None:
        self.run_selected()

    def run_selected(self) -> None:
        """Close the dialog and run the entry under the cursor, if it can be run."""
        entry = self.get_selected()
        if entry is not None and entry.run is not None:
            self.dismiss(None)
            self.app.call_later(entry.run)
