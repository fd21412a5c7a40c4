"""Frames of one clip around the position of a player, decoded on a background thread with bounded memory."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.storage.clip_reader import KeyFrame

    Frame = NDArray[np.uint8]

MAX_BUFFER_BYTES = 64 << 20
"""Maximum bytes of all scaled frames in a player."""
MIN_BUFFERED_FRAMES = 4
"""Number of frames that are kept however large they are."""


class ClipBuffer:
    """Scaled frames of a clip around a position; a thread decodes them after `set_max_size`.

    Args:
        max_bytes: maximum bytes of the frames; if the clip needs more, only frames around the position are kept.
        on_change: called on the thread when the requested frame, the number of frames or an error becomes known.
    """

    def __init__(self, path: Path, max_bytes: int, on_change: Callable[[], object]) -> None:
        self.path, self.max_bytes, self._on_change = path, max_bytes, on_change
        self.frame_count = 0
        """Number of frames; 0 while unknown, and possibly wrong until `is_count_known`."""
        self.is_count_known = False
        self.error = ""
        """Reason why the clip, or its remainder after `frame_count` frames, cannot be decoded; otherwise empty."""
        self._frames: dict[int, Frame] = {}
        self._condition = threading.Condition()
        self._max_size: tuple[int, int] | None = None
        self._position = 0
        self._is_closed = self._is_awaited = False
        self._key_frames: dict[int, KeyFrame] = {}
        self._thread: threading.Thread | None = None

    @property
    def has_failed(self) -> bool:
        """Return whether no frame of the clip can be decoded."""
        return bool(self.error) and not self.frame_count

    def set_max_size(self, max_size: tuple[int, int]) -> None:
        """Decode frames of at most this width and height in pixels; drop frames decoded at a different size."""
        with self._condition:
            if max_size == self._max_size:
                return
            self._max_size = max_size
            self._frames.clear()
            self.retry()
            self._condition.notify()

    def retry(self) -> None:
        """Start the thread if it does not exist, because the system started no more threads."""
        with self._condition:
            if self._thread is not None:
                return
            self.error, self.is_count_known = "", False
            thread = threading.Thread(target=self._run, name=f"decode {self.path.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._handle_error(f"cannot play {self.path}: {error}")
            else:
                self._thread = thread

    def request_frame(self, index: int) -> "Frame | None":
        """Move the position, and return its frame if it is decoded; otherwise `on_change` is called later."""
        with self._condition:
            if self.frame_count:
                index = min(index, self.frame_count - 1)
            self._position = index
            frame = self._frames.get(index)
            self._is_awaited = frame is None
            self._condition.notify()
            return frame

    def close(self) -> None:
        """Stop the thread soon, and release the frames."""
        with self._condition:
            self._is_closed = True
            self._frames.clear()
            self._condition.notify()

    def count_buffered_bytes(self) -> int:
        """Return the bytes of all buffered frames."""
        with self._condition:
            return sum(frame.nbytes for frame in self._frames.values())

    # Thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._is_closed and self._find_missing_frame() is None:
                    self._condition.wait()
                missing_index, max_size = self._find_missing_frame(), self._max_size
                if self._is_closed or missing_index is None or max_size is None:
                    return
            self._last_index = None
            try:
                self._decode_from(missing_index, max_size)
            except UserError as error:
                self._handle_error(str(error))
            except Exception as error:  # a damaged clip can raise anything, such as UnicodeDecodeError or ValueError
                self._handle_error(f"cannot play {self.path}: {type(error).__name__}: {error}")
            if self.error and self._last_index is None:
                return  # another attempt would fail in the same way

    def _handle_error(self, error_text: str) -> None:
        """End the clip before the damaged part."""
        with self._condition:
            self.error = error_text
            self._set_count(self._decoded_count)

    def _set_count(self, frame_count: int) -> None:
        self.frame_count, self.is_count_known = frame_count, True
        for index in [index for index in self._frames if index >= frame_count]:
            del self._frames[index]
        if not frame_count and not self.error:
            self.error = f"cannot play {self.path}: the clip contains no frames"
        self._position = min(self._position, max(0, frame_count - 1))
        self._on_change()

    _decoded_count = 0
    """Number of frames that were decoded at least once."""
    _last_index: int | None = None
    """Frame that was decoded last, since decoding started at a key frame."""

    def _decode_from(self, first_index: int, max_size: tuple[int, int]) -> None:
        """Decode until no frame is missing, or until the next missing frame precedes the last decoded frame."""
        from wantui.storage.clip_reader import read_scaled_frames

        key_index = max((index for index in self._key_frames if index <= first_index), default=None)
        start = None if key_index is None else self._key_frames[key_index]
        for decoded in read_scaled_frames(self.path, max_size, self._needs_frame, start):
            with self._condition:
                if self._is_closed or max_size != self._max_size:
                    return
                self._last_index = decoded.index
                self._decoded_count = max(self._decoded_count, decoded.index + 1)
                if decoded.key_frame is not None:
                    self._key_frames[decoded.index] = decoded.key_frame
                if decoded.pixels is not None:
                    self._store_frame(decoded.index, decoded.pixels, decoded.declared_count)
                next_index = self._wait_for_missing_frame(decoded.index, max_size)
            if next_index is None or self._should_seek(decoded.index, next_index):
                return
        with self._condition:
            if self._last_index is None and start is not None:
                self._key_frames.clear()  # the file was replaced
            else:
                self._decoded_count = 0 if self._last_index is None else self._last_index + 1
                self._set_count(self._decoded_count)

    def _store_frame(self, index: int, pixels: "Frame", declared_count: int) -> None:
        self._frames[index] = pixels
        capacity = self._get_capacity()
        if len(self._frames) > capacity:
            for other_index in [other for other in self._frames if not self._is_in_window(other, capacity)]:
                del self._frames[other_index]
        if not self.is_count_known and not self.frame_count and declared_count > 0:
            self.frame_count = declared_count
        if not self.is_count_known:
            self.frame_count = max(self.frame_count, index + 1)
        if self._is_awaited and index == self._position:
            self._is_awaited = False
            self._on_change()

    def _wait_for_missing_frame(self, decoded_index: int, max_size: tuple[int, int]) -> int | None:
        """Return the frame to decode next; None if the buffer was closed or its size has changed."""
        while not self._is_closed and max_size == self._max_size:
            next_index = decoded_index + 1
            is_next_needed = self._position in self._frames and self._is_missing(next_index)
            missing_index = next_index if is_next_needed else self._find_missing_frame()
            if missing_index is not None:
                return missing_index
            if not self.is_count_known and next_index >= self.frame_count:
                return next_index  # the end of the clip is not confirmed yet
            self._condition.wait()
        return None

    def _should_seek(self, decoded_index: int, next_index: int) -> bool:
        """Return true if decoding should restart from a key frame to reach a frame."""
        if next_index <= decoded_index:
            return True
        return any(decoded_index + 1 < key_index <= next_index for key_index in self._key_frames)

    def _needs_frame(self, index: int) -> bool:
        with self._condition:
            return self._is_missing(index) or (index == self._position and index not in self._frames)

    def _is_missing(self, index: int) -> bool:
        return (
            index not in self._frames
            and (not self.frame_count or index < self.frame_count or not self.is_count_known)
            and self._is_in_window(index, self._get_capacity())
        )

    def _get_capacity(self) -> int:
        """Return the number of frames that fit into the buffer."""
        frame_bytes = max((frame.nbytes for frame in self._frames.values()), default=0)
        return max(MIN_BUFFERED_FRAMES, self.max_bytes // frame_bytes) if frame_bytes else MIN_BUFFERED_FRAMES

    def _is_in_window(self, index: int, capacity: int) -> bool:
        """Return true if a frame is among the `capacity` frames around the position; the clip is a loop."""
        if self.frame_count and capacity >= self.frame_count:
            return True
        ahead = index - self._position
        if self.frame_count:
            ahead %= self.frame_count
            if ahead >= self.frame_count - capacity // 4:
                return True
        elif ahead < 0:
            return -ahead <= capacity // 4
        return ahead < capacity - capacity // 4

    def _list_window(self) -> Iterator[int]:
        """Yield the frames of the window: first from the position to the end, then the frames before the position."""
        capacity, count = self._get_capacity(), self.frame_count
        behind_count = capacity // 4
        for offset in range(min(capacity - behind_count, count) if count else 1):
            yield (self._position + offset) % count if count else self._position + offset
        if count:
            for offset in range(min(behind_count, count), 0, -1):
                yield (self._position - offset) % count

    def _find_missing_frame(self) -> int | None:
        """Return the most urgent frame of the window that is not decoded, or None."""
        if self._max_size is None or (self.is_count_known and not self.frame_count):
            return None
        return next((index for index in self._list_window() if index not in self._frames), None)
