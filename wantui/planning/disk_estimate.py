"""Prediction of a batch's disk space: exact for captures, by a rule of thumb for clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from wantui.captures import CAPTURES, DenoisingSize, DiskPart
from wantui.captures.trajectory import list_stored_evaluations
from wantui.controls import CONTROLS
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel
from wantui.planning.batch import Batch, BatchPreview
from wantui.planning.guidance_plan import uses_unconditional_pass
from wantui.planning.recipe import Recipe
from wantui.planning.recipe_builder import convert_to_prompt_marks
from wantui.schedule import count_model_evaluations, find_sampler_schedule

CLIP_BYTES_PER_PIXEL = 0.1
"""Bytes per pixel of H.264 at crf 18, a rule of thumb; plain scenes need a tenth of it, noisy scenes several times."""

CaptureSizeKey = tuple[str | int, ...]
"""Key of recipes whose files have equal sizes: sizes, steps and controls, and, if attention is stored, the text of each
mark that the negative prompt contains, and the length of each other mark."""
MAX_LISTED_BASES = 2
"""Maximum number of kinds of videos whose sizes a prediction explains."""


@dataclass(frozen=True)
class DiskEstimate:
    """Predicted bytes on disk."""

    video_bytes: int
    videos_basis: str
    capture_parts: tuple[DiskPart, ...]
    """Predicted bytes of each kind of capture file, in the order of the registry."""

    @property
    def total_bytes(self) -> int:
        return self.video_bytes + sum(part.bytes for part in self.capture_parts)

    def sum_capture_bytes(self, name: str) -> int:
        """Return the predicted bytes of one kind of capture file; 0 if the batch writes none."""
        return sum(part.bytes for part in self.capture_parts if part.name == name)


def list_captured_steps(sampler: str, step_count: int, interval: int) -> list[int]:
    """Return the numbers of model evaluations after which latents are stored."""
    return list_stored_evaluations(step_count, interval, find_sampler_schedule(sampler).evaluates_model_twice)


def build_denoising_size(recipe: Recipe, model: WanModel) -> DenoisingSize:
    """Return the sizes of a denoising, from which captures and controls predict their bytes."""
    return DenoisingSize(
        recipe.steps,
        count_model_evaluations(recipe.sampler, recipe.steps),
        model.compute_latent_shape(recipe.width, recipe.height, recipe.frames),
        model.patch_size,
        model.block_count,
        model.head_count,
        uses_unconditional_pass(recipe),
        tuple(mark.text for mark in recipe.marks),
        tuple(mark.text for mark in recipe.negative_marks),
    )


def estimate_batch_disk(batch: Batch | BatchPreview) -> DiskEstimate:
    """Predict the bytes of the videos and captures of a batch; variations may have different marks."""
    estimates = [estimate_recipe_disk(recipe, batch.model, count) for recipe, count in group_recipes_by_size(batch)]
    parts_by_name: dict[str, list[DiskPart]] = {}
    for part in chain.from_iterable(estimate.capture_parts for estimate in estimates):
        parts_by_name.setdefault(part.name, []).append(part)
    captures = tuple(
        DiskPart(name, sum(part.bytes for part in capture_parts), _join_basis_texts(capture_parts))
        for name, capture_parts in parts_by_name.items()
    )
    return DiskEstimate(sum(estimate.video_bytes for estimate in estimates), estimates[0].videos_basis, captures)


def _join_basis_texts(parts: Sequence[DiskPart]) -> str:
    """Join the explanations of the predicted bytes of one kind of file."""
    joined_bases = "; ".join(part.basis for part in parts[:MAX_LISTED_BASES])
    return (
        joined_bases
        if len(parts) <= MAX_LISTED_BASES
        else f"{joined_bases}; and {format_count(len(parts) - MAX_LISTED_BASES, 'more kind')}"
    )


def group_recipes_by_size(batch: Batch | BatchPreview) -> list[tuple[Recipe, int]]:
    """Return one recipe for each distinct predicted size, with the number of videos of that size.

    Sizes differ by marks (their number, the length of their texts, and whether the negative prompt contains them), and
    by what a sweep changes.
    """
    groups: dict[CaptureSizeKey, tuple[Recipe, int]] = {}
    for cell in batch.possible_cells:
        for size_key, recipe, variation_count in _iterate_cell_recipes(batch, cell.recipe):
            recipe, video_count = groups.get(size_key) or (recipe, 0)
            groups[size_key] = recipe, video_count + variation_count * len(batch.seeds)
    return list(groups.values())


def estimate_video_bytes(batch: Batch) -> list[int]:
    """Predict the bytes of each video of a batch."""
    bytes_by_key: dict[CaptureSizeKey, int] = {}
    result = []
    for video in batch.videos:
        size_key = _make_size_key(video.recipe)
        if size_key not in bytes_by_key:
            bytes_by_key[size_key] = estimate_recipe_disk(video.recipe, batch.model).total_bytes
        result.append(bytes_by_key[size_key])
    return result


def _iterate_cell_recipes(
    batch: Batch | BatchPreview, cell_recipe: Recipe
) -> Iterator[tuple[CaptureSizeKey, Recipe, int]]:
    """Yield the key of equal sizes, a recipe, and the number of variations, for the variations of a cell."""
    if cell_recipe.capture.attention is None:
        yield _make_size_key(cell_recipe), cell_recipe, len(batch.variations)
        return
    for variation in batch.variations:
        recipe = cell_recipe.model_copy(update={"marks": convert_to_prompt_marks(variation)})
        yield _make_size_key(recipe), recipe, 1


def _make_size_key(recipe: Recipe) -> CaptureSizeKey:
    """Return the key of recipes of a batch whose files have equal predicted sizes."""
    marks: list[str | int] = []
    if recipe.capture.attention is not None:
        marks = [mark.text if mark.text in recipe.negative_prompt else len(mark.text) for mark in recipe.marks]
    return (
        *(recipe.width, recipe.height, recipe.frames, recipe.steps, recipe.sampler, recipe.speed),
        *(recipe.guidance_scale > 1, str(recipe.guidance_scale_2)),
        repr(recipe.controls),
        recipe.negative_prompt if marks else "",
        *marks,
    )


def estimate_recipe_disk(recipe: Recipe, model: WanModel, video_count: int = 1) -> DiskEstimate:
    """Predict the bytes of n videos of a recipe, with their captures."""
    pixel_count = recipe.width * recipe.height * recipe.frames
    denoising_size = build_denoising_size(recipe, model)
    disk_parts = []
    for kind in CAPTURES:
        if (request := recipe.capture.find_request(kind.name)) is not None:
            for part in kind.estimate_disk(request, denoising_size):
                disk_parts.append(
                    DiskPart(
                        part.name, video_count * part.bytes, f"{format_count(video_count, 'video')} x {part.basis}"
                    )
                )
    videos_basis = f"{CLIP_BYTES_PER_PIXEL} bytes a pixel, a rule of thumb"
    return DiskEstimate(int(video_count * pixel_count * CLIP_BYTES_PER_PIXEL), videos_basis, tuple(disk_parts))


def estimate_extra_gpu_bytes(recipe: Recipe, model: WanModel) -> int:
    """Predict the GPU bytes of captures and controls during denoising."""
    denoising_size = build_denoising_size(recipe, model)
    capture_estimates = [(kind.estimate_gpu_bytes, recipe.capture.find_request(kind.name)) for kind in CAPTURES]
    control_estimates = [(kind.estimate_gpu_bytes, recipe.find_control_request(kind.name)) for kind in CONTROLS]
    return sum(
        estimate_bytes(request, denoising_size)
        for estimate_bytes, request in (*capture_estimates, *control_estimates)
        if request is not None
    )
