"""Dialog that selects an earlier template."""

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList

from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import make_content
from wantui.tui.widgets.option_lists import PagedOptionList


class TemplateHistory(BackdropMixin, ModalScreen[str | None]):
    """Dialog with earlier templates; returns the selected template, or None."""

    BINDINGS = [Binding("escape,q", "dismiss(None)", "Leave")]

    def __init__(self, templates: Sequence[str]) -> None:
        super().__init__()
        self.templates = list(templates)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Earlier templates"
            dialog.border_subtitle = "↑ ↓ move   enter use   esc close"
            yield PagedOptionList(*(make_content(template[:500], keep_lines=True) for template in self.templates))

    @on(OptionList.OptionSelected)
    def _dismiss_with_choice(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self.templates[event.option_index])
