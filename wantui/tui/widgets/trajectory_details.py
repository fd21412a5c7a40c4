"""Below the table of trajectories: the curves of one video, its attention, or the verdict on the groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from wantui.analysis.strides import BEND_METRICS, find_unsettled
from wantui.analysis.trajectory import CURVES
from wantui.analysis.video import Video
from wantui.formatting import format_count
from wantui.tui.analysis_data import WordAttention
from wantui.tui.content import to_content
from wantui.tui.plots import braille, half_blocks, sparkline
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.analysis.compare import Comparison

SHOWN_CURVES = ("norm", "velocity", "turning", "clean_distance")
STRIP_LINES = 7
MAX_LEFT_OUT = 5
"""Largest number of videos that are named one by one where several are left out."""


class TrajectoryDetails(VerticalScroll):
    """Details of one trajectory, comparison or attention at a time."""

    cells = getters.query_one("#curve-cells", DiffText)

    def compose(self) -> ComposeResult:
        yield DiffText(id="curve-cells")

    def show_message(self, text: str, title: str = "Curves") -> None:
        """Show a text instead of curves."""
        self.border_title = to_content(title)
        self.cells.show([Text(line) for line in text.splitlines()] or [Text("")])

    def show_video(self, video: Video) -> None:
        """Show the curves of a trajectory over the noise level."""
        path, width, height = video.trajectory, self.cells.size.width, self.size.height
        if path is None:
            self.show_message(video.reason)
            return
        if not width or not height:
            return
        self.border_title = "Curves"
        notes = [
            line
            for checked in find_unsettled([path], BEND_METRICS, video.stride)
            for line in wrap_text(checked.description, width, self.cells.colour("warning"))
        ]
        notes = notes[: height // 3]
        height -= len(notes)
        names = SHOWN_CURVES[: max(1, min(len(SHOWN_CURVES), height // 3))]
        each = max(1, height // len(names) - 1)
        lines: list[Text] = []
        for name in names:
            sigmas, values = CURVES[name](path)
            high = float(values.max()) or 1.0
            summary = (
                f"  {values[0]:.4g} at σ {sigmas[0]:.2f} to {values[-1]:.4g} at σ {sigmas[-1]:.2f}; 0 to {high:.4g}"
            )
            lines.append(Text.assemble((name, "bold"), (summary, "dim")))
            points = [float(values[min(len(values) - 1, i * len(values) // (2 * width))]) for i in range(2 * width)]
            lines += [Text(line, self.cells.colour("accent")) for line in braille(points, width, each, 0.0, high)]
        self.cells.show([*lines[:height], *notes])

    def show_groups(self, text: str, left_out: Sequence[tuple[str, str]]) -> None:
        """Show a sentence on the groups, and which videos their means leave out."""
        self.border_title = "Groups"
        width = max(20, self.cells.size.width)
        self.cells.show([*wrap_text(text, width), *self._list_left_out("left out", left_out, width)])

    def _list_left_out(self, what: str, videos: Sequence[tuple[str, str]], width: int) -> list[Text]:
        """Return lines that name the first videos that are left out, and how many more there are."""
        messages = [f"{what}: {name}: {why}" for name, why in videos[:MAX_LEFT_OUT]]
        if more := len(videos) - len(messages):
            messages.append(f"{what}: {more} more; `wantui analyze --groups` and `--compare` name each")
        return [line for text in messages for line in wrap_text(text, width, self.cells.colour("text-muted"))]

    def show_comparison(self, comparison: "Comparison", left_out: Sequence[tuple[str, str]]) -> None:
        """Show verdicts first, then what goes with them.

        Args:
            left_out: videos that the means of the groups leave out; the comparison leaves out those, and others.
        """
        seeds = format_count(len(comparison.seeds), "seed")
        self.border_title = to_content(f"Groups by {comparison.by}: {comparison.primary}, {seeds}")
        width = max(20, self.cells.size.width)
        lines: list[Text] = []
        for verdict in comparison.verdicts:
            style = {"differs": "warning", "alike": "success"}.get(verdict.kind, "")
            lines += wrap_text(verdict.text, width, self.cells.colour(style) if style else None)
        text = f"any group differs in {comparison.primary}: p {comparison.omnibus_p:.3g}"
        if comparison.spread is not None:
            text += f"; spread (PERMDISP) p {comparison.spread.p:.3g}"
        lines += wrap_text(text, width)
        for text in filter(None, (comparison.describe_location(), comparison.describe_chance())):
            lines += wrap_text(text, width)
        for name, curve in comparison.dispersion.items():
            values = curve.values
            about = f"  room from {values[0]:.3f} to {values[-1]:.3f}, sqrt(W²/D) over the noise level"
            lines.append(Text.assemble((f"{name:<20.20} ", "bold"), sparkline(values.tolist(), 24), (about, "dim")))
        for warning in comparison.warnings:
            lines += wrap_text(f"note: {warning}", width, self.cells.colour("text-muted"))
        lines += self._list_left_out("left out", left_out, width)
        lines += self._list_left_out(
            "not compared", [one for one in comparison.left_out if one not in set(left_out)], width
        )
        self.cells.show(lines)

    def show_attention(self, video: Video, words: list[WordAttention]) -> None:
        """Show each marked word with its attention over the frames of the video."""
        self.border_title = to_content(f"Attention, {video.name}")
        lines: list[Text] = []
        for word in words:
            lines.append(
                Text.assemble(word.line, "  ", (sparkline(word.mass, 12).rstrip(), self.cells.colour("accent")))
            )
            if word.strip is not None:
                lines += half_blocks(word.strip, max(20, self.cells.size.width), STRIP_LINES)
        self.cells.show(lines or [Text("no word was marked in its prompt")])
