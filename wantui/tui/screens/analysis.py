"""Analysis screen: a table of trajectories, by video or by group, with a view of the selected row or of the groups."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Click
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from wantui.analysis.group import Group
from wantui.analysis.groups import find_dividing_groupings, group_comparable_videos, group_videos
from wantui.analysis.metrics import METRICS
from wantui.analysis.video import Video
from wantui.analysis.video_guidance import is_unguided
from wantui.errors import UserError
from wantui.formatting import format_count, format_error
from wantui.storage.batch_index import BatchSummary
from wantui.tui.actions import make_bindings
from wantui.tui.analysis.data import (
    TrajectoriesLoaded,
    compare_videos,
    export_analysis,
    filter_groups,
    load_chosen_trajectories,
)
from wantui.tui.analysis.metric_notes import UNSETTLED_NOTE, describe_metric_response
from wantui.tui.content import make_content, set_titles
from wantui.tui.messages import ShowBatch
from wantui.tui.plain_names import describe_grouping, replace_names
from wantui.tui.queue_watcher import BATCH_END_EVENTS, QueueSnapshot
from wantui.tui.screens.analysis_figures import AnalysisFigures
from wantui.tui.screens.choose_batches import BatchChooser
from wantui.tui.widgets.search import Search
from wantui.tui.widgets.trajectory_details import TrajectoryDetails
from wantui.tui.widgets.trajectory_table import TrajectoryTable
from wantui.tui.widgets.virtual_list import VirtualList

UNFINISHED = "the batch has no finished trajectory yet; press b to choose another batch"
"""Text of an empty table if there are batches with trajectories."""
NO_TRAJECTORIES = """no batch here has stored trajectories

Every new video stores its trajectory:
  1  compose a batch, then F5 to queue it
  2  watch the queue; return here when the first videos are done

To store attention too, mark a (word) of the template and turn on 'store attention' in the settings."""
SUBTITLE_MARGIN = 4
"""Cells of the border that a title cannot take."""


class AnalysisScreen(AnalysisFigures):
    """A table of videos or groups, with a view of the row under the cursor or of all groups."""

    SCREEN_NAME = "analysis"
    CSS_PATH = "analysis.tcss"
    BINDINGS = [*make_bindings("analysis")]

    search_input = getters.query_one(Search)

    def __init__(self) -> None:
        super().__init__()
        self.available_batches: list[BatchSummary] = []
        self.chosen_folders: list[Path] = []
        self._requested_folder: Path | None = None
        """Batch that another screen asked for; None once its videos are shown."""
        self._requested_video: int | None = None
        self._is_guided = False
        """Whether a video has guidance."""
        self._pooled_groups: tuple[list[Video], str, list[Group]] = ([], "", [])
        """Groups of the videos, with the videos and the grouping that they are of."""
        self._group_names: Sequence[str] = ()
        """Names of these groups, and of those without a readable trajectory."""
        self.load_error = ""
        """Reasons why some of the chosen batches cannot be read."""
        self.empty_text = "reading ..."
        """Text shown while there are no videos."""

    def compose_body(self) -> ComposeResult:
        with Vertical():
            yield Search("part of a variation's name")
            with Vertical(id="table", classes="pane") as table:
                table.border_title = "Trajectories"
                yield TrajectoryTable(empty_text="reading ...")
                yield Static(id="meaning")
            yield TrajectoryDetails(id="curves", classes="pane")

    @property
    def visible_rows(self) -> Sequence[Video] | Sequence[Group]:
        """Rows of the table, in its order."""
        return self.row_list.rows  # type: ignore[return-value]

    def on_mount(self) -> None:
        self.set_focus(self.row_list)
        if self._requested_folder is None and (opened_batch := self.wantui_app.opened_batch) is not None:
            self._requested_folder = opened_batch.resolve()

    def focus_main_widget(self) -> None:
        self.set_class(False, "-enlarged")
        if self.focused is self.row_list and self.current_group is not None:
            self.current_group = None
            self._update_table()
        self.search_input.close()
        self.set_focus(self.row_list)

    def on_resize(self) -> None:
        self.call_after_refresh(self._fit_titles)

    def _fit_titles(self) -> None:
        self._show_titles()
        self.fit_table(len(self._pooled_groups[2]) if self.is_grouped else len(self.videos))

    def on_shown(self) -> None:
        self.reload_videos()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        if any(isinstance(event.payload, BATCH_END_EVENTS) for event in snapshot.events):
            self.reload_videos()

    def analyse_batch(self, folder: Path, video_index: int | None) -> None:
        """Show the videos of a batch, and select one of them."""
        self._requested_folder, self._requested_video = folder.resolve(), video_index
        if self.is_mounted:  # otherwise the screen is about to be shown, and loads then
            self.search_input.close()
            self.current_group = None
            self._show_titles()
            self.reload_videos()

    def reload_videos(self) -> None:
        """Read the requested batch, or read the chosen batches again."""
        self.load_videos(self.chosen_folders if self._requested_folder is None else [self._requested_folder])

    @work(thread=True, exclusive=True, group="load", exit_on_error=False)
    def load_videos(self, chosen_folders: list[Path]) -> None:
        """Find batches with trajectories, and read the chosen batches or else the newest batch."""
        worker = get_current_worker()
        message = load_chosen_trajectories(
            self.wantui_app.list_library_roots(), chosen_folders, lambda: worker.is_cancelled
        )
        if message is not None:
            self.post_message(message)

    @on(TrajectoriesLoaded)
    def _show_videos(self, message: TrajectoriesLoaded) -> None:
        if self._requested_folder is not None and self._requested_folder not in message.requested_folders:
            return  # read before the request, which is being answered
        if message.load_error and message.videos and message.load_error != self.load_error:
            self.notify(
                f"some batches are left out: {message.load_error}", severity="warning", markup=False, timeout=10
            )
        self.load_error = message.load_error
        is_unchanged = len(self.videos) == len(message.videos) and all(
            before.is_same_as(now) for before, now in zip(self.videos, message.videos, strict=True)
        )
        self.available_batches, self.chosen_folders = message.available_batches, message.chosen_folders
        if not is_unchanged:
            self.videos, self.median_curves = message.videos, message.median_curves
            self._is_guided = not all(map(is_unguided, self.videos))
            self.forget_figures()
        self.empty_text = message.load_error or (UNFINISHED if message.available_batches else NO_TRAJECTORIES)
        if self.grouping not in ("", *find_dividing_groupings(self.videos)):
            self.grouping, self.current_group = "", None
        requested_folder, self._requested_folder = self._requested_folder, None
        self._update_table()
        if requested_folder is not None:
            self._answer_request(requested_folder)

    def _answer_request(self, folder: Path) -> None:
        """Select the requested video, or tell why its batch is not shown."""
        if folder not in self.chosen_folders:
            shown = f"; {self.chosen_folders[0].name} is shown" if self.chosen_folders else ""
            self.notify(f"{folder.name} has no stored trajectories{shown}", severity="warning")
        elif not self.is_grouped:
            for index, row in enumerate(self.row_list.rows):
                if isinstance(row, Video) and (row.folder, row.video_index) == (folder, self._requested_video):
                    self.row_list.cursor = index

    # The table

    def _update_table(self) -> None:
        search_text = self.search_input.value.lower()
        videos = [video for video in self.videos if search_text in f"{video.name} {video.prompt}".lower()]
        rows: Sequence[Video | Group] = videos
        all_rows: Sequence[Video | Group] = self.videos
        self.exclusion_reasons = self.exclusion_reasons if self.grouping else []
        if self.grouping:
            # Pool all videos, as the comparison does: the search must not change which settings are most common.
            all_rows = pooled_groups = self._pool_groups()
            groups = filter_groups(pooled_groups, videos) if search_text else pooled_groups
            rows = groups
            if self.current_group is not None:
                rows = [video for group in groups if group.name == self.current_group for video in group.videos]
                all_rows = self.videos
        self.row_list.empty_text = self._explain_empty_table(search_text)
        is_video_table = all_rows is self.videos
        self.row_list.show_rows(rows, all_rows, () if is_video_table else self._group_names)
        self._show_titles()
        if self.is_grouped and (self.comparison_outcome is None or self.comparison_outcome.grouping != self.grouping):
            self.compare_groups(self.videos, self.grouping)
        self.draw_details()

    def _pool_groups(self) -> list[Group]:
        """Return the comparable groups; return the same list again for the same videos and grouping."""
        videos, grouping, groups = self._pooled_groups
        if videos is not self.videos or grouping != self.grouping:
            groups, self.exclusion_reasons = group_comparable_videos(self.videos, self.grouping)
            self._pooled_groups = (self.videos, self.grouping, groups)
            self._group_names = [group.name for group in group_videos(self.videos, self.grouping)]
        return groups

    def _show_titles(self) -> None:
        """Show above the table what it lists, and below it the meaning of the metric under the cursor."""
        table = self.query_one("#table")
        batch_names = " + ".join(path.name for path in self.chosen_folders) or "Trajectories"
        summary = format_count(len(self.row_list.rows), "group" if self.is_grouped else "video")
        if self.is_grouped:
            summary += f" by {describe_grouping(self.grouping)}"
            if self.exclusion_reasons:
                summary += f", {format_count(len(self.exclusion_reasons), 'video')} left out"
            summary += "; enter: list videos"
        elif self.current_group is not None:
            summary += f" of {replace_names(self.current_group)}; escape: all groups"
        is_low, has_note = self.has_class("-low"), False
        if self._requested_folder is not None:
            set_titles(table, f"{self._requested_folder.name}: reading ...")
        else:
            title = f"{batch_names}: {summary}{self._describe_order()}" if self.videos else batch_names
            noted_title = f"{title}; {UNSETTLED_NOTE}"
            has_note = (
                is_low and self.row_list.shows_unsettled and len(noted_title) + SUBTITLE_MARGIN <= table.size.width
            )
            set_titles(table, noted_title if has_note else title)
        metric = METRICS[self.row_list.metric_name]
        unit = f" ({metric.unit})" if metric.unit else ""
        meaning = f"{replace_names(self.row_list.metric_name)}{unit}: {replace_names(metric.meaning)}"
        meaning += f"; {UNSETTLED_NOTE}" if self.row_list.is_unsettled and not has_note else ""
        response = describe_metric_response(self.row_list.metric_name, is_guided=self._is_guided)
        lines = [f"{meaning}. {response}", *([meaning] if is_low else [])]  # rows are worth more than the response
        max_width = table.size.width - SUBTITLE_MARGIN
        line = next((line for line in lines if len(line) <= max_width), "")
        set_titles(table, subtitle=(line or response) if self.row_list.rows else "")
        self.query_one("#meaning", Static).update(make_content(meaning))
        self.set_class(bool(self.row_list.rows) and not line, "-with-meaning")

    def _describe_order(self) -> str:
        """Return the metric by which the rows are sorted; empty if they are in the order of the batch."""
        metric = self.row_list.sort_metric
        direction = "falling" if self.row_list.is_descending else "rising"
        return f", sorted by {replace_names(metric)}, {direction}" if metric else ""

    def draw_details(self) -> None:
        """Draw the current view; a table above attention gets the rows that the pictures leave."""
        self.fit_table(len(self._pooled_groups[2]) if self.is_grouped else len(self.videos))
        super().draw_details()
        self.update_footer()

    def list_idle_actions(self) -> Iterator[str]:
        if not self.videos:
            yield from ("next_view(1)", "groups", "sort", "search", "enlarge", "export")
        if not self.available_batches:
            yield "choose_batches"
        if not self.chosen_folders:
            yield "open_library"
        row = self.row_list.current_row
        shown_videos = row.videos if isinstance(row, Group) else [row]
        if self.current_view != "attention" and not any(video and video.attention_path for video in shown_videos):
            yield "toggle_attention"

    def _explain_empty_table(self, search_text: str) -> str:
        if not self.videos:
            return self.empty_text
        if self.is_grouped and not any(video.trajectory for video in self.videos):
            return "no trajectory can be read; press c to list single videos, each with the reason"
        return f"no video matches {search_text!r}; press escape to clear the search"

    @on(VirtualList.Highlighted, "#rows")
    def _show_highlighted_row(self) -> None:
        if self.current_view == "effects":
            self.details.scroll_home(animate=False)
        self.draw_details()

    @on(VirtualList.Chosen, "#rows")
    def _enter_group(self) -> None:
        row = self.row_list.current_row
        if isinstance(row, Group):
            self.current_group = row.name
            self._update_table()

    def on_click(self, event: Click) -> None:
        """Move to the metric whose header is clicked."""
        if event.widget is self.row_list and event.y < self.row_list.header_height:
            self.row_list.choose_metric_at(event.x)
            self._show_titles()

    @on(Input.Changed, "#search")
    def _filter_while_typing(self) -> None:
        self._update_table()

    @on(Input.Submitted, "#search")
    def _focus_table(self) -> None:
        self.set_focus(self.row_list)

    # Actions

    def action_sort(self) -> None:
        """Sort by the metric under the cursor: rising, falling, then in the order of the batch."""
        self.row_list.sort_by_metric()
        self._update_table()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self.row_list.is_descending = not self.row_list.is_descending
        self._update_table()

    def action_move_across(self, count: int) -> None:
        """Move to the next or previous metric; with the focus on attention, to the next or previous step."""
        if self.current_view == "attention" and self.focused is not self.row_list:
            self.move_overlay(step_count=count)
            return
        self.row_list.move_metric(count)
        self._show_titles()
        if self.current_view == "curves":
            self.draw_details()

    def action_enlarge(self) -> None:
        """Hide or show the table."""
        self.toggle_class("-enlarged")
        self.set_focus(self.details if self.has_class("-enlarged") else self.row_list)

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

    @work
    async def action_choose_batches(self) -> None:
        if not self.available_batches:
            self.notify("no batch here has stored trajectories")
            return
        chosen_folders = await self.app.push_screen_wait(BatchChooser(self.available_batches, self.chosen_folders))
        if chosen_folders:
            self.current_group = None
            self._requested_folder = None  # what another screen asked for is no longer wanted
            self.load_videos(chosen_folders)

    def action_open_library(self) -> None:
        """Show the video under the cursor in the library; for a group, the first of the analysed batches."""
        row = self.row_list.current_row
        if isinstance(row, Video):
            self.post_message(ShowBatch(row.folder, row.video_index))
        elif self.chosen_folders:
            self.post_message(ShowBatch(self.chosen_folders[0], None))

    @work(thread=True, exclusive=True, group="export", exit_on_error=False)
    def action_export(self) -> None:
        """Export the videos as CSV and, if groups were compared, an HTML report, into the batch folder."""
        if not self.videos:
            self.app.call_from_thread(self.notify, "cannot export: there are no videos", severity="warning")
            return
        if self.grouping and self.comparison_outcome is None:
            self.app.call_from_thread(self.notify, "comparing the groups, then exporting ...")
        outcome = self.comparison_outcome or (compare_videos(self.videos, self.grouping) if self.grouping else None)
        comparison = outcome.comparison if outcome is not None else None
        try:
            report_folder, file_names = export_analysis(self.chosen_folders[0], self.videos, comparison)
        except (OSError, UserError) as error:
            self.app.call_from_thread(
                self.notify, f"cannot export: {format_error(error)}", severity="error", markup=False
            )
            return
        hint = "; group the videos (c) to export a report too" if outcome is None else ""
        hint = f"; no report: {outcome.error}" if outcome is not None and outcome.error else hint
        self.app.call_from_thread(
            self.notify, f"exported to {report_folder}: {' and '.join(file_names)}{hint}", markup=False, timeout=10
        )
