"""Predict what a batch needs on disk. Captures are exact sums; clips are a rule of thumb, and say so."""

from dataclasses import dataclass

from wantui.captures import CAPTURES, DenoisingSize, DiskPart
from wantui.captures.trajectory import stored_evaluations
from wantui.controls import CONTROLS
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel
from wantui.planning.batch import Batch
from wantui.planning.recipe import Recipe
from wantui.schedule import model_evaluations, schedule_of

BYTES_PER_PIXEL = 0.1
"""Bytes per pixel of H.264 at crf 18, a rule of thumb: plain scenes take a tenth of it, noisy ones several times it."""


@dataclass(frozen=True)
class DiskEstimate:
    """Predicted bytes on disk."""

    videos: int
    videos_basis: str
    captures: tuple[DiskPart, ...]
    """Every kind of file that captures write, in the order of their registry."""

    @property
    def total(self) -> int:
        return self.videos + sum(part.bytes for part in self.captures)

    def bytes_of(self, name: str) -> int:
        """Return the bytes of one kind of capture file; 0 where none is written."""
        return sum(part.bytes for part in self.captures if part.name == name)


def captured_steps(sampler: str, steps: int, interval: int) -> list[int]:
    """Return after how many model evaluations latents are stored, as `captures.trajectory.stored_evaluations`."""
    return stored_evaluations(steps, interval, schedule_of(sampler).evaluates_twice)


def denoising_size(recipe: Recipe, model: WanModel) -> DenoisingSize:
    """Return the sizes from which captures compute their bytes."""
    return DenoisingSize(
        recipe.steps,
        model_evaluations(recipe.sampler, recipe.steps),
        model.latent_shape(recipe.width, recipe.height, recipe.frames),
        model.patch,
        model.blocks,
        model.heads,
        recipe.guidance_scale > 1,
        tuple(mark.text for mark in recipe.marks),
        tuple(mark.text for mark in recipe.negative_marks),
    )


def estimate_disk(batch: Batch) -> DiskEstimate:
    """Predict the bytes of the videos and captures of a batch."""
    return disk_for(batch.videos[0].recipe, batch.model, len(batch.videos))


def disk_for(recipe: Recipe, model: WanModel, n: int = 1) -> DiskEstimate:
    """Predict the bytes of n videos of a recipe and of their captures."""
    pixels = recipe.width * recipe.height * recipe.frames
    size = denoising_size(recipe, model)
    parts = []
    for kind in CAPTURES:
        if (request := recipe.capture.request(kind.name)) is not None:
            for part in kind.disk(request, size):
                parts.append(DiskPart(part.name, n * part.bytes, f"{format_count(n, 'video')} x {part.basis}"))
    videos_basis = f"{BYTES_PER_PIXEL} bytes a pixel, a rule of thumb"
    return DiskEstimate(int(n * pixels * BYTES_PER_PIXEL), videos_basis, tuple(parts))


def extra_gpu_bytes(recipe: Recipe, model: WanModel) -> int:
    """Predict the bytes that captures and controls hold on the GPU while a video is denoised."""
    size = denoising_size(recipe, model)
    captures = [(kind.gpu_bytes, recipe.capture.request(kind.name)) for kind in CAPTURES]
    controls = [(kind.gpu_bytes, recipe.control(kind.name)) for kind in CONTROLS]
    return sum(count(request, size) for count, request in (*captures, *controls) if request is not None)
