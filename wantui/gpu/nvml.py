"""List the GPUs of this machine through nvidia-ml-py; a missing driver or GPU is a result, not an error."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from wantui.errors import UserError

NO_GPU_VALUES = ("", "-1", "none", "void", "nodevfiles")
"""Values of CUDA_VISIBLE_DEVICES with which CUDA, containers and schedulers hide all GPUs."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver reports it; memory in bytes, or None if not reported."""

    index: int
    uuid: str
    name: str
    total_bytes: int | None
    used_bytes: int | None
    mig_instances: tuple["Gpu", ...] = ()
    """MIG instances of this GPU."""
    compute_capability: tuple[int, int] | None = None
    """Major and minor number of CUDA's compute capability; None if not reported."""
    fault: str = ""
    """Why this GPU cannot be used, for example because it fell off the bus; empty if it can.

    Such a GPU stays in lists: the others keep their numbers.
    """


class NoSuchGpuError(UserError):
    """Raised if CUDA_VISIBLE_DEVICES names a GPU that this machine does not have."""

    exit_code = 3


@dataclass(frozen=True)
class GpuReport:
    """The GPUs of this machine."""

    gpus: tuple[Gpu, ...]
    """All GPUs, also those that do not respond."""
    driver_version: str | None
    """Driver version; None without a working driver."""
    reason: str | None
    """Reason for the absence of usable GPUs; None if there is one."""

    @property
    def unusable(self) -> list[str]:
        """Return a remark for each GPU that cannot be used."""
        return [f"GPU {gpu.index} cannot be used: {gpu.fault}" for gpu in self.gpus if gpu.fault]


def list_usable_gpus(gpus: Iterable[Gpu]) -> list[Gpu]:
    """Return the GPUs that respond."""
    return [gpu for gpu in gpus if not gpu.fault]


def query_gpus() -> GpuReport:
    """Return the GPUs that the driver reports."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuReport((), None, explain_nvml_error(pynvml, error))
    try:
        gpus: list[Gpu] = []
        for number, device_index in enumerate(list_device_indices(pynvml)):
            try:
                gpus.append(_read_gpu(pynvml, device_index, number))
            except pynvml.NVMLError as error:  # this GPU alone: a lost one must not hide the others
                uuid = _read_lost_gpu_uuid(pynvml, device_index)
                gpus.append(Gpu(number, uuid, f"GPU {number}", None, None, fault=str(error)))
        report = GpuReport(tuple(gpus), str(pynvml.nvmlSystemGetDriverVersion()), None)
        if list_usable_gpus(gpus):
            return report
        return replace(report, reason="; ".join(report.unusable) or "the driver finds no GPU")
    except pynvml.NVMLError as error:
        return GpuReport((), None, str(error))
    finally:
        pynvml.nvmlShutdown()


def list_device_indices(pynvml: Any) -> list[int]:
    """Return the driver's indices of the GPUs to which this process has access, in the order of CUDA's numbers.

    The driver also counts GPUs to which a scheduler or a container gives no access; CUDA does not.

    Raises:
        NVMLError: the driver does not respond.
    """
    return [index for index in range(pynvml.nvmlDeviceGetCount()) if _has_access(pynvml, index)]


def _has_access(pynvml: Any, index: int) -> bool:
    try:
        pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return bool(error.value != pynvml.NVML_ERROR_NO_PERMISSION)
    return True


def select_visible_gpus(gpus: tuple[Gpu, ...], visible_devices: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES selects, in its order, also those that cannot be used.

    Args:
        visible_devices: value of CUDA_VISIBLE_DEVICES: numbers, UUIDs or UUID prefixes, of GPUs or MIG instances; None
            if the variable is not set.

    Raises:
        NoSuchGpuError: an entry names no GPU, or names a GPU twice: CUDA would silently ignore this entry and all
            after it, and the batch would run on fewer GPUs, or on the CPU. Or other GPUs can be used, but none of the
            selected ones.
    """
    if visible_devices is None or not list_usable_gpus(gpus):
        return list(gpus)
    chosen_gpus: list[Gpu] = []
    for entry in map(str.strip, visible_devices.split(",")):
        if entry.lower() in NO_GPU_VALUES:  # CUDA ignores the rest of the list
            break
        matches = _find_matching_gpus(gpus, entry)
        if len(matches) != 1:
            match_text = "several GPUs" if matches else "no GPU"
            raise NoSuchGpuError(
                f"CUDA_VISIBLE_DEVICES={visible_devices}: {entry} matches {match_text}; this machine has "
                f"{_list_gpu_names(gpus)}"
            )
        if matches[0] in chosen_gpus:
            name = matches[0].uuid or matches[0].name
            raise NoSuchGpuError(f"CUDA_VISIBLE_DEVICES={visible_devices} names {name} twice. Name each GPU once")
        chosen_gpus += matches
    if chosen_gpus and not list_usable_gpus(chosen_gpus):
        raise NoSuchGpuError(
            f"CUDA_VISIBLE_DEVICES={visible_devices} selects no usable GPU; this machine has {_list_gpu_names(gpus)}"
        )
    return chosen_gpus


def _find_matching_gpus(gpus: tuple[Gpu, ...], entry: str) -> list[Gpu]:
    if entry.isascii() and entry.isdigit():
        return [gpu for gpu in gpus if str(gpu.index) == (entry.lstrip("0") or "0")]
    if entry.startswith("MIG-"):
        instances = [instance for gpu in gpus for instance in gpu.mig_instances]
        exact_matches = [instance for instance in instances if instance.uuid == entry]
        return exact_matches or [instance for instance in instances if instance.uuid.startswith(entry)]
    return [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]


def _list_gpu_names(gpus: tuple[Gpu, ...]) -> str:
    names = [f"{gpu.index} ({f'cannot be used: {gpu.fault}' if gpu.fault else gpu.uuid})" for gpu in gpus]
    names += [instance.uuid for gpu in gpus for instance in gpu.mig_instances]
    return ", ".join(names)


def find_device_remarks(report: GpuReport, visible_devices: str | None) -> list[str]:
    """Return remarks about GPUs that cannot be used, and about a CUDA_VISIBLE_DEVICES that requests GPUs in vain."""
    if visible_devices is not None and visible_devices.split(",")[0].strip().lower() in NO_GPU_VALUES:
        return []
    if list_usable_gpus(report.gpus):
        return report.unusable
    if visible_devices is None:
        return [f"{report.reason}: videos run on the CPU"] if report.unusable else []
    return [f"CUDA_VISIBLE_DEVICES={visible_devices}, but no GPU can be used ({report.reason}): videos run on the CPU"]


def _read_gpu(pynvml: Any, device_index: int, index: int) -> Gpu:
    """Return a GPU.

    Args:
        device_index: the driver's index.
        index: number of the GPU for this process.
    """
    handle = pynvml.nvmlDeviceGetHandleByIndex(device_index)
    try:
        major, minor = map(int, pynvml.nvmlDeviceGetCudaComputeCapability(handle))
        compute_capability: tuple[int, int] | None = (major, minor)
    except (pynvml.NVMLError, AttributeError):
        compute_capability = None
    instances = tuple(
        replace(instance, compute_capability=compute_capability)
        for instance in _read_mig_instances(pynvml, handle, index)
    )
    gpu = _read_gpu_or_instance(pynvml, handle, index)
    return replace(gpu, mig_instances=instances, compute_capability=compute_capability)


def _read_lost_gpu_uuid(pynvml: Any, device_index: int) -> str:
    """Return the UUID by which CUDA_VISIBLE_DEVICES may name a lost GPU; empty if the driver does not tell it."""
    try:
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(device_index)))
    except pynvml.NVMLError:
        return ""


def _read_mig_instances(pynvml: Any, handle: Any, index: int) -> Iterator[Gpu]:
    """Yield the MIG instances of a GPU; nothing if MIG is disabled or not supported."""
    try:
        instance_count = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except (pynvml.NVMLError, AttributeError):
        return
    for instance_number in range(instance_count):
        try:
            yield _read_gpu_or_instance(
                pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, instance_number), index
            )
        except pynvml.NVMLError:  # an unused instance number
            continue


def _read_gpu_or_instance(pynvml: Any, handle: Any, index: int) -> Gpu:
    name, uuid = str(pynvml.nvmlDeviceGetName(handle)), str(pynvml.nvmlDeviceGetUUID(handle))
    return Gpu(index, uuid, name, *(read_gpu_memory(pynvml, handle) or (None, None)))


def read_gpu_memory(pynvml: Any, handle: Any) -> tuple[int, int] | None:
    """Return total and used memory of a GPU in bytes; None if the driver does not report it.

    Version 2 of the NVML call excludes driver-reserved memory from used memory, like nvidia-smi; old drivers support
    only version 1.

    Raises:
        NVMLError: the GPU is lost, or does not respond.
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except (pynvml.NVMLError, AttributeError, TypeError) as error:
        if isinstance(error, pynvml.NVMLError) and error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError as second_error:  # GPUs that share the machine's memory do not support the call
            if second_error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:
                raise
            return None
    return (int(memory.total), int(memory.used)) if memory.total else None


def explain_nvml_error(pynvml: Any, error: Any) -> str:
    """Return the reason and the remedy for an NVML error, as one phrase."""
    reason_by_code = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated: restart the machine",
        pynvml.NVML_ERROR_NO_PERMISSION: "this user has no permission to use the NVIDIA driver",
    }
    return reason_by_code.get(error.value, f"the NVIDIA driver does not respond: {error}")
