"""A made-up NVIDIA driver."""

from types import SimpleNamespace
from typing import Any


class FakeNvml:
    """Answers as the module pynvml does. `broken` maps a function's name to the error that it raises.

    `lost` has the indices of lost GPUs, and `hidden` those of GPUs to which this process has no access.
    """

    NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIB_RM_VERSION_MISMATCH = 12, 9, 18
    NVML_ERROR_NO_PERMISSION, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_GPU_IS_LOST = 4, 3, 15
    nvmlMemory_v2 = 2  # noqa: N815 -- its name there

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"code {value}")
            self.value = value

    def __init__(
        self,
        gpus: int = 1,
        driver_version: str = "580.1",
        lost: tuple[int, ...] = (),
        hidden: tuple[int, ...] = (),
        **broken: int,
    ) -> None:
        self.lost, self.hidden = lost, hidden
        self.gpus, self.driver_version, self.broken = gpus, driver_version, broken
        self.asked: dict[str, int] = {}
        self.used = 20_000_000_000
        self.mig_mode = (0, 0)

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": self.driver_version,
            "nvmlDeviceGetCount": self.gpus,
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetName": "NVIDIA H100",
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80_000_000_000, used=self.used),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97),
            "nvmlDeviceGetPowerUsage": 412_000,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetMigMode": self.mig_mode,
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=2**22 + 5, usedGpuMemory=None)],
            "nvmlDeviceGetHandleByIndex": "handle",
        }
        if name not in answers:
            raise AttributeError(name)

        def answer(*arguments: Any, **__: Any) -> Any:
            self.asked[name] = self.asked.get(name, 0) + 1
            if name in self.broken:
                raise self.NVMLError(self.broken[name])
            if name == "nvmlDeviceGetHandleByIndex" and arguments[0] in self.lost:
                raise self.NVMLError(self.NVML_ERROR_GPU_IS_LOST)
            if name == "nvmlDeviceGetHandleByIndex" and arguments[0] in self.hidden:
                raise self.NVMLError(self.NVML_ERROR_NO_PERMISSION)
            return answers[name]

        return answer
