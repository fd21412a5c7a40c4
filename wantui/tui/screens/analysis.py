"""The analysis: trajectories of batches as a table, by video or by a choice of the template, with details and verdicts.

Above is the table; below are the curves or the attention of the video under the cursor, or the verdict on the groups.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input
from textual.worker import get_current_worker

from wantui.analysis.groups import Group, groupings, pooled_groups
from wantui.analysis.trajectory import METRICS
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.tui.actions import bindings
from wantui.tui.analysis_data import (
    AttentionLoaded,
    ComparisonDone,
    TrajectoriesLoaded,
    compare_videos,
    export_analysis,
    load_attention,
    load_trajectories,
)
from wantui.tui.plain import plain
from wantui.tui.plots import sparkline
from wantui.tui.queue_watcher import ENDS, QueueSnapshot
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.choose_batches import ChooseBatches
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.search import Search
from wantui.tui.widgets.trajectory_details import TrajectoryDetails
from wantui.tui.widgets.virtual_list import VirtualList

NONE = """no batch here has stored trajectories

Every video that is made from now on has one: queue a batch, and come back"""


def _searched(groups: Sequence[Group], matches: Sequence[Video]) -> list[Group]:
    """Return the groups with only those of their videos that were found, without groups of which none was."""
    kept = {(video.folder, video.number) for video in matches}
    filtered = [(group, [video for video in group.videos if (video.folder, video.number) in kept]) for group in groups]
    return [Group(group.name, tuple(videos)) for group, videos in filtered if videos]


class AnalysisScreen(BaseScreen):
    """A table of videos or groups, with details of the row under the cursor."""

    NAME = "analysis"
    BINDINGS = [*bindings("analysis")]

    def __init__(self) -> None:
        super().__init__()
        self.folders: list[Path] = []
        self.chosen: list[Path] = []
        self.videos: list[Video] = []
        self.shown: Sequence[Video] | Sequence[Group] = []
        self.by = ""
        """Grouping of videos; empty: none."""
        self.left_out: Sequence[tuple[str, str]] = []
        """Names of the videos that the means of the groups leave out, and why."""
        self.inside: str | None = None
        """The group whose videos are shown."""
        self.comparison: ComparisonDone | None = None
        self.sorted_by, self.descending, self.first_column = "", False, 0
        self.attention = False
        self.fault = ""
        """Why some of the chosen batches cannot be read."""
        self.nothing = "reading ..."
        """Text shown if there is no video."""

    def body(self) -> ComposeResult:
        with Vertical():
            yield Search("part of a variation's name")
            with Vertical(id="table", classes="pane") as table:
                table.border_title = "Trajectories"
                yield DiffText(id="head")
                yield VirtualList(id="rows", empty="reading ...")
            with TrajectoryDetails(id="curves", classes="pane") as details:
                details.border_title = "Curves"

    @property
    def rows(self) -> VirtualList:
        return self.query_one("#rows", VirtualList)

    @property
    def details(self) -> TrajectoryDetails:
        return self.query_one(TrajectoryDetails)

    @property
    def is_grouped(self) -> bool:
        return bool(self.by) and self.inside is None

    def on_mount(self) -> None:
        self.set_focus(self.rows)

    def rest(self) -> None:
        if self.inside is not None:
            self.inside = None
            self._apply_filter()
        self.query_one(Search).close()
        self.set_focus(self.rows)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_head)
        self.call_after_refresh(self._draw_details)

    def on_shown(self) -> None:
        self.read(self.chosen)

    def show_news(self, news: QueueSnapshot) -> None:
        if any(isinstance(event.payload, ENDS) for event in news.events):
            self.read(self.chosen)

    # Reading and comparing, off the thread that draws.

    @work(thread=True, exclusive=True, group="read", exit_on_error=False)
    def read(self, chosen: list[Path]) -> None:
        """Find batches with trajectories and read those that were chosen, or the newest."""
        worker = get_current_worker()
        loaded = load_trajectories(self.wantui.library_roots(), chosen, lambda: worker.is_cancelled)
        if loaded is not None:
            self.post_message(loaded)

    @work(thread=True, exclusive=True, group="compare", exit_on_error=False)
    def compare_groups(self, videos: list[Video], by: str) -> None:
        """Compare the groups, which takes a second or more."""
        self.post_message(compare_videos(videos, by))

    @work(thread=True, exclusive=True, group="attention", exit_on_error=False)
    def read_attention(self, video: Video, with_strips: bool) -> None:
        """Read the attention maps of one video."""
        self.post_message(load_attention(video, with_strips))

    @on(TrajectoriesLoaded)
    def _read(self, message: TrajectoriesLoaded) -> None:
        if message.fault and message.videos and message.fault != self.fault:
            self.notify(f"left out: {message.fault}", severity="warning", markup=False, timeout=10)
        self.fault = message.fault
        is_unchanged = len(self.videos) == len(message.videos) and all(
            before.is_same_as(now) for before, now in zip(self.videos, message.videos, strict=True)
        )
        self.folders, self.chosen = message.folders, message.chosen
        if not is_unchanged:
            self.videos = message.videos
        self.nothing = message.fault or NONE
        if self.by not in ("", *groupings(self.videos)):
            self.by, self.inside = "", None
        if not is_unchanged:
            self.comparison = None
        self._apply_filter()

    @on(ComparisonDone)
    def _compared(self, message: ComparisonDone) -> None:
        # A thread that compares other batches does not end when it is cancelled.
        if message.by == self.by and message.videos is self.videos:
            self.comparison = message
            self._draw_details()

    @on(AttentionLoaded)
    def _attended(self, message: AttentionLoaded) -> None:
        if not self.attention or self._row() is not message.video:
            return
        if message.reason:
            self.details.say(message.reason, "Attention")
        else:
            self.details.show_attention(message.video, message.words)

    # What is shown.

    def _apply_filter(self) -> None:
        word = self.query_one(Search).value.lower()
        videos = [video for video in self.videos if word in f"{video.name} {video.prompt}".lower()]
        rows: Sequence[Video] | Sequence[Group] = videos
        self.left_out = []
        if self.by:
            # Over all videos, as the comparison is: which settings most have must not depend on what is searched for.
            pooled, self.left_out = pooled_groups(self.videos, self.by)
            groups = _searched(pooled, videos)
            opened = next((group for group in groups if group.name == self.inside), None)
            rows = list(opened.videos) if opened is not None else groups
        if self.sorted_by:
            rows = sorted(rows, key=self._key, reverse=self.descending)
        self.shown = rows
        self.rows.empty = self._why_empty(word)
        names = " + ".join(path.name for path in self.chosen) or "Trajectories"
        number = format_count(len(rows), "group" if self.is_grouped else "video")
        what = f"{number} by {self._words()}" if self.is_grouped else number
        if self.is_grouped and self.left_out:
            what += f", {format_count(len(self.left_out), 'video')} left out"
        within = f" of {self.inside}" if self.inside is not None else ""
        table = self.query_one("#table")
        table.border_title = plain(f"{names}: {what}{within}")
        subtitle = "escape: back to the groups" if within else "enter: videos" if self.is_grouped else ""
        table.border_subtitle = plain(subtitle)
        self.rows.fill(len(rows), self._draw_row)
        if self.is_grouped and (self.comparison is None or self.comparison.by != self.by):
            self.compare_groups(self.videos, self.by)
        self.call_after_refresh(self._draw_head)
        self.call_after_refresh(self._draw_details)

    def _why_empty(self, word: str) -> str:
        if not self.videos:
            return self.nothing
        if self.is_grouped and not any(video.trajectory for video in self.videos):
            return "no video here has a trajectory that can be read; g shows single videos, each with the reason"
        return f"no video matches {word!r}; escape ends the search"

    def _words(self) -> str:
        return self.by if not self.by[:1].isdigit() else f"bracket {self.by}"

    def _row(self) -> Video | Group | None:
        return self.shown[self.rows.cursor] if self.rows.cursor < len(self.shown) else None

    def _key(self, row: Video | Group) -> tuple[bool, float]:
        """Return the sort key; missing values come last."""
        value = row.value(self.sorted_by) if isinstance(row, Video) else row.mean(self.sorted_by)
        return (math.isnan(value) != self.descending, 0.0 if math.isnan(value) else value)

    def _columns(self, width: int) -> tuple[int, int, list[str]]:
        """Return the widths of the name and of a column, and the metrics that fit."""
        each = 22 if self.is_grouped else 13
        name = 24 if width < 110 else 34
        room = max(1, (width - name - (0 if self.is_grouped else 12)) // each)
        first = min(self.first_column, max(0, len(METRICS) - room))
        return name, each, list(METRICS)[first : first + room]

    def _draw_head(self) -> None:
        head = self.query_one("#head", DiffText)
        name, each, metrics = self._columns(self.rows.size.width)
        line = Text(f"{'group' if self.is_grouped else 'video':<{name}}")
        for metric in metrics:
            mark = ("▼" if self.descending else "▲") if metric == self.sorted_by else ""
            line.append(f"{(metric + mark)[: each - 1]:>{each - 1}} ", Style(bold=bool(mark)))
        if not self.is_grouped:
            line.append("velocity")
        head.show([line])

    def _draw_row(self, index: int, width: int) -> Text:
        row = self.shown[index]
        name, each, metrics = self._columns(width)
        if isinstance(row, Group):
            line = Text(f"{f'{row.name} (n = {len(row.videos)})':<{name}.{name - 1}}")
            for metric in metrics:
                line.append(f"{f'{row.mean(metric):.4g} ± {row.deviation(metric):.2g}':>{each - 1}} ")
            return line
        line = Text(f"{row.name:<{name}.{name - 1}}")
        if row.trajectory is None:
            return line.append(f"  {row.reason}", self.rows.colour("warning"))
        for metric in metrics:
            line.append(f"{row.value(metric):>{each - 1}.5g} ")
        line.append(sparkline(row.trajectory.velocity.tolist(), 11), self.rows.colour("accent"))
        return line

    def _draw_details(self) -> None:
        row = self._row()
        if row is None and self.is_grouped:
            self.details.show_groups("", self.left_out)
        elif row is None:
            self.details.say("", "Attention" if self.attention else "Curves")
        elif isinstance(row, Video):
            if self.attention:
                self.read_attention(row, with_strips=not self.wantui.settings.low_bandwidth)
            else:
                self.details.show_video(row)
        elif self.comparison is None:
            self.details.show_groups("comparing ...", self.left_out)
        elif self.comparison.result is None:
            self.details.show_groups(self.comparison.reason, self.left_out)
        else:
            self.details.show_comparison(self.comparison.result, self.left_out)

    @on(VirtualList.Highlighted, "#rows")
    def _moved(self) -> None:
        if not self.is_grouped:
            self._draw_details()

    @on(VirtualList.Chosen, "#rows")
    def _opened(self) -> None:
        row = self._row()
        if isinstance(row, Group):
            self.inside = row.name
            self._apply_filter()

    @on(Input.Changed, "#search")
    def _searching(self) -> None:
        self._apply_filter()

    @on(Input.Submitted, "#search")
    def _searched(self) -> None:
        self.set_focus(self.rows)

    # What keys do.

    def action_sort(self) -> None:
        """Sort by the next column, and after the last one by the order of the batch."""
        order = ["", *METRICS]
        self.sorted_by = order[(order.index(self.sorted_by) + 1) % len(order)]
        if self.sorted_by and self.sorted_by not in self._columns(self.rows.size.width)[2]:
            self.first_column = list(METRICS).index(self.sorted_by)
        self._apply_filter()

    def action_reverse(self) -> None:
        self.descending = not self.descending
        self._apply_filter()

    def action_columns(self, by: int) -> None:
        """Show other columns, if not all fit."""
        room = len(self._columns(self.rows.size.width)[2])
        self.first_column = max(0, min(len(METRICS) - room, self.first_column + by * room))
        self._apply_filter()

    def action_search(self) -> None:
        self.query_one(Search).open()

    def action_groups(self) -> None:
        """Group in the next way, and after the last one show single videos."""
        ways = ["", *groupings(self.videos)]
        self.by = ways[(ways.index(self.by) + 1) % len(ways)]
        self.inside, self.comparison = None, None
        self._apply_filter()

    def action_attention(self) -> None:
        self.attention = not self.attention
        self._draw_details()

    @work
    async def action_choose_batches(self) -> None:
        if not self.folders:
            self.notify("no batch here has stored trajectories")
            return
        chosen = await self.app.push_screen_wait(ChooseBatches(self.folders, self.chosen))
        if chosen:
            self.inside, self.comparison = None, None
            self.read(chosen)

    @work(thread=True, exclusive=True, group="export", exit_on_error=False)
    def action_export(self) -> None:
        """Export the videos as CSV, and the groups as a page of HTML, next to the batch."""
        if not self.videos:
            self.app.call_from_thread(self.notify, "there is no video to write a table of", severity="warning")
            return
        comparison = self.comparison.result if self.comparison is not None else None
        try:
            folder, written = export_analysis(self.chosen[0], self.videos, comparison)
        except (OSError, UserError) as error:
            self.app.call_from_thread(self.notify, f"not written: {error}", severity="error", markup=False)
            return
        more = "" if len(written) > 1 else "; group the videos (g) for a report on groups"
        self.app.call_from_thread(self.notify, f"{folder}: {' and '.join(written)}{more}", markup=False, timeout=10)
