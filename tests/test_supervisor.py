"""The supervisor with workers that are processes of the shell: what it starts, holds, takes back and tells."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from wantui.engine import slots
from wantui.engine.slots import Slot
from wantui.engine.supervisor import Supervisor
from wantui.queue.queue import Queue
from wantui.queue.rows import NewVideo

LOG = logging.getLogger("engine")


class FailingSlot(Slot):
    """A place whose workers end at once with exit code 1."""

    starts = 0

    def start(self, state: Path, logs: Path) -> None:
        self.starts += 1
        assert self.starts < 20, "a worker is started again for ever"
        logs.mkdir(exist_ok=True)
        self.output(logs).write_text("the driver is too old\n")
        self.process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        self.signalled = set()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[FailingSlot]:
    """Places on two GPUs, where no worker works and none is waited for."""
    monkeypatch.setattr(slots, "SHORTEST_WAIT_SECONDS", 0.0)
    names = ("auto", "cuda", "cpu")
    return [FailingSlot(f"worker-{i}", (*names, f"cuda:{i}"), "cuda", {}, wait=0.0) for i in range(2)]


def add(queue: Queue, device: str, videos: int = 1) -> int:
    return queue.add(Path("/outputs") / device, device, [NewVideo(i, "red", "{}", 20) for i in range(videos)])


@pytest.mark.parametrize(("device", "tries"), [("cuda:1", [0, 3]), ("cuda:0", [3, 0])])
def test_a_broken_gpu_holds_the_queue_though_the_other_one_has_nothing_to_do(
    tmp_path: Path, two_gpus: list[FailingSlot], device: str, tries: list[int]
) -> None:
    queue = Queue(tmp_path)
    add(queue, device)
    Supervisor(queue, two_gpus, tmp_path / "logs", LOG, drain=True).run()
    held = queue.held()
    assert held is not None
    assert held.kind == "worker"
    assert "the driver is too old" in held.reason
    assert [slot.starts for slot in two_gpus] == tries


def test_a_worker_that_dies_after_another_took_the_last_video_does_not_hold_the_queue(
    tmp_path: Path, two_gpus: list[FailingSlot]
) -> None:
    queue = Queue(tmp_path)
    add(queue, "auto")
    supervisor = Supervisor(queue, two_gpus[:1], tmp_path / "logs", LOG, drain=True)
    two_gpus[0].failures = 2
    two_gpus[0].start(tmp_path, tmp_path / "logs")
    claim = queue.claim("worker-1:7", ("auto",))
    assert claim is not None
    assert two_gpus[0].process is not None
    two_gpus[0].process.wait()
    queue.done(claim)
    supervisor.run()
    assert queue.held() is None


def test_a_dead_worker_and_its_video_are_taken_back_in_one_transaction(tmp_path: Path) -> None:
    queue, other = Queue(tmp_path), Queue(tmp_path)
    add(queue, "auto")
    queue.add_worker("worker-0:7", "cpu")
    queue.claim("worker-0:7", ("auto",))
    seen: list[tuple[str, int]] = []
    queue.db.set_trace_callback(lambda _: seen.append((other.videos(1)[0].state, len(other.workers()))))
    queue.take_back("worker-0:7", "signal SIGKILL", blame=True, has_ended=True)
    queue.db.set_trace_callback(None)
    seen.append((other.videos(1)[0].state, len(other.workers())))
    assert set(seen) == {("running", 1), ("interrupted", 0)}
    assert [event.kind for event in queue.events(0)][-2:] == ["interrupted", "worker_ended"]


def test_running_videos_are_not_read_while_no_worker_has_failed(
    tmp_path: Path, two_gpus: list[FailingSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    def running(_: Queue) -> None:
        raise AssertionError("read without need")

    monkeypatch.setattr(Queue, "running", running)
    supervisor = Supervisor(Queue(tmp_path), two_gpus, tmp_path / "logs", LOG, drain=False)
    supervisor.stop()
    supervisor.run()
