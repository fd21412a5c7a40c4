"""The capture of the trajectory: always the inner products of its states, and the states on request."""

import math
from typing import ClassVar, Literal

from wantui.captures.base import ITEM_BYTES, CaptureKind, CaptureRequest, Count, DenoisingSize, DiskPart
from wantui.formatting import format_count
from wantui.section import Section

MAX_PROJECTED_STATES = 4096
"""Largest dimension of a state's projection; smaller states are stored without projection."""


class LatentAnalysisSettings(Section):
    """Storage of the latents of every step."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {
        "latent_storage_format": "latents are stored as zarr; `wantui export` writes .npy, .pt and safetensors",
        "auto_decode": "stored latents are not decoded by this version",
    }

    store_latents: bool = False
    """Store the initial noise and the latents of every step. Their inner products, which determine the geometry, are
    always stored."""
    storage_interval: Count = 1
    """Store every n-th step, and the last step."""
    storage_dtype: Literal["float32", "float16"] = "float32"
    """float16 halves the size and bends a straight path by about 1.1 rad over 50 steps."""
    compress_latents: bool = False
    """Compress without loss (zstd); saves little on noise."""
    store_predicted_clean: bool = False
    """Also store the clean latents that the model predicted at each stored step; doubles the size."""


class TrajectoryRequest(CaptureRequest):
    """Request to store states besides their inner products, with their storage format."""

    latents: bool = False
    interval: Count = 1
    dtype: Literal["float32", "float16"] = "float32"
    compress: bool = False
    predicted_clean: bool = False


def list_stored_evaluations(steps: int, interval: int, evaluates_twice: bool) -> list[int]:
    """Return the numbers of model evaluations after which latents are stored; 0 is the initial noise.

    The interval counts sampler steps. Heun's method evaluates the model twice per step, and its state is stored after
    the second evaluation: the first leads to an Euler predictor, which is not a state of the trajectory.
    """
    chosen = sorted({*range(0, steps + 1, interval), steps})
    return [min(2 * step, 2 * steps - 1) for step in chosen] if evaluates_twice else chosen


def _build_request(settings: LatentAnalysisSettings) -> TrajectoryRequest:
    return TrajectoryRequest(
        latents=settings.store_latents,
        interval=settings.storage_interval,
        dtype=settings.storage_dtype,
        compress=settings.compress_latents,
        predicted_clean=settings.store_latents and settings.store_predicted_clean,
    )


def _estimate_disk(request: TrajectoryRequest, size: DenoisingSize) -> tuple[DiskPart, ...]:
    shape, states = size.latent_shape, size.evaluations + 1
    derived = states * (8 * states + 4 * min(MAX_PROJECTED_STATES, math.prod(shape)) + 8 * shape[0])
    geometry = DiskPart("geometry", derived, "inner products and projections of every state")
    if not request.latents:
        return (geometry,)
    stored = len(list_stored_evaluations(size.steps, request.interval, size.evaluates_twice))
    item = ITEM_BYTES[request.dtype]
    basis = f"{format_count(stored, 'step')} x {' x '.join(map(str, shape))} x {item} bytes"
    if request.predicted_clean:
        basis += ", twice for the predicted clean latents"
        stored = 2 * stored - 1
    if request.compress:
        basis += ", before compression"
    return DiskPart("latents", stored * math.prod(shape) * item, basis), geometry


TRAJECTORY = CaptureKind(
    name="trajectory",
    folder="latents",
    file_key="latents",
    section="latent_analysis_settings",
    settings_type=LatentAnalysisSettings,
    request_type=TrajectoryRequest,
    build_request=_build_request,
    estimate_disk=_estimate_disk,
    estimate_gpu_bytes=lambda request, size: 0,
)
