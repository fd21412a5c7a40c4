"""Analysis screen: a table of trajectories, by video or by group, with details of the selected row.

The details are the curves or the attention of a video, or the comparison of the groups.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input
from textual.worker import get_current_worker

from wantui.analysis.groups import Group, find_dividing_groupings, pool_comparable_groups
from wantui.analysis.metrics import METRICS
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.formatting import format_count, format_mean
from wantui.tui.actions import make_bindings
from wantui.tui.analysis_data import (
    AttentionLoaded,
    ComparisonDone,
    TrajectoriesLoaded,
    compare_videos,
    export_analysis,
    load_chosen_trajectories,
    load_video_attention,
)
from wantui.tui.columns import Column, draw_column_headers, draw_list_row
from wantui.tui.content import make_content
from wantui.tui.plots import draw_sparkline
from wantui.tui.queue_watcher import BATCH_END_EVENTS, QueueSnapshot
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.choose_batches import BatchChooser
from wantui.tui.widgets.search import Search
from wantui.tui.widgets.trajectory_details import TrajectoryDetails
from wantui.tui.widgets.virtual_list import VirtualList

NO_TRAJECTORIES = """no batch here has stored trajectories

Every new video stores its trajectory: queue a batch, then return here"""


SPARKLINE_WIDTH = 11
"""Width in cells of a velocity curve in the table."""


def _filter_groups(groups: Sequence[Group], matching_videos: Sequence[Video]) -> list[Group]:
    """Return the groups reduced to the matching videos; groups without a match are dropped."""
    matching_keys = {(video.folder, video.video_index) for video in matching_videos}
    filtered_groups = [
        (group, [video for video in group.videos if (video.folder, video.video_index) in matching_keys])
        for group in groups
    ]
    return [Group(group.name, tuple(videos)) for group, videos in filtered_groups if videos]


def _format_row_name(row: Video | Group) -> str:
    return f"{row.name} (n = {len(row.videos)})" if isinstance(row, Group) else row.name


def _format_row_metric(metric: str, row: Video | Group) -> str:
    """Return the metric of a video, or mean and standard deviation of a group."""
    if isinstance(row, Group):
        return format_mean(row.compute_mean(metric), row.compute_standard_deviation(metric), 4)
    value = row.compute_metric(metric)
    return "-" if math.isnan(value) else f"{value:.5g}"


class AnalysisScreen(BaseScreen):
    """A table of videos or groups, with details of the row under the cursor."""

    SCREEN_NAME = "analysis"
    BINDINGS = [*make_bindings("analysis")]

    row_list = getters.query_one("#rows", VirtualList)
    details = getters.query_one(TrajectoryDetails)
    search_input = getters.query_one(Search)

    def __init__(self) -> None:
        super().__init__()
        self.batch_folders: list[Path] = []
        self.chosen_folders: list[Path] = []
        self.videos: list[Video] = []
        self.visible_rows: Sequence[Video] | Sequence[Group] = []
        self.grouping = ""
        """Name of the grouping; empty to list single videos."""
        self.exclusion_reasons: Sequence[tuple[str, str]] = []
        """Names of the videos excluded from the group means, each with the reason."""
        self.current_group: str | None = None
        """Name of the group whose videos are listed; None to list all groups."""
        self.comparison_outcome: ComparisonDone | None = None
        self.sort_metric, self.is_descending, self.first_metric_index = "", False, 0
        self.shows_attention = False
        self.load_error = ""
        """Reasons why some of the chosen batches cannot be read."""
        self.empty_text = "reading ..."
        """Text shown while there are no videos."""

    def compose_body(self) -> ComposeResult:
        with Vertical():
            yield Search("part of a variation's name")
            with Vertical(id="table", classes="pane") as table:
                table.border_title = "Trajectories"
                yield VirtualList(id="rows", empty_text="reading ...", header_renderer=self._draw_header)
            with TrajectoryDetails(id="curves", classes="pane") as details:
                details.border_title = "Curves"

    @property
    def is_grouped(self) -> bool:
        return bool(self.grouping) and self.current_group is None

    def on_mount(self) -> None:
        self.set_focus(self.row_list)

    def focus_main_widget(self) -> None:
        if self.current_group is not None:
            self.current_group = None
            self._update_table()
        self.search_input.close()
        self.set_focus(self.row_list)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_details)

    def on_shown(self) -> None:
        self.load_videos(self.chosen_folders)

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        if any(isinstance(event.payload, BATCH_END_EVENTS) for event in snapshot.events):
            self.load_videos(self.chosen_folders)

    # Loading and comparing, on background threads

    @work(thread=True, exclusive=True, group="load", exit_on_error=False)
    def load_videos(self, chosen_folders: list[Path]) -> None:
        """Find batches with trajectories and read the chosen ones, or the newest."""
        worker = get_current_worker()
        message = load_chosen_trajectories(
            self.wantui_app.list_library_roots(), chosen_folders, lambda: worker.is_cancelled
        )
        if message is not None:
            self.post_message(message)

    @work(thread=True, exclusive=True, group="compare", exit_on_error=False)
    def compare_groups(self, videos: list[Video], grouping: str) -> None:
        """Compare the groups, which takes a second or more."""
        self.post_message(compare_videos(videos, grouping))

    @work(thread=True, exclusive=True, group="attention", exit_on_error=False)
    def read_attention(self, video: Video, with_strips: bool) -> None:
        """Read the attention maps of one video."""
        self.post_message(load_video_attention(video, with_strips))

    @on(TrajectoriesLoaded)
    def _show_videos(self, message: TrajectoriesLoaded) -> None:
        if message.load_error and message.videos and message.load_error != self.load_error:
            self.notify(
                f"some batches are left out: {message.load_error}", severity="warning", markup=False, timeout=10
            )
        self.load_error = message.load_error
        is_unchanged = len(self.videos) == len(message.videos) and all(
            before.is_same_as(now) for before, now in zip(self.videos, message.videos, strict=True)
        )
        self.batch_folders, self.chosen_folders = message.available_folders, message.chosen_folders
        if not is_unchanged:
            self.videos = message.videos
        self.empty_text = message.load_error or NO_TRAJECTORIES
        if self.grouping not in ("", *find_dividing_groupings(self.videos)):
            self.grouping, self.current_group = "", None
        if not is_unchanged:
            self.comparison_outcome = None
        self._update_table()

    @on(ComparisonDone)
    def _show_comparison(self, message: ComparisonDone) -> None:
        # A cancelled thread still posts its result, which may be about other batches.
        if message.grouping == self.grouping and message.videos is self.videos:
            self.comparison_outcome = message
            self._draw_details()

    @on(AttentionLoaded)
    def _show_attention(self, message: AttentionLoaded) -> None:
        if not self.shows_attention or self._get_current_row() is not message.video:
            return
        if message.error:
            self.details.show_message(message.error, "Attention")
        else:
            self.details.show_attention(message.video, message.word_attentions)

    # Drawing

    def _update_table(self) -> None:
        search_text = self.search_input.value.lower()
        videos = [video for video in self.videos if search_text in f"{video.name} {video.prompt}".lower()]
        rows: Sequence[Video] | Sequence[Group] = videos
        self.exclusion_reasons = []
        if self.grouping:
            # Pool all videos, as the comparison does: the search must not change which settings are most common.
            pooled, self.exclusion_reasons = pool_comparable_groups(self.videos, self.grouping)
            groups = _filter_groups(pooled, videos)
            group = next((group for group in groups if group.name == self.current_group), None)
            rows = list(group.videos) if group is not None else groups
        if self.sort_metric:
            rows = sorted(rows, key=self._compute_sort_key, reverse=self.is_descending)
        self.visible_rows = rows
        self.row_list.empty_text = self._explain_empty_table(search_text)
        batch_names = " + ".join(path.name for path in self.chosen_folders) or "Trajectories"
        summary = format_count(len(rows), "group" if self.is_grouped else "video")
        if self.is_grouped:
            summary += f" by {self._describe_grouping()}"
            if self.exclusion_reasons:
                summary += f", {format_count(len(self.exclusion_reasons), 'video')} left out"
        elif self.current_group is not None:
            summary += f" of {self.current_group}"
        table = self.query_one("#table")
        table.border_title = make_content(f"{batch_names}: {summary}")
        subtitle = (
            "enter: videos of the group" if self.is_grouped else "escape: all groups" if self.current_group else ""
        )
        table.border_subtitle = make_content(subtitle)
        self.row_list.fill_rows(len(rows), self._draw_row)
        if self.is_grouped and (self.comparison_outcome is None or self.comparison_outcome.grouping != self.grouping):
            self.compare_groups(self.videos, self.grouping)
        self.call_after_refresh(self._draw_details)

    def _explain_empty_table(self, search_text: str) -> str:
        if not self.videos:
            return self.empty_text
        if self.is_grouped and not any(video.trajectory for video in self.videos):
            return "no trajectory can be read; g lists single videos, each with the reason"
        return f"no video matches {search_text!r}; escape clears the search"

    def _describe_grouping(self) -> str:
        return self.grouping if not self.grouping[:1].isdigit() else f"bracket {self.grouping}"

    def _get_current_row(self) -> Video | Group | None:
        return self.visible_rows[self.row_list.cursor] if self.row_list.cursor < len(self.visible_rows) else None

    def _compute_sort_key(self, row: Video | Group) -> tuple[bool, float]:
        """Return the sort key of a row; missing values are last."""
        value = row.compute_metric(self.sort_metric) if isinstance(row, Video) else row.compute_mean(self.sort_metric)
        return (math.isnan(value) != self.is_descending, 0.0 if math.isnan(value) else value)

    def _choose_visible_metrics(self, table_width: int) -> tuple[int, int, list[str]]:
        """Return the widths of the name and of a metric's column in cells, and the metrics that fit."""
        metric_width = 21 if self.is_grouped else 12
        name_width = 23 if table_width < 110 else 33
        free_width = table_width - name_width - (0 if self.is_grouped else SPARKLINE_WIDTH + 1)
        metric_count = max(1, free_width // (metric_width + 1))
        first_index = min(self.first_metric_index, max(0, len(METRICS) - metric_count))
        return name_width, metric_width, list(METRICS)[first_index : first_index + metric_count]

    def _make_columns(self, width: int) -> list[Column[Video | Group]]:
        name_width, metric_width, metrics = self._choose_visible_metrics(width)
        columns: list[Column[Video | Group]] = [
            Column("group" if self.is_grouped else "video", name_width, _format_row_name),
            *(
                Column(self._format_metric_header(metric), metric_width, partial(_format_row_metric, metric), "right")
                for metric in metrics
            ),
        ]
        if not self.is_grouped:
            columns.append(Column("velocity", None, self._draw_velocity))
        return columns

    def _format_metric_header(self, metric: str) -> str:
        if metric != self.sort_metric:
            return metric
        return f"{metric}{'▼' if self.is_descending else '▲'}"

    def _draw_velocity(self, row: Video | Group) -> Text:
        if isinstance(row, Group) or row.trajectory is None:
            return Text("")
        return Text(
            draw_sparkline(row.trajectory.velocity.tolist(), SPARKLINE_WIDTH), self.row_list.make_colour_style("accent")
        )

    def _draw_header(self, width: int) -> Text:
        return draw_column_headers(self._make_columns(width), width)

    def _draw_row(self, index: int, width: int) -> Text:
        row = self.visible_rows[index]
        columns = self._make_columns(width)
        if isinstance(row, Video) and row.trajectory is None:
            line = draw_list_row(columns[:1], row, width)
            return line.append(f" {row.exclusion_reason}", self.row_list.make_colour_style("warning"))
        return draw_list_row(columns, row, width)

    def _draw_details(self) -> None:
        row = self._get_current_row()
        if row is None and self.is_grouped:
            self.details.show_groups("", self.exclusion_reasons)
        elif row is None:
            self.details.show_message("", "Attention" if self.shows_attention else "Curves")
        elif isinstance(row, Video):
            if self.shows_attention:
                self.read_attention(row, with_strips=not self.wantui_app.settings.low_bandwidth)
            else:
                self.details.show_video(row)
        elif self.comparison_outcome is None:
            self.details.show_groups("comparing ...", self.exclusion_reasons)
        elif self.comparison_outcome.comparison is None:
            self.details.show_groups(self.comparison_outcome.error, self.exclusion_reasons)
        else:
            self.details.show_comparison(self.comparison_outcome.comparison, self.exclusion_reasons)

    @on(VirtualList.Highlighted, "#rows")
    def _show_highlighted_row(self) -> None:
        if not self.is_grouped:
            self._draw_details()

    @on(VirtualList.Chosen, "#rows")
    def _enter_group(self) -> None:
        row = self._get_current_row()
        if isinstance(row, Group):
            self.current_group = row.name
            self._update_table()

    @on(Input.Changed, "#search")
    def _filter_while_typing(self) -> None:
        self._update_table()

    @on(Input.Submitted, "#search")
    def _focus_table(self) -> None:
        self.set_focus(self.row_list)

    # Actions

    def action_sort(self) -> None:
        """Sort by the next column; after the last one, restore the order of the batch."""
        sort_metrics = ["", *METRICS]
        self.sort_metric = sort_metrics[(sort_metrics.index(self.sort_metric) + 1) % len(sort_metrics)]
        if self.sort_metric and self.sort_metric not in self._choose_visible_metrics(self.row_list.row_width)[2]:
            self.first_metric_index = list(METRICS).index(self.sort_metric)
        self._update_table()

    def action_reverse(self) -> None:
        self.is_descending = not self.is_descending
        self._update_table()

    def action_scroll_columns(self, page_count: int) -> None:
        """Show other columns, if not all fit."""
        metric_count = len(self._choose_visible_metrics(self.row_list.row_width)[2])
        self.first_metric_index = max(
            0, min(len(METRICS) - metric_count, self.first_metric_index + page_count * metric_count)
        )
        self._update_table()

    def action_search(self) -> None:
        self.search_input.open()

    def action_groups(self) -> None:
        """Switch to the next grouping; after the last one, list single videos."""
        groupings = ["", *find_dividing_groupings(self.videos)]
        if len(groupings) == 1:
            self.notify(
                self.empty_text if not self.videos else "cannot group: all videos are of one variation and one batch"
            )
            return
        self.grouping = groupings[(groupings.index(self.grouping) + 1) % len(groupings)]
        self.current_group, self.comparison_outcome = None, None
        self._update_table()

    def action_attention(self) -> None:
        self.shows_attention = not self.shows_attention
        self._draw_details()

    @work
    async def action_choose_batches(self) -> None:
        if not self.batch_folders:
            self.notify("no batch here has stored trajectories")
            return
        chosen_folders = await self.app.push_screen_wait(BatchChooser(self.batch_folders, self.chosen_folders))
        if chosen_folders:
            self.current_group, self.comparison_outcome = None, None
            self.load_videos(chosen_folders)

    @work(thread=True, exclusive=True, group="export", exit_on_error=False)
    def action_export(self) -> None:
        """Export the videos as CSV and, if groups were compared, an HTML report, into the batch folder."""
        if not self.videos:
            self.app.call_from_thread(self.notify, "cannot export: there are no videos", severity="warning")
            return
        comparison = self.comparison_outcome.comparison if self.comparison_outcome is not None else None
        try:
            report_folder, file_names = export_analysis(self.chosen_folders[0], self.videos, comparison)
        except (OSError, UserError) as error:
            self.app.call_from_thread(self.notify, f"cannot export: {error}", severity="error", markup=False)
            return
        hint = "" if len(file_names) > 1 else "; group the videos (g) to export a report too"
        self.app.call_from_thread(
            self.notify, f"exported to {report_folder}: {' and '.join(file_names)}{hint}", markup=False, timeout=10
        )
