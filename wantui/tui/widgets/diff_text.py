"""Text widget that sends only changed cells to the terminal.

Textual sends a refreshed region as a whole. A widget that is redrawn every second over a slow link must therefore track
its changed cells itself.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from rich.text import Span, Text
from textual.app import App
from textual.color import Color, ColorParseError
from textual.events import Resize
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from wantui.formatting import UNPRINTABLE_PATTERN, escape_unprintable
from wantui.tui.series_colours import SERIES_COLOURS

THEME_COLOUR_NAMES = (
    *(f"series-{name}" for name in SERIES_COLOURS),
    "background",
    "found",
    "text-muted",
    "cursor-background",
    "primary",
    "success",
    "warning",
    "error",
    "accent",
)
"""Names of the colours in texts; if a theme has the same value for several, the last of them counts."""
_SPACE_PATTERN = re.compile(r"[\t\n\r]")


def make_colour_style(app: "App[object]", colour_name: str) -> Style:
    """Return the style of a theme colour (`success`, `error`, ...); the null style if the theme lacks it."""
    colour = parse_theme_colour(app.theme_variables, colour_name)
    return Style.null() if colour is None else Style.from_color(colour.rich_color)


def parse_theme_colour(theme_variables: Mapping[str, str], colour_name: str) -> Color | None:
    """Return a theme colour; None if the theme lacks it."""
    try:
        return Color.parse(theme_variables.get(colour_name, ""))
    except ColorParseError:
        return None


def _recolour_line(line: Text, colours: Mapping[RichColor, RichColor]) -> Text:
    """Return a line with colours replaced."""

    def recolour(style: str | Style) -> str | Style:
        if isinstance(style, str):
            return style
        color, background = style.color, style.bgcolor
        return style + Style(
            color=colours.get(color) if color else None, bgcolor=colours.get(background) if background else None
        )

    return Text(line.plain, recolour(line.style), spans=[Span(s.start, s.end, recolour(s.style)) for s in line.spans])


class DiffText(Widget):
    """Widget with lines of text; `show_lines` replaces them and repaints only changed cells."""

    DEFAULT_CSS = """
    DiffText { height: auto; width: 1fr; }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.set_reactive(DiffText.auto_links, False)  # else, the mouse over a picture repaints everything
        self.shown_strips: list[Strip] = []
        self.shown_lines: list[Text] = []
        self._drawn_lines: list[Text] = []
        self._drawn_variables: dict[str, str] = {}
        """Colours of the theme in which `_drawn_lines` were drawn."""

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self._recolour())

    def _recolour(self) -> None:
        """Replace the colours of the theme in which the text was drawn with the colours of the current theme."""
        colours: dict[RichColor, RichColor] = {}
        for name in THEME_COLOUR_NAMES:
            old = parse_theme_colour(self._drawn_variables, name)
            new = parse_theme_colour(self.app.theme_variables, name)
            if old is not None and new is not None:
                colours[old.rich_color] = new.rich_color
        if self._drawn_lines:
            self._show_lines([_recolour_line(line, colours) for line in self._drawn_lines])

    def on_resize(self, event: Resize) -> None:
        """Draw again, because truncated text may fit the new width."""
        if self.shown_lines:
            self._show_lines(self.shown_lines)

    def show_lines(self, lines: Sequence[Text]) -> None:
        """Replace the text; a line that is too long is truncated with an ellipsis."""
        self._drawn_lines, self._drawn_variables = list(lines), self.app.theme_variables
        self._show_lines(lines)

    def _show_lines(self, lines: Sequence[Text]) -> None:
        self.shown_lines = list(lines)
        width = self.content_size.width or 1
        strips = [make_strip(line, width) for line in lines]
        previous_strips, self.shown_strips = self.shown_strips, strips
        if len(previous_strips) != len(strips):
            self.refresh(layout=self.styles.is_auto_height)
            return
        changed_regions = [
            Region(start, y, end - start, 1)
            for y, (old, new) in enumerate(zip(previous_strips, strips, strict=True))
            for start, end in find_changed_spans(old, new)
        ]
        if changed_regions:
            self.refresh(*changed_regions)  # Textual takes them as relative to the content

    def make_colour_style(self, colour_name: str) -> Style:
        """Return the style of a theme colour."""
        return make_colour_style(self.app, colour_name)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(self.shown_strips))

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        base_style = self.rich_style
        if y >= len(self.shown_strips):
            return Strip.blank(width, base_style)
        return self.shown_strips[y].apply_style(base_style).adjust_cell_length(width, base_style)

    def get_shown_text(self) -> str:
        """Return the shown text."""
        return "\n".join(line.text.rstrip() for line in self.shown_strips)


def make_strip(line: Text, width: int) -> Strip:
    """Convert a line of untrusted text to a strip; a line that is too long ends in an ellipsis."""
    safe_line = line.copy()
    if UNPRINTABLE_PATTERN.search(line.plain):
        safe_line = Text()
        for text, style in _split_line_by_style(line):
            # Line breaks would move the terminal's cursor; they become spaces, other control characters become codes.
            safe_line.append(escape_unprintable(_SPACE_PATTERN.sub(" ", text)), style)
    safe_line.no_wrap, safe_line.end = True, ""
    safe_line.truncate(width, overflow="ellipsis")
    segments = [Segment(text, style) for text, style in _split_line_by_style(safe_line)]
    return Strip(segments).adjust_cell_length(width)


def _split_line_by_style(line: Text) -> list[tuple[str, Style]]:
    """Split a line into (text, style) sections of constant style."""
    plain, base_style = line.plain, line.style if isinstance(line.style, Style) else Style.parse(line.style or "")
    styles = [base_style] * len(plain)
    for span in line.spans:
        style = span.style if isinstance(span.style, Style) else Style.parse(span.style)
        for index in range(span.start, min(span.end, len(plain))):
            styles[index] = styles[index] + style
    sections: list[tuple[str, Style]] = []
    for character, style in zip(plain, styles, strict=True):
        if sections and sections[-1][1] == style:
            sections[-1] = (sections[-1][0] + character, style)
        else:
            sections.append((character, style))
    return sections


def find_changed_spans(old: Strip, new: Strip, max_gap: int = 6) -> list[tuple[int, int]]:
    """Return the [start, end) columns that differ; spans at most `max_gap` columns apart are merged."""
    if old == new:
        return []
    old_cells, new_cells = _split_strip_into_cells(old), _split_strip_into_cells(new)
    if len(old_cells) != len(new_cells):
        return [(0, max(len(old_cells), len(new_cells)))]
    columns = [index for index, (a, b) in enumerate(zip(old_cells, new_cells, strict=True)) if a != b]
    spans: list[tuple[int, int]] = []
    for column in columns:
        if spans and column - spans[-1][1] <= max_gap:
            spans[-1] = (spans[-1][0], column + 1)
        else:
            spans.append((column, column + 1))
    return spans


def _split_strip_into_cells(strip: Strip) -> list[tuple[str, Style | None]]:
    """Return the (character, style) of each column; the second column of a wide character is empty."""
    cells: list[tuple[str, Style | None]] = []
    for segment in strip:
        for character in segment.text:
            width = cell_len(character)
            cells += [(character, segment.style), *[("", segment.style)] * (width - 1)][: max(width, 0)]
    return cells
