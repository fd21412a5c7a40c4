"""Move a pipeline's parts to and from the GPU by a memory plan, and query GPU memory."""

import gc
from typing import Any, assert_never

import torch
from diffusers import WanPipeline
from torch import nn

from wantui.planning.memory_plan import CONTEXT_BYTES, MemoryPlan


class PipelinePlacement:
    """Places a pipeline's parts according to a memory plan, and moves each part to the device before use.

    Args:
        pipeline: newly loaded pipeline, in CPU memory.
    """

    def __init__(self, pipeline: WanPipeline, device: torch.device, plan: MemoryPlan) -> None:
        self.device = device
        self.swapped_parts: list[nn.Module] = []
        """Parts that alternate on the GPU, one at a time."""
        self.active_part: nn.Module | None = None
        if plan.tile_side_pixels is not None:
            set_tile_side(pipeline, plan.tile_side_pixels)
        if device.type != "cuda" or plan.transformer_placement == "resident":
            pipeline.to(device)
            return
        self.swapped_parts = [pipeline.vae]
        for transformer in list_transformers(pipeline):
            match plan.transformer_placement:
                case "parked":
                    self.swapped_parts.append(transformer)
                case "streamed":
                    stream_blocks(transformer, device)
                case "sequential":
                    transformer.enable_group_offload(
                        onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level"
                    )
                case _:
                    assert_never(plan.transformer_placement)

    def ensure_on_device(self, part: nn.Module) -> None:
        """Move a part to the device before use; move the active part off the GPU if both parts alternate."""
        if part is self.active_part or not self.swapped_parts:
            return
        if self.active_part is not None:
            if self.active_part in self.swapped_parts:
                self.active_part.to("cpu")
            free_unused_memory()
        if part in self.swapped_parts:
            part.to(self.device)
        self.active_part = part


def list_transformers(pipeline: WanPipeline) -> list[Any]:
    """Return the transformers of a pipeline: none without one, or two of Wan 2.2 A14B."""
    return [transformer for transformer in (pipeline.transformer, pipeline.transformer_2) if transformer is not None]


def stream_blocks(transformer: Any, device: torch.device) -> None:
    """Stream a transformer's blocks from pinned memory to the GPU, where its other layers stay."""
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=True,
    )
    # diffusers would move the other layers to the GPU and back for every pass, through unpinned memory.
    unmatched_group = transformer._diffusers_hook.get_hook("group_offloading").group
    unmatched_group.onload_()
    unmatched_group.onload_ = unmatched_group.offload_ = lambda: None


def set_tile_side(pipeline: WanPipeline, tile_side: int | None) -> None:
    """Decode in square tiles of this side in pixels; None decodes complete frames."""
    if tile_side is None:
        pipeline.vae.disable_tiling()
    else:
        pipeline.vae.enable_tiling(tile_side, tile_side, tile_side * 3 // 4, tile_side * 3 // 4)


def find_tile_side(pipeline: WanPipeline, width: int, height: int) -> int | None:
    """Return the side in pixels of the tiles in which frames are decoded; None for complete frames."""
    vae = pipeline.vae
    return vae.tile_sample_min_height if vae.use_tiling and max(width, height) > vae.tile_sample_min_height else None


def select_gpu(device: torch.device) -> None:
    """Select the current GPU, where Triton launches its kernels regardless of the tensors' device."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def apply_memory_plan(pipeline: WanPipeline, device: torch.device, plan: MemoryPlan) -> None:
    """Place the parts of a newly loaded pipeline by a memory plan."""
    pipeline.wantui_placement = PipelinePlacement(pipeline, device, plan)


def find_device(pipeline: WanPipeline) -> torch.device:
    """Return the device on which a pipeline computes, regardless of where its parts are now."""
    placement: PipelinePlacement | None = getattr(pipeline, "wantui_placement", None)
    return pipeline._execution_device if placement is None else placement.device


def ensure_on_device(pipeline: WanPipeline, part: nn.Module) -> None:
    """Move a part of the pipeline to its device before use."""
    placement: PipelinePlacement | None = getattr(pipeline, "wantui_placement", None)
    if placement is not None:
        placement.ensure_on_device(part)


def free_unused_memory() -> None:
    """Collect garbage, and release torch's unused GPU memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def query_free_gpu_bytes(device: torch.device) -> int:
    """Return the bytes on a GPU that will be free once this process has unloaded its pipeline."""
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes + torch.cuda.memory_reserved(device) + CONTEXT_BYTES


def find_device_name(device: torch.device) -> str:
    """Return a GPU's name as the driver reports it, or the device type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def read_gpu_memory_stats(device: torch.device) -> dict[str, int]:
    """Return torch's bytes on a GPU: allocated now, reserved now, and peak allocated since the video started."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }


def reset_peak_memory(*devices: torch.device | None) -> None:
    """Reset the peak of the bytes that torch allocates on each GPU; do nothing for a CPU or None."""
    for device in devices:
        if device is not None and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def read_peak_memory(device: torch.device | None) -> int | None:
    """Return the peak bytes that torch allocated on a GPU; None for a CPU or None."""
    return torch.cuda.max_memory_allocated(device) if device is not None and device.type == "cuda" else None
