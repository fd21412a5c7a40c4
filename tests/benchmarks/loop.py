"""The denoising loop compared with the stock pipeline, and the cold start of every command: python
tests/benchmarks/loop.py.

Both compute the same latents from the same prompt and noise, in turn, in one process. The ratio is the result.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch
from diffusers import WanPipeline

from wantui.config import load_config
from wantui.generation.denoise import denoise_latents
from wantui.generation.load import load_pipeline, resolve_device
from wantui.generation.samplers import build_scheduler
from wantui.models.catalogue import find_model
from wantui.planning import Recipe, plan_batch
from wantui.prompts import expand_template, parse_template

COMMANDS = (
    ("--help",),
    ("run", "--help"),
    ("preview", "-t", "a [red|blue] (circle)"),
    ("config", "show", "nano"),
    ("models", "ls"),
    ("doctor",),
)


def run_wantui_loop(pipeline: WanPipeline, recipe: Recipe) -> torch.Tensor:
    latents = torch.empty(0)
    for step in denoise_latents(pipeline, recipe):  # as the program does: no step is kept
        latents = step.latents
    return latents


def run_stock_pipeline(pipeline: WanPipeline, recipe: Recipe) -> torch.Tensor:
    pipeline.scheduler = build_scheduler(recipe.sampler, recipe.flow_shift, recipe.seed)
    latents: torch.Tensor = pipeline(
        recipe.prompt,
        recipe.negative_prompt,
        height=recipe.height,
        width=recipe.width,
        num_frames=recipe.frames,
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(recipe.seed),
        output_type="latent",
    ).frames
    return latents


def compare_loops(model: str, rounds: int, steps: int, device: str) -> None:
    """Time both in turns, the order changing from round to round; print medians and the ratio."""
    overrides = [f"model_settings.model_id={model}", f"model_settings.steps={steps}"]
    recipe = plan_batch(load_config("nano", overrides), "a large red circle moving left").videos[0].recipe
    pipeline = load_pipeline(find_model(model), None, recipe.dtype, resolve_device(device))
    loops = {"ours": run_wantui_loop, "stock": run_stock_pipeline}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    made = {name: loop(pipeline, recipe) for name, loop in loops.items()}
    for turn in range(rounds):
        for name in sorted(loops, reverse=bool(turn % 2)):
            if pipeline.device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            loops[name](pipeline, recipe)
            if pipeline.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    ratios = sorted(a / b for a, b in zip(seconds["ours"], seconds["stock"], strict=True))
    quarter = len(ratios) // 4
    click.echo(f"{model}, {recipe.width}x{recipe.height}, {recipe.frames} frames, {steps} steps, {pipeline.device}")
    for name, values in seconds.items():
        click.echo(f"  {name:<6} {statistics.median(values):7.3f} s, median of {rounds}")
    click.echo(
        f"  ratio  {statistics.median(ratios):7.4f}, middle half {ratios[quarter]:.4f} to {ratios[-1 - quarter]:.4f}"
    )
    click.echo(f"  latents equal to the bit: {torch.equal(made['ours'], made['stock'])}")


def time_cold_starts(rounds: int) -> None:
    """Time each command from a new process, beside an interpreter that does nothing."""
    click.echo("cold start, seconds, median (the first line is the bare interpreter)")
    for command in ((), *COMMANDS):
        program = (
            [sys.executable, "-c", "pass"] if not command else [str(Path(sys.executable).parent / "wantui"), *command]
        )
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run(program, capture_output=True, check=False)
            times.append(time.perf_counter() - began)
        click.echo(f"  {statistics.median(times):6.3f}  {' '.join(command) or 'python -c pass'}")


def time_expansion() -> None:
    """Time the expansion of a template of 10,000 variations."""
    template = parse_template(
        "a [" + "|".join(f"option {i}" for i in range(10)) + "] (thing)" + " [0|1|2|3|4|5|6|7|8|9]" * 3
    )
    began = time.perf_counter()
    number = len(expand_template(template))
    click.echo(f"expansion of {number:,} variations: {1000 * (time.perf_counter() - began):.0f} ms")


@click.command()
@click.option("--model", default="nano", show_default=True)
@click.option("--rounds", default=11, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(model: str, rounds: int, steps: int, device: str) -> None:
    """Print all figures."""
    time_expansion()
    time_cold_starts(min(rounds, 5))
    compare_loops(model, rounds, steps, device)


if __name__ == "__main__":
    main()
