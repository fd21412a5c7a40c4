"""Measure the throughput of a device with random weights: blocks of published widths, and the VAE."""

import gc
import math
from collections.abc import Callable
from functools import partial

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from wantui.config.speeds import SpeedName
from wantui.generation.attention_backends import find_fastest_attention_kernel
from wantui.generation.cuda_errors import is_out_of_memory
from wantui.generation.errors import LoadError
from wantui.generation.fuse import fuse_blocks, quantize_blocks
from wantui.generation.fused_decoder import fuse_decoder
from wantui.generation.load import check_fp8_device, check_kernel_requirements
from wantui.generation.pass_cache import PassCache
from wantui.generation.placement import find_device_name, free_unused_memory, select_gpu, stream_blocks
from wantui.generation.timing import measure_median_seconds, measure_round_and_launch_seconds
from wantui.planning.fp8 import count_fp8_blocks
from wantui.planning.throughput import MeasuredBlock, Throughput, fit_throughput

TIMED_TRANSFORMERS = ((12, 8960, 12), (40, 13824, 3))
"""Number of heads (of 128 channels), feed-forward width and number of timed blocks, for Wan 2.1 1.3B and 14B. With more
blocks, the time outside of blocks has a smaller share."""
PUBLISHED_BLOCK_COUNTS = {12: 30, 40: 40}
"""Number of blocks in the published models, by number of heads, which determines the share of blocks in FP8."""
LATENT_GRIDS = ((3, 60, 104), (9, 60, 104), (21, 60, 104))
"""Latent frames, height and width."""
DECODED_FRAME_SIZE = (480, 832)
"""Height and width of the decoded frames, in pixels."""
MIN_MEASUREMENT_SECONDS = 1.0
"""Shortest duration of each measurement: a GPU under load first lowers its clock too far, and then settles."""
STREAMED_BLOCK_COUNTS = (6, 3)
"""Number of blocks per width that are streamed from CPU memory."""
WAN_2_2_5B_VAE_CONFIG = {
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
"""Published config of Wan 2.2 5B's VAE, except the latent statistics; other models use diffusers' default."""
PROMPT_TOKEN_COUNT = 40
"""Number of tokens in the test prompt."""


def build_random_transformer(
    head_count: int,
    feed_forward_width: int,
    block_count: int,
    device: torch.device,
    dtype: torch.dtype,
    channel_count: int = 16,
) -> WanTransformer3DModel:
    """Return a Wan transformer with heads of 128 and random weights.

    Layers that diffusers keeps in float32 are float32.
    """
    config = {
        "num_attention_heads": head_count,
        "attention_head_dim": 128,
        "in_channels": channel_count,
        "out_channels": channel_count,
    }
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            **config, ffn_dim=feed_forward_width, num_layers=block_count, cross_attn_norm=True
        )
    for name, parameter in list(transformer.named_parameters()):
        is_float32 = any(part in name for part in transformer._keep_in_fp32_modules)
        random_values = torch.empty(
            parameter.shape, dtype=torch.float32 if is_float32 else dtype, device=device
        ).normal_(std=0.02)
        module = transformer.get_submodule(name.rpartition(".")[0])
        setattr(module, name.rpartition(".")[2], nn.Parameter(random_values, requires_grad=False))
    transformer.rope = WanTransformer3DModel(**config, num_layers=0).rope.to(device)
    return transformer.eval()


def build_random_vae(is_wan_2_2_5b: bool, device: torch.device) -> AutoencoderKLWan:
    """Return a VAE with random weights, in float32."""
    return AutoencoderKLWan(**(WAN_2_2_5B_VAE_CONFIG if is_wan_2_2_5b else {})).to(device).eval()


def measure_throughput(device: torch.device, speed: SpeedName, report_line: Callable[[str], None]) -> Throughput:
    """Measure the throughput of a GPU, or of a CPU in tests.

    Args:
        report_line: receives a line for each measurement.

    Raises:
        LoadError: a requirement of fused or FP8 blocks is missing, or there is not enough memory.
    """
    if speed == "fp8":
        check_fp8_device(device)
    if device.type == "cuda" and speed != "reference":
        check_kernel_requirements(speed)
    try:
        return _run_measurements(device, speed, report_line)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise LoadError(
            f"cannot measure {device}: not enough free memory. End other processes on it (`wantui gpu` lists them), or "
            "wait until idle workers have ended"
        ) from error


@torch.no_grad()
def _run_measurements(device: torch.device, speed: SpeedName, report_line: Callable[[str], None]) -> Throughput:
    select_gpu(device)
    attention_kernel = find_fastest_attention_kernel(device, report_line)
    blocks = _measure_blocks(device, speed, attention_kernel, report_line)
    decoding_seconds, fused_decoding_seconds = _measure_decoding(device, speed, report_line)
    streaming_seconds = 0.0, 0.0
    if device.type == "cuda":
        report_line(f"launching a block: {1000 * min(block.launch_seconds for block in blocks):.2f} ms")
        streaming_seconds = _measure_streaming(device, speed)
        report_line(
            f"streaming: {1000 * streaming_seconds[0]:.2f} ms a block, {1e12 * streaming_seconds[1]:.1f} ms a GB"
        )
    return fit_throughput(
        blocks,
        decoding_seconds,
        find_device_name(device),
        speed,
        torch.__version__,
        streaming_costs=streaming_seconds,
        attention_kernel=attention_kernel,
        fused_decoded_value=fused_decoding_seconds,
    )


def _measure_blocks(
    device: torch.device, speed: SpeedName, attention_kernel: str, report_line: Callable[[str], None]
) -> list[MeasuredBlock]:
    """Return the seconds per block, by width and number of positions."""
    measured_blocks = []
    for head_count, feed_forward_width, block_count in TIMED_TRANSFORMERS:
        transformer = build_random_transformer(head_count, feed_forward_width, block_count, device, torch.bfloat16)
        if speed != "reference":
            fuse_blocks(transformer, attention_kernel)
        measured_seconds = _time_passes(transformer, device)
        if speed == "fp8":
            quantize_blocks(transformer, device, skips_end_blocks=False)
            published_count = PUBLISHED_BLOCK_COUNTS[head_count]
            fp8_share = count_fp8_blocks(published_count) / published_count
            measured_seconds = [
                tuple(fp8_share * fp8 + (1 - fp8_share) * fused for fp8, fused in zip(*times, strict=True))
                for times in zip(_time_passes(transformer, device), measured_seconds, strict=True)
            ]
        for (frames, height, width), seconds in zip(LATENT_GRIDS, measured_seconds, strict=True):
            block_seconds, launch_seconds = (pass_seconds / block_count for pass_seconds in seconds)
            position_count = frames * (height // 2) * (width // 2)
            measured_blocks.append(
                MeasuredBlock(128 * head_count, feed_forward_width, position_count, block_seconds, launch_seconds)
            )
            report_line(
                f"block of width {128 * head_count}, {position_count:,} positions: {1000 * block_seconds:.2f} ms"
            )
        del transformer
        gc.collect()
        free_unused_memory()
    return measured_blocks


def _measure_decoding(
    device: torch.device, speed: SpeedName, report_line: Callable[[str], None]
) -> tuple[float, float | None]:
    """Return the seconds to decode a pixel of a frame with the VAE of Wan 2.1, and with its decoder fused."""
    height, width = DECODED_FRAME_SIZE
    vae = build_random_vae(False, device)
    latents = torch.randn(1, 16, 4, height // 8, width // 8, device=device)
    decode = partial(vae.decode, latents, return_dict=False)
    pixel_count = height * width * 13
    seconds_per_pixel = measure_median_seconds(decode, device, min_rounds=1) / pixel_count
    report_line(f"decoding: {1e9 * seconds_per_pixel:.1f} ns per pixel of a frame")
    fused_seconds_per_pixel = None
    if speed != "reference":
        fuse_decoder(vae)
        fused_seconds_per_pixel = measure_median_seconds(decode, device, min_rounds=1) / pixel_count
        report_line(f"fused decoding: {1e9 * fused_seconds_per_pixel:.1f} ns per pixel of a frame")
    del vae, decode
    free_unused_memory()
    return seconds_per_pixel, fused_seconds_per_pixel


def _time_passes(transformer: WanTransformer3DModel, device: torch.device) -> list[tuple[float, ...]]:
    """Return the seconds of a pass at each of `LATENT_GRIDS`, and the seconds to submit its work to the device."""
    text_embedding = torch.zeros(1, 512, 4096, device=device, dtype=torch.bfloat16)
    text_embedding[:, :PROMPT_TOKEN_COUNT] = torch.randn(1, PROMPT_TOKEN_COUNT, 4096, device=device)
    pass_cache, timestep = PassCache(), torch.tensor([500.0], device=device)
    measured_seconds: list[tuple[float, ...]] = []
    for grid in LATENT_GRIDS:
        latents = torch.randn(1, 16, *grid, device=device, dtype=torch.bfloat16)
        run_pass = partial(_run_pass, pass_cache, transformer, latents, timestep, text_embedding)
        pass_seconds, launch_seconds = measure_round_and_launch_seconds(
            run_pass, device, min_seconds=MIN_MEASUREMENT_SECONDS
        )
        # On a CPU the call returns when the work is done.
        measured_seconds.append((pass_seconds, launch_seconds if device.type == "cuda" else 0.0))
    return measured_seconds


def _run_pass(pass_cache: PassCache, transformer: WanTransformer3DModel, *inputs: torch.Tensor) -> None:
    """Run one pass, as in a step without guidance."""
    pass_cache.start_step(has_two_passes=False)
    with pass_cache.run_pass(transformer, "cond", inputs[-1]):
        transformer(*inputs)


@torch.no_grad()
def _measure_streaming(device: torch.device, speed: SpeedName) -> tuple[float, float]:
    """Return the additional seconds per streamed block, and the transfer seconds per byte.

    The first is measured with blocks whose computation takes longer than their transfer, the second with blocks that
    compute almost nothing.
    """
    (narrow_head_count, narrow_feed_forward, _), (wide_head_count, wide_feed_forward, _) = TIMED_TRANSFORMERS
    resident_seconds, streamed_seconds, _ = _time_blocks(
        narrow_head_count,
        narrow_feed_forward,
        STREAMED_BLOCK_COUNTS[0],
        max(LATENT_GRIDS, key=math.prod),
        device,
        speed,
    )
    extra_seconds = max(0.0, streamed_seconds - resident_seconds)
    _, streamed_seconds, block_bytes = _time_blocks(
        wide_head_count, wide_feed_forward, STREAMED_BLOCK_COUNTS[1], (1, 16, 16), device, speed
    )
    return extra_seconds, max(streamed_seconds - extra_seconds, 0.0) / block_bytes


def _time_blocks(
    head_count: int,
    feed_forward_width: int,
    block_count: int,
    latent_grid: tuple[int, ...],
    device: torch.device,
    speed: SpeedName,
) -> tuple[float, float, int]:
    """Return the seconds of a resident block, the seconds of a streamed block, and its bytes."""
    transformer = build_random_transformer(head_count, feed_forward_width, block_count, device, torch.bfloat16)
    if speed != "reference":
        fuse_blocks(transformer)
    if speed == "fp8":
        quantize_blocks(transformer, device, skips_end_blocks=False)
    block_bytes = sum(p.numel() * p.element_size() for p in transformer.blocks[0].parameters())
    latents = torch.randn(1, 16, *latent_grid, device=device, dtype=torch.bfloat16)
    text_embedding = torch.randn(1, 512, 4096, device=device, dtype=torch.bfloat16)
    run_transformer = partial(transformer, latents, torch.tensor([500.0], device=device), text_embedding)
    resident_seconds = measure_median_seconds(run_transformer, device) / block_count
    stream_blocks(transformer.to("cpu"), device)
    run_transformer()  # in the first run diffusers records the order of the blocks
    streamed_seconds = measure_median_seconds(run_transformer, device) / block_count
    del transformer, run_transformer
    free_unused_memory()
    return resident_seconds, streamed_seconds, block_bytes
