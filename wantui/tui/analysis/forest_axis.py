"""Axis of a forest plot: relative differences, nearly linear around zero and logarithmic beyond."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from wantui.formatting import format_percent_change

MAX_PLOT_WIDTH = 81
"""Maximum width of the plot in cells; odd, so that zero is at the centre of a cell."""
LINEAR_RANGE = 0.01
"""Relative difference up to which the axis is nearly linear; beyond it, the axis is logarithmic."""
MIN_AXIS_END = 0.02
"""Smallest relative difference at an end of the axis."""
MAX_AXIS_END = 10.0
"""Largest relative difference at an end of the axis; larger differences end in an arrow."""
AXIS_ENDS = (MIN_AXIS_END, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, MAX_AXIS_END)
"""Relative differences at which an axis can end: round values, because the ends of the axis have ticks."""
TICK_CHANGES = (0.01, 0.1, 1.0, 10.0)
"""Relative differences with a tick, on both sides of zero, beside the ends of the axis."""
SPARE_CHANGES = (0.02, 0.05, 0.2, 0.5)
"""Relative differences with a tick on a narrow axis without room for those above."""
END_MARGIN, MIN_WIDTH_WITH_MARGIN = 2, 25
"""Cells beyond each end of the axis, over which the label of its tick is centred, and least width that has them."""
MIN_PLOT_WIDTH = 9
"""Minimum width of the plot in cells; a narrower pane has none."""

Change = tuple[float, float, float]
"""Relative change, and the ends of its 95 % interval; NaN if unknown."""


@dataclass(frozen=True)
class ForestAxis:
    """Symmetric axis of relative differences: nearly linear around zero, logarithmic beyond."""

    width: int
    end: float
    """Relative difference at the right end."""

    def find_column(self, relative_change: float) -> int:
        """Return the column of a relative difference; differences beyond the ends are at the ends."""
        half = self.width // 2
        reach = half - (END_MARGIN if self.width >= MIN_WIDTH_WITH_MARGIN else 0)
        position = math.asinh(relative_change / LINEAR_RANGE) / math.asinh(self.end / LINEAR_RANGE)
        return half + round(max(-1.0, min(1.0, position)) * reach)

    def draw_labels(self) -> str:
        """Return the line of tick labels in percent."""
        return self._labels_and_ticks[0]

    @property
    def tick_columns(self) -> frozenset[int]:
        """Return the columns of the labelled ticks."""
        return self._labels_and_ticks[1]

    @cached_property
    def _labels_and_ticks(self) -> tuple[str, frozenset[int]]:
        if not self.width:  # there is no room for a plot
            return "", frozenset()
        labels, columns = [" "] * self.width, [self.find_column(0)]

        def find_span(tick: float, label: str) -> tuple[int, int]:
            first = max(0, min(self.width - len(label), self.find_column(tick) - len(label) // 2))
            return first, first + len(label)

        def add_tick_pair(change: float, suffix: str = " %") -> bool:
            texts = [format_percent_change(tick, 0).removesuffix(" %") + suffix for tick in (-change, change)]
            spans = [find_span(tick, text) for tick, text in zip((-change, change), texts, strict=True)]
            is_free = all(cell == " " for first, end in spans for cell in labels[max(0, first - 1) : end + 1])
            if is_free:
                for (first, end), text in zip(spans, texts, strict=True):
                    labels[first:end] = text
                columns.extend(self.find_column(tick) for tick in (-change, change))
            return is_free

        labels[self.find_column(0)] = "0"
        any(add_tick_pair(self.end, suffix) for suffix in (" %", ""))
        inner_changes = [change for change in TICK_CHANGES if change < self.end]
        if not sum(add_tick_pair(change) for change in inner_changes):
            # Without labels between the ends and 0, the axis would seem to be linear.
            spare_changes = sorted({*inner_changes, *SPARE_CHANGES}, reverse=True)
            any(add_tick_pair(change, "") for change in spare_changes if change < self.end)
        return "".join(labels), frozenset(columns)


def choose_axis(changes: Sequence[Change], free_width: int) -> ForestAxis:
    """Return an axis on which these changes and their intervals fit, up to `MAX_AXIS_END`.

    Args:
        free_width: cells that the plot can have; it has an odd number of them, and at most `MAX_PLOT_WIDTH`.
    """
    width = min(MAX_PLOT_WIDTH, free_width - 1 + free_width % 2) if free_width >= MIN_PLOT_WIDTH else 0
    ends = [abs(end) for change in changes for end in change if math.isfinite(end)]
    largest = max(ends, default=0.0)
    return ForestAxis(width, next((end for end in AXIS_ENDS if end >= largest), MAX_AXIS_END))
