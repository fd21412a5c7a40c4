"""One video on two GPUs against one: python tests/benchmarks/two_gpus.py.

Prints the seconds of a guided step on one GPU and on two, their ratio, the peak of the second GPU against the
prediction, and whether every step has the same bits. Weights are random. `--tiny` runs on the CPU, with a copy on the
CPU as the second device: a test of this script, whose ratio says nothing. `--minutes` ends after a time; what was left
out is printed. All results are printed at the end.
"""

import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from diffusers import WanPipeline
from torch import Tensor

from wantui.captures.attention import AttentionRequest
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.denoising_state import DenoisingStep
from wantui.generation.fuse import fuse_pipeline
from wantui.generation.guidance_split import remove_guidance_split, split_guidance
from wantui.generation.placement import PipelinePlacement
from wantui.generation.self_check import computes_equal_bits
from wantui.models.catalogue import find_model
from wantui.planning import CaptureRequests, PromptMark, Recipe
from wantui.planning.memory_plan import RESIDENT_PLAN, can_fuse_pipeline
from wantui.planning.second_gpu import estimate_second_gpu_bytes
from wantui.planning.throughput import NATIVE_ATTENTION

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.gpu import GB, Cell, build_cell_recipe, build_published_pipeline, free_gpu_memory

FIRST_DEVICE, SECOND_DEVICE = torch.device("cuda:0"), torch.device("cuda:1")
TIMED_SIZE, TIMED_TINY_SIZE = (832, 480, 81), (64, 64, 9)
SHORT_SIZE = (480, 272, 17)
WORD = "circle"
PROMPT = f"a large red {WORD} moving left"
WARM_UP_STEPS = 2


class Measurement(NamedTuple):
    """What is compared: a model, a size, and what changes or records the denoising."""

    name: str
    model: str
    speed: str
    is_timed: bool
    changes: dict[str, Any] = {}  # noqa: RUF012 - it is never changed


START = PROMPT.index(WORD)
MARK = PromptMark(text=WORD, start=START, end=START + len(WORD), weight=1.6)
BEND = {"name": WORD, "words": [WORD], "transform": {"mode": "rotate", "rotate_degrees": 30.0}, "passes": "both"}
WARM_BEND = {**BEND, "renormalise": True}
MAPS = CaptureRequests(attention=AttentionRequest(unconditional=True))
CONTRIBUTIONS = CaptureRequests(more={"contributions": {"interval": 1, "per_block": True}})
MEASUREMENTS = (
    Measurement("timed", "wan2.1-1.3b", "fused", True),
    Measurement("timed", "wan2.1-14b", "fused", True),
    Measurement("timed", "wan2.1-1.3b", "reference", True),
    Measurement("weights and maps", "wan2.1-1.3b", "fused", False, {"marks": (MARK,), "capture": MAPS}),
    Measurement("contributions", "wan2.1-1.3b", "fused", False, {"marks": (MARK,), "capture": CONTRIBUTIONS}),
    Measurement(
        "bends and maps",
        "wan2.1-1.3b",
        "fused",
        False,
        {"capture": MAPS, "marks": (MARK,), "controls": {"attention_bending": {"bends": [BEND]}}},
    ),
    Measurement(
        "renormalised bends",
        "wan2.1-1.3b",
        "reference",
        False,
        {"controls": {"attention_bending": {"bends": [WARM_BEND]}}},
    ),
    Measurement("5B", "wan2.2-5b", "reference", False),
    Measurement("5B", "wan2.2-5b", "fused", False),
    Measurement("A14B", "wan2.2-a14b", "fused", False),
)


def embed(prompt: str) -> Tensor:
    """Return an embedding [1, 512, 4096] of a prompt: as many random tokens as it has characters, and zeros."""
    values = torch.zeros(1, 512, 4096)
    token_count = 10 + len(prompt) % 30
    values[:, :token_count] = torch.randn(1, token_count, 4096, generator=torch.Generator().manual_seed(len(prompt)))
    return values.to(FIRST_DEVICE, torch.bfloat16)


class Tiny(NamedTuple):
    """A tiny pipeline in place of a published one, with the embeddings of its own text encoder."""

    pipeline: WanPipeline
    recipe: Recipe


def build_tiny(measurement: Measurement) -> Tiny:
    from conftest import recipe_for
    from tiny import tiny_pipeline

    forms = {"wan2.2-5b": "5b", "wan2.2-a14b": "a14b"}
    form = forms.get(measurement.model, "wan2.1")
    names = {"wan2.1": "wan2.1-1.3b", "5b": "wan2.2-5b", "a14b": "wan2.2-a14b"}
    values = {"prompt": PROMPT, "negative_prompt": f"blurry {WORD}", "steps": 5, "flow_shift": 12.0}
    recipe = recipe_for(find_model(names[form]), **values | measurement.changes)
    return Tiny(tiny_pipeline(form), recipe)


def build_pipeline(measurement: Measurement, rounds: int) -> tuple[WanPipeline, Recipe, Callable[[str], Tensor]]:
    """Return a pipeline on the first GPU, a recipe, and the function that returns embeddings."""
    model = find_model(measurement.model)
    size = TIMED_SIZE if measurement.is_timed else SHORT_SIZE
    if model.has_timestep_per_token:
        size = (480, 256, 17)
    recipe = build_cell_recipe(model, Cell(model.name, *size)).model_copy(
        update={
            "prompt": PROMPT,
            "negative_prompt": f"blurry {WORD}",
            "steps": rounds + WARM_UP_STEPS if measurement.is_timed else 4,
            "flow_shift": 12.0 if model.boundary_ratio is not None else 3.0,
            "speed": measurement.speed,
        }
    )
    recipe = Recipe.model_validate({**recipe.model_dump(), **measurement.changes})
    pipeline = build_published_pipeline(model, FIRST_DEVICE)
    if can_fuse_pipeline(model, RESIDENT_PLAN, recipe.speed, recipe.weights):
        fuse_pipeline(pipeline, NATIVE_ATTENTION)
    pipeline.wantui_placement = PipelinePlacement(pipeline, FIRST_DEVICE, RESIDENT_PLAN)
    return pipeline, recipe, embed


def denoise(
    pipeline: WanPipeline, recipe: Recipe, embed_prompt: Callable[[str], Tensor] | None
) -> tuple[list[DenoisingStep], list[float]]:
    """Return the steps, and the seconds of each."""
    steps, seconds = [], []
    began = time.perf_counter()
    for step in denoise_latents(pipeline, recipe, prepare_inputs(pipeline, recipe, embed_prompt)):
        steps.append(step)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return steps, seconds


def list_tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a nested record of a capture."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for key in sorted(value) for tensor in list_tensors(value[key])]
    if hasattr(value, "maps_by_context"):
        return list_tensors(value.maps_by_context)
    return []


def count_equal_steps(steps: list[DenoisingStep], expected_steps: list[DenoisingStep]) -> int:
    """Count the steps whose latents, passes and captures have equal bits."""

    def collect(step: DenoisingStep) -> list[Tensor]:
        tensors = [step.latents, step.conditional_velocity, step.unconditional_velocity]
        return [each for each in tensors if each is not None] + list_tensors(dict(step.values_by_capture))

    return sum(
        len(collect(step)) == len(collect(expected))
        and all(
            torch.equal(one.nan_to_num(-1.0).cpu(), other.nan_to_num(-1.0).cpu())
            for one, other in zip(collect(step), collect(expected), strict=True)
        )
        for step, expected in zip(steps, expected_steps, strict=True)
    )


def compare(measurement: Measurement, rounds: int, is_tiny: bool) -> str:
    """Return the line of one measurement."""
    if is_tiny:
        (pipeline, recipe), embed_prompt, second_device = build_tiny(measurement), None, torch.device("cpu")
    else:
        pipeline, recipe, embed_prompt = build_pipeline(measurement, rounds)
        second_device = SECOND_DEVICE
        torch.cuda.reset_peak_memory_stats(SECOND_DEVICE)
    expected, seconds = denoise(pipeline, recipe, embed_prompt)
    began = time.perf_counter()
    split_guidance(pipeline, second_device)
    copied_seconds = time.perf_counter() - began
    passes_check = computes_equal_bits(pipeline)
    steps, split_seconds = denoise(pipeline, recipe, embed_prompt)
    assert {step.gpu_count for step in steps} == {2}
    equal_count = count_equal_steps(steps, expected)
    line = (
        f"{measurement.model} {measurement.speed}, {measurement.name}, {recipe.width}x{recipe.height}x{recipe.frames}: "
    )
    line += "EQUAL BITS" if equal_count == len(expected) and passes_check else "BITS DIFFER"
    line += f" in {equal_count} of {len(expected)} steps, self-check {'passed' if passes_check else 'FAILED'}"
    if measurement.is_timed:
        one, two = (statistics.median(each[WARM_UP_STEPS:]) for each in (seconds, split_seconds))
        line += f"; a guided step takes {one:.3f} s on one GPU, {two:.3f} s on two: {one / two:.3f} times as fast"
    line += f"; copied in {copied_seconds:.1f} s"
    if not is_tiny:
        peak = torch.cuda.max_memory_allocated(SECOND_DEVICE)
        predicted = estimate_second_gpu_bytes(RESIDENT_PLAN, find_model(measurement.model), recipe)
        line += f"; second GPU: peak {peak / GB:.2f} GB, predicted {predicted / GB:.2f} ({predicted / peak - 1:+.1%})"
    remove_guidance_split(pipeline)
    return line


@click.command()
@click.option("--only", multiple=True, help="Part of a line's beginning, as in '14b fused' or 'bends'; repeatable.")
@click.option("--rounds", default=5, show_default=True, help="Timed steps.")
@click.option("--minutes", default=8.0, show_default=True, help="Begin no measurement after this time.")
@click.option("--tiny", is_flag=True, help="Compare tiny models on the CPU.")
def main(only: tuple[str, ...], rounds: int, minutes: float, tiny: bool) -> None:
    """Print all comparisons."""
    began = time.monotonic()
    if not tiny and torch.cuda.device_count() < 2:
        raise click.ClickException("this benchmark needs two GPUs; --tiny runs on the CPU")
    devices = "CPU" if tiny else f"{torch.cuda.get_device_name(0)} and {torch.cuda.get_device_name(1)}"
    lines = [f"{devices}, torch {torch.__version__}"]
    if not tiny:
        lines[0] += f", peer access {torch.cuda.can_device_access_peer(0, 1)}"
    for measurement in MEASUREMENTS:
        title = f"{measurement.model} {measurement.speed}, {measurement.name}"
        if only and not any(part in title for part in only):
            continue
        if time.monotonic() - began > 60 * minutes:
            lines.append(f"{title}: left out, {minutes:g} minutes are over")
            continue
        click.echo(f"{time.monotonic() - began:.0f} s: {title}")
        try:
            lines.append(compare(measurement, rounds, tiny))
        except Exception as error:  # the other measurements are still wanted
            traceback.print_exc()
            lines.append(f"{title}: FAILED: {type(error).__name__}: {error}")
        if not tiny:
            free_gpu_memory()
    click.echo("\n".join(["", "results", *lines]))


if __name__ == "__main__":
    main()
