"""Which GPUs the engine gives workers to."""

import pytest

from wantui.engine.supervisor import slots_for
from wantui.gpu.nvml import Gpu, visible

GPUS = tuple(Gpu(i, f"GPU-{letter}0000", "H100", 80_000_000_000, 0) for i, letter in enumerate("abcd"))


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("GPU-b", [1]),
        ("GPU-d0000,0", [3, 0]),
        ("0,7,1", [0]),  # as CUDA does it: what follows a GPU that is not there is not seen
        ("-1", []),
    ],
)
def test_the_visible_gpus_are_those_that_cuda_would_show(setting: str | None, chosen: list[int]) -> None:
    assert [gpu.index for gpu in visible(GPUS, setting)] == chosen


def test_each_gpu_gets_a_worker_that_sees_it_alone_and_answers_to_its_place() -> None:
    first, second = slots_for(visible(GPUS, "3,1"), None)
    assert first.environment == {"CUDA_VISIBLE_DEVICES": "GPU-d0000"}
    assert set(first.devices) == {"auto", "cuda", "cpu", "cuda:0"}
    assert second.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b0000"}
    assert "cuda:1" in second.devices
    assert (first.device, second.device) == ("cuda", "cuda")


def test_without_a_gpu_there_is_one_worker_on_the_cpu_and_more_when_asked_for() -> None:
    assert [slot.devices for slot in slots_for((), None)] == [("auto", "cpu")]
    assert [slot.device for slot in slots_for(GPUS, 3)] == ["cpu"] * 3
