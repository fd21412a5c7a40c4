"""What a batch will need on disk. Captures are exact sums; videos are a rule of thumb, and say so."""

import math
from dataclasses import dataclass

from wantui.models.catalogue import WanModel
from wantui.planning.batch import Batch
from wantui.planning.recipe import Recipe

BYTES_PER_PIXEL = 0.1
"""H.264 at crf 18, a rule of thumb: plain scenes take a tenth of this, very noisy ones several times as much."""
ITEM_SIZES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes, with the basis of each figure in words."""

    videos: int
    videos_basis: str
    latents: int
    latents_basis: str

    @property
    def total(self) -> int:
        return self.videos + self.latents


def captured_steps(steps: int, interval: int) -> list[int]:
    """Which latents are stored: 0 is the initial noise, i the state after step i; the last always."""
    return sorted({*range(0, steps + 1, interval), steps})


def model_evaluations(sampler: str, steps: int) -> int:
    """Steps as the sampler counts them: heun evaluates the model twice for all steps but the last."""
    return 2 * steps - 1 if sampler == "heun" else steps


def estimate_disk(batch: Batch) -> DiskEstimate:
    """Bytes for the videos and captures of a whole batch."""
    return disk_for(batch.videos[0].recipe, batch.model, len(batch.videos))


def disk_for(recipe: Recipe, model: WanModel, n: int = 1) -> DiskEstimate:
    """Bytes for n videos of a recipe and their captures."""
    pixels = recipe.width * recipe.height * recipe.frames
    videos = int(n * pixels * BYTES_PER_PIXEL)
    if not recipe.capture.latents:
        return DiskEstimate(videos, f"{BYTES_PER_PIXEL} bytes a pixel, a rule of thumb", 0, "latents are not stored")
    shape = model.latent_shape(recipe.width, recipe.height, recipe.frames)
    stored = len(captured_steps(model_evaluations(recipe.sampler, recipe.steps), recipe.capture.interval))
    item = ITEM_SIZES[recipe.capture.dtype]
    return DiskEstimate(
        videos,
        f"{BYTES_PER_PIXEL} bytes a pixel, a rule of thumb",
        n * stored * math.prod(shape) * item,
        f"{n} videos x {stored} steps x {' x '.join(map(str, shape))} x {item} bytes"
        + (", before compression" if recipe.capture.compress else ""),
    )
