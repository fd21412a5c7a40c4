"""Clock of a player: the position in frames, speed and loop, shared by all its clips."""

from dataclasses import dataclass

MAX_FPS = 30.0
"""Maximum number of frames that a player shows per second; the clock does not slow down."""
MAX_SLOW_FPS = 5.0
"""Maximum number of frames that a player shows per second with --low-bandwidth."""
SPEEDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Factors of the speed in the order in which + and - select them."""


@dataclass
class Playback:
    """Position of a player in frames of its reference clip; other clips are shown at the same time in seconds."""

    fps: float
    """Frames per second of the reference clip at speed 1."""
    frame_count: int = 0
    """Duration of the longest clip, in frames of the reference clip; 0 while unknown."""
    frame_index: int = 0
    is_playing: bool = True
    is_looping: bool = True
    speed: float = 1.0
    _frame_remainder: float = 0.0
    """Time since the shown frame was due, in frames; negative if it is shown early."""

    @property
    def last_index(self) -> int:
        return max(0, self.frame_count - 1)

    def find_next_index(self, elapsed_seconds: float) -> tuple[int, float]:
        """Return the frame that is due after `elapsed_seconds`, and the remaining time in frames."""
        due_frames = elapsed_seconds * self.fps * self.speed + self._frame_remainder
        step_count = max(0, round(due_frames))
        index = self.frame_index + step_count
        if self.is_looping and self.frame_count:
            index %= self.frame_count
        return min(index, self.last_index), due_frames - step_count

    def move_forward(self, index: int, frame_remainder: float) -> None:
        """Show a frame of `find_next_index`; playing ends at the last frame of a clip that is not looped."""
        self.frame_index, self._frame_remainder = index, frame_remainder
        if not self.is_looping and index == self.last_index:
            self.is_playing = False

    def seek(self, index: int) -> None:
        """Show a frame; an index beyond the clip is clamped."""
        self.frame_index, self._frame_remainder = max(0, min(index, self.last_index)), 0.0

    def step(self, frame_count: int) -> None:
        """Pause, and move by frames; a looped clip wraps around."""
        self.is_playing = False
        if self.is_looping and self.frame_count and abs(frame_count) == 1:
            self.seek((self.frame_index + frame_count) % self.frame_count)
        else:
            self.seek(self.frame_index + frame_count)

    def toggle_pause(self) -> None:
        """Pause or play; at the end of a clip that is not looped, play from its start."""
        self.is_playing = not self.is_playing
        self._frame_remainder = 0.0
        if self.is_playing and not self.is_looping and self.frame_index == self.last_index:
            self.frame_index = 0

    def change_speed(self, step: int) -> None:
        """Select the next higher (1) or lower (-1) speed of `SPEEDS`."""
        index = SPEEDS.index(self.speed) + step
        self.speed = SPEEDS[max(0, min(index, len(SPEEDS) - 1))]

    def convert_index(self, fps: float) -> int:
        """Return the frame of a clip with `fps` that is shown together with the position."""
        return int(self.frame_index * fps / self.fps + 1e-6)

    def update_count(self, counts_and_fps: list[tuple[int, float]]) -> None:
        """Set the number of frames from the frame counts and frame rates of all clips."""
        self.frame_count = max((round(count * self.fps / fps) for count, fps in counts_and_fps), default=0)
        self.frame_index = min(self.frame_index, self.last_index)
