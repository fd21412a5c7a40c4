"""Placement of a pipeline's parts on and off the GPU by a memory plan; its free memory, and detection of its loss."""

import gc
from collections.abc import Sequence
from typing import Any, assert_never

import torch
from diffusers import WanPipeline
from torch import nn

from wantui.planning.memory_plan import CONTEXT_BYTES, MemoryPlan

OutOfMemory = torch.OutOfMemoryError
SIGNS_OF_NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Texts in out-of-memory errors of allocators besides torch: CUDA itself (pinned memory too), Triton and CUDA's
libraries."""
FATAL_CUDA_ERRORS = ("CUDA error", "Triton Error [CUDA]", "CUBLAS_STATUS", "CUDNN_STATUS", "device-side assert")


class Placement:
    """Placement of a pipeline's parts by a memory plan; moves parts to the device when they work.

    Args:
        pipeline: as it was loaded, all of it in the machine's memory.
    """

    def __init__(self, pipeline: WanPipeline, device: torch.device, plan: MemoryPlan) -> None:
        self.device = device
        self.transformers = [one for one in (pipeline.transformer, pipeline.transformer_2) if one is not None]
        self.moving: list[nn.Module] = []
        """Parts of which one at a time is on the GPU."""
        self.working: nn.Module | None = None
        if plan.tile is not None:
            pipeline.vae.enable_tiling(plan.tile, plan.tile, plan.tile * 3 // 4, plan.tile * 3 // 4)
        if device.type != "cuda" or plan.transformer == "resident":
            pipeline.to(device)
            return
        self.moving = [pipeline.vae]
        for transformer in self.transformers:
            match plan.transformer:
                case "parked":
                    self.moving.append(transformer)
                case "streamed":
                    stream_blocks(transformer, device)
                case "sequential":
                    transformer.enable_group_offload(
                        onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level"
                    )
                case _:
                    assert_never(plan.transformer)

    def ensure_on_device(self, part: nn.Module) -> None:
        """Move a part to the device before it works; others that alternate with it leave the GPU."""
        if part is self.working or not self.moving:
            return
        if self.working is not None:
            if self.working in self.moving:
                self.working.to("cpu")
            free_memory()
        if part in self.moving:
            part.to(self.device)
        self.working = part


def stream_blocks(transformer: Any, device: torch.device) -> None:
    """Stream a transformer's blocks from pinned memory, each while the one before it works; the rest stays there."""
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=True,
    )
    # diffusers would bring the rest for every pass and take it back, through memory that is not pinned.
    rest = transformer._diffusers_hook.get_hook("group_offloading").group
    rest.onload_()
    rest.onload_ = rest.offload_ = lambda: None


def set_device(device: torch.device) -> None:
    """Select the current GPU before any computation: Triton launches its kernels there, wherever tensors are."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def apply_plan(pipeline: WanPipeline, device: torch.device, plan: MemoryPlan) -> None:
    """Put a pipeline that was just loaded where a plan has it."""
    pipeline.wantui_placement = Placement(pipeline, device, plan)


def device_of(pipeline: WanPipeline) -> torch.device:
    """Return the device on which a pipeline computes, wherever its parts are at the moment."""
    placement: Placement | None = getattr(pipeline, "wantui_placement", None)
    return pipeline._execution_device if placement is None else placement.device


def ensure_on_device(pipeline: WanPipeline, part: nn.Module) -> None:
    """Have a part of the pipeline where it computes."""
    placement: Placement | None = getattr(pipeline, "wantui_placement", None)
    if placement is not None:
        placement.ensure_on_device(part)


def free_memory() -> None:
    """Give back what no tensor holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an operation ran out of memory, and the GPU still works."""
    if isinstance(error, OutOfMemory):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and _has(message, FATAL_CUDA_ERRORS) and _has(message, SIGNS_OF_NO_MEMORY)


def is_fatal_cuda_error(error: BaseException | None) -> bool:
    """Return whether this process can no longer use the GPU, as after an illegal memory access."""
    while error is not None:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error) and _has(str(error), FATAL_CUDA_ERRORS):
            return True
        error = error.__cause__
    return False


def _has(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)


def free_gpu_bytes(device: torch.device) -> int:
    """Return the bytes that are free on a GPU once this process has unloaded its pipeline."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) + CONTEXT_BYTES


def name_of(device: torch.device) -> str:
    """Return a GPU's name, equal to the driver's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_figures(device: torch.device) -> dict[str, int]:
    """Return torch's bytes on a GPU: allocated now, reserved now, and most allocated since the video started."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }
