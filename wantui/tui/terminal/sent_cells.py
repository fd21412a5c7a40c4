"""Updates of the terminal that send only the cells that differ from those sent before.

Textual (8.2.8) sends a changed region from the left edge of its widget, and the whole screen after each layout. A new
screen is laid out two or three times before it is complete, and a dialog covers a part of what the terminal shows.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby, takewhile
from typing import Any

from rich.console import Console, RenderableType
from rich.control import Control
from rich.segment import Segment
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.app import App
from textual.events import AppFocus, Event, Resize
from textual.geometry import Size
from textual.screen import Screen
from textual.strip import Strip

JOINING_CHARACTERS = ("\ufe0f", "\u200d")
"""Variation selector and joiner of emoji: terminals disagree about the width of what contains them."""


class SentRows:
    """Known content of the rows that the terminal shows."""

    def __init__(self) -> None:
        self._strips_by_row: dict[int, Strip] = {}
        self._size = Size()
        self._mode = ""

    def forget(self) -> None:
        """Send the next update of each row whole: another program may have used the terminal."""
        self._strips_by_row.clear()

    def begin_update(self, size: Size, mode: str) -> None:
        """Forget all rows if the drawn screen has a different size in cells, or the application a different mode.

        Changing to another of the five screens therefore repairs a terminal to which another program has written.
        """
        if (size, mode) != (self._size, self._mode):
            self.forget()
        self._size, self._mode = size, mode

    def replace(self, row: int, column: int, strip: Strip) -> tuple[int, Strip] | None:
        """Store cells of a row.

        Args:
            row: row of the terminal, from 0.
            column: first cell of the strip, from 0.
            strip: new cells.

        Returns:
            First cell and strip of the cells to be sent; None if all are equal to those sent before.
        """
        end = column + strip.cell_length
        is_whole_row = column == 0 and end >= self._size.width
        sent_row = self._strips_by_row.get(row)
        if sent_row is None:
            if is_whole_row:
                self._strips_by_row[row] = strip
            return column, strip
        sent = sent_row.crop(column, end)
        if any(character in strip.text or character in sent.text for character in JOINING_CHARACTERS):
            self._strips_by_row.pop(row)  # the cells after it may be shifted in the terminal
            return column, strip
        equal_before = _count_equal_cells(sent, strip)
        equal_after = _count_equal_cells(reversed(sent), reversed(strip), is_reversed=True)
        if equal_before + equal_after >= strip.cell_length:
            return None
        if is_whole_row:
            self._strips_by_row[row] = strip
        else:
            self._strips_by_row[row] = Strip.join([sent_row.crop(0, column), strip, sent_row.crop(end)])
        return column + equal_before, strip.crop(equal_before, strip.cell_length - equal_after)


def _count_equal_cells(old: Iterable[Segment], new: Iterable[Segment], is_reversed: bool = False) -> int:
    """Return how many first cells of two equally long rows are certainly equal."""
    count = 0
    for old_segment, new_segment in zip(old, new, strict=False):
        if old_segment == new_segment:
            count += new_segment.cell_length
            continue
        if old_segment.style == new_segment.style:
            texts = old_segment.text, new_segment.text
            if all(text.isascii() for text in texts):  # other characters may take no cell, or two
                pairs = zip(*(map(reversed, texts) if is_reversed else texts), strict=False)
                count += sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        break
    return count


class ChangedCells(CompositorUpdate):
    """Part of an update that the terminal does not show yet."""

    def __init__(self, update: LayoutUpdate | ChopsUpdate, sent_rows: SentRows, size: Size, mode: str) -> None:
        self.update, self.sent_rows, self.size, self.mode = update, sent_rows, size, mode
        self._rendered: str | None = None

    def render_segments(self, console: Console) -> str:
        """Return the escape sequences and text of the changed cells; the first call counts them as sent."""
        if self._rendered is None:
            self._rendered = "".join(self._render_changes(console))
        return self._rendered

    def _render_changes(self, console: Console) -> Iterator[str]:
        self.sent_rows.begin_update(self.size, self.mode)
        for row, column, strip in _iterate_strips(self.update):
            change = self.sent_rows.replace(row, column, strip)
            if change is not None:
                yield Control.move_to(change[0], row).segment.text
                yield change[1].render(console)


def _iterate_strips(update: LayoutUpdate | ChopsUpdate) -> Iterator[tuple[int, int, Strip]]:
    """Yield row, first cell and strip of each connected part of a row."""
    if isinstance(update, LayoutUpdate):
        for row, strips in enumerate(update.strips, update.region.y):
            yield row, update.region.x, Strip.join(strips)
        return
    for row, spans in groupby(update.spans, key=lambda span: span[0]):
        parts: list[Strip] = []
        first = end = 0
        for _, span_start, span_end in spans:
            for strip_end, (strip_start, strip) in zip(update.chop_ends[row], update.chops[row].items(), strict=False):
                start, stop = max(span_start, strip_start), min(span_end, strip_end)
                if strip is None or start >= stop:
                    continue
                if parts and start != end:
                    yield row, first, Strip.join(parts)
                    parts = []
                if not parts:
                    first = start
                parts.append(strip.crop(start - strip_start, stop - strip_start))
                end = stop
        if parts:
            yield row, first, Strip.join(parts)


class SentCellsApp(App[Any]):
    """Application that sends the cells that the terminal does not show yet."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_rows = SentRows()

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())

    async def on_event(self, event: Event) -> None:
        """Forget the sent rows if the terminal may show something else now."""
        if isinstance(event, Resize | AppFocus):  # a driver that starts also reports the size
            self.sent_rows.forget()
        await super().on_event(event)

    def action_redraw(self) -> None:
        """Send all cells again, after another program has written to the terminal."""
        self.sent_rows.forget()
        self.screen.refresh(layout=True)

    def _display(self, screen: Screen[Any], renderable: RenderableType | CompositorUpdate | None) -> None:
        """Send the changed cells of an update; if there are none, send nothing unless the text cursor moves."""
        if isinstance(renderable, LayoutUpdate | ChopsUpdate) and self._can_display():
            # Not `screen.size`, which after a change of the terminal's size is new before the screen is laid out.
            update = ChangedCells(renderable, self.sent_rows, screen._compositor.size, self.current_mode)
            try:
                cursor_position = self.screen.outer_size.clamp_offset(self.cursor_position)
                has_news = update.render_segments(self.console) or cursor_position != self._previous_cursor_position
            except Exception as error:  # as `App._display` does
                self._handle_exception(error)
                return
            renderable = update if has_news else None
        super()._display(screen, renderable)  # type: ignore[arg-type]  # updates are no `RenderableType` for mypy

    def _can_display(self) -> bool:
        """Return whether `App._display` sends an update now, instead of dropping it."""
        is_open = self._running and not self._closed and not self.is_headless
        return is_open and not self._batch_count and self._driver is not None
