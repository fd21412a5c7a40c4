"""Player of clips in pixels, with the keys and the clock of the player in half blocks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wantui.formatting import escape_unprintable
from wantui.tui.player.clip_layout import choose_grid_columns
from wantui.tui.player.clips import PlayerClip
from wantui.tui.player.playback import MAX_FPS
from wantui.tui.player.synced_clips import SyncedClips
from wantui.tui.terminal.graphics import (
    DEFAULT_CELL_SIZE,
    Protocol,
    encode_kitty_picture,
    encode_sixel_picture,
    fit_picture_to_cells,
)
from wantui.tui.widgets.playback_bar import format_position
from wantui.tui.wrapping import wrap_cells

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DECODING_POLL_SECONDS = 0.01
"""Seconds between two checks of a frame that is being decoded."""
RESIZE_POLL_SECONDS = 0.5
"""Seconds between two checks of the terminal's size while nothing is played."""
DELETE_KITTY_PICTURES = b"\x1b_Ga=d,d=A,q=2\x1b\\"
ENTER_SCREEN = b"\x1b[?1049h\x1b[?25l\x1b[2J"
LEAVE_SCREEN = b"\x1b[2J\x1b[?25h\x1b[?1049l"


@dataclass(frozen=True)
class TerminalSize:
    """Size of a terminal in cells, and of a cell in pixels."""

    columns: int
    rows: int
    cell_size: tuple[int, int] = DEFAULT_CELL_SIZE


@dataclass(frozen=True)
class PixelTerminal:
    """A terminal that shows pictures; tests replace its functions."""

    protocol: Protocol
    write_bytes: Callable[[bytes], object]
    wait_for_actions: Callable[[float], Sequence[str]]
    """Function that waits up to some seconds for a key, and returns the actions of the pressed keys."""
    get_size: Callable[[], TerminalSize]


class PixelPlayer:
    """Player of clips in sync on a terminal with pictures.

    Args:
        clips: one to nine clips.
        batch_clips: clips among which up and down select, if one clip is played.
        max_fps: maximum number of frames that are sent per second.
    """

    def __init__(
        self,
        clips: Sequence[PlayerClip],
        batch_clips: Sequence[PlayerClip],
        terminal: PixelTerminal,
        max_fps: float = MAX_FPS,
    ) -> None:
        self.played = SyncedClips(clips)
        self.playback = self.played.playback
        self.batch_clips, self.terminal, self.max_fps = list(batch_clips), terminal, max_fps
        self.size = terminal.get_size()
        self.is_bare = self.is_finished = False
        self._must_redraw = True
        self._sent_frames: list[NDArray[np.uint8] | None] = []
        """Frame that was last sent for each clip."""
        self._sent_lines = ""
        self._resize_buffers()

    @property
    def clips(self) -> list[PlayerClip]:
        """Return the played clips."""
        return self.played.clips

    def play(self) -> None:
        """Play until an action closes the player, and restore the terminal.

        Raises:
            Exception: the first clip cannot be decoded, or the terminal cannot be written.
        """
        write_bytes = self.terminal.write_bytes
        write_bytes(ENTER_SCREEN)
        try:
            last_seconds = time.monotonic()
            while not self.is_finished:
                now = time.monotonic()
                self.show_next_frames(now - last_seconds)
                last_seconds = now
                for action in self.terminal.wait_for_actions(self._choose_wait_seconds(time.monotonic() - now)):
                    self.run_action(action)
        finally:
            self.played.close()
            write_bytes((DELETE_KITTY_PICTURES if self.terminal.protocol == "kitty" else b"") + LEAVE_SCREEN)

    def _choose_wait_seconds(self, spent_seconds: float) -> float:
        if self._must_redraw:
            return DECODING_POLL_SECONDS
        if not self.playback.is_playing:
            return RESIZE_POLL_SECONDS
        frame_seconds = 1 / min(self.max_fps, self.playback.fps * self.playback.speed)
        return max(0.0, frame_seconds - spent_seconds)

    # Frames

    def _resize_buffers(self) -> None:
        """Decode frames no larger than the pixels of their cells; clear the terminal."""
        _, (columns, rows) = self._arrange_clips()
        cell_width, cell_height = self.size.cell_size
        for buffer in self.played.buffers:
            buffer.set_max_size((columns * cell_width, rows * cell_height))
        self._sent_frames, self._sent_lines, self._must_redraw = [None] * len(self.clips), "", True

    def _arrange_clips(self) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """Return the first column and row (from 0) of each clip, and its numbers of columns and rows."""
        recipe, count = self.clips[0].recipe, len(self.clips)
        columns, rows = self.size.columns, self.size.rows - (not self.is_bare)
        grid_columns = choose_grid_columns(count, recipe.width / recipe.height, columns, rows)
        grid_rows = -(-count // grid_columns)
        label_rows = int(self._shows_labels)
        width, height = columns // grid_columns, max(1, rows // grid_rows - label_rows)
        places = [
            (number % grid_columns * width, number // grid_columns * (height + label_rows) + label_rows)
            for number in range(count)
        ]
        return places, (max(1, width - (grid_columns > 1)), height)

    @property
    def _shows_labels(self) -> bool:
        return len(self.clips) > 1 and not self.is_bare

    def show_next_frames(self, elapsed_seconds: float) -> None:
        """Send the frames that are due, if all clips have decoded theirs; a paused player sends nothing."""
        size = self.terminal.get_size()
        if size != self.size:
            self.size = size
            self._clear()
        self._must_redraw |= self.played.update_count()
        if not self.playback.is_playing and not self._must_redraw:
            return
        frames = self.played.advance(elapsed_seconds)
        if frames is None:
            self._must_redraw = True
            return
        self._must_redraw = self.played.update_count()  # decoding a frame may have counted the others
        self._send_frames(frames)

    def _send_frames(self, frames: "Sequence[NDArray[np.uint8] | None]") -> None:
        places, (columns, rows) = self._arrange_clips()
        data = [b"\x1b[?2026h"]  # the terminal shows all changes at once
        for number, (frame, (left, top)) in enumerate(zip(frames, places, strict=True)):
            if frame is None or frame is self._sent_frames[number]:
                continue
            self._sent_frames[number] = frame
            data.append(self._encode_frame(frame, left, top, columns, rows, number + 1))
        lines = self._draw_text(places, columns)
        if lines != self._sent_lines:
            self._sent_lines = lines
            data.append(lines.encode())
        if len(data) > 1:
            self.terminal.write_bytes(b"".join([*data, b"\x1b[?2026l"]))

    def _encode_frame(
        self, frame: "NDArray[np.uint8]", left: int, top: int, columns: int, rows: int, image_id: int
    ) -> bytes:
        """Encode a frame in the centre of its cells."""
        import numpy as np
        from PIL import Image

        cell_width, cell_height = self.size.cell_size
        picture_size = frame.shape[1], frame.shape[0]
        used_columns, used_rows = fit_picture_to_cells(picture_size, columns, rows, self.size.cell_size)
        used_columns, used_rows = min(columns, used_columns), min(rows, used_rows)
        left, top = left + (columns - used_columns) // 2, top + (rows - used_rows) // 2
        if self.terminal.protocol == "kitty":
            picture = encode_kitty_picture(frame, used_columns, used_rows, image_id)
        else:
            scaled = Image.fromarray(frame).resize((used_columns * cell_width, used_rows * cell_height))
            picture = encode_sixel_picture(np.asarray(scaled))
        return f"\x1b[{top + 1};{left + 1}H".encode() + picture

    def _draw_text(self, places: Sequence[tuple[int, int]], columns: int) -> str:
        """Return the labels and the status line with their positions on the terminal."""
        if self.is_bare:
            return ""
        lines = []
        for label, buffer, (left, top) in zip(self.played.labels, self.played.buffers, places, strict=True):
            if self._shows_labels:
                lines.append(f"\x1b[{top};{left + 1}H{escape_unprintable(label)[:columns]}")
            if buffer.has_failed:
                error_lines = wrap_cells(escape_unprintable(buffer.error), columns)[: self.size.rows - top - 1]
                lines += [f"\x1b[{top + 1 + row};{left + 1}H{line}" for row, line in enumerate(error_lines)]
        title = self.played.labels[0] if len(self.clips) == 1 else f"{len(self.clips)} videos"
        status_line = f"{format_position(self.playback)}  {escape_unprintable(title)}  press q to close"
        lines.append(f"\x1b[{self.size.rows};1H\x1b[2K{status_line[: self.size.columns]}")
        return "".join(lines)

    def _clear(self) -> None:
        self.terminal.write_bytes((DELETE_KITTY_PICTURES if self.terminal.protocol == "kitty" else b"") + b"\x1b[2J")
        self._resize_buffers()

    # Actions

    def run_action(self, action: str) -> None:
        """Run a Textual action of the player, such as `step(-1)`; actions that need its screens are ignored."""
        name, _, argument = action.rstrip(")").partition("(")
        playback = self.playback
        self._must_redraw = True
        self._sent_lines = ""
        if name == "close":
            self.is_finished = True
        elif name == "pause":
            playback.toggle_pause()
        elif name == "step":
            playback.step(int(argument))
        elif name in ("first", "last"):
            playback.seek(0 if name == "first" else playback.last_index)
        elif name == "speed":
            playback.change_speed(int(argument))
        elif name == "loop":
            playback.is_looping = not playback.is_looping
        elif name == "bare":
            self.is_bare = not self.is_bare
            self._clear()
        elif name == "next":
            self._play_next(int(argument))

    def _play_next(self, step: int) -> None:
        if len(self.clips) > 1 or self.clips[0] not in self.batch_clips:
            return
        index = self.batch_clips.index(self.clips[0]) + step
        if 0 <= index < len(self.batch_clips):
            self.played.replace_by(self.batch_clips[index])
            self._clear()
