"""Gain and loss of `speed: fp8`: PYTHONPATH=tests python tests/benchmarks/fp8.py.

products     each product of a block in bfloat16 and in FP8, and the rounding before it
steps        a guided step by plain diffusers, by fused and by fp8, with its peak memory and the error of a pass
video        the latents of a whole video by fp8 against fused, with random weights
predictions  seconds of a step, as `wantui bench --speed fp8` predicts them, against a step
nano         clips of the built-in model by fused and by fp8: what its judge says, PSNR, difference of the latents

Weights of the published sizes are random, because time and memory do not depend on them. All results are printed again
at the end. `--tiny` runs on any device, a CPU too, in about a minute.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.gpu import (
    Cell,
    build_cell_recipe,
    build_guided_step,
    build_published_pipeline,
    embed_any_prompt,
    free_gpu_memory,
)
from decoded_frames import decode_float_frames
from diffusers import WanPipeline
from torch import Tensor, nn

from wantui.config import load_config
from wantui.config.speeds import SpeedName
from wantui.generation.attention_backends import KERNEL_NAMES
from wantui.generation.bench import build_random_transformer, measure_throughput
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.fp8 import Fp8Linear, quantize_rows
from wantui.generation.fuse import fuse_blocks, quantize_blocks
from wantui.generation.fused_linear import apply_linear, apply_linear_gelu
from wantui.generation.load import check_fp8_device, load_pipeline
from wantui.generation.placement import PipelinePlacement
from wantui.generation.timing import measure_median_seconds
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.models.nano.evaluate import score_clips
from wantui.models.nano.world import sample_scenes, write_captions
from wantui.planning import Recipe, plan_batch
from wantui.planning.flops import count_latent_positions
from wantui.planning.memory_plan import RESIDENT_PLAN, estimate_activation_bytes
from wantui.planning.weight_bytes import estimate_transformer_bytes

SECTIONS = ("products", "steps", "video", "predictions", "nano")
MODELS = ("wan2.1-1.3b", "wan2.1-14b")
SIZE, TINY_SIZE = (832, 480, 81), (64, 64, 5)
GB = 1e9


class Benchmark:
    """One run: its device, sizes and deadline, and the lines that it printed."""

    def __init__(self, tiny: bool, minutes: float, rounds: int, attention: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.is_tiny, self.rounds, self.attention = tiny, rounds, attention
        self.size = TINY_SIZE if tiny else SIZE
        self.ends_at = time.monotonic() + 60 * minutes
        self.lines: list[str] = []
        self.step_seconds: dict[tuple[str, str], float] = {}

    def find_model(self, name: str) -> WanModel:
        model = find_model(name)
        if not self.is_tiny:
            return model
        return replace(model, head_count=2, transformer_width=256, feed_forward_width=512, block_count=4)

    def build_recipe(self, model: WanModel, speed: SpeedName, steps: int) -> Recipe:
        recipe = build_cell_recipe(model, Cell(model.name, *self.size))
        return recipe.model_copy(update={"speed": speed, "steps": steps})

    @property
    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()

    def report(self, line: str) -> None:
        self.lines.append(line)
        click.echo(line, err=True)

    def free_gpu_memory(self) -> None:
        if self.device.type == "cuda":
            free_gpu_memory()

    def read_peak(self) -> float:
        return torch.cuda.max_memory_allocated() / GB if self.device.type == "cuda" else 0.0

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def measure(self, operation: Callable[[], object]) -> float:
        return measure_median_seconds(operation, self.device, self.rounds)


def compute_relative_difference(result: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference, divided by that of the wanted tensor."""
    return float((result.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
def products(bench: Benchmark, model: WanModel) -> None:
    """Milliseconds of each product of a block, and of rounding its input alone (fused blocks round in the norm)."""
    bench.free_gpu_memory()
    d, f = model.transformer_width, model.feed_forward_width
    positions = count_latent_positions(model, *bench.size)
    shapes = {"qkv": (d, 3 * d), "attention out": (d, d), "feed-forward in": (d, f), "feed-forward out": (f, d)}
    for name, (inputs, outputs) in shapes.items():
        layer = nn.Linear(inputs, outputs, device=bench.device, dtype=torch.bfloat16)
        hidden = torch.randn(1, positions, inputs, device=bench.device, dtype=torch.bfloat16)
        full = apply_linear_gelu if name == "feed-forward in" else apply_linear
        before = bench.measure(partial(full, hidden, layer.weight, layer.bias))
        fp8, applies_gelu = Fp8Linear(layer, bench.device), name == "feed-forward out"
        rounding = bench.measure(partial(quantize_rows, hidden, applies_gelu))
        rows = quantize_rows(hidden)
        after = bench.measure(partial(fp8, rows))
        exact = F.linear(hidden[:, :64].double(), layer.weight.double(), layer.bias.double())
        errors = [
            compute_relative_difference(result[:, :64], exact)
            for result in (apply_linear(hidden, layer.weight, layer.bias), fp8(rows))
        ]
        precise = bench.measure(partial(multiply_precisely, fp8, rows.values[0], rows.scales))
        bench.report(
            f"{model.name} {name:<17} bfloat16 {1e3 * before:.2f} ms, fp8 {1e3 * after:.2f} (without fast sums "
            f"{1e3 * precise:.2f}), rounding {'with GELU ' if applies_gelu else ''}{1e3 * rounding:.2f}: "
            f"{before / (after + rounding):.2f} times, {before / after:.2f} without rounding; "
            f"errors {errors[0]:.1e} and {errors[1]:.1e}"
        )


def multiply_precisely(layer: Fp8Linear, values: Tensor, scales: Tensor) -> Tensor:
    """The product of a layer with sums in float32 all the way."""
    return torch._scaled_mm(
        values,
        layer.weight.t(),
        scale_a=scales,
        scale_b=layer.weight_scales[None],
        bias=layer.bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=False,
    )


@torch.no_grad()
def steps(bench: Benchmark, model: WanModel) -> None:
    """A guided step by each speed on the same weights, its peak, and the errors of its two passes."""
    bench.free_gpu_memory()
    torch.manual_seed(0)
    sizes = model.head_count, model.feed_forward_width, model.block_count
    transformer = build_random_transformer(*sizes, bench.device, torch.bfloat16)
    shape = model.compute_latent_shape(*bench.size)
    latents = torch.randn(1, *shape, device=bench.device, dtype=torch.bfloat16)
    step = build_guided_step(transformer, latents)
    outputs: dict[str, Tensor] = {}
    speeds: tuple[SpeedName, ...] = ("reference", "fused", "fp8")
    for speed in speeds:
        if speed == "fused":
            fuse_blocks(transformer, bench.attention)
        if speed == "fp8":
            quantize_blocks(transformer, bench.device)
        bench.free_gpu_memory()
        outputs[speed] = step()
        bench.reset_peak()
        seconds = bench.step_seconds[model.name, speed] = bench.measure(step)
        recipe = bench.build_recipe(model, speed, 2)
        weights = estimate_transformer_bytes(model, recipe) / GB
        working = estimate_activation_bytes(model, recipe, speed != "reference") / GB
        gain = bench.step_seconds[model.name, "reference"] / seconds
        error = (
            ""
            if speed == "reference"
            else f"; differs by {compute_relative_difference(outputs[speed], outputs['reference']):.2e}"
        )
        if speed == "fp8":
            error += (
                f" from reference and {compute_relative_difference(outputs['fp8'], outputs['fused']):.2e} from fused"
            )
        bench.report(
            f"{model.name} step {speed:<9} {seconds:.3f} s: {gain:.3f} times plain diffusers; peak "
            f"{bench.read_peak():.2f} GB, predicted {weights + working:.2f} (weights {weights:.2f}){error}"
        )


@torch.no_grad()
def video(bench: Benchmark, model: WanModel, step_count: int) -> None:
    """The latents of a whole video by fp8 against those by fused; fewer steps if there is too little time."""
    bench.free_gpu_memory()
    torch.manual_seed(0)
    pipeline = build_published_pipeline(model, bench.device)
    pipeline.wantui_placement = PipelinePlacement(pipeline, bench.device, RESIDENT_PLAN)
    fuse_blocks(pipeline.transformer, bench.attention)
    first = denoise(bench, pipeline, bench.build_recipe(model, "fused", 3))[1]
    step_count = int(min(step_count, (bench.seconds_left - 30) / (2 * first)))
    if step_count < 2:
        bench.report(f"{model.name} video: left out, {bench.seconds_left:.0f} s are left")
        return
    states = {"fused": denoise(bench, pipeline, bench.build_recipe(model, "fused", step_count))}
    quantize_blocks(pipeline.transformer, bench.device)
    denoise(bench, pipeline, bench.build_recipe(model, "fp8", 2))
    states["fp8"] = denoise(bench, pipeline, bench.build_recipe(model, "fp8", step_count))
    (wanted, before), (result, after) = states["fused"], states["fp8"]
    bench.report(
        f"{model.name} video of {step_count} steps: fused {before:.3f} s a step, fp8 {after:.3f}: "
        f"{before / after:.3f} times; final latents differ by {compute_relative_difference(result, wanted):.2e} "
        "of their norm"
    )


def denoise(bench: Benchmark, pipeline: WanPipeline, recipe: Recipe) -> tuple[Tensor, float]:
    """Final latents, and median seconds of a step."""
    inputs = prepare_inputs(pipeline, recipe, partial(embed_any_prompt, device=bench.device))
    done = list(denoise_latents(pipeline, recipe, inputs))
    return done[-1].latents, statistics.median(step.seconds for step in done)


def predictions(bench: Benchmark, models: list[WanModel]) -> None:
    """Predict the measured steps from blocks."""
    began = time.monotonic()
    throughput = measure_throughput(bench.device, "fp8", lambda _: None)
    bench.report(f"bench of fp8: {time.monotonic() - began:.0f} s, fits its blocks within {throughput.error:.1%}")
    for model in models:
        seconds = throughput.predict_step_seconds(model, bench.build_recipe(model, "fp8", 2))
        measured = bench.step_seconds.get((model.name, "fp8"))
        about = "" if measured is None else f", measured {measured:.3f} ({seconds / measured - 1:+.1%})"
        bench.report(f"{model.name} step predicted {seconds:.3f} s{about}")


def nano(bench: Benchmark, clip_count: int, step_count: int) -> None:
    """The judge's figures of nano, with two choices of blocks."""
    scenes = sample_scenes(clip_count, np.random.default_rng(2), two_object_fraction=0.0, is_evaluation=True)
    settings = [f"model_settings.steps={step_count}", "model_settings.dtype=bfloat16"]
    recipe = plan_batch(load_config("nano", settings), "a large red circle moving left").videos[0].recipe
    captions = [caption.text for caption in write_captions(scenes)]
    recipes = [recipe.model_copy(update={"prompt": text, "seed": index}) for index, text in enumerate(captions)]
    made: dict[str, tuple[Tensor, Tensor]] = {}
    variants: dict[str, Callable[[Any], None]] = {
        "reference": lambda _: None,
        "fused": fuse_blocks,
        "fp8": partial(fuse_and_quantize, bench.device, True),
        "fp8, all blocks": partial(fuse_and_quantize, bench.device, False),
    }
    for label, change in variants.items():
        pipeline = load_pipeline(NANO, None, "bfloat16", bench.device)
        change(pipeline.transformer)
        made[label] = generate_clips(pipeline, recipes)
        line = f"nano {label:<16} " + ", ".join(
            f"{name} {v:.0%}" for name, v in score_clips(made[label][0], scenes).items()
        )
        if label != "fused":
            wanted = made["fused" if "fused" in made else "reference"]
            line += describe_difference(made[label], wanted)
        bench.report(line)
    bench.report(f"nano reference against fused{describe_difference(made['reference'], made['fused'])}")


def fuse_and_quantize(device: torch.device, skips_end_blocks: bool, transformer: Any) -> None:
    fuse_blocks(transformer)
    quantize_blocks(transformer, device, skips_end_blocks)


def generate_clips(pipeline: WanPipeline, recipes: list[Recipe]) -> tuple[Tensor, Tensor]:
    """Clips [n, rgb, frames, height, width] in 0 to 1, and their latents."""
    clips, latents = [], []
    for recipe in recipes:
        *_, last = denoise_latents(pipeline, recipe)
        frames = decode_float_frames(pipeline, last.latents)
        clips.append(torch.from_numpy(frames).permute(3, 0, 1, 2).float())
        latents.append(last.latents.cpu())
    return torch.stack(clips), torch.stack(latents)


def describe_difference(result: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> str:
    errors = ((result[0] - wanted[0]) ** 2).flatten(1).mean(1).clamp_min(1e-12)
    psnr = [-10 * float(torch.log10(error)) for error in errors]
    far = [compute_relative_difference(one, two) for one, two in zip(result[1], wanted[1], strict=True)]
    if result is wanted:
        return ""
    return (
        f"; PSNR median {statistics.median(psnr):.1f} dB, least {min(psnr):.1f}; latents differ by "
        f"{statistics.median(far):.1%} of their norm"
    )


@contextlib.contextmanager
def print_results_at_end(bench: Benchmark) -> Iterator[None]:
    """Print all results at the end, also after an error."""
    try:
        yield
    finally:
        click.echo("\n".join(["", "results:", *bench.lines]))


@click.command()
@click.option("--only", type=click.Choice(SECTIONS), multiple=True, help="Section; repeatable. All by default.")
@click.option("--model", "names", type=click.Choice(MODELS), multiple=True, default=MODELS, help="Model; repeatable.")
@click.option("--steps", "step_count", default=20, show_default=True, help="Steps of a whole video.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each time.")
@click.option("--clips", default=24, show_default=True, help="Clips of nano.")
@click.option("--minutes", default=9.0, show_default=True, help="After these minutes no section begins.")
@click.option("--attention", type=click.Choice(KERNEL_NAMES), default="native", show_default=True, help="Kernel.")
@click.option("--tiny", is_flag=True, help="Small random models, for a CPU.")
def main(
    only: tuple[str, ...],
    names: tuple[str, ...],
    step_count: int,
    rounds: int,
    clips: int,
    minutes: float,
    attention: str,
    tiny: bool,
) -> None:
    """Print all figures."""
    bench = Benchmark(tiny, minutes, rounds, attention)
    if not tiny:
        check_fp8_device(bench.device)
    where = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    bench.report(f"{where}, torch {torch.__version__}, {'x'.join(map(str, bench.size))}, attention {attention}")
    models = [bench.find_model(name) for name in names]
    work: list[tuple[str, Callable[[], None]]] = []
    for model in models:
        work.append(("products", partial(products, bench, model)))
        work.append(("steps", partial(steps, bench, model)))
    if bench.device.type == "cuda":
        work.append(("predictions", partial(predictions, bench, models)))
    work.append(("nano", partial(nano, bench, clips, step_count)))
    work += [("video", partial(video, bench, model, step_count)) for model in models]
    with print_results_at_end(bench):
        for section, run in work:
            if only and section not in only:
                continue
            if bench.seconds_left <= 0:
                bench.report(f"{section}: left out, the time is over")
                continue
            run()


if __name__ == "__main__":
    main()
