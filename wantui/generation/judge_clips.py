"""Judge which shape, colour or motion nano's clips show."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from wantui.errors import UserError
from wantui.models.nano.attributes import DIRECTION_BY_MOTION, RGB_BY_COLOUR
from wantui.models.nano.judge import (
    MIN_VISIBLE_PIXELS,
    detect_motion,
    detect_shape,
    find_nearest_colour,
    find_object_pixels,
)
from wantui.storage.mp4 import Frame

NOTHING_LABEL = "nothing"
"""Label of a clip whose object is not visible: in the middle frame, or for a motion in the first or last frame."""


def judge_clips(
    readers_by_id: Mapping[str, Callable[[], Iterable[Frame]]],
    attribute: str,
    on_clip: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """Return what each clip of one object shows, by id.

    Args:
        readers_by_id: functions that decode the frames of a clip.
        attribute: shape, colour or motion.
        on_clip: called with the number of clips judged so far.

    Raises:
        UserError: a clip cannot be read.
    """
    labels = {}
    for number, (video_id, read_frames) in enumerate(readers_by_id.items(), 1):
        try:
            frames = np.stack(list(read_frames()))
        except UserError as error:
            raise UserError(f"cannot judge video {video_id}: {error}") from None
        labels[video_id] = _judge_clip(torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255, attribute)
        on_clip(number)
    return labels


def _judge_clip(video: torch.Tensor, attribute: str) -> str:
    """Return the word for a clip, [rgb, frames, height, width] in 0 to 1."""
    mask = find_object_pixels(video)
    middle_mask = mask[len(mask) // 2]
    if middle_mask.sum() < MIN_VISIBLE_PIXELS:
        return NOTHING_LABEL
    if attribute == "shape":
        return detect_shape(middle_mask)
    if attribute == "colour":
        return list(RGB_BY_COLOUR)[find_nearest_colour(video, mask)]
    motion = detect_motion(mask)
    return motion if motion in DIRECTION_BY_MOTION else NOTHING_LABEL
