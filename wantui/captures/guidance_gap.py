"""The capture of the guidance gap: how far the passes with and without the prompt are apart at each step."""

from wantui.captures.base import CaptureKind, CaptureRequest, DenoisingSize, DiskPart
from wantui.section import ConfigSection

COLUMNS = ("pass_count", "difference", "conditional_norm", "unconditional_norm", "cosine")
"""Columns of the stored values. difference: root mean square of v_c - v_u over all values, as for the norms. In
steps without a second pass, values that need it are NaN."""
METADATA_BYTES = 12_000
"""Bytes of a group's metadata; most of it is the recipe."""


class GuidanceGapSettings(ConfigSection):
    """Differences between the passes with and without the prompt."""

    store_guidance_gap: bool = True
    """Store, for each step, norms and difference of the model's predictions with and without the prompt."""


class GuidanceGapRequest(CaptureRequest):
    """Request to store the guidance gap."""


def _build_guidance_gap_request(settings: GuidanceGapSettings) -> GuidanceGapRequest | None:
    return GuidanceGapRequest() if settings.store_guidance_gap else None


def _estimate_guidance_gap_disk_usage(
    request: GuidanceGapRequest, denoising_size: DenoisingSize
) -> tuple[DiskPart, ...]:
    value_bytes = 8 * len(COLUMNS) * denoising_size.evaluation_count
    return (DiskPart("guidance_gap", METADATA_BYTES + value_bytes, "norms of both passes"),)


GUIDANCE_GAP = CaptureKind(
    name="guidance_gap",
    folder_name="guidance_gaps",
    file_key="guidance_gap",
    section_key="guidance_gap_settings",
    settings_type=GuidanceGapSettings,
    request_type=GuidanceGapRequest,
    build_request=_build_guidance_gap_request,
    estimate_disk=_estimate_guidance_gap_disk_usage,
    estimate_gpu_bytes=lambda request, size: 0,  # its temporary copies of two velocities are smaller than activations
)
