"""Clips: H.264 in mp4, with the recipe in the tags; verified before they get their name."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from wantui.errors import UserError
from wantui.planning import Recipe
from wantui.storage.atomic import whole_file

CRF = "18"
"""Quality of H.264; 18 is visually lossless for most pictures."""
X264_PARAMETERS = "mbtree=0"
"""With macroblock trees, x264's vector code makes other bits from run to run where a picture is small."""
Frame = NDArray[np.uint8]


class ClipError(UserError):
    """A clip that cannot be read, or was not made by wantui."""


def write_mp4(path: Path, frames: Iterable[Frame], fps: int, count: int, tags: dict[str, str]) -> None:
    """Encode `count` frames, uint8 [height, width, rgb], as they come.

    Raises:
        RuntimeError: another number of frames came, or can be read back.
    """
    import av

    with whole_file(path) as partial:
        options = {"movflags": "+faststart+use_metadata_tags"}
        with av.open(str(partial), "w", format="mp4", options=options) as container:
            container.metadata.update(tags)
            stream = container.add_stream("libx264", rate=fps, options={"crf": CRF, "x264-params": X264_PARAMETERS})
            stream.pix_fmt = "yuv420p"
            given = 0
            for given, frame in enumerate(frames, start=1):
                if given == 1:
                    stream.height, stream.width = frame.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        read_back = sum(1 for _ in read_frames(partial)) if given else 0
        if not given == read_back == count:
            raise RuntimeError(f"{path.name}: {given} frames encoded and {read_back} read back, {count} expected")


def read_frames(path: Path) -> Iterator[Frame]:
    """The frames of a clip, uint8 [height, width, rgb].

    Raises:
        ClipError: no video that can be decoded.
    """
    import av

    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise ClipError(f"{path} is not a clip that can be read: {error}") from None


def read_tags(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe in a clip, and with what it was made.

    Raises:
        ClipError: not a clip, or without a recipe that this version understands.
    """
    import av

    try:
        with av.open(str(path)) as container:
            tags = dict(container.metadata)
    except (av.FFmpegError, OSError) as error:
        raise ClipError(f"{path} is not a clip that can be read: {error}") from None
    if "wantui" not in tags:
        raise ClipError(f"{path} carries no recipe: it was not made by wantui, or another program rewrote it")
    try:
        return Recipe.model_validate_json(tags["wantui"]), dict(json.loads(tags.get("wantui_made_with", "{}")))
    except (ValidationError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ClipError(f"the recipe in {path} is damaged or of another version: {reason}") from None
