"""Small pictures of stored steps: states drawn by the linear fit of their colours, without a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.denoising_states import DenoisingStates, MissingStatesError, StateKind, StateMoment
from wantui.analysis.latent_colours import fit_latent_colours
from wantui.storage.video_selection import SelectedVideo


@dataclass(frozen=True)
class FittedStep:
    """The pictures of one state."""

    moment: StateMoment
    frames: NDArray[np.uint8]
    """[latent frames, height, width, rgb], one pixel per latent cell."""
    r2: float
    """Share of the variance of the clip's colours that the linear fit explains."""


def open_video_states(video: SelectedVideo) -> tuple[DenoisingStates, Path]:
    """Open the states of a finished video; return them and its clip.

    Raises:
        MissingStatesError: the video has no states or no clip; the text says why and how to store them.
        CaptureError: the states are damaged.
        ClipError: the clip is damaged, or belongs to another video.
    """
    latents, clip = video.find_file("latents"), video.find_verified_clip()
    if video.entry.state != "done":
        raise MissingStatesError(f"{video.name} has no decodable steps: it is {video.entry.state}")
    if latents is None or clip is None:
        missing = "clip" if clip is None else "trajectory"
        raise MissingStatesError(
            f"{video.name} has no decodable steps: it has no {missing}. To store the latents of future videos, set "
            "latent_analysis_settings.store_latents (--store-latents)"
        )
    return DenoisingStates(latents, video.entry.recipe, video.name), clip


def choose_evenly_spaced_moments(states: DenoisingStates, kind: StateKind, max_count: int) -> list[StateMoment]:
    """Return at most `max_count` evenly spaced states of one kind; the last one is the final latents.

    Raises:
        MissingStatesError: no state of this kind is stored.
    """
    moments = states.list_all_moments(kind)
    indices = np.linspace(0, len(moments) - 1, min(max_count, len(moments))).round().astype(int)
    return [moments[index] for index in indices.tolist()]


def draw_steps(states: DenoisingStates, clip: Path, moments: Sequence[StateMoment]) -> Iterator[FittedStep]:
    """Yield the pictures of states, one after another.

    Raises:
        CaptureError: a state is damaged.
        ClipError: the clip cannot be read, or does not fit the latents.
    """
    colours = fit_latent_colours(states.read_state(states.end), clip)
    for moment in moments:
        yield FittedStep(moment, colours.draw_frames(states.read_state(moment)), colours.r2)
