"""Pane of Compose with the predicted cost, the warnings and the errors of the draft's batch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.formatting import format_count
from wantui.tui.content import set_titles
from wantui.tui.pane_titles import KeyTitleMixin, find_key
from wantui.tui.plain_names import replace_names
from wantui.tui.plots import draw_styled_bar
from wantui.tui.video_grid import draw_planned_videos
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.batches.batch_cost import CostLine
    from wantui.planning import BatchPreview

CHECKED_COSTS = ("memory", "disk")
"""Names of the costs that are compared with what is free."""
NAME_WIDTH = 7
"""Width of the cost names, in cells."""
METER_WIDTH = 16
"""Width of the memory and disk meters, in cells."""
MIN_METER_SHARE = 0.01
"""Share below which a meter would be an empty line."""
HIGH_SHARE = 0.8
"""Used share of the free memory or disk space at which a meter takes the colour of a warning."""


class CostPane(KeyTitleMixin, Vertical):
    """Wrapped costs, errors and warnings; texts that do not fit are left out as a whole, and a key shows them."""

    cost_text = getters.query_one(DiffText)

    def __init__(self) -> None:
        super().__init__(id="cost", classes="pane")
        self.set_key_title("compose.warnings", "Cost")
        self.preview: BatchPreview | None = None
        self.cost_lines: Sequence[CostLine] = ()
        self.cell_texts: Mapping[str, str] = {}
        """Videos and time of each cell of a sweep by its label."""
        self.changes_text = ""
        self.next_action = ("", "")
        """The next step, and its details: the effect of the queue key, or the screen that shows the queued batch."""
        self._is_complete = True

    def compose(self) -> ComposeResult:
        yield DiffText()

    def draw_frame(self) -> None:
        super().draw_frame()
        self.update_subtitle()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_costs)

    def show_costs(
        self,
        preview: "BatchPreview | None",
        cost_lines: "Sequence[CostLine]",
        cell_texts: Mapping[str, str],
        changes_text: str,
    ) -> None:
        """Show the costs of a batch, and of each cell of its sweep; None clears the pane.

        Args:
            changes_text: config with its changed settings; empty if none is changed.
        """
        self.preview, self.cost_lines, self.cell_texts = preview, cost_lines, cell_texts
        self.changes_text = changes_text
        self._draw_costs()

    def replace_preview(self, preview: "BatchPreview") -> None:
        """Show the same batch with other refusals or warnings."""
        self.preview = preview
        self._draw_costs()

    def show_next_action(self, text: str, details: str = "") -> None:
        """Show in the last line what happens next; a narrow pane omits the details."""
        self.next_action = (text, details)
        self._draw_costs()

    def _draw_costs(self) -> None:
        if self.preview is None:
            self.cost_text.show_lines(self._wrap_next_action(self.content_size.width))
            self._is_complete = True
            self.update_subtitle()
            return
        width, height = max(20, self.content_size.width), self.content_size.height
        self.cost_text.show_lines(self._choose_lines(width, height))
        self.update_subtitle()

    def _choose_lines(self, width: int, height: int) -> list[Text]:
        """Return the lines that fit.

        If necessary, omit the bases of the costs, then shorten warnings to their first lines, then omit warnings.
        """
        messages = self._wrap_messages(width)
        next_action = self._wrap_next_action(width)
        message_lines = [line for lines in messages for line in lines]
        full = [*self._draw_cost_lines(width, with_bases=True), *message_lines]
        has_formulas = any(cost.short_basis is not None for cost in self.cost_lines)
        for tail in ([Text(""), *next_action], next_action) if next_action else ([],):
            if len(full) + len(tail) <= height:
                plan = self._draw_plan(width, height - len(full) - len(tail))
                self._is_complete = not has_formulas and bool(plan or not self.cell_texts)
                if self.cell_texts and not plan:  # the cells of a sweep matter more than the bases
                    short = [*self._draw_cost_lines(width, with_bases=False), *message_lines]
                    plan = self._draw_plan(width, height - len(short) - len(tail))
                    full = short if plan else full
                changes = self._draw_changes(width, height - len(full) - len(plan) - len(tail))
                return [*full, *changes, *plan, *tail]
        self._is_complete = False
        short = self._draw_cost_lines(width, with_bases=False)
        if next_action and not messages and len(short) <= height < len(short) + len(next_action):
            return [*_cut_message(short, height - len(next_action), width), *next_action]
        if len(full) <= height:
            return full
        if len(short) + len(message_lines) <= height:
            tail = next_action if len(short) + len(message_lines) + len(next_action) <= height else []
            plan = self._draw_plan(width, height - len(short) - len(message_lines) - len(tail))
            changes = self._draw_changes(width, height - len(short) - len(message_lines) - len(plan) - len(tail))
            return [*short, *message_lines, *changes, *plan, *tail]
        if not messages:
            return short[:height]
        if len(short) + len(messages) <= height:
            return [*short, *_limit_message_lines(messages, height - len(short), width)]
        shown_count = max(0, height - len(short) - 1)
        shown_lines = [_cut_message(lines, 1, width)[0] for lines in messages[:shown_count]]
        hidden_text = format_count(len(messages) - shown_count, "more message" if shown_count else "message")
        return [
            *short,
            *shown_lines,
            Text(
                f"! {hidden_text}: press {find_key(self, 'compose.warnings')} to show all",
                messages[shown_count][0].style,
            ),
        ]

    def _draw_cost_lines(self, width: int, *, with_bases: bool) -> list[Text]:
        lines = []
        for cost in self.cost_lines:
            colour_name = "text-error" if not cost.fits else "text-success" if cost.name in CHECKED_COSTS else ""
            style = self.cost_text.make_colour_style(colour_name) if colour_name else Style.null()
            if cost.text == "?":  # the basis says why, and what to do
                text = replace_names(cost.basis) if with_bases else "unknown"
                parts = wrap_text(text, width - NAME_WIDTH, Style(dim=True), indent="")
            else:
                value = wrap_text(
                    f"{'' if cost.fits else '✗ '}{replace_names(cost.text)}", width - NAME_WIDTH, style, indent=""
                )
                if len(value) == 1 and (meter := self._draw_meter(cost, width - NAME_WIDTH - len(value[0]))):
                    value = [Text.assemble(meter, value[0])]
                parts = value if not with_bases else _append_basis(value, cost, width - NAME_WIDTH)
            lines += self._label_lines(cost.name, parts)
        return lines

    def _draw_changes(self, width: int, height: int) -> list[Text]:
        """Return the config with its changed settings, cut to a height; empty without room."""
        lines = wrap_text(self.changes_text, width - NAME_WIDTH, indent="") if self.changes_text and height > 0 else []
        return self._label_lines("config", _cut_message(lines, height, width - NAME_WIDTH))

    def _draw_plan(self, width: int, height: int) -> list[Text]:
        """Return an empty line, and the grid of the videos or else the cells of a sweep; empty if neither fits."""
        assert self.preview is not None
        width, make_style = width - NAME_WIDTH, self.cost_text.make_colour_style
        lines = draw_planned_videos(self.preview, width, make_style, self.cell_texts, height - 1)
        if not lines:
            texts = [f"{replace_names(label)}: {text}" for label, text in self.cell_texts.items()]
            lines = [line for text in texts for line in wrap_text(text, width, Style(dim=True))]
        if not lines or len(lines) >= height:
            return []
        return [Text(""), *self._label_lines("plan", lines)]

    def _label_lines(self, name: str, lines: Sequence[Text]) -> list[Text]:
        """Return lines beside a bold name in the first one."""
        return [
            Text.assemble((f"{'' if index else name:<{NAME_WIDTH}}", Style(bold=True)), line)
            for index, line in enumerate(lines)
        ]

    def _draw_meter(self, cost: "CostLine", width: int) -> Text:
        """Return a meter of the free memory or disk space that a cost takes.

        The meter is empty for a tiny fraction, or without room.
        """
        if cost.used_share is None or cost.used_share < MIN_METER_SHARE or width < METER_WIDTH + 2:
            return Text()
        colour_name = "warning" if cost.fits and cost.used_share >= HIGH_SHARE else "success" if cost.fits else "error"
        meter = draw_styled_bar(cost.used_share, METER_WIDTH, self.cost_text.make_colour_style(colour_name))
        return meter.append("  ")

    def _wrap_messages(self, width: int) -> list[list[Text]]:
        """Return the wrapped lines of each refusal and warning."""
        assert self.preview is not None
        error_style = self.cost_text.make_colour_style("text-error")
        warning_style = self.cost_text.make_colour_style("text-warning")
        return [
            *(wrap_text(f"✗ {refusal}", width, error_style) for refusal in self.preview.refusals),
            *(wrap_text(f"! {warning}", width, warning_style) for warning in self.preview.warnings),
        ]

    def _wrap_next_action(self, width: int) -> list[Text]:
        """Return the wrapped lines of what happens next; the details only if they fit into the same line."""
        style, width = self.cost_text.make_colour_style("accent"), max(20, width)
        text, details = self.next_action
        if details and len(f"{text}; {details}") <= width:
            text = f"{text}; {details}"
        return [part for line in text.splitlines() for part in wrap_text(line, width, style)]

    def update_subtitle(self) -> None:
        """Name the key that shows all costs and warnings if they do not fit into the pane."""
        set_titles(self, subtitle="" if self._is_complete else f"{find_key(self, 'compose.warnings')} all details")

    def format_details(self) -> str:
        """Return all costs with their bases, and those of each cell of a sweep."""
        costs = "\n".join(f"{cost.name:<{NAME_WIDTH}}{cost.text}; {cost.basis}" for cost in self.cost_lines)
        cells = "\n".join(f"{label}: {text}" for label, text in self.cell_texts.items())
        return "\n\n".join(filter(None, (costs, cells)))


def _limit_message_lines(messages: Sequence[Sequence[Text]], line_count: int, width: int) -> list[Text]:
    """Return at most `line_count` lines of messages.

    Each message gets one line; then messages with the fewest lines get more.
    """
    counts = [1] * len(messages)
    while sum(counts) < line_count:
        shortest = min((count, index) for index, count in enumerate(counts) if count < len(messages[index]))
        counts[shortest[1]] += 1
    return [line for lines, count in zip(messages, counts, strict=True) for line in _cut_message(lines, count, width)]


def _cut_message(lines: Sequence[Text], line_count: int, width: int) -> list[Text]:
    """Return the first lines of a message, with an ellipsis if it has more."""
    if len(lines) <= line_count:
        return list(lines)
    last_line = lines[line_count - 1].copy()
    if len(last_line) > width - 2:
        last_line.right_crop(len(last_line) - max(1, last_line.plain.rfind(" ", 0, width - 1)))
    return [*lines[: line_count - 1], last_line.append(" …")]


def _append_basis(value: list[Text], cost: "CostLine", width: int) -> list[Text]:
    """Append the basis of a cost to its value: in the same line if the basis fits there, otherwise in lines below."""
    style = Style(dim=cost.fits)
    basis = replace_names(cost.basis if cost.short_basis is None else cost.short_basis)
    if len(value[-1]) + 2 + len(basis) <= width:
        return [*value[:-1], Text.assemble(value[-1], ("  ", style), (basis, style))]
    return [*value, *(wrap_text(basis, width, style, indent="") if basis else [])]
