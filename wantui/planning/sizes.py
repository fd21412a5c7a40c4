"""Wan's rules for width, height and number of frames, checked before a batch is queued."""

from decimal import Decimal

from wantui.config.settings import MAX_FRAME_COUNT, VideoSettings
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel

DEFAULT_FRAMES = 81


class SizeError(UserError):
    """Raised for a size that the model cannot generate; the message gives the nearest valid sizes."""


def resolve_frames(video: VideoSettings, model: WanModel) -> tuple[int, str | None]:
    """Return the number of frames that the pipeline will generate, and a warning if it differs from the request.

    A count that is not 4k + 1 becomes `n // 4 * 4 + 1`, as in WanPipeline.
    """
    if video.frames is not None:
        asked, origin = video.frames, format_count(video.frames, "frame")
    elif video.duration is not None:
        asked = _count_frames(video.duration, video.fps)
        origin = f"{video.duration:g} s at {video.fps} fps are {format_count(asked, 'frame')}"
    else:
        asked, origin = DEFAULT_FRAMES, f"{DEFAULT_FRAMES} frames"
    if asked > MAX_FRAME_COUNT:
        raise SizeError(f"video_settings: {origin}; Wan generates at most {MAX_FRAME_COUNT}")
    step = model.temporal_compression
    frames = asked if asked % step == 1 else max(1, asked // step * step + 1)
    if (
        video.frames is not None
        and video.duration is not None
        and video.frames != _count_frames(video.duration, video.fps)
    ):
        return frames, f"video_settings.duration: {video.duration:g} s has no effect, because frames is set: {origin}"
    if frames == asked:
        return frames, None
    return frames, f"video_settings: {origin}, which is not {step}k + 1: the model will generate {frames}"


def _count_frames(seconds: float, fps: int) -> int:
    """Count the whole frames in a duration. 4.64 s at 25 fps are 116 frames as decimals but 115.99999 as floats."""
    return int(min(Decimal(str(seconds)) * fps, Decimal(10**9)))


def check_size(video: VideoSettings, model: WanModel) -> None:
    """Refuse a width or height that the pipeline would silently round down.

    Raises:
        SizeError: the size is invalid; names the nearest valid sizes.
    """
    faults = []
    for name, value in (("width", video.width), ("height", video.height)):
        multiple = model.size_multiple
        if value % multiple:
            below, above = value // multiple * multiple, (value // multiple + 1) * multiple
            nearest = f"{below} or {above}" if below else str(above)
            faults.append(f"video_settings.{name}: {value} is not a multiple of {multiple}; nearest are {nearest}")
    if faults:
        raise SizeError("\n".join(faults))
