"""Welcome dialog of the first start: an introduction and a demo."""

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label

from wantui.batches.demo import DEMO_CONFIG, DEMO_TEMPLATE
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.messages import DraftReady

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp

WELCOME_TEXT = (
    "wantui generates videos from a prompt template and analyses how the model generates them.\n\n"
    f"The demo takes about a minute on any machine, without a network. {DEMO_CONFIG}, a tiny video model included in "
    f"wantui, generates\n\n  {DEMO_TEMPLATE}\n\n"
    "with six seeds per variation: twelve videos. They are generated in the background; you can close this terminal "
    "at any time."
)


class Welcome(BackdropMixin, ModalScreen[None]):
    """Dialog that offers to run the demo."""

    BINDINGS = [Binding("enter,y", "demo", "Run the demo"), Binding("escape,n,q", "later", "Not now")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Welcome to wantui"
            yield Label(WELCOME_TEXT, markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Not now (n)", id="later")
                yield Button("Run the demo (enter)", id="demo", variant="primary")

    def on_mount(self) -> None:
        self.set_focus(self.query_one("#demo"))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "demo":
            self.action_demo()
        else:
            self.action_later()

    def action_demo(self) -> None:
        app = cast("WantuiApp", self.app)
        self._mark_as_welcomed(app)
        app.drafts.choose_config(DEMO_CONFIG, changes={"attention_analysis_settings.store_attention": "true"})
        app.drafts.template = DEMO_TEMPLATE
        self.dismiss()
        app.post_message(DraftReady(queues_demo=True))

    def action_later(self) -> None:
        self._mark_as_welcomed(cast("WantuiApp", self.app))
        self.dismiss()

    def _mark_as_welcomed(self, app: "WantuiApp") -> None:
        app.drafts.welcomed = True
        app.save_drafts_or_notify()
