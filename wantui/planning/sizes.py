"""Wan's rules for width, height and number of frames, checked before a batch is queued."""

from decimal import Decimal

from wantui.config.settings import MAX_FRAME_COUNT, VideoSettings
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel

DEFAULT_FRAME_COUNT = 81


class SizeError(UserError):
    """Raised for a size that the model cannot generate; the message gives the nearest valid sizes."""


def resolve_frame_count(video: VideoSettings, model: WanModel) -> tuple[int, list[str]]:
    """Return the number of frames that the pipeline will generate, and a warning for each request without effect.

    A count that is not 4k + 1 becomes `n // 4 * 4 + 1`, as in WanPipeline.
    """
    if video.frames is not None:
        requested_count, request_text = video.frames, format_count(video.frames, "frame")
    elif video.duration is not None:
        requested_count = _count_whole_frames(video.duration, video.fps)
        request_text = f"{video.duration:g} s at {video.fps} fps are {format_count(requested_count, 'frame')}"
    else:
        requested_count, request_text = DEFAULT_FRAME_COUNT, f"{DEFAULT_FRAME_COUNT} frames"
    if requested_count > MAX_FRAME_COUNT:
        raise SizeError(f"video_settings: {request_text}; Wan generates at most {MAX_FRAME_COUNT}")
    compression = model.temporal_compression
    frame_count = (
        requested_count
        if requested_count % compression == 1
        else max(1, requested_count // compression * compression + 1)
    )
    warnings: list[str] = []
    if (
        video.frames is not None
        and video.duration is not None
        and video.frames != _count_whole_frames(video.duration, video.fps)
    ):
        warnings.append(
            f"video_settings.duration: {video.duration:g} s has no effect, because frames is set: {request_text}"
        )
    if frame_count != requested_count:
        warnings.append(
            f"video_settings: {request_text}, which is not {compression}k + 1: the model will generate {frame_count}"
        )
    return frame_count, warnings


def _count_whole_frames(seconds: float, frames_per_second: int) -> int:
    """Count the whole frames in a duration. 4.64 s at 25 fps are 116 frames as decimals but 115.99999 as floats."""
    return int(min(Decimal(str(seconds)) * frames_per_second, Decimal(10**9)))


def check_video_size(video: VideoSettings, model: WanModel) -> None:
    """Reject a width or height that the pipeline would silently round down.

    Raises:
        SizeError: the size is invalid; names the nearest valid sizes.
    """
    problems = []
    for name, side_pixels in (("width", video.width), ("height", video.height)):
        size_multiple = model.size_multiple
        if side_pixels % size_multiple:
            lower_multiple = side_pixels // size_multiple * size_multiple
            upper_multiple = (side_pixels // size_multiple + 1) * size_multiple
            nearest_text = f"{lower_multiple} or {upper_multiple}" if lower_multiple else str(upper_multiple)
            problems.append(
                f"video_settings.{name}: {side_pixels} is not a multiple of {size_multiple}; the nearest are "
                f"{nearest_text}"
            )
    if problems:
        raise SizeError("\n".join(problems))
