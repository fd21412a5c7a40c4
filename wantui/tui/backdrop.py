"""Backdrop of a dialog: the screen below it, drawn once and dimmed."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from textual.color import Color
from textual.events import Resize
from textual.geometry import Size
from textual.renderables.background_screen import BackgroundScreen
from textual.screen import ModalScreen
from textual.strip import Strip

from wantui.tui.dismissing import DismissOnceMixin
from wantui.tui.selection import SafeSelectionMixin


class Picture:
    """Lines of a screen as they were, under a tint."""

    def __init__(self, strips: Iterable[Strip], tint: Color) -> None:
        self._lines = [list(BackgroundScreen.process_segments(strip, tint)) for strip in strips]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()


if TYPE_CHECKING:
    _Base = ModalScreen[object]
else:
    _Base = object


class BackdropMixin(DismissOnceMixin, SafeSelectionMixin, _Base):
    """A modal screen over a picture of the screen below.

    Textual draws the screens below a translucent one on every update of either, the whole terminal each time: up to
    58 kB a second under a welcome that nobody has answered. A picture is drawn once. A plain class, since Textual looks
    up styles by the first base only.
    """

    _picture: Picture | None = None
    _picture_size = Size(0, 0)

    def on_mount(self) -> None:
        below = [screen for screen in self.app.screen_stack if screen is not self]
        if below and below[-1].size == self.app.size:
            self._picture = Picture(below[-1]._compositor.render_strips(), self.styles.background)
            self._picture_size = below[-1].size

    def on_resize(self, event: Resize) -> None:
        if event.size != self._picture_size:  # the screen below is laid out again only when it is in front again
            self._picture = None
            self.refresh()  # what was drawn for another size is drawn over, also by a dialog below another one

    def render(self) -> RenderableType:
        return self._picture or super().render()
