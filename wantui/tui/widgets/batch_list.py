"""List of batches in aligned columns, with the videos that a search found below their batches."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from wantui.queue.states import derive_batch_state
from wantui.storage.batch_index import BatchSummary
from wantui.tui.columns import COLUMN_GAP, Column, draw_column_headers, draw_list_row
from wantui.tui.dates import DATE_WIDTH, SHORT_DATE_WIDTH, format_date
from wantui.tui.library.data import LibraryRow
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.matrix_cells import STAR
from wantui.tui.widgets.virtual_list import VirtualList

TIME_STAMP_PATTERN = re.compile(r"_\d{8}_\d{6}$")
"""Time stamp at the end of a folder name, which the column of dates shows as well."""
MIN_NAME_WIDTH, MAX_MODEL_WIDTH, MIN_TEMPLATE_WIDTH = 8, 16, 10
MIN_WIDTH_WITH_TIME, MIN_WIDTH_WITH_MODEL = 36, 44
"""Smallest list widths, in cells, that show the time of creation and the model."""


class BatchList(VirtualList):
    """List of `LibraryRow`; `show_rows` sets them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(header_renderer=self._draw_header, **options)
        self.rows: list[LibraryRow] = []
        self.star_counts: Mapping[Path, int] = {}
        self._get_columns = cache(self._make_columns)

    def show_rows(self, rows: Sequence[LibraryRow], star_counts: Mapping[Path, int]) -> None:
        """Show rows; the cursor keeps its index."""
        self.rows, self.star_counts = list(rows), star_counts
        self._get_columns.cache_clear()
        self.fill_rows(len(self.rows), self._draw_row)

    def _draw_header(self, width: int) -> Text:
        return draw_column_headers(self._get_columns(width), width)

    def _draw_row(self, index: int, width: int) -> Text:
        row = self.rows[index]
        batch = row.batch
        if row.found_video is not None:
            return Text.assemble(("  ╰ ", "dim"), row.found_video.text)
        if batch.fault:
            reason = batch.fault.replace(f"{batch.folder}/", "")  # a long path would push the reason out of sight
            return Text.assemble(
                ("✗ unreadable ", self.make_colour_style("error")), batch.folder.name, "  ", (reason, "dim")
            )
        return draw_list_row(self._get_columns(width), row, width)

    def _make_columns(self, width: int) -> list[Column[LibraryRow]]:
        """Return columns as wide as their content; the name gets the room that it needs, the template the rest."""
        batches = [row.batch for row in self.rows if row.found_video is None and not row.batch.fault]
        done_width = max([len(format_done_count(batch)) for batch in batches] + [len("done")])
        star_width = max([len(str(count)) + 1 for count in self.star_counts.values()] + [0])
        columns: list[Column[LibraryRow]] = [
            Column("", 1, self._draw_state),
            Column("done", done_width, lambda row: format_done_count(row.batch), "right"),
        ]
        short_dates = [format_date(batch.created_at, is_short=True) for batch in batches]
        short_date = Column[LibraryRow](
            "today" if all(":" in date for date in short_dates) else "date",
            SHORT_DATE_WIDTH,
            lambda row: format_date(row.batch.created_at, is_short=True),
        )
        long_date = Column[LibraryRow]("created", DATE_WIDTH, lambda row: format_date(row.batch.created_at))
        trailing = [short_date if width < MIN_WIDTH_WITH_TIME else long_date]
        if star_width:
            trailing.insert(0, Column(STAR, star_width, self._draw_stars, "right"))
        if width >= MIN_WIDTH_WITH_MODEL:
            model_width = max([cell_len(shorten_model(batch.model)) for batch in batches] + [len("model")])
            trailing.append(
                Column("model", min(model_width, MAX_MODEL_WIDTH), lambda row: shorten_model(row.batch.model))
            )
        longest_name = max([cell_len(shorten_name(batch.folder.name)) for batch in batches] + [len("batch")])
        if _measure_columns([*columns, *trailing]) + longest_name > width:  # whole names are worth more than the time
            trailing = [short_date if column is long_date else column for column in trailing]
        least_name_width = min(longest_name, MIN_NAME_WIDTH)
        while trailing and _measure_columns([*columns, *trailing]) + least_name_width > width:
            trailing.pop()
        names_only_width = _measure_columns(columns) + longest_name
        if width < MIN_WIDTH_WITH_TIME and names_only_width <= width:  # whole names are worth more than the date
            while trailing and _measure_columns([*columns, *trailing]) + longest_name > width:
                trailing.pop()
        used_width = _measure_columns([*columns, *trailing])
        name_width = max(1, min(longest_name, width - used_width))
        columns += [Column("batch", name_width, self._draw_name), *trailing]
        if width - used_width - name_width - len(COLUMN_GAP) >= MIN_TEMPLATE_WIDTH:
            columns.append(Column("template", None, self._draw_template))
        return columns

    def _draw_state(self, row: LibraryRow) -> Text:
        style = get_state_style(derive_batch_state(dict(row.batch.counts_by_state)))
        return Text(style.glyph, self.make_colour_style(style.colour_name))

    def _draw_name(self, row: LibraryRow) -> Text:
        return Text(shorten_name(row.batch.folder.name), Style(bold=True))

    def _draw_template(self, row: LibraryRow) -> Text:
        return Text(" ".join(row.batch.template.split()), Style(dim=True))

    def _draw_stars(self, row: LibraryRow) -> Text:
        count = self.star_counts.get(row.batch.folder, 0)
        return Text(f"{STAR}{count}" if count else "", self.make_colour_style("accent"))


def _measure_columns(columns: Sequence[Column[LibraryRow]]) -> int:
    """Return the width of columns with the gap after each."""
    return sum((column.width or 0) + len(COLUMN_GAP) for column in columns)


def format_done_count(batch: BatchSummary) -> str:
    """Return the number of done videos: "24", or "7/8" if some are not done."""
    done_count = batch.count_videos("done")
    return str(done_count) if done_count == batch.video_count else f"{done_count}/{batch.video_count}"


def shorten_name(folder_name: str) -> str:
    """Return the name of a batch folder without the time stamp."""
    return TIME_STAMP_PATTERN.sub("", folder_name) or folder_name


def shorten_model(model: str) -> str:
    """Return the name of a model without owner and format: "Wan2.1-T2V-1.3B"."""
    return model.rstrip("/").rpartition("/")[2].removesuffix("-Diffusers")
