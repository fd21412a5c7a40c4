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
from wantui.tui.content import to_content
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text

WARNINGS_SHOWN = 3
"""Maximum number of warnings in the pane; a key shows all."""


class CostPane(Vertical):
    """Costs, errors and the first warnings. If they do not fit, the subtitle names the key that shows all."""

    cells = getters.query_one(DiffText)

    def __init__(self) -> None:
        super().__init__(id="cost", classes="pane")
        self.border_title = "Cost"
        self.preview: BatchPreview | None = None
        self.costs: Sequence[CostLine] = ()

    def compose(self) -> ComposeResult:
        yield DiffText()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def show(self, preview: BatchPreview | None, costs: Sequence[CostLine]) -> None:
        """Show the costs of a batch; None clears the pane."""
        self.preview, self.costs = preview, costs
        self._draw()

    def _draw(self) -> None:
        cells = self.cells
        if self.preview is None:
            cells.show([Text("")])
            self.border_subtitle = ""
            return
        lines = []
        for cost in self.costs:
            line = Text.assemble((f"{cost.name:<7}", Style(bold=True)))
            line.append(f"{'' if cost.fits else '✗ '}{cost.text}", Style.null() if cost.fits else cells.colour("error"))
            line.append(f"  {cost.basis}", Style(dim=cost.fits))
            lines.append(line)
        width = max(20, cells.size.width)
        for refusal in self.preview.refusals:
            lines += wrap_text(f"✗ {refusal}", width, cells.colour("error"))
        for warning in self.preview.warnings[:WARNINGS_SHOWN]:
            lines += wrap_text(f"! {warning}", width, cells.colour("warning"))
        if (more := len(self.preview.warnings) - WARNINGS_SHOWN) > 0:
            lines.append(Text(f"! and {format_count(more, 'more warning')}: w shows all", cells.colour("warning")))
        cells.show(lines)
        self.call_after_refresh(self.update_subtitle)

    def update_subtitle(self) -> None:
        """Name the key that shows all warnings if they do not fit into the pane."""
        is_cut = self.preview is not None and len(self.cells.lines) > self.content_size.height
        self.border_subtitle = to_content("w: all warnings" if is_cut else "")
