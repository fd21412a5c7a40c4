"""What is given up, rung by rung, to make a video that does not fit into memory."""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import WanPipeline

OutOfMemory = torch.OutOfMemoryError
SIGNS_OF_LOSS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "device-side assert")


@dataclass(frozen=True)
class Rung:
    """One way to need less memory, on top of the rungs before it."""

    name: str
    apply: Callable[[WanPipeline], None]
    needs_gpu: bool


RUNGS = (
    Rung("everything resident", lambda pipeline: None, False),
    Rung("tiled decode", lambda pipeline: pipeline.vae.enable_tiling(), False),
    Rung("model offload", lambda pipeline: pipeline.enable_model_cpu_offload(device="cuda"), True),
    Rung("sequential offload", lambda pipeline: pipeline.enable_sequential_cpu_offload(device="cuda"), True),
)
"""Tiles change pixels where they meet; offload changes nothing but the time."""


def free_memory() -> None:
    """Give back what no tensor holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gpu_is_lost(error: BaseException | None) -> bool:
    """Whether nothing can be done on the GPU any more in this process, as after an illegal access to its memory."""
    while error is not None:
        is_other = isinstance(error, RuntimeError) and not isinstance(error, OutOfMemory)
        if is_other and any(word in str(error) for word in SIGNS_OF_LOSS):
            return True
        error = error.__cause__
    return False


def next_rung(rung: int, on_gpu: bool) -> int | None:
    """The rung after this one, if there is one for the device."""
    after = rung + 1
    if after >= len(RUNGS) or (RUNGS[after].needs_gpu and not on_gpu):
        return None
    return after


def place(pipeline: WanPipeline, device: torch.device, rung: int) -> None:
    """Put a pipeline that was just loaded where a rung has it. Offload replaces residence, and the offload before."""
    if not RUNGS[rung].needs_gpu:
        pipeline.to(device)
    if rung >= 1:
        RUNGS[1].apply(pipeline)
    if RUNGS[rung].needs_gpu:
        RUNGS[rung].apply(pipeline)
