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

from wantui.tui.dialog import DialogMixin
from wantui.tui.widgets.footer import KeyFooter


class TintedScreen:
    """Tinted copy of a screen's lines."""

    def __init__(self, strips: Iterable[Strip], tint: Color) -> None:
        self._segment_lines = [list(BackgroundScreen.process_segments(strip, tint)) for strip in strips]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._segment_lines:
            yield from line
            yield Segment.line()


if TYPE_CHECKING:
    _Base = ModalScreen[object]
else:
    _Base = object


class BackdropMixin(DialogMixin, _Base):
    """Mixin for modal screens that shows a static picture of the screen below.

    Textual redraws the whole terminal on every update of a screen below a translucent one: up to 58 kB/s under an
    open welcome dialog. The picture is drawn once. The mixin is no `Screen`, because Textual looks up styles by the
    first base class only.
    """

    _picture: TintedScreen | None = None
    _picture_size = Size(0, 0)

    def on_mount(self) -> None:
        self._draw_screen_below()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.call_after_refresh(self._draw_screen_below))

    def _draw_screen_below(self) -> None:
        """Draw the screen below without its keys, unless its layout is still for another size of the terminal."""
        lower_screens = [screen for screen in self.app.screen_stack if screen is not self]
        if lower_screens and lower_screens[-1].size == self.app.size:
            strips = lower_screens[-1]._compositor.render_strips()
            for footer in lower_screens[-1].query(KeyFooter):  # its keys do not work in the dialog
                if 0 <= (y := footer.region.y) < len(strips):
                    strips[y] = Strip.blank(strips[y].cell_length, footer.rich_style)
            self._picture = TintedScreen(strips, self.styles.background)
            self._picture_size = lower_screens[-1].size
            self.refresh()

    def on_resize(self, event: Resize) -> None:
        if event.size != self._picture_size:  # the screen below gets its new layout only when it is in front again
            self._picture = None
            self.refresh()  # also overwrites the old picture if this dialog is below another one

    def render(self) -> RenderableType:
        return self._picture or super().render()
