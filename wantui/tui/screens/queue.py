"""Queue screen: the batches in queue order, the videos of the selected batch, and actions on both."""

from rich.cells import cell_len
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from wantui.batches.eta import format_seconds_left
from wantui.formatting import format_count
from wantui.queue.records import UNFINISHED_STATES, BatchRow, VideoRow
from wantui.queue.states import find_displayed_state
from wantui.tui.actions import make_bindings
from wantui.tui.columns import Column, draw_column_headers, draw_list_row
from wantui.tui.content import set_titles
from wantui.tui.facts import Fact, draw_facts
from wantui.tui.plain_names import replace_names
from wantui.tui.queue_columns import BatchWidths, VideoWidths, format_batch_eta, make_batch_columns, make_video_columns
from wantui.tui.queue_watcher import VIDEOS_PER_PAGE, QueueSnapshot, VideoPages
from wantui.tui.screens.queue_actions import QueueActions
from wantui.tui.screens.queue_results import MAX_FULL_TEXT_HEIGHT
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.batch_list import shorten_name
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.queue_video import QueueVideo
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.wrapping import wrap_text

EMPTY_QUEUE_TEXT = "the queue is empty; press 1 to compose a batch"
NO_VIDEOS_TEXT = "The videos of the selected batch appear here."
TITLE_MARGIN = 4
"""Cells within the frame of a list that its title does not take."""
FULL_TEXT_PADDING = 4
"""Cells beside the full text of the selected row, as in the style sheet; its own width is unknown before the layout."""
ETA_SECONDS, SLOW_ETA_SECONDS = 5.0, 30.0
"""Seconds between two updates of the visible ETAs: normally, and with --low-bandwidth."""


class QueueScreen(QueueActions):
    """Screen with batches above, videos of the selected batch below, and details of both at the right."""

    SCREEN_NAME = "queue"
    CSS_PATH = "queue.tcss"
    BINDINGS = [*make_bindings("queue")]

    def __init__(self) -> None:
        super().__init__()
        self.selected_batch_id: int | None = None
        self._has_engine = False
        self._batch_columns: list[Column[BatchRow]] = []
        self._batch_widths: BatchWidths | None = None
        self._video_columns: list[Column[tuple[int, VideoRow]]] = []
        self._video_widths: VideoWidths | None = None

    def compose_body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="lists"):
                batches = VirtualList(
                    id="batches", classes="pane", empty_text=EMPTY_QUEUE_TEXT, header_renderer=self._draw_batch_header
                )
                batches.border_title = "Batches"
                yield batches
                videos = VirtualList(
                    id="videos", classes="pane", empty_text=NO_VIDEOS_TEXT, header_renderer=self._draw_video_header
                )
                videos.border_title = "Videos"
                with Horizontal(id="videos-and-video"):
                    yield videos
                    yield QueueVideo("list-video")
                yield self.compose_results()
                yield DiffText(id="about")
            yield from self.compose_details()

    def on_mount(self) -> None:
        self.set_focus(self.batch_list)
        self.wantui_app.pages_signal.subscribe(self, self._show_changed_pages)
        self.set_interval(SLOW_ETA_SECONDS if self.wantui_app.is_low_bandwidth else ETA_SECONDS, self._redraw_etas)

    def focus_main_widget(self) -> None:
        self.set_focus(self.batch_list)

    def list_idle_actions(self) -> tuple[str, ...]:
        if self.visible_batches or self.marked_ids:
            return ()
        return (
            "move('top')",
            "mark",
            "pause_batch",
            "cancel",
            "retry",
            "edit_copy",
            "remove",
            "open_library",
        )

    # Drawing

    def on_screen_suspend(self) -> None:
        self.wantui_app.queue_watcher.set_watched_pages(None)

    def on_shown(self) -> None:
        """Watch the visible rows again."""
        self._watch_visible_videos()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        previous_batches = self.visible_batches
        if self._has_engine != (snapshot.engine is not None):  # running videos become interrupted, or vice versa
            self._has_engine = snapshot.engine is not None
            self.video_list.redraw_changed_rows()
        self.visible_batches = [
            batch
            for batch in snapshot.batches
            if self.shows_ended or batch.unfinished_count or batch.counts.get("failed")
        ]
        self._fit_batch_columns()
        hidden_count = len(snapshot.batches) - len(self.visible_batches)
        ended_text = format_count(hidden_count, "ended batch", "ended batches")
        self.batch_list.empty_text = f"{ended_text} hidden; press a to show all" if hidden_count else EMPTY_QUEUE_TEXT
        # The frame and the header take three lines; the style sheet limits the height.
        self.batch_list.styles.height = max(1, len(self.visible_batches)) + 3
        if [batch.id for batch in previous_batches] != [batch.id for batch in self.visible_batches]:
            self.batch_list.fill_rows(len(self.visible_batches), self._draw_batch)
            ids = [batch.id for batch in self.visible_batches]
            chosen_id = self._choose_first_batch() if self.selected_batch_id is None else self.selected_batch_id
            if chosen_id in ids:
                self.batch_list.cursor = ids.index(chosen_id)
        else:
            self.batch_list.redraw_changed_rows()
        hold = snapshot.hold
        self.marked_ids &= {batch.id for batch in snapshot.batches}
        marked_text = f", {len(self.marked_ids)} selected" if self.marked_ids else ""
        title = f"Batches: {len(self.visible_batches)}{marked_text}"
        is_idle = snapshot.engine is None and any(batch.unfinished_count for batch in snapshot.batches)
        is_starting = self.wantui_app.is_engine_starting
        idle_hint = "the engine is starting" if is_starting else "no engine is running: press F6 to start one"
        engine_hint = idle_hint if is_idle else ""
        set_titles(self.batch_list, f"{title}, on hold: {hold.reason}" if hold else title, engine_hint)
        self._show_selected_batch()
        self._show_full_text()

    def _choose_first_batch(self) -> int | None:
        """Return the first batch with running videos, or else with waiting videos, or else the newest batch."""
        running = [batch.id for batch in self.visible_batches if batch.counts.get("running")]
        unfinished = [batch.id for batch in self.visible_batches if batch.unfinished_count]
        newest = max((batch.id for batch in self.visible_batches), default=None)
        return next(iter(running or unfinished), newest)

    def _show_selected_batch(self) -> None:
        """Show the videos of the batch under the cursor."""
        batch = self.get_current_batch()
        chosen_id = batch.id if batch is not None else None
        self._fit_video_columns(batch)
        if chosen_id != self.selected_batch_id or batch is None or batch.video_count != self.video_list.row_count:
            is_same_batch = chosen_id == self.selected_batch_id
            self.selected_batch_id = chosen_id
            if not is_same_batch:
                self.pages_by_number = {}  # the watcher publishes the pages of the newly watched batch
            self.video_list.fill_rows(batch.video_count if batch else 0, self._draw_video, keep_cursor=is_same_batch)

    def _describe_videos(self, batch: BatchRow) -> str:
        """Return the title of the video list: the batch, and the number of videos in each state.

        If the words for the states do not fit, use their symbols.
        """
        title = f"Videos of {shorten_name(batch.name)}: "
        counts = [(count, get_state_style(state)) for state, count in self.count_states(batch).items()]
        text = title + ", ".join(f"{count} {style.state_word}" for count, style in counts)
        if cell_len(text) <= self.video_list.size.width - TITLE_MARGIN:
            return text
        return title + "  ".join(f"{style.glyph} {count}" for count, style in counts)

    @on(VirtualList.VisibleRowsChanged, "#videos")
    def _watch_visible_videos(self) -> None:
        """Watch the visible videos and those around the cursor; `_show_changed_pages` receives them."""
        if self.is_current:
            first, last = self.video_list.get_visible_range()
            indices = (first, max(first, last), self.video_list.cursor)
            self.wantui_app.queue_watcher.set_watched_pages(
                self.selected_batch_id, {index // VIDEOS_PER_PAGE for index in indices}
            )

    def _show_changed_pages(self, videos: VideoPages) -> None:
        """Redraw the videos that changed."""
        if videos.batch_id == self.selected_batch_id:
            self.pages_by_number = videos.pages_by_number
            self._fit_video_columns(self.get_current_batch())
            self.video_list.redraw_changed_rows()
            self._show_full_text()

    def _redraw_etas(self) -> None:
        """Redraw the ETAs of the visible videos."""
        if self.is_current:
            self.video_list.redraw_changed_rows()
            self.draw_details()

    def _fit_batch_columns(self) -> None:
        """Make the columns of the batch list as wide as their content."""
        widths = BatchWidths.measure(self.visible_batches, self._has_engine)
        if widths != self._batch_widths:
            self._batch_widths = widths

            def format_eta(batch: BatchRow) -> str:
                return format_batch_eta(batch, self.wantui_app.snapshot.etas.seconds_by_batch)

            self._batch_columns = make_batch_columns(
                self.batch_list, self.marked_ids, lambda: self._has_engine, format_eta, widths
            )
            self.batch_list.refresh()

    def _fit_video_columns(self, batch: BatchRow | None) -> None:
        """Make the columns of the video list as wide as their content."""
        videos = [video for page in self.pages_by_number.values() for video in page.videos]
        widths = VideoWidths.measure(batch, self._has_engine, videos)
        if widths != self._video_widths:
            self._video_widths = widths

            def format_eta(index: int, video: VideoRow) -> str:
                seconds_left = self._estimate_video_eta(index, video) if video.state in UNFINISHED_STATES else None
                return "" if seconds_left is None else format_seconds_left(seconds_left)

            self._video_columns = make_video_columns(
                self.video_list, lambda: self._has_engine, format_eta, self.find_variation, self.find_prompt, widths
            )
            self.video_list.refresh()

    def _draw_batch_header(self, width: int) -> Text:
        return draw_column_headers(self._batch_columns, width)

    def _draw_video_header(self, width: int) -> Text:
        return draw_column_headers(self._video_columns, width)

    def _draw_batch(self, index: int, width: int) -> Text:
        return draw_list_row(self._batch_columns, self.visible_batches[index], width)

    def _draw_video(self, index: int, width: int) -> Text:
        video = self.get_video_at(index)
        if video is None:
            return Text(f"{index + 1:>{(self._video_widths or VideoWidths()).number}} ...", "dim")
        return draw_list_row(self._video_columns, (index, video), width)

    def _estimate_video_eta(self, index: int, video: VideoRow) -> float | None:
        snapshot = self.wantui_app.snapshot
        batch = next((row for row in self.visible_batches if row.id == video.batch), None)
        if batch is None or snapshot.engine is None or (batch.is_stopped and video.state != "running"):
            return None
        if (page := self.pages_by_number.get(index // VIDEOS_PER_PAGE)) is None:
            return None
        unfinished_before = page.unfinished_counts_before[index % VIDEOS_PER_PAGE]
        progress = snapshot.progress_by_video.get(video.id)
        return snapshot.etas.estimate_video_eta(
            video, unfinished_before, batch, None if progress is None else progress.pace_seconds
        )

    def _show_full_text(self) -> None:
        """Show the full text of the selected row below the list.

        A video has a text there if it has an error, which needs the width, or if no other pane shows it.
        """
        batch = self.get_current_batch()
        if batch is None:
            self.full_text.show_lines([Text("")])
            self.draw_details()
            return
        width = max(20, self.full_text.content_size.width or self.size.width - FULL_TEXT_PADDING)
        lines = _describe_batch(batch, width)
        video = self.get_video_at(self.video_list.cursor)
        if video is not None and self.video_list.has_focus and (video.error or not self.shows_video):
            state = find_displayed_state(video.state, self._has_engine)
            worker = f"on {video.worker}" if video.worker and state == "running" else ""
            lines = wrap_text(
                f"{replace_names(video.title)}: {video.error or worker or get_state_style(state).state_word}", width
            )
        self.full_text.show_lines(lines)
        self.draw_details()  # last, because the height of the results depends on the text

    def draw_details(self) -> None:
        """Show the selected batch and video; until the list has the focus, its cursor follows a running video."""
        batch, video = self.get_current_batch(), self.get_video_at(self.video_list.cursor)
        if batch is not None and not self.video_list.has_focus:
            running_videos = (row for row in self.wantui_app.snapshot.running_videos if row.batch == batch.id)
            running_video = next(running_videos, None)
            if running_video is not None:
                video, self.video_list.cursor = running_video, running_video.number
        is_unfinished = video is not None and video.state in UNFINISHED_STATES
        eta_seconds = self._estimate_video_eta(video.number, video) if video is not None and is_unfinished else None
        set_titles(self.video_list, self._describe_videos(batch) if batch else "Videos")
        self.fit_results(batch)
        self.show_details(batch, video, eta_seconds)
        self.show_results(batch, video)
        self.video_list.redraw_changed_rows()

    def on_descendant_focus(self) -> None:
        self._show_full_text()

    @on(VirtualList.Highlighted, "#batches")
    def _show_highlighted_batch(self) -> None:
        self._show_selected_batch()
        self._show_full_text()

    @on(VirtualList.Highlighted, "#videos")
    def _show_highlighted_video(self) -> None:
        self._show_full_text()

    @on(VirtualList.Chosen, "#batches")
    def _focus_videos(self) -> None:
        self.set_focus(self.video_list)
        self._show_full_text()

    @on(VirtualList.Chosen, "#videos")
    def _open_chosen_video(self) -> None:
        self.action_open_library()


def _describe_batch(batch: BatchRow, width: int) -> list[Text]:
    """Return the template, hold and folder of a batch; cut the template if the others need the room."""
    facts = [Fact("folder", str(batch.folder))]
    if batch.hold is not None and batch.unfinished_count:
        facts.insert(0, Fact("on hold", batch.hold.describe()))
    folder_lines = draw_facts(facts, width, min_label_width=len("template"))
    template = " ".join(batch.template.split())
    template_lines = draw_facts([Fact("template", template)], width) if template else []
    free_height = max(1, MAX_FULL_TEXT_HEIGHT - len(folder_lines))
    if len(template_lines) > free_height:
        template_lines = template_lines[:free_height]
        template_lines[-1].truncate(width - 2)
        template_lines[-1].append(" …")
    return [*template_lines, *folder_lines]
