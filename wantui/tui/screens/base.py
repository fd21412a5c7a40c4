"""Common parts of every screen: the header, the GPU panel and the footer, updated while the screen is shown."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from wantui.gpu.monitor import GpuSample
from wantui.tui.actions import OPENS_FIELD
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.selection import SafeSelectionMixin
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.gpu_panel import GpuPanel
from wantui.tui.widgets.header import Header
from wantui.tui.worker_errors import ReportsWorkerErrors

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp

TOO_SMALL = "wantui needs 60 columns and 20 lines.\nMake the window larger, or use the command line: wantui --help"


class BaseScreen(ReportsWorkerErrors, SafeSelectionMixin, Screen[None]):
    """A screen of the application. Subclasses define its body, and react to queue updates."""

    NAME = ""
    BINDING_GROUP_TITLE = ""

    def __init__(self) -> None:
        super().__init__(name=self.NAME)

    @property
    def wantui(self) -> "WantuiApp":
        return cast("WantuiApp", self.app)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable keys that lead to a field inside a field: they are letters there."""
        return not (action in OPENS_FIELD and isinstance(self.focused, Input | TextArea))

    def compose(self) -> ComposeResult:
        yield Header(self.NAME, self.wantui.host)
        yield Static(TOO_SMALL, classes="too-small")
        with Container(id="body"):
            yield from self.body()
        yield GpuPanel(self.wantui.gpus)
        yield KeyFooter()

    def body(self) -> Iterable[Widget]:
        """Yield the widgets between header and GPU panel."""
        raise NotImplementedError

    def on_mount(self) -> None:
        self.wantui.news_signal.subscribe(self, self._news_came)
        self.wantui.sample_signal.subscribe(self, self._sample_came)

    def on_screen_resume(self) -> None:
        self._show_news(self.wantui.news)
        if self.wantui.gpus.sample is not None:
            self._sample_came(self.wantui.gpus.sample)
        self.on_shown()

    def on_resize(self) -> None:
        """Give the focus back that a terminal too small took away."""
        if self.focused is None and self.is_current:
            self.call_after_refresh(self.rest)

    def rest(self) -> None:
        """Move the focus from an input to the screen's main widget, on escape."""

    def on_shown(self) -> None:
        """React to the screen being shown again."""

    def show_news(self, news: QueueSnapshot) -> None:
        """Update the screen: the queue changed, or the screen is shown again."""

    def _news_came(self, news: QueueSnapshot) -> None:
        if self.is_current:
            self._show_news(news)

    def _show_news(self, news: QueueSnapshot) -> None:
        self.query_one(Header).show_news(news)
        self.query_one(GpuPanel).news = news
        self.show_news(news)

    def _sample_came(self, sample: GpuSample) -> None:
        if not self.is_current:
            return
        panel = self.query_one(GpuPanel)
        panel.set_class(self.wantui.gpu_panel == "hidden", "-hidden")  # `display` would outweigh a small terminal's
        panel.large = self.wantui.gpu_panel == "large"
        panel.draw()
