"""Header: the first line of every screen, with tabs, engine state, and progress and ETA of the queue."""

from rich.style import Style
from rich.text import Text
from textual.events import Click, Resize

from wantui.batches.eta import format_eta, format_seconds_left
from wantui.tui.actions import SCREEN_TITLES
from wantui.tui.plots import draw_styled_bar
from wantui.tui.queue_progress import measure_queue_progress
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.widgets.diff_text import DiffText

GAP = "  "
"""Text between two parts of the state."""


class Header(DiffText):
    """Header with the name and the tabs on the left, and the state of the engine and queue on the right.

    The state has several forms, from detailed to short; the most detailed form that fits is shown. Nothing is
    truncated.
    """

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
        states = self.list_states()
        line = self._draw_tabs(with_name=width >= 100, gap_width=2 if width >= 76 else 1)
        free_width = width - len(line) - 1
        state = next((state for state in states if state.cell_len <= free_width), Text())
        line.append(" " * max(0, free_width - state.cell_len))
        line.append_text(state)
        self.show_lines([line])

    def _draw_tabs(self, with_name: bool, gap_width: int) -> Text:
        """Draw the tabs; highlight the tab of this screen together with a space on each side."""
        line, self._tab_spans = Text(no_wrap=True), []
        if with_name:
            line.append(" wantui ", self.make_colour_style("accent") + Style(bold=True))
        selected_style = self._choose_selected_style()
        for number, (name, title) in enumerate(SCREEN_TITLES.items(), start=1):
            is_selected = name == self.current_screen_name
            start = len(line)
            if number == 1 or gap_width > 1:
                line.append(" ", selected_style if is_selected else Style.null())
            line.append(f"{number} ", selected_style if is_selected else self.make_colour_style("accent"))
            line.append(title, selected_style if is_selected else Style.null())
            line.append(" ", selected_style if is_selected else Style.null())
            self._tab_spans.append((start, len(line), name))
            if is_selected and number > 1 and gap_width == 1:
                line.stylize(selected_style, start - 1, start)
        return line

    def _choose_selected_style(self) -> Style:
        """Return the style of this screen's tab: the background of the body, or reversed in 16 colours."""
        background = self.make_colour_style("background").color
        if background is None or background.triplet is None:
            return Style(reverse=True, bold=True)
        return self.make_colour_style("accent") + Style(bgcolor=background, bold=True)

    def list_states(self) -> list[Text]:
        """Return the forms of the state, from detailed to short."""
        snapshot, progress = self.snapshot, measure_queue_progress(self.snapshot)
        host = Text.assemble(("host ", Style(dim=True)), (self.host_name, Style(bold=True)))
        if snapshot.error is not None:
            colour_style = self.make_colour_style("error")
            texts = [Text(f"✗ {snapshot.error}", colour_style), Text("✗ queue error", colour_style)]
            return [_join_parts([host, texts[0]]), *texts]
        engine_state = self.describe_engine(is_long=True)
        short_engine_state = self.describe_engine(is_long=False)
        if progress is None:
            return [*(_join_parts([host, state]) for state in (engine_state, short_engine_state)), short_engine_state]
        count = Text(f"{progress.ended_count:,}/{progress.video_count:,} videos")
        short_count = Text(f"{progress.ended_count:,}/{progress.video_count:,}")
        seconds = snapshot.etas.queue_seconds
        has_eta = bool(snapshot.etas.seconds_by_batch) and snapshot.hold is None  # nothing ends on hold
        eta = [Text(format_eta(seconds))] if has_eta else []
        short_eta = [Text(format_seconds_left(seconds))] if has_eta and seconds is not None else []

        def draw_bar(width: int) -> Text:
            return draw_styled_bar(progress.completed_fraction, width, self.make_colour_style("accent"))

        return [
            _join_parts([host, engine_state, draw_bar(12), count, *eta]),
            _join_parts([host, engine_state, draw_bar(8), short_count, *eta]),
            _join_parts([engine_state, draw_bar(8), short_count, *eta]),
            _join_parts([engine_state, draw_bar(3), short_count, *eta], gap=" "),
            _join_parts([short_engine_state, draw_bar(3), short_count, *eta], gap=" "),
            _join_parts([short_engine_state, short_count, *eta], gap=" "),
            _join_parts([engine_state, draw_bar(3), short_count, *short_eta], gap=" "),
            _join_parts([engine_state, draw_bar(6), *eta], gap=" "),
            _join_parts([engine_state, draw_bar(3), *short_eta], gap=" "),
            _join_parts([short_engine_state, draw_bar(3), *short_eta], gap=" "),
            _join_parts([short_engine_state, *short_eta], gap=" "),
            short_engine_state,
        ]

    def describe_engine(self, is_long: bool) -> Text:
        """Return the symbol and the word for the engine's state.

        `is_long` names the engine where it is idle.
        """
        snapshot = self.snapshot
        if snapshot.starting_process_id is not None:
            return Text("◌ starting", self.make_colour_style("accent"))
        if snapshot.engine is None:
            return Text("■ no engine", self.make_colour_style("warning"))
        if snapshot.hold is not None:
            return Text("‖ on hold", self.make_colour_style("warning"))
        if snapshot.running_videos:
            return Text("▶ running", self.make_colour_style("accent"))
        if any(worker.state == "starting" for worker in snapshot.workers):
            return Text("◌ starting", self.make_colour_style("accent"))
        if any(batch.hold is not None and batch.unfinished_count for batch in snapshot.batches):
            return Text("‖ on hold", self.make_colour_style("warning"))
        return Text("● engine idle" if is_long else "● idle", self.make_colour_style("success"))

    async def on_click(self, event: Click) -> None:
        for start, end, name in self._tab_spans:
            if start <= event.x < end:
                await self.app.run_action(f"app.go('{name}')")


def _join_parts(parts: list[Text], gap: str = GAP) -> Text:
    return Text(gap, no_wrap=True).join(parts)
