"""The capture of the trajectory: always the inner products of its states, and the states on request."""

import math
from typing import ClassVar, Literal

from wantui.captures.base import BYTES_BY_DTYPE, CaptureKind, CaptureRequest, DenoisingSize, DiskPart, PositiveCount
from wantui.formatting import format_count
from wantui.section import ChoiceDescriptions, ConfigSection

MAX_STATES_MEMORY_FRACTION = 1 / 16
"""Largest share of free GPU memory for the earlier states; beyond it they are in pinned CPU memory."""
MAX_PROJECTION_DIMENSION = 4096
"""Largest dimension of a state's projection; smaller states are stored without projection."""


class LatentAnalysisSettings(ConfigSection):
    """Storage of every step's latents."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {
        "latent_storage_format": "latents are stored as zarr; `wantui export` writes .npy, .pt and safetensors",
        "auto_decode": "`wantui decode` decodes stored latents after the batch",
    }
    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "storage_dtype": {"float16": "half the size; bends a straight path by about 1.1 rad over 50 steps"}
    }

    store_latents: bool = False
    """Store the initial noise and the latents of every step. Their inner products, which determine the geometry, are
    always stored."""
    storage_interval: PositiveCount = 1
    """Store every n-th step, and the last step."""
    storage_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the stored latents."""
    compress_latents: bool = False
    """Compress without loss (zstd); saves little on noise."""
    store_predicted_clean: bool = False
    """Also store the clean latents that the model predicted at each stored step; doubles the size."""


class TrajectoryRequest(CaptureRequest):
    """Request to store states in addition to their inner products, and the storage format of the states."""

    latents: bool = False
    interval: PositiveCount = 1
    dtype: Literal["float32", "float16"] = "float32"
    compress: bool = False
    predicted_clean: bool = False


def list_stored_evaluations(step_count: int, step_interval: int, evaluates_model_twice: bool) -> list[int]:
    """Return the numbers of model evaluations after which latents are stored; 0 is the initial noise.

    The interval counts sampler steps. Heun's method evaluates the model twice per step, and its state is stored after
    the second evaluation: the first leads to an Euler predictor, which is not a state of the trajectory.
    """
    stored_steps = sorted({*range(0, step_count + 1, step_interval), step_count})
    return [min(2 * step, 2 * step_count - 1) for step in stored_steps] if evaluates_model_twice else stored_steps


def _build_trajectory_request(settings: LatentAnalysisSettings) -> TrajectoryRequest:
    return TrajectoryRequest(
        latents=settings.store_latents,
        interval=settings.storage_interval,
        dtype=settings.storage_dtype,
        compress=settings.compress_latents,
        predicted_clean=settings.store_latents and settings.store_predicted_clean,
    )


def _estimate_trajectory_disk_usage(request: TrajectoryRequest, denoising_size: DenoisingSize) -> tuple[DiskPart, ...]:
    latent_shape, state_count = denoising_size.latent_shape, denoising_size.evaluation_count + 1
    geometry_bytes = state_count * (
        8 * state_count + 4 * min(MAX_PROJECTION_DIMENSION, math.prod(latent_shape)) + 8 * latent_shape[0]
    )
    geometry_part = DiskPart("geometry", geometry_bytes, "inner products and projections of every state")
    if not request.latents:
        return (geometry_part,)
    stored_count = len(
        list_stored_evaluations(denoising_size.step_count, request.interval, denoising_size.evaluates_model_twice)
    )
    value_bytes = BYTES_BY_DTYPE[request.dtype]
    basis = f"{format_count(stored_count, 'step')} x {' x '.join(map(str, latent_shape))} x {value_bytes} bytes"
    if request.predicted_clean:
        basis += ", times 2 for the predicted clean latents"
        stored_count = 2 * stored_count - 1
    if request.compress:
        basis += ", before compression"
    return DiskPart("latents", stored_count * math.prod(latent_shape) * value_bytes, basis), geometry_part


TRAJECTORY = CaptureKind(
    name="trajectory",
    folder_name="latents",
    file_key="latents",
    section_key="latent_analysis_settings",
    settings_type=LatentAnalysisSettings,
    request_type=TrajectoryRequest,
    build_request=_build_trajectory_request,
    estimate_disk=_estimate_trajectory_disk_usage,
    estimate_gpu_bytes=lambda request, size: 0,  # `memory_plan` counts the earlier states, which need not be on the GPU
)
