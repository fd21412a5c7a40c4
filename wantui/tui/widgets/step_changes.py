"""Panel beside the picture of a step: how much the picture changes from step to step, and until the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.chart import MIN_CHART_HEIGHT, Chart
from wantui.tui.widgets.diff_text import DiffText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TITLE = "change of the picture (0 to 255, log scale)"
STEP_AXIS = "step"
LINE_SIGN = "━━"
MIN_RELATIVE_CHANGE = 1e-3
"""Smallest change on the axis, as a share of the largest; smaller ones are below it."""
MIN_PANEL_WIDTH, MAX_PANEL_WIDTH = 30, 90
"""Minimum and maximum width of the panel, in cells."""
MIN_WIDTH_WITH_PANEL = 2 * MIN_PANEL_WIDTH
"""Minimum width of a screen with the panel, in cells."""


@dataclass(frozen=True)
class StepChanges:
    """Mean absolute differences between the pictures of steps, in levels of a colour from 0 to 255, by step."""

    from_previous: Mapping[int, float]
    """Difference from the picture before; the first step has none."""
    until_end: Mapping[int, float]
    """Difference from the last picture."""


def measure_step_changes(frames_by_step: "Mapping[int, NDArray[np.uint8]]") -> StepChanges:
    """Measure the changes over all frames [frames, height, width, rgb] of steps in their order."""
    import numpy as np

    def measure(first: "NDArray[np.uint8]", second: "NDArray[np.uint8]") -> float:
        return float(np.abs(first.astype(np.int16) - second).mean())

    steps = list(frames_by_step)
    last_frames = frames_by_step[steps[-1]]
    return StepChanges(
        {step: measure(frames_by_step[previous], frames_by_step[step]) for previous, step in pairwise(steps)},
        {step: measure(frames, last_frames) for step, frames in frames_by_step.items()},
    )


def choose_changes_width(width: int, picture_width: int) -> int:
    """Return the width of the panel beside a picture in cells; 0 if the screen is too narrow for both.

    Args:
        width: width of the screen in cells.
        picture_width: width in cells that the picture takes if it is as high as possible.
    """
    if width < MIN_WIDTH_WITH_PANEL:
        return 0
    return min(MAX_PANEL_WIDTH, max(MIN_PANEL_WIDTH, width - picture_width))


class StepChangesPanel(DiffText):
    """Legend with the changes at the shown step, and a chart of the changes over all steps."""

    DEFAULT_CSS = """
    StepChangesPanel { height: 1fr; padding: 0 1 0 2; }
    """

    def show_changes(self, changes: StepChanges | None, shown_step: int) -> None:
        """Show the changes with a step marked, or a note that they are being measured."""
        width, height = self.content_size
        if not width or not height:
            return
        muted = self.make_colour_style("text-muted")
        if changes is None:
            self.show_lines([Text("reading ...", muted)])
            return
        series = [
            ("until the end", changes.until_end, self.make_colour_style("foreground")),
            ("from the picture before", changes.from_previous, self.make_colour_style("accent")),
        ]
        lines = [Text(TITLE, Style(bold=True))]
        for name, values, style in reversed(series):
            line = Text.assemble((f"{LINE_SIGN} ", style), (name, muted))
            value_text = f"{values[shown_step]:.2f}" if shown_step in values else "-"
            line.append(value_text.rjust(width - line.cell_len), style)
            lines.append(line)
        if height - len(lines) >= MIN_CHART_HEIGHT:
            lines += self._draw_chart(series, shown_step, width, height - len(lines))
        self.show_lines(lines)

    def _draw_chart(
        self, series: list[tuple[str, Mapping[int, float], Style]], shown_step: int, width: int, height: int
    ) -> list[Text]:
        steps = [step for _, values, _ in series for step in values]
        changes = [value for _, values, _ in series for value in values.values() if value > 0] or [1.0]
        value_range = max(min(changes), MIN_RELATIVE_CHANGE * max(changes)), max(changes)
        chart = Chart(width, height, (min(steps), max(steps)), value_range, STEP_AXIS, is_log=True)
        for _, values, style in series:
            chart.add_line(list(values), list(values.values()), style)
        for _, values, style in series:
            if values.get(shown_step):
                chart.mark_point(shown_step, values[shown_step], style)
        return chart.draw_lines()
