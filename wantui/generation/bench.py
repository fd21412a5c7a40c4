"""Measure the throughput of a device with random weights: blocks of published widths, and the VAE."""

import gc
import math
from collections.abc import Callable
from functools import partial

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from wantui.config.speeds import SpeedName
from wantui.generation.attention_backends import fastest_attention
from wantui.generation.errors import LoadError
from wantui.generation.fuse import fuse_blocks
from wantui.generation.load import check_kernels
from wantui.generation.pass_cache import PassCache
from wantui.generation.placement import find_device_name, free_memory, is_out_of_memory, set_device, stream_blocks
from wantui.generation.timing import measure_median_and_launch, measure_median_seconds
from wantui.planning.throughput import MeasuredBlock, Throughput, fit_throughput

WIDTHS = ((12, 8960, 12), (40, 13824, 3))
"""Number of heads of 128, feed-forward width and number of timed blocks, for Wan 2.1 1.3B and 14B. More blocks reduce
the share of the time outside of blocks."""
GRIDS = ((3, 60, 104), (9, 60, 104), (21, 60, 104))
"""Latent frames, height and width."""
DECODED_SIZE = (480, 832)
"""Height and width of the decoded frames, in pixels."""
MIN_SECONDS = 1.0
"""Shortest duration of each measurement: under load a GPU lowers its clock, at first by too much."""
STREAMED_BLOCKS = (6, 3)
"""Number of blocks of each width that are streamed from CPU memory."""
VAE_OF_2_2_5B = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
"""Published config of Wan 2.2 5B's VAE, except the latent statistics; other models use the default of diffusers."""
TEXT_TOKENS = 40
"""Number of tokens of the test prompt."""


def build_random_transformer(
    heads: int, feed_forward: int, blocks: int, device: torch.device, dtype: torch.dtype, channels: int = 16
) -> WanTransformer3DModel:
    """Return a Wan transformer with heads of 128 and random weights; layers that diffusers keeps in float32 are
    float32."""
    sizes = {"num_attention_heads": heads, "attention_head_dim": 128, "in_channels": channels, "out_channels": channels}
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**sizes, ffn_dim=feed_forward, num_layers=blocks, cross_attn_norm=True)
    for name, parameter in list(transformer.named_parameters()):
        full = any(part in name for part in transformer._keep_in_fp32_modules)
        values = torch.empty(parameter.shape, dtype=torch.float32 if full else dtype, device=device).normal_(std=0.02)
        owner = transformer.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(values, requires_grad=False))
    transformer.rope = WanTransformer3DModel(**sizes, num_layers=0).rope.to(device)
    return transformer.eval()


def build_random_vae(is_of_2_2_5b: bool, device: torch.device) -> AutoencoderKLWan:
    """Return a VAE with random weights, in float32."""
    return AutoencoderKLWan(**(VAE_OF_2_2_5B if is_of_2_2_5b else {})).to(device).eval()


def measure_throughput(device: torch.device, speed: SpeedName, show: Callable[[str], None]) -> Throughput:
    """Measure the throughput of a GPU, or of a CPU in tests.

    Args:
        show: receives a line for each measurement.

    Raises:
        LoadError: a requirement of fused blocks is missing, or there is not enough memory.
    """
    if device.type == "cuda" and speed != "reference":
        check_kernels(speed)
    try:
        return _measure_throughput(device, speed, show)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise LoadError(
            f"cannot measure {device}: not enough free memory. End other processes on it (`wantui gpu` lists them), or "
            "wait until idle workers have ended"
        ) from error


@torch.no_grad()
def _measure_throughput(device: torch.device, speed: SpeedName, show: Callable[[str], None]) -> Throughput:
    set_device(device)
    attention = fastest_attention(device, show)
    blocks = []
    for heads, feed_forward, count in WIDTHS:
        transformer = build_random_transformer(heads, feed_forward, count, device, torch.bfloat16)
        if speed != "reference":
            fuse_blocks(transformer, attention)
        text = torch.zeros(1, 512, 4096, device=device, dtype=torch.bfloat16)
        text[:, :TEXT_TOKENS] = torch.randn(1, TEXT_TOKENS, 4096, device=device)
        passes, timestep = PassCache(), torch.tensor([500.0], device=device)
        for frames, height, width in GRIDS:
            latents = torch.randn(1, 16, frames, height, width, device=device, dtype=torch.bfloat16)
            run = partial(_run_pass, passes, transformer, latents, timestep, text)
            seconds, launch = (taken / count for taken in measure_median_and_launch(run, device, seconds=MIN_SECONDS))
            if device.type != "cuda":
                launch = 0.0  # on a CPU the call returns when the work is done
            tokens = frames * (height // 2) * (width // 2)
            blocks.append(MeasuredBlock(128 * heads, feed_forward, tokens, seconds, launch))
            show(f"block of width {128 * heads}, {tokens:,} positions: {1000 * seconds:.2f} ms")
        del transformer, run
        gc.collect()
        free_memory()
    height, width = DECODED_SIZE
    vae = build_random_vae(False, device)
    latents = torch.randn(1, 16, 4, height // 8, width // 8, device=device)
    values = height * width * 13
    decoded = measure_median_seconds(partial(vae.decode, latents, return_dict=False), device, rounds=1) / values
    show(f"decoding: {1e9 * decoded:.1f} ns per pixel of a frame")
    del vae
    free_memory()
    streamed = 0.0, 0.0
    if device.type == "cuda":
        show(f"launching a block: {1000 * min(block.launch_seconds for block in blocks):.2f} ms")
        streamed = _measure_streaming(device, speed)
        show(f"streaming: {1000 * streamed[0]:.2f} ms a block, {1e12 * streamed[1]:.1f} ms a GB")
    return fit_throughput(blocks, decoded, find_device_name(device), speed, torch.__version__, streamed, attention)


def _run_pass(passes: PassCache, transformer: WanTransformer3DModel, *inputs: torch.Tensor) -> None:
    """Run one pass, as in a step without guidance."""
    passes.start_step(has_two_passes=False)
    with passes.run_pass(transformer, "cond"):
        transformer(*inputs)


@torch.no_grad()
def _measure_streaming(device: torch.device, speed: SpeedName) -> tuple[float, float]:
    """Return the additional seconds per streamed block, and the transfer seconds per byte.

    The first is measured with blocks that compute longer than their transfer takes, the second with blocks that barely
    compute.
    """
    (narrow, narrow_feed_forward, _), (wide, wide_feed_forward, _) = WIDTHS
    resident_seconds, streamed_seconds, _ = _time_blocks(
        narrow, narrow_feed_forward, STREAMED_BLOCKS[0], max(GRIDS, key=math.prod), device, speed
    )
    extra_seconds = max(0.0, streamed_seconds - resident_seconds)
    _, streamed_seconds, size = _time_blocks(wide, wide_feed_forward, STREAMED_BLOCKS[1], (1, 16, 16), device, speed)
    return extra_seconds, max(streamed_seconds - extra_seconds, 0.0) / size


def _time_blocks(
    heads: int, feed_forward: int, blocks: int, grid: tuple[int, ...], device: torch.device, speed: SpeedName
) -> tuple[float, float, int]:
    """Return the seconds of a resident block, the seconds of a streamed block, and its bytes."""
    transformer = build_random_transformer(heads, feed_forward, blocks, device, torch.bfloat16)
    if speed != "reference":
        fuse_blocks(transformer)
    size = sum(p.numel() * p.element_size() for p in transformer.blocks[0].parameters())
    latents = torch.randn(1, 16, *grid, device=device, dtype=torch.bfloat16)
    text = torch.randn(1, 512, 4096, device=device, dtype=torch.bfloat16)
    run = partial(transformer, latents, torch.tensor([500.0], device=device), text)
    resident_seconds = measure_median_seconds(run, device) / blocks
    stream_blocks(transformer.to("cpu"), device)
    run()  # in the first run diffusers records the order of the blocks
    streamed_seconds = measure_median_seconds(run, device) / blocks
    del transformer, run
    free_memory()
    return resident_seconds, streamed_seconds, size
