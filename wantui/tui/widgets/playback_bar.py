"""Control line of a player: frame, time, speed, loop, and a scrub bar that the mouse moves."""

from dataclasses import dataclass
from typing import Any

from rich.style import Style
from rich.text import Text
from textual.events import MouseDown, MouseMove, MouseUp
from textual.message import Message

from wantui.tui.player.playback import Playback
from wantui.tui.widgets.diff_text import DiffText

MIN_BAR_WIDTH = 12
"""Smallest width of the scrub bar in cells; the title is omitted before the bar becomes smaller."""
MAX_TITLE_SHARE = 0.4
"""Largest share of the line that the title takes."""
MIN_WIDTH_WITH_WORDS = 100
"""Minimum width of the bar, in cells, at which the state is also shown in words."""


def format_position(playback: Playback, *, in_words: bool = False) -> str:
    """Return state, frame, time, speed and loop of a player, with a width that does not change while it plays.

    Args:
        in_words: whether a word follows each sign.
    """
    state = "▶" if playback.is_playing else "‖"
    loop = "↻" if playback.is_looping else "→"
    if in_words:
        state += " playing" if playback.is_playing else " paused "
        loop += " loops" if playback.is_looping else " once"
    count_text = str(playback.frame_count)
    total_seconds = playback.frame_count / playback.fps
    total_text = f"{total_seconds:.2f}"
    frame_number = min(playback.frame_index + 1, playback.frame_count)
    seconds_text = f"{frame_number / playback.fps:.2f}".rjust(len(total_text))  # at the end of the frame
    return (
        f"{state} {frame_number:>{len(count_text)}}/{count_text}"
        f"  {seconds_text}/{total_text} s  {playback.speed:g}×  {loop}"
    )


class SeekBar(DiffText):
    """Text with a bar, such as a scrub bar or the plot of a chart; a click on the bar seeks a position."""

    @dataclass
    class SeekRequested(Message):
        """The mouse was pressed or dragged on the bar."""

        share: float
        """Position from 0 (first frame) to 1 (last frame)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.bar_start = self.bar_width = 0
        """First column and width of the bar in cells of the content; a width of 0 without a bar."""
        self._is_dragging = False

    def _is_on_bar(self, x: int) -> bool:
        """Return whether a column of the widget is on the bar or right of it."""
        return self.bar_width > 1 and x >= self.gutter.left + self.bar_start

    def _seek(self, x: int) -> None:
        share = (x - self.gutter.left - self.bar_start) / (self.bar_width - 1)
        self.post_message(self.SeekRequested(max(0.0, min(1.0, share))))

    def on_mouse_down(self, event: MouseDown) -> None:
        event.stop()
        if self._is_on_bar(event.x):
            self._is_dragging = True
            self.capture_mouse()
            self._seek(event.x)

    def on_mouse_move(self, event: MouseMove) -> None:
        if self._is_dragging and self.bar_width > 1:
            self._seek(event.x)

    def on_mouse_up(self, event: MouseUp) -> None:
        self._is_dragging = False
        self.release_mouse()


class PlaybackBar(SeekBar):
    """Position of a player, its scrub bar, and a title."""

    DEFAULT_CSS = """
    PlaybackBar { height: 1; padding: 0 1; }
    """

    class StateClicked(Message):
        """The mouse was pressed left of the scrub bar."""

    def show_playback(self, playback: Playback, title: str, *, has_scrub_bar: bool = True) -> None:
        """Show a position, and a title at the right end; omit the scrub bar if a chart replaces it."""
        width = self.content_size.width
        position = format_position(playback, in_words=width >= MIN_WIDTH_WITH_WORDS)
        title_text = Text(title, "dim")
        title_text.truncate(max(0, int(width * MAX_TITLE_SHARE)), overflow="ellipsis")
        self.bar_start = len(position) + 2
        free_width = width - self.bar_start - (title_text.cell_len + 2 if title_text else 0)
        if free_width < MIN_BAR_WIDTH and has_scrub_bar:
            title_text = Text()
            free_width = width - self.bar_start
        free_width = max(0, free_width)
        self.bar_width = free_width if has_scrub_bar else 0
        line = Text(no_wrap=True)
        line.append(position[:1], self.make_colour_style("accent") + Style(bold=True))
        line.append(f"{position[1:]}  ")
        if self.bar_width:
            share = playback.frame_index / playback.last_index if playback.last_index else 0.0
            thumb = round(share * (self.bar_width - 1))
            line.append("━" * thumb + "●", self.make_colour_style("accent"))
            line.append("─" * (self.bar_width - 1 - thumb), Style(dim=True))
        else:
            line.append(" " * free_width)
        if title_text:
            line.append("  ").append_text(title_text)
        self.show_lines([line])

    def on_mouse_down(self, event: MouseDown) -> None:
        if not self._is_on_bar(event.x):
            self.post_message(self.StateClicked())
