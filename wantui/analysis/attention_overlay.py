"""Attention maps drawn over the frames of a video, with one colour scale for all words."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.attention_summary import average_over_steps
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.storage.attention_maps import AttentionMapsError, StoredAttentionMaps, open_attention_maps
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import read_frames, write_mp4

MAX_OPACITY = 0.65
"""Opacity of the colour at the upper end of the scale."""
STRIP_FRAMES = 5
"""Maximum number of frames in a strip."""


def find_clip(video: Video) -> Path:
    """Return the clip of a completed video.

    Raises:
        UserError: the manifest cannot be read, or no longer lists the video or its clip.
    """
    videos = read_manifest(BatchFolder(video.folder)).videos
    files = videos[video.number].files if video.number < len(videos) else {}
    if "clip" not in files:
        raise UserError(f"cannot draw over video {video.id}: its clip is not listed in batch.json")
    return video.folder / files["clip"]


def find_latent_frame(frame: int) -> int:
    """Return the latent frame of a video frame: latent frame 0 is the first video frame, all others are four each."""
    return (frame + 3) // 4


def compute_shared_scale(maps: StoredAttentionMaps, words: Sequence[str]) -> float:
    """Return the upper end of a colour scale from 0 for the maps of several words: their 99.5th percentile.

    Raises:
        AttentionMapsError: no step has a map.
    """
    each = np.stack([average_over_steps(maps, word) for word in words])
    known = each[np.isfinite(each)]
    if not len(known):
        raise AttentionMapsError(
            f"cannot scale the maps in {maps.path}: no block computed attention at any stored step"
        )
    return float(np.quantile(known, 0.995)) or 1.0


def draw_overlay(
    frames: Sequence[NDArray[np.uint8]], attention: NDArray[np.float64], scale: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield each frame [height, width, rgb] with its part of a map [latent frames, height, width] drawn over it."""
    from matplotlib import colormaps
    from PIL import Image

    colours = colormaps["inferno"]
    for index, frame in enumerate(frames):
        height, width = frame.shape[:2]
        share = np.clip(attention[min(find_latent_frame(index), len(attention) - 1)] / scale, 0, 1).astype(np.float32)
        large = np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR))
        heat = colours(large)[..., :3] * 255
        weight = MAX_OPACITY * np.sqrt(large)[..., None]
        yield np.rint(frame * (1 - weight) + heat * weight).astype(np.uint8)


def write_overlay(clip: Path, attention: Path, word: str, target: Path, fps: int) -> float:
    """Write a clip with the attention to a word drawn over it, and return the upper end of the colour scale.

    Raises:
        AttentionMapsError: no map of the word is stored.
    """
    maps = open_attention_maps(attention)
    if word not in maps.words:
        raise AttentionMapsError(f"no map of {word!r} is stored. Stored maps: {', '.join(maps.words) or 'none'}")
    scale = compute_shared_scale(maps, list(maps.words))
    frames = list(read_frames(clip))
    drawn = draw_overlay(frames, average_over_steps(maps, word), scale)
    tags = {"title": f"attention to {word}", "comment": f"mean over steps, blocks and heads; 0 to {scale:.3g}"}
    write_mp4(target, drawn, fps, len(frames), tags)
    return scale


def draw_strip(clip: Path, maps: StoredAttentionMaps, word: str, scale: float) -> NDArray[np.uint8]:
    """Return n <= STRIP_FRAMES frames side by side, [height, n width, rgb], with the attention to a word over them."""
    frames = list(read_frames(clip))
    chosen = np.linspace(0, len(frames) - 1, min(STRIP_FRAMES, len(frames))).round().astype(int)
    drawn = list(draw_overlay(frames, average_over_steps(maps, word), scale))
    return np.concatenate([drawn[index] for index in chosen], axis=1)
