"""Prediction of a batch's disk space: exact for captures, by a rule of thumb for clips."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wantui.captures import DenoisingSize, DiskPart
from wantui.captures.trajectory import list_stored_evaluations
from wantui.formatting import format_count
from wantui.models.catalogue import WanModel
from wantui.planning.guidance_plan import uses_unconditional_pass
from wantui.planning.map_names import list_map_texts
from wantui.planning.recipe import Recipe
from wantui.planning.weight_bytes import BYTES_BY_DTYPE
from wantui.samplers import count_model_evaluations, find_sampler_schedule

if TYPE_CHECKING:  # the checks of a batch read memory plans, which need this module
    from wantui.planning.batch import Batch, BatchPreview
    from wantui.planning.cells import PlannedCell

CLIP_BYTES_PER_PIXEL = 0.1
"""Bytes per pixel of H.264 at crf 18, a rule of thumb; plain scenes need a tenth of it, noisy scenes several times."""

CLIP_BASIS = f"{CLIP_BYTES_PER_PIXEL} bytes a pixel, a rule of thumb"
"""Explanation of the clips' predicted bytes."""

CaptureSizeKey = tuple[str | int, ...]
"""Key of recipes whose files have equal sizes: sizes, steps and controls, and, if attention is stored, the text of each
mark that the negative prompt contains, and the length of each other mark."""
MAX_LISTED_BASES = 2
"""Maximum number of size explanations that a prediction lists."""


@dataclass(frozen=True)
class DiskEstimate:
    """Predicted bytes on disk."""

    video_bytes: int
    videos_basis: str
    capture_parts: tuple[DiskPart, ...]
    """Predicted bytes for each kind of capture file, in the order of the registry."""

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
    """Return the sizes of a denoising run; captures and controls use them to predict their bytes."""
    is_guided = uses_unconditional_pass(recipe)
    prompts = (*(prompt.prompt for prompt in recipe.prompts), recipe.negative_prompt * is_guided)
    return DenoisingSize(
        step_count=recipe.steps,
        evaluation_count=count_model_evaluations(recipe.sampler, recipe.steps),
        latent_shape=model.compute_latent_shape(recipe.width, recipe.height, recipe.frames),
        patch_size=model.patch_size,
        block_count=model.block_count,
        head_count=model.head_count,
        dtype_bytes=BYTES_BY_DTYPE[recipe.dtype],
        is_guided=is_guided,
        marked_words=list_map_texts(recipe.prompts),
        negative_marked_words=tuple(mark.text for mark in recipe.negative_marks),
        prompt_character_count=max(map(len, prompts)),
    )


def estimate_batch_disk(batch: "Batch | BatchPreview") -> DiskEstimate:
    """Predict the bytes of the videos and captures of a batch; variations may have different marks."""
    groups = group_recipes_by_size(batch)
    bytes_by_name: dict[str, int] = {}
    basis_counts_by_name: dict[str, dict[str, int]] = {}
    for recipe, video_count in groups:
        for part in _list_capture_parts(recipe, batch.model):
            bytes_by_name[part.name] = bytes_by_name.get(part.name, 0) + video_count * part.bytes
            video_counts_by_basis = basis_counts_by_name.setdefault(part.name, {})
            video_counts_by_basis[part.basis] = video_counts_by_basis.get(part.basis, 0) + video_count
    captures = tuple(
        DiskPart(name, byte_count, _join_basis_texts(basis_counts_by_name[name]))
        for name, byte_count in bytes_by_name.items()
    )
    video_bytes = sum(_estimate_clip_bytes(recipe, video_count) for recipe, video_count in groups)
    return DiskEstimate(video_bytes, CLIP_BASIS, captures)


def _join_basis_texts(video_counts_by_basis: Mapping[str, int]) -> str:
    """Join the explanations of the bytes predicted for one kind of file.

    Args:
        video_counts_by_basis: number of videos by explanation.
    """
    texts = [f"{format_count(count, 'video')} x {basis}" for basis, count in video_counts_by_basis.items()]
    if len(texts) > MAX_LISTED_BASES:
        texts[MAX_LISTED_BASES:] = [
            f"and {format_count(len(texts) - MAX_LISTED_BASES, 'other kind of video', 'other kinds of videos')}"
        ]
    return "; ".join(texts)


def group_recipes_by_size(batch: "Batch | BatchPreview") -> list[tuple[Recipe, int]]:
    """Return one recipe for each distinct predicted size, with the number of videos of that size.

    Sizes differ by marks (their number, the length of their texts, and whether the negative prompt contains them), and
    by what a sweep changes.
    """
    groups: dict[CaptureSizeKey, tuple[Recipe, int]] = {}
    for cell in batch.possible_cells:
        for size_key, recipe, variation_count in iterate_cell_recipes(cell):
            recipe, video_count = groups.get(size_key) or (recipe, 0)
            groups[size_key] = recipe, video_count + variation_count * len(batch.seeds)
    return list(groups.values())


def estimate_video_bytes(batch: "Batch") -> list[int]:
    """Predict the bytes of each of a batch's videos."""
    bytes_by_key: dict[CaptureSizeKey, int] = {}
    result = []
    for video in batch.videos:
        size_key = _make_size_key(video.recipe)
        if size_key not in bytes_by_key:
            bytes_by_key[size_key] = estimate_recipe_disk(video.recipe, batch.model).total_bytes
        result.append(bytes_by_key[size_key])
    return result


def iterate_cell_recipes(cell: "PlannedCell") -> Iterator[tuple[CaptureSizeKey, Recipe, int]]:
    """Yield size key, recipe and number of variations, for each set of a cell's variations with equal sizes."""
    if not records_marked_words(cell.recipe):
        yield _make_size_key(cell.recipe), cell.recipe, len(cell.variations)
        return
    for variation_index in range(len(cell.variations)):
        recipe = cell.recipe.model_copy(update=cell.build_variation_values(variation_index))
        yield _make_size_key(recipe), recipe, 1


def records_marked_words(recipe: Recipe) -> bool:
    """Return whether a capture records marked words, so that its size depends on the marks."""
    return any(kind.marks_setting for kind, _ in recipe.capture_requests)


def _make_size_key(recipe: Recipe) -> CaptureSizeKey:
    """Return a key that is equal for recipes of a batch whose files have equal predicted sizes."""
    marks: list[str | int] = []
    if records_marked_words(recipe):
        map_texts = list_map_texts(recipe.prompts)
        marks = [text if text in recipe.negative_prompt else len(text) for text in map_texts]
    return (
        *(recipe.width, recipe.height, recipe.frames, recipe.steps, recipe.sampler, recipe.speed),
        *(recipe.guidance_scale > 1, str(recipe.guidance_scale_2)),
        repr([(kind.name, kind.get_compared_settings(request)) for kind, request in recipe.control_requests]),
        recipe.negative_prompt if marks else "",
        *marks,
    )


def estimate_recipe_disk(recipe: Recipe, model: WanModel) -> DiskEstimate:
    """Predict the bytes of a recipe's video, with its captures."""
    return DiskEstimate(_estimate_clip_bytes(recipe, 1), CLIP_BASIS, tuple(_list_capture_parts(recipe, model)))


def _estimate_clip_bytes(recipe: Recipe, video_count: int) -> int:
    return int(video_count * recipe.width * recipe.height * recipe.frames * CLIP_BYTES_PER_PIXEL)


def _list_capture_parts(recipe: Recipe, model: WanModel) -> list[DiskPart]:
    """Predict one video's bytes for each kind of capture file."""
    denoising_size = build_denoising_size(recipe, model)
    return [part for kind, request in recipe.capture_requests for part in kind.estimate_disk(request, denoising_size)]


def estimate_extra_gpu_bytes(recipe: Recipe, model: WanModel) -> int:
    """Predict the GPU bytes of captures and controls during denoising."""
    denoising_size = build_denoising_size(recipe, model)
    capture_bytes = sum(kind.estimate_gpu_bytes(request, denoising_size) for kind, request in recipe.capture_requests)
    control_bytes = sum(kind.estimate_gpu_bytes(request, denoising_size) for kind, request in recipe.control_requests)
    return capture_bytes + control_bytes
