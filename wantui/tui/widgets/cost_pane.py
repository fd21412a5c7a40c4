"""Pane of Compose with the predicted cost, the warnings and the errors of the draft's batch."""

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.batches.batch_cost import CostLine
from wantui.formatting import format_count
from wantui.planning import BatchPreview
from wantui.tui.content import make_content
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text

MAX_SHOWN_WARNINGS = 3
"""Maximum number of warnings in the pane; a key shows all."""


class CostPane(Vertical):
    """Costs, errors and the first warnings. If they do not fit, the subtitle names the key that shows all."""

    cost_text = getters.query_one(DiffText)

    def __init__(self) -> None:
        super().__init__(id="cost", classes="pane")
        self.border_title = "Cost"
        self.preview: BatchPreview | None = None
        self.cost_lines: Sequence[CostLine] = ()

    def compose(self) -> ComposeResult:
        yield DiffText()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_costs)

    def show_costs(self, preview: BatchPreview | None, cost_lines: Sequence[CostLine]) -> None:
        """Show the costs of a batch; None clears the pane."""
        self.preview, self.cost_lines = preview, cost_lines
        self._draw_costs()

    def _draw_costs(self) -> None:
        cost_text = self.cost_text
        if self.preview is None:
            cost_text.show_lines([Text("")])
            self.border_subtitle = ""
            return
        lines = []
        for cost in self.cost_lines:
            line = Text.assemble((f"{cost.name:<7}", Style(bold=True)))
            line.append(
                f"{'' if cost.fits else '✗ '}{cost.text}",
                Style.null() if cost.fits else cost_text.make_colour_style("error"),
            )
            line.append(f"  {cost.basis}", Style(dim=cost.fits))
            lines.append(line)
        width = max(20, cost_text.size.width)
        for refusal in self.preview.refusals:
            lines += wrap_text(f"✗ {refusal}", width, cost_text.make_colour_style("error"))
        for warning in self.preview.warnings[:MAX_SHOWN_WARNINGS]:
            lines += wrap_text(f"! {warning}", width, cost_text.make_colour_style("warning"))
        if (hidden_count := len(self.preview.warnings) - MAX_SHOWN_WARNINGS) > 0:
            lines.append(
                Text(
                    f"! and {format_count(hidden_count, 'more warning')}: w shows all",
                    cost_text.make_colour_style("warning"),
                )
            )
        cost_text.show_lines(lines)
        self.call_after_refresh(self.update_subtitle)

    def update_subtitle(self) -> None:
        """Name the key that shows all warnings if they do not fit into the pane."""
        is_cut = self.preview is not None and len(self.cost_text.shown_strips) > self.content_size.height
        self.border_subtitle = make_content("w: all warnings" if is_cut else "")
