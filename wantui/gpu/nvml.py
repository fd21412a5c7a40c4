"""One look at the GPUs, through nvidia-ml-py; no driver and no GPU are answers, not errors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; memory in bytes."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int


@dataclass(frozen=True)
class GpuReport:
    """The GPUs, and why there are none where there are none."""

    gpus: tuple[Gpu, ...]
    driver: str | None
    reason: str | None


def look() -> GpuReport:
    """Ask the driver once."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuReport((), None, f"no NVIDIA driver ({error})")
    try:
        gpus = tuple(_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        return GpuReport(gpus, str(pynvml.nvmlSystemGetDriverVersion()), None if gpus else "the driver sees no GPU")
    except pynvml.NVMLError as error:
        return GpuReport((), None, str(error))
    finally:
        pynvml.nvmlShutdown()


def visible(gpus: tuple[Gpu, ...], setting: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES (None: not set) leaves, in its order; numbers and UUIDs are understood.

    As CUDA does it, the first word that names no GPU ends the list.
    """
    if setting is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for word in setting.split(","):
        word = word.strip()
        found = [
            gpu for gpu in gpus if str(gpu.index) == word or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if len(found) != 1:
            break
        chosen += found
    return chosen


def _read(pynvml: object, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)  # type: ignore[attr-defined]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # type: ignore[attr-defined]
    name = str(pynvml.nvmlDeviceGetName(handle))  # type: ignore[attr-defined]
    uuid = str(pynvml.nvmlDeviceGetUUID(handle))  # type: ignore[attr-defined]
    return Gpu(index, uuid, name, int(memory.total), int(memory.used))
