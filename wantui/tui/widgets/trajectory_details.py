"""Details below the table of trajectories: curves of one video, its attention, or a comparison of groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from wantui.analysis.metrics import CURVES
from wantui.analysis.strides import BEND_METRICS, find_unsettled_stride_checks
from wantui.analysis.video import Video
from wantui.formatting import format_count
from wantui.tui.analysis_data import WordAttention
from wantui.tui.content import make_content
from wantui.tui.plots import draw_curve, draw_picture, draw_sparkline
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.analysis.compare import Comparison

SHOWN_CURVES = ("norm", "velocity", "turning", "clean_distance")
"""Names of the drawn curves; a low pane drops the last ones."""
MAX_STRIP_LINES = 7
"""Maximum height of an attention strip in lines."""
MAX_LISTED_EXCLUSIONS = 5
"""Maximum number of excluded videos that are listed by name."""


class TrajectoryDetails(VerticalScroll):
    """Pane with the details of one trajectory, comparison or attention."""

    details_text = getters.query_one("#curve-cells", DiffText)

    def compose(self) -> ComposeResult:
        yield DiffText(id="curve-cells")

    def show_message(self, text: str, title: str = "Curves") -> None:
        """Show a text instead of curves."""
        self.border_title = make_content(title)
        self.details_text.show_lines([Text(line) for line in text.splitlines()] or [Text("")])

    def show_video(self, video: Video) -> None:
        """Show the curves of a trajectory over the noise level."""
        trajectory, width, height = video.trajectory, self.details_text.size.width, self.size.height
        if trajectory is None:
            self.show_message(video.exclusion_reason)
            return
        if not width or not height:
            return
        self.border_title = "Curves"
        stride_notes = [
            line
            for stride_check in find_unsettled_stride_checks([trajectory], BEND_METRICS, video.stride)
            for line in wrap_text(stride_check.description, width, self.details_text.make_colour_style("warning"))
        ]
        stride_notes = stride_notes[: height // 3]
        height -= len(stride_notes)
        curve_names = SHOWN_CURVES[: max(1, min(len(SHOWN_CURVES), height // 3))]
        curve_height = max(1, height // len(curve_names) - 1)
        lines: list[Text] = []
        for name in curve_names:
            sigmas, values = CURVES[name](trajectory)
            highest = float(values.max()) or 1.0
            summary = (
                f"  {values[0]:.4g} at σ {sigmas[0]:.2f} to {values[-1]:.4g} at σ {sigmas[-1]:.2f}; 0 to {highest:.4g}"
            )
            lines.append(Text.assemble((name, "bold"), (summary, "dim")))
            points = [float(values[min(len(values) - 1, i * len(values) // (2 * width))]) for i in range(2 * width)]
            lines += [
                Text(line, self.details_text.make_colour_style("accent"))
                for line in draw_curve(points, width, curve_height, 0.0, highest)
            ]
        self.details_text.show_lines([*lines[:height], *stride_notes])

    def show_groups(self, text: str, exclusion_reasons: Sequence[tuple[str, str]]) -> None:
        """Show a text on the groups, and the videos excluded from their means."""
        self.border_title = "Groups"
        width = max(20, self.details_text.size.width)
        self.details_text.show_lines(
            [*wrap_text(text, width), *self._list_exclusions("left out", exclusion_reasons, width)]
        )

    def _list_exclusions(self, label: str, exclusion_reasons: Sequence[tuple[str, str]], width: int) -> list[Text]:
        """Return lines with the first excluded videos and their reasons, and the number of further ones."""
        exclusion_texts = [f"{label}: {name}: {reason}" for name, reason in exclusion_reasons[:MAX_LISTED_EXCLUSIONS]]
        if hidden_count := len(exclusion_reasons) - len(exclusion_texts):
            exclusion_texts.append(f"{label}: {hidden_count} more; `wantui analyze --groups` and `--compare` list all")
        return [
            line
            for text in exclusion_texts
            for line in wrap_text(text, width, self.details_text.make_colour_style("text-muted"))
        ]

    def show_comparison(self, comparison: "Comparison", exclusion_reasons: Sequence[tuple[str, str]]) -> None:
        """Show the verdicts of a comparison, then tests, dispersion and warnings.

        Args:
            exclusion_reasons: name and reason of the videos excluded from the group means; the comparison excludes
                further ones.
        """
        seed_text = format_count(len(comparison.seeds), "seed")
        self.border_title = make_content(f"Groups by {comparison.grouping}: {comparison.primary_metric}, {seed_text}")
        width = max(20, self.details_text.size.width)
        lines: list[Text] = []
        for verdict in comparison.verdicts:
            colour_name = {"differs": "warning", "alike": "success"}.get(verdict.kind, "")
            lines += wrap_text(
                verdict.verdict_text, width, self.details_text.make_colour_style(colour_name) if colour_name else None
            )
        text = f"any group differs in {comparison.primary_metric}: p {comparison.omnibus_p:.3g}"
        if comparison.spread_test is not None:
            text += f"; spread (PERMDISP) p {comparison.spread_test.p_value:.3g}"
        lines += wrap_text(text, width)
        for text in filter(None, (comparison.describe_location(), comparison.describe_chance())):
            lines += wrap_text(text, width)
        for name, curve in comparison.dispersion_curves_by_group.items():
            dispersion = curve.dispersion
            dispersion_text = (
                f"  dispersion from {dispersion[0]:.3f} to {dispersion[-1]:.3f}, sqrt(W²/D) over the noise level"
            )
            lines.append(
                Text.assemble(
                    (f"{name:<20.20} ", "bold"), draw_sparkline(dispersion.tolist(), 24), (dispersion_text, "dim")
                )
            )
        for warning in comparison.warnings:
            lines += wrap_text(f"note: {warning}", width, self.details_text.make_colour_style("text-muted"))
        lines += self._list_exclusions("left out", exclusion_reasons, width)
        lines += self._list_exclusions(
            "not compared",
            [video for video in comparison.exclusion_reasons if video not in set(exclusion_reasons)],
            width,
        )
        self.details_text.show_lines(lines)

    def show_attention(self, video: Video, word_attentions: list[WordAttention]) -> None:
        """Show the attention to each marked word over the frames of a video."""
        self.border_title = make_content(f"Attention, {video.name}")
        lines: list[Text] = []
        for word_attention in word_attentions:
            lines.append(
                Text.assemble(
                    word_attention.summary,
                    "  ",
                    (
                        draw_sparkline(word_attention.mass_by_step, 12).rstrip(),
                        self.details_text.make_colour_style("accent"),
                    ),
                )
            )
            if word_attention.strip_picture is not None:
                lines += draw_picture(
                    word_attention.strip_picture, max(20, self.details_text.size.width), MAX_STRIP_LINES
                )
        self.details_text.show_lines(lines or [Text("the prompt has no marked words")])
