"""Strip of small pictures, one per step with a preview; the shown step is marked."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rich.style import Style
from rich.text import Text
from textual.events import Click, Resize
from textual.message import Message

from wantui.tui.columns import append_at
from wantui.tui.plots import draw_picture
from wantui.tui.widgets.diff_text import DiffText

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

DEFAULT_PICTURE_LINES = 3
"""Height of a small picture in lines, unless the strip has another."""
GAP_SIGN = "⋯"
"""Sign between two steps if the steps between them have no picture, and at an end of the strip if more steps follow."""
MIN_COUNT_WITH_ENDS = 5
"""Minimum number of pictures that always include the first and the last step."""
SCREEN_SHARE = 5
"""Lines of the screen for each line of a small picture that is larger than the minimum."""


def choose_visible_steps(steps: Sequence[int], shown_index: int, count: int) -> list[int]:
    """Return at most `count` steps: those around the shown one and, if these are several, the first and the last."""
    if len(steps) <= count:
        return list(steps)
    if count < MIN_COUNT_WITH_ENDS:
        first = max(0, min(shown_index - count // 2, len(steps) - count))
        return list(steps[first : first + count])
    inner_count = count - 2
    first = max(1, min(shown_index - inner_count // 2, len(steps) - 1 - inner_count))
    return [steps[0], *steps[first : first + inner_count], steps[-1]]


class PreviewStrip(DiffText):
    """Small pictures of the steps, as many as fit: around the shown step, the first and the last.

    Args:
        picture_lines: minimum and maximum height of a small picture in lines; larger than the minimum if all steps fit
            and the screen is high.
        spreads: whether the steps are spread over the whole width; otherwise they are side by side on the left.
    """

    DEFAULT_CSS = """
    PreviewStrip { height: 4; }
    """

    class Picked(Message):
        """A small picture was clicked."""

        def __init__(self, step_number: int) -> None:
            super().__init__()
            self.step_number = step_number

    def __init__(
        self,
        *,
        picture_lines: tuple[int, int] = (DEFAULT_PICTURE_LINES, DEFAULT_PICTURE_LINES),
        spreads: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        (self.min_picture_lines, self.max_picture_lines), self.spreads = picture_lines, spreads
        self._picture_lines = DEFAULT_PICTURE_LINES
        self._pictures_by_step: dict[int, Picture] = {}
        self._shown_step: int | None = None
        self._notes_by_step: dict[int, str] = {}
        self._lines_by_step: dict[int, list[Text]] = {}
        """Drawn small pictures."""
        self._visible_steps: list[int] = []
        self._cell_width = 1

    def show_steps(
        self,
        pictures_by_step: "dict[int, Picture]",
        shown_step: int | None,
        notes_by_step: Mapping[int, str] | None = None,
    ) -> None:
        """Show the pictures of steps, in order, and mark one step.

        Args:
            notes_by_step: text beside the number of each step, if all of them fit.
        """
        self._notes_by_step = dict(notes_by_step or {})
        self._lines_by_step = {
            step: lines
            for step, lines in self._lines_by_step.items()
            if pictures_by_step.get(step) is self._pictures_by_step.get(step)
        }
        self._pictures_by_step, self._shown_step = pictures_by_step, shown_step
        self._draw()

    def on_resize(self, event: Resize) -> None:
        self._draw()

    def _draw(self) -> None:
        steps = list(self._pictures_by_step)
        if not steps or not self.size.width:
            self._visible_steps = []
            self.show_lines([Text("")] * (self._picture_lines + 1))
            return
        height, width = next(iter(self._pictures_by_step.values())).shape[:2]
        picture_width = self._choose_size(len(steps), width / height)
        visible_count = max(1, (self.size.width + 1) // self._cell_width)
        shown_index = steps.index(self._shown_step) if self._shown_step in steps else len(steps) - 1
        if len(steps) >= visible_count:
            self._cell_width = (self.size.width + 1) // visible_count
        self._visible_steps = choose_visible_steps(steps, shown_index, visible_count)
        shortest_gap = min((later - earlier for earlier, later in pairwise(steps)), default=1)
        lines = [Text(no_wrap=True) for _ in range(self._picture_lines + 1)]
        labels = self._label_steps(max(picture_width, self._cell_width - 1))
        for index, step in enumerate(self._visible_steps):
            column, style = index * self._cell_width, Style(dim=True)
            for line, picture_line in zip(lines, self._draw_small_picture(step, picture_width), strict=False):
                append_at(line, column, picture_line)
            if index and step - self._visible_steps[index - 1] > shortest_gap:
                append_at(lines[-1], column - 1, Text(GAP_SIGN, style))
            label = labels[index].center(picture_width)[: max(picture_width, self._cell_width - 1)]
            if label[0] == " " and not index and step != steps[0]:
                label = GAP_SIGN + label[1:]
            if label[-1] == " " and index == visible_count - 1 and step != steps[-1]:
                label = label[:-1] + GAP_SIGN
            if step == self._shown_step:
                style = self.make_colour_style("accent") + Style(bold=True, reverse=True)
            append_at(lines[-1], column, Text(label, style))
        self.show_lines(lines)

    def _choose_size(self, step_count: int, aspect_ratio: float) -> int:
        """Set the height of the pictures and the width of their cells; return the width of the pictures."""
        room = (self.size.width + 1) // step_count - 1
        fitting_lines = min(
            self.max_picture_lines, self.screen.size.height // SCREEN_SHARE, int(room / aspect_ratio / 2)
        )
        picture_lines = max(self.min_picture_lines, fitting_lines)
        picture_width = max(3, min(4 * picture_lines, round(2 * picture_lines * aspect_ratio)))
        if picture_lines != self._picture_lines:
            self._picture_lines, self._lines_by_step = picture_lines, {}
            self.styles.height = picture_lines + 1
        self._cell_width = 1 + (max(picture_width, room) if self.spreads else picture_width)
        return picture_width

    def _draw_small_picture(self, step: int, width: int) -> list[Text]:
        if step not in self._lines_by_step:
            self._lines_by_step[step] = draw_picture(self._pictures_by_step[step], width, self._picture_lines)
        return self._lines_by_step[step]

    def _label_steps(self, width: int) -> list[str]:
        """Return the numbers of the visible steps, with their notes if all notes fit."""
        labels = [f"{step} {self._notes_by_step.get(step, '')}".strip() for step in self._visible_steps]
        for candidates in (labels, [label.replace("σ ", "σ") for label in labels]):
            if max(map(len, candidates), default=0) <= width:
                return candidates
        return list(map(str, self._visible_steps))

    def on_click(self, event: Click) -> None:
        index = event.x // self._cell_width
        if 0 <= index < len(self._visible_steps):
            self.post_message(self.Picked(self._visible_steps[index]))
