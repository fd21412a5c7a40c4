"""Read frames of clips from any position, scaled while they are decoded."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from wantui.storage.mp4 import ClipError, Frame, open_container


@dataclass(frozen=True)
class KeyFrame:
    """A frame from which decoding can start."""

    index: int
    pts: int
    """Presentation time in the time base of the stream."""


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded frame of a clip."""

    index: int
    pixels: Frame | None
    """Scaled picture, uint8 [height, width, rgb]; None if it was not requested."""
    key_frame: KeyFrame | None
    """The frame as a start of decoding; None if it is not a key frame."""
    declared_count: int
    """Number of frames according to the header of the file; 0 if it has none. It may be wrong."""


def fit_size(width: int, height: int, max_size: tuple[int, int]) -> tuple[int, int]:
    """Scale a size down to fit into `max_size` (width, height), keeping its proportions; never enlarge it."""
    scale = min(1.0, max_size[0] / width, max_size[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def read_scaled_frames(
    path: Path, max_size: tuple[int, int], is_requested: Callable[[int], bool], start: KeyFrame | None = None
) -> Generator[DecodedFrame, None, None]:
    """Yield the frames of a clip, starting at a key frame; at most one full-size frame is in memory.

    Args:
        max_size: maximum width and height of the pictures in pixels; smaller pictures are not enlarged.
        is_requested: returns true for the index of a frame whose picture is needed; other frames are only decoded.
        start: key frame of the same clip to start from; None starts from the first frame.

    Raises:
        ClipError: the file contains no decodable video.
    """
    with open_container(path) as container:
        if not container.streams.video:
            raise ClipError(f"{path} is not a readable clip: it contains no video")
        stream = container.streams.video[0]
        index = 0
        if start is not None:
            container.seek(start.pts, stream=stream, backward=True)
            index = start.index
        for frame in container.decode(stream):
            if start is not None:
                if frame.pts is None or frame.pts > start.pts:
                    raise ClipError(f"{path} is not a readable clip: it changed while it was read")
                if frame.pts < start.pts:
                    continue
                start = None
            pixels = None
            if is_requested(index):
                width, height = fit_size(frame.width, frame.height, max_size)
                scaled = frame.reformat(width, height, format="rgb24", interpolation="AREA")
                pixels = scaled.to_ndarray()
            has_position = frame.key_frame and frame.pts is not None
            yield DecodedFrame(index, pixels, KeyFrame(index, frame.pts) if has_position else None, stream.frames)
            index += 1
