"""Batches with finished clips of known colours, made without a model."""

from pathlib import Path

import numpy as np

from wantui.config import load_config
from wantui.planning import plan_batch
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, write_batch_files, write_manifest
from wantui.storage.mp4 import Frame, write_mp4

FRAME_COUNT, FPS, SIDE = 9, 8, 32
TEMPLATE = "a [red|blue] [circle|square] on black"


def choose_colour(video: VideoEntry) -> tuple[int, int, int]:
    """Return the colour of a video's clip, which differs between all videos of a batch."""
    return 40 + 40 * video.variation, 40 + 60 * (video.number - 1), 128 + 25 * (video.cell or 0)


def draw_clip(colour: tuple[int, int, int], frame_count: int = FRAME_COUNT) -> list[Frame]:
    """Return frames of one colour; the upper half becomes lighter by 8 from frame to frame."""
    frames = []
    for number in range(frame_count):
        frame = np.full((SIDE, SIDE, 3), colour, np.uint8)
        frame[: SIDE // 2] += np.uint8(8 * number)
        frames.append(frame)
    return frames


def write_clip_batch(
    folder: Path,
    template: str = TEMPLATE,
    seeds: int = 2,
    unfinished: tuple[int, ...] = (),
    damaged: tuple[int, ...] = (),
    more: tuple[str, ...] = (),
) -> Manifest:
    """Write a batch folder whose videos are done; those with an index in `unfinished` are failed, without a clip.

    Args:
        damaged: indices of videos whose clips are not videos.
        seeds: number of videos per variation, unless `more` lists seeds.
        more: further settings, such as `sweeps=cfg_scale=2,4` or `seeds=7,42`.
    """
    settings = [
        f"video_settings.width={SIDE}",
        f"video_settings.height={SIDE}",
        f"video_settings.frames={FRAME_COUNT}",
        f"video_settings.fps={FPS}",
        *([] if any(text.startswith("seeds=") for text in more) else [f"videos_per_variation={seeds}"]),
        *more,
    ]
    batch_folder = BatchFolder(folder)
    folder.mkdir(parents=True)
    manifest = write_batch_files(batch_folder, plan_batch(load_config("nano", settings), template))
    for index, video in enumerate(manifest.videos):
        if index in unfinished:
            video.state, video.error = "failed", "out of memory"
            continue
        clip = batch_folder.make_clip_path(video.variation, video.number, manifest.find_cell_folder(video))
        clip.parent.mkdir(parents=True, exist_ok=True)
        if index in damaged:
            clip.write_bytes(b"damaged")
        else:
            write_mp4(clip, draw_clip(choose_colour(video)), FPS, FRAME_COUNT, {})
        video.state, video.files = "done", {"clip": clip.relative_to(folder).as_posix()}
    write_manifest(batch_folder, manifest)
    return manifest
