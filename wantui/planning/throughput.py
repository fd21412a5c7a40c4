"""Throughput of a device, and the resulting time of a video of any model and size.

The time of a block is a sum: operations of self-attention, operations of the other products, and values that are read
and written between them, each times what one of them takes on this device. `wantui bench` measures blocks of several
sizes, and these three follow by least squares. A small block takes as long as it takes to hand its work to the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.config.speeds import SpeedName
from wantui.models.catalogue import WanModel
from wantui.planning.flops import TEXT_LENGTH, count_positions
from wantui.planning.memory_plan import RESIDENT, MemoryPlan, block_bytes, can_fuse_blocks
from wantui.planning.recipe import Recipe
from wantui.planning.step_skipping import computed_share
from wantui.schedule import model_evaluations

NATIVE_ATTENTION = "native"
"""torch's own attention, as diffusers calls it."""
INT8_SCALING_COST = 0.038
"""Time for each output of a product of a block in int8, which is scaled after it, in that of one of its `value`s.
Measured for 14B on an H100."""
POSITION_VALUE_COST = 0.25
"""The same for each value of a block that is modulated at every place on its own, as diffusers does for 2.2 5B.
Measured there on an H100."""
TILED_PIXEL_COST = 1.2
"""Time to decode a pixel of a tile, relative to a pixel of a full frame. Measured for tiles of 256 on an H100, and
assumed for those of 128 too."""
MAX_LAUNCH_RATIO = 1.05
"""Ratio of a block's time to its launch time below which the block was waiting for its launch."""


@dataclass(frozen=True)
class MeasuredBlock:
    """One measured block: widths of its transformer, how many places it attends to, and its seconds."""

    dim: int
    feed_forward: int
    tokens: int
    seconds: float
    launch: float = 0.0
    """Seconds to submit its work to the device."""


@dataclass(frozen=True)
class Throughput:
    """Seconds that one of each takes on a device."""

    device: str
    speed: SpeedName
    attention_operation: float
    product_operation: float
    value: float
    decoded_value: float
    """Per pixel and frame that the VAE of Wan 2.1 decodes."""
    streamed_block: float
    """Seconds that a block streamed from the machine's memory takes besides its work."""
    streamed_byte: float
    """Seconds per byte of a streamed block; while the block before works, unless that is quicker."""
    torch: str
    error: float
    """Largest relative error of the fit over the measured blocks."""
    attention: str = NATIVE_ATTENTION
    """The kernel that was the quickest, as diffusers calls it."""
    launch: float = 0.0
    """Seconds for the processor to submit the work of a block, with its share of the fixed work around the few measured
    blocks; lower bound of a block's time."""

    def block_seconds(self, dim: int, feed_forward: int, tokens: int) -> float:
        """Return the seconds of one block."""
        return max(self.launch, float(np.dot(_cost_terms(dim, feed_forward, tokens), self._coefficients)))

    @property
    def _coefficients(self) -> tuple[float, float, float]:
        return self.attention_operation, self.product_operation, self.value

    def step_seconds(self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT) -> float:
        """Return the seconds of one step; with guidance, of two passes."""
        tokens = count_positions(model, recipe.width, recipe.height, recipe.frames)
        passes = 2 if recipe.guidance_scale > 1 else 1
        block = self.block_seconds(model.dim, model.feed_forward, tokens)
        if recipe.weights == "int8":
            block += INT8_SCALING_COST * self.value * tokens * (7 * model.dim + model.feed_forward)
        if model.has_timestep_per_token and not can_fuse_blocks(model, plan, recipe.speed, recipe.weights):
            block += POSITION_VALUE_COST * self.value * tokens * model.dim
        if plan.weight_streaming != "before":
            coming = self.streamed_byte * block_bytes(model, recipe)
            block = self.streamed_block + (max(block, coming) if plan.weight_streaming == "beside" else block + coming)
        return passes * computed_share(recipe) * model.blocks * block

    def decode_seconds(self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT) -> float:
        """Return the seconds to decode the video; tiles overlap."""
        return self.decoded_value * model.decode_time * count_decoded_pixels(recipe, plan)

    def video_seconds(self, model: WanModel, recipe: Recipe, plan: MemoryPlan = RESIDENT) -> float:
        """Return the seconds of denoising and decoding with a loaded model."""
        steps = model_evaluations(recipe.sampler, recipe.steps)
        return steps * self.step_seconds(model, recipe, plan) + self.decode_seconds(model, recipe, plan)


def count_decoded_pixels(recipe: Recipe, plan: MemoryPlan) -> float:
    """Return the decoded pixels of all frames, a tile's counted by the time of a complete frame's."""
    tile = plan.tile_for(recipe.width, recipe.height)
    pixels = count_decoded_side(recipe.width, tile) * count_decoded_side(recipe.height, tile)
    return pixels * recipe.frames * (1.0 if tile is None else TILED_PIXEL_COST)


def count_decoded_side(side: int, tile: int | None) -> int:
    """Return the pixels along a side that are decoded, with tiles that overlap by a quarter."""
    if tile is None or side <= tile:
        return side
    return sum(min(tile, side - start) for start in range(0, side, tile * 3 // 4))


def _cost_terms(dim: int, feed_forward: int, tokens: int) -> tuple[float, float, float]:
    """Return the operations of self-attention, those of a block's other products, and values moved to memory and
    back."""
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
    """Fit the throughput by least squares on relative errors; no coefficient is negative.

    Blocks that took as long as it took to launch them say nothing about the device, and are left out.

    Args:
        streamed: seconds for a block and for a byte of it, where blocks come from the machine's memory.
    """
    from scipy.optimize import nnls

    terms = np.array([_cost_terms(block.dim, block.feed_forward, block.tokens) for block in blocks])
    seconds = np.array([block.seconds for block in blocks])
    launches = np.array([block.launch for block in blocks])
    telling = seconds > MAX_LAUNCH_RATIO * launches
    scale = terms.max(0)
    coefficients, _ = nnls((terms / scale / seconds[:, None])[telling], np.ones(telling.sum()))
    coefficients = coefficients / scale
    error = float(np.abs(np.maximum(launches, terms @ coefficients) / seconds - 1).max())
    operation, product, value = map(float, coefficients)
    launch = float(launches.min())
    return Throughput(
        device, speed, operation, product, value, decoded_value, *streamed, torch_version, error, attention, launch
    )
