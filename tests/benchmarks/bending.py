"""Fidelity and locality of attention bending on nano, whose scene is known: python tests/benchmarks/bending.py.

Each scene is denoised without a bend and, from the same noise, with each bend in each range of blocks. The words of the
object (`large red circle`) are bent at every step.

Fidelity: the distance that the object moved, divided by the requested distance. The requested position of the object's
centre in a frame is the transformed position without the bend; fidelity is sum (p - b) . (t - b) / sum |t - b|^2 over
frames, with p the bent, b the unbent and t the requested position. For scale, it is the logarithm of the ratio of the
object's widths over that of the factor; for region, the share of the object's pixels that had been outside of the
region and no longer are. The other modes do not move the object.

Locality: share of the squared change of the predicted clean latents, in the first step, inside the positions that hold
half of the bent map's mass. Area is the share of these positions: a change that is spread evenly has the locality of
its area.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import WanPipeline
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from decoded_frames import decode_float_frames

from wantui.captures.attention import AttentionRequest
from wantui.config import load_config
from wantui.controls.attention_bending import AttentionBendingRequest, BendRequest
from wantui.generation.denoise import denoise_latents
from wantui.generation.denoising_state import DenoisingStep
from wantui.generation.load import load_pipeline
from wantui.models.catalogue import NANO
from wantui.models.nano.judge import MIN_VISIBLE_PIXELS, find_centroid, find_object_pixels
from wantui.planning import CaptureRequests, Recipe, plan_batch
from wantui.planning.map_names import assign_map_names

SCENES = (
    ("large red circle", "(large red circle) moving right over a dark background"),
    ("large yellow square", "(large yellow square) moving up over a grey background"),
    ("small white star", "(small white star) moving left over a dark background"),
    ("large blue triangle", "(large blue triangle) staying still over a sandy background"),
)
MASS_SHARE = 0.5
"""Share of a bent map's mass that the top-mass region holds."""
POSITIONS_PER_CELL = 2
"""Latent cells along each side of a position."""

Points = np.ndarray
"""Centres of the object by frame, [frames, xy], from -1 to 1; NaN where the object is not visible."""


@dataclass(frozen=True)
class Bend:
    """A bend of the table, and where it tells the object to be."""

    label: str
    parameters: dict[str, object]
    move: Callable[[Points], Points] | None = None
    size_factor: float | None = None
    region: tuple[float, float] | None = None
    """Left and right side of the region, from -1 to 1."""


BENDS = (
    Bend("amplify 2", {"mode": "amplify", "amplify_factor": 2.0}),
    Bend("amplify 0", {"mode": "amplify", "amplify_factor": 0.0}),
    Bend("scale 1.5", {"mode": "scale", "scale_factor": 1.5}, size_factor=1.5),
    Bend("rotate 90", {"mode": "rotate", "rotate_degrees": 90.0}, move=lambda p: p[:, ::-1] * [1, -1]),
    Bend("translate x 0.25", {"mode": "translate", "translate_x": 0.25}, move=lambda p: p + np.array([0.5, 0.0])),
    Bend("translate y -0.25", {"mode": "translate", "translate_y": -0.25}, move=lambda p: p - np.array([0.0, 0.5])),
    Bend("flip horizontal", {"mode": "flip", "flip_horizontal": True}, move=lambda p: p * [-1, 1]),
    Bend("blur 1.5", {"mode": "blur", "blur_sigma": 1.5}),
    Bend("sharpen 2", {"mode": "sharpen", "sharpen_amount": 2.0}),
    Bend("region left half", {"mode": "region", "region_x2": 0.5}, region=(-1, 0)),
    Bend("frequency 0..2", {"mode": "frequency", "frequency_high": 2.0}),
)
BLOCK_RANGES = {"0..7": None, "0..2": (0, 1, 2), "3..5": (3, 4, 5), "6..7": (6, 7)}
WORD_CHOICES: dict[str, Callable[[str], tuple[tuple[str, ...], bool]]] = {
    "phrase": lambda phrase: ((phrase,), False),
    "shape word": lambda phrase: ((phrase.split()[-1],), False),
    "all tokens": lambda phrase: (("all",), False),
    "all and padding": lambda phrase: (("all",), True),
}
WORD_BENDS = ("translate x 0.25", "rotate 90")
"""Bends of the table of words."""


@dataclass(frozen=True)
class DenoisedScene:
    """Result of one denoising run."""

    first_step: DenoisingStep
    video: Tensor
    """[rgb, frames, height, width] in 0 to 1."""


@dataclass(frozen=True)
class BendFigures:
    """Figures of one bend in one scene; None where the mode or the clip gives none."""

    fidelity: float | None
    locality: float | None
    area: float | None


def denoise_scene(pipeline: WanPipeline, recipe: Recipe) -> DenoisedScene:
    steps: list[DenoisingStep] = []
    for step in denoise_latents(pipeline, recipe):
        steps = [*steps[:1], step]
    frames = decode_float_frames(pipeline, steps[-1].latents)
    return DenoisedScene(steps[0], torch.from_numpy(frames).permute(3, 0, 1, 2))


def find_centres(video: Tensor) -> Points:
    masks = find_object_pixels(video)
    centres = [
        find_centroid(mask) if mask.sum() >= MIN_VISIBLE_PIXELS else torch.full((2,), math.nan) for mask in masks
    ]
    return torch.stack(centres).double().numpy()


def measure_fidelity(bend: Bend, plain: Tensor, bent: Tensor) -> float | None:
    """Return how far the object went over how far it was told to go; None if it is not visible or told nothing."""
    plain_pixels, bent_pixels = find_object_pixels(plain), find_object_pixels(bent)
    if bend.size_factor is not None:
        if bent_pixels.sum() < MIN_VISIBLE_PIXELS:
            return None
        return 0.5 * math.log(float(bent_pixels.sum() / plain_pixels.sum())) / math.log(bend.size_factor)
    if bend.region is not None:
        width = plain.shape[3]
        first, last = (round((side + 1) / 2 * width) for side in bend.region)
        outside = torch.ones(width, dtype=torch.bool)
        outside[first:last] = False
        plain_outside, bent_outside = (float(pixels[..., outside].sum()) for pixels in (plain_pixels, bent_pixels))
        return 1 - bent_outside / plain_outside if plain_outside >= MIN_VISIBLE_PIXELS else None
    if bend.move is None:
        return None
    plain_centres, bent_centres = find_centres(plain), find_centres(bent)
    told = bend.move(plain_centres) - plain_centres
    went = bent_centres - plain_centres
    is_visible = ~np.isnan(told + went).any(1)
    if not is_visible.any() or np.square(told[is_visible]).sum() < 1e-3:
        return None
    return float((went * told)[is_visible].sum() / np.square(told[is_visible]).sum())


def measure_locality(
    plain: DenoisingStep, bent: DenoisingStep, phrase: str, blocks: tuple[int, ...] | None
) -> tuple[float, float] | None:
    """Return the share of the change inside the top-mass region of the bent map, and the area of the region."""
    change = (bent.predicted_clean - plain.predicted_clean)[0].double().square().sum(0)  # [frames, height, width]
    if float(change.sum()) == 0:
        return None
    (map_name,) = assign_map_names([phrase])
    block_maps = bent.values_by_capture["attention"].maps_by_context["cond"][map_name][:, 0].double().clamp_min(0)
    bent_map = block_maps.mean(0) if blocks is None else block_maps[list(blocks)].mean(0)
    values, order = bent_map.flatten().sort(descending=True)
    if float(values.sum()) == 0:
        return None
    position_count = int((values.cumsum(0) < MASS_SHARE * values.sum()).sum()) + 1
    region = torch.zeros(bent_map.numel(), dtype=torch.bool)
    region[order[:position_count]] = True
    cells = region.reshape(bent_map.shape)
    cells = cells.repeat_interleave(POSITIONS_PER_CELL, 1).repeat_interleave(POSITIONS_PER_CELL, 2)
    return float(change[cells].sum() / change.sum()), position_count / bent_map.numel()


def build_recipe(template: str, steps: int, seed: int) -> Recipe:
    overrides = [f"model_settings.steps={steps}", f"model_settings.seed={seed}", "videos_per_variation=1"]
    recipe = plan_batch(load_config("nano", overrides), f"a {template}").first_recipe
    return recipe.model_copy(
        update={"capture": CaptureRequests(attention=AttentionRequest(interval=steps, per_block=True))}
    )


def add_bend(
    recipe: Recipe, bend: Bend, words: tuple[str, ...], blocks: tuple[int, ...] | None, *, padding: bool
) -> Recipe:
    request = BendRequest.model_validate(
        {"name": "bend", "words": words, "transform": bend.parameters, "blocks": blocks, "padding": padding}
    )
    return recipe.model_copy(update={"controls": {"attention_bending": AttentionBendingRequest(bends=(request,))}})


def measure(
    pipeline: WanPipeline,
    plain_by_scene: Sequence[tuple[Recipe, DenoisedScene]],
    bend: Bend,
    word_choice: str,
    blocks: str,
) -> list[BendFigures]:
    """Return the figures of a bend in every scene."""
    figures = []
    for (phrase, _), (recipe, plain) in zip(SCENES, plain_by_scene, strict=False):
        words, padding = WORD_CHOICES[word_choice](phrase)
        bent = denoise_scene(pipeline, add_bend(recipe, bend, words, BLOCK_RANGES[blocks], padding=padding))
        locality = measure_locality(plain.first_step, bent.first_step, phrase, BLOCK_RANGES[blocks])
        fidelity = measure_fidelity(bend, plain.video, bent.video)
        figures.append(BendFigures(fidelity, *(locality if locality is not None else (None, None))))
    return figures


def format_median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.2f}" if known else "-"


def print_row(label: str, columns: Sequence[Sequence[BendFigures]]) -> None:
    cells = []
    for figures in columns:
        fidelity = format_median([each.fidelity for each in figures])
        locality = format_median([each.locality for each in figures])
        cells.append(f"{fidelity} / {locality} ({format_median([each.area for each in figures])})")
    click.echo(f"| {label} | {' | '.join(cells)} |")


@click.command()
@click.option("--scenes", default=2, show_default=True, help="Number of scenes, at most 4.")
@click.option("--steps", default=8, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="Two bends of one scene in three steps, to test the script.")
def main(scenes: int, steps: int, seed: int, quick: bool) -> None:
    """Print fidelity, locality and area, medians over the scenes, for each bend and range of blocks."""
    began = time.perf_counter()
    scenes, steps = (1, 3) if quick else (min(scenes, len(SCENES)), steps)
    bends = [bend for bend in BENDS if not quick or bend.label in ("translate x 0.25", "blur 1.5")]
    ranges = ["0..7", "3..5"] if quick else list(BLOCK_RANGES)
    pipeline = load_pipeline(NANO, None, "float32", torch.device("cpu"))
    recipes = [build_recipe(template, steps, seed) for _, template in SCENES[:scenes]]
    plain_by_scene = [(recipe, denoise_scene(pipeline, recipe)) for recipe in recipes]
    click.echo(f"nano, {scenes} scenes, {steps} steps; cells: fidelity / locality (area), medians over scenes\n")
    click.echo(f"| bend of the phrase | {' | '.join(f'blocks {name}' for name in ranges)} |")
    click.echo("|---" * (len(ranges) + 1) + "|")
    for bend in bends:
        print_row(bend.label, [measure(pipeline, plain_by_scene, bend, "phrase", name) for name in ranges])
    click.echo(f"\n| words, blocks 0..7 | {' | '.join(WORD_CHOICES)} |")
    click.echo("|---" * (len(WORD_CHOICES) + 1) + "|")
    for bend in (bend for bend in bends if bend.label in WORD_BENDS):
        print_row(bend.label, [measure(pipeline, plain_by_scene, bend, choice, "0..7") for choice in WORD_CHOICES])
    click.echo(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
