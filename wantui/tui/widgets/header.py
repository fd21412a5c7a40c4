"""Header: the first line of every screen, with tabs, host, engine state, and ETA of the queue."""

from rich.style import Style
from rich.text import Text
from textual.events import Click, Resize

from wantui.batches.eta import format_eta
from wantui.tui.actions import SCREEN_TITLES
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.widgets.diff_text import DiffText


class Header(DiffText):
    """Header with tabs on the left and state on the right; the state is truncated first."""

    DEFAULT_CSS = """
    Header { height: 1; background: $panel; }
    """

    def __init__(self, screen_name: str, host_name: str) -> None:
        super().__init__()
        self.current_screen_name, self.host_name = screen_name, host_name
        self.snapshot = QueueSnapshot()
        self._tab_spans: list[tuple[int, int, str]] = []

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        self.snapshot = snapshot
        self.draw_header()

    def on_resize(self, event: Resize) -> None:
        self.draw_header()

    def draw_header(self) -> None:
        width = self.size.width
        if not width:
            return
        state = self.describe_state(is_wide=width >= 100)
        is_narrow = width < 100
        line, self._tab_spans = Text(no_wrap=True), []
        for number, (name, title) in enumerate(SCREEN_TITLES.items(), start=1):
            tab = (
                f" {number} {title} "
                if not is_narrow or name == self.current_screen_name
                else f" {number} {title[:3]} "
            )
            self._tab_spans.append((len(line), len(line) + len(tab), name))
            line.append(tab, Style(reverse=True, bold=True) if name == self.current_screen_name else Style.null())
        free_width = width - len(line) - 1
        state.truncate(max(0, free_width), overflow="ellipsis")
        line.append(" " * max(0, width - len(line) - state.cell_len - 1))
        line.append_text(state)
        self.show_lines([line])

    def describe_state(self, is_wide: bool) -> Text:
        """Return host (if `is_wide`), engine state and remaining work."""
        snapshot, text = self.snapshot, Text(no_wrap=True)
        if is_wide:
            text.append(f"{self.host_name}  ", Style(bold=True))
        if snapshot.error:
            return text.append(f"! {snapshot.error}", self.make_colour_style("error"))
        if snapshot.engine is None:
            text.append("■ no engine", self.make_colour_style("warning"))
        elif snapshot.hold is not None:
            text.append("‖ on hold", self.make_colour_style("warning"))
        elif snapshot.running_videos:
            text.append(f"▶ {len(snapshot.running_videos)} running", self.make_colour_style("accent"))
        elif any(worker.state == "starting" for worker in snapshot.workers):
            text.append("◌ starting", self.make_colour_style("accent"))
        else:
            text.append("● idle", self.make_colour_style("success"))
        unfinished_batches = [batch for batch in snapshot.batches if batch.unfinished_count]
        if unfinished_batches:
            remaining_count = sum(batch.unfinished_count for batch in unfinished_batches)
            if is_wide:
                running_position = next(
                    (n for n, batch in enumerate(unfinished_batches, 1) if batch.counts.get("running")), 1
                )
                text.append(f"  batch {running_position}/{len(unfinished_batches)}")
            text.append(f"  {remaining_count:,} left")
            if snapshot.etas.seconds_by_batch:
                text.append(f"  {format_eta(snapshot.etas.queue_seconds)}")
        return text

    async def on_click(self, event: Click) -> None:
        for start, end, name in self._tab_spans:
            if start <= event.x < end:
                await self.app.run_action(f"app.go('{name}')")
