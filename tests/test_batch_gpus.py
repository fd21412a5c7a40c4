"""The GPUs whose time and memory are predicted for a batch."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from gpu_samples import make_gpu_sample

from wantui.batches import cell_cost
from wantui.batches.batch_gpus import choose_device_gpus, keep_batch_gpus, read_visible_devices
from wantui.batches.cell_cost import estimate_cell_costs, list_free_gpu_bytes
from wantui.config import load_config
from wantui.engine.control import acquire_engine_lock
from wantui.gpu.monitor import GpuState
from wantui.gpu.nvml import Gpu
from wantui.planning import preview_batch

GB = 10**9
STATES = tuple(
    GpuState(index, f"GPU-{letter}", name, memory_total=total * GB, memory_used=0)
    for index, (letter, name, total) in enumerate([("a", "A100", 40), ("b", "H100", 80), ("c", "H200", 141)])
)


@pytest.mark.parametrize(
    ("visible_devices", "device", "indices"),
    [
        (None, "auto", [0, 1, 2]),
        ("2,0", "cuda", [2, 0]),
        ("2,0", "cuda:1", [0]),
        ("GPU-b", "auto", [1]),
        ("0", "cuda:1", []),
        ("", "auto", []),
        ("9", "auto", [0, 1, 2]),  # a new batch is refused
    ],
)
def test_costs_are_predicted_for_the_gpus_that_serve_the_batch(
    visible_devices: str | None, device: str, indices: list[int]
) -> None:
    sample = keep_batch_gpus(make_gpu_sample(*STATES), visible_devices, device)
    assert [state.index for state in sample.gpus] == indices
    gpus = [Gpu(state.index, state.uuid, state.name, None, None) for state in STATES]
    assert [gpu.index for gpu in choose_device_gpus(gpus, visible_devices, device)] == indices


def test_time_and_memory_are_predicted_for_the_gpu_with_the_most_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    monkeypatch.setattr(cell_cost, "load_throughput", lambda _directory, gpu_name, *_: names.append(gpu_name))
    preview = preview_batch(load_config("wan_14b_optimized"), "a circle")
    unknown = replace(STATES[1], index=3, uuid="GPU-d", memory_total=None)
    (cost,) = estimate_cell_costs(preview, [], make_gpu_sample(unknown, *STATES), tmp_path)
    assert names == ["H200"]
    assert cost.chosen_plan is not None
    assert cost.chosen_plan.reason.endswith("141 GB are free")


def test_lost_gpu_serves_no_batch() -> None:
    sample = make_gpu_sample(replace(STATES[0], state="lost"), STATES[1])
    assert keep_batch_gpus(sample, None, "auto").gpus == STATES[1:2]


@pytest.mark.parametrize(("device", "indices"), [("auto", [1, 2]), ("cuda:0", []), ("cuda:1", [1])])
@pytest.mark.parametrize("visible_devices", [None, "0,1,2"])
def test_lost_gpu_does_not_renumber_the_others(visible_devices: str | None, device: str, indices: list[int]) -> None:
    sample = make_gpu_sample(replace(STATES[0], uuid="", state="lost"), *STATES[1:])
    assert [state.index for state in keep_batch_gpus(sample, visible_devices, device).gpus] == indices
    gpus = [Gpu(0, "", "GPU 0", None, None, fault="lost")]
    gpus += [Gpu(state.index, state.uuid, state.name, None, None) for state in STATES[1:]]
    assert [gpu.index for gpu in choose_device_gpus(gpus, visible_devices, device)] == indices


@pytest.mark.parametrize(("is_mig_enabled", "visible_devices"), [(True, None), (False, "MIG-1"), (True, "MIG-1")])
def test_free_memory_of_a_mig_instance_is_unknown(is_mig_enabled: bool, visible_devices: str | None) -> None:
    sample = make_gpu_sample(replace(STATES[1], is_mig_enabled=is_mig_enabled))
    (state,) = keep_batch_gpus(sample, visible_devices, "auto").gpus
    assert list_free_gpu_bytes([state]) == []


def test_variable_of_the_running_engine_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert read_visible_devices(None) == read_visible_devices(tmp_path) == "7"
    descriptor = acquire_engine_lock(tmp_path)
    assert descriptor is not None
    try:
        for value in ("1", None):
            info = json.dumps({"environment": {"CUDA_VISIBLE_DEVICES": value}}).encode()
            os.pwrite(descriptor, info, 0)
            os.ftruncate(descriptor, len(info))
            assert read_visible_devices(tmp_path) == value
    finally:
        os.close(descriptor)
