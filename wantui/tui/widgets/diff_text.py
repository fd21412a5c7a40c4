"""Text widget that sends only changed cells to the terminal.

Textual sends a refreshed region as a whole. A widget that is redrawn every second over a slow link must therefore track
its changed cells itself.
"""

import re
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import App
from textual.color import Color, ColorParseError
from textual.events import Resize
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from wantui.formatting import UNPRINTABLE_PATTERN, escape_unprintable

_SPACES = re.compile(r"[\t\n\r]")


def colour(app: "App[object]", name: str) -> Style:
    """Return the style of a theme colour (`success`, `error`, ...); the null style if the theme lacks it."""
    value = app.theme_variables.get(name, "")
    try:
        return Style.from_color(Color.parse(value).rich_color)
    except ColorParseError:
        return Style.null()


class DiffText(Widget):
    """Widget with lines of text; `show` replaces them and repaints only changed cells."""

    DEFAULT_CSS = """
    DiffText { height: auto; width: 1fr; }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lines: list[Strip] = []
        self.texts: list[Text] = []

    def on_resize(self, event: Resize) -> None:
        """Draw again, because truncated text may fit the new width."""
        if self.texts:
            self.show(self.texts)

    def show(self, lines: Sequence[Text]) -> None:
        """Replace the text; a line that is too long is truncated with an ellipsis."""
        self.texts = list(lines)
        width = self.content_size.width or 1
        strips = [make_strip(line, width) for line in lines]
        before, self.lines = self.lines, strips
        if len(before) != len(strips):
            self.refresh(layout=self.styles.is_auto_height)
            return
        changed = [
            Region(start, y, end - start, 1)
            for y, (old, new) in enumerate(zip(before, strips, strict=True))
            for start, end in _find_changed_spans(old, new)
        ]
        if changed:
            self.refresh(*(region.translate(self.gutter.top_left) for region in changed))

    def colour(self, name: str) -> Style:
        """Return the style of a theme colour."""
        return colour(self.app, name)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(self.lines))

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        base = self.rich_style
        if y >= len(self.lines):
            return Strip.blank(width, base)
        return self.lines[y].apply_style(base).adjust_cell_length(width, base)

    def text(self) -> str:
        """Return the shown text."""
        return "\n".join(line.text.rstrip() for line in self.lines)


def make_strip(line: Text, width: int) -> Strip:
    """Convert a line of untrusted text to a strip; a line that is too long ends in an ellipsis."""
    safe = line.copy()
    if UNPRINTABLE_PATTERN.search(line.plain):
        safe = Text()
        for text, style in _split_by_style(line):
            # Line breaks would move the terminal's cursor; they become spaces, other control characters become codes.
            safe.append(escape_unprintable(_SPACES.sub(" ", text)), style)
    safe.no_wrap, safe.end = True, ""
    safe.truncate(width, overflow="ellipsis")
    segments = [Segment(text, style) for text, style in _split_by_style(safe)]
    return Strip(segments).adjust_cell_length(width)


def _split_by_style(line: Text) -> list[tuple[str, Style]]:
    """Split a line into (text, style) sections of constant style."""
    plain, base = line.plain, line.style if isinstance(line.style, Style) else Style.parse(line.style or "")
    styles = [base] * len(plain)
    for span in line.spans:
        style = span.style if isinstance(span.style, Style) else Style.parse(span.style)
        for index in range(span.start, min(span.end, len(plain))):
            styles[index] = styles[index] + style
    runs: list[tuple[str, Style]] = []
    for character, style in zip(plain, styles, strict=True):
        if runs and runs[-1][1] == style:
            runs[-1] = (runs[-1][0] + character, style)
        else:
            runs.append((character, style))
    return runs


def _find_changed_spans(old: Strip, new: Strip, gap: int = 6) -> list[tuple[int, int]]:
    """Return the [start, end) columns that differ; spans at most `gap` columns apart are merged."""
    if old == new:
        return []
    left, right = _split_cells(old), _split_cells(new)
    if len(left) != len(right):
        return [(0, max(len(left), len(right)))]
    columns = [index for index, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]
    spans: list[tuple[int, int]] = []
    for column in columns:
        if spans and column - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], column + 1)
        else:
            spans.append((column, column + 1))
    return spans


def _split_cells(strip: Strip) -> list[tuple[str, Style | None]]:
    """Return the (character, style) of each column; the second column of a wide character is empty."""
    cells: list[tuple[str, Style | None]] = []
    for segment in strip:
        for character in segment.text:
            width = cell_len(character)
            cells += [(character, segment.style), *[("", segment.style)] * (width - 1)][: max(width, 0)]
    return cells
