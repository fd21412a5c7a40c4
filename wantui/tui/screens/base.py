"""Base class of the screens: header, GPU panel and footer, updated while the screen is shown."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from textual import getters
from textual.app import ComposeResult
from textual.containers import Container
from textual.events import ScreenResume
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from wantui.gpu.monitor import GpuSample
from wantui.tui.actions import FIELD_OPENING_ACTIONS
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.removed_widgets import RemovedWidgetGuardMixin
from wantui.tui.timers import OneShotTimersMixin
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.gpu_panel import GpuPanel
from wantui.tui.widgets.header import Header
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.worker_errors import WorkerErrorsMixin

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp

TOO_SMALL_TEXT = "wantui needs 60 columns and 20 lines.\nMake the window larger, or use the command line: wantui --help"


class BaseScreen(OneShotTimersMixin, WorkerErrorsMixin, RemovedWidgetGuardMixin, Screen[None]):
    """Base of the screens; subclasses define the body and handle queue updates."""

    SCREEN_NAME = ""
    BINDING_GROUP_TITLE = ""

    header = getters.query_one(Header)
    gpu_panel = getters.query_one(GpuPanel)
    footer = getters.query_one(KeyFooter)

    def __init__(self) -> None:
        super().__init__(name=self.SCREEN_NAME)
        # Before the first layout: Textual sets these classes after it, and then styles, lays out and draws all again.
        for length, screen_breakpoints, app_breakpoints in (
            (self.app.size.width, self.HORIZONTAL_BREAKPOINTS, self.app.HORIZONTAL_BREAKPOINTS),
            (self.app.size.height, self.VERTICAL_BREAKPOINTS, self.app.VERTICAL_BREAKPOINTS),
        ):
            breakpoints = app_breakpoints if screen_breakpoints is None else screen_breakpoints
            self.add_class(*self._get_breakpoint_classes(length, breakpoints or []), update=False)

    def _compositor_refresh(self) -> None:
        """Draw the changed regions, unless a batch of updates is open: Textual would draw them now and send nothing."""
        if self.app._batch_count:
            # The changed regions stay marked. Without this flag, the screen would be idle after the batch, and would
            # draw them only with the next change; the flag itself marks no regions.
            self._repaint_required = True
        else:
            super()._compositor_refresh()

    @property
    def wantui_app(self) -> "WantuiApp":
        return cast("WantuiApp", self.app)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable keys that open fields while a text field has the focus, which takes them as letters."""
        return not (action in FIELD_OPENING_ACTIONS and isinstance(self.focused, Input | TextArea))

    def compose(self) -> ComposeResult:
        yield Header(self.SCREEN_NAME, self.wantui_app.host_name)
        yield Static(TOO_SMALL_TEXT, classes="too-small")
        with Container(id="body"):
            yield from self.compose_body()
        yield GpuPanel(self.wantui_app.gpu_history)
        yield KeyFooter()

    def compose_body(self) -> Iterable[Widget]:
        """Yield the widgets between header and GPU panel."""
        raise NotImplementedError

    def on_mount(self) -> None:
        self.wantui_app.snapshot_signal.subscribe(self, self._handle_snapshot)
        self.wantui_app.sample_signal.subscribe(self, self._handle_gpu_sample)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._redraw_colours())

    def _redraw_colours(self) -> None:
        """Redraw content that sets its own colours after the theme changes."""
        self.header.draw_header()
        for row_list in self.query(VirtualList):
            row_list.refresh()

    def on_screen_resume(self, event: ScreenResume) -> None:
        if not self.stack_updates:
            event.refresh_styles = False  # Textual has just styled the widgets of a new screen
        self._update_from_snapshot(self.wantui_app.snapshot)
        if self.wantui_app.gpu_history.latest_sample is not None:
            self._handle_gpu_sample(self.wantui_app.gpu_history.latest_sample)
        self.on_shown()

    def on_resize(self) -> None:
        """Restore the focus, which Textual removes while the terminal is too small."""
        if self.focused is None and self.is_current:
            self.call_after_refresh(self.focus_main_widget)

    def focus_main_widget(self) -> None:
        """Move the focus from an input to the screen's main widget (escape)."""

    def on_shown(self) -> None:
        """Handle the screen being shown again."""

    def list_idle_actions(self) -> Iterable[str]:
        """List the actions that have nothing to act on, so that the footer omits them."""
        return ()

    def update_footer(self) -> None:
        """Show the keys of the actions that have something to act on."""
        self.footer.hide_idle_actions(frozenset(self.list_idle_actions()))

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        """Update the screen after a change of the queue, or when it is shown again."""

    def _handle_snapshot(self, snapshot: QueueSnapshot) -> None:
        if self.is_current:
            self._update_from_snapshot(snapshot)

    def _update_from_snapshot(self, snapshot: QueueSnapshot) -> None:
        self.header.show_snapshot(snapshot)
        self.show_snapshot(snapshot)
        self.update_footer()

    def _handle_gpu_sample(self, sample: GpuSample) -> None:
        if not self.is_current:
            return
        panel = self.gpu_panel
        # A class, because `display` would override the style for small terminals.
        panel.set_class(self.wantui_app.gpu_panel_mode == "hidden", "-hidden")
        panel.is_large = self.wantui_app.gpu_panel_mode == "large"
        panel.draw_panel()
