"""Write and read clips: H.264 in mp4 with the recipe in the tags, verified before the final rename."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.atomic_files import (
    create_empty_file,
    make_partial_path,
    remove_created_file,
    rename_created_file,
    sync_to_disk,
)
from wantui.config.speeds import migrate_speed_name
from wantui.errors import UserError
from wantui.json_files import find_system_refusal, parse_json
from wantui.planning import Recipe
from wantui.planning.recipe import parse_recipe
from wantui.storage.background_writer import BackgroundWriter

X264_CRF = "18"
"""Constant rate factor of H.264; 18 is visually lossless for most videos."""
X264_PARAMETERS = "mbtree=0"
"""x264 options: macroblock trees are off, because their vector code is not deterministic for small frames."""
MAX_PENDING_FRAMES = 8
"""Maximum number of decoded frames that wait to be encoded."""
Frame = NDArray[np.uint8]
_FFMPEG_READ_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
}
"""Options for files of unknown origin: a playlist disguised as a clip could make FFmpeg read other files."""


class ClipError(UserError):
    """Raised for a clip that cannot be read, or was not created by wantui."""


class ClipWriter:
    """Encoder of frames, uint8 [height, width, rgb], on a separate thread while the next frames are decoded.

    A context manager; leaving it before `finish_clip` removes the partial clip.

    Args:
        frame_count: number of frames that the clip will have.
    """

    def __init__(self, path: Path, fps: int, frame_count: int, tags: dict[str, str]) -> None:
        self.path = path
        self.temporary_path = make_partial_path(path)
        self.temporary_file_identity: tuple[int, int] | None = None
        self.fps = fps
        self.frame_count = frame_count
        self.tags = tags
        self.encoder_thread = BackgroundWriter(MAX_PENDING_FRAMES)
        self.submitted_count = 0
        self.container: Any = None
        self.video_stream: Any = None

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.encoder_thread.close()
            if self.container is not None:
                with suppress(Exception):  # the clip is incomplete
                    self.container.close()
        finally:  # also on a second Ctrl-C
            if self.temporary_file_identity is not None:
                remove_created_file(self.temporary_path, self.temporary_file_identity)

    def write_frame(self, frame: Frame) -> None:
        """Queue the next frame for encoding; block while `MAX_PENDING_FRAMES` frames are pending.

        Raises:
            Exception: an earlier frame could not be encoded or written.
        """
        self.submitted_count += 1
        self.encoder_thread.submit_write(partial(self._encode_frame, frame))

    def finish_clip(self) -> None:
        """Finish the clip, verify it by decoding it, and give it its final name.

        Raises:
            RuntimeError: the number of encoded or decoded frames is not `frame_count`.
        """
        self.encoder_thread.submit_write(self._end_encoding)
        self.encoder_thread.wait_for_writes()
        decoded_count = _count_decodable_frames(self.temporary_path) if self.submitted_count else 0
        if not self.submitted_count == decoded_count == self.frame_count:
            raise RuntimeError(
                f"{self.path.name}: {self.submitted_count} frames encoded and {decoded_count} read back, "
                f"{self.frame_count} expected"
            )
        sync_to_disk(self.temporary_path)
        assert self.temporary_file_identity is not None  # a frame was written
        rename_created_file(self.temporary_path, self.path, self.temporary_file_identity)
        sync_to_disk(self.path.parent)

    def _encode_frame(self, frame: Frame) -> None:
        import av

        if self.container is None:
            self.temporary_file_identity = create_empty_file(self.temporary_path)
            container_options = {"movflags": "+faststart+use_metadata_tags"}
            self.container = av.open(_make_file_url(self.temporary_path), "w", format="mp4", options=container_options)
            self.container.metadata.update(self.tags)
            encoder_options = {"crf": X264_CRF, "x264-params": X264_PARAMETERS}
            self.video_stream = self.container.add_stream("libx264", rate=self.fps, options=encoder_options)
            self.video_stream.pix_fmt = "yuv420p"
            self.video_stream.height, self.video_stream.width = frame.shape[:2]
        self.container.mux(self.video_stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def _end_encoding(self) -> None:
        if self.container is not None:
            container, self.container = self.container, None
            try:
                container.mux(self.video_stream.encode())
            finally:
                container.close()


def write_mp4(path: Path, frames: Iterable[Frame], fps: int, frame_count: int, tags: dict[str, str]) -> None:
    """Write a clip of `frame_count` frames.

    Raises:
        RuntimeError: the number of encoded or decoded frames is not `frame_count`.
    """
    with ClipWriter(path, fps, frame_count, tags) as clip:
        for frame in frames:
            clip.write_frame(frame)
        clip.finish_clip()


def read_frames(path: Path, thread_count: int = 0) -> Generator[Frame, None, None]:
    """Yield the frames of a clip, uint8 [height, width, rgb].

    Args:
        thread_count: number of threads for decoding, and for the conversion to RGB; 0 means one per core.

    Raises:
        ClipError: the file contains no decodable video.
    """
    with open_container(path) as container:
        for frame in _decode_video(path, container, thread_count):
            yield frame.to_ndarray(format="rgb24", threads=thread_count)


def _decode_video(path: Path, container: Any, thread_count: int = 0) -> Iterator[Any]:
    """Return the decoded frames of an open clip, as PyAV yields them; raise `ClipError` if it contains no video."""
    if not container.streams.video:
        raise ClipError(f"{path} is not a readable clip: it contains no video")
    container.streams.video[0].thread_count = thread_count
    frames: Iterator[Any] = container.decode(video=0)
    return frames


def _count_decodable_frames(path: Path) -> int:
    """Decode a clip without a conversion to RGB, and count its frames."""
    with open_container(path) as container:
        return sum(1 for _ in _decode_video(path, container))


def measure_largest_difference(first_clip: Path, second_clip: Path) -> int:
    """Return the largest difference of a channel, from 0 to 255, between the frames of two clips.

    It is 255 if the clips have different numbers or sizes of frames.

    Raises:
        ClipError: a clip cannot be read.
    """
    largest = 0
    for first, second in zip_longest(read_frames(first_clip), read_frames(second_clip)):
        if first is None or second is None or first.shape != second.shape:
            return 255
        largest = max(largest, int(np.abs(first.astype(np.int16) - second).max()))
    return largest


def read_middle_frame(path: Path, frame_count: int) -> Frame:
    """Return the middle frame of a clip of `frame_count` frames, or the last frame if the clip is shorter.

    Raises:
        ClipError: the clip has no decodable frame.
    """
    last_frame = None
    for frame_index, frame in enumerate(read_frames(path)):
        last_frame = frame
        if frame_index == frame_count // 2:
            break
    if last_frame is None:
        raise ClipError(f"{path} is not a readable clip: it contains no frame")
    return last_frame


def read_clip_tags(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe in a clip, and the software and device that rendered it.

    Raises:
        ClipError: the file is not a clip, or has no recipe that this version can read.
    """
    with open_container(path) as container:
        tags = dict(container.metadata)
    if "wantui" not in tags:
        raise ClipError(f"{path} contains no recipe: it was not generated by wantui, or another program rewrote it")
    try:
        provenance = parse_json(tags.get("wantui_made_with", "{}"))
        if not isinstance(provenance, dict):
            raise ValueError("wantui_made_with is not a JSON object")
        if "blocks" in provenance:
            provenance["blocks"] = migrate_speed_name(str(provenance["blocks"]))
            provenance.setdefault("decoder", "reference")  # as in versions that did not name it
        return parse_recipe(parse_json(tags["wantui"])), provenance
    except ValueError as error:  # includes text that is not UTF-8
        raise ClipError(f"the recipe in {path} is damaged, or was written by a different version: {error}") from None


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """Open a PyAV container; errors of a damaged file inside the block become a ClipError."""
    import av

    try:
        if path.exists() and not path.is_file():
            raise ClipError(f"{path} is not a readable clip: it is not a regular file")
        # Tags of other programs may have other encodings; surrogateescape keeps them from failing here.
        with av.open(
            _make_file_url(path), metadata_errors="surrogateescape", options=_FFMPEG_READ_OPTIONS
        ) as container:
            yield container
    except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:
        is_damage = isinstance(error, av.error.MemoryError)  # FFmpeg cannot allocate the size in a damaged header
        if not is_damage and (refusal := find_system_refusal(error)) is not None:
            raise ClipError(f"{path} cannot be read: {refusal.strerror}") from refusal
        reason = getattr(error, "strerror", None) or error
        raise ClipError(f"{path} is not a readable clip: {reason}") from (None if is_damage else error)


def _make_file_url(path: Path) -> str:
    """Return a path as a file URL; FFmpeg would take a bare name with a colon, such as `http:x.mp4`, for a URL."""
    return f"file:{path.absolute()}"
