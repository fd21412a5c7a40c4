"""Throughput of a device, which predicts a video's time for any model and size.

The time of a block is a sum of three terms: operations of self-attention, operations of other matrix products, and
values read and written between them, each times a cost per operation or value on this device. `wantui bench` measures
blocks of several sizes and fits the three costs by least squares. The time to submit its work to the device is a lower
bound for the time of a small block.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from wantui.config.speeds import SpeedName
from wantui.models.catalogue import WanModel
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning.flops import count_latent_positions
from wantui.planning.guidance_plan import compute_mean_passes
from wantui.planning.memory_plan import RESIDENT_PLAN, MemoryPlan, can_fuse_pipeline
from wantui.planning.recipe import Recipe
from wantui.planning.step_skipping import estimate_computed_share
from wantui.planning.weight_bytes import estimate_mean_block_bytes
from wantui.samplers import count_model_evaluations

NATIVE_ATTENTION = "native"
"""diffusers' name of torch's own attention."""
FLASH_ATTENTION_4 = "flash_attn_4"
"""FlashAttention-4, which diffusers offers only as a download from the hub."""
PACKAGE_BY_KERNEL = {"flash": "flash-attn", "_flash_3": "flash-attn-3", FLASH_ATTENTION_4: "flash-attn-4"}
"""Packages of the attention kernels that are not part of torch, and may not be installed."""
INT8_SCALING_COST = 0.038
"""Time to scale one output of an int8 matrix product, relative to `Throughput.value`; measured for 14B on an H100."""
POSITION_MODULATION_COST = 0.25
"""Extra time per value of a block whose modulation differs between positions (Wan 2.2 5B), relative to
`Throughput.value`; measured on an H100."""
TILED_PIXEL_COST = 1.2
"""Time to decode a pixel of a tile, relative to a pixel of a full frame; measured for tiles of 256 on an H100, assumed
for tiles of 128."""
MAX_LAUNCH_RATIO = 1.05
"""Ratio of a block's time to its launch time up to which the measurement is limited by the launch."""


@dataclass(frozen=True)
class MeasuredBlock:
    """One measured block: widths of its transformer, number of positions, and seconds."""

    transformer_width: int
    feed_forward_width: int
    token_count: int
    seconds: float
    launch_seconds: float = 0.0
    """Seconds to submit the block's work to the device."""


@dataclass(frozen=True)
class Throughput:
    """Costs of a device, in seconds per operation, value, pixel, block or byte."""

    device: str
    speed: SpeedName
    attention_operation: float
    product_operation: float
    value: float
    decoded_value: float
    """Seconds per pixel and frame decoded by the VAE of Wan 2.1."""
    streamed_block: float
    """Extra seconds per block streamed from host memory."""
    streamed_byte: float
    """Seconds per byte of a streamed block; the transfer overlaps the computation of the preceding block."""
    torch: str
    error: float
    """Largest relative error of the fit over the measured blocks."""
    attention: str = NATIVE_ATTENTION
    """diffusers' name of the fastest attention kernel."""
    launch: float = 0.0
    """Seconds for the CPU to submit the work of one block, including overhead around the measured blocks; a lower bound
    for the time of a block."""
    fused_decoded_value: float | None = None
    """`decoded_value` of a fused decoder; None if it was not measured."""

    def predict_block_seconds(self, transformer_width: int, feed_forward_width: int, token_count: int) -> float:
        """Predict the seconds of one block."""
        terms = _compute_cost_terms(transformer_width, feed_forward_width, token_count)
        return max(self.launch, math.fsum(map(operator.mul, terms, self._cost_coefficients)))

    @property
    def _cost_coefficients(self) -> tuple[float, float, float]:
        return self.attention_operation, self.product_operation, self.value

    def predict_step_seconds(
        self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT_PLAN, gpu_count: int = 1
    ) -> float:
        """Predict the seconds of one step, averaged over the denoising: one pass, or two with guidance on one GPU."""
        token_count = count_latent_positions(model, recipe.width, recipe.height, recipe.frames)
        block_seconds = self.predict_block_seconds(model.transformer_width, model.feed_forward_width, token_count)
        if recipe.weights == "int8":
            block_seconds += (
                INT8_SCALING_COST * self.value * token_count * (7 * model.transformer_width + model.feed_forward_width)
            )
        if model.has_timestep_per_token and not can_fuse_pipeline(model, plan, recipe.speed, recipe.weights):
            block_seconds += POSITION_MODULATION_COST * self.value * token_count * model.transformer_width
        if plan.weight_streaming != "none":
            transfer_seconds = self.streamed_byte * estimate_mean_block_bytes(model, recipe)
            is_overlapped = plan.weight_streaming == "overlapped"
            block_seconds = self.streamed_block + (
                max(block_seconds, transfer_seconds) if is_overlapped else block_seconds + transfer_seconds
            )
        mean_passes = compute_mean_passes(recipe, gpu_count)
        return mean_passes * estimate_computed_share(recipe) * model.block_count * block_seconds

    def predict_decode_seconds(self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT_PLAN) -> float:
        """Predict the seconds to decode the video."""
        pixel_seconds = self.decoded_value * model.relative_decode_time
        if self.fused_decoded_value is not None and can_fuse_pipeline(model, plan, recipe.speed, recipe.weights):
            pixel_seconds = self.fused_decoded_value * model.fused_relative_decode_time
        return pixel_seconds * count_decoded_pixels(recipe, plan)

    def predict_video_seconds(
        self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT_PLAN, gpu_count: int = 1
    ) -> float:
        """Predict the seconds of denoising and decoding, with the model already loaded."""
        evaluation_count = count_model_evaluations(recipe.sampler, recipe.steps)
        step_seconds = self.predict_step_seconds(model, recipe, plan, gpu_count)
        return evaluation_count * step_seconds + self.predict_decode_seconds(model, recipe, plan)


def count_decoded_pixels(recipe: Recipe, plan: MemoryPlan) -> float:
    """Count the pixels to decode over all frames; pixels of tiles are weighted by TILED_PIXEL_COST."""
    tile_side = plan.choose_tile_side(recipe.width, recipe.height)
    frame_pixels = count_decoded_side_pixels(recipe.width, tile_side) * count_decoded_side_pixels(
        recipe.height, tile_side
    )
    return frame_pixels * recipe.frames * (1.0 if tile_side is None else TILED_PIXEL_COST)


def count_decoded_side_pixels(side_pixels: int, tile_side: int | None) -> int:
    """Count the pixels decoded along a side, where tiles overlap by a quarter."""
    if tile_side is None or side_pixels <= tile_side:
        return side_pixels
    return sum(min(tile_side, side_pixels - start) for start in range(0, side_pixels, tile_side * 3 // 4))


def _compute_cost_terms(
    transformer_width: int, feed_forward_width: int, token_count: int
) -> tuple[float, float, float]:
    """Return the operations of a block's self-attention, its other operations, and the values it reads and writes."""
    attention_operations = 4.0 * token_count * token_count * transformer_width
    multiply_adds = (
        6 * token_count * transformer_width * transformer_width
        + 2 * TEXT_POSITION_COUNT * transformer_width * (transformer_width + token_count)
        + 2 * token_count * transformer_width * feed_forward_width
    )
    return attention_operations, 2.0 * multiply_adds, float(token_count * transformer_width)


def fit_throughput(
    blocks: Sequence[MeasuredBlock],
    decoded_value: float,
    device: str,
    speed: SpeedName,
    torch_version: str,
    streaming_costs: tuple[float, float] = (0.0, 0.0),
    attention_kernel: str = NATIVE_ATTENTION,
    fused_decoded_value: float | None = None,
) -> Throughput:
    """Fit non-negative costs by least squares on relative errors.

    Blocks limited by their launch are excluded: their times do not depend on the device.

    Args:
        streaming_costs: extra seconds per block, and seconds per byte, of blocks streamed from host memory.
    """
    import numpy as np
    from scipy.optimize import nnls

    cost_terms = np.array(
        [_compute_cost_terms(block.transformer_width, block.feed_forward_width, block.token_count) for block in blocks]
    )
    block_seconds = np.array([block.seconds for block in blocks])
    launch_seconds = np.array([block.launch_seconds for block in blocks])
    is_device_bound = block_seconds > MAX_LAUNCH_RATIO * launch_seconds
    term_scale = cost_terms.max(0)
    relative_terms = (cost_terms / term_scale / block_seconds[:, None])[is_device_bound]
    coefficients, _ = nnls(relative_terms, np.ones(is_device_bound.sum()))
    coefficients = coefficients / term_scale
    largest_error = float(np.abs(np.maximum(launch_seconds, cost_terms @ coefficients) / block_seconds - 1).max())
    attention_operation, product_operation, value = map(float, coefficients)
    streamed_block, streamed_byte = streaming_costs
    return Throughput(
        device=device,
        speed=speed,
        attention_operation=attention_operation,
        product_operation=product_operation,
        value=value,
        decoded_value=decoded_value,
        streamed_block=streamed_block,
        streamed_byte=streamed_byte,
        torch=torch_version,
        error=largest_error,
        attention=attention_kernel,
        launch=float(launch_seconds.min()),
        fused_decoded_value=fused_decoded_value,
    )
