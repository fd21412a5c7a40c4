"""Background thread that samples the GPUs and the machine once a second.

NVML takes the driver's global lock, so that frequent queries slow down computation: memory and utilisation are read
every second, power every two, temperature every five, and processes every five and only if requested.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from wantui.gpu.nvml import explain_unavailable, read_memory

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
    """Thread that passes a `GpuSample` to `publish` at every interval, until `stop`.

    Args:
        interval: seconds.
        nvml: the module pynvml, or a substitute with the same functions.
        clock: monotonic clock, seconds.
    """

    def __init__(
        self,
        publish: Callable[[GpuSample], None],
        interval: float = 1.0,
        nvml: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="gpu sampler", daemon=True)
        self.publish, self.interval, self.clock = publish, interval, clock
        self.reads_processes = False
        """True to include the processes of each GPU in the samples."""
        self._nvml = nvml
        self._ready, self._reason, self._driver = False, "starting", ""
        self._last_try = -RETRY_SECONDS
        self._cached_answers: dict[tuple[int, str], tuple[float, Any]] = {}
        self._stop_requested = threading.Event()

    def stop(self) -> None:
        self._stop_requested.set()

    def run(self) -> None:
        import psutil

        psutil.cpu_percent()
        while not self._stop_requested.is_set():
            try:
                self.publish(self.take_sample())
            except (OSError, psutil.Error):  # the machine's state cannot be read now; try again at the next interval
                pass
            self._stop_requested.wait(self.interval)

    def take_sample(self) -> GpuSample:
        """Read the state of the GPUs and the machine once."""
        import psutil

        memory = psutil.virtual_memory()
        gpus = self._read_gpus()
        why = "" if gpus else self._reason
        used = memory.total - memory.available
        return GpuSample(time.time(), gpus, why, self._driver, memory.total, used, psutil.cpu_percent())

    def _read_gpus(self) -> tuple[GpuState, ...]:
        if not self._ready and not self._init_nvml():
            return ()
        nvml = self._nvml
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            self._ready, self._reason = False, f"the driver stopped responding: {error}"
            return ()
        if count == 0:
            self._reason = "the driver sees no GPU"
        return tuple(self._read_gpu(index) for index in range(count))

    def _init_nvml(self) -> bool:
        now = self.clock()
        if now - self._last_try < RETRY_SECONDS:
            return False
        self._last_try = now
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            self._driver = str(nvml.nvmlSystemGetDriverVersion())
            self._ready = True
        except nvml.NVMLError as error:
            self._reason = explain_unavailable(nvml, error)
        return self._ready

    def _read_gpu(self, index: int) -> GpuState:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu = GpuState(index, str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle)))
        except (nvml.NVMLError, UnicodeDecodeError) as error:
            lost = isinstance(error, nvml.NVMLError) and error.value == nvml.NVML_ERROR_GPU_IS_LOST
            return GpuState(index, "", f"GPU {index}", "lost" if lost else "unreadable", str(error))
        try:
            memory = self._query(lambda: read_memory(nvml, handle))
            utilisation = self._query(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            power = self._query_every(
                index, "power", POWER_SECONDS, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            )
            limit = self._query_every(index, "limit", 60.0, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000)
            temperature = self._query_every(
                index, "heat", TEMPERATURE_SECONDS, lambda: int(nvml.nvmlDeviceGetTemperature(handle, 0))
            )
            is_mig_enabled = self._query_every(index, "mig", 60.0, lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]))
            processes = (
                self._query_every(index, "processes", PROCESS_SECONDS, lambda: self._read_processes(handle))
                if self.reads_processes
                else ()
            )
        except nvml.NVMLError as error:
            state: Literal["lost", "unreadable"] = (
                "lost" if error.value == nvml.NVML_ERROR_GPU_IS_LOST else "unreadable"
            )
            return replace(gpu, state=state, reason=str(error))
        total, used = memory or (None, None)
        return replace(
            gpu,
            memory_total=total,
            memory_used=used,
            utilisation=utilisation,
            power=power,
            power_limit=limit,
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

    def _query(self, query: Callable[[], Any]) -> Any:
        """Return the result of an NVML query, or None if the GPU or driver does not support it.

        Raises:
            NVMLError: the GPU is lost.
        """
        nvml = self._nvml
        try:
            return query()
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            return None
        except (UnicodeDecodeError, AttributeError):
            return None

    def _query_every(self, index: int, name: str, seconds: float, query: Callable[[], Any]) -> Any:
        """Return the latest result of a GPU's query, and repeat the query if that result is older than `seconds`."""
        now = self.clock()
        queried_at, answer = self._cached_answers.get((index, name), (-1e9, None))
        if now - queried_at >= seconds:
            answer = self._query(query)
            self._cached_answers[index, name] = now, answer
        return answer
