"""Details below the table of trajectories: curves of one video, its attention, or a comparison of groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from wantui.analysis.strides import BEND_METRICS, find_unsettled_metrics
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
"""Names of the drawn curves; a low pane drops the last ones."""
STRIP_LINES = 7
"""Maximum height of an attention strip in lines."""
MAX_LEFT_OUT = 5
"""Maximum number of excluded videos that are listed by name."""


class TrajectoryDetails(VerticalScroll):
    """Pane with the details of one trajectory, comparison or attention."""

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
            for checked in find_unsettled_metrics([path], BEND_METRICS, video.stride)
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
        """Show a text on the groups, and the videos excluded from their means."""
        self.border_title = "Groups"
        width = max(20, self.cells.size.width)
        self.cells.show([*wrap_text(text, width), *self._list_left_out("left out", left_out, width)])

    def _list_left_out(self, label: str, videos: Sequence[tuple[str, str]], width: int) -> list[Text]:
        """Return lines with the first excluded videos and their reasons, and the number of further ones."""
        messages = [f"{label}: {name}: {reason}" for name, reason in videos[:MAX_LEFT_OUT]]
        if more := len(videos) - len(messages):
            messages.append(f"{label}: {more} more; `wantui analyze --groups` and `--compare` list all")
        return [line for text in messages for line in wrap_text(text, width, self.cells.colour("text-muted"))]

    def show_comparison(self, comparison: "Comparison", left_out: Sequence[tuple[str, str]]) -> None:
        """Show the verdicts of a comparison, then tests, dispersion and warnings.

        Args:
            left_out: name and reason of the videos excluded from the group means; the comparison excludes further ones.
        """
        seeds = format_count(len(comparison.seeds), "seed")
        self.border_title = to_content(f"Groups by {comparison.grouping}: {comparison.primary_metric}, {seeds}")
        width = max(20, self.cells.size.width)
        lines: list[Text] = []
        for verdict in comparison.verdicts:
            style = {"differs": "warning", "alike": "success"}.get(verdict.kind, "")
            lines += wrap_text(verdict.text, width, self.cells.colour(style) if style else None)
        text = f"any group differs in {comparison.primary_metric}: p {comparison.omnibus_p:.3g}"
        if comparison.spread_test is not None:
            text += f"; spread (PERMDISP) p {comparison.spread_test.p:.3g}"
        lines += wrap_text(text, width)
        for text in filter(None, (comparison.describe_location(), comparison.describe_chance())):
            lines += wrap_text(text, width)
        for name, curve in comparison.dispersion_curves.items():
            values = curve.values
            about = f"  room from {values[0]:.3f} to {values[-1]:.3f}, sqrt(W²/D) over the noise level"
            lines.append(Text.assemble((f"{name:<20.20} ", "bold"), sparkline(values.tolist(), 24), (about, "dim")))
        for warning in comparison.warnings:
            lines += wrap_text(f"note: {warning}", width, self.cells.colour("text-muted"))
        lines += self._list_left_out("left out", left_out, width)
        lines += self._list_left_out(
            "not compared", [video for video in comparison.excluded_videos if video not in set(left_out)], width
        )
        self.cells.show(lines)

    def show_attention(self, video: Video, words: list[WordAttention]) -> None:
        """Show the attention to each marked word over the frames of a video."""
        self.border_title = to_content(f"Attention, {video.name}")
        lines: list[Text] = []
        for word in words:
            lines.append(
                Text.assemble(word.line, "  ", (sparkline(word.mass, 12).rstrip(), self.cells.colour("accent")))
            )
            if word.strip is not None:
                lines += half_blocks(word.strip, max(20, self.cells.size.width), STRIP_LINES)
        self.cells.show(lines or [Text("the prompt has no marked words")])
