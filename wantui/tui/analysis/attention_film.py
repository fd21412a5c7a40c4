"""Attention to the marked words of one video, as the Analysis screen shows it: frames, maps by step, and figures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wantui.analysis.video import Video
from wantui.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.storage.attention_maps import StoredAttentionMaps

MAX_FRAME_SIDE = 360
"""Maximum width and height of a stored frame in pixels: no terminal pane shows more."""
SCALE_CELL_COUNT = 24
"""Number of colours of the drawn scale."""
MEAN_STEP = -1
"""Index of the map that is the mean over all steps."""


@dataclass(frozen=True)
class MarkedWord:
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
    """Choice of a picture: word, stored step (or MEAN_STEP) and frame, as indices."""

    word_index: int
    step_index: int
    frame_index: int


@dataclass(frozen=True)
class AttentionFilm:
    """The frames of a video and the attention to its marked words."""

    words: tuple[MarkedWord, ...]
    sigmas: tuple[float, ...]
    """Noise level of each stored step."""
    evaluations: tuple[int, ...]
    """Index of the evaluation of each stored step, from 0."""
    frames: "tuple[NDArray[np.uint8], ...]"
    """Frames of the video, reduced; empty if pictures are off."""
    scale_maximum: float
    """Upper end of the colour scale, equal for all words."""
    scale_colours: tuple[tuple[int, int, int], ...]
    maps: "StoredAttentionMaps"

    def clamp_key(self, key: OverlayKey) -> OverlayKey:
        """Return the choice nearest to `key` that this film has; words go around."""
        return OverlayKey(
            key.word_index % max(1, len(self.words)),
            max(MEAN_STEP, min(key.step_index, len(self.sigmas) - 1)),
            max(0, min(key.frame_index, len(self.frames) - 1)),
        )

    def draw_picture(self, key: OverlayKey) -> "NDArray[np.uint8]":
        """Return a frame with the attention drawn over it; reads the map of the step.

        Raises:
            UserError: the map cannot be read.
        """
        from wantui.analysis.attention_overlay import draw_frame_overlay, find_latent_frame

        word = self.words[key.word_index]
        word_map = (
            word.mean_map
            if key.step_index == MEAN_STEP
            else self.maps.read_mean_map_at_step(word.map_name, key.step_index)
        )
        frame_map = word_map[min(find_latent_frame(key.frame_index), len(word_map) - 1)]
        return draw_frame_overlay(self.frames[key.frame_index], frame_map, self.scale_maximum)


def load_attention_film(video: Video, with_frames: bool) -> AttentionFilm:
    """Read the attention to the marked words of a video.

    Raises:
        UserError: no maps are stored or marked, or maps or clip cannot be read.
    """
    import numpy as np

    from wantui.analysis.attention_overlay import compute_mean_map_maximum, map_heat_colours
    from wantui.analysis.attention_summary import average_finite_values, average_map_over_steps, compute_word_curves
    from wantui.storage.attention_maps import open_attention_maps

    if video.attention_path is None:
        raise UserError(
            "no attention maps are stored of this video.\n\n"
            "To store them: mark a word in the template, such as a red (circle), and turn on store_attention\n"
            "in Compose (1, then s), or add --store-attention to `wantui run`"
        )
    maps = open_attention_maps(video.attention_path)
    if not maps.metadata_by_word:
        raise UserError("the prompt has no marked words: put a word in parentheses, such as a red (circle)")
    words = []
    for map_name in maps.metadata_by_word:
        curves = compute_word_curves(maps, map_name)
        words.append(
            MarkedWord(
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
    shares = np.linspace(0, 1, SCALE_CELL_COUNT, dtype=np.float32)
    colours = [(round(r), round(g), round(b)) for r, g, b in map_heat_colours(shares).tolist()] if with_frames else []
    return AttentionFilm(
        tuple(words),
        tuple(maps.sigmas.tolist()),
        tuple(maps.evaluations.tolist()),
        frames,
        scale_maximum,
        tuple(colours),
        maps,
    )


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
