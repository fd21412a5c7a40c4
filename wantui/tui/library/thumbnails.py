"""Thumbnails of videos, read on a thread of their own: a slow disk delays pictures, and nothing else."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.file_state import MISSING_FILE, UNREADABLE_FILE, read_file_state
from wantui.json_files import InaccessibleFileError, is_refused_by_system
from wantui.storage.manifest import VideoEntry
from wantui.tui.pictures import read_sheet_frames, read_strip_frames, stretch_picture

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

MAX_CACHED_THUMBNAILS = 4096
"""Maximum number of thumbnails in memory, of about 1 kB each."""


@dataclass(frozen=True)
class ThumbnailRequest:
    """Request for a thumbnail."""

    place: tuple[int, int]
    """Row and column of the matrix."""
    sheet_path: Path | None
    clip_path: Path | None
    frame_count: int
    """Number of frames in the video."""
    size: tuple[int, int]
    """Width and height in pixels; the picture is scaled to this size."""
    preview_path: Path | None = None
    """Latest preview of a running video, which is shown instead of its files."""


def make_thumbnail_request(
    place: tuple[int, int], folder: Path, entry: VideoEntry, size: tuple[int, int], preview_path: Path | None = None
) -> ThumbnailRequest | None:
    """Return the request for a video of the batch in `folder`, or None if the video has no files to read."""
    if preview_path is not None:
        return ThumbnailRequest(place, None, None, entry.recipe.frames, size, preview_path)
    sheet, clip = entry.files.get("sheet"), entry.files.get("clip")
    if sheet is None and clip is None:
        return None
    return ThumbnailRequest(
        place, folder / sheet if sheet else None, folder / clip if clip else None, entry.recipe.frames, size
    )


class ThumbnailReader:
    """Thread that reads the thumbnails of the latest request in order, and publishes each of them.

    Args:
        publish: called on the thread with a request and its picture [height, width, rgb]; None if it is unreadable.
    """

    def __init__(self, publish: "Callable[[ThumbnailRequest, Picture | None], object]") -> None:
        self._publish = publish
        self._condition = threading.Condition()
        self._requests: list[ThumbnailRequest] = []
        self._is_stopped = False
        self._thread: threading.Thread | None = None
        self._cache: OrderedDict[tuple[object, ...], Picture | None] = OrderedDict()
        """Thumbnails; None for a damaged clip."""

    def request(self, requests: Sequence[ThumbnailRequest]) -> None:
        """Read these thumbnails next; drop earlier requests that are still waiting."""
        with self._condition:
            self._requests = list(requests)
            if requests and self._thread is None:
                thread = threading.Thread(target=self._run, name="thumbnails", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system starts no more threads; the next request tries again
                    return
                self._thread = thread
            self._condition.notify()

    def stop(self) -> None:
        """Stop after the current picture; do not wait for it, because its disk may hang."""
        with self._condition:
            self._is_stopped, self._requests = True, []
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._requests or self._is_stopped)
                if self._is_stopped:
                    return
                request = self._requests.pop(0)
            self._publish(request, self._read_cached(request))

    def _read_cached(self, request: ThumbnailRequest) -> "Picture | None":
        """Return the thumbnail from the preview, the contact sheet or, if there is none, the clip."""
        for path, read in (
            (request.preview_path, self._read_from_preview),
            (request.sheet_path, self._read_from_sheet),
            (request.clip_path, self._read_from_clip),
        ):
            state = MISSING_FILE if path is None else read_file_state(path)
            if path is None or state in (MISSING_FILE, UNREADABLE_FILE):
                continue
            key = (path, state, request.size)
            try:
                picture = self._cache[key] if key in self._cache else read(path, request)
            except InaccessibleFileError:
                continue
            self._cache[key] = picture
            self._cache.move_to_end(key)
            while len(self._cache) > MAX_CACHED_THUMBNAILS:
                self._cache.popitem(last=False)
            if picture is not None:
                return picture
        return None

    @staticmethod
    def _read_from_preview(path: Path, request: ThumbnailRequest) -> "Picture":
        return _stretch_middle_frame(path, read_strip_frames(path), request.size)

    @staticmethod
    def _read_from_sheet(path: Path, request: ThumbnailRequest) -> "Picture":
        return _stretch_middle_frame(path, read_sheet_frames(path, request.frame_count), request.size)

    @staticmethod
    def _read_from_clip(path: Path, request: ThumbnailRequest) -> "Picture | None":
        from wantui.storage.mp4 import read_middle_frame

        try:
            return stretch_picture(read_middle_frame(path, request.frame_count), request.size)
        except Exception as error:  # decoders of damaged files can raise anything
            if is_refused_by_system(error):
                raise InaccessibleFileError(f"{path} cannot be read") from error
            return None


def _stretch_middle_frame(path: Path, frames: "list[Picture]", size: tuple[int, int]) -> "Picture":
    if not frames:  # for an unknown reason, perhaps a lack of file descriptors
        raise InaccessibleFileError(f"{path} cannot be read")
    return stretch_picture(frames[len(frames) // 2], size)
