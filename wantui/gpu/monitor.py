"""Monitor of the GPUs and the machine: queries once a second, on one thread, and each field only as often as it is
worth.

NVML takes the driver's global lock, so that asking too often slows what is being computed: memory and utilisation are
read every second, power every two, temperature every five, processes every five and only while somebody looks.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from wantui.gpu.nvml import read_memory, unavailable_reason

POWER_SECONDS, TEMPERATURE_SECONDS, PROCESS_SECONDS, RETRY_SECONDS = 2.0, 5.0, 5.0, 10.0


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    process: int
    name: str
    memory: int | None
    """Bytes; None if the driver does not report them."""


@dataclass(frozen=True)
class GpuState:
    """State of one GPU at one moment; None for a field that this GPU or driver does not report."""

    index: int
    uuid: str
    name: str
    state: Literal["ok", "lost", "unreadable"] = "ok"
    reason: str = ""
    """Reason for a state that is not ok."""
    memory_total: int | None = None
    memory_used: int | None = None
    utilisation: int | None = None
    """Percent."""
    power: float | None = None
    power_limit: float | None = None
    """Watts."""
    temperature: int | None = None
    """Degrees Celsius."""
    mig: bool = False
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class GpuSample:
    """All GPUs, and the machine, at one moment. Memory in bytes."""

    time: float
    gpus: tuple[GpuState, ...]
    reason: str
    """Reason why there is no GPU; empty if there is one."""
    driver: str
    memory_total: int
    memory_used: int
    cpu: float
    """Percent of all cores."""


class GpuMonitor(threading.Thread):
    """Thread that passes a `GpuSample` to `publish` at every interval, until it is stopped.

    Args:
        nvml: the module pynvml, or something that answers as it does.
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
        self.processes_wanted = False
        self._nvml = nvml
        self._ready, self._why, self._driver = False, "starting", ""
        self._tried = -RETRY_SECONDS
        self._slow: dict[tuple[int, str], tuple[float, Any]] = {}
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        import psutil

        psutil.cpu_percent()
        while not self._ended.is_set():
            try:
                self.publish(self.sample())
            except (OSError, psutil.Error):  # of the machine, not of a GPU; the next look may find it
                pass
            self._ended.wait(self.interval)

    def sample(self) -> GpuSample:
        """Look once."""
        import psutil

        memory = psutil.virtual_memory()
        gpus = self._gpus()
        why = "" if gpus else self._why
        used = memory.total - memory.available
        return GpuSample(time.time(), gpus, why, self._driver, memory.total, used, psutil.cpu_percent())

    def _gpus(self) -> tuple[GpuState, ...]:
        if not self._ready and not self._begin():
            return ()
        nvml = self._nvml
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            self._ready, self._why = False, f"the driver does not answer any more: {error}"
            return ()
        if count == 0:
            self._why = "the driver sees no GPU"
        return tuple(self._gpu(index) for index in range(count))

    def _begin(self) -> bool:
        now = self.clock()
        if now - self._tried < RETRY_SECONDS:
            return False
        self._tried = now
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            self._driver = str(nvml.nvmlSystemGetDriverVersion())
            self._ready = True
        except nvml.NVMLError as error:
            self._why = unavailable_reason(nvml, error)
        return self._ready

    def _gpu(self, index: int) -> GpuState:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu = GpuState(index, str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle)))
        except (nvml.NVMLError, UnicodeDecodeError) as error:
            lost = isinstance(error, nvml.NVMLError) and error.value == nvml.NVML_ERROR_GPU_IS_LOST
            return GpuState(index, "", f"GPU {index}", "lost" if lost else "unreadable", str(error))
        try:
            memory = self._ask(lambda: read_memory(nvml, handle))
            utilisation = self._ask(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            power = self._slowly(index, "power", POWER_SECONDS, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
            limit = self._slowly(index, "limit", 60.0, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000)
            temperature = self._slowly(
                index, "heat", TEMPERATURE_SECONDS, lambda: int(nvml.nvmlDeviceGetTemperature(handle, 0))
            )
            mig = self._slowly(index, "mig", 60.0, lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]))
            processes = (
                self._slowly(index, "processes", PROCESS_SECONDS, lambda: self._processes(handle))
                if self.processes_wanted
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
            mig=bool(mig),
            processes=processes or (),
        )

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        import psutil

        processes = []
        for entry in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            try:
                name = psutil.Process(entry.pid).name()
            except psutil.Error:
                name = "of another container or user"
            processes.append(GpuProcess(int(entry.pid), name, entry.usedGpuMemory))
        return tuple(processes)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Return the answer, or None if this GPU or driver has none; a lost GPU raises."""
        nvml = self._nvml
        try:
            return question()
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            return None
        except (UnicodeDecodeError, AttributeError):
            return None

    def _slowly(self, index: int, name: str, seconds: float, question: Callable[[], Any]) -> Any:
        now = self.clock()
        asked, answer = self._slow.get((index, name), (-1e9, None))
        if now - asked >= seconds:
            answer = self._ask(question)
            self._slow[index, name] = now, answer
        return answer
