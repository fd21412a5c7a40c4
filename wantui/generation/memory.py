"""What is given up, rung by rung, to make a video that does not fit into memory."""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import WanPipeline

OutOfMemory = torch.OutOfMemoryError


@dataclass(frozen=True)
class Rung:
    """One way to need less memory, on top of the rungs before it."""

    name: str
    apply: Callable[[WanPipeline], None]
    needs_gpu: bool


RUNGS = (
    Rung("everything resident", lambda pipeline: None, False),
    Rung("tiled decode", lambda pipeline: pipeline.vae.enable_tiling(), False),
    Rung("model offload", lambda pipeline: pipeline.enable_model_cpu_offload(), True),
    Rung("sequential offload", lambda pipeline: pipeline.enable_sequential_cpu_offload(), True),
)
"""Tiles change pixels where they meet; offload changes nothing but the time."""


def free_memory() -> None:
    """Give back what no tensor holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def next_rung(rung: int, on_gpu: bool) -> int | None:
    """The rung after this one, if there is one for the device."""
    after = rung + 1
    if after >= len(RUNGS) or (RUNGS[after].needs_gpu and not on_gpu):
        return None
    return after


def apply_rungs(pipeline: WanPipeline, rung: int) -> None:
    """Put a pipeline that was just loaded on a rung. The last kind of offload replaces the one before it."""
    if rung >= 1:
        RUNGS[1].apply(pipeline)
    if rung >= 2:
        RUNGS[rung].apply(pipeline)
