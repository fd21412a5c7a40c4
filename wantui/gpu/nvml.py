"""One look at the GPUs, through nvidia-ml-py; no driver and no GPU are answers, not errors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; memory in bytes."""

    index: int
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


def _read(pynvml: object, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)  # type: ignore[attr-defined]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # type: ignore[attr-defined]
    name = str(pynvml.nvmlDeviceGetName(handle))  # type: ignore[attr-defined]
    return Gpu(index, name, int(memory.total), int(memory.used))
