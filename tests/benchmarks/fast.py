"""What `speed: fast` gives up and gains on nano: python tests/benchmarks/fast.py.

The same prompts and seeds by `exact` and by `fast` with several thresholds of the first-block cache: PSNR of frames,
relative difference of the final latents, and the time of denoising.
"""

import statistics
import time

import click
import numpy as np
import torch
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

from wantui.config import load_config
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import denoise
from wantui.generation.load import load_pipeline
from wantui.generation.speed import CACHE_THRESHOLD
from wantui.models.catalogue import NANO
from wantui.planning import Recipe, plan_batch

TEMPLATE = "a [large|small] [red|blue] [circle|star] moving [left|up] over a [dark|light] background"


def recipes(count: int, steps: int) -> list[Recipe]:
    config = load_config("nano", [f"model_settings.steps={steps}", "videos_per_variation=1"])
    return [video.recipe for video in plan_batch(config, TEMPLATE).videos[:count]]


def make(pipeline: object, recipe: Recipe) -> tuple[Tensor, np.ndarray, float]:
    """Final latents, frames in 0 to 1, and seconds of denoising."""
    began = time.perf_counter()
    *_, last = denoise(pipeline, recipe)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    return last.latents, np.stack(list(decode_frames(pipeline, last.latents))), seconds  # type: ignore[arg-type]


@click.command()
@click.option("--steps", default=50, show_default=True)
@click.option("--videos", default=12, show_default=True)
@click.option("--thresholds", default=f"0.03,0.05,{CACHE_THRESHOLD},0.1,0.15", show_default=True)
def main(steps: int, videos: int, thresholds: str) -> None:
    """Print a line for each threshold."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = recipes(videos, steps)
    exact = load_pipeline(NANO, None, "float32", device)
    make(exact, chosen[0])
    wanted = [make(exact, recipe) for recipe in chosen]
    click.echo(f"nano, {steps} steps, {videos} videos, on {device.type}, torch {torch.__version__}")
    for threshold in map(float, thresholds.split(",")):
        pipeline = load_pipeline(NANO, None, "float32", device)
        pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        found = [make(pipeline, recipe) for recipe in chosen]
        noise = [float(((one[1] - two[1]) ** 2).mean()) for one, two in zip(found, wanted, strict=True)]
        psnr = [10 * np.log10(1 / max(error, 1e-12)) for error in noise]
        far = [float((one[0] - two[0]).norm() / two[0].norm()) for one, two in zip(found, wanted, strict=True)]
        ratio = sum(two[2] for two in wanted) / sum(one[2] for one in found)
        mark = "  (speed: fast)" if threshold == CACHE_THRESHOLD else ""
        click.echo(
            f"threshold {threshold:<5} {ratio:.2f} times; PSNR median {statistics.median(psnr):.1f} dB, "
            f"least {min(psnr):.1f}; latents differ by {statistics.median(far):.1%} of their norm{mark}"
        )


if __name__ == "__main__":
    main()
