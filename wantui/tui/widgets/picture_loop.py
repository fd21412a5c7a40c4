"""Pane that plays a few pictures in a loop, as large as fits and never stretched; or shows centred text."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.events import Resize
from textual.timer import Timer

from wantui.tui.plots import draw_centred_picture
from wantui.tui.widgets.diff_text import DiffText

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

PLAY_SECONDS = 30.0
"""Seconds after which playing stops, so that an idle terminal gets no bytes; new pictures play again."""


class PictureLoop(DiffText):
    """Widget that plays pictures."""

    DEFAULT_CSS = """
    PictureLoop { height: 1fr; }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pictures: list[Picture] = []
        self.picture_index = 0
        self._timer: Timer | None = None
        self._started_at = 0.0
        self._text_lines: list[Text] = []
        self._lines_by_index: dict[int, list[Text]] = {}
        """Drawn pictures of the current size."""

    @property
    def is_playing(self) -> bool:
        """Return whether the pictures are playing."""
        return self._timer is not None

    def play_pictures(self, pictures: "Sequence[Picture]", fps: float, *, plays: bool) -> None:
        """Show pictures in a loop, or only the middle picture; a single picture does not move."""
        self.pictures, self._text_lines, self._lines_by_index = list(pictures), [], {}
        self.stop_playing()
        if plays and len(self.pictures) > 1:
            self._started_at = time.monotonic()
            self.picture_index %= len(self.pictures)
            self._timer = self.set_interval(1 / fps, self._show_next_picture)
        else:
            self.picture_index = len(self.pictures) // 2
        self._draw()

    def show_text(self, lines: Sequence[Text]) -> None:
        """Show lines in the middle instead of pictures."""
        self.stop_playing()
        self.pictures, self._lines_by_index, self._text_lines = [], {}, list(lines)
        self._draw()

    def stop_playing(self) -> None:
        """Stop at the current picture."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _show_next_picture(self) -> None:
        if not self.screen.is_current or not self.pictures:
            return
        if time.monotonic() - self._started_at > PLAY_SECONDS:
            self.stop_playing()
            return
        self.picture_index = (self.picture_index + 1) % len(self.pictures)
        self._draw()

    def on_resize(self, event: Resize) -> None:
        self._lines_by_index = {}
        self._draw()

    def _draw(self) -> None:
        width, height = self.size.width, self.size.height
        if not width or not height:
            return
        if not self.pictures:
            self.show_lines(self._centre_text(width, height))
            return
        index = self.picture_index
        if index not in self._lines_by_index:
            lines = draw_centred_picture(self.pictures[index], width, height)
            self._lines_by_index[index] = [*lines, *[Text("")] * (height - len(lines))][:height]
        self.show_lines(self._lines_by_index[index])

    def _centre_text(self, width: int, height: int) -> list[Text]:
        wrapped_lines = [part for line in self._text_lines for part in (line.wrap(self.app.console, width) or [line])]
        shown_lines = wrapped_lines[:height]
        for line in shown_lines:
            line.align("center", width)
        empty_lines = [Text("")] * ((height - len(shown_lines)) // 2)
        return [*empty_lines, *shown_lines, *[Text("")] * (height - len(shown_lines) - len(empty_lines))]
