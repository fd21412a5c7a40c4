"""Plain pixel rules that say what a clip shows: background, colour, direction of motion and shape of its objects.

No learned judge: distances between colours, centroids of masks, overlap with drawn templates. The rules are applied to
drawn clips too, so that their own error is known.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.models.nano.render import pixel_grid, signed_distance
from wantui.models.nano.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scenes

BACKGROUND_TOLERANCE = 0.12
"""Largest error of a channel, in units of full brightness."""
OBJECT_CONTRAST = 0.2
"""Euclidean distance from the background's colour from which a pixel belongs to an object."""
STILL = 0.2
"""Largest movement of a still centroid over the clip (half the picture is 1)."""
VISIBLE_PIXELS = 40


@dataclass(frozen=True)
class ClipScore:
    """Correct attributes of one clip; for two objects, attributes that are right for both."""

    background: bool
    colour: bool
    direction: bool
    shape: bool


def common_colour(video: Tensor) -> Tensor:
    """Return the median of each channel over the clip, which is the background's: [rgb]."""
    return video[:, :, ::4, ::4].flatten(1).median(dim=1).values


def object_pixels(video: Tensor) -> Tensor:
    """Return the pixels that differ from the clip's common colour: float32 [frames, height, width]."""
    return (video - common_colour(video)[:, None, None, None]).norm(dim=0).gt(OBJECT_CONTRAST).float()


def judge(video: Tensor, scenes: Scenes, i: int) -> ClipScore:
    """Hold a clip, float32 [rgb, frames, height, width] in 0 to 1, against scene i."""
    video = video.cpu()
    background = torch.tensor(list(BACKGROUNDS.values())[scenes.background[i]])
    background_right = bool((common_colour(video) - background).abs().max() < BACKGROUND_TOLERANCE)
    masks = [object_pixels(video)] if scenes.count[i] == 1 else masks_by_colour(video, background, scenes.colour[i])
    colour = direction = shape = True
    for k, mask in enumerate(masks):
        middle = mask[len(mask) // 2]
        if middle.sum() < VISIBLE_PIXELS:
            return ClipScore(background_right, False, False, False)
        if scenes.count[i] == 1:
            colour &= nearest_colour(video, mask) == scenes.colour[i, k]
        direction &= motion_of(mask) == list(MOTIONS)[scenes.motion[i, k]]
        shape &= shape_of(middle) == SHAPES[scenes.shape[i, k]]
    return ClipScore(background_right, colour, direction, shape)


def nearest_colour(video: Tensor, mask: Tensor) -> int:
    """Return the index of the colour of the world that is nearest to the median colour under the mask."""
    seen = video[:, mask.bool()].median(dim=1).values
    return int((torch.tensor(list(COLOURS.values())) - seen).norm(dim=1).argmin())


def masks_by_colour(video: Tensor, background: Tensor, colours: Tensor) -> list[Tensor]:
    """Return the pixels of each of two objects of known colour, without the one-pixel seams where colours mix."""
    references = torch.stack([background, *(torch.tensor(list(COLOURS.values())[c]) for c in colours)])
    distance = (video[None] - references[:, :, None, None, None]).norm(dim=1)
    nearest = distance.argmin(0)
    masks = []
    for label in (1, 2):
        mask = ((nearest == label) & (distance[label] < 0.35)).float()[:, None]
        opened = F.max_pool2d(-F.max_pool2d(-mask, 3, 1, 1), 3, 1, 1)
        masks.append(opened[:, 0])
    return masks


def centroid(mask: Tensor) -> Tensor:
    """Centre of a mask [height, width], as x and y from -1 to 1; NaN where it is empty."""
    x, y = pixel_grid()
    return torch.stack([(mask * x).sum(), (mask * y).sum()]) / mask.sum()


def motion_of(mask: Tensor) -> str:
    """Direction in which the centroid moves from the first to the last frame; "none" where it cannot be seen."""
    travel = centroid(mask[-1]) - centroid(mask[0])
    if travel.isnan().any():
        return "none"
    if travel.norm() < STILL:
        return "still"
    horizontal = travel[0].abs() > travel[1].abs()
    sign = bool(travel[0] > 0) if horizontal else bool(travel[1] > 0)
    return ("right" if sign else "left") if horizontal else ("down" if sign else "up")


@cache
def _template(shape: str) -> tuple[float, Tensor]:
    """Area of the shape of radius 1 and offset of its centroid, measured at half the picture's size."""
    x, y = pixel_grid()
    mask = (signed_distance(shape, 2 * x, 2 * y) < 0).float()
    return float(mask.mean()) * 16, centroid(mask) * 2


def shape_of(mask: Tensor) -> str:
    """Return the shape whose drawing, with the mask's area and centroid, overlaps it best (intersection over union)."""
    x, y = pixel_grid()
    centre = centroid(mask)
    overlaps = {}
    for shape in SHAPES:
        area, offset = _template(shape)
        radius = float(mask.mean() * 4 / area) ** 0.5
        left, top = (centre - radius * offset).tolist()
        drawn = signed_distance(shape, (x - left) / radius, (y - top) / radius) < 0
        overlaps[shape] = float((drawn & mask.bool()).sum() / (drawn | mask.bool()).sum())
    return max(overlaps, key=lambda shape: overlaps[shape])
