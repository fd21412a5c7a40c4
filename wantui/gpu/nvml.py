"""Read the GPUs of this machine through nvidia-ml-py; no driver and no GPU are answers, not errors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from wantui.errors import UserError

NO_GPU = ("", "-1", "none", "void", "nodevfiles")
"""Values by which CUDA, containers and schedulers disable all GPUs."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; memory in bytes, None where the driver does not count it."""

    index: int
    uuid: str
    name: str
    memory_total: int | None
    memory_used: int | None
    instances: tuple["Gpu", ...] = ()
    """MIG instances, into which it is divided."""


class NoSuchGpuError(UserError):
    """CUDA_VISIBLE_DEVICES names a GPU that is not in this machine."""

    exit_code = 3


@dataclass(frozen=True)
class GpuReport:
    """The GPUs, and why there are none where there are none."""

    gpus: tuple[Gpu, ...]
    driver: str | None
    reason: str | None


def query_gpus() -> GpuReport:
    """Ask the driver once."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuReport((), None, unavailable_reason(pynvml, error))
    try:
        gpus = tuple(_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        return GpuReport(gpus, str(pynvml.nvmlSystemGetDriverVersion()), None if gpus else "the driver sees no GPU")
    except pynvml.NVMLError as error:
        return GpuReport((), None, str(error))
    finally:
        pynvml.nvmlShutdown()


def visible(gpus: tuple[Gpu, ...], setting: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES (None: not set) leaves, in its order.

    Numbers, UUIDs, their beginnings, and MIG instances are understood. A machine without GPUs has none to leave.

    Raises:
        NoSuchGpuError: a word names no GPU of this machine, or one a second time. CUDA would leave out all that follow
            without a word, and a batch would be made on fewer GPUs, or on the CPU.
    """
    if setting is None or not gpus:
        return list(gpus)
    chosen: list[Gpu] = []
    for word in map(str.strip, setting.split(",")):
        if word.lower() in NO_GPU:  # CUDA ends the list at such a word
            break
        matches = _named(gpus, word)
        if len(matches) != 1:
            what = "several GPUs" if matches else "no GPU"
            raise NoSuchGpuError(
                f"CUDA_VISIBLE_DEVICES={setting}: {word} names {what} of this machine, which has {_names(gpus)}"
            )
        if matches[0] in chosen:
            raise NoSuchGpuError(f"CUDA_VISIBLE_DEVICES={setting}: names {matches[0].uuid} twice; name each GPU once")
        chosen += matches
    return chosen


def _named(gpus: tuple[Gpu, ...], word: str) -> list[Gpu]:
    if word.isascii() and word.isdigit():
        return [gpu for gpu in gpus if str(gpu.index) == (word.lstrip("0") or "0")]
    if word.startswith("MIG-"):
        instances = [instance for gpu in gpus for instance in gpu.instances]
        exact = [instance for instance in instances if instance.uuid == word]
        return exact or [instance for instance in instances if instance.uuid.startswith(word)]
    return [gpu for gpu in gpus if word.startswith("GPU-") and gpu.uuid.startswith(word)]


def _names(gpus: tuple[Gpu, ...]) -> str:
    names = [f"{gpu.index} ({gpu.uuid})" for gpu in gpus]
    names += [instance.uuid for gpu in gpus for instance in gpu.instances]
    return ", ".join(names)


def remarks_on_devices(report: GpuReport, setting: str | None) -> list[str]:
    """Return a remark if GPUs were requested but none exist, so that videos are rendered on the CPU."""
    if report.gpus or setting is None or setting.split(",")[0].strip().lower() in NO_GPU:
        return []
    return [f"CUDA_VISIBLE_DEVICES={setting}, but no GPU can be used here ({report.reason}): the CPU makes the videos"]


def _read(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return replace(_describe(pynvml, handle, index), instances=tuple(_instances(pynvml, handle, index)))


def _instances(pynvml: Any, handle: Any, index: int) -> Iterator[Gpu]:
    """Yield the MIG instances of a GPU; none where it is not divided or cannot be."""
    try:
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except (pynvml.NVMLError, AttributeError):
        return
    for number in range(count):
        try:
            yield _describe(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number), index)
        except pynvml.NVMLError:  # of a place that holds no instance
            continue


def _describe(pynvml: Any, handle: Any, index: int) -> Gpu:
    name, uuid = str(pynvml.nvmlDeviceGetName(handle)), str(pynvml.nvmlDeviceGetUUID(handle))
    return Gpu(index, uuid, name, *(read_memory(pynvml, handle) or (None, None)))


def read_memory(pynvml: Any, handle: Any) -> tuple[int, int] | None:
    """Return total and used memory of a GPU in bytes; None where the driver does not count it.

    The second version of the call leaves what the driver reserves out of the used memory, as nvidia-smi does; old
    drivers have the first version only.

    Raises:
        NVMLError: the GPU is lost, or does not answer.
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except (pynvml.NVMLError, AttributeError, TypeError) as error:
        if isinstance(error, pynvml.NVMLError) and error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError as unread:  # GPUs that share the machine's memory have no figure of their own
            if unread.value != pynvml.NVML_ERROR_NOT_SUPPORTED:
                raise
            return None
    return (int(memory.total), int(memory.used)) if memory.total else None


def unavailable_reason(pynvml: Any, error: Any) -> str:
    """Return why no GPU can be used, for an error of NVML, and what to do about it."""
    known = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated: restart the machine",
        pynvml.NVML_ERROR_NO_PERMISSION: "this user may not use the NVIDIA driver",
    }
    return known.get(error.value, f"the NVIDIA driver does not answer: {error}")
