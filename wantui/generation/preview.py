"""Preview of a video from its predicted clean latents, without the VAE: a linear fit from latents to RGB.

The fit depends on the VAE, and is computed when a pipeline is loaded: the VAE encodes colour fields, and least squares
in float64 map normalised latents (and a constant) to the mean colour of the pixels in each latent cell.
"""

import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import WanPipeline
from numpy.typing import NDArray
from torch import Tensor

from wantui.atomic_files import remove_path
from wantui.generation.denoising_state import DenoisingInputs, DenoisingStep
from wantui.generation.errors import LoadError
from wantui.generation.placement import ensure_on_device, find_device
from wantui.storage.preview_files import PreviewFolder, make_preview_folder_path, write_preview

FIT_FIELD_PIXELS = 128
"""Width and height of a colour field, in pixels."""
FIELD_COUNT, PATCHES_PER_SIDE = 4, 8
MAX_PREVIEW_FRAMES = 5
MAX_PREVIEW_TIME_SHARE = 0.02
"""Target share of the time for writing previews, except for the first and last preview."""
MAX_PREVIEW_INTERVAL_SECONDS = 30.0
"""Maximum seconds between two previews, even if writing one takes long."""


class LatentToRgbMap:
    """The linear map of one VAE.

    Attributes:
        weights: float32 [channels + 1, rgb]; the last row is the constant.
        r2: explained share of the colour variance on the fitted colour fields.
    """

    def __init__(self, weights: Tensor, r2: float) -> None:
        self.weights, self.r2 = weights, r2

    def draw_pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return pictures [n, height, width, rgb] of up to five evenly spaced latent frames.

        The latents are [1, channels, frames, height, width].
        """
        frames = latents.shape[2]
        frame_indices = torch.linspace(0, frames - 1, min(MAX_PREVIEW_FRAMES, frames)).round().long().to(latents.device)
        latent_cells = latents[0].index_select(1, frame_indices).movedim(0, -1).float()
        weights = self.weights.to(latent_cells.device)
        rgb = latent_cells @ weights[:-1] + weights[-1]
        return (rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()


@torch.no_grad()
def fit_latents_to_rgb(pipeline: WanPipeline) -> LatentToRgbMap:
    """Fit the map from latents to RGB of a pipeline's VAE by encoding four small images.

    Raises:
        LoadError: the VAE returns NaN or infinity.
    """
    vae = pipeline.vae
    device = find_device(pipeline)
    ensure_on_device(pipeline, pipeline.vae)
    generator = torch.Generator("cpu").manual_seed(0)
    patch_colours = torch.rand(FIELD_COUNT, 3, PATCHES_PER_SIDE, PATCHES_PER_SIDE, generator=generator)
    # Two fields with uniform patches, two with smooth gradients.
    colour_fields = torch.cat(
        [
            F.interpolate(patch_colours[: FIELD_COUNT // 2], size=(FIT_FIELD_PIXELS, FIT_FIELD_PIXELS), mode="nearest"),
            F.interpolate(
                patch_colours[FIELD_COUNT // 2 :], size=(FIT_FIELD_PIXELS, FIT_FIELD_PIXELS), mode="bilinear"
            ),
        ]
    )
    encoded_fields = [
        vae.encode((2 * colour_field - 1)[None, :, None].to(device, vae.dtype))
        .latent_dist.mode()[0, :, 0]
        .double()
        .cpu()
        for colour_field in colour_fields
    ]
    if not all(latents.isfinite().all() for latents in encoded_fields):
        raise LoadError("the VAE encodes images as NaN or infinity: its weights are damaged or not loaded")
    mean = torch.tensor(vae.config.latents_mean).double().view(-1, 1, 1)
    std = torch.tensor(vae.config.latents_std).double().view(-1, 1, 1)
    latent_cells = torch.stack([(latents - mean) / std for latents in encoded_fields])
    cell_colours = F.interpolate(colour_fields.double(), size=latent_cells.shape[-2:], mode="area")
    inputs = latent_cells.movedim(1, -1).flatten(0, 2)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.double)], 1)
    targets = cell_colours.movedim(1, -1).flatten(0, 2)
    weights = torch.linalg.lstsq(inputs, targets, driver="gelsd").solution
    unexplained_variance = (targets - inputs @ weights).square().sum() / (targets - targets.mean(0)).square().sum()
    return LatentToRgbMap(weights.float(), 1 - float(unexplained_variance))


class PreviewListener:
    """Writer of strips that show the predicted clean video: one of the latest step, and small strips of earlier steps.

    Every step has a strip if that takes at most `MAX_PREVIEW_TIME_SHARE` of the time.

    Args:
        preview_path: PNG file with one pixel per latent cell. It and the earlier strips (`storage.preview_files`) are
            removed when the video is finished.
        log: gets one warning if a file cannot be written; the video is then made without previews.
    """

    def __init__(self, latent_to_rgb: LatentToRgbMap, preview_path: Path, log: logging.Logger) -> None:
        self.latent_to_rgb, self.preview_path, self.log = latent_to_rgb, preview_path, log
        self.has_reported_failure = False
        self.written_at = float("-inf")
        self.write_seconds = 0.0
        """Duration of writing the latest preview."""
        self.wrote_preview = False
        """True if the latest step wrote a strip."""
        self.earlier_previews = PreviewFolder(make_preview_folder_path(preview_path))

    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None:
        pass

    def on_step(self, step: DenoisingStep) -> None:
        started_at = time.monotonic()
        interval_seconds = min(self.write_seconds / MAX_PREVIEW_TIME_SHARE, MAX_PREVIEW_INTERVAL_SECONDS)
        self.wrote_preview = (
            started_at - self.written_at >= interval_seconds or step.evaluation_index + 1 == step.evaluation_count
        )
        if not self.wrote_preview:
            return
        frames = self.latent_to_rgb.draw_pictures(step.predicted_clean)
        try:
            self.preview_path.parent.mkdir(exist_ok=True)
            write_preview(self.preview_path, frames)
            self.earlier_previews.add_preview(step.evaluation_index + 1, frames)
        except OSError as error:
            self.wrote_preview = False
            self._report_write_error(error)
        self.written_at = time.monotonic()
        self.write_seconds = self.written_at - started_at

    def on_end(self) -> None:
        try:
            self.preview_path.unlink(missing_ok=True)
            remove_path(self.earlier_previews.folder)
        except OSError as error:  # for example another user's file in a sticky folder
            self._report_write_error(error)

    def _report_write_error(self, error: OSError) -> None:
        if not self.has_reported_failure:
            self.has_reported_failure = True
            self.log.warning(
                "cannot write the preview %s: %s. Generation continues without previews", self.preview_path, error
            )
