"""The analysis: the trajectories of a batch as a table with their curves, by video or as means of the variations."""

import math
from dataclasses import dataclass
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input
from textual.worker import get_current_worker

from wantui.analysis.batch import METRICS, Analysed, Group, analyse, groups
from wantui.errors import UserError
from wantui.storage.library import find_batches
from wantui.tui.actions import bindings
from wantui.tui.feed import ENDS, QueueNews
from wantui.tui.plots import braille, sparkline
from wantui.tui.screens.place import Place
from wantui.tui.widgets.cells import Cells
from wantui.tui.widgets.rows import Rows
from wantui.tui.widgets.search import Search

NONE = """no batch here has stored latents

Compose one with latent_analysis_settings.store_latents: yes (s, then space on store_latents)"""
HEAVY_FOLDERS = 50
"""Newest batches that are looked into for stored latents."""


@dataclass
class Read(Message):
    """A batch's trajectories; `folders` are all that have some."""

    folders: list[Path]
    folder: Path | None
    videos: list[Analysed]
    fault: str


class AnalysisScreen(Place):
    """A table above, the curves of the row under the cursor below."""

    NAME = "analysis"
    BINDINGS = [*bindings("analysis")]

    def __init__(self) -> None:
        super().__init__()
        self.folders: list[Path] = []
        self.folder: Path | None = None
        self.videos: list[Analysed] = []
        self.shown: list[Analysed] | list[Group] = []
        self.by_group, self.sorted_by, self.descending = False, "", False

    def body(self) -> ComposeResult:
        with Vertical():
            yield Search("part of a variation's name")
            with Vertical(id="table", classes="pane") as table:
                table.border_title = "Trajectories"
                yield Cells(id="head")
                yield Rows(id="rows", empty="reading ...")
            with Vertical(id="curves", classes="pane") as curves:
                curves.border_title = "Curves"
                yield Cells(id="curve-cells")

    @property
    def rows(self) -> Rows:
        return self.query_one("#rows", Rows)

    def on_mount(self) -> None:
        super().on_mount()
        self.set_focus(self.rows)

    def rest(self) -> None:
        self.query_one(Search).close()
        self.set_focus(self.rows)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_head)
        self.call_after_refresh(self._draw_curves)

    def come_back(self) -> None:
        self.read(self.folder)

    def tell(self, news: QueueNews) -> None:
        if any(event.kind in ENDS for event in news.events):
            self.read(self.folder)

    @work(thread=True, exclusive=True, group="read", exit_on_error=False)
    def read(self, folder: Path | None) -> None:
        """Find batches with latents and read one, off the thread that draws."""
        worker = get_current_worker()
        roots = self.wantui.library_roots()
        found = [batch.folder for batch in find_batches(roots) if not batch.fault][:HEAVY_FOLDERS]
        folders = [path for path in found if any((path / "latents").glob("*/*.zarr"))]
        folder = folder if folder in folders else folders[0] if folders else None
        videos: list[Analysed] = []
        fault = ""
        if folder is not None:
            try:
                for video in analyse(folder):
                    videos.append(video)
                    if worker.is_cancelled:
                        return
            except UserError as error:
                fault = str(error)
        self.post_message(Read(folders, folder, videos, fault))

    @on(Read)
    def _read(self, message: Read) -> None:
        self.folders, self.folder, self.videos = message.folders, message.folder, message.videos
        self.rows.empty = message.fault or NONE if not self.videos else ""
        self._sift()

    def _sift(self) -> None:
        word = self.query_one(Search).value.lower()
        chosen = [video for video in self.videos if word in f"{video.variation} seed {video.seed}".lower()]
        rows: list[Analysed] | list[Group] = groups(chosen) if self.by_group else chosen
        if self.sorted_by:
            rows = sorted(rows, key=self._key, reverse=self.descending)
        self.shown = rows
        table = self.query_one("#table")
        what = "variations, mean ± standard deviation" if self.by_group else "videos"
        name = self.folder.name if self.folder else "Trajectories"
        table.border_title = Content(f"{name}: {len(rows)} {what}")
        if len(self.folders) > 1 and self.folder is not None:
            table.border_subtitle = f"batch {self.folders.index(self.folder) + 1} of {len(self.folders)}: b"
        self.rows.fill(len(rows), self._draw_row)
        self.call_after_refresh(self._draw_head)
        self.call_after_refresh(self._draw_curves)

    def _key(self, row: Analysed | Group) -> tuple[bool, float]:
        """What cannot be said comes last."""
        value = row.value(self.sorted_by) if isinstance(row, Analysed) else row.mean[self.sorted_by]
        return (math.isnan(value) != self.descending, 0.0 if math.isnan(value) else value)

    def _columns(self, width: int) -> tuple[int, int, list[str]]:
        """Widths of the name and of a column, and the metrics that there is room for."""
        each = 19 if self.by_group else 13
        name = 24 if width < 110 else 34
        return name, each, list(METRICS)[: max(1, (width - name - (0 if self.by_group else 12)) // each)]

    def _draw_head(self) -> None:
        head = self.query_one("#head", Cells)
        name, each, metrics = self._columns(self.rows.size.width)
        line = Text(f"{'variation' if self.by_group else 'video':<{name}}")
        for metric in metrics:
            mark = ("▼" if self.descending else "▲") if metric == self.sorted_by else ""
            line.append(f"{metric + mark:>{each - 1}} ", Style(bold=bool(mark)))
        if not self.by_group:
            line.append("velocity")
        head.show([line])

    def _draw_row(self, index: int, width: int) -> Text:
        row = self.shown[index]
        name, each, metrics = self._columns(width)
        if isinstance(row, Group):
            line = Text(f"{f'{row.variation} (n = {row.n})':<{name}.{name - 1}}")
            for metric in metrics:
                line.append(f"{f'{row.mean[metric]:.4g} ± {row.deviation[metric]:.2g}':>{each - 1}} ")
            return line
        line = Text(f"{f'{row.variation} seed {row.seed}':<{name}.{name - 1}}")
        if row.trajectory is None:
            return line.append(f"  {row.why_not}", self.rows.colour("warning"))
        for metric in metrics:
            line.append(f"{row.value(metric):>{each - 1}.5g} ")
        line.append(sparkline(row.trajectory.velocity.tolist(), 11), self.rows.colour("accent"))
        return line

    def _draw_curves(self) -> None:
        cells = self.query_one("#curve-cells", Cells)
        width, height = cells.size.width, self.query_one("#curves").size.height
        row = self.shown[self.rows.cursor] if self.rows.cursor < len(self.shown) else None
        if row is None or not width:
            cells.show([Text("")])
            return
        if isinstance(row, Group):
            cells.show([Text("g shows single videos with their curves", "dim")])
            return
        if row.trajectory is None:
            cells.show([Text(row.why_not)])
            return
        found = row.trajectory
        curves = {"norm": found.norm, "velocity": found.velocity, "turning, rad": found.turning}
        each = max(1, height // len(curves) - 1)
        lines: list[Text] = []
        for name, values in curves.items():
            low, high = 0.0, float(values.max()) or 1.0
            said = f"  {values[0]:.4g} at σ {found.sigmas[0]:.2f} to {values[-1]:.4g} at the end; 0 to {high:.4g}"
            lines.append(Text.assemble((name, "bold"), (said, "dim")))
            points = [float(values[min(len(values) - 1, i * len(values) // (2 * width))]) for i in range(2 * width)]
            lines += [Text(line, cells.colour("accent")) for line in braille(points, width, each, low, high)]
        cells.show(lines[:height])

    @on(Rows.Highlighted, "#rows")
    def _moved(self) -> None:
        self._draw_curves()

    @on(Input.Changed, "#search")
    def _searching(self) -> None:
        self._sift()

    @on(Input.Submitted, "#search")
    def _searched(self) -> None:
        self.set_focus(self.rows)

    def action_sort(self) -> None:
        """The next column, and after the last one the order of the batch."""
        order = ["", *METRICS]
        self.sorted_by = order[(order.index(self.sorted_by) + 1) % len(order)]
        self._sift()

    def action_reverse(self) -> None:
        self.descending = not self.descending
        self._sift()

    def action_search(self) -> None:
        self.query_one(Search).open()

    def action_groups(self) -> None:
        self.by_group = not self.by_group
        self._sift()

    def action_next_batch(self) -> None:
        if self.folder is None or len(self.folders) < 2:
            self.notify("no other batch has stored latents")
            return
        self.read(self.folders[(self.folders.index(self.folder) + 1) % len(self.folders)])
