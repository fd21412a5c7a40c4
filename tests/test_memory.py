"""The ladder of what is given up for a video that does not fit into memory."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers import WanPipeline

from wantui.generation.decode import decode_frames
from wantui.generation.memory import RUNGS, gpu_is_lost, next_rung, place

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def ladder(on_gpu: bool) -> list[str]:
    found, rung = [], next_rung(0, on_gpu)
    while rung is not None:
        found.append(RUNGS[rung].name)
        rung = next_rung(rung, on_gpu)
    return found


def test_the_ladder_leaves_out_on_a_cpu_what_is_no_help_there() -> None:
    assert ladder(on_gpu=True) == ["tiled decode", "model offload", "sequential offload", "small tiles"]
    assert ladder(on_gpu=False) == ["tiled decode", "small tiles"]


@pytest.mark.parametrize(
    ("device", "rung", "calls"),
    [
        (GPU, 0, ["to"]),
        (GPU, 1, ["to", "vae.enable_tiling"]),
        (GPU, 2, ["vae.enable_tiling", "enable_model_cpu_offload"]),
        (GPU, 3, ["vae.enable_tiling", "enable_sequential_cpu_offload"]),
        (GPU, 4, ["vae.enable_tiling", "vae.enable_tiling", "enable_sequential_cpu_offload"]),
        (CPU, 4, ["to", "vae.enable_tiling", "vae.enable_tiling"]),
    ],
)
def test_a_pipeline_that_is_offloaded_never_goes_to_the_gpu_as_a_whole(
    device: torch.device, rung: int, calls: list[str]
) -> None:
    pipeline = Mock()
    place(pipeline, device, rung)
    assert [call[0] for call in pipeline.mock_calls] == calls


def test_tiles_larger_than_the_picture_give_the_same_frames(tiny: WanPipeline) -> None:
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = list(decode_frames(tiny, latents))
    tiny.vae.enable_tiling()
    try:
        tiled = list(decode_frames(tiny, latents))
    finally:
        tiny.vae.disable_tiling()
    assert len(whole) == len(tiled) == 9
    assert all((one == other).all() for one, other in zip(whole, tiled, strict=True))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), True),
        (RuntimeError("shapes do not match"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_a_gpu_that_is_lost_is_told_from_a_video_that_failed(error: Any, lost: bool) -> None:
    assert gpu_is_lost(error) == lost
    wrapped = ValueError("it cannot be loaded")
    wrapped.__cause__ = error
    assert gpu_is_lost(wrapped) == lost
