"""Pane of Compose with the predicted cost, the warnings and the errors of the draft's batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Literal

from rich.style import Style
from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.formatting import format_count
from wantui.tui.content import set_titles
from wantui.tui.cost_rows import NAME_WIDTH, draw_changes, draw_cost_rows, draw_cost_values, label_lines
from wantui.tui.pane_titles import KeyTitleMixin, find_key
from wantui.tui.plain_names import replace_names
from wantui.tui.video_grid import draw_planned_videos
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    from wantui.batches.batch_cost import CostLine
    from wantui.planning import BatchPreview

CostDetails = Literal["parts", "notes", "values", "short", "fewest"]
"""Details of the costs, from most to least; `fewest` also omits the power."""


@dataclass(frozen=True)
class Layout:
    """Contents of the pane."""

    details: CostDetails
    has_changes: bool = True
    """Whether the changed settings are shown."""
    has_plan: bool = True
    """Whether the plan is shown; without effect if no plan fits into the pane."""


LAYOUTS = (
    Layout("parts"),
    Layout("notes"),
    Layout("notes", has_changes=False),
    Layout("values"),
    Layout("values", has_changes=False),
    Layout("short", has_changes=False),
    Layout("fewest", has_changes=False),
    Layout("parts", has_plan=False),
    Layout("notes", has_plan=False),
    Layout("values", has_plan=False),
    Layout("values", has_changes=False, has_plan=False),
)
"""Layouts in order of preference; the pane shows the first one that fits."""
GAPS = ((1, 1), (1, 0), (0, 1), (0, 0))
"""Numbers of empty lines before the plan and before the next action, in the order in which they are tried."""


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
        self.changes: Sequence[tuple[str, str]] = ()
        self.next_action = ("", "")
        """The next step, and its details: the effect of the queue key, or the screen that shows the queued batch."""

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
        changes: Sequence[tuple[str, str]],
        next_action: tuple[str, str],
    ) -> None:
        """Show the costs of a batch, and of each cell of its sweep; None clears the pane.

        Args:
            changes: name of the config, then name and value of each changed setting; empty if none is changed.
            next_action: see `show_next_action`.
        """
        self.preview, self.cost_lines, self.cell_texts = preview, cost_lines, cell_texts
        self.changes, self.next_action = changes, next_action
        self._draw_costs()

    def replace_preview(self, preview: "BatchPreview", next_action: tuple[str, str]) -> None:
        """Show the same batch with other refusals or warnings."""
        self.preview, self.next_action = preview, next_action
        self._draw_costs()

    def show_next_action(self, text: str, details: str = "") -> None:
        """Show in the last line what happens next; a narrow pane omits the details."""
        self.next_action = (text, details)
        self._draw_costs()

    def _draw_costs(self) -> None:
        width, height = max(20, self.content_size.width), self.content_size.height
        has_preview = self.preview is not None
        self.cost_text.show_lines(self._choose_lines(width, height) if has_preview else self._wrap_next_action(width))
        self.update_subtitle()

    def _choose_lines(self, width: int, height: int) -> list[Text]:
        """Return the first of `LAYOUTS` that fits, if necessary without empty lines; else, shorten warnings."""
        messages, next_action = self._wrap_messages(width), self._wrap_next_action(width)
        fixed_lines = [line for lines in messages for line in lines]
        changes = label_lines("config", draw_changes(self.changes, width - NAME_WIDTH))
        plans = self._draw_plans(width, height)
        draw_costs = cache(partial(self._draw_cost_lines, width))
        for layout, (plan_gap, tail_gap) in product(LAYOUTS, GAPS):
            costs, shown_changes = draw_costs(layout.details), changes if layout.has_changes else []
            tail = [*[Text("")] * tail_gap, *next_action] if next_action else []
            free_height = height - len(costs) - len(fixed_lines) - len(shown_changes) - len(tail)
            shown_plans = plans if layout.has_plan else []
            plan = next((plan for plan in shown_plans if len(plan) <= free_height - plan_gap), [])
            if free_height >= 0 and bool(plan) == bool(shown_plans):
                return [*costs, *fixed_lines, *shown_changes, *([Text("")] * plan_gap if plan else []), *plan, *tail]
        return self._cut_messages(messages, next_action, width, height)

    def _cut_messages(self, messages: list[list[Text]], next_action: list[Text], width: int, height: int) -> list[Text]:
        """Return the lines of a pane that is too low for all warnings and refusals."""
        costs = self._draw_cost_lines(width, "values")
        if not messages:
            return [*self._draw_cost_lines(width, "fewest")[: max(0, height - len(next_action))], *next_action][:height]
        if len(costs) + sum(map(len, messages)) <= height:
            return [*costs, *(line for lines in messages for line in lines)]
        if len(costs) + len(messages) <= height:
            return [*costs, *_limit_message_lines(messages, height - len(costs), width)]
        shown_count = max(0, height - len(costs) - 1)
        shown_lines = [_cut_message(lines, 1, width)[0] for lines in messages[:shown_count]]
        hidden_text = format_count(len(messages) - shown_count, "more message" if shown_count else "message")
        return [
            *costs,
            *shown_lines,
            Text(
                f"! {hidden_text}: press {find_key(self, 'compose.warnings')} to show all",
                messages[shown_count][0].style,
            ),
        ]

    def _draw_cost_lines(self, width: int, details: CostDetails) -> list[Text]:
        """Return the costs with the details of a layout."""
        make_style = self.cost_text.make_colour_style
        if details in ("parts", "notes"):
            return draw_cost_rows(self.cost_lines, width, make_style, shows_parts=details == "parts")
        costs = list(self.cost_lines)
        if details in ("short", "fewest"):
            costs = [replace(cost, text=cost.short_text or cost.text) for cost in costs]
        if details == "fewest":
            costs = [cost for cost in costs if cost.name != "power"]
        return draw_cost_values(costs, width, make_style)

    def _draw_plans(self, width: int, height: int) -> list[list[Text]]:
        """Return the plan that `_draw_plan` prefers at a height, then those at lower heights."""
        plans: list[list[Text]] = []
        while plan := self._draw_plan(width, len(plans[-1]) - 1 if plans else height):
            plans.append(plan)
        return plans

    def _draw_plan(self, width: int, height: int) -> list[Text]:
        """Return the grid of the videos, or else the cells of a sweep; empty if neither fits."""
        assert self.preview is not None
        make_style = self.cost_text.make_colour_style
        for label, label_width in (("plan", NAME_WIDTH), ("", 0)):
            lines = draw_planned_videos(self.preview, width - label_width, make_style, self.cell_texts, height)
            if lines:
                return label_lines(label, lines) if label else lines
        if len(self.cell_texts) > height:
            return []
        texts = [f"{replace_names(label)}: {text}" for label, text in self.cell_texts.items()]
        lines = [line for text in texts for line in wrap_text(text, width - NAME_WIDTH, Style(dim=True))]
        return label_lines("plan", lines) if len(lines) <= height else []

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
        """Name the key that shows all costs and warnings."""
        set_titles(self, subtitle="" if self.preview is None else f"{find_key(self, 'compose.warnings')} all details")

    def format_details(self) -> str:
        """Return all costs with their bases, and those of each cell of a sweep."""
        costs = "\n".join(f"{cost.name:<{NAME_WIDTH}}{cost.text}; {cost.basis}" for cost in self.cost_lines)
        cells = "\n".join(f"{label}: {text}" for label, text in self.cell_texts.items())
        changes = "\n".join(f"{name} {value}".strip() for name, value in self.changes)
        return "\n\n".join(filter(None, (costs, cells, changes)))


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
