"""Table of videos or groups with one column for each metric; the cursor also chooses a metric."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from rich.style import Style
from rich.text import Text

from wantui.analysis.comparability import choose_unique_batch_names
from wantui.analysis.group import Group
from wantui.analysis.group_names import label_setting_values
from wantui.analysis.metrics import METRICS
from wantui.analysis.setting_values import make_value_key, shorten_path
from wantui.analysis.video import Video
from wantui.tui.analysis.metric_notes import UNSETTLED_SIGN
from wantui.tui.columns import COLUMN_GAP, Column, draw_column_headers, draw_list_row
from wantui.tui.number_formats import NumberFormat, choose_number_format
from wantui.tui.plain_names import replace_names
from wantui.tui.series_colours import assign_series_colours
from wantui.tui.widgets.virtual_list import VirtualList

MAX_NAME_WIDTH_SHARE = 0.4
"""Maximum share of the width that the names of batch and variation take."""
METRIC_NAMES = tuple(METRICS)
MORE_SIGN = "›"
"""Sign at the right end of the header if further metrics are out of sight."""
SHORT_UNITS = {"sigma": "σ"}
"""Units as the headers abbreviate them."""

Row = Video | Group


class TrajectoryTable(VirtualList):
    """List of videos or groups; `show_rows` replaces them, `move_metric` moves to another metric."""

    def __init__(self, *, empty_text: str) -> None:
        super().__init__(id="rows", empty_text=empty_text, header_renderer=self._draw_header)
        self.rows: Sequence[Row] = []
        self.metric_index = 0
        """Index of the metric under the cursor."""
        self.first_metric_index = 0
        """Index of the first visible metric."""
        self.sort_metric, self.is_descending = "", False
        self._formats_by_metric: dict[str, NumberFormat] = {}
        self._deviation_widths_by_metric: dict[str, int] = {}
        """Width of the formatted standard deviations of groups, in cells."""
        self._cell_widths_by_metric: dict[str, int] = {}
        """Width of each column's widest cell, in cells."""
        self._batch_names: dict[Path, str] = {}
        """Name of the batch by folder; empty if all videos are of one batch."""
        self._swept_name = ""
        """Name of the swept setting; empty unless exactly one setting is swept."""
        self._cell_texts: dict[tuple[Path, int], str] = {}
        """Values of the swept settings, by folder and index of the video."""
        self._all_rows: Sequence[Row] = []
        self.colours_by_name: dict[str, str] = {}
        """Theme colour of each group, or of each variation."""
        self._columns_by_layout: dict[tuple[object, ...], list[Column[Row]]] = {}
        """Columns by width, first metric and order: their widths depend on all rows, and each row needs them."""

    @property
    def metric_name(self) -> str:
        """Name of the metric under the cursor."""
        return METRIC_NAMES[self.metric_index]

    @property
    def current_row(self) -> Row | None:
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def show_rows(self, rows: Sequence[Row], all_rows: Sequence[Row], group_names: Sequence[str] = ()) -> None:
        """Show rows in the current order.

        Args:
            all_rows: rows without the search: they determine formats and widths, which a search then keeps.
            group_names: names of all groups, including those without a readable trajectory, which share the colours.
        """
        if all_rows is not self._all_rows:
            self._all_rows, self._formats_by_metric, self._columns_by_layout = all_rows, {}, {}
            self._cell_widths_by_metric = {}
            self.colours_by_name = assign_series_colours(group_names or list(map(_get_name, all_rows)))
            videos = [row for row in all_rows if isinstance(row, Video)]
            folders = [video.folder for video in videos]
            self._batch_names = choose_unique_batch_names(folders) if len(set(folders)) > 1 else {}
            self._swept_name, self._cell_texts = _describe_cells(videos)
        self.rows = sorted(rows, key=self._compute_sort_key, reverse=self.is_descending) if self.sort_metric else rows
        self.fill_rows(len(self.rows), self._draw_row)

    def move_metric(self, count: int) -> None:
        """Move the cursor over the metrics, and scroll to it."""
        self.metric_index = max(0, min(len(METRICS) - 1, self.metric_index + count))
        self._scroll_to_metric()
        self.refresh()

    def sort_by_metric(self) -> None:
        """Sort by the metric under the cursor: rising, then falling, then in the original order."""
        if self.sort_metric != self.metric_name:
            self.sort_metric, self.is_descending = self.metric_name, False
        elif not self.is_descending:
            self.is_descending = True
        else:
            self.sort_metric, self.is_descending = "", False

    def choose_metric_at(self, x: int) -> bool:
        """Move to the metric whose column is at `x`; return whether there is one."""
        for column, start, end in _list_spans(self._make_columns(self.row_width)):
            if start <= x < end and column.metric:
                self.move_metric(METRIC_NAMES.index(column.metric) - self.metric_index)
                return True
        return False

    def _scroll_to_metric(self) -> None:
        self.first_metric_index = min(self.first_metric_index, self.metric_index)
        while (
            self.metric_index not in self._find_visible_metrics(self.row_width)
            and self.first_metric_index < self.metric_index
        ):
            self.first_metric_index += 1

    @property
    def _has_groups(self) -> bool:
        return bool(self._all_rows) and isinstance(self._all_rows[0], Group)

    def _compute_sort_key(self, row: Row) -> tuple[bool, float]:
        """Return the sort key of a row; missing values are last."""
        value = _get_value(row, self.sort_metric)
        return (math.isnan(value) != self.is_descending, 0.0 if math.isnan(value) else value)

    # Columns

    def _get_format(self, metric: str) -> NumberFormat:
        """Return the number format of a column, chosen from all rows."""
        if metric not in self._formats_by_metric:
            deviations = [row.compute_standard_deviation(metric) for row in self._all_rows if isinstance(row, Group)]
            positive_deviations = [deviation for deviation in deviations if deviation > 0]
            number_format = choose_number_format(
                [_get_value(row, metric) for row in self._all_rows],
                median(positive_deviations) / 10 if positive_deviations else math.inf,
            )
            self._formats_by_metric[metric] = number_format
            self._deviation_widths_by_metric[metric] = _find_width(list(map(number_format.format_number, deviations)))
        return self._formats_by_metric[metric]

    def _format_cell(self, metric: str, row: Row) -> str:
        """Return the metric of a video, or mean and standard deviation of a group."""
        number_format = self._get_format(metric)
        text = number_format.format_number(_get_value(row, metric))
        if isinstance(row, Video):
            return text
        deviation = row.compute_standard_deviation(metric)
        deviation_width = self._deviation_widths_by_metric[metric]
        if math.isnan(deviation):
            return text + " " * (3 + deviation_width)
        return f"{text} ± {number_format.format_number(deviation):>{deviation_width}}"

    @property
    def is_unsettled(self) -> bool:
        """Whether the metric under the cursor has not settled."""
        return self._has_not_settled(self.metric_name)

    @property
    def shows_unsettled(self) -> bool:
        """Whether a visible metric has not settled."""
        return any(self._has_not_settled(METRIC_NAMES[index]) for index in self._find_visible_metrics(self.row_width))

    @property
    def _first_video(self) -> Video | None:
        """First video of the table, or None; a metric is measured in the same way for all videos."""
        row = self._all_rows[0] if self._all_rows else None
        return row.videos[0] if isinstance(row, Group) else row

    def _has_not_settled(self, metric: str) -> bool:
        return self._first_video is not None and metric in self._first_video.unsettled_metrics

    def _make_metric_column(self, metric: str) -> Column[Row]:
        unit = SHORT_UNITS.get(METRICS[metric].unit, METRICS[metric].unit)
        arrow = ("▼" if self.is_descending else "▲") if metric == self.sort_metric else ""
        video, is_unsettled = self._first_video, self._has_not_settled(metric)
        name = replace_names(metric) + (UNSETTLED_SIGN if is_unsettled else "")
        mark = "" if video is None or is_unsettled else video.describe_stride(metric)
        header = " ".join(filter(None, (f"{name}{arrow}", mark, unit)))
        if metric not in self._cell_widths_by_metric:
            self._cell_widths_by_metric[metric] = _find_width(
                [self._format_cell(metric, row) for row in self._all_rows]
            )
        cell_width = self._cell_widths_by_metric[metric]
        width = max(len(name) + 1 + sum(len(text) + 1 for text in (mark, unit) if text), cell_width)
        return Column(header, width, lambda row: self._format_cell(metric, row), "right", metric=metric)

    def _make_name_columns(self, width: int) -> list[Column[Row]]:
        if self._has_groups:
            name_width = _find_width(["group", *(_get_name(row) for row in self._all_rows)])
            count_width = _find_width(["videos", *(_count_videos(row) for row in self._all_rows)])
            return [
                Column("group", min(name_width, int(width * MAX_NAME_WIDTH_SHARE)), self._draw_name),
                Column("videos", count_width, _count_videos, "right"),
            ]
        name_width = _find_width(["variation", *(_get_name(row) for row in self._all_rows)])
        seed_width = _find_width(["seed", *(_get_seed(row) for row in self._all_rows)])
        columns: list[Column[Row]] = []
        free_width = int(width * MAX_NAME_WIDTH_SHARE)
        if self._batch_names:
            batch_width = min(_find_width(["batch", *self._batch_names.values()]), free_width // 2)
            columns.append(Column("batch", batch_width, self._get_batch_name))
            free_width -= batch_width + 1
        cell_columns = self._make_cell_columns(free_width // 2)
        free_width -= sum((column.width or 0) + 1 for column in cell_columns)
        columns += [Column("variation", max(9, min(name_width, free_width)), self._draw_name), *cell_columns]
        return [*columns, Column("seed", seed_width, _get_seed, "right")]

    def _make_cell_columns(self, max_width: int) -> list[Column[Row]]:
        """Return the column of sweep cells, headed by the setting if just one is swept; no column for one cell."""
        if len(set(self._cell_texts.values())) < 2:
            return []
        header = self._swept_name or "settings"
        width = min(max_width, _find_width([header, *self._cell_texts.values()]))
        return [Column(header, width, self._get_cell_text, "right" if self._swept_name else "left")]

    def _get_cell_text(self, row: Row) -> str:
        return self._cell_texts[row.folder, row.video_index] if isinstance(row, Video) else ""

    def _draw_name(self, row: Row) -> Text:
        name = _get_name(row)
        return Text(replace_names(name), self.make_colour_style(self.colours_by_name.get(name, "foreground")))

    def _get_batch_name(self, row: Row) -> str:
        return self._batch_names.get(row.folder, "") if isinstance(row, Video) else ""

    def _find_visible_metrics(self, width: int) -> list[int]:
        """Return the indices of the metrics that fit beside the names, and leave room for the sign of more metrics."""
        free_width = width - sum((column.width or 0) + len(COLUMN_GAP) for column in self._make_name_columns(width))
        indices: list[int] = []
        for index in range(self.first_metric_index, len(METRICS)):
            free_width -= (self._make_metric_column(METRIC_NAMES[index]).width or 0) + len(COLUMN_GAP)
            sign_width = 1 if index < len(METRICS) - 1 else 0
            if free_width < sign_width and indices:
                break
            indices.append(index)
        return indices

    def _make_columns(self, width: int) -> list[Column[Row]]:
        layout = width, self.first_metric_index, self.sort_metric, self.is_descending
        if layout not in self._columns_by_layout:
            self._columns_by_layout[layout] = self._build_columns(width)
        return self._columns_by_layout[layout]

    def _build_columns(self, width: int) -> list[Column[Row]]:
        columns = self._make_name_columns(width)
        columns += [self._make_metric_column(METRIC_NAMES[index]) for index in self._find_visible_metrics(width)]
        return columns

    def _draw_header(self, width: int) -> Text:
        columns = self._make_columns(width)
        header = draw_column_headers(columns, width)
        for column, start, end in _list_spans(columns):
            if column.metric == self.metric_name:
                header.stylize(self.make_colour_style("accent") + Style(bold=False, dim=False), start, end)
            if column.metric and column.metric == self.sort_metric:
                header.stylize(Style(bold=True, dim=False), start, end)
        if self._find_visible_metrics(width)[-1] < len(METRICS) - 1:
            header.truncate(width - 2, pad=True)
            header.append(f"{MORE_SIGN} ", Style(bold=True, dim=False))
        return header

    def _draw_row(self, index: int, width: int) -> Text:
        row = self.rows[index]
        columns = self._make_columns(width)
        if isinstance(row, Video) and row.trajectory is None:
            name_columns = self._make_name_columns(width)
            line = draw_list_row(name_columns, row, width)
            return line.append(f" {row.exclusion_reason}", self.make_colour_style("warning"))
        line = draw_list_row(columns, row, width)
        if index == self.cursor:
            for column, start, end in _list_spans(columns):
                if column.metric == self.metric_name:
                    line.stylize(self.make_colour_style("accent"), start, end)
        return line


def _list_spans(columns: Sequence[Column[Row]]) -> Iterator[tuple[Column[Row], int, int]]:
    """Yield columns with their first and end cells."""
    start = 0
    for column in columns:
        end = start + (column.width or 0)
        yield column, start, end
        start = end + len(COLUMN_GAP)


def _get_value(row: Row, metric: str) -> float:
    return row.compute_metric(metric) if isinstance(row, Video) else row.compute_mean(metric)


def _describe_cells(videos: Sequence[Video]) -> tuple[str, dict[tuple[Path, int], str]]:
    """Return the name of the swept setting, and its value in each video.

    If several settings are swept, there is no name, and each video has all its swept values.
    """
    paths = {path for video in videos for axis in video.swept_axes for path in axis}
    if len(paths) != 1:
        return "", {(video.folder, video.video_index): replace_names(video.cell_label) for video in videos}
    (path,) = paths
    keys = [make_value_key(video.setting_values.get(path)) for video in videos]
    labels = label_setting_values(videos, path)
    name = shorten_path(path, {path for video in videos for path in video.setting_values})
    return replace_names(name), {
        (video.folder, video.video_index): labels[key] for video, key in zip(videos, keys, strict=True)
    }


def _get_name(row: Row) -> str:
    return row.name if isinstance(row, Group) else row.variation


def _get_seed(row: Row) -> str:
    return str(row.seed) if isinstance(row, Video) else ""


def _count_videos(row: Row) -> str:
    return f"{len(row.videos):,}" if isinstance(row, Group) else ""


def _find_width(texts: Sequence[str]) -> int:
    return max(map(len, texts), default=0)
