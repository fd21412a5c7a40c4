"""List of batches to choose from, with what tells them apart: time, videos, seeds, sweep and template."""

from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.message import Message

from wantui.storage.batch_index import BatchSummary
from wantui.tui.columns import COLUMN_GAP, Column, draw_column_headers, draw_list_row
from wantui.tui.dates import DATE_WIDTH, format_date
from wantui.tui.plain_names import replace_names
from wantui.tui.widgets.batch_list import format_done_count, shorten_model, shorten_name
from wantui.tui.widgets.virtual_list import VirtualList

BOX, CHOSEN_BOX = "[ ]", "[x]"
NUMBER_SIGN = "#"
"""Sign before the number of a batch that differs from others only in its time."""
MIN_NAME_WIDTH, MAX_NAME_WIDTH, MAX_NUMBERS_WIDTH, MAX_SWEEP_WIDTH, MIN_TEMPLATE_WIDTH = 8, 32, 16, 24, 12


class BatchPicker(VirtualList):
    """List in which several batches can be chosen, by a key or by a click on the box.

    Args:
        chosen_folders: folders that are chosen at first.
    """

    class Toggled(Message):
        """The choice of batches changed."""

    def __init__(self, batches: Sequence[BatchSummary], chosen_folders: Collection[Path]) -> None:
        super().__init__(id="picked-batches", header_renderer=self._draw_header)
        self.batches = list(batches)
        templates = {tuple(batch.template.split()) for batch in self.batches}
        self._common_words = set[str].intersection(*map(set, templates)) if len(templates) > 1 else set[str]()
        """Words of all templates; empty if there is only one template."""
        self._get_columns = cache(self._make_columns)
        self._chosen = {index for index, batch in enumerate(self.batches) if batch.folder in chosen_folders}

    def on_mount(self) -> None:
        self.fill_rows(len(self.batches), self._draw_batch)
        if self._chosen:
            self.cursor = min(self._chosen)

    @property
    def chosen_folders(self) -> list[Path]:
        """Folders of the chosen batches, in the order of the list."""
        return [self.batches[index].folder for index in sorted(self._chosen)]

    @property
    def current_batch(self) -> BatchSummary | None:
        """Batch under the cursor; None in an empty list."""
        return self.batches[self.cursor] if self.cursor < len(self.batches) else None

    def shows_column(self, header_text: str) -> bool:
        """Return whether the list has a column with this header."""
        return any(column.header_text == header_text for column in self._get_columns(self.row_width))

    def shows_template(self, template: str) -> bool:
        """Return whether the list has a column in which a template fits."""
        columns = self._get_columns(self.row_width)
        free_width = self.row_width - _measure_width(columns[:-1]) - len(COLUMN_GAP)
        return columns[-1].width is None and cell_len(template) <= free_width

    def toggle(self, index: int) -> None:
        """Select or deselect a batch."""
        if index < len(self.batches):
            self._chosen ^= {index}
            self.update_row(index)
            self.post_message(self.Toggled())

    def click_row(self, index: int, x: int) -> None:
        """Move the cursor to the clicked batch; choose it if the click is on its box, or if the cursor is there."""
        if index == self.cursor or x < len(BOX):
            self.toggle(index)
        self.cursor = index

    def _draw_header(self, width: int) -> Text:
        return draw_column_headers(self._get_columns(width), width)

    def _draw_batch(self, index: int, width: int) -> Text:
        return draw_list_row(self._get_columns(width), index, width)

    def _make_columns(self, width: int) -> list[Column[int]]:
        """Return columns as wide as their content; the template gets the rest."""
        batches = self.batches

        names = _name_batches(batches)
        name_width = _fit_column("batch", names, max(MIN_NAME_WIDTH, min(MAX_NAME_WIDTH, width // 4)))
        video_width = _fit_column("videos", [format_done_count(batch) for batch in batches], MAX_NUMBERS_WIDTH)
        seeds_width = _fit_column("seeds", [batch.seeds for batch in batches], MAX_NUMBERS_WIDTH)
        columns: list[Column[int]] = [
            Column("", len(BOX), self._draw_box),
            Column("batch", name_width, lambda index: Text(names[index], Style(bold=True))),
            Column("created", DATE_WIDTH, lambda index: format_date(batches[index].created_at)),
            Column("videos", video_width, lambda index: format_done_count(batches[index]), "right"),
            Column("seeds", seeds_width, lambda index: batches[index].seeds),
        ]
        if sweeps := [replace_names(batch.sweep) for batch in batches if batch.sweep]:
            sweep_width = _fit_column("sweep", sweeps, MAX_SWEEP_WIDTH)
            columns.append(Column("sweep", sweep_width, lambda index: replace_names(batches[index].sweep)))
        if len({batch.model for batch in batches}) > 1:
            models = [shorten_model(batch.model) for batch in batches]
            columns.append(Column("model", _fit_column("model", models, MAX_NUMBERS_WIDTH), models.__getitem__))
        while len(columns) > 2 and _measure_width(columns) > width:
            columns.pop()
        if width - _measure_width(columns) - len(COLUMN_GAP) >= MIN_TEMPLATE_WIDTH:
            columns.append(Column("template", None, self._draw_template))
        return columns

    def _draw_template(self, index: int) -> Text:
        """Return the template of a batch; words that all templates have are muted if others tell the batches apart."""
        line = Text()
        for word in self.batches[index].template.split():
            style = self.make_colour_style("text-muted") if word in self._common_words else Style()
            line.append(" " * bool(line)).append(word, style)
        return line

    def _draw_box(self, index: int) -> Text:
        if index in self._chosen:
            return Text(CHOSEN_BOX, self.make_colour_style("accent") + Style(bold=True))
        return Text(BOX, Style(dim=True))


def list_contents(batch: BatchSummary) -> tuple[str, ...]:
    """Return what two batches that differ only in their time have in common."""
    return batch.template, batch.seeds, batch.sweep, batch.model


def _name_batches(batches: Sequence[BatchSummary]) -> list[str]:
    """Return short names; batches that differ only in their time are numbered, the oldest first."""
    names = [shorten_name(batch.folder.name) for batch in batches]
    kinds = [(name, *list_contents(batch)) for name, batch in zip(names, batches, strict=True)]
    numbers: dict[int, int] = {}
    for index in sorted(range(len(batches)), key=lambda index: batches[index].created_at):
        numbers[index] = 1 + sum(kinds[other] == kinds[index] for other in numbers)
    return [
        f"{name} {NUMBER_SIGN}{numbers[index]}" if kinds.count(kinds[index]) > 1 else name
        for index, name in enumerate(names)
    ]


def _fit_column(header: str, texts: Sequence[str], max_width: int) -> int:
    """Return the width of a column in cells: the width of its longest text, up to a maximum."""
    return min(max_width, max(map(cell_len, [header, *texts])))


def _measure_width(columns: Sequence[Column[int]]) -> int:
    """Return the width of columns with the gaps between them, in cells."""
    return sum(column.width or 0 for column in columns) + len(COLUMN_GAP) * (len(columns) - 1)
