"""Time and memory of the published sizes on a GPU, with random weights: python tests/benchmarks/gpu.py.

Speeds by reference, fused and cached, memory plans, estimates, and videos an hour.

Time and memory of a random transformer are those of the published one. They are compared with plain diffusers and, for
memory and time, with what wantui predicts. A hard cap on what torch may allocate simulates a smaller GPU. For a random
model, cached skips what it would skip of nano, whose magnitudes are the only ones that exist.
"""

import gc
import hashlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from wantui.config import load_config
from wantui.config.speeds import SpeedName
from wantui.generation import placement as memory
from wantui.generation.attention_backends import KERNEL_NAMES, find_fastest_attention_kernel
from wantui.generation.bench import build_random_transformer, build_random_vae, measure_throughput
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.fuse import fuse_blocks, fuse_pipeline
from wantui.generation.pass_cache import PassCache
from wantui.generation.placement import PipelinePlacement, ensure_on_device
from wantui.generation.quantize import quantize_transformer
from wantui.generation.timing import measure_median_seconds
from wantui.models.catalogue import WanModel, find_model
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.planning import Recipe, preview_batch
from wantui.planning.memory_plan import (
    CONTEXT_BYTES,
    RESIDENT_PLAN,
    MemoryPlan,
    can_fuse_pipeline,
    choose_memory_plan,
    estimate_peak_bytes,
    find_plan,
)
from wantui.planning.model_source import WeightsForm
from wantui.planning.step_skipping import count_computed_steps
from wantui.planning.throughput import NATIVE_ATTENTION, Throughput

GB = 1e9
DEVICE = torch.device("cuda")
SPEEDS = ("wan2.1-1.3b", "wan2.1-14b")


class Cell(NamedTuple):
    """What is run once."""

    model: str
    width: int
    height: int
    frames: int
    plan: str | None = None
    """None: chosen by what is free."""
    cap: int | None = None
    """Of the GPU's memory, in GB."""
    weights: WeightsForm = "full"
    speed: SpeedName = "reference"

    @property
    def label(self) -> str:
        words = [self.model, f"{self.width}x{self.height}x{self.frames}", self.speed, self.plan or "chosen"]
        words += [self.weights] * (self.weights != "full")
        return " ".join(words) + (f", capped at {self.cap} GB" if self.cap else "")


CELLS = (
    Cell("wan2.1-1.3b", 832, 480, 81, "encode-first"),
    Cell("wan2.1-1.3b", 832, 480, 81, "offload"),
    Cell("wan2.1-1.3b", 832, 480, 81, "stream"),
    Cell("wan2.1-1.3b", 832, 480, 81, cap=8),
    Cell("wan2.1-1.3b", 1280, 720, 49, "encode-first"),
    Cell("wan2.1-1.3b", 480, 480, 33, "encode-first"),
    Cell("wan2.1-14b", 832, 480, 81, cap=48),
    Cell("wan2.1-14b", 832, 480, 81, cap=24, weights="float8"),
    Cell("wan2.1-14b", 832, 480, 81, cap=24, weights="int8"),
    Cell("wan2.2-5b", 1280, 704, 49, "encode-first"),
    Cell("wan2.2-a14b", 832, 480, 81, "encode-first"),
    Cell("wan2.1-1.3b", 832, 480, 81, "encode-first", speed="fused"),
    Cell("wan2.1-1.3b", 1280, 720, 49, "encode-first", speed="fused"),
    Cell("wan2.1-1.3b", 480, 480, 33, "encode-first", speed="fused"),
    Cell("wan2.1-14b", 832, 480, 81, cap=48, speed="fused"),
    Cell("wan2.2-5b", 1280, 704, 49, "encode-first", speed="fused"),
    # The last ones, as torch keeps pinned memory.
    Cell("wan2.1-14b", 832, 480, 81, cap=24),
    Cell("wan2.1-14b", 832, 480, 81, cap=24, speed="fused"),
)


def build_cell_recipe(model: WanModel, cell: Cell) -> Recipe:
    return Recipe(
        model=model.name,
        revision=None,
        prompt="a large red circle moving left",
        negative_prompt="",
        seed=1,
        sampler="unipc",
        steps=2 if model.boundary_ratio is None else 3,  # the second one brings the second transformer
        flow_shift=3.0,
        guidance_scale=5.0,
        width=cell.width,
        height=cell.height,
        frames=cell.frames,
        fps=16,
        dtype="bfloat16",
        weights=cell.weights,
        speed=cell.speed,
    )


def build_published_pipeline(model: WanModel, device: torch.device, weights: WeightsForm = "full") -> WanPipeline:
    """Transformers and VAE of the published sizes on a device; prompts were encoded before."""
    transformers = []
    for _ in range(1 if model.boundary_ratio is None else 2):
        transformers.append(
            build_random_transformer(
                model.head_count,
                model.feed_forward_width,
                model.block_count,
                device,
                torch.bfloat16,
                model.latent_channels,
            )
        )
        quantize_transformer(transformers[-1], weights)
    vae = build_random_vae(model.has_timestep_per_token, device)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(
        build_nano_tokenizer(),
        None,
        vae,
        scheduler,
        *transformers,
        boundary_ratio=model.boundary_ratio,
        expand_timesteps=model.has_timestep_per_token,
    )


def embed_any_prompt(_: str, device: torch.device = DEVICE) -> torch.Tensor:
    """Return an embedding [1, 512, 4096] of 20 random tokens and zeros, whatever the prompt."""
    values = torch.zeros(1, 512, 4096)
    values[:, :20] = torch.randn(1, 20, 4096, generator=torch.Generator().manual_seed(0))
    return values.to(device, torch.bfloat16)


def build_guided_step(transformer: Any, latents: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return a function that computes both passes of a guided step, and returns their velocities [2, ...]."""
    timestep, passes = torch.tensor([500.0], device=latents.device), PassCache()
    text = embed_any_prompt("", latents.device)
    texts = {"cond": text, "uncond": -text}

    def step() -> torch.Tensor:
        passes.start_step(has_two_passes=True)
        predictions = []
        for context, text in texts.items():
            with passes.run_pass(transformer, context, text):
                predictions.append(transformer(latents, timestep, text, return_dict=False)[0])
        return torch.stack(predictions)

    return step


def free_gpu_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def hash_bits(values: torch.Tensor) -> str:
    """Return the first digits of the SHA-256 of a tensor's bits, which two processes can compare."""
    return hashlib.sha256(values.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()[:12]


@torch.no_grad()
def speeds(model: WanModel, rounds: int, attention_kernel: str) -> None:
    """One guided step of fused against one of plain diffusers, on the same weights."""
    free_gpu_memory()
    torch.manual_seed(0)
    transformer = build_random_transformer(
        model.head_count, model.feed_forward_width, model.block_count, DEVICE, torch.bfloat16
    )
    latents = torch.randn(1, 16, 21, 60, 104, device=DEVICE, dtype=torch.bfloat16)
    step = build_guided_step(transformer, latents)
    step()
    expected = step().float()
    reference, reference_peak = measure_median_seconds(step, DEVICE, rounds), torch.cuda.max_memory_allocated()
    fuse_blocks(transformer, attention_kernel)
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    step()
    fused, fused_peak = measure_median_seconds(step, DEVICE, rounds), torch.cuda.max_memory_allocated()
    found = step()
    has_equal_bits = torch.equal(found, step())
    differs = float((found.float() - expected).norm() / expected.norm())
    click.echo(
        f"{model.name:<12} step reference {reference:.3f} s, fused {fused:.3f} s: {reference / fused:.3f} times; "
        f"attention by {attention_kernel}, bits of two runs {'equal' if has_equal_bits else 'DIFFER'} "
        f"({hash_bits(found)}); differs {differs:.1e} of the norm; first step {first:.1f} s; "
        f"peak {reference_peak / GB:.2f} and {fused_peak / GB:.2f} GB"
    )


def cached(model: WanModel) -> None:
    """Denoising one video of 832x480x81 by cached against fused."""
    free_gpu_memory()
    magnitudes = preview_batch(load_config("nano", ["model_settings.speed=cached"]), "a star").first_recipe.magnitudes
    whole = build_cell_recipe(model, Cell(model.name, 832, 480, 81)).model_copy(update={"steps": 20})
    less = whole.model_copy(update={"speed": "cached", "magnitudes": magnitudes})
    pipeline = build_published_pipeline(model, DEVICE)
    pipeline.wantui_placement = PipelinePlacement(pipeline, DEVICE, RESIDENT_PLAN)
    fuse_blocks(pipeline.transformer)
    seconds, peaks = [], []
    for recipe in (whole.model_copy(update={"steps": 2}), whole, less):
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in denoise_latents(pipeline, recipe, prepare_inputs(pipeline, recipe, embed_any_prompt)):
            pass
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        peaks.append(torch.cuda.max_memory_allocated())
    click.echo(
        f"{model.name:<12} {less.steps} steps by fused {seconds[1]:.2f} s, by cached, which computes "
        f"{count_computed_steps(less)}, {seconds[2]:.2f} s: {seconds[1] / seconds[2]:.2f} times; "
        f"peak with the VAE {peaks[1] / GB:.2f} and {peaks[2] / GB:.2f} GB"
    )


def run(cell: Cell, known: Throughput) -> tuple[float, float]:
    """A few guided steps and decoding by a plan, under a cap; prints predicted and measured, returns both errors."""
    free_gpu_memory()
    model = find_model(cell.model)
    recipe = build_cell_recipe(model, cell)
    total = torch.cuda.get_device_properties(0).total_memory
    free = int((cell.cap or 75) * GB)
    chosen = choose_memory_plan(model, recipe, free, None if cell.plan is None else find_plan(cell.plan))
    share = (free - CONTEXT_BYTES) / total
    denoised, step, decoded, peak, reserved = _generate(model, recipe, chosen.plan, share, known.attention)
    # The encoder is not here: what the plan needs for the rest.
    without = replace(model, text_encoder_parameter_count=0)
    predicted = _peak(chosen.plan, without, recipe)
    denoising = _peak(
        replace(chosen.plan, tile_side_pixels=None),
        replace(without, decode_bytes_per_pixel=0, fused_decode_bytes_per_pixel=0),
        recipe,
    )
    memory_error = predicted / peak - 1
    line = f"{cell.label}: " + (f"{chosen.plan.slug}, " if cell.plan is None else "")
    line += (
        f"peak {peak / GB:.2f} GB ({denoised / GB:.2f} denoising, predicted {denoising / GB:.2f}), "
        f"predicted {predicted / GB:.2f} ({memory_error:+.1%})"
    )
    line += f", reserved {reserved / GB:.2f}; step {step:.2f} s"
    expected = known.predict_step_seconds(model, recipe, chosen.plan)
    time_error = expected / step - 1
    line += f", predicted {expected:.2f} ({time_error:+.1%})"
    expected = known.predict_decode_seconds(model, recipe, chosen.plan)
    line += f"; decode {decoded:.1f} s, predicted {expected:.1f}"
    click.echo(line)
    return memory_error, time_error


def _peak(plan: MemoryPlan, model: WanModel, recipe: Recipe) -> int:
    result = estimate_peak_bytes(plan, model, recipe)
    assert result is not None
    return result


def _generate(
    model: WanModel, recipe: Recipe, plan: MemoryPlan, share: float, attention_kernel: str
) -> tuple[int, float, float, int, int]:
    """Bytes while denoising, seconds of a step and of decoding, bytes in all, and bytes that torch had reserved."""
    pipeline = build_published_pipeline(model, DEVICE, recipe.weights)
    if can_fuse_pipeline(model, plan, recipe.speed, recipe.weights):
        fuse_pipeline(pipeline, attention_kernel)
    if plan.transformer_placement != "resident":
        pipeline.to("cpu")
    free_gpu_memory()
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        return _denoise_and_decode(pipeline, recipe, plan)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _denoise_and_decode(pipeline: WanPipeline, recipe: Recipe, plan: MemoryPlan) -> tuple[int, float, float, int, int]:
    pipeline.wantui_placement = PipelinePlacement(pipeline, DEVICE, plan)
    seconds = []
    for step in denoise_latents(pipeline, recipe, prepare_inputs(pipeline, recipe, embed_any_prompt)):
        seconds.append(step.seconds)
        latents = step.latents
    torch.cuda.synchronize()
    denoised = torch.cuda.max_memory_allocated()
    ensure_on_device(pipeline, pipeline.vae)
    began = time.perf_counter()
    frames = sum(1 for _ in decode_frames(pipeline, latents))
    assert frames == recipe.frames
    decoded = time.perf_counter() - began
    return denoised, seconds[-1], decoded, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def estimates(cells: list[Cell]) -> None:
    """Compare predictions of some cells with what they take."""
    if not cells:
        return
    known = {}
    for speed in sorted({cell.speed for cell in cells}):
        free_gpu_memory()
        began = time.perf_counter()
        known[speed] = measure_throughput(DEVICE, speed, lambda _: None)
        took, error = time.perf_counter() - began, known[speed].error
        click.echo(f"throughput of {speed} measured in {took:.0f} s, fits its blocks within {error:.1%}")
    errors = [run(cell, known[cell.speed]) for cell in cells]
    for about, result in zip(("memory", "time of a step"), zip(*errors, strict=True), strict=True):
        sizes = [abs(error) for error in result]
        click.echo(f"{about}: largest error {max(sizes):.1%}, median {statistics.median(sizes):.1%}")


@click.command()
@click.option("--only", multiple=True, help="Part of a name, as in speed, cached, batch, 1.3b, or '24 GB'; repeatable.")
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--attention",
    type=click.Choice([*KERNEL_NAMES, "fastest"]),
    default=NATIVE_ATTENTION,
    show_default=True,
    help="Self-attention kernel of fused blocks in the figures of speed; fastest is what `wantui bench` would choose.",
)
def main(only: tuple[str, ...], rounds: int, attention: str) -> None:
    """Print all figures."""
    if not torch.cuda.is_available():
        raise click.ClickException("this benchmark needs a GPU")
    click.echo(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, "
        f"{memory.query_free_gpu_bytes(DEVICE) / GB:.1f} GB free"
    )

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    if attention == "fastest":
        attention = find_fastest_attention_kernel(DEVICE, click.echo)
    for name in SPEEDS:
        if wanted(f"speed {name}"):
            speeds(find_model(name), rounds, attention)
    if wanted(f"cached {SPEEDS[0]}"):
        cached(find_model(SPEEDS[0]))
    estimates([cell for cell in CELLS if wanted(f"cell {cell.label}")])
    if wanted("batch"):
        free_gpu_memory()
        batch = Path(__file__).with_name("batch.py")
        subprocess.run([sys.executable, batch, "--model", SPEEDS[0]], check=True)


if __name__ == "__main__":
    main()
