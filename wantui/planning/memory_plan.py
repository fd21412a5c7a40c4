"""Memory plans: where weights are while a video is generated, and the peak GPU memory of each plan.

A peak counts the weights on the GPU and the tensors that exist at the worst moment of a transformer pass, of decoding,
or of encoding the prompt. Sizes in the transformer are counted from diffusers' code; sizes of the VAE and the text
encoder were measured. `tests/benchmarks/gpu.py` compares predicted with actual peaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from wantui.captures.trajectory import MAX_STATES_MEMORY_FRACTION, TRAJECTORY
from wantui.config.plans import migrate_plan_name
from wantui.config.speeds import SpeedName
from wantui.formatting import format_bytes
from wantui.models.catalogue import WanModel
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning.disk_estimate import estimate_extra_gpu_bytes
from wantui.planning.flops import count_latent_positions
from wantui.planning.fp8 import count_fp8_blocks
from wantui.planning.guidance_plan import uses_unconditional_pass
from wantui.planning.model_source import WeightsForm
from wantui.planning.recipe import Recipe
from wantui.planning.weight_bytes import (
    BYTES_BY_DTYPE,
    count_fp8_savings,
    estimate_block_bytes,
    estimate_latent_bytes,
    estimate_transformer_bytes,
    estimate_weight_bytes,
)
from wantui.samplers import count_model_evaluations


@dataclass(frozen=True)
class MemoryPlan:
    """One placement of weights, encoding and decoding, with the GPU memory that it needs."""

    slug: str
    """Name used in configs, manifests, events and messages."""
    encodes_first: bool = False
    """True if all prompts of a batch are encoded, and the text encoder freed, before other parts are loaded."""
    transformer_placement: Literal["resident", "parked", "streamed", "sequential"] = "resident"
    """Placement of the transformer: always on the GPU (resident), only during denoising (parked), streamed one block
    ahead (streamed), or streamed layer by layer (sequential)."""
    tile_side_pixels: int | None = None
    """Side in pixels of the decoded tiles; None decodes the complete frame."""

    @property
    def is_for_cpu(self) -> bool:
        """Return whether the plan is useful on a CPU; other plans only move weights to and from a GPU."""
        return self.transformer_placement == "resident"

    @property
    def can_fuse(self) -> bool:
        """Return whether blocks can be fused, which needs all weights of a block on the GPU at once."""
        return self.transformer_placement != "sequential"

    @property
    def weight_streaming(self) -> Literal["none", "overlapped", "blocking"]:
        """Return how block weights reach the GPU during a pass.

        They do not move, or move while the preceding block computes, or move between layers while nothing computes.
        """
        match self.transformer_placement:
            case "resident" | "parked":
                return "none"
            case "streamed":
                return "overlapped"
            case "sequential":
                return "blocking"
            case _:
                assert_never(self.transformer_placement)

    def choose_tile_side(self, width: int, height: int) -> int | None:
        """Return the side of a tile in pixels, or None if one tile covers the complete frame."""
        return (
            None
            if self.tile_side_pixels is None or max(width, height) <= self.tile_side_pixels
            else self.tile_side_pixels
        )


SMALL_TILE_SIDE_PIXELS, TILE_SIDE_PIXELS = 128, 256
RESIDENT_PLAN = MemoryPlan("resident")
MEMORY_PLANS = (
    RESIDENT_PLAN,
    MemoryPlan("encode-first", True),
    MemoryPlan("offload", True, "parked"),
    MemoryPlan("stream", True, "streamed"),
    MemoryPlan("tiled", True, tile_side_pixels=TILE_SIDE_PIXELS),
    MemoryPlan("offload-tiled", True, "parked", TILE_SIDE_PIXELS),
    MemoryPlan("stream-tiled", True, "streamed", TILE_SIDE_PIXELS),
    MemoryPlan("sequential", True, "sequential", SMALL_TILE_SIDE_PIXELS),
    MemoryPlan("small-tiles", True, tile_side_pixels=SMALL_TILE_SIDE_PIXELS),
)
"""Plans in order of preference: first those that leave every pixel unchanged, faster before slower."""
PLAN_SLUGS = tuple(plan.slug for plan in MEMORY_PLANS)
LATENT_BUFFER_COUNT = 10
"""Number of latent-sized float32 tensors: states, velocities and the sampler's earlier outputs."""
WORKSPACE_BYTES = 70_000_000
"""Bytes of the cuBLAS workspace and of fragmentation."""
PROMPT_ENCODING_BYTES = 240_000_000
"""Bytes of UMT5-XXL's activations at 512 tokens; measured."""
STREAMED_ENCODER_BYTES = 2_500_000_000
"""Peak bytes of a text encoder that is streamed layer by layer: its embedding and activations; measured."""
MIN_FUSED_TRANSFORMER_WIDTH = 512
"""Minimum transformer width for fused blocks; narrower blocks, such as nano's, take longer to launch than to
compute."""
CONTEXT_BYTES = 600_000_000
"""CUDA context and library memory per process, in bytes, on top of torch's allocations."""
WIDENING_FACTOR_BY_WEIGHTS = {"float8": 1.0, "int8": 1.0, "gguf": 5.4}
"""Memory for widening the largest weight to the model's dtype, relative to the widened weight; for GGUF the value of
Q5_0, the maximum."""
ALLOCATOR_OVERHEAD_FACTOR = 1.04
"""Memory reserved by torch's allocator, relative to allocated memory."""


def find_plan(name: str) -> MemoryPlan:
    """Return the plan with a slug; also accept the plan's name in earlier versions.

    Raises:
        KeyError: there is no such plan.
    """
    return {plan.slug: plan for plan in MEMORY_PLANS}[migrate_plan_name(name)]


def can_fuse_pipeline(model: WanModel, plan: MemoryPlan, speed: SpeedName, weights: WeightsForm) -> bool:
    """Return whether blocks and decoder are fused on a GPU: plan and weights allow it, and the transformer is wide."""
    weights_allow_fusion = plan.can_fuse and weights == "full"
    return speed != "reference" and weights_allow_fusion and model.transformer_width >= MIN_FUSED_TRANSFORMER_WIDTH


def estimate_activation_bytes(model: WanModel, recipe: Recipe, is_fused: bool = False) -> int:
    """Return the peak bytes of activations in a block, without weights.

    Unfused blocks peak in the feed-forward layer or at the end of the block. The feed-forward layer has two wide
    tensors (before and after GELU) and four narrow ones: block input, residual, norm, attention output. The end of the
    block has three float32 tensors (residual, output, gated product) and five in the model's precision.

    Fused blocks peak with one wide tensor and five narrow ones (block input, residual, norm, output, input of the next
    pass), or with query, key and value and five narrow ones. In FP8, the wide tensor also exists in e4m3 while it is
    rounded; three narrow tensors and the norm in e4m3 remain.
    """
    dtype_bytes = BYTES_BY_DTYPE[recipe.dtype]
    token_count = count_latent_positions(model, recipe.width, recipe.height, recipe.frames)
    narrow_bytes = token_count * model.transformer_width * dtype_bytes
    wide_bytes = token_count * model.feed_forward_width * dtype_bytes
    block_end_bytes = 3 * token_count * model.transformer_width * (0 if dtype_bytes == 4 else 4) + 5 * narrow_bytes
    block_bytes = (
        max(wide_bytes + 5 * narrow_bytes, 8 * narrow_bytes)
        if is_fused
        else max(2 * wide_bytes + 4 * narrow_bytes, block_end_bytes)
    )
    if recipe.speed == "fp8":
        block_bytes = max(block_bytes, (3 * wide_bytes + 7 * narrow_bytes) // 2)
    rotary_bytes = 2 * token_count * (model.transformer_width // model.head_count) * 4
    modulation_bytes = 0
    if model.has_timestep_per_token and not is_fused:
        modulation_bytes = token_count * 6 * model.transformer_width * (dtype_bytes + 4)
    cached_bytes = 0
    if recipe.speed == "cached":  # per pass: its input and the blocks' residual, in two parts without magnitudes
        cached_bytes = (2 if uses_unconditional_pass(recipe) else 1) * (2 if recipe.magnitudes else 3) * narrow_bytes
    widened_bytes = int(
        WIDENING_FACTOR_BY_WEIGHTS.get(recipe.weights, 0)
        * model.transformer_width
        * model.feed_forward_width
        * dtype_bytes
    )
    return block_bytes + rotary_bytes + modulation_bytes + widened_bytes + cached_bytes


def estimate_decode_bytes(model: WanModel, recipe: Recipe, tile_side: int | None, is_fused: bool = False) -> int:
    """Return the peak bytes of decoding, without the VAE's weights.

    Args:
        tile_side: side of a tile from `MemoryPlan.choose_tile_side`, or None.
        is_fused: whether the decoder is fused.
    """
    frame_pixels = recipe.width * recipe.height
    pixel_bytes = model.fused_decode_bytes_per_pixel if is_fused else model.decode_bytes_per_pixel
    if tile_side is None:
        return int(pixel_bytes * frame_pixels)
    video_bytes = 3 * 4 * frame_pixels * recipe.frames
    return int(max(4.75 * video_bytes, pixel_bytes * tile_side * tile_side + 1.35 * video_bytes))


def estimate_peak_working_bytes(
    plan: MemoryPlan, model: WanModel, recipe: Recipe, earlier_states_bytes: int = 0
) -> int | None:
    """Return the peak bytes that torch allocates on the GPU for a video, or None if the parts' sizes are unknown.

    Excludes encoding the prompts if the plan encodes them first.

    Args:
        earlier_states_bytes: bytes of the trajectory's earlier states, if they are on the GPU.
    """
    if model.text_encoder_parameter_count is None or model.vae_parameter_count is None:
        return None
    dtype_bytes = BYTES_BY_DTYPE[recipe.dtype]
    transformer_bytes = estimate_transformer_bytes(model, recipe)
    vae_bytes = 4 * model.vae_parameter_count
    text_bytes = 3 * TEXT_POSITION_COUNT * model.text_width * dtype_bytes
    constant_bytes = LATENT_BUFFER_COUNT * estimate_latent_bytes(model, recipe) + text_bytes + WORKSPACE_BYTES
    is_fused = can_fuse_pipeline(model, plan, recipe.speed, recipe.weights)
    computing_bytes = estimate_activation_bytes(model, recipe, is_fused) + estimate_extra_gpu_bytes(recipe, model)
    computing_bytes += earlier_states_bytes
    tile_side = plan.choose_tile_side(recipe.width, recipe.height)
    decoding_bytes = estimate_decode_bytes(model, recipe, tile_side, is_fused)
    block_bytes = estimate_block_bytes(model, recipe)
    match plan.transformer_placement:
        case "resident":
            working_bytes = transformer_bytes * model.transformer_count + vae_bytes
            working_bytes += max(computing_bytes, decoding_bytes)
        case "parked":
            working_bytes = max(transformer_bytes + computing_bytes, vae_bytes + decoding_bytes)
        case "streamed":
            fp8_savings = count_fp8_savings(model, recipe, 1)
            all_blocks_bytes = block_bytes * model.block_count - fp8_savings * count_fp8_blocks(model.block_count)
            non_block_bytes = model.transformer_count * (transformer_bytes - all_blocks_bytes)
            # a block prefetched for a pass that was then skipped
            prefetched_bytes = block_bytes if recipe.speed == "cached" else 0
            working_bytes = non_block_bytes + max(
                2 * block_bytes - fp8_savings + computing_bytes, prefetched_bytes + vae_bytes + decoding_bytes
            )
        case "sequential":
            working_bytes = max(
                2 * model.transformer_width * model.feed_forward_width * dtype_bytes + computing_bytes,
                vae_bytes + decoding_bytes,
            )
        case _:
            assert_never(plan.transformer_placement)
    return (
        working_bytes + constant_bytes + (0 if plan.encodes_first else dtype_bytes * model.text_encoder_parameter_count)
    )


def estimate_peak_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe, streams_encoder: bool = False) -> int | None:
    """Return the peak GPU bytes of a video, including the encoding of its prompts.

    Args:
        streams_encoder: True if the text encoder does not fit and is streamed layer by layer.
    """
    working_bytes = estimate_peak_working_bytes(plan, model, recipe)
    if working_bytes is None or model.text_encoder_parameter_count is None or not plan.encodes_first:
        return working_bytes
    encoder_bytes = BYTES_BY_DTYPE[recipe.dtype] * model.text_encoder_parameter_count
    encoding_bytes = encoder_bytes + PROMPT_ENCODING_BYTES * model.text_encoder_parameter_count // 5_680_910_336
    if streams_encoder:
        encoding_bytes = min(encoding_bytes, STREAMED_ENCODER_BYTES)
    return max(working_bytes, encoding_bytes)


def _estimate_earlier_states_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe, free_bytes: int) -> int:
    """Return the bytes of the trajectory's earlier states on the GPU; 0 if too little memory is free for them.

    They are not part of the required bytes: `generation.gram` holds them on the CPU instead.
    """
    if recipe.capture.find_request(TRAJECTORY.name) is None:
        return 0
    states_bytes = estimate_latent_bytes(model, recipe) * count_model_evaluations(recipe.sampler, recipe.steps)
    free_bytes -= CONTEXT_BYTES
    if plan.transformer_placement == "resident":
        encoder_bytes = BYTES_BY_DTYPE[recipe.dtype] * (model.text_encoder_parameter_count or 0)
        free_bytes -= (estimate_weight_bytes(model, recipe) or 0) - (encoder_bytes if plan.encodes_first else 0)
    return states_bytes if states_bytes <= MAX_STATES_MEMORY_FRACTION * free_bytes else 0


def add_process_overhead(peak_bytes: int) -> int:
    """Return the GPU bytes that a process needs for a peak of torch's allocations.

    Adds the CUDA context and the allocator's overhead.
    """
    return int(peak_bytes * ALLOCATOR_OVERHEAD_FACTOR) + CONTEXT_BYTES


def _estimate_expected_peak_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe, free_bytes: int) -> int | None:
    peak_bytes = estimate_peak_bytes(plan, model, recipe)
    fits = peak_bytes is not None and add_process_overhead(peak_bytes) <= free_bytes
    return peak_bytes if fits else estimate_peak_bytes(plan, model, recipe, streams_encoder=True)


def _format_known_bytes(byte_count: int | None) -> str:
    return "?" if byte_count is None else format_bytes(byte_count)


def estimate_required_bytes(plan: MemoryPlan, model: WanModel, recipe: Recipe) -> int | None:
    """Return the GPU bytes that must be free for a plan with a streamed text encoder, or None if unknown.

    Includes the CUDA context and the allocator's overhead.
    """
    peak_bytes = estimate_peak_bytes(plan, model, recipe, streams_encoder=True)
    return None if peak_bytes is None else add_process_overhead(peak_bytes)


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


def choose_memory_plan(
    model: WanModel,
    recipe: Recipe,
    free_bytes: int,
    requested_plan: MemoryPlan | None = None,
    allowed_plans: Sequence[MemoryPlan] = MEMORY_PLANS,
) -> ChosenPlan:
    """Return the first plan that fits into a GPU's free memory, or the requested plan.

    Args:
        free_bytes: free bytes before the worker process allocates any.
        allowed_plans: candidate plans, in order of preference; those that the recipe's speed rules out are not tried.
    """
    allowed_plans = [plan for plan in allowed_plans if _supports_speed(plan, recipe)]

    def build_chosen_plan(plan: MemoryPlan, reason: str, fits: bool = True) -> ChosenPlan:
        earlier_states_bytes = _estimate_earlier_states_bytes(plan, model, recipe, free_bytes)
        working_bytes = estimate_peak_working_bytes(plan, model, recipe, earlier_states_bytes)
        peak_bytes = _estimate_expected_peak_bytes(plan, model, recipe, free_bytes)
        if peak_bytes is not None and working_bytes is not None:
            peak_bytes = max(peak_bytes, working_bytes)
        return ChosenPlan(plan, peak_bytes, reason, fits, requested_plan is not None, working_bytes)

    if requested_plan is not None:
        required_bytes = estimate_required_bytes(requested_plan, model, recipe)
        fits = required_bytes is None or required_bytes <= free_bytes
        reason = (
            "requested"
            if fits
            else f"requested; it needs {_format_known_bytes(required_bytes)} and {_format_known_bytes(free_bytes)} are "
            "free"
        )
        return build_chosen_plan(requested_plan, reason, fits)
    required_bytes_by_plan = [(plan, estimate_required_bytes(plan, model, recipe)) for plan in allowed_plans]
    larger_plan_text = ""
    for plan, required_bytes in required_bytes_by_plan:
        if required_bytes is None:
            return build_chosen_plan(plan, "the sizes of the model's parts are unknown until it is downloaded")
        if required_bytes <= free_bytes:
            fit_reason = f"{_format_known_bytes(free_bytes)} are free"
            if larger_plan_text:
                fit_reason = f"{larger_plan_text}, and {fit_reason}"
            return build_chosen_plan(plan, fit_reason)
        larger_plan_text = larger_plan_text or f"{plan.slug} needs {_format_known_bytes(required_bytes)}"
    plan, required_bytes = min(required_bytes_by_plan, key=lambda plan_and_need: plan_and_need[1] or 0)
    reason = (
        f"no plan fits: the smallest needs {_format_known_bytes(required_bytes)} and "
        f"{_format_known_bytes(free_bytes)} are free"
    )
    return build_chosen_plan(plan, reason, False)


def find_next_plan(
    plan: MemoryPlan, on_gpu: bool, model: WanModel | None = None, recipe: Recipe | None = None
) -> MemoryPlan | None:
    """Return the plan to try after one that did not fit: the next in `MEMORY_PLANS` that needs less memory, or None.

    Args:
        model, recipe: model and recipe of the video; without them the next plan is returned, whatever it needs.
    """
    current_peak_bytes = (
        None if model is None or recipe is None else estimate_peak_bytes(plan, model, recipe, streams_encoder=True)
    )
    for later_plan in list_later_plans(plan):
        if not on_gpu and not later_plan.is_for_cpu:
            continue
        if recipe is not None and not _supports_speed(later_plan, recipe):
            continue
        if on_gpu and current_peak_bytes is not None and model is not None and recipe is not None:
            peak_bytes = estimate_peak_bytes(later_plan, model, recipe, streams_encoder=True)
            if peak_bytes is not None and peak_bytes >= current_peak_bytes:
                continue
        return later_plan
    return None


def _supports_speed(plan: MemoryPlan, recipe: Recipe) -> bool:
    """Return whether a plan can compute a recipe at its speed: `fp8` needs fused blocks, other speeds do without."""
    return plan.can_fuse or recipe.speed != "fp8"


def list_later_plans(plan: MemoryPlan) -> tuple[MemoryPlan, ...]:
    """Return the plans after this one in `MEMORY_PLANS`."""
    return MEMORY_PLANS[MEMORY_PLANS.index(plan) + 1 :]
