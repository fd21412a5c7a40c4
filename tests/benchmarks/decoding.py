"""Decoding by the fused decoder against that of diffusers: python tests/benchmarks/decoding.py.

For each VAE, with random weights: seconds from latents to frames on the CPU, peak of the GPU's memory without the
weights, difference of the output from that of diffusers in shares of its norm, share of the 8-bit values that differ
and their largest difference, and whether two runs have equal bits.
"""

import statistics
import sys
import time
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from diffusers.video_processor import VideoProcessor
from numpy.typing import NDArray

from wantui.generation.bench import build_random_vae
from wantui.generation.decode import decode_chunks, decode_frames
from wantui.generation.fused_decoder import fuse_decoder
from wantui.models.catalogue import find_model

MODELS = ("wan2.1-1.3b", "wan2.2-5b")


class Decoding(NamedTuple):
    """What a decoder makes of the same latents."""

    seconds: float
    peak_bytes: int
    output: torch.Tensor
    """[rgb, frames, height, width] in -1 to 1, on the CPU."""
    frames: NDArray[np.int16]
    has_equal_bits: bool


def measure(vae: Any, latents: torch.Tensor, rounds: int) -> Decoding:
    """Decode latents several times, after one decoding that builds kernels."""
    pipeline: Any = SimpleNamespace(
        vae=vae, _execution_device=latents.device, video_processor=VideoProcessor(), wantui_placement=None
    )
    results, seconds = [], []
    on_gpu = latents.device.type == "cuda"
    for round_index in range(rounds + 1):
        if on_gpu and round_index == 1:
            torch.cuda.reset_peak_memory_stats()
            weights_bytes = torch.cuda.memory_allocated()
        began = time.perf_counter()
        frames = np.stack(list(decode_frames(pipeline, latents)))
        seconds.append(time.perf_counter() - began)
        results.append(frames)
    peak_bytes = torch.cuda.max_memory_allocated() - weights_bytes if on_gpu else 0
    output = torch.cat([chunk[0].cpu() for chunk in decode_chunks(pipeline, latents)], dim=1)
    has_equal_bits = all(np.array_equal(results[0], other) for other in results[1:])
    return Decoding(statistics.median(seconds[1:]), peak_bytes, output, results[0].astype(np.int16), has_equal_bits)


@click.command()
@click.option("--size", nargs=3, type=int, default=(832, 480, 33), show_default=True, help="Width, height, frames.")
@click.option("--rounds", default=3, show_default=True, help="Timed decodings; the median counts.")
def main(size: tuple[int, int, int], rounds: int) -> None:
    """Print a line for each VAE and decoder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    click.echo(f"{name}, torch {torch.__version__}, {size[0]}x{size[1]}x{size[2]}")
    for model_name in MODELS:
        torch.manual_seed(0)
        vae = build_random_vae(model_name == "wan2.2-5b", device)
        latents = torch.randn(1, *find_model(model_name).compute_latent_shape(*size), device=device)
        reference = measure(vae, latents, rounds)
        fuse_decoder(vae)
        fused = measure(vae, latents, rounds)
        for label, result in (("reference", reference), ("fused", fused)):
            click.echo(
                f"{model_name} {label:<9} {result.seconds:.3f} s, peak {result.peak_bytes / 1e9:.2f} GB, "
                f"{'equal bits' if result.has_equal_bits else 'OTHER BITS'} in {rounds + 1} runs"
            )
        differences = np.abs(fused.frames - reference.frames)
        error = float((fused.output - reference.output).norm() / reference.output.norm())
        click.echo(
            f"{model_name} fused: {reference.seconds / fused.seconds:.2f} times as fast, differs by {error:.1e} of the "
            f"norm; {(differences > 0).mean():.1%} of the 8-bit values differ, by at most {differences.max()}"
        )


if __name__ == "__main__":
    sys.exit(main())
