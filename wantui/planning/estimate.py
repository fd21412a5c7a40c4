"""What a batch will need on disk. Captures are exact sums, but for pieces of words, of which there are at most so
many; videos are a rule of thumb, and say so."""

import math
from dataclasses import dataclass

from wantui.formatting import format_count
from wantui.models.catalogue import WanModel
from wantui.planning.batch import Batch
from wantui.planning.recipe import Recipe
from wantui.planning.schedule import model_evaluations, schedule_of

BYTES_PER_PIXEL = 0.1
"""H.264 at crf 18, a rule of thumb: plain scenes take a tenth of this, very noisy ones several times as much."""
PROJECTED = 4096
"""Dimensions of the projection of each state; smaller states are kept as they are."""
ITEM_SIZES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes, with the basis of each figure in words."""

    videos: int
    videos_basis: str
    latents: int
    latents_basis: str
    geometry: int
    """Inner products and projections of the states of every step, stored in any case."""
    attention: int = 0
    attention_basis: str = "attention maps are not stored"

    @property
    def total(self) -> int:
        return self.videos + self.latents + self.geometry + self.attention


def captured_steps(sampler: str, steps: int, interval: int) -> list[int]:
    """Return the model evaluations after which latents are stored: 0 is the initial noise; the last state always.

    The interval counts the sampler's steps. Of the two evaluations that heun makes in a step the second is stored:
    what the first leads to is an Euler predictor, and no state of the trajectory.
    """
    chosen = sorted({*range(0, steps + 1, interval), steps})
    last = model_evaluations(sampler, steps)
    return [min(2 * step, last) for step in chosen] if schedule_of(sampler).evaluates_twice else chosen


def attention_steps(evaluations: int, interval: int) -> list[int]:
    """Evaluations, from 0, whose attention maps are stored: the first, every `interval`-th after it, and the last."""
    return sorted({*range(0, evaluations, interval), evaluations - 1})


def estimate_disk(batch: Batch) -> DiskEstimate:
    """Bytes for the videos and captures of a whole batch."""
    return disk_for(batch.videos[0].recipe, batch.model, len(batch.videos))


def disk_for(recipe: Recipe, model: WanModel, n: int = 1) -> DiskEstimate:
    """Bytes for n videos of a recipe and their captures."""
    pixels = recipe.width * recipe.height * recipe.frames
    videos, videos_basis = int(n * pixels * BYTES_PER_PIXEL), f"{BYTES_PER_PIXEL} bytes a pixel, a rule of thumb"
    evaluations = model_evaluations(recipe.sampler, recipe.steps)
    states = evaluations + 1
    shape = model.latent_shape(recipe.width, recipe.height, recipe.frames)
    geometry = n * states * (8 * states + 4 * min(PROJECTED, math.prod(shape)) + 8 * shape[0])
    attention, attention_basis = _attention(recipe, model, n, shape)
    if not recipe.capture.geometry:
        geometry = 0
    if not recipe.capture.latents:
        return DiskEstimate(videos, videos_basis, 0, "latents are not stored", geometry, attention, attention_basis)
    stored = len(captured_steps(recipe.sampler, recipe.steps, recipe.capture.interval))
    item = ITEM_SIZES[recipe.capture.dtype]
    basis = (
        f"{format_count(n, 'video')} x {format_count(stored, 'step')} x {' x '.join(map(str, shape))} x {item} bytes"
    )
    if recipe.capture.predicted_clean:
        basis += ", twice for the predicted clean latents"
        stored = 2 * stored - 1
    if recipe.capture.compress:
        basis += ", before compression"
    size = n * stored * math.prod(shape) * item
    return DiskEstimate(videos, videos_basis, size, basis, geometry, attention, attention_basis)


def _attention(recipe: Recipe, model: WanModel, n: int, shape: tuple[int, ...]) -> tuple[int, str]:
    capture = recipe.capture.attention
    if capture is None:
        return 0, "attention maps are not stored"
    steps = len(attention_steps(model_evaluations(recipe.sampler, recipe.steps), capture.interval))
    _, frames, height, width = shape
    places = math.prod((frames, *(-(-side // model.patch // capture.downsample) for side in (height, width))))
    words, masses, pieces = recipe.stored_maps
    maps, said = words + masses + pieces, f"{format_count(words, 'word')} and {masses} masses"
    if pieces:  # how the tokenizer cuts a word is not known here
        said = f"{format_count(words, 'word')}, {masses} masses and at most {format_count(pieces, 'piece')}"
    each = (model.blocks if capture.per_block else 1) * (model.heads if capture.per_head else 1)
    size = n * steps * maps * each * places * ITEM_SIZES[capture.dtype]
    maps_said = f"{format_count(n, 'video')} x {format_count(steps, 'step')} x {said}"
    basis = f"{maps_said} x {each * places:,} places x {ITEM_SIZES[capture.dtype]} bytes"
    return size, basis + (", before compression" if capture.compress else "")
