"""Details of the selected batch, below the list of batches."""

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from wantui.tui.content import set_titles
from wantui.tui.facts import draw_facts
from wantui.tui.library.batch_facts import BatchFacts
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.matrix_cells import NOTE, REJECT, STAR
from wantui.tui.wrapping import join_texts, wrap_cells, wrap_text

MAX_TEMPLATE_LINES = 5
MIN_WIDTH_WITH_LABELS = 22
"""Width of the pane, in cells, below which it shows only the values of facts."""


class BatchDetails(VerticalScroll, can_focus=False):
    """Pane with the template, the counts and the settings of one batch."""

    DEFAULT_CSS = """
    BatchDetails { scrollbar-size-vertical: 1; scrollbar-gutter: stable; } /* so that lines fit beside the bar */
    """

    def __init__(self) -> None:
        super().__init__(id="batch-details", classes="pane")
        self.border_title = "Batch"
        self._facts: BatchFacts | None = None
        self._message = ""

    def compose(self) -> ComposeResult:
        yield DiffText(id="batch-facts")

    def show_facts(self, batch_name: str, facts: BatchFacts) -> None:
        """Show a batch."""
        set_titles(self, batch_name)
        self._facts, self._message = facts, ""
        self._draw()

    def show_message(self, text: str) -> None:
        """Show a text instead of a batch."""
        set_titles(self, "Batch")
        self._facts, self._message = None, text
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        text = self.query_one(DiffText)
        width = max(10, self.scrollable_content_region.width - 1)  # keeps texts apart from the scroll bar
        text.show_lines(self._draw_lines(self._facts, width) if self._facts else self._draw_message(width))

    def _draw_message(self, width: int) -> list[Text]:
        return [Text(line, Style(dim=True)) for line in wrap_cells(self._message, width)]

    def _draw_lines(self, facts: BatchFacts, width: int) -> list[Text]:
        style_of = self.query_one(DiffText).make_colour_style
        counts = []
        for state, count in facts.state_counts:
            style = get_state_style(state)
            counts.append(Text(f"{style.glyph} {count} {style.state_word}", style_of(style.colour_name)))
        for sign, count, colour in (
            (STAR, facts.star_count, "accent"),
            (REJECT, facts.reject_count, "error"),
            (NOTE, facts.note_count, "accent"),
        ):
            if count:
                counts.append(Text(f"{sign} {count}", style_of(colour)))
        template_lines = wrap_cells(facts.template, width, max_lines=MAX_TEMPLATE_LINES, placeholder=" …")
        lines = [Text(line, Style(bold=True)) for line in template_lines]
        lines += join_texts(counts, width)
        if width >= MIN_WIDTH_WITH_LABELS:
            lines += draw_facts(facts.facts, width)
        else:
            lines += [line for fact in facts.facts for line in wrap_text(str(fact.value), width)]
        for name, note in facts.notes:
            lines += wrap_text(f"{NOTE} {name}: {note}", width, style_of("accent"))
        for fault in facts.faults:
            lines += wrap_text(f"✗ {fault}", width, style_of("error"))
        return lines
