"""The capture of the trajectory: inner products of its states in any case, the states themselves on request."""

import math
from typing import ClassVar, Literal

from wantui.captures.base import ITEM_BYTES, CaptureKind, CaptureRequest, Count, DenoisingSize, DiskPart
from wantui.formatting import format_count
from wantui.section import Section

MAX_PROJECTED = 4096
"""Dimensions of the projection of each state; smaller states are stored as they are."""


class LatentAnalysisSettings(Section):
    """Whether and how the latents of every step are stored."""

    DEAD: ClassVar[dict[str, str]] = {
        "latent_storage_format": "latents are stored as zarr; `wantui export` writes .npy, .pt and safetensors",
        "auto_decode": "stored latents are not decoded by this version",
    }

    store_latents: bool = False
    """Store the initial noise and the latents of every step. Their inner products, which all of the geometry is made
    of, are stored in any case."""
    storage_interval: Count = 1
    """Store every n-th step; the last step always."""
    storage_dtype: Literal["float32", "float16"] = "float32"
    """float16 halves the size and bends a straight path by about 1.1 rad over 50 steps."""
    compress_latents: bool = False
    """Compress without loss (zstd); saves little on noise."""
    store_predicted_clean: bool = False
    """Store beside each stored step the clean latents that the model predicted there; doubles the size."""


class TrajectoryRequest(CaptureRequest):
    """Request for stored states besides their inner products, with their form."""

    latents: bool = False
    interval: Count = 1
    dtype: Literal["float32", "float16"] = "float32"
    compress: bool = False
    predicted_clean: bool = False


def stored_evaluations(steps: int, interval: int, evaluates_twice: bool) -> list[int]:
    """Return after how many model evaluations latents are stored: 0 is the initial noise; the last state always.

    The interval counts the sampler's steps. Of the two evaluations that Heun's method makes in a step the second is
    stored: the first leads to an Euler predictor, which is no state of the trajectory.
    """
    chosen = sorted({*range(0, steps + 1, interval), steps})
    return [min(2 * step, 2 * steps - 1) for step in chosen] if evaluates_twice else chosen


def _requested(settings: LatentAnalysisSettings) -> TrajectoryRequest:
    return TrajectoryRequest(
        latents=settings.store_latents,
        interval=settings.storage_interval,
        dtype=settings.storage_dtype,
        compress=settings.compress_latents,
        predicted_clean=settings.store_latents and settings.store_predicted_clean,
    )


def _disk(request: TrajectoryRequest, size: DenoisingSize) -> tuple[DiskPart, ...]:
    shape, states = size.latent_shape, size.evaluations + 1
    derived = states * (8 * states + 4 * min(MAX_PROJECTED, math.prod(shape)) + 8 * shape[0])
    geometry = DiskPart("geometry", derived, "inner products and projections of every state")
    if not request.latents:
        return (geometry,)
    stored = len(stored_evaluations(size.steps, request.interval, size.evaluates_twice))
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
    settings=LatentAnalysisSettings,
    request=TrajectoryRequest,
    requested=_requested,
    disk=_disk,
    gpu_bytes=lambda request, size: 0,
)
