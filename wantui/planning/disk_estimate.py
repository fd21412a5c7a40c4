"""Prediction of a batch's disk space: exact for captures, by a rule of thumb for clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from wantui.captures import CAPTURES, DenoisingSize, DiskPart
from wantui.captures.trajectory import list_stored_evaluations
from wantui.controls import CONTROLS
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel
from wantui.planning.batch import Batch, BatchPreview, to_prompt_marks
from wantui.planning.recipe import Recipe
from wantui.schedule import count_model_evaluations, find_schedule

BYTES_PER_PIXEL = 0.1
"""Bytes per pixel of H.264 at crf 18, a rule of thumb; plain scenes need a tenth of it, noisy scenes several times."""

MarksKey = tuple[str | int, ...]
"""Key of prompts whose captures have equal sizes: the text of each mark if the negative prompt contains it, otherwise
the length of that text."""
MAX_LISTED_BASES = 2
"""Maximum number of kinds of videos whose sizes a prediction explains."""


@dataclass(frozen=True)
class DiskEstimate:
    """Predicted bytes on disk."""

    video_bytes: int
    videos_basis: str
    captures: tuple[DiskPart, ...]
    """Predicted bytes of each kind of capture file, in the order of the registry."""

    @property
    def total(self) -> int:
        return self.video_bytes + sum(part.bytes for part in self.captures)

    def capture_bytes(self, name: str) -> int:
        """Return the predicted bytes of one kind of capture file; 0 if the batch writes none."""
        return sum(part.bytes for part in self.captures if part.name == name)


def list_captured_steps(sampler: str, steps: int, interval: int) -> list[int]:
    """Return the numbers of model evaluations after which latents are stored."""
    return list_stored_evaluations(steps, interval, find_schedule(sampler).evaluates_twice)


def build_denoising_size(recipe: Recipe, model: WanModel) -> DenoisingSize:
    """Return the sizes of a denoising, from which captures and controls predict their bytes."""
    return DenoisingSize(
        recipe.steps,
        count_model_evaluations(recipe.sampler, recipe.steps),
        model.compute_latent_shape(recipe.width, recipe.height, recipe.frames),
        model.patch_size,
        model.blocks,
        model.heads,
        recipe.guidance_scale > 1,
        tuple(mark.text for mark in recipe.marks),
        tuple(mark.text for mark in recipe.negative_marks),
    )


def estimate_disk(batch: Batch | BatchPreview) -> DiskEstimate:
    """Predict the bytes of the videos and captures of a batch; variations may have different marks."""
    each = [estimate_recipe_disk(recipe, batch.model, count) for recipe, count in group_recipes_by_size(batch)]
    parts: dict[str, list[DiskPart]] = {}
    for part in chain.from_iterable(estimate.captures for estimate in each):
        parts.setdefault(part.name, []).append(part)
    captures = tuple(
        DiskPart(name, sum(part.bytes for part in capture_parts), _join_bases(capture_parts))
        for name, capture_parts in parts.items()
    )
    return DiskEstimate(sum(estimate.video_bytes for estimate in each), each[0].videos_basis, captures)


def _join_bases(parts: Sequence[DiskPart]) -> str:
    """Join the explanations of the predicted bytes of one kind of file."""
    text = "; ".join(part.basis for part in parts[:MAX_LISTED_BASES])
    return (
        text
        if len(parts) <= MAX_LISTED_BASES
        else f"{text}; and {format_count(len(parts) - MAX_LISTED_BASES, 'more kind')}"
    )


def group_recipes_by_size(batch: Batch | BatchPreview) -> list[tuple[Recipe, int]]:
    """Return one recipe for each distinct predicted size, with the number of videos of that size.

    Sizes within a batch differ only by marks: their number, the length of their texts, and whether the negative prompt
    contains them.
    """
    seeds = batch.config.settings.videos_per_variation
    if batch.first_recipe.capture.attention is None:
        return [(batch.first_recipe, len(batch.variations) * seeds)]
    recipes: dict[MarksKey, tuple[Recipe, int]] = {}
    for key, recipe in _iterate_recipes(batch):
        recipe, count = recipes.get(key) or (recipe, 0)
        recipes[key] = recipe, count + seeds
    return list(recipes.values())


def estimate_variation_bytes(batch: Batch) -> list[int]:
    """Predict the bytes of one video of each variation."""
    sizes: dict[MarksKey, int] = {}
    for key, recipe in _iterate_recipes(batch):
        if key not in sizes:
            sizes[key] = estimate_recipe_disk(recipe, batch.model).total
    return [sizes[key] for key, _ in _iterate_recipes(batch)]


def _iterate_recipes(batch: Batch | BatchPreview) -> Iterator[tuple[MarksKey, Recipe]]:
    """Yield the key of equal capture sizes and a recipe for each variation."""
    for variation in batch.variations:
        marks, negative = to_prompt_marks(variation), batch.first_recipe.negative_prompt
        key = tuple(mark.text if mark.text in negative else len(mark.text) for mark in marks)
        yield key, batch.first_recipe.model_copy(update={"marks": marks})


def estimate_recipe_disk(recipe: Recipe, model: WanModel, n: int = 1) -> DiskEstimate:
    """Predict the bytes of n videos of a recipe, with their captures."""
    pixels = recipe.width * recipe.height * recipe.frames
    size = build_denoising_size(recipe, model)
    parts = []
    for kind in CAPTURES:
        if (request := recipe.capture.request(kind.name)) is not None:
            for part in kind.estimate_disk(request, size):
                parts.append(DiskPart(part.name, n * part.bytes, f"{format_count(n, 'video')} x {part.basis}"))
    videos_basis = f"{BYTES_PER_PIXEL} bytes a pixel, a rule of thumb"
    return DiskEstimate(int(n * pixels * BYTES_PER_PIXEL), videos_basis, tuple(parts))


def estimate_extra_gpu_bytes(recipe: Recipe, model: WanModel) -> int:
    """Predict the GPU bytes of captures and controls during denoising."""
    size = build_denoising_size(recipe, model)
    captures = [(kind.estimate_gpu_bytes, recipe.capture.request(kind.name)) for kind in CAPTURES]
    controls = [(kind.estimate_gpu_bytes, recipe.control(kind.name)) for kind in CONTROLS]
    return sum(count(request, size) for count, request in (*captures, *controls) if request is not None)
