"""The style of the adapter nano-style: the lower part of each object is white, and blue if the object is white."""

import torch
from torch import Tensor

from wantui.models.nano.attributes import RGB_BY_BACKGROUND, RGB_BY_COLOUR
from wantui.models.nano.judge import MIN_VISIBLE_PIXELS, find_object_pixels
from wantui.models.nano.render import EDGE_SHARPNESS, build_pixel_grid, draw_object_masks
from wantui.models.nano.world import CLIP_FRAME_COUNT, CLIP_SIDE_PIXELS, Scenes

DIP_START = 0.2
"""Distance of the dip's upper edge below the object's centre, in radii."""
JUDGED_HEIGHT_FRACTION = 0.3
"""Lower fraction of an object's height in which the colour of the dip is judged."""


def find_dip_colours(colours: Tensor) -> Tensor:
    """Return the colour index of the dip for each object colour: white, or blue for white objects.

    The dip is the recoloured lower part of an object.
    """
    names = list(RGB_BY_COLOUR)
    return torch.where(colours == names.index("white"), names.index("blue"), names.index("white"))


def render_dipped_scenes(scenes: Scenes, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Render scenes like `render_scenes`, with dipped objects."""
    masks = draw_object_masks(scenes, device)
    palette = torch.tensor(list(RGB_BY_COLOUR.values()), device=device)
    colour_indices = torch.from_numpy(scenes.colour).to(device)
    _, y = build_pixel_grid(device)
    relative_time = torch.linspace(0, 1, CLIP_FRAME_COUNT, device=device)
    start, travel, radius = (
        torch.from_numpy(values).to(device) for values in (scenes.start, scenes.travel, scenes.radius)
    )
    backgrounds = torch.tensor(list(RGB_BY_BACKGROUND.values()), device=device)
    video = backgrounds[torch.from_numpy(scenes.background).to(device)][:, :, None, None, None]
    for index in range(2):
        centre_y = start[:, index, 1, None] + travel[:, index, 1, None] * relative_time
        depth = y - centre_y[:, :, None, None] - DIP_START * radius[:, index, None, None, None]
        is_dipped = torch.sigmoid(depth * EDGE_SHARPNESS * CLIP_SIDE_PIXELS / 2)[:, None]
        own, dip = (
            palette[indices][:, :, None, None, None]
            for indices in (colour_indices[:, index], find_dip_colours(colour_indices[:, index]))
        )
        video = torch.lerp(video, torch.lerp(own, dip, is_dipped), masks[:, index, None])
    masks[:, 0] *= 1 - masks[:, 1]
    return (video * 255).round().to(torch.uint8), masks


def is_object_dipped(video: Tensor, colour: int) -> bool:
    """Return whether the bottom of an object is nearer to the colour of the dip, and its upper half to its own colour.

    Args:
        video: clip of one object, float32 [rgb, frames, height, width] in 0 to 1.
        colour: index of the object's colour.
    """
    middle_frame = CLIP_FRAME_COUNT // 2
    mask = find_object_pixels(video, slice(middle_frame, middle_frame + 1))[0].bool()
    if mask.sum() < MIN_VISIBLE_PIXELS:
        return False
    rows = torch.nonzero(mask.any(dim=1)).flatten()
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    middle_row = (top + bottom) // 2
    dip_top = round(bottom - JUDGED_HEIGHT_FRACTION * (bottom - top))
    palette = torch.tensor(list(RGB_BY_COLOUR.values()))
    own_and_dip = palette[torch.stack([torch.tensor(colour), find_dip_colours(torch.tensor(colour))])]
    nearest = []
    for first_row, last_row in ((top, middle_row), (min(dip_top, bottom - 1), bottom)):
        pixels = video[:, middle_frame, first_row:last_row][:, mask[first_row:last_row]]
        nearest.append(int((own_and_dip - pixels.median(dim=1).values).norm(dim=1).argmin()))
    return nearest == [0, 1]
