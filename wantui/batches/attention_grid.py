"""Grid of attention maps: a row per video and word, a column per step, block or head, with one colour scale for all."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.attention_axes import (
    AttentionAxis,
    average_maps_along,
    compute_shared_maximum,
    count_axis_maps,
    list_map_steps,
)
from wantui.analysis.attention_overlay import draw_frame_overlay, find_latent_frame, map_heat_colours
from wantui.analysis.stored_steps import find_stored_step
from wantui.errors import UserError
from wantui.gallery.labelled_grid import ColourBar, FrameCell, LabelledGrid
from wantui.keyframes import KeyframeError
from wantui.storage.attention_maps import StoredAttentionMaps, open_attention_maps
from wantui.storage.manifest import VideoEntry
from wantui.storage.mp4 import Frame
from wantui.storage.recorded_files import read_recorded_frames
from wantui.storage.video_selection import SelectedVideo, label_videos

DEFAULT_STEP_COLUMNS = 8
"""Number of evenly spread steps that are shown by default."""
MAX_MAPS = 256
"""Maximum number of maps in a grid; all are in memory at once."""
SCALE_COLOUR_COUNT = 256
SELECTION_ADVICE = "select videos with --variation, --seed or --video-id, words with --word, or fewer --steps"
SCALE_TITLE = "share of a position's attention that goes to the word"


@dataclass(frozen=True)
class AttentionRow:
    """Maps of one word in one video."""

    video: SelectedVideo
    clip: Path | None
    word: str
    maps: NDArray[np.float32]
    """[columns, latent frames, height, width]; NaN where no block computed attention."""


@dataclass(frozen=True)
class AttentionColumns:
    """Content of a grid's columns."""

    axis: AttentionAxis
    indices: tuple[int, ...]
    """Evaluations, blocks or heads, from 0."""
    labels: tuple[str, ...]


def open_video_maps(video: SelectedVideo) -> StoredAttentionMaps | None:
    """Open the attention maps of a video; None if the video has none.

    Raises:
        AttentionMapsError: the maps are damaged.
    """
    path = video.find_file("attention")
    return None if path is None else open_attention_maps(path, video.entry.recipe)


def choose_step_indices(
    maps: StoredAttentionMaps, video: SelectedVideo, written_moments: Sequence[str], shows_steps: bool
) -> list[int]:
    """Return the indices of the stored steps to include: the given steps, otherwise all steps, or a few as columns.

    Raises:
        UserError: a moment cannot be read, or its step is not stored.
    """
    recipe = video.entry.recipe
    steps, step_count = list_map_steps(maps, recipe), recipe.steps
    if written_moments:
        description = f"{video.name} has no attention map"
        sigmas = maps.sigmas.tolist()
        try:
            return sorted(
                {find_stored_step(w.strip(), steps, sigmas, step_count, description) for w in written_moments}
            )
        except KeyframeError as error:
            raise UserError(f"--steps: {error}") from None
    if not shows_steps or len(steps) <= DEFAULT_STEP_COLUMNS:
        return list(range(len(steps)))
    return sorted(set(np.linspace(0, len(steps) - 1, DEFAULT_STEP_COLUMNS).round().astype(int).tolist()))


def describe_columns(
    maps: StoredAttentionMaps, video: SelectedVideo, word: str, axis: AttentionAxis, step_indices: Sequence[int]
) -> AttentionColumns:
    """Return the columns of a video's maps.

    Raises:
        AttentionMapsError: the maps are averaged over the axis.
    """
    count = count_axis_maps(maps, word, axis)
    if axis != "step":
        return AttentionColumns(axis, tuple(range(count)), tuple(f"{axis} {index}" for index in range(count)))
    steps = list_map_steps(maps, video.entry.recipe)
    labels = tuple(f"step {steps[index]}, σ {maps.sigmas[index]:.3g}" for index in step_indices)
    return AttentionColumns(axis, tuple(int(maps.evaluations[index]) for index in step_indices), labels)


def read_row(
    video: SelectedVideo, maps: StoredAttentionMaps, word: str, axis: AttentionAxis, step_indices: Sequence[int]
) -> AttentionRow:
    """Read the maps of one row.

    Raises:
        AttentionMapsError: a map is damaged.
    """
    return AttentionRow(video, video.find_file("clip"), word, average_maps_along(maps, word, axis, step_indices))


def arrange_attention(
    rows: Sequence[AttentionRow], columns: AttentionColumns, shows_frames: bool
) -> tuple[LabelledGrid, float]:
    """Return the grid of attention maps, and the upper end of its colour scale.

    Args:
        shows_frames: draw the maps over the frames of the clips, instead of as colours alone.

    Raises:
        UserError: a clip is missing, or the videos differ in frames per second.
        AttentionMapsError: no map has a value.
    """
    if len({row.video.entry.recipe.fps for row in rows}) > 1:
        raise UserError(
            f"cannot draw one grid: the videos differ in frames per second. {SELECTION_ADVICE.capitalize()}"
        )
    scale_maximum = compute_shared_maximum([row.maps for row in rows])
    cells = {
        (row_index, column_index): _make_cell(row, attention_map, scale_maximum, shows_frames)
        for row_index, row in enumerate(rows)
        for column_index, attention_map in enumerate(row.maps)
    }
    shares = np.linspace(0, 1, SCALE_COLOUR_COUNT, dtype=np.float32)[None]
    bar = ColourBar(
        np.rint(map_heat_colours(shares)).astype(np.uint8), "0", f"{100 * scale_maximum:.3g}% or more", SCALE_TITLE
    )
    recipe = rows[0].video.entry.recipe
    size = (recipe.width, recipe.height)
    grid = LabelledGrid(_label_rows(rows), columns.labels, cells, size, SELECTION_ADVICE, colour_bar=bar)
    return grid, scale_maximum


def _make_cell(
    row: AttentionRow, attention_map: NDArray[np.float32], scale_maximum: float, shows_frames: bool
) -> FrameCell:
    recipe = row.video.entry.recipe
    if not np.isfinite(attention_map).any():
        return FrameCell(None, recipe.frames, "skipped")
    if shows_frames:
        if row.clip is None:
            raise UserError(f"{row.video.name} has no clip to draw over. Use --heat")
        return FrameCell(
            partial(_draw_over_clip, row.clip, row.video.entry, attention_map, scale_maximum), recipe.frames
        )
    size = (recipe.width, recipe.height)
    return FrameCell(partial(_draw_heat, attention_map, scale_maximum, size, recipe.frames), recipe.frames)


def _draw_over_clip(
    clip: Path, entry: VideoEntry, attention_map: NDArray[np.float32], scale_maximum: float
) -> Generator[Frame, None, None]:
    with closing(read_recorded_frames(clip, entry, thread_count=1)) as frames:
        for index, frame in enumerate(frames):
            latent_frame = min(find_latent_frame(index), len(attention_map) - 1)
            yield draw_frame_overlay(frame, attention_map[latent_frame].astype(np.float64), scale_maximum)


def _draw_heat(
    attention_map: NDArray[np.float32], scale_maximum: float, size: tuple[int, int], frame_count: int
) -> Generator[Frame, None, None]:
    """Yield frames of one colour per position, without interpolation."""
    from PIL import Image

    for index in range(frame_count):
        latent_frame = min(find_latent_frame(index), len(attention_map) - 1)
        shares = np.clip(np.nan_to_num(attention_map[latent_frame] / scale_maximum), 0, 1).astype(np.float32)
        colours = np.rint(map_heat_colours(shares)).astype(np.uint8)
        yield np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST))


def _label_rows(rows: Sequence[AttentionRow]) -> tuple[str, ...]:
    """Return the label of each row: how its video differs from the others, then the word."""
    videos = [row.video for row in rows]
    is_single = len({id(video.entry) for video in videos}) == 1
    return tuple(
        row.word if is_single else f"{label}: {row.word}" for row, label in zip(rows, label_videos(videos), strict=True)
    )
