"""Clips that are played together: decoded frames of each, and the clock that they share."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wantui.tui.player.clip_buffer import MAX_BUFFER_BYTES, ClipBuffer
from wantui.tui.player.clip_labels import label_clips
from wantui.tui.player.clips import PlayerClip
from wantui.tui.player.playback import Playback

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture


class SyncedClips:
    """Clips that are played together.

    Args:
        clips: one to nine clips.
        on_change: called on a thread when a requested frame, a number of frames or an error becomes known.

    Attributes:
        labels: label of each clip.
        buffers: frames of each clip.
    """

    def __init__(self, clips: Sequence[PlayerClip], on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        self.playback = Playback(max(float(clip.recipe.fps) for clip in clips))
        self._open(clips)

    def _open(self, clips: Sequence[PlayerClip]) -> None:
        self.clips, self.labels = list(clips), label_clips(clips)
        self.buffers = [ClipBuffer(clip.path, MAX_BUFFER_BYTES // len(clips), self._on_change) for clip in clips]

    def close(self) -> None:
        """Stop decoding, and release the frames."""
        for buffer in self.buffers:
            buffer.close()

    def replace_by(self, clip: PlayerClip) -> None:
        """Play one clip from its start instead of these; its frames are decoded after `set_max_size`."""
        self.close()
        self.playback.fps, self.playback.frame_count = float(clip.recipe.fps), 0
        self.playback.seek(0)
        self._open([clip])

    def update_count(self) -> bool:
        """Update the number of frames from the clips' frame counts; return whether it changed."""
        previous_count = self.playback.frame_count
        self.playback.update_count(
            [(buffer.frame_count, clip.recipe.fps) for buffer, clip in zip(self.buffers, self.clips, strict=True)]
        )
        return self.playback.frame_count != previous_count

    def request_frames(self) -> "list[Picture | None]":
        """Return the frame of each clip at the position; None if it is not decoded."""
        return [
            buffer.request_frame(self.playback.convert_index(clip.recipe.fps))
            for buffer, clip in zip(self.buffers, self.clips, strict=True)
        ]

    def advance(self, elapsed_seconds: float) -> "list[Picture | None] | None":
        """Move to the frames that are due, and return them, with None for a clip that cannot be decoded.

        Until all clips have decoded their frames, return None: the clock then waits. While playback is paused, the
        frames at the position are due.
        """
        playback = self.playback
        previous_index, frame_remainder = playback.frame_index, 0.0
        if playback.is_playing:
            playback.frame_index, frame_remainder = playback.find_next_index(elapsed_seconds)
        frames = self.request_frames()
        if any(frame is None and not buffer.has_failed for frame, buffer in zip(frames, self.buffers, strict=True)):
            playback.frame_index = previous_index
            return None
        if playback.is_playing:
            playback.move_forward(playback.frame_index, frame_remainder)
        return frames
