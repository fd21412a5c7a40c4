"""Help dialog: the keys of the screen, of the application and of the focused widget."""

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Static

from wantui.tui.actions import ACTIONS_BY_SCREEN, SCREEN_TITLES
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import make_content


class Help(BackdropMixin, ModalScreen[None]):
    """Tables of keys, effects and names; the names are valid under `keys:` in tui.yaml."""

    BINDINGS = [Binding("escape,q,question_mark,f1", "dismiss", "Close")]

    def __init__(self, screen_name: str, focused_widget: Widget | None) -> None:
        super().__init__()
        self.screen_name, self.focused_widget = screen_name, focused_widget

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog reader") as scroll:
            scroll.border_title = make_content(f"Help: {SCREEN_TITLES.get(self.screen_name, 'wantui')}")
            if self.focused_widget is not None:
                yield Static(self.build_widget_table(self.focused_widget))
            yield Static(self.build_action_table())

    def on_mount(self) -> None:
        self.set_focus(self.query_one(VerticalScroll))

    def build_widget_table(self, widget: Widget) -> Table:
        """Return a table of the widget's keys and their effects."""
        table = Table(box=None, title_justify="left", title="Focused widget", title_style="bold", show_header=False)
        for _, binding in widget._bindings:
            if binding.description:
                table.add_row(self.app.get_key_display(binding), Text(binding.description))
        return table

    def build_action_table(self) -> Table:
        """Return a table of the actions of the screen and the application."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("key", "", "name"):
            table.add_column(column, overflow="fold")
        keymap = self.app._keymap
        for group in (self.screen_name, "app"):
            for action in ACTIONS_BY_SCREEN.get(group, ()):
                keys = keymap.get(action.id, action.key_names).replace("question_mark", "?").replace("slash", "/")
                table.add_row(Text(keys.replace(",", ", ")), Text(action.help_text), Text(action.id, "dim"))
        return table
