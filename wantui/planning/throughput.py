"""Throughput of a device, which predicts the time of a video of any model and size.

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
from wantui.planning.flops import TEXT_LENGTH, count_positions
from wantui.planning.memory_plan import RESIDENT, MemoryPlan, can_fuse_blocks, estimate_block_bytes
from wantui.planning.recipe import Recipe
from wantui.planning.step_skipping import estimate_computed_share
from wantui.schedule import count_model_evaluations

NATIVE_ATTENTION = "native"
"""diffusers' name of torch's own attention."""
INT8_SCALING_COST = 0.038
"""Time to scale one output of an int8 matrix product, relative to `Throughput.value`; measured for 14B on an H100."""
POSITION_VALUE_COST = 0.25
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

    dim: int
    feed_forward: int
    tokens: int
    seconds: float
    launch: float = 0.0
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

    def predict_block_seconds(self, dim: int, feed_forward: int, tokens: int) -> float:
        """Predict the seconds of one block."""
        terms = _compute_cost_terms(dim, feed_forward, tokens)
        return max(self.launch, math.fsum(map(operator.mul, terms, self._coefficients)))

    @property
    def _coefficients(self) -> tuple[float, float, float]:
        return self.attention_operation, self.product_operation, self.value

    def predict_step_seconds(self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT) -> float:
        """Predict the seconds of one step: one pass, or two with guidance."""
        tokens = count_positions(model, recipe.width, recipe.height, recipe.frames)
        passes = 2 if recipe.guidance_scale > 1 else 1
        block = self.predict_block_seconds(model.dim, model.feed_forward, tokens)
        if recipe.weights == "int8":
            block += INT8_SCALING_COST * self.value * tokens * (7 * model.dim + model.feed_forward)
        if model.has_timestep_per_token and not can_fuse_blocks(model, plan, recipe.speed, recipe.weights):
            block += POSITION_VALUE_COST * self.value * tokens * model.dim
        if plan.weight_streaming != "none":
            transfer = self.streamed_byte * estimate_block_bytes(model, recipe)
            is_overlapped = plan.weight_streaming == "overlapped"
            block = self.streamed_block + (max(block, transfer) if is_overlapped else block + transfer)
        return passes * estimate_computed_share(recipe) * model.blocks * block

    def predict_decode_seconds(self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT) -> float:
        """Predict the seconds to decode the video."""
        return self.decoded_value * model.decode_time * count_decoded_pixels(recipe, plan)

    def predict_video_seconds(self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT) -> float:
        """Predict the seconds of denoising and decoding, with the model already loaded."""
        steps = count_model_evaluations(recipe.sampler, recipe.steps)
        return steps * self.predict_step_seconds(model, recipe, plan) + self.predict_decode_seconds(model, recipe, plan)


def count_decoded_pixels(recipe: Recipe, plan: MemoryPlan) -> float:
    """Count the pixels to decode over all frames; pixels of tiles are weighted by TILED_PIXEL_COST."""
    tile = plan.choose_tile(recipe.width, recipe.height)
    pixels = count_decoded_side(recipe.width, tile) * count_decoded_side(recipe.height, tile)
    return pixels * recipe.frames * (1.0 if tile is None else TILED_PIXEL_COST)


def count_decoded_side(side: int, tile: int | None) -> int:
    """Count the pixels decoded along a side, where tiles overlap by a quarter."""
    if tile is None or side <= tile:
        return side
    return sum(min(tile, side - start) for start in range(0, side, tile * 3 // 4))


def _compute_cost_terms(dim: int, feed_forward: int, tokens: int) -> tuple[float, float, float]:
    """Return the operations of a block's self-attention and of its other products, and the values it reads and
    writes."""
    attention = 4.0 * tokens * tokens * dim
    products = 6 * tokens * dim * dim + 2 * TEXT_LENGTH * dim * (dim + tokens) + 2 * tokens * dim * feed_forward
    return attention, 2.0 * products, float(tokens * dim)


def fit_throughput(
    blocks: Sequence[MeasuredBlock],
    decoded_value: float,
    device: str,
    speed: SpeedName,
    torch_version: str,
    streamed: tuple[float, float] = (0.0, 0.0),
    attention: str = NATIVE_ATTENTION,
) -> Throughput:
    """Fit non-negative costs by least squares on relative errors.

    Blocks limited by their launch are excluded: their times do not depend on the device.

    Args:
        streamed: extra seconds per block, and seconds per byte, of blocks streamed from host memory.
    """
    import numpy as np
    from scipy.optimize import nnls

    terms = np.array([_compute_cost_terms(block.dim, block.feed_forward, block.tokens) for block in blocks])
    seconds = np.array([block.seconds for block in blocks])
    launches = np.array([block.launch for block in blocks])
    is_device_bound = seconds > MAX_LAUNCH_RATIO * launches
    scale = terms.max(0)
    relative_terms = (terms / scale / seconds[:, None])[is_device_bound]
    coefficients, _ = nnls(relative_terms, np.ones(is_device_bound.sum()))
    coefficients = coefficients / scale
    error = float(np.abs(np.maximum(launches, terms @ coefficients) / seconds - 1).max())
    operation, product, value = map(float, coefficients)
    launch = float(launches.min())
    return Throughput(
        device, speed, operation, product, value, decoded_value, *streamed, torch_version, error, attention, launch
    )
