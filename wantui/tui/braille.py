"""A canvas of braille dots with a style for each character; all curves and charts draw on it."""

import math

from rich.style import Style
from rich.text import Text

_DOT_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character's dots, by row and column."""
Dot = tuple[float, float]
"""Column and row of a dot, from the upper left."""


class BrailleCanvas:
    """Canvas of `width` by `height` characters; each character has two by four dots and the style of its last dot."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._masks = [[0] * width for _ in range(height)]
        self._styles: list[list[Style]] = [[Style.null()] * width for _ in range(height)]

    @property
    def dot_columns(self) -> int:
        return 2 * self.width

    @property
    def dot_rows(self) -> int:
        return 4 * self.height

    def add_dot(self, column: int, row: int, style: Style) -> None:
        """Set a dot; a dot outside the canvas is left out."""
        if 0 <= column < self.dot_columns and 0 <= row < self.dot_rows:
            self._masks[row // 4][column // 2] |= _DOT_BITS[row % 4][column % 2]
            self._styles[row // 4][column // 2] = style

    def add_line(self, start: Dot, end: Dot, style: Style, *, thickness: int = 1) -> None:
        """Set the dots of a straight line, both ends included, and those below them up to a thickness in dots."""
        (start_x, start_y), (end_x, end_y) = start, end
        step_count = max(1, math.ceil(max(abs(end_x - start_x), abs(end_y - start_y))))
        for step in range(step_count + 1):
            share = step / step_count
            column, row = round(start_x + share * (end_x - start_x)), round(start_y + share * (end_y - start_y))
            for dot_row in range(row, row + thickness):
                self.add_dot(column, dot_row, style)

    def get_character(self, column: int, row: int) -> str:
        """Return a character of the canvas; a space if it has no dot."""
        mask = self._masks[row][column]
        return chr(0x2800 + mask) if mask else " "

    def get_style(self, column: int, row: int) -> Style:
        return self._styles[row][column]

    def draw_row(self, row: int) -> Text:
        """Return a row of characters with their styles."""
        line = Text(no_wrap=True, end="")
        for column in range(self.width):
            line.append(self.get_character(column, row), self.get_style(column, row))
        return line
