"""Clips played in half blocks: one, or two side by side and in step."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.worker import get_current_worker

from wantui.errors import UserError
from wantui.tui.dismissing import DismissOnceMixin
from wantui.tui.plots import centred
from wantui.tui.selection import SafeSelectionMixin
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.worker_errors import WorkerErrorsMixin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FRAMES = 1200
"""Maximum number of frames stored per clip."""
MAX_SIDE = 256
"""Maximum pixels of a stored frame, each way: more than a terminal shows."""
SLOW_FPS = 2.0


def read_clip(path: Path) -> "Iterator[NDArray[np.uint8]]":
    """Decode the frames of a clip, up to MAX_FRAMES.

    Raises:
        UserError: it cannot be decoded, whatever the decoder stumbled over.
    """
    from wantui.storage.mp4 import read_frames

    try:
        yield from itertools.islice(read_frames(path), MAX_FRAMES)
    except UserError:
        raise
    except Exception as error:  # a damaged clip raises what its damage leads to, also UnicodeDecodeError, ValueError
        raise UserError(f"cannot play {path}: {type(error).__name__}: {error}") from None


@dataclass
class ClipsLoaded(Message):
    """The frames of all clips, or why there are none."""

    clips: "list[list[NDArray[np.uint8]]]"
    error: str


class Player(DismissOnceMixin, WorkerErrorsMixin, SafeSelectionMixin, ModalScreen[None]):
    """Player of clips from the start until it is paused or left.

    Args:
        clips: one or two, with what is written below each.
        fps: of the first clip; fewer are shown on a slow link.
    """

    BINDINGS = [
        Binding("space", "pause", "Pause"),
        Binding("left", "step(-1)", "Back"),
        Binding("right", "step(1)", "On"),
        Binding("home,r", "restart", "Start"),
        Binding("escape,q,p", "dismiss", "Close"),
    ]
    DEFAULT_CSS = """
    Player { background: $background; }
    Player #stage { height: 1fr; }
    Player #stage Vertical { width: 1fr; padding: 0 1; }
    Player #stage DiffText { height: 1fr; }
    Player #about { height: 1; padding: 0 1; }
    """

    def __init__(self, clips: list[tuple[Path, str]], fps: float) -> None:
        super().__init__()
        self.clips, self.fps = clips, fps
        self.frames: list[list[Any]] = []
        self.frame, self.playing = 0, True

    def compose(self) -> ComposeResult:
        with Horizontal(id="stage"):
            for number in range(len(self.clips)):
                with Vertical():
                    yield DiffText(id=f"picture-{number}")
        yield DiffText(id="about")
        yield KeyFooter()

    def on_mount(self) -> None:
        self.load()

    @work(thread=True, exclusive=True, exit_on_error=False)
    def load(self) -> None:
        """Decode, off the drawing thread."""
        worker, clips, reason = get_current_worker(), [], ""
        try:
            for path, _ in self.clips:
                small_frames = []
                for frame in read_clip(path):
                    stride = max(1, -(-max(frame.shape[:2]) // MAX_SIDE))
                    small_frames.append(frame[::stride, ::stride].copy())
                    if worker.is_cancelled:
                        return
                clips.append(small_frames)
        except UserError as error:
            reason = str(error)
        self.post_message(ClipsLoaded(clips, reason))

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def on_clips_loaded(self, message: ClipsLoaded) -> None:
        if message.error or not all(message.clips):
            self.notify(message.error or "the clip holds no frames", severity="error")
            self.dismiss()
            return
        self.frames = message.clips
        slow = getattr(self.app, "low_bandwidth", False)
        self.set_interval(1 / min(self.fps, SLOW_FPS if slow else self.fps), self._tick)
        self._draw()

    @property
    def frame_count(self) -> int:
        return max((len(clip) for clip in self.frames), default=0)

    def _tick(self) -> None:
        if self.playing and self.frame_count:
            self.frame = (self.frame + 1) % self.frame_count
            self._draw()

    def _draw(self) -> None:
        for number, clip in enumerate(self.frames):
            cells = self.query_one(f"#picture-{number}", DiffText)
            frame = clip[min(self.frame, len(clip) - 1)]
            cells.show(centred(frame, cells.size.width, cells.size.height))
        names = "   |   ".join(name for _, name in self.clips)
        state = "▶" if self.playing else "‖"
        self.query_one("#about", DiffText).show([Text(f"{state} {self.frame + 1}/{self.frame_count}  {names}")])

    def action_pause(self) -> None:
        self.playing = not self.playing
        self._draw()

    def action_step(self, frames: int) -> None:
        self.playing = False
        if self.frame_count:
            self.frame = (self.frame + frames) % self.frame_count
            self._draw()

    def action_restart(self) -> None:
        self.frame = 0
        self._draw()
