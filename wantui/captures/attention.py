"""The capture of cross-attention: exact maps of the marked words."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wantui.captures.base import ITEM_BYTES, CaptureKind, CaptureRequest, Count, DenoisingSize, DiskPart, list_every
from wantui.formatting import format_count
from wantui.section import Section

MASS_NAMES = ("prompt_mass", "end_mass", "pad_mass")
"""Names of the maps stored besides word maps: attention to the prompt, its end token, and all padding."""
MAX_TEXT_COLUMNS = 64
"""Largest number of text columns per attention map on the GPU while padding is merged into one column."""


class AttentionAnalysisSettings(Section):
    """Exact attention maps of marked words, over all text positions."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {
        "tokenizer_name": "words are found by the tokenizer of the model itself",
        "storage_format": "attention maps are stored as zarr",
        "attention_threshold": "it never had an effect",
        "store_aggregated_attention": "means over steps are computed when maps are displayed",
        "aggregated_storage_format": "means over steps are computed when maps are displayed",
        "auto_generate_videos": "`wantui analyze --overlay` writes attention videos",
        "auto_generate_per_video": "`wantui analyze --overlay` writes attention videos",
        "auto_decode": "`wantui analyze --overlay` writes attention videos",
        "visualization_params": "`wantui analyze --overlay` writes attention videos",
    }

    store_attention: bool = False
    """Store attention maps of the marked words, the prompt, the end token and the padding."""
    storage_interval: Count = 1
    """Store every n-th step, from the first step on, and the last step."""
    storage_dtype: Literal["float32", "float16"] = "float32"
    """float16 halves the size; relative errors stay under 1e-3."""
    compress_attention: bool = True
    """Compress without loss (zstd)."""
    store_per_block: bool = False
    """Store a map for each transformer block, instead of the mean over blocks."""
    store_per_head: bool = False
    """Store a map for each attention head, instead of the mean over heads."""
    store_individual_tokens: bool = False
    """Also store a map for each token of a word."""
    spatial_downsample_factor: Annotated[int, Field(ge=1, le=64)] = 1
    """Average maps over n x n positions; 1 stores every position."""
    store_unconditional: bool = False
    """Also store maps of the pass without the prompt, with marked words that occur in the negative prompt."""


class AttentionRequest(CaptureRequest):
    """Request to store the attention maps of the marked words, with their storage format."""

    interval: Count = 1
    dtype: Literal["float32", "float16"] = "float32"
    compress: bool = True
    per_block: bool = False
    per_head: bool = False
    per_token: bool = False
    downsample: Count = 1
    unconditional: bool = False


def list_stored_maps(request: AttentionRequest, size: DenoisingSize) -> tuple[int, int, int]:
    """Return the numbers of maps per step: of words, of masses, and at most of tokens."""
    both = request.unconditional and size.is_guided
    marks = size.marks + (size.negative_marks if both else ())
    return len(marks), len(MASS_NAMES) * (1 + both), sum(map(len, marks)) if request.per_token else 0


def _build_request(settings: AttentionAnalysisSettings) -> AttentionRequest | None:
    if not settings.store_attention:
        return None
    return AttentionRequest(
        interval=settings.storage_interval,
        dtype=settings.storage_dtype,
        compress=settings.compress_attention,
        per_block=settings.store_per_block,
        per_head=settings.store_per_head,
        per_token=settings.store_individual_tokens,
        downsample=settings.spatial_downsample_factor,
        unconditional=settings.store_unconditional,
    )


def _estimate_disk(request: AttentionRequest, size: DenoisingSize) -> tuple[DiskPart, ...]:
    steps = len(list_every(size.evaluations, request.interval))
    frames, height, width = size.grid
    positions = frames * -(-height // request.downsample) * -(-width // request.downsample)
    words, masses, tokens = list_stored_maps(request, size)
    maps, kinds = words + masses + tokens, f"{format_count(words, 'word')} and {masses} masses"
    if tokens:  # an upper bound: the tokenizer decides the number of tokens of a word
        kinds = f"{format_count(words, 'word')}, {masses} masses and at most {format_count(tokens, 'token')}"
    values = positions * (size.blocks if request.per_block else 1) * (size.heads if request.per_head else 1)
    item = ITEM_BYTES[request.dtype]
    basis = f"{format_count(steps, 'step')} x {kinds} x {values:,} positions x {item} bytes"
    basis += ", before compression" if request.compress else ""
    return (DiskPart("attention", steps * maps * values * item, basis),)


def _estimate_gpu_bytes(request: AttentionRequest, size: DenoisingSize) -> int:
    """Return the bytes of the maps that stay on the GPU until both passes of a step are complete."""
    map_bytes = 4 * math.prod(size.grid) * (size.heads if request.per_head else 1)
    if request.per_block:
        return map_bytes * sum(list_stored_maps(request, size)) * size.blocks
    return map_bytes * MAX_TEXT_COLUMNS


ATTENTION = CaptureKind(
    name="attention",
    folder="attention_maps",
    file_key="attention",
    section="attention_analysis_settings",
    settings_type=AttentionAnalysisSettings,
    request_type=AttentionRequest,
    build_request=_build_request,
    estimate_disk=_estimate_disk,
    estimate_gpu_bytes=_estimate_gpu_bytes,
)
