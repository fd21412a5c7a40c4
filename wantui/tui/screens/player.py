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
from wantui.tui.plots import draw_centred_picture
from wantui.tui.selection import RemovedWidgetGuardMixin
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.worker_errors import WorkerErrorsMixin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_CLIP_FRAMES = 1200
"""Maximum number of decoded frames of a clip."""
MAX_FRAME_SIDE = 256
"""Maximum width and height of a stored frame in pixels: more than a terminal shows."""
MAX_SLOW_FPS = 2.0
"""Maximum frames per second with --low-bandwidth."""


def decode_clip(path: Path) -> "Iterator[NDArray[np.uint8]]":
    """Decode the first `MAX_CLIP_FRAMES` frames of a clip.

    Raises:
        UserError: the clip cannot be decoded.
    """
    from wantui.storage.mp4 import read_frames

    try:
        yield from itertools.islice(read_frames(path), MAX_CLIP_FRAMES)
    except UserError:
        raise
    except Exception as error:  # a damaged clip can raise anything, such as UnicodeDecodeError or ValueError
        raise UserError(f"cannot play {path}: {type(error).__name__}: {error}") from None


@dataclass
class ClipsLoaded(Message):
    """The clips were decoded, or one could not be decoded."""

    frames_by_clip: "list[list[NDArray[np.uint8]]]"
    """Frames by clip."""
    error: str
    """Reason of a failure; otherwise empty."""


class Player(DismissOnceMixin, WorkerErrorsMixin, RemovedWidgetGuardMixin, ModalScreen[None]):
    """Screen that plays clips in a loop.

    Args:
        captioned_paths: path and caption of one or two clips.
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

    def __init__(self, captioned_paths: list[tuple[Path, str]], fps: float) -> None:
        super().__init__()
        self.captioned_paths, self.fps = captioned_paths, fps
        self.frames_by_clip: list[list[Any]] = []
        self.frame_index, self.is_playing = 0, True

    def compose(self) -> ComposeResult:
        with Horizontal(id="stage"):
            for number in range(len(self.captioned_paths)):
                with Vertical():
                    yield DiffText(id=f"picture-{number}")
        yield DiffText(id="about")
        yield KeyFooter()

    def on_mount(self) -> None:
        self.load_clips()

    @work(thread=True, exclusive=True, exit_on_error=False)
    def load_clips(self) -> None:
        """Decode the clips in a thread."""
        worker, frames_by_clip, error_text = get_current_worker(), [], ""
        try:
            for path, _ in self.captioned_paths:
                small_frames = []
                for frame in decode_clip(path):
                    pixel_stride = max(1, -(-max(frame.shape[:2]) // MAX_FRAME_SIDE))
                    small_frames.append(frame[::pixel_stride, ::pixel_stride].copy())
                    if worker.is_cancelled:
                        return
                frames_by_clip.append(small_frames)
        except UserError as error:
            error_text = str(error)
        self.post_message(ClipsLoaded(frames_by_clip, error_text))

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_frames)

    def on_clips_loaded(self, message: ClipsLoaded) -> None:
        if message.error or not all(message.frames_by_clip):
            self.notify(message.error or "cannot play: the clip contains no frames", severity="error")
            self.dismiss()
            return
        self.frames_by_clip = message.frames_by_clip
        is_slow = getattr(self.app, "is_low_bandwidth", False)
        self.set_interval(1 / min(self.fps, MAX_SLOW_FPS if is_slow else self.fps), self._advance_frame)
        self._draw_frames()

    @property
    def frame_count(self) -> int:
        return max((len(clip) for clip in self.frames_by_clip), default=0)

    def _advance_frame(self) -> None:
        if self.is_playing and self.frame_count:
            self.frame_index = (self.frame_index + 1) % self.frame_count
            self._draw_frames()

    def _draw_frames(self) -> None:
        for clip_index, clip in enumerate(self.frames_by_clip):
            picture_text = self.query_one(f"#picture-{clip_index}", DiffText)
            frame = clip[min(self.frame_index, len(clip) - 1)]
            picture_text.show_lines(draw_centred_picture(frame, picture_text.size.width, picture_text.size.height))
        captions = "   |   ".join(name for _, name in self.captioned_paths)
        state_glyph = "▶" if self.is_playing else "‖"
        self.query_one("#about", DiffText).show_lines(
            [Text(f"{state_glyph} {self.frame_index + 1}/{self.frame_count}  {captions}")]
        )

    def action_pause(self) -> None:
        self.is_playing = not self.is_playing
        self._draw_frames()

    def action_step(self, frame_count: int) -> None:
        self.is_playing = False
        if self.frame_count:
            self.frame_index = (self.frame_index + frame_count) % self.frame_count
            self._draw_frames()

    def action_restart(self) -> None:
        self.frame_index = 0
        self._draw_frames()
