"""Dialog that selects the batches to analyse together."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.events import Resize
from textual.screen import ModalScreen

from wantui.formatting import format_count, join_and_shorten
from wantui.storage.batch_index import BatchSummary
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import set_titles
from wantui.tui.dates import format_date, format_full_date
from wantui.tui.facts import Fact, draw_facts
from wantui.tui.plain_names import replace_names
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.batch_list import shorten_model
from wantui.tui.widgets.batch_picker import BatchPicker, list_contents
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.wrapping import wrap_text

HEADER_HEIGHT, GAP_HEIGHT = 1, 1
"""Lines of the list's header, and between the list and the facts."""
MAX_FACT_LINES, MAX_TEMPLATE_LINES = 6, 2


class BatchChooser(BackdropMixin, ModalScreen[list[Path] | None]):
    """Dialog that returns the chosen folders, or None.

    Args:
        initial_folders: folders that are chosen at first.
    """

    BINDINGS = [
        Binding("space,m", "choose", "Select"),
        Binding("enter", "accept", "Analyse", priority=True),
        Binding("escape,q", "dismiss(None)", "Close"),
    ]

    batch_picker = getters.query_one(BatchPicker)
    facts_text = getters.query_one("#picked-facts", DiffText)

    def __init__(self, batches: Sequence[BatchSummary], initial_folders: Sequence[Path]) -> None:
        super().__init__()
        self.batches, self.initial_folders = list(batches), set(initial_folders)
        self._equal_batches: defaultdict[tuple[str, ...], list[BatchSummary]] = defaultdict(list)
        """Batches that differ only in their time, by their common contents."""
        for batch in self.batches:
            self._equal_batches[list_contents(batch)].append(batch)
        self._measured_widths = (0, 0)
        """Widths of the facts and of the list for which the height of the facts was measured."""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Batches with stored trajectories"
            yield BatchPicker(self.batches, self.initial_folders)
            yield DiffText(id="picked-facts")
        yield KeyFooter()

    def on_mount(self) -> None:
        self.batch_picker.styles.height = len(self.batches) + HEADER_HEIGHT
        self.set_focus(self.batch_picker)
        self._show_count()

    def on_resize(self, event: Resize) -> None:
        self.call_after_refresh(self._show_facts)

    @on(BatchPicker.Toggled)
    def _show_count(self) -> None:
        count_text = format_count(len(self.batch_picker.chosen_folders), "batch", "batches")
        set_titles(self.query_one(".dialog"), f"Batches with stored trajectories: {count_text} selected")

    @on(VirtualList.Highlighted)
    def _show_facts(self) -> None:
        """Show below the list what the row under the cursor leaves out, in equally many lines for all batches."""
        batch, width = self.batch_picker.current_batch, self.facts_text.content_size.width
        if batch is None or width <= 0:
            return
        widths = (width, self.batch_picker.row_width)
        if self._measured_widths != widths:
            self._measured_widths = widths
            height = max(len(self._draw_facts(other, width)) for other in self.batches)
            self.facts_text.styles.height = height + GAP_HEIGHT
        lines = self._draw_facts(batch, width)
        self.facts_text.show_lines([*lines, *[Text("")] * (MAX_FACT_LINES - len(lines))])

    def _draw_facts(self, batch: BatchSummary, width: int) -> list[Text]:
        """Return the facts about a batch that its row leaves out."""
        counts = [f"{count:,} {get_state_style(state).state_word}" for state, count in batch.counts_by_state]
        facts = [
            Fact("videos", ", ".join(counts) if len(counts) > 1 else ""),
            Fact("seeds", "" if self.batch_picker.shows_column("seeds") else batch.seeds),
            Fact("same as", self._describe_equal_batches(batch)),
            Fact("sweep", "" if self.batch_picker.shows_column("sweep") else replace_names(batch.sweep)),
            Fact("model", "" if self.batch_picker.shows_column("model") else shorten_model(batch.model)),
            Fact("created", "" if self.batch_picker.shows_column("created") else format_full_date(batch.created_at)),
            Fact("folder", str(batch.folder)),
        ]
        template = " ".join(batch.template.split())
        is_listed = self.batch_picker.shows_template(template)
        template_lines = [] if is_listed else wrap_text(template, width, Style(bold=True), indent="")
        fact_lines = draw_facts([fact for fact in facts if fact.value], width)
        return [*template_lines[:MAX_TEMPLATE_LINES], *fact_lines][:MAX_FACT_LINES]

    def _describe_equal_batches(self, batch: BatchSummary) -> str:
        """Return the batches that differ from one only in their time; empty if there are none."""
        others = [other for other in self._equal_batches[list_contents(batch)] if other is not batch]
        times = join_and_shorten([format_date(other.created_at).strip() for other in others])
        return f"batch of {times} (template, seeds, sweep, model)" if others else ""

    def action_choose(self) -> None:
        self.batch_picker.toggle(self.batch_picker.cursor)

    def action_accept(self) -> None:
        """Return the chosen batches; if no batch is chosen, return the batch under the cursor."""
        current = self.batch_picker.current_batch
        self.dismiss(self.batch_picker.chosen_folders or ([current.folder] if current is not None else None))
