"""The capture of cross-attention: exact maps of the marked words."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wantui.captures.base import ITEM_BYTES, CaptureKind, CaptureRequest, Count, DenoisingSize, DiskPart, every
from wantui.formatting import format_count
from wantui.section import Section

MASSES = ("prompt_mass", "end_mass", "pad_mass")
"""Maps stored besides those of words: attention to the prompt, its end token, and all padding."""
MAX_TEXT_COLUMNS = 64
"""Columns of text positions whose sum over blocks is held, as long as the padding is merged into one column."""


class AttentionAnalysisSettings(Section):
    """Attention maps of marked words: exact, over all text positions."""

    DEAD: ClassVar[dict[str, str]] = {
        "tokenizer_name": "words are found by the tokenizer of the model itself",
        "storage_format": "attention maps are stored as zarr",
        "attention_threshold": "it never had an effect",
        "store_aggregated_attention": "means over steps are made when maps are looked at",
        "aggregated_storage_format": "means over steps are made when maps are looked at",
        "auto_generate_videos": "`wantui analyze --overlay` makes videos of attention",
        "auto_generate_per_video": "`wantui analyze --overlay` makes videos of attention",
        "auto_decode": "`wantui analyze --overlay` makes videos of attention",
        "visualization_params": "`wantui analyze --overlay` makes videos of attention",
    }

    store_attention: bool = False
    """Store the attention maps of the marked words, with the mass on the prompt, the end token and the pads."""
    storage_interval: Count = 1
    """Store every n-th step, from the first; the last step always."""
    storage_dtype: Literal["float32", "float16"] = "float32"
    """float16 halves the size; relative errors stay under 1e-3."""
    compress_attention: bool = True
    """Compress without loss (zstd)."""
    store_per_block: bool = False
    """Store each block of the transformer by itself, instead of their mean."""
    store_per_head: bool = False
    """Store each head by itself, instead of their mean."""
    store_individual_tokens: bool = False
    """Store also each piece into which the tokenizer cuts a word."""
    spatial_downsample_factor: Annotated[int, Field(ge=1, le=64)] = 1
    """Mean over squares of n x n places; 1 stores every place."""
    store_unconditional: bool = False
    """Store also the pass without the prompt: its masses, and marked words that stand in the negative prompt."""


class AttentionRequest(CaptureRequest):
    """Request for the attention maps of the marked words, with the form in which they are stored."""

    interval: Count = 1
    dtype: Literal["float32", "float16"] = "float32"
    compress: bool = True
    per_block: bool = False
    per_head: bool = False
    per_token: bool = False
    downsample: Count = 1
    unconditional: bool = False


def stored_maps(request: AttentionRequest, size: DenoisingSize) -> tuple[int, int, int]:
    """Return how many maps of a step are stored: words, masses, and at most how many tokens of words."""
    both = request.unconditional and size.is_guided
    marks = size.marks + (size.negative_marks if both else ())
    return len(marks), len(MASSES) * (1 + both), sum(map(len, marks)) if request.per_token else 0


def _requested(settings: AttentionAnalysisSettings) -> AttentionRequest | None:
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


def _disk(request: AttentionRequest, size: DenoisingSize) -> tuple[DiskPart, ...]:
    steps = len(every(size.evaluations, request.interval))
    frames, height, width = size.grid
    positions = frames * -(-height // request.downsample) * -(-width // request.downsample)
    words, masses, tokens = stored_maps(request, size)
    maps, kinds = words + masses + tokens, f"{format_count(words, 'word')} and {masses} masses"
    if tokens:  # only the tokenizer knows how it cuts a word
        kinds = f"{format_count(words, 'word')}, {masses} masses and at most {format_count(tokens, 'token')}"
    each = (size.blocks if request.per_block else 1) * (size.heads if request.per_head else 1)
    item = ITEM_BYTES[request.dtype]
    basis = f"{format_count(steps, 'step')} x {kinds} x {each * positions:,} positions x {item} bytes"
    basis += ", before compression" if request.compress else ""
    return (DiskPart("attention", steps * maps * each * positions * item, basis),)


def _gpu_bytes(request: AttentionRequest, size: DenoisingSize) -> int:
    """Return the bytes of the maps that are held until both passes of a step are complete."""
    each = 4 * math.prod(size.grid) * (size.heads if request.per_head else 1)
    if request.per_block:
        return each * sum(stored_maps(request, size)) * size.blocks
    return each * MAX_TEXT_COLUMNS


ATTENTION = CaptureKind(
    name="attention",
    folder="attention_maps",
    file_key="attention",
    section="attention_analysis_settings",
    settings=AttentionAnalysisSettings,
    request=AttentionRequest,
    requested=_requested,
    disk=_disk,
    gpu_bytes=_gpu_bytes,
)
