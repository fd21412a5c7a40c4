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
    offloads: bool = False
    """Keeps parts of the pipeline in the machine's memory, which is no help on a CPU; takes the place of residence."""


RUNGS = (
    Rung("everything resident", lambda pipeline: None),
    Rung("tiled decode", lambda pipeline: pipeline.vae.enable_tiling()),
    Rung("model offload", lambda pipeline: pipeline.enable_model_cpu_offload(device="cuda"), offloads=True),
    Rung("sequential offload", lambda pipeline: pipeline.enable_sequential_cpu_offload(device="cuda"), offloads=True),
    Rung("small tiles", lambda pipeline: pipeline.vae.enable_tiling(128, 128, 96, 96)),
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
    """The rung after this one that is one on the device, if there is any."""
    return next((after for after in range(rung + 1, len(RUNGS)) if on_gpu or not RUNGS[after].offloads), None)


def place(pipeline: WanPipeline, device: torch.device, rung: int) -> None:
    """Put a pipeline that was just loaded where a rung has it. One kind of offload takes the place of another."""
    taken = [step for step in RUNGS[: rung + 1] if device.type == "cuda" or not step.offloads]
    offloads = [step for step in taken if step.offloads]
    if not offloads:
        pipeline.to(device)
    for step in (*(step for step in taken if not step.offloads), *offloads[-1:]):
        step.apply(pipeline)


def memory_figures(device: torch.device) -> dict[str, int]:
    """Bytes that torch holds on a GPU: allocated now, reserved now, allocated at most since the video began."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }
