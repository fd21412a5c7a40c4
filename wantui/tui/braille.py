"""A canvas of braille dots with a style for each character; all curves and charts draw on it."""

import math

from rich.style import Style
from rich.text import Text

_DOT_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character's dots, by row and column."""
Dot = tuple[float, float]
"""Column and row of a dot, from the upper left."""


class BrailleCanvas:
    """Canvas of `width` by `height` characters of two by four dots; a dot has the style with which it was set last.

    A character has one style, so it shows only the dots of the style that has most of its dots. If styles have equally
    many, they take turns from column to column: curves less than a character apart are dashed, in their own styles.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._masks_by_style: list[list[dict[Style, int]]] = [[{} for _ in range(width)] for _ in range(height)]

    @property
    def dot_columns(self) -> int:
        return 2 * self.width

    @property
    def dot_rows(self) -> int:
        return 4 * self.height

    def add_dot(self, column: int, row: int, style: Style) -> None:
        """Set a dot; a dot outside the canvas is left out."""
        if 0 <= column < self.dot_columns and 0 <= row < self.dot_rows:
            masks, bit = self._masks_by_style[row // 4][column // 2], _DOT_BITS[row % 4][column % 2]
            for other_style in masks:
                masks[other_style] &= ~bit
            masks[style] = masks.get(style, 0) | bit

    def add_line(self, start: Dot, end: Dot, style: Style, *, thickness: int = 1) -> None:
        """Set the dots of a straight line, both ends included, and those below them up to a thickness in dots."""
        (start_x, start_y), (end_x, end_y) = start, end
        step_count = max(1, math.ceil(max(abs(end_x - start_x), abs(end_y - start_y))))
        for step in range(step_count + 1):
            share = step / step_count
            column, row = round(start_x + share * (end_x - start_x)), round(start_y + share * (end_y - start_y))
            for dot_row in range(row, row + thickness):
                self.add_dot(column, dot_row, style)

    def get_character(self, column: int, row: int) -> tuple[str, Style]:
        """Return a character of the canvas and its style; a space if it has no dot."""
        masks = self._masks_by_style[row][column]
        if not masks:
            return " ", Style.null()
        dot_count = max(mask.bit_count() for mask in masks.values())
        styles = [style for style, mask in masks.items() if mask.bit_count() == dot_count]
        style = styles[-1 - column % len(styles)]
        return chr(0x2800 + masks[style]), style

    def draw_row(self, row: int) -> Text:
        """Return a row of characters with their styles."""
        line = Text(no_wrap=True, end="")
        for column in range(self.width):
            line.append(*self.get_character(column, row))
        return line
