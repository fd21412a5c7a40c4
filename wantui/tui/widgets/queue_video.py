"""Pane of the Queue screen with one video: its state, its prompt, and a picture of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.worker import get_current_worker

from wantui.tui.content import set_titles
from wantui.tui.pictures import read_sheet_frames, read_strip_frames
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.picture_loop import PictureLoop
from wantui.tui.worker_errors import WorkerErrorsMixin

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture


@dataclass(frozen=True)
class StillPictureRequest:
    """Request for a still picture of a video."""

    video_id: int
    """Number of the video in the queue database."""
    path: Path
    frame_count: int = 0
    """Number of frames in the video, for its contact sheet; 0 for a preview."""
    step_number: int = 0
    """Step of a preview, whose file changes with each step."""
    finished: float | None = None
    """Time at which the video ended, in seconds since 1970: a video that is rendered again has another sheet."""


@dataclass
class StillPictureRead(Message):
    """The requested picture; None if it cannot be read."""

    request: StillPictureRequest
    picture: "Picture | None"


def read_still_picture(request: StillPictureRequest) -> "Picture | None":
    """Read the middle frame of a contact sheet or of a preview; return None if the file is missing or damaged."""
    path, frame_count = request.path, request.frame_count
    frames = read_sheet_frames(path, frame_count) if frame_count else read_strip_frames(path)
    return frames[len(frames) // 2] if frames else None


class QueueVideo(WorkerErrorsMixin, Vertical):
    """Pane with the facts and a still picture of one video."""

    facts_text = getters.query_one(".queue-video-facts", DiffText)
    picture = getters.query_one(PictureLoop)

    def __init__(self, pane_id: str) -> None:
        super().__init__(id=pane_id, classes="pane")
        self.border_title = "Video"
        self.shown_request: StillPictureRequest | None = None
        """Picture that is shown or being read; None if the pane shows a text instead."""
        self._has_picture = False
        self._empty_text = ""

    def compose(self) -> ComposeResult:
        yield DiffText(id=f"{self.id}-facts", classes="queue-video-facts")
        yield PictureLoop()

    @property
    def text_width(self) -> int:
        """Return the width in cells to which the facts are wrapped."""
        return max(10, self.scrollable_content_region.width)

    def show_facts(self, title: str, lines: Sequence[Text]) -> None:
        """Show the title of the pane, and the facts."""
        set_titles(self, title)
        self.facts_text.show_lines(list(lines))

    def show_still_picture(self, request: StillPictureRequest | None, empty_text: str) -> None:
        """Show a picture; until it is read, show the previous picture of the same video, or else the text."""
        shown = self.shown_request
        is_same_video = request is not None and shown is not None and request.video_id == shown.video_id
        if not (is_same_video and self._has_picture):
            self._show_text(empty_text)
        if request is not None and request != self.shown_request:
            self._read_still_picture(request)
        self.shown_request = request

    def _show_text(self, text: str) -> None:
        if self._has_picture or text != self._empty_text:
            self._has_picture, self._empty_text = False, text
            self.picture.show_text([Text(text, Style(dim=True))])

    @work(thread=True, exclusive=True, group="still", exit_on_error=False)
    def _read_still_picture(self, request: StillPictureRequest) -> None:
        """Read a picture on a background thread."""
        picture = read_still_picture(request)
        if not get_current_worker().is_cancelled:
            self.post_message(StillPictureRead(request, picture))

    @on(StillPictureRead)
    def _show_read_picture(self, message: StillPictureRead) -> None:
        if message.request != self.shown_request:
            return
        if message.picture is not None:
            self._has_picture = True
            self.picture.play_pictures([message.picture], 1.0, plays=False)
        elif not self._has_picture:
            self._show_text(f"cannot show {message.request.path.name}")
