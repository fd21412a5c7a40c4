"""Attention to the marked words of one video, as the Analysis screen shows it: frames, maps by step, and figures."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.tui.plain_names import replace_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.analysis.attention_axes import AttentionAxis
    from wantui.storage.attention_maps import StoredAttentionMaps

MAX_FRAME_SIDE = 360
"""Maximum width and height of a stored frame in pixels: no terminal pane shows more."""
SCALE_COLOUR_COUNT = 256
"""Number of colours of the drawn scale."""
MEAN_STEP = -1
"""Index of the map that is the mean over all steps."""


@dataclass(frozen=True)
class WordAttention:
    """Attention to one marked word."""

    map_name: str
    text: str
    token_texts: tuple[str, ...]
    mass_by_step: tuple[float, ...]
    """Share of all attention, by step; NaN at steps where no block computed attention."""
    entropy_by_step: tuple[float, ...]
    mean_mass: float
    mean_entropy: float
    mean_map: "NDArray[np.float64]"
    """[latent frames, height, width], mean over steps."""


@dataclass(frozen=True)
class OverlayKey:
    """Choice of a picture by indices: word, stored step (or MEAN_STEP) and frame."""

    word_index: int
    step_index: int
    """Index of the stored step, or of the block or head on these axes; MEAN_STEP is the mean over all."""
    frame_index: int
    axis: "AttentionAxis" = "step"


@dataclass(frozen=True)
class AxisMaps:
    """Maps of all words by block or by head, each averaged over all steps, with one colour scale for all maps."""

    maps_by_word: "tuple[NDArray[np.float32], ...]"
    """[n, latent frames, height, width] for each word."""
    mass_by_word: tuple[tuple[float, ...], ...]
    """Share of all attention for each word and each block or head; NaN where none was computed."""
    scale_maximum: float


@dataclass(frozen=True)
class AttentionFilm:
    """The frames of a video and the attention to its marked words."""

    words: tuple[WordAttention, ...]
    sigmas: tuple[float, ...]
    """Noise level of each stored step."""
    steps: tuple[int, ...]
    """Step of each stored evaluation, from 0; `heun` evaluates the model twice per step."""
    frames: "tuple[NDArray[np.uint8], ...]"
    """Frames of the video, reduced; empty if pictures are off."""
    scale_maximum: float
    """Upper end of the colour scale, equal for all words."""
    scale_colours: tuple[tuple[int, int, int], ...]
    maps: "StoredAttentionMaps"
    video_name: str
    counts_by_axis: "dict[AttentionAxis, int]" = field(default_factory=dict)
    """Number of blocks, and number of heads, whose maps are stored separately."""
    maps_by_axis: "dict[AttentionAxis, AxisMaps]" = field(default_factory=dict)
    """Maps by block and by head, once they are read."""

    def get_scale_maximum(self, axis: "AttentionAxis") -> float:
        """Return the upper end of an axis's colour scale, which all its pictures share."""
        axis_maps = self.maps_by_axis.get(axis)
        return self.scale_maximum if axis_maps is None else axis_maps.scale_maximum

    def list_axes(self) -> "list[AttentionAxis]":
        """Return the axes along which pictures can be drawn."""
        return ["step", *self.counts_by_axis]

    def count_pictures(self, axis: "AttentionAxis") -> int:
        """Return the number of stored steps, blocks or heads."""
        return self.counts_by_axis.get(axis, len(self.sigmas))

    def clamp_key(self, key: OverlayKey) -> OverlayKey:
        """Return the choice nearest to `key` that this film has; words wrap around."""
        axis: AttentionAxis = key.axis if key.axis in self.counts_by_axis else "step"
        return OverlayKey(
            key.word_index % max(1, len(self.words)),
            max(MEAN_STEP, min(key.step_index, self.count_pictures(axis) - 1)),
            max(0, min(key.frame_index, len(self.frames) - 1)),
            axis,
        )

    def read_axis(self, axis: "AttentionAxis") -> AxisMaps:
        """Return the maps by block or by head; read them only once.

        Raises:
            UserError: a map cannot be read.
        """
        from wantui.analysis.attention_axes import average_maps_along, compute_shared_maximum

        if axis not in self.maps_by_axis:
            steps = range(len(self.sigmas))
            maps_by_word = tuple(average_maps_along(self.maps, word.map_name, axis, steps) for word in self.words)
            mass_by_word = tuple(tuple(maps.mean((1, 2, 3)).tolist()) for maps in maps_by_word)
            self.maps_by_axis[axis] = AxisMaps(maps_by_word, mass_by_word, compute_shared_maximum(maps_by_word))
        return self.maps_by_axis[axis]

    def draw_picture(self, key: OverlayKey) -> "NDArray[np.uint8]":
        """Return a frame with the attention drawn over it; reads the map of the step.

        Raises:
            UserError: the map cannot be read.
        """
        from wantui.analysis.attention_overlay import draw_frame_overlay, find_latent_frame

        word = self.words[key.word_index]
        axis_maps = None if key.axis == "step" else self.read_axis(key.axis)
        if key.step_index == MEAN_STEP:
            word_map = word.mean_map
        elif axis_maps is not None:
            word_map = axis_maps.maps_by_word[key.word_index][key.step_index].astype(word.mean_map.dtype)
        else:
            word_map = self.maps.read_mean_map_at_step(word.map_name, key.step_index)
        frame_map = word_map[min(find_latent_frame(key.frame_index), len(word_map) - 1)]
        return draw_frame_overlay(self.frames[key.frame_index], frame_map, self.get_scale_maximum(key.axis))


def load_attention_film(video: Video, with_frames: bool) -> AttentionFilm:
    """Read the attention to the marked words of a video.

    Raises:
        UserError: no maps are stored or marked, or maps or clip cannot be read.
    """
    import numpy as np

    from wantui.analysis.attention_axes import list_map_steps
    from wantui.analysis.attention_overlay import compute_mean_map_maximum, map_heat_colours
    from wantui.analysis.attention_summary import average_finite_values, average_map_over_steps, compute_word_curves
    from wantui.storage.attention_maps import open_attention_maps

    if video.attention_path is None:
        raise UserError(
            "no attention maps are stored for this video.\n\n"
            "To store them: mark a word in the template, such as a red (circle), and turn on 'store attention'\n"
            "in Compose (1, then s), or add --store-attention to `wantui run`"
        )
    maps = open_attention_maps(video.attention_path, video.recipe)
    if not maps.metadata_by_word:
        raise UserError("the prompt has no marked words: put a word in parentheses, such as a red (circle)")
    words = []
    for map_name in maps.metadata_by_word:
        curves = compute_word_curves(maps, map_name)
        words.append(
            WordAttention(
                map_name,
                curves.word_text,
                curves.token_texts,
                tuple(curves.mass.tolist()),
                tuple(curves.entropy.tolist()),
                average_finite_values(curves.mass),
                average_finite_values(curves.entropy),
                average_map_over_steps(maps, map_name),
            )
        )
    scale_maximum = compute_mean_map_maximum([word.mean_map for word in words], maps.path)
    frames = _read_reduced_frames(video) if with_frames else ()
    shares = np.linspace(0, 1, SCALE_COLOUR_COUNT, dtype=np.float32)
    colours = [(round(r), round(g), round(b)) for r, g, b in map_heat_colours(shares).tolist()] if with_frames else []
    return AttentionFilm(
        tuple(words),
        tuple(maps.sigmas.tolist()),
        tuple(list_map_steps(maps, video.recipe)),
        frames,
        scale_maximum,
        tuple(colours),
        maps,
        replace_names(video.name),
        _count_stored_axes(maps, words[0].map_name) if with_frames else {},
    )


def _count_stored_axes(maps: "StoredAttentionMaps", map_name: str) -> "dict[AttentionAxis, int]":
    """Return the numbers of blocks and heads whose maps are stored separately."""
    from wantui.analysis.attention_axes import AXES, count_axis_maps
    from wantui.storage.attention_maps import AttentionMapsError

    counts: dict[AttentionAxis, int] = {}
    for axis in AXES[1:]:
        with suppress(AttentionMapsError):  # the maps are means over this axis
            counts[axis] = count_axis_maps(maps, map_name, axis)
    return counts


def _read_reduced_frames(video: Video) -> "tuple[NDArray[np.uint8], ...]":
    """Return the frames of a video, each reduced to at most `MAX_FRAME_SIDE` pixels.

    Raises:
        UserError: the clip cannot be read, or has no frames.
    """
    import numpy as np
    from PIL import Image

    from wantui.analysis.attention_overlay import find_clip_path
    from wantui.storage.mp4 import read_frames

    frames = []
    for frame in read_frames(find_clip_path(video)):
        picture = Image.fromarray(frame)
        picture.thumbnail((MAX_FRAME_SIDE, MAX_FRAME_SIDE))
        frames.append(np.asarray(picture))
    if not frames:
        raise UserError(f"cannot draw over video {video.id}: its clip has no frames")
    return tuple(frames)
