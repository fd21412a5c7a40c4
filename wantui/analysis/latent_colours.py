"""Colours of latents without the VAE: a linear fit of one video's last latents to the frames of its clip.

The mean colour of each latent cell's pixels is fitted as a linear function of the cell's latent channels, by least
squares in float64 with a small ridge. The fit is never exact; it is closest for predicted clean states.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.storage.mp4 import ClipError, Frame, read_frames

RIDGE = 1e-3
"""Weight of the squared coefficients in the fit, per latent cell: noise in channels without colour stays dark."""


@dataclass(frozen=True)
class LatentColours:
    """Linear map from normalised latents to colours from 0 to 1."""

    weights: NDArray[np.float64]
    """[channels + 1, rgb]; the last row is the constant."""
    r2: float
    """Share of the variance of the clip's colours that the map explains."""

    def draw_frames(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return pictures [latent frames, height, width, rgb] of latents [channels, frames, height, width]."""
        colours = np.moveaxis(latents, 0, -1) @ self.weights[:-1].astype(np.float32) + self.weights[-1]
        return np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8)


def fit_latent_colours(last_latents: NDArray[np.float32], clip_path: Path) -> LatentColours:
    """Fit the colours of a video's clip to its last latents [channels, frames, height, width].

    Raises:
        ClipError: the clip cannot be read, or does not have the size of the latents.
    """
    channels, frame_count, height, width = last_latents.shape
    colours = _average_cells(read_frames(clip_path), (frame_count, height, width), clip_path)
    targets = colours.reshape(-1, 3)
    inputs = np.moveaxis(last_latents, 0, -1).reshape(-1, channels).astype(np.float64)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    ridge = np.diag([RIDGE * len(inputs)] * channels + [0.0])
    weights = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
    variance = np.square(targets - targets.mean(0)).sum()
    unexplained = np.square(targets - inputs @ weights).sum()
    return LatentColours(np.asarray(weights, dtype=np.float64), 1 - float(unexplained / variance) if variance else 1.0)


def _average_cells(frames: Iterable[Frame], shape: tuple[int, int, int], clip_path: Path) -> NDArray[np.float64]:
    """Return the mean colours [latent frames, height, width, rgb], 0 to 1, of each latent cell's pixels."""
    latent_frames, height, width = shape
    cell_colours = []
    for frame in frames:
        rows, columns = frame.shape[:2]
        if rows % height or columns % width:
            raise ClipError(
                f"{clip_path} does not match its latents: {columns} x {rows} pixels, but {width} x {height} cells"
            )
        cells = frame.reshape(height, rows // height, width, columns // width, 3)
        cell_colours.append(cells.mean((1, 3)) / 255)
    frames_per_latent, remainder = divmod(len(cell_colours) - 1, max(1, latent_frames - 1))
    if not cell_colours or remainder or (latent_frames == 1) != (len(cell_colours) == 1):
        raise ClipError(
            f"{clip_path} does not match its latents: {len(cell_colours)} frames, but {latent_frames} latent frames"
        )
    first, *others = cell_colours
    if not others:
        return np.stack([first])
    later_means = np.stack(others).reshape(latent_frames - 1, frames_per_latent, height, width, 3).mean(1)
    return np.concatenate([first[None], later_means])
