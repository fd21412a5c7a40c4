"""Render scenes of the synthetic world to video, and compute which latent cells an object covers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wantui.models.nano.attributes import RGB_BY_BACKGROUND, RGB_BY_COLOUR, SHAPES
from wantui.models.nano.world import CLIP_FRAME_COUNT, CLIP_SIDE_PIXELS, Scenes

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
            side_distance = x.abs() * math.cos(math.pi / 6) - y * math.sin(math.pi / 6)
            return torch.maximum(side_distance, y) - 0.55
        case "star":
            # Fold the plane into one of ten equal wedges, each with a single straight edge from tip to notch.
            wedge_angle = math.pi / 5
            angle = (torch.remainder(torch.atan2(x, -y) + wedge_angle, 2 * wedge_angle) - wedge_angle).abs()
            radius, notch_radius = torch.hypot(x, y), 0.45
            edge_vector = (notch_radius * math.cos(wedge_angle) - 1.05, notch_radius * math.sin(wedge_angle))
            edge_length = math.hypot(*edge_vector)
            return (
                (radius * torch.cos(angle) - 1.05) * edge_vector[1] - radius * torch.sin(angle) * edge_vector[0]
            ) / edge_length
        case "cross":
            larger_coordinate, smaller_coordinate = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
            return torch.maximum(larger_coordinate - 1, smaller_coordinate - 0.3)
        case "ring":
            return (torch.hypot(x, y) - 0.75).abs() - 0.25
    raise ValueError(f"unknown shape {shape!r}. Choose from: {', '.join(SHAPES)}")


def build_pixel_grid(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return x and y of the pixel centres, each [height, width]."""
    pixel_centres = (torch.arange(CLIP_SIDE_PIXELS, device=device) + 0.5) / CLIP_SIDE_PIXELS * 2 - 1
    y, x = torch.meshgrid(pixel_centres, pixel_centres, indexing="ij")
    return x, y


def draw_object_masks(scenes: Scenes, device: torch.device | str) -> Tensor:
    """Return the coverage of each pixel by each object, before occlusion: [n, 2, frames, height, width]."""
    x, y = build_pixel_grid(device)
    relative_time = torch.linspace(0, 1, CLIP_FRAME_COUNT, device=device)
    scene_count = len(scenes)
    start, travel, radius = (
        torch.from_numpy(values).to(device).flatten(0, 1) for values in (scenes.start, scenes.travel, scenes.radius)
    )
    centre_positions = start[:, None] + travel[:, None] * relative_time[None, :, None]  # [2n, frames, xy]
    shapes = torch.from_numpy(scenes.shape).to(device).flatten()
    is_shown = torch.arange(2, device=device)[None] < torch.from_numpy(scenes.object_count).to(device)[:, None]
    masks = torch.zeros(2 * scene_count, CLIP_FRAME_COUNT, CLIP_SIDE_PIXELS, CLIP_SIDE_PIXELS, device=device)
    for index, shape in enumerate(SHAPES):
        selected_indices = torch.nonzero((shapes == index) & is_shown.flatten()).flatten()
        selected_radii = radius[selected_indices, None, None, None]
        distance = selected_radii * compute_signed_distance(
            shape,
            (x - centre_positions[selected_indices, :, 0, None, None]) / selected_radii,
            (y - centre_positions[selected_indices, :, 1, None, None]) / selected_radii,
        )
        masks[selected_indices] = torch.sigmoid(-distance * EDGE_SHARPNESS * CLIP_SIDE_PIXELS / 2)
    return masks.unflatten(0, (scene_count, 2))


def render_scenes(scenes: Scenes, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Render scenes to video; the second object is in front of the first.

    Returns:
        The video, uint8 [n, rgb, frames, height, width], and the mask of the visible part of each object, float32
        [n, 2, frames, height, width].
    """
    masks = draw_object_masks(scenes, device)
    colours = torch.tensor(list(RGB_BY_COLOUR.values()), device=device)[torch.from_numpy(scenes.colour).to(device)]
    backgrounds = torch.tensor(list(RGB_BY_BACKGROUND.values()), device=device)
    video = backgrounds[torch.from_numpy(scenes.background).to(device)][:, :, None, None, None]
    for object_index in range(2):
        video = torch.lerp(video, colours[:, object_index, :, None, None, None], masks[:, object_index, None])
    masks[:, 0] *= 1 - masks[:, 1]
    return (video * 255).round().to(torch.uint8), masks


def scale_to_vae_range(video: Tensor) -> Tensor:
    """Map uint8 pixels to float32 in -1 to 1, the range of the VAE."""
    return video.float() / 127.5 - 1


def pool_to_latent_frames(video: Tensor) -> Tensor:
    """Average the frames of each latent frame: the first frame alone, then groups of four.

    Maps [..., frames, height, width] to [..., (frames - 1) / 4 + 1, height, width].
    """
    first_frame, later_frames = video[..., :1, :, :], video[..., 1:, :, :]
    return torch.cat([first_frame, later_frames.unflatten(-3, (-1, 4)).mean(-3)], dim=-3)


def compute_cell_coverage(masks: Tensor) -> Tensor:
    """Compute the fraction of each transformer cell (16x16 pixels of a latent frame) that an object covers.

    Maps [n, 2, frames, height, width] to [n, 2, cells], with the cells in token order.
    """
    return pool_to_latent_frames(F.avg_pool3d(masks, (1, 16, 16))).flatten(2)
