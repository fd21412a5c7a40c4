"""Attention drawn over the frames of a video, on one scale for all words that are compared."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.attention_summary import over_steps
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.storage.attention_maps import AttentionMapsError, StoredAttentionMaps, open_attention_maps
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import read_frames, write_mp4

STRENGTH = 0.65
"""Opacity of the colours at the upper end of the scale."""
SHOWN = 5
"""Frames of a strip."""


def clip_of(video: Video) -> Path:
    """Return the clip of a completed video.

    Raises:
        UserError: the manifest cannot be read, has no such video any more, or lists no clip of it.
    """
    videos = read_manifest(BatchFolder(video.folder)).videos
    files = videos[video.number].files if video.number < len(videos) else {}
    if "clip" not in files:
        raise UserError(f"cannot draw over video {video.id}: its clip is not listed in batch.json")
    return video.folder / files["clip"]


def latent_frame(frame: int) -> int:
    """Return the latent frame that a frame of the video belongs to: the first one alone, then four each."""
    return (frame + 3) // 4


def scale_of(maps: StoredAttentionMaps, words: Sequence[str]) -> float:
    """Return the upper end of a scale from 0 that the maps of all these words share: their 99.5th percentile.

    Raises:
        AttentionMapsError: no step has a map.
    """
    each = np.stack([over_steps(maps, word) for word in words])
    known = each[np.isfinite(each)]
    if not len(known):
        raise AttentionMapsError(f"no map in {maps.path} has a value: no block computed attention at any stored step")
    return float(np.quantile(known, 0.995)) or 1.0


def overlaid(
    frames: Sequence[NDArray[np.uint8]], attention: NDArray[np.float64], scale: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield each frame [height, width, rgb] with the map [latent frames, height, width] of its time over it."""
    from matplotlib import colormaps
    from PIL import Image

    colours = colormaps["inferno"]
    for index, frame in enumerate(frames):
        height, width = frame.shape[:2]
        share = np.clip(attention[min(latent_frame(index), len(attention) - 1)] / scale, 0, 1).astype(np.float32)
        large = np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR))
        heat = colours(large)[..., :3] * 255
        weight = STRENGTH * np.sqrt(large)[..., None]
        yield np.rint(frame * (1 - weight) + heat * weight).astype(np.uint8)


def write_overlay(clip: Path, attention: Path, word: str, target: Path, fps: int) -> float:
    """Write the attention to a word over a clip, as another clip; returns the upper end of the scale.

    Raises:
        AttentionMapsError: no such word.
    """
    maps = open_attention_maps(attention)
    if word not in maps.words:
        raise AttentionMapsError(
            f"no map of {word!r} is stored; there are {', '.join(maps.words) or 'none of any word'}"
        )
    scale = scale_of(maps, list(maps.words))
    frames = list(read_frames(clip))
    drawn = overlaid(frames, over_steps(maps, word), scale)
    tags = {"title": f"attention to {word}", "comment": f"mean over steps, blocks and heads; 0 to {scale:.3g}"}
    write_mp4(target, drawn, fps, len(frames), tags)
    return scale


def strip(clip: Path, maps: StoredAttentionMaps, word: str, scale: float) -> NDArray[np.uint8]:
    """Return five frames side by side [height, n width, rgb], with the attention to a word over them."""
    frames = list(read_frames(clip))
    chosen = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)
    drawn = list(overlaid(frames, over_steps(maps, word), scale))
    return np.concatenate([drawn[index] for index in chosen], axis=1)
