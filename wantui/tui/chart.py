"""Charts in braille: lines, bands and signs of several series, with axes."""

import math
from collections.abc import Sequence
from itertools import pairwise, product

from rich.style import Style
from rich.text import Text

from wantui.tui.braille import BrailleCanvas
from wantui.tui.number_formats import choose_tick_format, choose_ticks

LABEL_STYLE = Style(dim=True)
CENTRE_DOT = 1.5
"""Dots from the first dot of a character to its centre, where a tick is: a character has four dots."""
TIGHT_SHARE = 0.5
"""The vertical axis of a curve begins above 0 if all values exceed this share of their maximum."""
SIGMA_NOTE = "σ: noise level"
"""Explanation of the sign of axes and captions."""
MIN_RELATIVE_RANGE = 0.01
"""Range of a curve, as a share of its maximum, below which it is almost constant: its axis then begins at 0."""
MIN_TICK_COUNT = 3
"""Minimum number of ticks on a vertical axis that has at least as many rows."""
DECADE_FACTORS = ((2, 5), (3,), (4,))
"""Multiples of the powers of 10 that have ticks on a logarithmic axis, if they are near the centres of rows."""
MIN_ROWS_PER_DECADE, MAX_TICK_ERROR = 4, 0.04
"""Minimum rows of a decade with such ticks, and their maximum distance from the centre of a row, in decades."""
MIN_CHART_HEIGHT = 4
"""Minimum height of a chart in lines: two of the plot, the axis and its labels."""


class Chart:
    """Chart of `width` by `height` cells with room for the axes; `x_range` may fall, as noise levels do.

    With `is_log`, the vertical axis is logarithmic, and a value that is not positive leaves a gap.

    What is added later is drawn over what was added before. A cell has one style: the style of its last line, or of its
    last band if it has no line.
    """

    def __init__(
        self,
        width: int,
        height: int,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        x_name: str = "",
        min_label_width: int = 0,
        *,
        is_log: bool = False,
    ) -> None:
        self.x_range, self.x_name, self.is_log = x_range, x_name, is_log
        self.plot_height = max(1, height - 2)
        if is_log:
            self.row_value, self.top_value, exponents = choose_decade_rows(*y_range, self.plot_height)
            self.y_ticks = self._list_decade_ticks(exponents)
            self.y_labels = [f"{tick:g}" for tick in self.y_ticks]
        else:
            self.row_value, self.top_value, self.y_ticks = choose_rows(*y_range, self.plot_height)
            number_format = choose_tick_format(self.y_ticks)
            self.y_labels = [number_format.format_number(tick) for tick in self.y_ticks]
        self.label_width = max((min_label_width, len(x_name), *map(len, self.y_labels)))
        self.plot_width = max(1, width - self.label_width - 2)
        self._front, self._canvas, self._bands = (
            BrailleCanvas(self.plot_width, self.plot_height) for _ in range(3)
        )  # of a character in several of them, only the first is drawn
        self._signs: dict[tuple[int, int], tuple[str, Style]] = {}
        """Sign and style by cell (row, column)."""
        self._guide: tuple[int, Style] | None = None
        """Column of a vertical line behind the curves, and its style."""
        self._strips: list[Text] = []

    def _list_decade_ticks(self, exponents: Sequence[int]) -> list[float]:
        """Return the powers of 10 on the axis, and multiples of them that are near the centre of a row."""
        rows_per_decade = round(1 / self.row_value)
        if rows_per_decade < MIN_ROWS_PER_DECADE:
            return [10.0**exponent for exponent in exponents]

        def is_near_row(factor: int) -> bool:
            rows = rows_per_decade * math.log10(factor)
            return abs(rows - round(rows)) <= MAX_TICK_ERROR * rows_per_decade

        factors = next((factors for factors in DECADE_FACTORS if all(map(is_near_row, factors))), ())
        bottom = self.top_value - (self.plot_height - 1) * self.row_value
        powers = (10.0**exponent for exponent in range(min(exponents) - 1, max(exponents) + 1))
        ticks = [factor * power for power in powers for factor in (1, *factors)]
        return [tick for tick in ticks if bottom - 1e-9 <= math.log10(tick) <= self.top_value + 1e-9]

    def add_line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        style: Style,
        *,
        is_thick: bool = False,
        is_in_front: bool = False,
    ) -> None:
        """Draw lines between successive points, two dots thick if `is_thick`, in front of all others if `is_in_front`.

        A point that the axes do not have leaves a gap.
        """
        canvas = self._front if is_in_front else self._canvas
        previous: tuple[float, float] | None = None
        for x, y in zip(xs, ys, strict=True):
            if not (math.isfinite(x) and math.isfinite(y)) or (self.is_log and y <= 0):
                previous = None
                continue
            dot = self._find_dot_column(x), self._find_dot_row(y)
            canvas.add_line(previous or dot, dot, style, thickness=2 if is_thick else 1)
            previous = dot

    def add_band(
        self,
        xs: Sequence[float],
        lows: Sequence[float],
        highs: Sequence[float],
        style: Style,
        turn: tuple[int, int] = (0, 1),
    ) -> None:
        """Fill the area between two curves with a loose pattern of dots, behind all lines.

        Args:
            turn: index of the band, and number of bands; they take turns in the cells, so none hides another.
        """
        points = sorted(
            (self._find_dot_column(x), self._find_dot_row(low), self._find_dot_row(high))
            for x, low, high in zip(xs, lows, highs, strict=True)
            if all(map(math.isfinite, (x, low, high)))
        )
        for (x0, low0, high0), (x1, low1, high1) in pairwise(points):
            for column in range(round(x0), round(x1) + 1):
                share = (column - x0) / (x1 - x0) if x1 > x0 else 0.0
                top, bottom = (round(a + share * (b - a)) for a, b in ((high0, high1), (low0, low1)))
                for row in range(top, bottom + 1):
                    if column % 2 == 0 and row % 2 == 0 and (column // 2 + row // 4) % turn[1] == turn[0]:
                        self._bands.add_dot(column, row, style)

    def mark_point(self, x: float, y: float, style: Style) -> None:
        """Mark a point with a thick dot exactly on its curve, and with a vertical line behind all curves."""
        column, row = self._find_column(x), round(self._find_dot_row(y))
        self._guide = column, style
        first = max(0, min(row - 1, self._canvas.dot_rows - 3))
        for dot_row, dot_column in product(range(first, first + 3), (2 * column, 2 * column + 1)):
            self._front.add_dot(dot_column, dot_row, style)

    def add_symbol(self, x: float, y: float, sign: str, style: Style) -> None:
        """Place a symbol at a point."""
        if math.isfinite(x) and math.isfinite(y):
            row, column = self._find_row(y), round(self._find_dot_column(x)) // 2
            if 0 <= row < self.plot_height and 0 <= column < self.plot_width:
                self._signs[row, column] = (sign, style)

    def add_strip(self, label: str, spans: Sequence[tuple[float, float]], style: Style) -> None:
        """Add a line below the plot with bars over parts of the horizontal axis; the chart gets higher.

        Args:
            label: text left of the axis, cut to the width of the labels.
            spans: ends of each bar.
        """
        cells = [" "] * self.plot_width
        for ends in spans:
            first, last = sorted(self._find_column(x) for x in ends)
            cells[first : last + 1] = "━" * (last + 1 - first)
        strip = Text(no_wrap=True, end="")
        strip.append(f"{label[: self.label_width]:>{self.label_width}} ", style)
        strip.append("│", LABEL_STYLE)
        strip.append("".join(cells), style)
        self._strips.append(strip)

    def draw_lines(self) -> list[Text]:
        """Return the chart: plot with labelled axis on the left, strips, labelled axis below, its name on the left."""
        labels_by_row = {self._find_row(tick): label for tick, label in zip(self.y_ticks, self.y_labels, strict=True)}
        lines = []
        for row in range(self.plot_height):
            label = labels_by_row.get(row, "")
            line = Text(no_wrap=True, end="")
            line.append(f"{label:>{self.label_width}} {'┤' if label else '│'}", LABEL_STYLE)
            for column in range(self.plot_width):
                line.append(*self._get_cell(row, column))
            lines.append(line)
        return [*lines, *self._strips, *self._draw_x_axis()]

    def _get_cell(self, row: int, column: int) -> tuple[str, Style]:
        characters = (canvas.get_character(column, row) for canvas in (self._front, self._canvas, self._bands))
        character, style = next((cell for cell in characters if cell[0] != " "), (" ", Style.null()))
        if character == " " and self._guide is not None and self._guide[0] == column:
            return self._signs.get((row, column), ("│", self._guide[1]))
        return self._signs.get((row, column), (character, style))

    def _draw_x_axis(self) -> list[Text]:
        low, high = sorted(self.x_range)
        ticks = choose_ticks(low, high, max(2, self.plot_width // 10))
        number_format = choose_tick_format(ticks)
        axis, labels = list("─" * self.plot_width), [" "] * (self.plot_width + self.label_width + 2)
        labels[: self.label_width] = f"{self.x_name:>{self.label_width}}"
        for tick in ticks:
            column = self._find_column(tick)
            label = number_format.format_number(tick)
            first = min(column + self.label_width + 2 - len(label) // 2, len(labels) - len(label))
            axis[column] = "┴"
            if first >= 0 and all(cell == " " for cell in labels[max(0, first - 1) : first + len(label)]):
                labels[first : first + len(label)] = label
        return [
            Text(" " * (self.label_width + 1) + "└" + "".join(axis), LABEL_STYLE),
            Text("".join(labels).rstrip(), LABEL_STYLE),
        ]

    def _find_column(self, x: float) -> int:
        return min(self.plot_width - 1, max(0, round(self._find_dot_column(x)) // 2))

    def _find_dot_column(self, x: float) -> float:
        first, last = self.x_range
        return (x - first) / ((last - first) or 1.0) * (self._canvas.dot_columns - 1)

    def _find_dot_row(self, y: float) -> float:
        level = math.log10(y) if self.is_log else y
        return (self.top_value - level) / self.row_value * 4 + CENTRE_DOT

    def _find_row(self, y: float) -> int:
        return round(self._find_dot_row(y)) // 4


def choose_rows(low: float, high: float, row_count: int) -> tuple[float, float, list[float]]:
    """Choose rows of characters that contain a range, so that every tick is at the centre of a row.

    With enough rows for `MIN_TICK_COUNT` ticks, the first tick of values that differ is at the last row, and the last
    tick is not below the range.

    Returns:
        Difference between the centres of two rows; value at the centre of the first row; round values of the ticks,
        rising, with equal numbers of rows between them.
    """
    ends_at_tick = high > low and row_count >= MIN_TICK_COUNT
    if not high > low:
        margin = abs(high) / 2 or 1.0
        low, high = low - margin, high + margin
    max_tick_count = max(row_count if row_count in (5, 6) else 4, row_count // 3)  # which use the height best
    unit = 10.0 ** math.floor(math.log10((high - low) / row_count))
    # In units that are exact: equal heights of rows, such as 5 / 2 and 2.5, are then equal numbers.
    steps = [factor * 10**power for power in range(4) for factor in (1, 2, 2.5, 5)]
    # Smallest rows first: they use the height best.
    choices = sorted((step / rows, -step, rows) for step in steps for rows in range(1, 2 * row_count + 1))
    for row_units, negative_step, rows_per_tick in choices:
        row_value = row_units * unit
        first, last = math.floor(low / row_value + 0.5 + 1e-9), math.ceil(high / row_value - 0.5 - 1e-9)
        first -= first % rows_per_tick if ends_at_tick else 0
        if row_count >= MIN_TICK_COUNT:
            last = math.ceil(high / (row_value * rows_per_tick) - 1e-9) * rows_per_tick
        spare = row_count - (last - first + 1)
        if spare < 0:
            continue
        spare_below = min(spare // 2, max(0, first)) if low >= 0 else spare // 2  # no row is below 0 without need
        first -= spare_below - (spare_below % rows_per_tick if ends_at_tick else 0)
        last = first + row_count - 1
        indices = [index for index in range(first, last + 1) if index % rows_per_tick == 0]
        if min(MIN_TICK_COUNT, row_count) <= len(indices) <= max_tick_count:
            return row_value, last * row_value, [index // rows_per_tick * -negative_step * unit for index in indices]
    raise AssertionError("a large enough step always has rows that contain the range and the ticks")


def choose_decade_rows(low: float, high: float, row_count: int) -> tuple[float, float, list[int]]:
    """Choose rows of characters on a logarithmic axis that contain a range of positive values and two powers of 10.

    Returns:
        As `choose_rows`, but with exponents of 10 instead of values.
    """
    first, last = math.log10(low), math.log10(high)
    if math.floor(last) - math.ceil(first) < 1:
        first, last = math.floor(first), math.ceil(last + 1e-9)
    for rows_per_decade in range(row_count, 0, -1):  # largest rows first: they use the height best
        top, bottom = math.ceil(last * rows_per_decade - 0.5), math.floor(first * rows_per_decade + 0.5)
        if top - bottom < row_count:
            exponents = range(math.ceil(bottom / rows_per_decade), math.floor(top / rows_per_decade) + 1)
            return 1 / rows_per_decade, top / rows_per_decade, list(exponents)
    return (last - first) / max(1, row_count - 1), last, [math.ceil(first), math.floor(last)]


def find_value_range(value_lists: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the range of all finite values; 0 to 1 if there are none."""
    values = [value for values in value_lists for value in values if math.isfinite(value)]
    return (min(values), max(values)) if values else (0.0, 1.0)


def choose_curve_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of one curve's vertical axis: its range, from 0 on if it is near 0 or almost constant."""
    low, high = find_value_range([values])
    return low if is_axis_above_zero(low, high, MIN_RELATIVE_RANGE) else min(0.0, low), high


def is_axis_above_zero(low: float, high: float, min_relative_range: float = 0.0) -> bool:
    """Return whether the axis of values from `low` to `high` begins above 0, because they vary and are far from 0.

    Args:
        min_relative_range: range of the values, as a share of `high`, up to which they are almost constant.
    """
    return low > TIGHT_SHARE * high and high - low >= min_relative_range * high


def join_columns(left_lines: Sequence[Text], right_lines: Sequence[Text], left_width: int) -> list[Text]:
    """Return two blocks of lines side by side."""
    lines = []
    for index in range(max(len(left_lines), len(right_lines))):
        left = left_lines[index].copy() if index < len(left_lines) else Text()
        left.truncate(left_width, overflow="crop")
        left.append(" " * (left_width - left.cell_len))
        lines.append(left.append_text(right_lines[index]) if index < len(right_lines) else left)
    return lines
