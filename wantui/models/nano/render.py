"""Render scenes of the synthetic world to video, and compute which latent cells an object covers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.models.nano.attributes import BACKGROUNDS, COLOURS, SHAPES
from wantui.models.nano.world import CLIP_FRAMES, CLIP_SIZE, Scenes

EDGE_SHARPNESS = 1.6
"""Change of the sigmoid's argument per pixel at the soft edge of an object."""


def compute_signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the distance of points from the outline of a unit shape at the origin, negative inside; y points down.

    The distance is exact, except outside of corners.
    """
    match shape:
        case "circle":
            return torch.hypot(x, y) - 1
        case "square":
            return torch.maximum(x.abs(), y.abs()) - 0.85
        case "triangle":
            flank = x.abs() * math.cos(math.pi / 6) - y * math.sin(math.pi / 6)
            return torch.maximum(flank, y) - 0.55
        case "star":
            # Fold the plane into one of ten equal wedges, each with a single straight edge from tip to notch.
            wedge = math.pi / 5
            angle = (torch.remainder(torch.atan2(x, -y) + wedge, 2 * wedge) - wedge).abs()
            radius, notch = torch.hypot(x, y), 0.45
            edge = (notch * math.cos(wedge) - 1.05, notch * math.sin(wedge))
            length = math.hypot(*edge)
            return ((radius * torch.cos(angle) - 1.05) * edge[1] - radius * torch.sin(angle) * edge[0]) / length
        case "cross":
            larger, smaller = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
            return torch.maximum(larger - 1, smaller - 0.3)
        case "ring":
            return (torch.hypot(x, y) - 0.75).abs() - 0.25
    raise ValueError(f"unknown shape {shape!r}. Choose from: {', '.join(SHAPES)}")


def build_pixel_grid(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return x and y of the pixel centres, each [height, width]."""
    centres = (torch.arange(CLIP_SIZE, device=device) + 0.5) / CLIP_SIZE * 2 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return x, y


def draw_object_masks(scenes: Scenes, device: torch.device | str) -> Tensor:
    """Return the coverage of each pixel by each object, before occlusion: [n, 2, frames, height, width]."""
    x, y = build_pixel_grid(device)
    time = torch.linspace(0, 1, CLIP_FRAMES, device=device)
    n = len(scenes)
    start, travel, radius = (
        torch.from_numpy(values).to(device).flatten(0, 1) for values in (scenes.start, scenes.travel, scenes.radius)
    )
    centre = start[:, None] + travel[:, None] * time[None, :, None]  # [2n, frames, xy]
    shapes = torch.from_numpy(scenes.shape).to(device).flatten()
    is_shown = torch.arange(2, device=device)[None] < torch.from_numpy(scenes.object_count).to(device)[:, None]
    masks = torch.zeros(2 * n, CLIP_FRAMES, CLIP_SIZE, CLIP_SIZE, device=device)
    for index, shape in enumerate(SHAPES):
        selected = torch.nonzero((shapes == index) & is_shown.flatten()).flatten()
        scale = radius[selected, None, None, None]
        distance = scale * compute_signed_distance(
            shape,
            (x - centre[selected, :, 0, None, None]) / scale,
            (y - centre[selected, :, 1, None, None]) / scale,
        )
        masks[selected] = torch.sigmoid(-distance * EDGE_SHARPNESS * CLIP_SIZE / 2)
    return masks.unflatten(0, (n, 2))


def render(scenes: Scenes, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Render scenes to video; the second object is in front of the first.

    Returns:
        The video, uint8 [n, rgb, frames, height, width], and the mask of the visible part of each object, float32
        [n, 2, frames, height, width].
    """
    masks = draw_object_masks(scenes, device)
    colours = torch.tensor(list(COLOURS.values()), device=device)[torch.from_numpy(scenes.colour).to(device)]
    backgrounds = torch.tensor(list(BACKGROUNDS.values()), device=device)
    video = backgrounds[torch.from_numpy(scenes.background).to(device)][:, :, None, None, None]
    for k in range(2):
        video = torch.lerp(video, colours[:, k, :, None, None, None], masks[:, k, None])
    masks[:, 0] *= 1 - masks[:, 1]
    return (video * 255).round().to(torch.uint8), masks


def to_vae_range(video: Tensor) -> Tensor:
    """Map uint8 pixels to float32 in -1 to 1, the range of the VAE."""
    return video.float() / 127.5 - 1


def pool_to_latent_frames(video: Tensor) -> Tensor:
    """Average the frames of each latent frame: the first frame alone, then groups of four.

    Maps [..., frames, height, width] to [..., (frames - 1) / 4 + 1, height, width].
    """
    first, others = video[..., :1, :, :], video[..., 1:, :, :]
    return torch.cat([first, others.unflatten(-3, (-1, 4)).mean(-3)], dim=-3)


def compute_cell_coverage(masks: Tensor) -> Tensor:
    """Compute the fraction of each transformer cell (16x16 pixels of a latent frame) that an object covers.

    Maps [n, 2, frames, height, width] to [n, 2, cells], with the cells in token order.
    """
    return pool_to_latent_frames(F.avg_pool3d(masks, (1, 16, 16))).flatten(2)
