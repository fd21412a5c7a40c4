"""Gain and loss of approximate speeds and 8-bit weights, on nano: python tests/benchmarks/approximate.py.

The same prompts and seeds by `fused`, by `cached` with both caches and several thresholds, and with weights in 8 bits:
PSNR of frames, relative difference of the final latents, and the time of denoising.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from diffusers import WanPipeline
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from decoded_frames import decode_float_frames

from wantui.config import load_config
from wantui.generation import step_cache
from wantui.generation.denoise import denoise_latents
from wantui.generation.load import load_pipeline
from wantui.generation.step_cache import MAX_FIRST_BLOCK_CHANGE
from wantui.models.catalogue import NANO
from wantui.planning import Recipe, plan_batch
from wantui.planning.model_source import WeightsForm
from wantui.planning.step_skipping import MAX_MAGNITUDE_ERROR

TEMPLATE = "a [large|small] [red|blue] [circle|star] moving [left|up] over a [dark|light] background"
CHANGES, ERRORS = (0.03, 0.05, MAX_FIRST_BLOCK_CHANGE, 0.1, 0.15), (0.03, 0.06, MAX_MAGNITUDE_ERROR, 0.2, 0.3)
Generated = list[tuple[Tensor, np.ndarray, float]]
"""Final latents, frames in 0 to 1, and seconds of denoising, of each video."""


def choose_recipes(count: int, steps: int, speed: str) -> list[Recipe]:
    """Evenly spread over the variations."""
    settings = [f"model_settings.steps={steps}", "videos_per_variation=1", f"model_settings.speed={speed}"]
    videos = plan_batch(load_config("nano", settings), TEMPLATE).videos
    return [videos[index * len(videos) // count].recipe for index in range(count)]


def generate_videos(pipeline: WanPipeline, chosen: list[Recipe]) -> Generated:
    made = []
    for recipe in chosen:
        began = time.perf_counter()
        *_, last = denoise_latents(pipeline, recipe)
        seconds = time.perf_counter() - began
        made.append((last.latents, decode_float_frames(pipeline, last.latents), seconds))
    return made


def print_result(label: str, result: Generated, wanted: Generated, events: str = "") -> None:
    errors = [float(((one[1] - two[1]) ** 2).mean()) for one, two in zip(result, wanted, strict=True)]
    psnr = [10 * np.log10(1 / max(error, 1e-12)) for error in errors]
    far = [float((one[0] - two[0]).norm() / two[0].norm()) for one, two in zip(result, wanted, strict=True)]
    ratio = sum(two[2] for two in wanted) / sum(one[2] for one in result)
    click.echo(
        f"{label:<24} {ratio:.2f} times; PSNR median {statistics.median(psnr):.1f} dB, least {min(psnr):.1f}; "
        f"latents differ by {statistics.median(far):.1%} of their norm{events}"
    )


@click.command()
@click.option("--steps", default=50, show_default=True)
@click.option("--videos", default=12, show_default=True)
def main(steps: int, videos: int) -> None:
    """Print a line for each way."""
    load: Callable[[str, WeightsForm], WanPipeline] = lambda dtype, weights: load_pipeline(  # noqa: E731
        NANO, None, dtype, torch.device("cpu"), weights=weights
    )
    pipeline, fused, cached = (
        load("float32", "full"),
        choose_recipes(videos, steps, "fused"),
        choose_recipes(videos, steps, "cached"),
    )
    generate_videos(pipeline, fused[:1])
    wanted = generate_videos(pipeline, fused)
    click.echo(f"nano, {steps} steps, {videos} videos, on a CPU with {torch.get_num_threads()} threads")
    for error in ERRORS:
        mark = "  (speed: cached)" if error == MAX_MAGNITUDE_ERROR else ""
        with patch.object(step_cache, "MAX_MAGNITUDE_ERROR", error):
            made = generate_videos(pipeline, cached)
        print_result(f"magnitudes, {error}", made, wanted, mark)
    uncalibrated = [recipe.model_copy(update={"magnitudes": ()}) for recipe in cached]
    for change in CHANGES:
        mark = "  (speed: cached, not calibrated)" if change == MAX_FIRST_BLOCK_CHANGE else ""
        with patch.object(step_cache, "MAX_FIRST_BLOCK_CHANGE", change):
            made = generate_videos(pipeline, uncalibrated)
        print_result(f"first block, {change}", made, wanted, mark)
    wanted = generate_videos(load("bfloat16", "full"), fused)
    for weights in ("int8", "float8"):
        print_result(f"weights in {weights}", generate_videos(load("bfloat16", weights), fused), wanted)


if __name__ == "__main__":
    main()
