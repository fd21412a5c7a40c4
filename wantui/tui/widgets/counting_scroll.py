"""Scrolled content whose frame counts the lines below."""

from textual.containers import VerticalScroll

from wantui.formatting import format_count
from wantui.tui.content import make_content


class CountingScroll(VerticalScroll):
    """Scrolled content whose frame says how many lines are below."""

    def on_resize(self) -> None:
        self._show_hidden_line_count()

    def watch_virtual_size(self) -> None:
        self._show_hidden_line_count()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._show_hidden_line_count()

    def _show_hidden_line_count(self) -> None:
        hidden_count = round(self.max_scroll_y - self.scroll_y)
        text = f"{format_count(hidden_count, 'more line')}: ↓" if hidden_count > 0 else ""
        self.border_subtitle = make_content(text)
