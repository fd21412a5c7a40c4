"""The GPUs of this machine on which an engine may render a batch, for predictions of time and memory."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wantui.engine.slots import VISIBLE_DEVICES
from wantui.gpu.monitor import GpuSample, GpuState
from wantui.gpu.nvml import Gpu, NoSuchGpuError, list_usable_gpus, select_visible_gpus
from wantui.queue.engine_lock import read_engine_info


def read_visible_devices(state_directory: Path | None) -> str | None:
    """Return the CUDA_VISIBLE_DEVICES of the running engine, or of this process, whose environment a new one gets."""
    try:
        engine_info = None if state_directory is None else read_engine_info(state_directory)
    except PermissionError:
        engine_info = None
    environment = (engine_info or {}).get("environment", os.environ)
    value: str | None = environment.get(VISIBLE_DEVICES)
    return value


def choose_device_gpus(gpus: Sequence[Gpu], visible_devices: str | None, device: str) -> list[Gpu]:
    """Return the usable GPUs that serve a batch with this device; all if CUDA_VISIBLE_DEVICES is invalid.

    Args:
        device: auto, cuda, or cuda:N, the GPU at place N of CUDA_VISIBLE_DEVICES.
    """
    try:
        visible_gpus = select_visible_gpus(tuple(gpus), visible_devices)
    except NoSuchGpuError:  # a new batch is refused for this reason
        return list_usable_gpus(gpus)
    number = device.removeprefix("cuda:")
    return list_usable_gpus(visible_gpus[int(number) : int(number) + 1] if number.isdigit() else visible_gpus)


def keep_batch_gpus(sample: GpuSample, visible_devices: str | None, device: str) -> GpuSample:
    """Return a sample with only the GPUs that serve a batch with this device, and that respond.

    Name and free memory of a MIG instance are unknown: the driver reports those of the whole GPU.
    """
    states = [_hide_whole_gpu(state) if state.is_mig_enabled else state for state in sample.gpus]
    if any(entry.strip().startswith("MIG-") for entry in (visible_devices or "").split(",")):
        return replace(sample, gpus=tuple(_hide_whole_gpu(state) for state in states if state.state == "ok"))
    gpus = [
        Gpu(state.index, state.uuid, state.name, None, None, fault="" if state.state == "ok" else state.state)
        for state in states
    ]
    indices = [gpu.index for gpu in choose_device_gpus(gpus, visible_devices, device)]
    state_by_index = {state.index: state for state in states}
    return replace(sample, gpus=tuple(state_by_index[index] for index in indices))


def _hide_whole_gpu(state: GpuState) -> GpuState:
    return replace(state, name="", memory_total=None, memory_used=None)
