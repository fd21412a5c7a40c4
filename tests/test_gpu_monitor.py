"""GPU readings: the possible answers of a driver, and how often it is queried."""

from fake_nvml import FakeNvml

from wantui.gpu.monitor import GpuMonitor
from wantui.tui.widgets.gpu_panel import WorkerMemory, find_worker_memory


def sampler(nvml: FakeNvml, times: list[float] | None = None) -> GpuMonitor:
    clock = iter(times) if times is not None else None
    return GpuMonitor(lambda _: None, nvml=nvml, read_clock=(lambda: next(clock)) if clock else lambda: 0.0)


def test_gpu_sample_contains_memory_load_power_and_temperature() -> None:
    gpu = sampler(FakeNvml()).read_sample().gpus[0]
    assert (gpu.name, gpu.memory_used, gpu.memory_total) == ("NVIDIA H100", 20_000_000_000, 80_000_000_000)
    assert (gpu.utilisation, gpu.power, gpu.power_limit, gpu.temperature) == (97, 412.0, 700.0, 61)
    assert not gpu.is_mig_enabled


def test_missing_driver_is_reported() -> None:
    nvml = FakeNvml(nvmlInit=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    sample = sampler(nvml).read_sample()
    assert sample.gpus == ()
    assert sample.reason == "no NVIDIA driver is installed"
    assert sample.memory_total > 0


def test_updated_driver_error_says_what_to_do() -> None:
    nvml = FakeNvml(nvmlInit=FakeNvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    assert "restart the machine" in sampler(nvml).read_sample().reason


def test_unsupported_gpu_fields_are_empty_and_others_reported() -> None:
    unsupported = FakeNvml.NVML_ERROR_NOT_SUPPORTED
    nvml = FakeNvml(
        nvmlDeviceGetUtilizationRates=unsupported,
        nvmlDeviceGetPowerUsage=unsupported,
        nvmlDeviceGetMemoryInfo=unsupported,
        nvmlDeviceGetMigMode=unsupported,
    )
    gpu = sampler(nvml).read_sample().gpus[0]
    assert (gpu.utilisation, gpu.power, gpu.memory_used) == (None, None, None)
    assert gpu.temperature == 61
    assert gpu.state == "ok"


def test_lost_gpus_stay_listed_as_lost() -> None:
    nvml = FakeNvml(gpus=2, nvmlDeviceGetMemoryInfo=FakeNvml.NVML_ERROR_GPU_IS_LOST)
    assert [gpu.state for gpu in sampler(nvml).read_sample().gpus] == ["lost", "lost"]
    nvml = FakeNvml(gpus=2, nvmlDeviceGetHandleByIndex=FakeNvml.NVML_ERROR_GPU_IS_LOST)
    assert [gpu.state for gpu in sampler(nvml).read_sample().gpus] == ["lost", "lost"]


def test_gpu_with_mig_enabled_is_marked() -> None:
    nvml = FakeNvml()
    nvml.mig_mode = (1, 1)
    assert sampler(nvml).read_sample().gpus[0].is_mig_enabled


def test_gpu_processes_are_queried_only_on_request() -> None:
    nvml = FakeNvml()
    looks = sampler(nvml)
    looks.read_sample()
    assert "nvmlDeviceGetComputeRunningProcesses" not in nvml.asked
    looks.reads_processes = True
    (process,) = looks.read_sample().gpus[0].processes
    assert process.name == "of another container or user"
    assert process.memory is None


def test_slow_gpu_fields_are_queried_less_often_than_memory() -> None:
    nvml, now = FakeNvml(), [0.0]
    looks = GpuMonitor(lambda _: None, nvml=nvml, read_clock=lambda: now[0])
    for _ in range(20):
        looks.read_sample()
        now[0] += 1.0
    assert nvml.asked["nvmlDeviceGetMemoryInfo"] == 20
    assert nvml.asked["nvmlDeviceGetPowerUsage"] == 10
    assert nvml.asked["nvmlDeviceGetTemperature"] == 4
    assert nvml.asked["nvmlInit"] == 1


def test_worker_memory_needs_all_measured_values() -> None:
    complete = {"allocated": 1, "reserved": 2, "peak": 3}
    assert find_worker_memory("gpu0:7", complete) == WorkerMemory(7, 1, 2, 3, None)
    assert find_worker_memory("gpu0:7", complete | {"predicted": 4}) == WorkerMemory(7, 1, 2, 3, 4)
    for name in complete:
        assert find_worker_memory("gpu0:7", {key: value for key, value in complete.items() if key != name}) is None
