"""The monitor: what runs now, step by step, with what it will look like, how its path bends, and the worker's log."""

import time
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from wantui.formatting import format_bytes, format_duration
from wantui.queue.rows import VideoRow
from wantui.storage.layout import BatchFolder
from wantui.tui.actions import bindings
from wantui.tui.feed import QueueNews
from wantui.tui.plots import bar, braille, half_blocks
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.place import Place
from wantui.tui.trails import CURVES, Trail
from wantui.tui.widgets.cells import Cells
from wantui.tui.widgets.rows import Rows

REDRAW_SECONDS, SLOW_REDRAW_SECONDS = 1.0, 5.0
BOUNDS: dict[str, tuple[float, float]] = {"turning": (0.0, 3.1416), "linearity": (0.0, 1.0)}
"""Curves whose range is known before; the others have bounds that only widen."""
LOG_BYTES = 20_000
IDLE = """nothing runs

1 composes a batch, 2 shows what waits, F7 ends a pause, F6 starts the engine"""


class MonitorScreen(Place):
    """One row for each running video; below, the one under the cursor."""

    NAME = "monitor"
    BINDINGS = [*bindings("monitor")]

    def __init__(self) -> None:
        super().__init__()
        self.running: list[VideoRow] = []
        self.bounds: dict[tuple[int, str], tuple[float, float]] = {}
        self.auto: bool | None = None
        self.previewed: tuple[int, int] | None = None
        """Video and step of the preview that is shown."""
        self._previewed_at = 0.0
        self._drawn_at = 0.0
        self._log: tuple[Path, float] | None = None

    def body(self) -> ComposeResult:
        with Vertical():
            running = Rows(id="running", classes="pane", empty=IDLE)
            running.border_title = "Running"
            yield running
            with Horizontal(id="middle"):
                with Vertical(id="preview", classes="pane") as preview:
                    preview.border_title = "Predicted video"
                    yield Cells()
                with Vertical(id="curves", classes="pane") as curves:
                    curves.border_title = "Path so far"
                    yield Cells()
            with Vertical(id="log", classes="pane") as log:
                log.border_title = "Log"
                yield Cells()

    @property
    def rows(self) -> Rows:
        return self.query_one("#running", Rows)

    def on_mount(self) -> None:
        super().on_mount()
        self.set_focus(self.rows)
        self.auto = self.wantui.settings.preview_seconds > 0 and not self.wantui.low_bandwidth
        self.set_interval(SLOW_REDRAW_SECONDS if self.wantui.low_bandwidth else REDRAW_SECONDS, self._tick)

    def rest(self) -> None:
        self.set_focus(self.rows)

    def _tick(self) -> None:
        if self.is_current and self.running:
            self._draw_all()

    def come_back(self) -> None:
        self.call_after_refresh(self._draw_all)

    def tell(self, news: QueueNews) -> None:
        """Who runs is shown at once; how far they are, once a second."""
        if [video.id for video in news.running] != [video.id for video in self.running]:
            self.running = list(news.running)
            self.rows.fill(len(self.running), self._draw_running)
            self.call_after_refresh(self._draw_all)
        else:
            self.running = list(news.running)

    def current(self) -> Trail | None:
        """Of the video under the cursor."""
        place = self.rows.cursor
        return self.wantui.trails.of.get(self.running[place].id) if place < len(self.running) else None

    def _draw_all(self) -> None:
        for index in range(len(self.running)):
            self.rows.update_row(index)
        trail = self.current()
        self._draw_curves(trail)
        if trail is not None and self.auto:
            wait = self.wantui.settings.preview_seconds
            if time.monotonic() - self._previewed_at >= wait or (self.previewed or (None,))[0] != trail.video:
                self._draw_preview(trail)
        elif trail is None and not self.running:
            self.query_one("#preview Cells", Cells).show([Text("")])
            self.previewed = None
        self._draw_log()

    def _draw_running(self, index: int, width: int) -> Text:
        video, rows = self.running[index], self.rows
        trail = self.wantui.trails.of.get(video.id, Trail(video.batch, video.id, video.title))
        line = Text.assemble((f"▶ {(video.worker or '').partition(':')[0]:<9} ", rows.colour("accent")))
        line.append(f"{video.title}  ", Style(bold=True))
        if trail.loading:
            return line.append("loads its model")
        line.append(f"{bar(trail.step / max(1, video.steps), 16 if width >= 100 else 8)} ", rows.colour("success"))
        line.append(f"{trail.step}/{video.steps}")
        if trail.step == video.steps:
            if trail.frames and trail.decoded == trail.frames:
                return line.append("  ends its files")
            return line.append(f"  decodes frame {trail.decoded}/{trail.frames}" if trail.frames else "  decodes")
        if trail.sigma is not None:
            line.append(f"  σ {trail.sigma:.3f}")
        if trail.pace is not None:
            line.append(f"  {trail.pace:.2f} s/step  ETA {format_duration((video.steps - trail.step) * trail.pace)}")
        if trail.memory:
            line.append(f"  {format_bytes(trail.memory['allocated'])}")
        return line

    def _draw_curves(self, trail: Trail | None) -> None:
        cells = self.query_one("#curves Cells", Cells)
        width, height = cells.size.width, cells.parent.size.height if cells.parent else 0  # type: ignore[attr-defined]
        if trail is None or not width:
            cells.show([Text("")])
            return
        names = CURVES if height >= 4 else CURVES[:1]
        each = max(1, (height - len(names)) // len(names))
        lines: list[Text] = []
        for name in names:
            values = trail.curves[name]
            low, high = self._bounds(trail.video, name, values)
            last = next((value for value in reversed(values) if value is not None), None)
            lines.append(
                Text.assemble(
                    (f"{name:<10}", Style(bold=True)),
                    "" if last is None else f"{last:.4g}",
                    (f"  of {low:.3g} to {high:.3g}", Style(dim=True)),
                )
            )
            if height >= 8:
                steps = max(trail.steps, 1)
                stretched = _stretch(values, steps, 2 * width)
                lines += [Text(row, cells.colour("accent")) for row in braille(stretched, width, each, low, high)]
        cells.show(lines[:height])

    def _bounds(self, video: int, name: str, values: list[float | None]) -> tuple[float, float]:
        """Fixed where the range is known; otherwise they widen in steps and never shrink, so that nothing jumps."""
        if name in BOUNDS:
            return BOUNDS[name]
        known = [value for value in values if value is not None]
        _, high = self.bounds.get((video, name), (0.0, 1.0))
        while known and max(known) > high:
            high *= 2
        self.bounds = {(video, other): bound for (id_, other), bound in self.bounds.items() if id_ == video}
        self.bounds[video, name] = 0.0, high
        return 0.0, high

    def _draw_preview(self, trail: Trail) -> None:
        cells = self.query_one("#preview Cells", Cells)
        if trail.preview is None or (trail.video, trail.preview_step) == self.previewed:
            return
        room = cells.parent.size if cells.parent else cells.size  # type: ignore[attr-defined]
        try:
            import numpy as np
            from PIL import Image

            with Image.open(trail.preview) as image:
                picture = np.asarray(image.convert("RGB"))
        except (OSError, ValueError):
            return  # it is finished, and its preview is gone
        cells.show(half_blocks(picture, room.width, max(1, room.height)))
        self.previewed, self._previewed_at = (trail.video, trail.preview_step), time.monotonic()
        title = f"Predicted video, after step {trail.preview_step}"
        self.query_one("#preview").border_title = title

    def _draw_log(self) -> None:
        """The last lines of the batch's log, when the file is another one than before."""
        trail = self.current()
        batch = next((row for row in self.wantui.news.batches if trail and row.id == trail.batch), None)
        if batch is not None:
            path = BatchFolder(batch.folder).log
        elif self.wantui.news.engine is not None:
            path = self.wantui.news.engine.logs / "engine.log"
        else:
            return
        cells = self.query_one("#log Cells", Cells)
        try:
            changed = path.stat().st_mtime
            if (path, changed) == self._log:
                return
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return
        self._log = (path, changed)
        room = cells.parent.size.height if cells.parent else 1  # type: ignore[attr-defined]
        cells.show([Text(line) for line in text.splitlines()[-max(1, room) :]])
        self.query_one("#log").border_title = f"Log: {path.name}"

    @on(Rows.Highlighted, "#running")
    def _other(self) -> None:
        self.previewed, self._log = None, None
        self._draw_all()

    def action_preview(self) -> None:
        trail = self.current()
        if trail is None:
            self.notify("nothing runs")
        elif trail.preview is None:
            self.notify("no preview yet: the first comes with the first step")
        else:
            self._draw_preview(trail)

    def action_auto_preview(self) -> None:
        self.auto = not self.auto
        self.notify("previews come by themselves" if self.auto else "previews come when asked for: v")

    def action_cancel(self) -> None:
        place = self.rows.cursor
        if place >= len(self.running):
            self.notify("nothing runs")
            return
        video = self.running[place]

        def cancel(sure: bool | None) -> None:
            if sure:
                with self.wantui.changing_queue() as queue:
                    queue.cancel(video.batch, video.number)
                    self.notify(f"{video.title} stops at its next step")

        self.app.push_screen(Confirm(f"Give up {video.title}? What is done of it is lost.", "Give up"), cancel)

    def action_toggle_log(self) -> None:
        self.toggle_class("-large-log")
        self._log = None
        self.call_after_refresh(self._draw_all)


def _stretch(values: list[float | None], steps: int, width: int) -> list[float | None]:
    """Values of the steps so far, spread so that all steps together take `width` points."""
    points = max(1, round(width * len(values) / max(steps, len(values), 1)))
    if not values:
        return []
    return [values[min(len(values) - 1, i * len(values) // points)] for i in range(points)]
