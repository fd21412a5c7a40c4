"""The capture of word contributions: what each marked word adds to the output of the cross-attention."""

import math

from wantui.captures.base import (
    CaptureKind,
    CaptureRequest,
    DenoisingSize,
    DiskPart,
    PositiveCount,
    list_every_nth_index,
)
from wantui.formatting import format_count
from wantui.section import ConfigSection

OUTPUT_NAME = "output"
"""Name of the array for the complete cross-attention output, which is stored beside the arrays of the words."""
MAX_WORD_TOKENS = 8
"""Number of tokens per word up to which the predicted GPU memory suffices; longer words need more."""
VALUE_BYTES = 4
PRODUCT_BYTES = 8
CHUNK_BYTES = 1 << 26
"""Bytes of the attention, and of its products, per computed chunk."""


class ContributionSettings(ConfigSection):
    """Contribution of each marked word to the output of the cross-attention; this attributes the output to words."""

    store_contributions: bool = False
    """Store the norm of what each marked word adds to the latent positions, and the norm of the complete output."""
    storage_interval: PositiveCount = 1
    """Store the first step, every n-th step after it, and the last step."""
    store_per_block: bool = False
    """Store a map for each transformer block, instead of the mean over blocks."""


class ContributionRequest(CaptureRequest):
    """Request to store the contributions of the marked words."""

    interval: PositiveCount = 1
    per_block: bool = False


def _build_contribution_request(settings: ContributionSettings) -> ContributionRequest | None:
    if not settings.store_contributions:
        return None
    return ContributionRequest(interval=settings.storage_interval, per_block=settings.store_per_block)


def _estimate_contribution_disk_usage(
    request: ContributionRequest, denoising_size: DenoisingSize
) -> tuple[DiskPart, ...]:
    step_count = len(list_every_nth_index(denoising_size.evaluation_count, request.interval))
    word_count, position_count = len(denoising_size.marked_words), math.prod(denoising_size.position_grid)
    block_count = denoising_size.block_count if request.per_block else 1
    blocks_text = f"{format_count(block_count, 'block')} x " if request.per_block else ""
    basis = (
        f"{format_count(step_count, 'step')} x ({format_count(word_count, 'word')} + the output) x "
        f"{format_count(position_count, 'position')} x {blocks_text}{VALUE_BYTES} bytes, before compression"
    )
    size = step_count * (word_count + 1) * position_count * block_count * VALUE_BYTES
    return (DiskPart("contributions", size, basis),)


def _estimate_contribution_gpu_bytes(request: ContributionRequest, denoising_size: DenoisingSize) -> int:
    """Return the bytes of a step's maps, every block's inner products, and one attention chunk."""
    word_count = len(denoising_size.marked_words)
    map_bytes = VALUE_BYTES * math.prod(denoising_size.position_grid) * (word_count + 1)
    product_bytes = PRODUCT_BYTES * word_count * (MAX_WORD_TOKENS * denoising_size.head_count) ** 2
    return (
        map_bytes * (denoising_size.block_count if request.per_block else 1)
        + product_bytes * denoising_size.block_count
        + 2 * CHUNK_BYTES
    )


CONTRIBUTIONS = CaptureKind(
    name="contributions",
    folder_name="contributions",
    file_key="contributions",
    section_key="contribution_settings",
    settings_type=ContributionSettings,
    request_type=ContributionRequest,
    build_request=_build_contribution_request,
    estimate_disk=_estimate_contribution_disk_usage,
    estimate_gpu_bytes=_estimate_contribution_gpu_bytes,
    marks_setting="store_contributions",
)
