"""Details on the Queue screen: one video of the selected batch, and in a wide terminal facts about the batch."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.containers import Vertical
from textual.message import Message
from textual.widget import Widget
from textual.worker import get_current_worker

from wantui.batches.eta import format_seconds_left
from wantui.errors import UserError
from wantui.queue.records import BatchRow, VideoRow
from wantui.queue.states import find_displayed_state
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.storage.marks import BatchMarks, read_marks
from wantui.tui.dates import format_time_of_day
from wantui.tui.facts import GENERATION_FACT, Fact
from wantui.tui.library.batch_facts import BatchFacts, collect_batch_facts
from wantui.tui.monitor.states import describe_interruption
from wantui.tui.plain_names import replace_names
from wantui.tui.running_videos import PreviewSchedule, RunningVideo, find_running_videos
from wantui.tui.screens.base import BaseScreen
from wantui.tui.series_colours import assign_variation_colours
from wantui.tui.state_style import get_video_style
from wantui.tui.widgets.batch_details import BatchDetails
from wantui.tui.widgets.queue_video import QueueVideo, StillPictureRequest
from wantui.tui.widgets.video_details import UNFINISHED_HINTS
from wantui.tui.wrapping import cut_lines, wrap_text

MIN_WIDTH_WITH_DETAILS, MIN_WIDTH_WITH_VIDEO = 130, 76
"""Least widths of the terminal, in cells, with room for the details beside the lists, and for one video beside the list
of videos."""
SHOWN_STATES = ("failed", "running", "interrupted", "done", "queued", "cancelled")
"""States of videos, in the order in which their numbers are listed."""
MAX_ERROR_LINES, MAX_NARROW_ERROR_LINES, MAX_PROMPT_LINES = 10, 3, 3
NO_BATCH_TEXT = "Template, settings and results of the selected batch appear here."
NO_VIDEO_TEXT = "The state and a picture of a video appear here."
PICTURE_HINTS = {
    **UNFINISHED_HINTS,
    "failed": "no picture; press r to retry the video",
    "cancelled": "no picture; press r to queue the video again",
    "done": "reading the contact sheet",
}
"""Text instead of a picture, by displayed state."""


@dataclass(frozen=True)
class BatchVersion:
    """A batch, and the number of its videos in each state: if these change, its manifest is read again."""

    batch_id: int
    counts: tuple[tuple[str, int], ...]


@dataclass
class BatchFactsRead(Message):
    """The manifest of the selected batch and facts from it; None if the manifest cannot be read."""

    version: BatchVersion
    manifest: Manifest | None
    facts: BatchFacts | None
    marks: BatchMarks = field(default_factory=BatchMarks)
    colours_by_variation: Mapping[str, str] = field(default_factory=dict)
    """Theme colour of each variation by its id, if there are several."""
    error: str = ""


class QueueDetails(BaseScreen):
    """Base of the Queue screen that shows the panes at the right, and reads the files that they need."""

    batch_details = getters.query_one(BatchDetails)

    def __init__(self) -> None:
        super().__init__()
        self._read_version: BatchVersion | None = None
        """Version whose facts were requested last."""
        self.facts_message: BatchFactsRead | None = None
        """Facts of the selected batch; None until they are read."""
        self._preview_schedule = PreviewSchedule()
        self._preview: StillPictureRequest | None = None
        """Preview that was requested last."""

    def compose_details(self) -> Iterable[Widget]:
        """Yield the panes."""
        with Vertical(id="details"):
            yield BatchDetails()
            yield QueueVideo("queue-video")

    def on_resize(self) -> None:
        self.set_class(self.size.width >= MIN_WIDTH_WITH_DETAILS, "-with-details")
        has_video = MIN_WIDTH_WITH_VIDEO <= self.size.width < MIN_WIDTH_WITH_DETAILS
        self.set_class(has_video and not self.wantui_app.is_low_bandwidth, "-with-video")
        self.call_after_refresh(self.draw_details)

    @property
    def queue_video(self) -> QueueVideo:
        """Pane of the video: among the details, or beside the list of videos."""
        return self.query_one("#queue-video" if self.shows_details else "#list-video", QueueVideo)

    @property
    def shows_details(self) -> bool:
        """Return whether the terminal is wide enough for the details."""
        return self.has_class("-with-details")

    @property
    def shows_video(self) -> bool:
        """Return whether a video is shown beside the list of videos."""
        return self.has_class("-with-video")

    def draw_details(self) -> None:
        """Draw the details of the rows under the cursors."""
        raise NotImplementedError

    def show_details(self, batch: BatchRow | None, video: VideoRow | None, eta_seconds: float | None) -> None:
        """Show a batch and one of its videos."""
        if batch is None:
            self._read_version = self.facts_message = None
        else:
            self._read_batch_facts(batch)
        if batch is None:
            self.batch_details.show_message(NO_BATCH_TEXT)
        elif self.shows_details:
            self._show_batch(batch)
        if not (self.shows_details or self.shows_video):
            return
        if batch is None or video is None:
            self.queue_video.show_facts("Video", [])
            self.queue_video.show_still_picture(None, NO_VIDEO_TEXT)
        else:
            self._show_video(video, batch.folder, eta_seconds)

    # Batch

    def _read_batch_facts(self, batch: BatchRow) -> None:
        """Read the manifest of a batch; read it again if a video has ended since."""
        version = BatchVersion(batch.id, tuple(sorted(batch.counts.items())))
        if self._read_version is None or self._read_version.batch_id != batch.id:
            self.facts_message = None
        if version != self._read_version:
            self._read_version = version
            self._read_facts(version, BatchFolder(batch.folder))

    def count_states(self, batch: BatchRow) -> dict[str, int]:
        """Return the number of videos in each displayed state that occurs."""
        has_engine = self.wantui_app.snapshot.engine is not None
        counts = Counter[str]()
        for state in SHOWN_STATES:
            counts[find_displayed_state(state, has_engine)] += batch.counts.get(state, 0)
        return {state: count for state, count in counts.items() if count}

    def _show_batch(self, batch: BatchRow) -> None:
        """Show the facts about a batch; until they are read, show what the queue knows."""
        counts = self.count_states(batch)
        if self.facts_message is not None and self.facts_message.facts is not None:
            facts = self.facts_message.facts
        else:
            error = "" if self.facts_message is None else self.facts_message.error
            known_facts = (Fact("model", batch.model), Fact("seeds", batch.seeds), Fact("folder", str(batch.folder)))
            shown_facts = tuple(fact for fact in known_facts if fact.value)
            template = " ".join(batch.template.split())
            facts = BatchFacts(template, (), 0, 0, 0, shown_facts, (), (error,) if error else ())
        shown_facts = tuple(fact for fact in facts.facts if fact.label != GENERATION_FACT)  # the list has "took"
        shown = replace(facts, state_counts=tuple(counts.items()), facts=shown_facts)
        self.batch_details.show_facts(batch.name, shown)

    @work(thread=True, exclusive=True, group="facts", exit_on_error=False)
    def _read_facts(self, version: BatchVersion, folder: BatchFolder) -> None:
        """Read the manifest of a batch on a background thread."""
        try:
            manifest = read_manifest(folder)
            marks = read_marks(folder)
            facts = collect_batch_facts(folder.root, manifest, marks)
            colours = assign_variation_colours(manifest.variations)
            message = BatchFactsRead(version, manifest, facts, marks, colours)
        except UserError as error:
            message = BatchFactsRead(version, None, None, error=str(error))
        if not get_current_worker().is_cancelled:
            self.post_message(message)

    @on(BatchFactsRead)
    def _show_read_facts(self, message: BatchFactsRead) -> None:
        if self._read_version is not None and message.version.batch_id == self._read_version.batch_id:
            self.facts_message = message
            self.draw_details()

    # Video

    def find_variation(self, video: VideoRow) -> tuple[str, str] | None:
        """Return the id and the theme colour of a video's variation, or None.

        It is None until the manifest is read, and if the batch has only one variation.
        """
        entry, message = self._find_entry(video), self.facts_message
        if entry is None or message is None or message.manifest is None:
            return None
        variation_id = message.manifest.variations[entry.variation].id
        return (variation_id, message.colours_by_variation[variation_id]) if message.colours_by_variation else None

    def find_prompt(self, video: VideoRow) -> str:
        """Return the prompt of a video; empty until the manifest is read."""
        entry = self._find_entry(video)
        return "" if entry is None else " ".join(entry.recipe.prompt.split())

    def _find_entry(self, video: VideoRow) -> VideoEntry | None:
        manifest = None if self.facts_message is None else self.facts_message.manifest
        if manifest is None or not video.number < len(manifest.videos):
            return None
        return manifest.videos[video.number]

    def _show_video(self, video: VideoRow, folder: Path, eta_seconds: float | None) -> None:
        pane, entry = self.queue_video, self._find_entry(video)
        running_video = find_running_videos(self.wantui_app.snapshot, folder).get(video.number)
        state = find_displayed_state(video.state, self.wantui_app.snapshot.engine is not None)
        style = get_video_style(state, video.step, video.steps)
        make_style, width = pane.facts_text.make_colour_style, pane.text_width
        lines = wrap_text(replace_names(video.title), width, Style(bold=True))
        lines.append(Text(f"{style.glyph} {style.state_word}", make_style(style.colour_name)))
        if status := self._describe_status(video, running_video, eta_seconds):
            if lines[-1].cell_len + 2 + len(status) <= width:
                lines[-1] = Text.assemble(lines[-1], "  ", (status, Style(dim=True)))
            else:
                lines += wrap_text(status, width, Style(dim=True))
        if video.error:
            max_lines = MAX_ERROR_LINES if self.shows_details else MAX_NARROW_ERROR_LINES
            lines += cut_lines(wrap_text(video.error, width, make_style("error")), max_lines, width)
        if entry is not None and (self.shows_details or self.has_class("-high")):
            lines += wrap_text(entry.recipe.prompt, width, indent="")[:MAX_PROMPT_LINES]
        pane.show_facts(f"Video {video.number + 1}", [*lines, Text("")] if self.shows_details else lines)
        request = None
        if not self.wantui_app.is_low_bandwidth:
            request = self._choose_preview(running_video) if running_video else _choose_sheet(video, entry, folder)
        interruption = describe_interruption(self.wantui_app.is_engine_starting)
        hint = interruption if state == "interrupted" else PICTURE_HINTS.get(state, "")
        if self.wantui_app.is_low_bandwidth:
            hint = "pictures are off on a slow connection"
        elif running_video is not None and running_video.step_number:
            hint = "press v to show the latest preview in the monitor"
        elif state == "done" and entry is not None and entry.state == "done" and request is None:
            hint = "no contact sheet; press o to show the video in the library"
        pane.show_still_picture(request, hint)

    def _describe_status(self, video: VideoRow, running_video: RunningVideo | None, eta_seconds: float | None) -> str:
        """Return what a video does now, or how long it took."""
        if running_video is not None:
            progress = self.wantui_app.snapshot.progress_by_video.get(video.id)
            parts = [running_video.steps_text]
            if progress is not None and progress.pace_seconds is not None and self.shows_details:
                parts.append(f"{progress.pace_seconds:.2f} s a step")
            if eta_seconds is not None:
                parts.append(f"ETA {format_seconds_left(eta_seconds)}")
            return ", ".join(parts)
        if video.state == "queued":
            return "" if eta_seconds is None else f"ETA {format_seconds_left(eta_seconds)}"
        took = f"in {video.seconds:.1f} s" if video.state == "done" and video.seconds is not None else ""
        ended = f"at {format_time_of_day(video.finished)}" if video.finished is not None else ""
        return ", ".join(part for part in (took, ended) if part)

    def _choose_preview(self, video: RunningVideo) -> StillPictureRequest | None:
        """Return the latest preview if it is due, otherwise the preview already shown."""
        if self._preview is not None and self._preview.video_id != video.video_id:
            self._preview, self._preview_schedule = None, PreviewSchedule()
        if self._preview_schedule.claim_due_preview(video, self.wantui_app.settings.preview_seconds):
            assert video.preview_path is not None
            self._preview = StillPictureRequest(video.video_id, video.preview_path, step_number=video.preview_step)
        return self._preview


def _choose_sheet(video: VideoRow, entry: VideoEntry | None, folder: Path) -> StillPictureRequest | None:
    """Return the request for the contact sheet of a done video; None if the video has no contact sheet."""
    if entry is None or video.state != "done" or "sheet" not in entry.files:
        return None
    return StillPictureRequest(video.id, folder / entry.files["sheet"], entry.recipe.frames, finished=video.finished)
