"""Help: the actions of the screen, of the application, and of the focused widget."""

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Static

from wantui.tui.actions import SCREENS, TABLE
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.plain import plain


class Help(BackdropMixin, ModalScreen[None]):
    """Keys, names and effects; the names are those of `keys:` in tui.yaml."""

    BINDINGS = [Binding("escape,q,question_mark,f1", "dismiss", "Close")]

    def __init__(self, screen: str, focused: Widget | None) -> None:
        super().__init__()
        self.where, self.focus_of = screen, focused

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog reader") as scroll:
            scroll.border_title = plain(f"Help: {SCREENS.get(self.where, 'wantui')}")
            if self.focus_of is not None:
                yield Static(self.about(self.focus_of))
            yield Static(self.table())

    def on_mount(self) -> None:
        self.set_focus(self.query_one(VerticalScroll))

    def about(self, widget: Widget) -> Table:
        """Return the keys of the focused widget."""
        table = Table(box=None, title_justify="left", title="Where you are", title_style="bold", show_header=False)
        for _, binding in widget._bindings:
            if binding.description:
                table.add_row(self.app.get_key_display(binding), Text(binding.description))
        return table

    def table(self) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("key", "", "name"):
            table.add_column(column, overflow="fold")
        keys = self.app._keymap
        for where in (self.where, "app"):
            for action in TABLE.get(where, ()):
                shown = keys.get(action.id, action.keys).replace("question_mark", "?").replace("slash", "/")
                table.add_row(Text(shown.replace(",", ", ")), Text(action.help), Text(action.id, "dim"))
        return table
