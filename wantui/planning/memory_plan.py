"""Memory plans: where weights are while a video is generated, and the peak GPU memory of each plan.

A peak counts the weights on the GPU and the tensors that exist at the worst moment of a transformer pass, of decoding,
or of encoding the prompt. Sizes in the transformer are counted from diffusers' code; those of the VAE and the text
encoder were measured. `tests/benchmarks/gpu.py` compares predicted with actual peaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, assert_never

from wantui.config.plans import to_current_plan_name
from wantui.config.speeds import SpeedName
from wantui.formatting import format_bytes
from wantui.models.catalogue import WanModel
from wantui.planning.disk_estimate import estimate_extra_gpu_bytes
from wantui.planning.flops import (
    TEXT_LENGTH,
    count_block_parameters,
    count_full_precision_block_parameters,
    count_full_precision_parameters,
    count_positions,
    count_quantized_block_parameters,
    count_transformer_parameters,
)
from wantui.planning.model_source import Weights
from wantui.planning.recipe import Recipe


@dataclass(frozen=True)
class MemoryPlan:
    """One placement of weights, encoding and decoding, with its need of GPU memory."""

    slug: str
    """Name used in configs, manifests, events and messages."""
    encodes_first: bool = False
    """True if all prompts of a batch are encoded, and the text encoder freed, before other parts are loaded."""
    transformer: Literal["resident", "parked", "streamed", "sequential"] = "resident"
    """Placement of the transformer: always on the GPU (resident), only during denoising (parked), streamed one block
    ahead (streamed), or streamed layer by layer (sequential)."""
    tile_size: int | None = None
    """Side in pixels of the decoded tiles; None decodes the complete frame."""

    @property
    def is_for_cpu(self) -> bool:
        """Return whether the plan is useful on a CPU; other plans only move weights to and from a GPU."""
        return self.transformer == "resident"

    @property
    def can_fuse(self) -> bool:
        """Return whether blocks can be fused, which needs all weights of a block on the GPU at once."""
        return self.transformer != "sequential"

    @property
    def weight_streaming(self) -> Literal["none", "overlapped", "blocking"]:
        """Return how block weights reach the GPU during a pass: not at all, while the preceding block computes, or
        between layers while nothing computes."""
        match self.transformer:
            case "resident" | "parked":
                return "none"
            case "streamed":
                return "overlapped"
            case "sequential":
                return "blocking"
            case _:
                assert_never(self.transformer)

    def choose_tile(self, width: int, height: int) -> int | None:
        """Return the side of a tile in pixels, or None if one tile covers the complete frame."""
        return None if self.tile_size is None or max(width, height) <= self.tile_size else self.tile_size


DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes per number of each dtype."""
SMALL_TILE_SIDE, TILE_SIDE = 128, 256
RESIDENT = MemoryPlan("resident")
PLANS = (
    RESIDENT,
    MemoryPlan("encode-first", True),
    MemoryPlan("offload", True, "parked"),
    MemoryPlan("stream", True, "streamed"),
    MemoryPlan("tiled", True, tile_size=TILE_SIDE),
    MemoryPlan("offload-tiled", True, "parked", TILE_SIDE),
    MemoryPlan("stream-tiled", True, "streamed", TILE_SIDE),
    MemoryPlan("sequential", True, "sequential", SMALL_TILE_SIDE),
    MemoryPlan("small-tiles", True, tile_size=SMALL_TILE_SIDE),
)
"""Plans in order of preference: first those that leave every pixel unchanged, faster before slower."""
PLAN_SLUGS = tuple(plan.slug for plan in PLANS)
LATENT_BUFFERS = 10
"""Number of latent-sized float32 tensors: states, velocities and the sampler's earlier outputs."""
WORKSPACE_BYTES = 70_000_000
"""Bytes of the cuBLAS workspace and of fragmentation."""
ENCODING_BYTES = 240_000_000
"""Bytes of UMT5-XXL's activations at 512 tokens; measured."""
STREAMED_ENCODER_BYTES = 2_500_000_000
"""Peak bytes of a text encoder that is streamed layer by layer: its embedding and activations; measured."""
MIN_FUSED_WIDTH = 512
"""Minimum transformer width for fused blocks; narrower blocks, such as nano's, take longer to launch than to
compute."""
CONTEXT_BYTES = 600_000_000
"""CUDA context and library memory per process, in bytes, on top of torch's allocations."""
WIDENING_FACTORS = {"float8": 1.0, "int8": 1.0, "gguf": 5.4}
"""Memory for widening the largest weight to the model's dtype, relative to the widened weight; for GGUF the value of
Q5_0, the maximum."""
ALLOCATOR_SLACK = 1.04
"""Memory reserved by torch's allocator, relative to allocated memory."""


def find_plan(name: str) -> MemoryPlan:
    """Return the plan with a slug, or with its name in earlier versions.

    Raises:
        KeyError: there is no such plan.
    """
    return {plan.slug: plan for plan in PLANS}[to_current_plan_name(name)]


def estimate_transformer_bytes(model: WanModel, recipe: Recipe) -> int:
    """Return the weight bytes of one transformer, as loaded."""
    if recipe.transformer_file is not None:
        return recipe.transformer_file.bytes
    return _estimate_parameter_bytes(
        model, recipe, count_transformer_parameters(model), count_full_precision_parameters(model), model.blocks
    )


def estimate_block_bytes(model: WanModel, recipe: Recipe) -> int:
    """Return the weight bytes of one block; for weights in a file, the block's share of the file."""
    parameters = count_block_parameters(model)
    if recipe.transformer_file is not None:
        return recipe.transformer_file.bytes * parameters // count_transformer_parameters(model)
    return _estimate_parameter_bytes(model, recipe, parameters, count_full_precision_block_parameters(model), 1)


def _estimate_parameter_bytes(
    model: WanModel, recipe: Recipe, parameters: int, full_precision: int, blocks: int
) -> int:
    """Return the bytes of some parameters, of which `full_precision` are float32, in a number of blocks."""
    item = DTYPE_BYTES[recipe.dtype]
    narrowed = scales = 0
    if recipe.weights != "full":
        narrowed = blocks * count_quantized_block_parameters(model, recipe.weights)
    if recipe.weights == "int8":
        scales = blocks * (9 * model.dim + model.feed_forward)  # one scale per row
    return item * (parameters - full_precision - narrowed) + narrowed + 4 * (full_precision + scales)


def can_fuse_blocks(model: WanModel, plan: MemoryPlan, speed: SpeedName, weights: Weights) -> bool:
    """Return whether blocks are fused on a GPU: the plan and weights allow it, and the transformer is wide enough."""
    as_loaded = plan.can_fuse and weights == "full"
    return speed != "reference" and as_loaded and model.dim >= MIN_FUSED_WIDTH


def estimate_weight_bytes(model: WanModel, recipe: Recipe) -> int | None:
    """Return the weight bytes of all parts, as loaded, or None if their sizes are unknown."""
    if model.text_encoder_parameters is None or model.vae_parameters is None:
        return None
    item = DTYPE_BYTES[recipe.dtype]
    transformers = estimate_transformer_bytes(model, recipe) * (1 if model.boundary_ratio is None else 2)
    return transformers + item * model.text_encoder_parameters + 4 * model.vae_parameters


def estimate_activation_bytes(model: WanModel, recipe: Recipe, is_fused: bool = False) -> int:
    """Return the peak bytes of activations in a block, without weights.

    Unfused blocks peak in the feed-forward layer or at the end of the block. In the feed-forward layer exist two wide
    tensors (before and after GELU) and four narrow ones: block input, residual, norm, attention output. At the end
    exist three float32 tensors (residual, output, gated product) and five in the model's precision.

    Fused blocks peak with one wide tensor and five narrow ones (block input, residual, norm, output, input of the next
    pass), or with query, key and value and five narrow ones.
    """
    item = DTYPE_BYTES[recipe.dtype]
    tokens = count_positions(model, recipe.width, recipe.height, recipe.frames)
    narrow, wide = tokens * model.dim * item, tokens * model.feed_forward * item
    gated = 3 * tokens * model.dim * (0 if item == 4 else 4) + 5 * narrow
    block = max(wide + 5 * narrow, 8 * narrow) if is_fused else max(2 * wide + 4 * narrow, gated)
    rotary = 2 * tokens * (model.dim // model.heads) * 4
    modulation = 0
    if model.has_timestep_per_token and not is_fused:
        modulation = tokens * 6 * model.dim * (item + 4)
    held = 0
    if recipe.speed == "cached":  # per pass: its input and the blocks' residual, in two parts without magnitudes
        held = (2 if recipe.guidance_scale > 1 else 1) * (2 if recipe.magnitudes else 3) * narrow
    widened = int(WIDENING_FACTORS.get(recipe.weights, 0) * model.dim * model.feed_forward * item)
    return block + rotary + modulation + widened + held


def estimate_decode_bytes(model: WanModel, recipe: Recipe, tile_size: int | None) -> int:
    """Return the peak bytes of decoding, without the VAE's weights.

    Args:
        tile_size: side of a tile from `MemoryPlan.choose_tile`, or None.
    """
    pixels = recipe.width * recipe.height
    if tile_size is None:
        return int(model.decode_bytes * pixels)
    video = 3 * 4 * pixels * recipe.frames
    return int(max(4.75 * video, model.decode_bytes * tile_size * tile_size + 1.35 * video))


def estimate_peak_working_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe) -> int | None:
    """Return the peak bytes that torch allocates on the GPU for a video, or None if the parts' sizes are unknown.

    Excludes encoding the prompts if the plan encodes them first.
    """
    if model.text_encoder_parameters is None or model.vae_parameters is None:
        return None
    item = DTYPE_BYTES[recipe.dtype]
    bytes_per_transformer, count = estimate_transformer_bytes(model, recipe), 1 if model.boundary_ratio is None else 2
    transformers = bytes_per_transformer * count
    vae = 4 * model.vae_parameters
    latents = 4 * prod(model.compute_latent_shape(recipe.width, recipe.height, recipe.frames))
    beside = LATENT_BUFFERS * latents + 3 * TEXT_LENGTH * model.text_dim * item + WORKSPACE_BYTES
    computing = estimate_activation_bytes(model, recipe, can_fuse_blocks(model, plan, recipe.speed, recipe.weights))
    computing += estimate_extra_gpu_bytes(recipe, model)
    decoding = estimate_decode_bytes(model, recipe, plan.choose_tile(recipe.width, recipe.height))
    block = estimate_block_bytes(model, recipe)
    match plan.transformer:
        case "resident":
            working = max(transformers + vae + computing, transformers + vae + decoding)
        case "parked":
            working = max(bytes_per_transformer + computing, vae + decoding)
        case "streamed":
            non_block_bytes = count * (bytes_per_transformer - block * model.blocks)
            # a block prefetched for a pass that was then skipped
            prefetched_bytes = block if recipe.speed == "cached" else 0
            working = non_block_bytes + max(2 * block + computing, prefetched_bytes + vae + decoding)
        case "sequential":
            working = max(2 * model.dim * model.feed_forward * item + computing, vae + decoding)
        case _:
            assert_never(plan.transformer)
    return working + beside + (0 if plan.encodes_first else item * model.text_encoder_parameters)


def estimate_peak_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe, streams_encoder: bool = False) -> int | None:
    """Return the peak GPU bytes of a video, including the encoding of its prompts.

    Args:
        streams_encoder: True if the text encoder does not fit and is streamed layer by layer.
    """
    working = estimate_peak_working_bytes(plan, model, recipe)
    if working is None or model.text_encoder_parameters is None or not plan.encodes_first:
        return working
    encoder = DTYPE_BYTES[recipe.dtype] * model.text_encoder_parameters
    encoding = encoder + ENCODING_BYTES * model.text_encoder_parameters // 5_680_910_336
    if streams_encoder:
        encoding = min(encoding, STREAMED_ENCODER_BYTES)
    return max(working, encoding)


def _estimate_expected_peak(plan: MemoryPlan, model: WanModel, recipe: Recipe, free_bytes: int) -> int | None:
    whole = estimate_peak_bytes(plan, model, recipe)
    fits = whole is not None and int(whole * ALLOCATOR_SLACK) + CONTEXT_BYTES <= free_bytes
    return whole if fits else estimate_peak_bytes(plan, model, recipe, streams_encoder=True)


def _format_size(size: int | None) -> str:
    return "?" if size is None else format_bytes(size)


def estimate_required_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe) -> int | None:
    """Return the GPU bytes that must be free for a plan with a streamed text encoder, or None if unknown.

    Includes the CUDA context and the allocator's overhead.
    """
    peak = estimate_peak_bytes(plan, model, recipe, streams_encoder=True)
    return None if peak is None else int(peak * ALLOCATOR_SLACK) + CONTEXT_BYTES


@dataclass(frozen=True)
class ChosenPlan:
    """A chosen plan, with its predicted memory and the reason for the choice."""

    plan: MemoryPlan
    peak_bytes: int | None
    reason: str
    fits: bool = True
    is_forced: bool = False
    """True if no other plan is tried when this one does not fit."""
    working_bytes: int | None = None
    """Peak bytes without encoding the prompts, comparable with the measured peak of a video."""


def choose_plan(
    model: WanModel,
    recipe: Recipe,
    free_bytes: int,
    forced: MemoryPlan | None = None,
    allowed_plans: Sequence[MemoryPlan] = PLANS,
) -> ChosenPlan:
    """Return the first plan that fits into a GPU's free memory, or the requested plan.

    Args:
        free_bytes: free bytes before the worker process allocates any.
        allowed_plans: candidate plans, in order of preference.
    """

    def make_choice(plan: MemoryPlan, reason: str, fits: bool = True) -> ChosenPlan:
        peak, working = (
            _estimate_expected_peak(plan, model, recipe, free_bytes),
            estimate_peak_working_bytes(plan, model, recipe),
        )
        return ChosenPlan(plan, peak, reason, fits, forced is not None, working)

    if forced is not None:
        needed = estimate_required_bytes(forced, model, recipe)
        fits = needed is None or needed <= free_bytes
        reason = (
            "requested"
            if fits
            else f"requested; it needs {_format_size(needed)} and {_format_size(free_bytes)} are free"
        )
        return make_choice(forced, reason, fits)
    known = [(plan, estimate_required_bytes(plan, model, recipe)) for plan in allowed_plans]
    larger = ""
    for plan, needed in known:
        if needed is None:
            return make_choice(plan, "the sizes of the model's parts are unknown until it is downloaded")
        if needed <= free_bytes:
            why = f"{_format_size(free_bytes)} are free"
            if larger:
                why = f"{larger}, and {why}"
            return make_choice(plan, why)
        larger = larger or f"{plan.slug} needs {_format_size(needed)}"
    plan, needed = min(known, key=lambda plan_and_need: plan_and_need[1] or 0)
    reason = f"no plan fits: the smallest needs {_format_size(needed)} and {_format_size(free_bytes)} are free"
    return make_choice(plan, reason, False)


def find_next_plan(
    plan: MemoryPlan, on_gpu: bool, model: WanModel | None = None, recipe: Recipe | None = None
) -> MemoryPlan | None:
    """Return the plan to try after one that did not fit: the next in `PLANS` that needs less memory, or None.

    Args:
        model, recipe: model and recipe of the video; without them the next plan is returned, whatever it needs.
    """
    known = None if model is None or recipe is None else estimate_peak_bytes(plan, model, recipe, streams_encoder=True)
    for after in list_later_plans(plan):
        if not on_gpu and not after.is_for_cpu:
            continue
        if on_gpu and known is not None and model is not None and recipe is not None:
            peak = estimate_peak_bytes(after, model, recipe, streams_encoder=True)
            if peak is not None and peak >= known:
                continue
        return after
    return None


def list_later_plans(plan: MemoryPlan) -> tuple[MemoryPlan, ...]:
    """Return the plans after this one in `PLANS`."""
    return PLANS[PLANS.index(plan) + 1 :]
