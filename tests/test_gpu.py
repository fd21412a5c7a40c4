"""The GPUs for which the engine starts workers."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml

from wantui.batches import enqueue
from wantui.cli import doctor
from wantui.cli.doctor import check_driver_supports_torch
from wantui.engine.slots import create_worker_slots
from wantui.gpu.monitor import GpuMonitor
from wantui.gpu.nvml import Gpu, GpuReport, NoSuchGpuError, find_device_remarks, query_gpus, select_visible_gpus
from wantui.queue.state_dir import StateDirectory

GPUS = tuple(Gpu(i, f"GPU-{letter}0000", "H100", 80_000_000_000, 0) for i, letter in enumerate("abcd"))
INSTANCES = (Gpu(0, "MIG-e1", "H100 1g.10gb", 10_000_000_000, 0), Gpu(0, "MIG-e2", "H100 1g.10gb", 10_000_000_000, 0))
DIVIDED = (Gpu(0, "GPU-a0000", "H100", 80_000_000_000, 0, INSTANCES), *GPUS[1:])


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("GPU-b", [1]),
        ("GPU-d0000,0", [3, 0]),
        ("00,1", [0, 1]),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,-1,1", [2]),  # as CUDA does it
    ],
)
def test_visible_gpus_match_cuda(setting: str | None, chosen: list[int]) -> None:
    assert [gpu.index for gpu in select_visible_gpus(GPUS, setting)] == chosen


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("7", "7 matches no GPU; this machine has 0 (GPU-a0000), 1 "),
        ("0,7,1", "7 matches no GPU"),
        ("GPU-", "GPU- matches several GPUs"),
        ("GPU-z", "GPU-z matches no GPU"),
        ("MIG-e9", "MIG-e9 matches no GPU"),
        ("MIG-", "MIG- matches several GPUs"),
        ("cuda:0", "cuda:0 matches no GPU"),
        ("9" * 30, "matches no GPU"),
        ("0,0", "names GPU-a0000 twice"),
        ("0,GPU-a", "names GPU-a0000 twice"),
        ("MIG-e1,MIG-e1", "names MIG-e1 twice"),
    ],
)
def test_unknown_or_repeated_gpu_name_is_refused(setting: str, message: str) -> None:  # C15
    with pytest.raises(NoSuchGpuError) as refused:
        select_visible_gpus(DIVIDED, setting)
    assert message in str(refused.value)
    assert refused.value.exit_code == 3


def test_mig_instances_get_separate_workers() -> None:  # C15
    first, second = create_worker_slots(select_visible_gpus(DIVIDED, "MIG-e2,1"), None)
    assert first.added_environment == {"CUDA_VISIBLE_DEVICES": "MIG-e2"}
    assert second.added_environment == {"CUDA_VISIBLE_DEVICES": "GPU-b0000"}


@pytest.mark.parametrize(("setting", "remarks"), [("0", 1), ("MIG-e1", 1), (None, 0), ("", 0), ("-1", 0)])
def test_requested_gpus_on_a_machine_without_gpus_cause_a_note(setting: str | None, remarks: int) -> None:
    # C15
    report = GpuReport((), None, "no NVIDIA driver")
    assert select_visible_gpus((), setting) == []
    assert len(find_device_remarks(report, setting)) == remarks
    assert find_device_remarks(GpuReport(GPUS, "580", None), setting) == []


def test_lost_gpu_hides_no_other_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(gpus=3, lost=(1,))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    report = query_gpus()
    assert [(gpu.index, gpu.fault) for gpu in report.gpus] == [(0, ""), (1, "code 15"), (2, "")]
    assert report.reason is None
    assert find_device_remarks(report, None) == report.unusable == ["GPU 1 cannot be used: code 15"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    finding = next(doctor._check_gpus(None))
    assert (finding.state, finding.result) == ("problem", "GPU 1 cannot be used: code 15")


LOST_FIRST = (replace(GPUS[0], uuid="", name="GPU 0", fault="code 15"), *GPUS[1:3])


@pytest.mark.parametrize(
    ("setting", "uuid_by_device"),
    [
        (None, {"cuda:1": "GPU-b0000", "cuda:2": "GPU-c0000"}),
        ("0,1,2", {"cuda:1": "GPU-b0000", "cuda:2": "GPU-c0000"}),
        ("2,0,1", {"cuda:0": "GPU-c0000", "cuda:2": "GPU-b0000"}),
    ],
)
def test_lost_gpu_keeps_its_number_and_gets_no_worker(setting: str | None, uuid_by_device: dict[str, str]) -> None:
    slots = create_worker_slots(select_visible_gpus(LOST_FIRST, setting), None)
    assert {slot.served_devices[-1]: slot.added_environment["CUDA_VISIBLE_DEVICES"] for slot in slots} == uuid_by_device
    assert [slot.name for slot in slots] == [f"worker-{name.removeprefix('cuda:')}" for name in uuid_by_device]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "0",
            "CUDA_VISIBLE_DEVICES=0 selects no usable GPU; this machine has 0 (cannot be used: code 15), 1 (GPU-b0000)",
        ),
        ("0,1,0", "CUDA_VISIBLE_DEVICES=0,1,0 names GPU 0 twice"),
        ("GPU-a,1", "GPU-a matches no GPU; this machine has 0 (cannot be used: code 15), 1 (GPU-b0000)"),
    ],
)
def test_refusal_of_a_selection_names_the_lost_gpu(setting: str, message: str) -> None:
    with pytest.raises(NoSuchGpuError) as refused:
        select_visible_gpus(LOST_FIRST, setting)
    assert message in str(refused.value)


def test_batch_for_a_lost_gpu_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GpuReport(LOST_FIRST, "580", None))
    state_dir = StateDirectory(tmp_path)
    enqueue.check_device_exists(state_dir, "cuda:2")
    with pytest.raises(enqueue.UnknownDeviceError, match=r"cuda:0: .*GPU 0 cannot be used: code 15"):
        enqueue.check_device_exists(state_dir, "cuda:0")
    assert [gpu.index for gpu in enqueue._list_device_gpus(state_dir, "cuda:2")] == [2]


def test_gpus_of_other_jobs_are_neither_listed_nor_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml: Any = FakeNvml(gpus=4, hidden=(0, 2))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    report = query_gpus()
    assert ([gpu.index for gpu in report.gpus], report.unusable) == ([0, 1], [])
    sample = GpuMonitor(lambda _: None, nvml=nvml).read_sample()
    assert [(gpu.index, gpu.state) for gpu in sample.gpus] == [(0, "ok"), (1, "ok")]
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus=2, hidden=(0, 1)))
    assert query_gpus().reason == "the driver finds no GPU"


def test_machine_with_only_lost_gpus_reports_that_videos_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(lost=(0,)))
    report = query_gpus()
    assert report.reason == "GPU 0 cannot be used: code 15"
    assert [slot.torch_device for slot in create_worker_slots(select_visible_gpus(report.gpus, "0"), None)] == ["cpu"]
    assert find_device_remarks(report, None) == ["GPU 0 cannot be used: code 15: videos run on the CPU"]
    assert find_device_remarks(report, "") == []


def test_each_gpu_gets_a_worker_that_sees_only_that_gpu() -> None:
    first, second = create_worker_slots(select_visible_gpus(GPUS, "3,1"), None)
    assert first.added_environment == {"CUDA_VISIBLE_DEVICES": "GPU-d0000"}
    assert set(first.served_devices) == {"auto", "cuda", "cpu", "cuda:0"}
    assert second.added_environment == {"CUDA_VISIBLE_DEVICES": "GPU-b0000"}
    assert "cuda:1" in second.served_devices
    assert (first.torch_device, second.torch_device) == ("cuda", "cuda")


def test_cpu_machine_has_one_worker_unless_more_are_requested() -> None:
    assert [slot.served_devices for slot in create_worker_slots((), None)] == [("auto", "cpu")]
    assert [slot.torch_device for slot in create_worker_slots(GPUS, 3)] == ["cpu"] * 3


@pytest.mark.parametrize(
    ("torch_version", "driver", "state", "message"),
    [
        ("2.13.0+cpu", "580.1", "problem", "is a CPU build"),
        ("2.11.0+cu130", "550.54", "problem", "needs driver 580 or newer, but 550.54 is installed"),
        ("2.11.0+cu130", "580.95.05", "ok", "supports it"),
        ("2.6.0+cu124", "525.60", "ok", "supports it"),
        ("2.6.0+cu118", "440.33", "problem", "needs driver 450"),
        ("2.13.0", "580.1", "ok", "torch 2.13.0"),
    ],
)
def test_doctor_reports_a_torch_that_does_not_fit_the_driver(
    torch_version: str, driver: str, state: str, message: str
) -> None:
    result = check_driver_supports_torch(torch_version, driver)
    assert result.state == state
    assert message in result.result
    assert bool(result.advice) == (state == "problem")


def test_doctor_names_processes_that_use_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(doctor, "_check_torch_uses_gpu", lambda: iter(()))
    result = list(doctor._check_gpus("2.13.0+cu130"))
    assert result[0].result.startswith("NVIDIA H100, 60.0 GB of 80.0 GB free, driver 580.1")
    assert any("process 4194309" in one.result for one in result)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("setting", "program", "results"),
    [
        (
            None,
            "raise RuntimeError('Error 802: not initialized')",
            ["torch cannot use the GPUs: RuntimeError"],
        ),
        (None, "", []),
        ("", "raise RuntimeError('no GPU is selected')", []),
    ],
)
def test_doctor_reports_gpus_that_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, program: str, results: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(doctor, "build_python_command", lambda *_: [sys.executable, "-S", "-c", program])
    problems = [finding for finding in doctor._check_gpus("2.13.0+cu130") if finding.result.startswith("torch cannot")]
    assert [finding.result.rpartition(": Error")[0] for finding in problems] == results
    assert all("Error 802" in finding.result for finding in problems)


def test_gpu_without_memory_report_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml(nvmlDeviceGetMemoryInfo=FakeNvml.NVML_ERROR_NOT_SUPPORTED)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (gpu,) = query_gpus().gpus
    assert (gpu.name, gpu.total_bytes, gpu.used_bytes) == ("NVIDIA H100", None, None)
    assert gpu.compute_capability == (9, 0)
    assert next(doctor._check_gpus(None)).result.startswith(
        "NVIDIA H100, memory not reported by the driver, driver 580.1"
    )


def test_gpu_query_and_monitor_give_the_same_reason_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml: Any = FakeNvml(nvmlInit=FakeNvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert query_gpus().reason == GpuMonitor(lambda _: None, nvml=nvml).read_sample().reason
