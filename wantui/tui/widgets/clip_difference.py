"""Widgets for the difference of two compared clips: a picture of the shown frame, and a curve over all frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.worker import get_current_worker

from wantui.errors import UserError
from wantui.tui.chart import MIN_CHART_HEIGHT, Chart, choose_curve_range
from wantui.tui.player.clip_difference import MAX_LEVEL, ClipDifference, measure_clip_difference
from wantui.tui.player.clips import PlayerClip
from wantui.tui.plots import draw_colour_scale
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.picture_view import PictureView
from wantui.tui.widgets.playback_bar import SeekBar
from wantui.tui.worker_errors import WorkerErrorsMixin
from wantui.tui.wrapping import cut_lines, join_texts, wrap_text

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

FRAME_AXIS = "frame"
MEASURING_TEXT = "measuring the difference ..."
FIGURE_GAP = "   "
"""Text between two figures of a line."""
MIN_SCALE_WIDTH = 4
"""Minimum width of the colour scale, in cells."""
MIN_WHOLE_MAXIMUM = 10
"""Upper end of the colour scale from which it is shown without decimals."""


class DifferencePicture(Vertical):
    """Difference picture of the shown frames, below a label with its colour scale."""

    DEFAULT_CSS = """
    DifferencePicture .difference-label { height: 1; }
    """

    label = getters.query_one(DiffText)
    view = getters.query_one(PictureView)

    def compose(self) -> ComposeResult:
        yield DiffText(classes="difference-label")
        yield PictureView(is_at_top=True)

    def show_message(self, text: str) -> None:
        """Show a text instead of a picture."""
        self.label.show_lines([Text("difference", Style(bold=True))])
        self.view.show_message(text)

    def show_frame(
        self, difference: ClipDifference, index: int, frames: "Sequence[Picture | None]", *, is_moving: bool
    ) -> None:
        """Show a frame as large as `frames`; until these are decoded, keep the previous picture."""
        first, second = frames
        if first is not None and second is not None:
            height, width = first.shape[:2]
            index = min(index, len(difference.maps) - 1)
            self.view.show_picture(difference.draw_picture(index, (width, height)), is_moving=is_moving)
        self.label.show_lines([self._draw_label(difference)])

    def _draw_label(self, difference: ClipDifference) -> Text:
        """Return the name of the picture, with the ends of the colour scale."""
        line = Text.assemble(" " * self.view.picture_left, ("difference", Style(bold=True)), "  0 ", no_wrap=True)
        decimals = 1 if difference.scale_maximum < MIN_WHOLE_MAXIMUM else 0
        top_text = f" {difference.scale_maximum:.{decimals}f}"
        full_top_text = f"{top_text} of {MAX_LEVEL}"
        free_width = self.label.content_size.width - line.cell_len
        if free_width - len(full_top_text) >= 2 * MIN_SCALE_WIDTH:
            top_text = full_top_text
        scale_width = max(MIN_SCALE_WIDTH, min(2 * len(full_top_text), free_width - len(top_text)))
        return line.append_text(draw_colour_scale(difference.colours.tolist(), scale_width)).append(top_text)


class DifferenceCurve(WorkerErrorsMixin, SeekBar):
    """Difference figures of two clips, and the curve of the difference over the frames with the shown frame marked."""

    @dataclass
    class Measured(Message):
        """The measurement has finished: it gave a difference, or the reason why there is none."""

        difference: ClipDifference | None
        error: str = ""

    DEFAULT_CSS = """
    DifferenceCurve { height: 1fr; }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.difference: ClipDifference | None = None
        """Difference of the clips; None until it is measured."""
        self.error = ""
        """Reason why the clips cannot be compared; otherwise empty."""

    @work(thread=True, exclusive=True, group="difference", exit_on_error=False)
    def measure_difference(self, first: PlayerClip, second: PlayerClip) -> None:
        """Decode both clips on a background thread; closing the player cancels this."""
        worker = get_current_worker()
        try:
            message = self.Measured(measure_clip_difference(first.path, second.path, lambda: worker.is_cancelled))
        except UserError as error:
            message = self.Measured(None, str(error))
        except Exception as error:
            self.post_message(self.Measured(None, f"cannot compare the clips: {type(error).__name__}: {error}"))
            raise
        if not worker.is_cancelled:
            self.post_message(message)

    @on(Measured)
    def _store_difference(self, message: Measured) -> None:
        self.difference, self.error = message.difference, message.error

    @property
    def message_text(self) -> str:
        """Return the text that replaces the figures until they are measured, or after an error."""
        return f"✗ {self.error}" if self.error else MEASURING_TEXT

    def show_frame(self, index: int) -> None:
        """Show the figures and the curve, with a frame marked."""
        width, height = self.content_size
        if not width or not height:
            return
        difference = self.difference
        if difference is None:
            style = self.make_colour_style("error" if self.error else "text-muted")
            self.show_lines(cut_lines(wrap_text(self.message_text, width, style), height, width))
            return
        index = min(index, len(difference.means) - 1)
        title, *figures = self._list_figures(difference, index)
        lines = join_texts([title, *figures], width, FIGURE_GAP)
        if choose_curve_range(difference.means)[0] > 0:
            axis_text = f"axis from {self._make_chart(difference, width, height - len(lines)).y_labels[0]}"
            notes = [f"mean difference (0 to {MAX_LEVEL}; {axis_text})", f"mean levels ({axis_text})"]
            titles = [Text(note, title.style) for note in notes]
            rows = [join_texts([each, *figures], width, FIGURE_GAP) for each in titles]
            lines = next((row for row in rows if len(row) <= len(lines)), rows[-1])
        if len(lines) > height:
            lines = join_texts(figures, width, FIGURE_GAP)
        self.bar_width = 0
        if height - len(lines) >= MIN_CHART_HEIGHT:
            lines += self._draw_curve(difference, index, width, height - len(lines))
        self.show_lines(lines[:height])

    def _list_figures(self, difference: ClipDifference, index: int) -> list[Text]:
        """Return a title, the mean difference of the shown frame, the mean of all frames, and the PSNR."""
        accent, muted = self.make_colour_style("accent"), self.make_colour_style("text-muted")
        frame_width, mean_width = len(str(len(difference.means))), len(f"{max(difference.means):.1f}")
        return [
            Text(f"mean difference (0 to {MAX_LEVEL})", muted),
            Text.assemble(
                (f"frame {index + 1:>{frame_width}} ", muted), (f"{difference.means[index]:{mean_width}.1f}", accent)
            ),
            Text.assemble(("all frames ", muted), f"{difference.mean:.1f}"),
            Text("equal frames") if math.isinf(difference.psnr) else Text(f"PSNR {difference.psnr:.1f} dB"),
        ]

    def _make_chart(self, difference: ClipDifference, width: int, height: int) -> Chart:
        means = difference.means
        value_range = choose_curve_range(means) if any(means) else (0, 1)
        return Chart(width, height, (1, max(2, len(means))), value_range, FRAME_AXIS)

    def _draw_curve(self, difference: ClipDifference, index: int, width: int, height: int) -> list[Text]:
        means = difference.means
        frame_numbers = list(range(1, len(means) + 1))
        chart = self._make_chart(difference, width, height)
        self.bar_start, self.bar_width = chart.label_width + 2, chart.plot_width
        chart.add_line(frame_numbers, means, self.make_colour_style("text-muted"))
        chart.mark_point(index + 1, means[index], self.make_colour_style("accent"))
        return chart.draw_lines()
