"""The start of a worker process: the devices that it serves."""

from pathlib import Path

import pytest
import torch

from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.worker.process import choose_served_devices

pytestmark = pytest.mark.torch

SERVED = ["auto", "cuda", "cpu", "cuda:0"]


def lose_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch be a build for CUDA that cannot use the GPU of this process."""

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old.\nUpdate it")

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)


def add_batch(queue: Queue, device: str) -> None:
    folder = queue.path.parent / f"batch-{device}"
    folder.mkdir()
    queue.add_batch(folder, device, [NewVideo(0, "a", "{}", 1)], True, 1)


def test_worker_whose_gpu_is_lost_renders_no_video_on_the_cpu_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_gpu(monkeypatch)
    with Queue(tmp_path) as queue:
        add_batch(queue, "auto")
        with pytest.raises(
            SystemExit, match=r"cannot use the GPU of this worker \(The NVIDIA driver on your system is"
        ):
            choose_served_devices("cuda", SERVED, queue)
        assert choose_served_devices("cpu", ["auto", "cpu"], queue) == ["auto", "cpu"]
        add_batch(queue, "cpu")
        assert choose_served_devices("cuda", SERVED, queue) == ["cpu"]


@pytest.mark.parametrize("is_built", [False, True], ids=["torch for CPUs", "usable GPU"])
def test_worker_serves_all_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_built: bool) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: is_built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_built)
    with Queue(tmp_path) as queue:
        assert choose_served_devices("cuda", SERVED, queue) == SERVED
