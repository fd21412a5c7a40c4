"""Preview of a video from its predicted clean latents, without the VAE: a linear fit from latents to RGB.

The fit depends on the VAE, and is computed when a pipeline is loaded: the VAE encodes colour fields, and least squares
in float64 map normalised latents (and a constant) to the mean colour of the pixels in each latent cell.
"""

import logging
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import WanPipeline
from numpy.typing import NDArray
from torch import Tensor

from wantui.atomic_files import create_empty_file, make_partial_path, remove_path, rename_created_file
from wantui.generation.denoise import Start, Step
from wantui.generation.errors import LoadError
from wantui.generation.placement import ensure_on_device, find_device

FIT_FIELD_SIZE = 128
"""Width and height of a colour field, in pixels."""
FIELDS, PATCHES = 4, 8
MAX_FRAMES = 5
SECONDS_BETWEEN_PREVIEWS = 2.0


class LatentToRgb:
    """The linear map of one VAE.

    Attributes:
        weights: float32 [channels + 1, rgb]; the last row is the constant.
        r2: explained share of the colour variance on the fitted colour fields.
    """

    def __init__(self, weights: Tensor, r2: float) -> None:
        self.weights, self.r2 = weights, r2

    def to_pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return up to five evenly spaced latent frames of [1, channels, frames, height, width] as [n, height, width,
        rgb]."""
        frames = latents.shape[2]
        chosen = torch.linspace(0, frames - 1, min(MAX_FRAMES, frames)).round().long().to(latents.device)
        cells = latents[0].index_select(1, chosen).movedim(0, -1).float()
        weights = self.weights.to(cells.device)
        rgb = cells @ weights[:-1] + weights[-1]
        return (rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()


@torch.no_grad()
def fit_latents_to_rgb(pipeline: WanPipeline) -> LatentToRgb:
    """Fit the map of a pipeline's VAE by encoding four small images.

    Raises:
        LoadError: the VAE returns NaN or infinity.
    """
    vae = pipeline.vae
    device = find_device(pipeline)
    ensure_on_device(pipeline, pipeline.vae)
    generator = torch.Generator("cpu").manual_seed(0)
    coarse = torch.rand(FIELDS, 3, PATCHES, PATCHES, generator=generator)
    # Two fields with uniform patches, two with smooth gradients.
    fields = torch.cat(
        [
            F.interpolate(coarse[: FIELDS // 2], size=(FIT_FIELD_SIZE, FIT_FIELD_SIZE), mode="nearest"),
            F.interpolate(coarse[FIELDS // 2 :], size=(FIT_FIELD_SIZE, FIT_FIELD_SIZE), mode="bilinear"),
        ]
    )
    moments = [
        vae.encode((2 * field - 1)[None, :, None].to(device, vae.dtype)).latent_dist.mode()[0, :, 0].double().cpu()
        for field in fields
    ]
    if not all(latents.isfinite().all() for latents in moments):
        raise LoadError("the VAE encodes images as NaN or infinity: its weights are damaged or not loaded")
    mean = torch.tensor(vae.config.latents_mean).double().view(-1, 1, 1)
    std = torch.tensor(vae.config.latents_std).double().view(-1, 1, 1)
    cells = torch.stack([(latents - mean) / std for latents in moments])
    colours = F.interpolate(fields.double(), size=cells.shape[-2:], mode="area")
    inputs = cells.movedim(1, -1).flatten(0, 2)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.double)], 1)
    targets = colours.movedim(1, -1).flatten(0, 2)
    weights = torch.linalg.lstsq(inputs, targets, driver="gelsd").solution
    unexplained = (targets - inputs @ weights).square().sum() / (targets - targets.mean(0)).square().sum()
    return LatentToRgb(weights.float(), 1 - float(unexplained))


class PreviewTap:
    """Periodic writer of a strip of images of the predicted clean video.

    Args:
        path: PNG file with one pixel per latent cell; removed when the video is finished.
        log: gets one warning if the file cannot be written; the video is then made without previews.
    """

    def __init__(self, fit: LatentToRgb, path: Path, log: logging.Logger) -> None:
        self.fit, self.path, self.log = fit, path, log
        self.has_failed = False
        self.written_at = float("-inf")
        self.is_new = False
        """True if the latest step wrote a strip."""

    def on_start(self, start: Start, steps_done: int) -> None:
        pass

    def on_step(self, step: Step) -> None:
        now = time.monotonic()
        self.is_new = now - self.written_at >= SECONDS_BETWEEN_PREVIEWS or step.index + 1 == step.count
        if not self.is_new:
            return
        from PIL import Image

        self.written_at = now
        pictures = self.fit.to_pictures(step.predicted_clean)
        partial = make_partial_path(self.path)
        try:
            self.path.parent.mkdir(exist_ok=True)
            created = create_empty_file(partial)
            Image.fromarray(np.concatenate(list(pictures), axis=1)).save(partial, format="PNG")
            rename_created_file(partial, self.path, created)
        except OSError as error:
            self.is_new = False
            self._report(error)
            with suppress(OSError):
                remove_path(partial)

    def on_end(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:  # for example another user's file in a sticky folder
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not self.has_failed:
            self.has_failed = True
            self.log.warning("cannot write the preview %s: %s. Generation continues without previews", self.path, error)
