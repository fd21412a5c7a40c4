"""Score a clip by pixel rules: background, and colour, direction and shape of its objects.

The rules use distances between colours, centroids of masks, and overlap with rendered templates; nothing is learned.
They are also applied to rendered clips, which measures their own error.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.models.nano.attributes import DIRECTION_BY_MOTION, RGB_BY_BACKGROUND, RGB_BY_COLOUR, SHAPES
from wantui.models.nano.render import build_pixel_grid, compute_signed_distance
from wantui.models.nano.world import Scenes

MAX_BACKGROUND_ERROR = 0.12
"""Maximum error of a background colour channel, as a fraction of full brightness."""
MIN_OBJECT_CONTRAST = 0.2
"""Minimum Euclidean distance of an object pixel from the background colour."""
MAX_STILL_TRAVEL = 0.2
"""Maximum displacement of a still object over the clip, in half widths of the picture."""
MIN_VISIBLE_PIXELS = 40
"""Minimum number of pixels in a visible object."""


@dataclass(frozen=True)
class ClipScore:
    """Correctness of each of a clip's attributes; with two objects, an attribute must be correct for both."""

    background: bool
    colour: bool
    direction: bool
    shape: bool


def find_background_colour(video: Tensor) -> Tensor:
    """Return the background colour [rgb]: the median of each channel over the clip."""
    return video[:, :, ::4, ::4].flatten(1).median(dim=1).values


def find_object_pixels(video: Tensor, frames: slice = slice(None)) -> Tensor:
    """Return a mask of the pixels that differ from the background of the video: float32 [frames, height, width].

    Args:
        frames: frames in which the pixels are sought; the background is computed from all frames.
    """
    background = find_background_colour(video)[:, None, None, None]
    return (video[:, frames] - background).norm(dim=0).gt(MIN_OBJECT_CONTRAST).float()


def judge_clip(video: Tensor, scenes: Scenes, index: int) -> ClipScore:
    """Compare a clip, float32 [rgb, frames, height, width] in 0 to 1, with the scene at an index."""
    video = video.cpu()
    background = torch.tensor(list(RGB_BY_BACKGROUND.values())[scenes.background[index]])
    is_background_correct = bool((find_background_colour(video) - background).abs().max() < MAX_BACKGROUND_ERROR)
    masks = (
        [find_object_pixels(video)]
        if scenes.object_count[index] == 1
        else split_objects_by_colour(video, background, scenes.colour[index])
    )
    colour = direction = shape = True
    for object_index, mask in enumerate(masks):
        middle_mask = mask[len(mask) // 2]
        if middle_mask.sum() < MIN_VISIBLE_PIXELS:
            return ClipScore(is_background_correct, False, False, False)
        if scenes.object_count[index] == 1:
            colour &= find_nearest_colour(video, mask) == scenes.colour[index, object_index]
        direction &= detect_motion(mask) == list(DIRECTION_BY_MOTION)[scenes.motion[index, object_index]]
        shape &= detect_shape(middle_mask) == SHAPES[scenes.shape[index, object_index]]
    return ClipScore(is_background_correct, colour, direction, shape)


def find_nearest_colour(video: Tensor, mask: Tensor) -> int:
    """Return the index of the world colour that is nearest to the median colour under a mask."""
    median_colour = video[:, mask.bool()].median(dim=1).values
    return int((torch.tensor(list(RGB_BY_COLOUR.values())) - median_colour).norm(dim=1).argmin())


def split_objects_by_colour(video: Tensor, background: Tensor, colours: Tensor) -> list[Tensor]:
    """Return masks of two objects of known colours, without the one-pixel seams in which colours mix."""
    reference_colours = torch.stack([background, *(torch.tensor(list(RGB_BY_COLOUR.values())[c]) for c in colours)])
    colour_distance = (video[None] - reference_colours[:, :, None, None, None]).norm(dim=1)
    nearest_label = colour_distance.argmin(0)
    masks = []
    for label in (1, 2):
        mask = ((nearest_label == label) & (colour_distance[label] < 0.35)).float()[:, None]
        opened_mask = F.max_pool2d(-F.max_pool2d(-mask, 3, 1, 1), 3, 1, 1)
        masks.append(opened_mask[:, 0])
    return masks


def find_centroid(mask: Tensor) -> Tensor:
    """Return the centre of a mask [height, width] as x and y from -1 to 1; NaN for an empty mask."""
    x, y = build_pixel_grid()
    return torch.stack([(mask * x).sum(), (mask * y).sum()]) / mask.sum()


def detect_motion(mask: Tensor) -> str:
    """Return the direction of the centroid from the first to the last frame; "none" if the object is not visible."""
    displacement = find_centroid(mask[-1]) - find_centroid(mask[0])
    if displacement.isnan().any():
        return "none"
    if displacement.norm() < MAX_STILL_TRAVEL:
        return "still"
    is_horizontal = displacement[0].abs() > displacement[1].abs()
    if is_horizontal:
        return "right" if displacement[0] > 0 else "left"
    return "down" if displacement[1] > 0 else "up"


@cache
def _measure_shape_template(shape: str) -> tuple[float, Tensor]:
    """Return the area and centroid offset of a shape of radius 1, measured on a shape of radius 0.5."""
    x, y = build_pixel_grid()
    mask = (compute_signed_distance(shape, 2 * x, 2 * y) < 0).float()
    return float(mask.mean()) * 16, find_centroid(mask) * 2


def detect_shape(mask: Tensor) -> str:
    """Return the shape that, rendered with the area and centroid of a mask, has the largest IoU with the mask."""
    x, y = build_pixel_grid()
    centre = find_centroid(mask)
    overlap_by_shape = {}
    for shape in SHAPES:
        area, offset = _measure_shape_template(shape)
        radius = float(mask.mean() * 4 / area) ** 0.5
        centre_x, centre_y = (centre - radius * offset).tolist()
        template_mask = compute_signed_distance(shape, (x - centre_x) / radius, (y - centre_y) / radius) < 0
        overlap_by_shape[shape] = float((template_mask & mask.bool()).sum() / (template_mask | mask.bool()).sum())
    return max(overlap_by_shape, key=lambda shape: overlap_by_shape[shape])
