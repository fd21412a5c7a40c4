"""Attention maps drawn over the frames of a video, with one colour scale for all words."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.attention_axes import MAX_SCALE_QUANTILE
from wantui.analysis.attention_summary import average_map_over_steps
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.planning import Recipe
from wantui.storage.attention_maps import AttentionMapsError, StoredAttentionMaps, open_attention_maps
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import read_frames, write_mp4
from wantui.storage.recorded_files import verify_clip

MAX_OPACITY = 0.65
"""Opacity of the colour at the upper end of the scale."""
FRAME_BRIGHTNESS = 0.6
"""Brightness of the frame under the colours, as a share of its own."""
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""
MAX_STRIP_FRAMES = 5
"""Maximum number of frames in a strip."""


def find_clip_path(video: Video) -> Path:
    """Return the clip of a completed video; refuse a clip that differs from the manifest's.

    Raises:
        UserError: the manifest cannot be read, or no longer lists the video or its clip.
        ClipError: the clip is damaged, or belongs to another video.
    """
    entries = read_manifest(BatchFolder(video.folder)).videos
    entry = entries[video.video_index] if video.video_index < len(entries) else None
    if entry is None or "clip" not in entry.files:
        raise UserError(f"cannot draw over video {video.id}: its clip is not listed in batch.json")
    clip_path = video.folder / entry.files["clip"]
    verify_clip(clip_path, entry.recipe, entry.sha256.get("clip"))
    return clip_path


def find_latent_frame(frame: int) -> int:
    """Return the latent frame that contains a video frame.

    Latent frame 0 contains the first video frame, and each later latent frame contains four.
    """
    return (frame + 3) // 4


def compute_scale_maximum(maps: StoredAttentionMaps, words: Sequence[str]) -> float:
    """Return the upper end of a colour scale from 0 for the maps of several words: their 99.5th percentile.

    Raises:
        AttentionMapsError: no step has a map.
    """
    return compute_mean_map_maximum([average_map_over_steps(maps, word) for word in words], maps.path)


def compute_mean_map_maximum(mean_maps: Sequence[NDArray[np.float64]], maps_path: Path) -> float:
    """Return the upper end of the colour scale for maps that are already averaged over steps.

    Args:
        maps_path: path of the stored maps, for the error message.

    Raises:
        AttentionMapsError: no step has a map.
    """
    stacked_maps = np.stack(mean_maps)
    finite_values = stacked_maps[np.isfinite(stacked_maps)]
    if not len(finite_values):
        raise AttentionMapsError(
            f"cannot scale the maps in {maps_path}: no block computed attention at any stored step"
        )
    return float(np.quantile(finite_values, MAX_SCALE_QUANTILE)) or 1.0


def draw_overlay(
    frames: Sequence[NDArray[np.uint8]], attention_map: NDArray[np.float64], scale_maximum: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield each frame [height, width, rgb] with its part of a map [latent frames, height, width] drawn over it."""
    for index, frame in enumerate(frames):
        frame_map = attention_map[min(find_latent_frame(index), len(attention_map) - 1)]
        yield draw_frame_overlay(frame, frame_map, scale_maximum)


def draw_frame_overlay(
    frame: NDArray[np.uint8], frame_map: NDArray[np.float64], scale_maximum: float
) -> NDArray[np.uint8]:
    """Return a grey frame [height, width, rgb] with a map [rows, columns] drawn over it; NaN counts as no attention."""
    from PIL import Image

    height, width = frame.shape[:2]
    relative_map = np.nan_to_num(np.clip(frame_map / scale_maximum, 0, 1)).astype(np.float32)
    resized_map = np.asarray(Image.fromarray(relative_map).resize((width, height), Image.Resampling.BILINEAR))
    opacity = MAX_OPACITY * np.sqrt(resized_map)[..., None]
    grey_frame = FRAME_BRIGHTNESS * (frame @ LUMA_WEIGHTS)[..., None]  # its colours would change those of the scale
    return np.rint(grey_frame * (1 - opacity) + map_heat_colours(resized_map) * opacity).astype(np.uint8)


def map_heat_colours(shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the colours [..., rgb], 0 to 255, at positions [...] on the colour scale, from 0 to 1."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](shares)[..., :3] * 255)


def write_overlay(clip_path: Path, maps_path: Path, word: str, target_path: Path, recipe: Recipe) -> float:
    """Write a clip with the attention to a word drawn over it, and return the upper end of the colour scale.

    Raises:
        AttentionMapsError: no map of the word is stored.
    """
    maps = open_attention_maps(maps_path, recipe)
    maps.reject_missing_word(word)
    scale_maximum = compute_scale_maximum(maps, list(maps.metadata_by_word))
    frames = list(read_frames(clip_path))
    overlaid_frames = draw_overlay(frames, average_map_over_steps(maps, word), scale_maximum)
    tags = {"title": f"attention to {word}", "comment": f"mean over steps, blocks and heads; 0 to {scale_maximum:.3g}"}
    write_mp4(target_path, overlaid_frames, recipe.fps, len(frames), tags)
    return scale_maximum


def draw_strip(clip_path: Path, maps: StoredAttentionMaps, word: str, scale_maximum: float) -> NDArray[np.uint8]:
    """Return up to MAX_STRIP_FRAMES frames side by side, [height, n width, rgb], overlaid with a word's attention."""
    frames = list(read_frames(clip_path))
    frame_indices = np.linspace(0, len(frames) - 1, min(MAX_STRIP_FRAMES, len(frames))).round().astype(int)
    overlaid_frames = list(draw_overlay(frames, average_map_over_steps(maps, word), scale_maximum))
    return np.concatenate([overlaid_frames[index] for index in frame_indices], axis=1)
