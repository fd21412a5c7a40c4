"""Player of clips in half blocks: one clip, or two side by side and synchronised."""

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
"""Maximum number of decoded frames of a clip."""
MAX_SIDE = 256
"""Maximum width and height of a stored frame in pixels: more than a terminal shows."""
SLOW_FPS = 2.0
"""Maximum frames per second with --low-bandwidth."""


def read_clip(path: Path) -> "Iterator[NDArray[np.uint8]]":
    """Decode the first `MAX_FRAMES` frames of a clip.

    Raises:
        UserError: the clip cannot be decoded.
    """
    from wantui.storage.mp4 import read_frames

    try:
        yield from itertools.islice(read_frames(path), MAX_FRAMES)
    except UserError:
        raise
    except Exception as error:  # a damaged clip can raise anything, such as UnicodeDecodeError or ValueError
        raise UserError(f"cannot play {path}: {type(error).__name__}: {error}") from None


@dataclass
class ClipsLoaded(Message):
    """The clips were decoded, or one could not be decoded."""

    clips: "list[list[NDArray[np.uint8]]]"
    """Frames by clip."""
    error: str
    """Reason of a failure; otherwise empty."""


class Player(DismissOnceMixin, WorkerErrorsMixin, SafeSelectionMixin, ModalScreen[None]):
    """Screen that plays clips in a loop.

    Args:
        clips: path and caption of one or two clips.
        fps: frames per second of the first clip; limited with --low-bandwidth.
    """

    BINDINGS = [
        Binding("space", "pause", "Pause"),
        Binding("left", "step(-1)", "Back"),
        Binding("right", "step(1)", "Forward"),
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
        """Decode the clips in a thread."""
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
            self.notify(message.error or "cannot play: the clip contains no frames", severity="error")
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
