"""Header: the first line of every screen, with tabs, host, engine state, and ETA of the queue."""

from rich.style import Style
from rich.text import Text
from textual.events import Click, Resize

from wantui.batches.eta import format_eta
from wantui.tui.actions import SCREENS
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.widgets.diff_text import DiffText


class Header(DiffText):
    """Header with tabs on the left and state on the right; the state is truncated first."""

    DEFAULT_CSS = """
    Header { height: 1; background: $panel; }
    """

    def __init__(self, screen: str, host: str) -> None:
        super().__init__()
        self.current_screen, self.host = screen, host
        self.snapshot = QueueSnapshot()
        self._tabs: list[tuple[int, int, str]] = []

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        self.snapshot = snapshot
        self.draw()

    def on_resize(self, event: Resize) -> None:
        self.draw()

    def draw(self) -> None:
        width = self.size.width
        if not width:
            return
        state = self.describe_state(wide=width >= 100)
        short = width < 100
        line, self._tabs = Text(no_wrap=True), []
        for number, (name, title) in enumerate(SCREENS.items(), start=1):
            tab = f" {number} {title} " if not short or name == self.current_screen else f" {number} {title[:3]} "
            self._tabs.append((len(line), len(line) + len(tab), name))
            line.append(tab, Style(reverse=True, bold=True) if name == self.current_screen else Style.null())
        room = width - len(line) - 1
        state.truncate(max(0, room), overflow="ellipsis")
        line.append(" " * max(0, width - len(line) - state.cell_len - 1))
        line.append_text(state)
        self.show([line])

    def describe_state(self, wide: bool) -> Text:
        """Return host (if `wide`), engine state and remaining work."""
        snapshot, text = self.snapshot, Text(no_wrap=True)
        if wide:
            text.append(f"{self.host}  ", Style(bold=True))
        if snapshot.error:
            return text.append(f"! {snapshot.error}", self.colour("error"))
        if snapshot.engine is None:
            text.append("■ no engine", self.colour("warning"))
        elif snapshot.held is not None:
            text.append("‖ on hold", self.colour("warning"))
        elif snapshot.running:
            text.append(f"▶ {len(snapshot.running)} running", self.colour("accent"))
        elif any(worker.state == "starting" for worker in snapshot.workers):
            text.append("◌ starting", self.colour("accent"))
        else:
            text.append("● idle", self.colour("success"))
        waiting = [batch for batch in snapshot.batches if batch.unfinished]
        if waiting:
            videos = sum(batch.unfinished for batch in waiting)
            if wide:
                number = next((n for n, batch in enumerate(waiting, 1) if batch.counts.get("running")), 1)
                text.append(f"  batch {number}/{len(waiting)}")
            text.append(f"  {videos:,} left")
            if snapshot.etas.seconds_by_batch:
                text.append(f"  {format_eta(snapshot.etas.queue_seconds)}")
        return text

    async def on_click(self, event: Click) -> None:
        for start, end, name in self._tabs:
            if start <= event.x < end:
                await self.app.run_action(f"app.go('{name}')")
