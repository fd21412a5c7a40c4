"""The queue: batches in their order, the videos of the one under the cursor, and what is done about them."""

from collections.abc import Callable
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content

from wantui.engine.record import Record
from wantui.errors import UserError
from wantui.formatting import format_duration
from wantui.queue.queue import Move
from wantui.queue.rows import BatchRow, VideoRow
from wantui.tui.actions import bindings
from wantui.tui.feed import QueueNews
from wantui.tui.plots import bar
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.place import Place
from wantui.tui.states import batch_state, look
from wantui.tui.widgets.cells import Cells
from wantui.tui.widgets.rows import Rows

PAGE = 200
"""Videos that are read from the database at a time."""


class QueueScreen(Place):
    """Whole batches above, single videos below; what a key acts on is where the cursor is."""

    NAME = "queue"
    BINDINGS = [*bindings("queue")]

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[BatchRow] = []
        self.chosen: int | None = None
        self.with_ended = True
        self._pages: dict[int, list[VideoRow]] = {}
        self._states: dict[int, str] = {}

    def body(self) -> ComposeResult:
        with Vertical():
            batches = Rows(id="batches", classes="pane", empty="nothing is on the queue; 1 composes a batch")
            batches.border_title = "Batches"
            yield batches
            videos = Rows(id="videos", classes="pane")
            videos.border_title = "Videos"
            yield videos
            yield Cells(id="about")

    @property
    def batch_rows(self) -> Rows:
        return self.query_one("#batches", Rows)

    @property
    def video_rows(self) -> Rows:
        return self.query_one("#videos", Rows)

    def on_mount(self) -> None:
        super().on_mount()
        self.set_focus(self.batch_rows)

    def rest(self) -> None:
        self.set_focus(self.batch_rows)

    # Showing

    def come_back(self) -> None:
        """What happened while another screen was in front was not heard here."""
        self._pages.clear()
        self.video_rows.refresh()

    def tell(self, news: QueueNews) -> None:
        before = self.batches
        self.batches = [batch for batch in news.batches if self.with_ended or batch.unfinished]
        if [batch.id for batch in before] != [batch.id for batch in self.batches]:
            self.batch_rows.fill(len(self.batches), self._draw_batch)
            ids = [batch.id for batch in self.batches]
            if self.chosen in ids:
                self.batch_rows.cursor = ids.index(self.chosen)
        else:
            self._redraw_batches(before, news)
        held = news.held
        title = f"Batches: {len(self.batches)}"
        self.batch_rows.border_title = Content(f"{title}, held: {held.reason}") if held else title
        self._choose()
        self._videos_told(news)
        self._explain()

    def _redraw_batches(self, before: list[BatchRow], news: QueueNews) -> None:
        for index, (old, new) in enumerate(zip(before, self.batches, strict=True)):
            if old != new or new.unfinished:
                self.batch_rows.update_row(index)

    def _current(self) -> BatchRow | None:
        place = self.batch_rows.cursor
        return self.batches[place] if place < len(self.batches) else None

    def _choose(self) -> None:
        """Show the videos of the batch under the cursor."""
        batch = self._current()
        chosen = batch.id if batch is not None else None
        if chosen != self.chosen or batch is None or batch.total != self.video_rows.count:
            same = chosen == self.chosen
            self.chosen = chosen
            self._pages.clear()
            self.video_rows.fill(batch.total if batch else 0, self._draw_video, keep_cursor=same)
            self.video_rows.border_title = Content(f"Videos of {batch.name}") if batch else "Videos"

    def _videos_told(self, news: QueueNews) -> None:
        """Read again the pages in which something changed, and draw only those rows."""
        if self.chosen is None:
            return
        moved = {event.video for event in news.events if event.batch == self.chosen and event.video is not None}
        whole = any(event.batch == self.chosen and event.video is None for event in news.events)
        for page, rows in list(self._pages.items()):
            if not whole and not moved & {row.id for row in rows}:
                continue
            fresh = self.wantui.queue.videos(self.chosen, PAGE, page * PAGE)
            self._pages[page] = fresh
            for offset, (old, new) in enumerate(zip(rows, fresh, strict=False)):
                if old != new:
                    self.video_rows.update_row(page * PAGE + offset)

    def _video(self, index: int) -> VideoRow | None:
        page, offset = divmod(index, PAGE)
        if self.chosen is None:
            return None
        if page not in self._pages:
            self._pages[page] = self.wantui.queue.videos(self.chosen, PAGE, page * PAGE)
        rows = self._pages[page]
        return rows[offset] if offset < len(rows) else None

    def _draw_batch(self, index: int, width: int) -> Text:
        batch, rows = self.batches[index], self.batch_rows
        state = look(batch_state(batch))
        line = Text(f"{batch.id:>4} ")
        line.append(f"{state.glyph} {state.word:<11} ", rows.colour(state.colour))
        done, failed = batch.counts.get("done", 0), batch.counts.get("failed", 0)
        if width >= 90:
            line.append(bar(done / max(1, batch.total), 12) + " ", rows.colour("success"))
        line.append(f"{done:>5}/{batch.total:<5} ")
        line.append(f"{failed} failed " if failed else "", rows.colour("error"))
        left = self.wantui.news.left.get(batch.id)
        if batch.unfinished:
            known = left is not None and left.seconds is not None
            eta = format_duration(left.seconds) if known and left and left.seconds is not None else "?"
            line.append(f"ETA {eta:<8} ")
        line.append(batch.name, Style(bold=True))
        return line

    def _draw_video(self, index: int, width: int) -> Text:
        video = self._video(index)
        rows = self.video_rows
        if video is None:
            return Text("")
        state = look(video.state)
        line = Text(f"{video.number + 1:>6} ")
        line.append(f"{state.glyph} {state.word:<11} ", rows.colour(state.colour))
        if video.state == "running":
            line.append(f"{bar(video.step / max(1, video.steps), 10)} {video.step:>3}/{video.steps:<3} ")
            left = self.wantui.news.left.get(video.batch)
            if left is not None and left.per_video is not None:
                seconds = left.per_video * (1 - video.step / max(1, video.steps))
                line.append(f"ETA {format_duration(seconds)} ")
        elif video.state in ("queued", "interrupted") and (wait := self._seconds_until(video)) is not None:
            line.append(f"ETA {format_duration(wait):<8} ")
        elif video.state == "done" and video.seconds is not None:
            line.append(f"{video.seconds:>8.1f} s ")
        line.append(video.title, Style(bold=True))
        if video.error:
            line.append(f"  {video.error}", rows.colour("error"))
        return line

    def _seconds_until(self, video: VideoRow) -> float | None:
        """Until a video that waits is made: after the batches before its own, and the videos before it."""
        total = 0.0
        for batch in self.wantui.news.batches:
            left = self.wantui.news.left.get(batch.id)
            if left is None or (batch.paused and batch.id != video.batch):
                continue
            if left.seconds is None:
                return None
            if batch.id == video.batch:
                before = self.wantui.queue.unfinished_before(batch.id, video.number)
                return total + (before + 1) * left.seconds / max(1, batch.unfinished)
            total += left.seconds
        return None

    def _explain(self) -> None:
        """Below: all of what the row under the cursor had no room for."""
        about = self.query_one("#about", Cells)
        batch = self._current()
        if batch is None:
            about.show([Text("")])
            return
        lines = [Text(str(batch.folder), "dim")]
        if self.video_rows.has_focus and (video := self._video(self.video_rows.cursor)) is not None:
            said = video.error or (f"on {video.worker}" if video.worker else "")
            lines = [Text(f"{video.title}: {said or look(video.state).word}")]
        about.show(lines)

    @on(Rows.Highlighted, "#batches")
    def _moved(self) -> None:
        self._choose()
        self._explain()

    @on(Rows.Highlighted, "#videos")
    def _video_moved(self) -> None:
        self._explain()

    @on(Rows.Chosen, "#batches")
    def _opened(self) -> None:
        self.set_focus(self.video_rows)
        self._explain()

    @on(Rows.Chosen, "#videos")
    def _video_opened(self) -> None:
        self.action_open_library()

    # Changing

    def _on_batch(self, act: Callable[[BatchRow], None]) -> None:
        batch = self._current()
        if batch is None:
            self.notify("there is no batch here")
        else:
            act(batch)

    def _on_video(self) -> VideoRow | None:
        """The video under the cursor, where the cursor is among videos."""
        return self._video(self.video_rows.cursor) if self.video_rows.has_focus else None

    def action_move(self, to: Move) -> None:
        def move(batch: BatchRow) -> None:
            with self.wantui.changing_queue() as queue:
                queue.move(batch.id, to)

        self._on_batch(move)

    def action_pause_batch(self) -> None:
        def pause(batch: BatchRow) -> None:
            with self.wantui.changing_queue() as queue:
                queue.pause_batch(batch.id, not batch.paused)
            self.notify(f"batch {batch.id} {'goes on' if batch.paused else 'is paused'}")

        self._on_batch(pause)

    def action_cancel(self) -> None:
        def ask(batch: BatchRow) -> None:
            video = self._on_video()
            what = f"video {video.title}" if video else f"{batch.unfinished} videos of batch {batch.id}, {batch.name}"
            running = (video.state == "running") if video else bool(batch.counts.get("running"))
            if video is not None and video.state not in ("queued", "interrupted", "running"):
                self.notify(f"{video.title} is {look(video.state).word} already")
                return
            if video is None and not batch.unfinished:
                self.notify(f"batch {batch.id} has ended already")
                return
            more = " What is done of the running one is lost." if running else ""

            def cancel(sure: bool | None) -> None:
                if sure:
                    self._cancel(batch, video)

            self.app.push_screen(Confirm(f"Give up {what}?{more}", "Give up"), cancel)

        self._on_batch(ask)

    def _cancel(self, batch: BatchRow, video: VideoRow | None) -> None:
        with self.wantui.changing_queue() as queue:
            numbers, running = queue.cancel(batch.id, None if video is None else video.number)
            try:
                Record.of(batch.folder).cancel(numbers)
            except (OSError, UserError) as error:
                self.notify(f"the batch folder does not say so: {error}", severity="warning")
            more = f", {running} stop at their next step" if running else ""
            self.notify(f"{len(numbers)} videos cancelled{more}")

    def action_retry(self) -> None:
        def retry(batch: BatchRow) -> None:
            video = self._on_video()
            with self.wantui.changing_queue() as queue:
                count = queue.retry(batch.id, None if video is None else video.number)
                self.notify(f"{count} videos are queued again" if count else "nothing here failed or was cancelled")
                if count and self.wantui.news.engine is None:
                    self.app.call_later(self.wantui.action_start_engine)

        self._on_batch(retry)

    def action_remove(self) -> None:
        def ask(batch: BatchRow) -> None:
            left = f" {batch.unfinished} of its videos are not made yet." if batch.unfinished else ""

            def remove(sure: bool | None) -> None:
                if sure:
                    with self.wantui.changing_queue() as queue:
                        queue.remove(batch.id)

            question = f"Forget batch {batch.id}, {batch.name}?{left} Its folder stays."
            self.app.push_screen(Confirm(question, "Forget"), remove)

        self._on_batch(ask)

    def action_edit_copy(self) -> None:
        self._on_batch(lambda batch: edit_copy(self, batch.folder))

    def action_open_library(self) -> None:
        from wantui.tui.screens.library import LibraryScreen

        def show(batch: BatchRow) -> None:
            video = self._on_video()
            screen = self.wantui.show_screen("library")
            assert isinstance(screen, LibraryScreen)
            screen.open_batch(batch.folder, video.number if video else None)

        self._on_batch(show)

    def action_toggle_ended(self) -> None:
        self.with_ended = not self.with_ended
        self.tell(self.wantui.news)


def edit_copy(screen: Place, folder: Path) -> None:
    """Take template and settings of a batch folder into Compose."""
    from wantui.storage.layout import BatchFolder
    from wantui.tui.screens.compose import ComposeScreen

    batch = BatchFolder(folder)
    app = screen.wantui
    try:
        text = batch.config.read_text(encoding="utf-8")
        template = batch.template.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        screen.notify(f"{folder} does not hold its config any more: {error}", severity="error")
        return
    drafts = app.drafts
    if drafts.template and drafts.template != template:
        drafts.remember(drafts.template)
    drafts.config, drafts.text, drafts.changes, drafts.template = f"copy of {folder.name}", text, {}, template
    app.keep_drafts()
    compose = app.show_screen("compose")
    assert isinstance(compose, ComposeScreen)
    app.call_later(compose.take_draft, False)
