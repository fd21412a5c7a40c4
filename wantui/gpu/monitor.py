"""Background thread that samples the GPUs and the machine once a second.

NVML takes the driver's global lock, so frequent queries slow down computation: memory and utilisation are read
every second, power every two, temperature every five, and processes every five and only if requested.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from wantui.gpu.nvml import explain_nvml_error, list_device_indices, read_gpu_memory

POWER_SECONDS, TEMPERATURE_SECONDS, PROCESS_SECONDS, RETRY_SECONDS = 2.0, 5.0, 5.0, 10.0
"""Seconds between two queries of each field, and between two attempts to initialise NVML."""


@dataclass(frozen=True)
class GpuProcess:
    """A process that uses GPU memory."""

    process: int
    name: str
    memory: int | None
    """Bytes; None if the driver does not report them."""


@dataclass(frozen=True)
class GpuState:
    """State of one GPU at one moment; None for a field that the GPU or driver does not report."""

    index: int
    uuid: str
    name: str
    state: Literal["ok", "lost", "unreadable"] = "ok"
    reason: str = ""
    """Reason for a state other than ok."""
    memory_total: int | None = None
    """Bytes."""
    memory_used: int | None = None
    """Bytes."""
    utilisation: int | None = None
    """Percent."""
    power: float | None = None
    """Watts."""
    power_limit: float | None = None
    """Watts."""
    temperature: int | None = None
    """Degrees Celsius."""
    is_mig_enabled: bool = False
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class GpuSample:
    """State of all GPUs and of the machine at one moment; memory in bytes."""

    time: float
    """Seconds since 1970."""
    gpus: tuple[GpuState, ...]
    reason: str
    """Reason for the absence of GPUs; empty if there is a GPU."""
    driver: str
    """Driver version."""
    memory_total: int
    memory_used: int
    cpu: float
    """Percent of all cores."""


class GpuMonitor(threading.Thread):
    """Thread that passes a `GpuSample` to `publish_sample` at every interval, until `stop`.

    Args:
        interval_seconds: seconds.
        nvml: the module pynvml, or a substitute with the same functions.
        read_clock: monotonic clock, seconds.
    """

    def __init__(
        self,
        publish_sample: Callable[[GpuSample], None],
        interval_seconds: float = 1.0,
        nvml: Any = None,
        read_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="gpu sampler", daemon=True)
        self.publish_sample, self.interval_seconds, self.read_clock = publish_sample, interval_seconds, read_clock
        self.reads_processes = False
        """True to include the processes of each GPU in the samples."""
        self._nvml = nvml
        self._is_initialised, self._unavailable_reason, self._driver_version = False, "starting", ""
        self._last_attempt_seconds = -RETRY_SECONDS
        self._cached_answers: dict[tuple[int, str], tuple[float, Any]] = {}
        self._stop_requested = threading.Event()

    def stop(self) -> None:
        self._stop_requested.set()

    def run(self) -> None:
        import psutil

        psutil.cpu_percent()
        while not self._stop_requested.is_set():
            try:
                self.publish_sample(self.read_sample())
            except (OSError, psutil.Error):  # the machine's state cannot be read now; try again at the next interval
                pass
            self._stop_requested.wait(self.interval_seconds)

    def read_sample(self) -> GpuSample:
        """Read the state of the GPUs and the machine once."""
        import psutil

        memory = psutil.virtual_memory()
        gpus = self._read_gpus()
        reason = "" if gpus else self._unavailable_reason
        used_bytes = memory.total - memory.available
        return GpuSample(
            time.time(), gpus, reason, self._driver_version, memory.total, used_bytes, psutil.cpu_percent()
        )

    def _read_gpus(self) -> tuple[GpuState, ...]:
        if not self._is_initialised and not self._initialise_nvml():
            return ()
        nvml = self._nvml
        try:
            device_indices = list_device_indices(nvml)
        except nvml.NVMLError as error:
            self._is_initialised, self._unavailable_reason = False, f"the driver stopped responding: {error}"
            return ()
        if not device_indices:
            self._unavailable_reason = "the driver finds no GPU"
        return tuple(self._read_gpu(device_index, number) for number, device_index in enumerate(device_indices))

    def _initialise_nvml(self) -> bool:
        now_seconds = self.read_clock()
        if now_seconds - self._last_attempt_seconds < RETRY_SECONDS:
            return False
        self._last_attempt_seconds = now_seconds
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            self._driver_version = str(nvml.nvmlSystemGetDriverVersion())
            self._is_initialised = True
        except nvml.NVMLError as error:
            self._unavailable_reason = explain_nvml_error(nvml, error)
        return self._is_initialised

    def _read_gpu(self, device_index: int, index: int) -> GpuState:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(device_index)
            gpu = GpuState(index, str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle)))
        except (nvml.NVMLError, UnicodeDecodeError) as error:
            is_lost = isinstance(error, nvml.NVMLError) and error.value == nvml.NVML_ERROR_GPU_IS_LOST
            return GpuState(index, "", f"GPU {index}", "lost" if is_lost else "unreadable", str(error))
        try:
            memory = self._query_nvml(lambda: read_gpu_memory(nvml, handle))
            utilisation = self._query_nvml(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            power = self._query_nvml_cached(
                index, "power", POWER_SECONDS, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            )
            power_limit = self._query_nvml_cached(
                index, "limit", 60.0, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            )
            temperature = self._query_nvml_cached(
                index, "heat", TEMPERATURE_SECONDS, lambda: int(nvml.nvmlDeviceGetTemperature(handle, 0))
            )
            is_mig_enabled = self._query_nvml_cached(
                index, "mig", 60.0, lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0])
            )
            processes = (
                self._query_nvml_cached(index, "processes", PROCESS_SECONDS, lambda: self._read_processes(handle))
                if self.reads_processes
                else ()
            )
        except nvml.NVMLError as error:
            state: Literal["lost", "unreadable"] = (
                "lost" if error.value == nvml.NVML_ERROR_GPU_IS_LOST else "unreadable"
            )
            return replace(gpu, state=state, reason=str(error))
        total_bytes, used_bytes = memory or (None, None)
        return replace(
            gpu,
            memory_total=total_bytes,
            memory_used=used_bytes,
            utilisation=utilisation,
            power=power,
            power_limit=power_limit,
            temperature=temperature,
            is_mig_enabled=bool(is_mig_enabled),
            processes=processes or (),
        )

    def _read_processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        import psutil

        processes = []
        for entry in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            try:
                name = psutil.Process(entry.pid).name()
            except psutil.Error:
                name = "of another container or user"
            processes.append(GpuProcess(int(entry.pid), name, entry.usedGpuMemory))
        return tuple(processes)

    def _query_nvml(self, run_query: Callable[[], Any]) -> Any:
        """Return the result of an NVML query, or None if the GPU or driver does not support it.

        Raises:
            NVMLError: the GPU is lost.
        """
        nvml = self._nvml
        try:
            return run_query()
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            return None
        except (UnicodeDecodeError, AttributeError):
            return None

    def _query_nvml_cached(
        self, index: int, field_name: str, max_age_seconds: float, run_query: Callable[[], Any]
    ) -> Any:
        """Return the cached result of a GPU query; repeat the query if the result is older than `max_age_seconds`."""
        now_seconds = self.read_clock()
        queried_seconds, answer = self._cached_answers.get((index, field_name), (-1e9, None))
        if now_seconds - queried_seconds >= max_age_seconds:
            answer = self._query_nvml(run_query)
            self._cached_answers[index, field_name] = now_seconds, answer
        return answer
