"""The capture of cross-attention: exact maps of the marked words."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wantui.captures.base import (
    BYTES_BY_DTYPE,
    CaptureKind,
    CaptureRequest,
    DenoisingSize,
    DiskPart,
    PositiveCount,
    list_every_nth_index,
)
from wantui.formatting import format_count
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.section import ChoiceDescriptions, ConfigSection

MASS_NAMES = ("prompt_mass", "end_mass", "pad_mass")
"""Names of the maps stored besides word maps: attention to the prompt, its end token, and all padding."""


class AttentionAnalysisSettings(ConfigSection):
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
    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "storage_dtype": {"float16": "half the size; relative errors stay under 1e-3"}
    }

    store_attention: bool = False
    """Store attention maps of the marked words, the prompt, the end token and the padding."""
    storage_interval: PositiveCount = 1
    """Store the first step, every n-th step after it, and the last step."""
    storage_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the stored maps."""
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

    interval: PositiveCount = 1
    dtype: Literal["float32", "float16"] = "float32"
    compress: bool = True
    per_block: bool = False
    per_head: bool = False
    per_token: bool = False
    downsample: PositiveCount = 1
    unconditional: bool = False


def count_text_columns(token_count: int) -> int:
    """Return the number of attention columns of a text, a multiple of 8; the last column contains all padding."""
    return min(TEXT_POSITION_COUNT, -(-(token_count + 1) // 8) * 8)


def count_stored_maps(request: AttentionRequest, denoising_size: DenoisingSize) -> tuple[int, int, int]:
    """Return the number of word maps, of mass maps, and (at most) of token maps per step."""
    stores_both_passes = request.unconditional and denoising_size.is_guided
    marked_words = denoising_size.marked_words + (denoising_size.negative_marked_words if stores_both_passes else ())
    return (
        len(marked_words),
        len(MASS_NAMES) * (1 + stores_both_passes),
        sum(map(len, marked_words)) if request.per_token else 0,
    )


def _build_attention_request(settings: AttentionAnalysisSettings) -> AttentionRequest | None:
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


def _estimate_attention_disk_usage(request: AttentionRequest, denoising_size: DenoisingSize) -> tuple[DiskPart, ...]:
    step_count = len(list_every_nth_index(denoising_size.evaluation_count, request.interval))
    latent_frames, height, width = denoising_size.position_grid
    position_count = latent_frames * -(-height // request.downsample) * -(-width // request.downsample)
    word_count, mass_count, token_count = count_stored_maps(request, denoising_size)
    kinds_text = f"{format_count(word_count, 'word')} + {mass_count} other maps"
    if token_count:  # an upper bound: the tokenizer decides the number of tokens of a word
        kinds_text += f" + at most {format_count(token_count, 'token')}"
    factors = [(position_count, "position")]
    factors += [(denoising_size.block_count, "block")] if request.per_block else []
    factors += [(denoising_size.head_count, "head")] if request.per_head else []
    value_bytes = BYTES_BY_DTYPE[request.dtype]
    factors.append((value_bytes, "byte"))
    factor_texts = [format_count(step_count, "step"), f"({kinds_text})"]
    basis = " x ".join(factor_texts + [format_count(count, noun) for count, noun in factors])
    basis += ", before compression" if request.compress else ""
    map_count = word_count + mass_count + token_count
    return (DiskPart("attention", step_count * map_count * math.prod(count for count, _ in factors), basis),)


def _estimate_attention_gpu_bytes(request: AttentionRequest, denoising_size: DenoisingSize) -> int:
    """Return an upper bound on the bytes of one block's attention, and of the maps of all passes of one step.

    Without `per_block`, a pass keeps the sum of all columns of the text; padding is merged into one column.
    """
    map_bytes = 4 * math.prod(denoising_size.position_grid) * (denoising_size.head_count if request.per_head else 1)
    # At most one token per character, a leading space, and the end token.
    column_count = count_text_columns(denoising_size.prompt_character_count + 2)
    if request.per_block:
        kept_count = sum(count_stored_maps(request, denoising_size)) * denoising_size.block_count
    else:
        kept_count = column_count * (2 if request.unconditional and denoising_size.is_guided else 1)
    return map_bytes * (kept_count + column_count)


ATTENTION = CaptureKind(
    name="attention",
    folder_name="attention_maps",
    file_key="attention",
    section_key="attention_analysis_settings",
    settings_type=AttentionAnalysisSettings,
    request_type=AttentionRequest,
    build_request=_build_attention_request,
    estimate_disk=_estimate_attention_disk_usage,
    estimate_gpu_bytes=_estimate_attention_gpu_bytes,
    marks_setting="store_attention",
)
