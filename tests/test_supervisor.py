"""The supervisor with shell processes as workers: what it starts, puts on hold, reclaims and reports."""

import errno
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from clip_batches import write_clip_batch
from queue_errors import make_lock_error

from wantui.batches import enqueue
from wantui.engine import process, slots, supervisor
from wantui.engine.control import NoEngineError, acquire_engine_lock, ensure_engine, find_engine_process_id
from wantui.engine.hold_recovery import CHECK_BY_HOLD_KIND
from wantui.engine.notices import BatchEnd
from wantui.engine.process import run_engine
from wantui.engine.slots import WorkerSlot
from wantui.engine.stop_requests import StopRequestCounter
from wantui.engine.supervisor import SUPERVISION_INTERVAL_SECONDS, Supervisor
from wantui.errors import UserError
from wantui.gpu.nvml import Gpu, GpuReport, NoSuchGpuError
from wantui.queue.engine_lock import ENGINE_LOCK_FILE
from wantui.queue.events import VideoInterrupted
from wantui.queue.queue import Queue
from wantui.queue.records import TEMPORARY_HOLD_KINDS, NewVideo
from wantui.queue.state_dir import StateDirectory
from wantui.stop_signals import STOP_SIGNALS
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import lock_manifest
from wantui.storage.manifest import read_manifest
from wantui.storage.manifest_store import ManifestStore

LOG = logging.getLogger("engine")


class FailingSlot(WorkerSlot):
    """A place whose workers end at once: with exit code 1, or without output by a signal."""

    starts = 0
    signal_number = 0

    def start_process(self, state_directory: Path, logs_folder: Path) -> None:
        self.starts += 1
        assert self.starts < 20, "a worker is started again for ever"
        logs_folder.mkdir(exist_ok=True)
        self.find_output_path(logs_folder).write_text("" if self.signal_number else "the driver is too old\n")
        end = f"os.kill(os.getpid(), {self.signal_number})" if self.signal_number else "os._exit(1)"
        self.process = subprocess.Popen([sys.executable, "-S", "-c", f"import os; {end}"])
        self.sent_signals = set()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[FailingSlot]:
    """Places on two GPUs, where no worker works and none is waited for."""
    monkeypatch.setattr(slots, "MIN_RESTART_DELAY_SECONDS", 0.0)
    names = ("auto", "cuda", "cpu")
    return [FailingSlot(f"worker-{i}", (*names, f"cuda:{i}"), "cuda", {}, restart_delay_seconds=0.0) for i in range(2)]


def add(queue: Queue, device: str, videos: int = 1) -> int:
    return queue.add_batch(Path("/outputs") / device, device, [NewVideo(i, "red", "{}", 20) for i in range(videos)])


@pytest.mark.processes
@pytest.mark.parametrize(("device", "tries"), [("cuda:1", [0, 3]), ("cuda:0", [3, 0])])
def test_failing_gpu_holds_the_queue_while_the_other_gpu_is_idle(
    tmp_path: Path, two_gpus: list[FailingSlot], device: str, tries: list[int]
) -> None:
    queue = Queue(tmp_path)
    add(queue, device)
    Supervisor(queue, two_gpus, tmp_path / "logs", LOG, ends_when_idle=True).run()
    held = queue.read_hold()
    assert held is not None
    assert held.kind == "worker"
    assert "the driver is too old" in held.reason
    assert [slot.starts for slot in two_gpus] == tries


@pytest.mark.processes
@pytest.mark.parametrize(
    ("signal_number", "name", "advice"),
    [
        (signal.SIGKILL, "signal SIGKILL: ", "the system perhaps ran out of memory"),
        (signal.SIGSEGV, "signal SIGSEGV: ", "wantui doctor --full"),
        (signal.SIGILL, "signal SIGILL: ", "a build for this CPU"),
        (signal.SIGRTMIN + 5, f"signal {signal.SIGRTMIN + 5}; see ", ""),  # Python has no name for it
    ],
)
def test_workers_killed_by_a_signal_hold_the_queue_with_its_likely_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_number: int, name: str, advice: str
) -> None:
    monkeypatch.setattr(slots, "MIN_RESTART_DELAY_SECONDS", 0.0)
    slot = FailingSlot("worker-0", ("auto", "cpu"), "cpu", {}, restart_delay_seconds=0.0)
    slot.signal_number = signal_number
    queue = Queue(tmp_path)
    add(queue, "auto")
    Supervisor(queue, [slot], tmp_path / "logs", LOG, ends_when_idle=True).run()
    held = queue.read_hold()
    assert held is not None
    assert held.reason.startswith(f"no worker can start (3 tries): {name}")
    assert advice in held.reason
    assert "printed nothing" not in held.reason


def test_worker_output_that_cannot_be_written_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    slot = WorkerSlot("worker-0", ("auto", "cpu"), "cpu", {})
    slot.find_output_path(tmp_path).touch()
    assert slot.read_last_output_line(tmp_path) == "(it printed nothing)"
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert slot.read_last_output_line(tmp_path) == (
        f"(cannot write its output to {tmp_path / 'worker-0.out'}: No space left on device. "
        "Free disk space, or make the folder writable)"
    )


@pytest.mark.processes
def test_worker_failure_does_not_hold_a_finished_queue(tmp_path: Path, two_gpus: list[FailingSlot]) -> None:
    queue = Queue(tmp_path)
    add(queue, "auto")
    engine = Supervisor(queue, two_gpus[:1], tmp_path / "logs", LOG, ends_when_idle=True)
    two_gpus[0].consecutive_failures = 2
    two_gpus[0].start_process(tmp_path, tmp_path / "logs")
    claim = queue.claim_next_video("worker-1:7", ("auto",))
    assert claim is not None
    assert two_gpus[0].process is not None
    two_gpus[0].process.wait()
    queue.record_done(claim)
    engine.run()
    assert queue.read_hold() is None


@pytest.mark.processes
@pytest.mark.parametrize("is_stopped_by_engine", [False, True])
def test_next_tick_interrupts_the_video_of_a_dead_worker(
    tmp_path: Path, two_gpus: list[FailingSlot], is_stopped_by_engine: bool
) -> None:
    queue = Queue(tmp_path)
    add(queue, "auto")
    engine, slot = Supervisor(queue, two_gpus[:1], tmp_path / "logs", LOG, ends_when_idle=False), two_gpus[0]
    slot.start_process(tmp_path, tmp_path / "logs")
    worker_name = slot.worker_name
    assert queue.claim_next_video(worker_name, ("auto",)) is not None
    assert slot.process is not None
    slot.process.wait()
    slot.earliest_start_at = math.inf  # no other worker takes the video
    if is_stopped_by_engine:
        slot.sent_signals.add(signal.SIGTERM)
    engine._supervise_once()
    assert [video.state for video in queue.list_videos(1)] == ["interrupted"]
    (interruption,) = [event.payload for event in queue.list_events(0) if isinstance(event.payload, VideoInterrupted)]
    assert interruption.worker == ("" if is_stopped_by_engine else worker_name)
    assert SUPERVISION_INTERVAL_SECONDS < 1.0


def test_dead_worker_and_its_video_are_reclaimed_in_one_transaction(tmp_path: Path) -> None:
    queue, other = Queue(tmp_path), Queue(tmp_path)
    add(queue, "auto")
    queue.record_starting_worker("worker-0:7", "cpu")
    queue.claim_next_video("worker-0:7", ("auto",))
    seen: list[tuple[str, int]] = []
    queue.db.set_trace_callback(lambda _: seen.append((other.list_videos(1)[0].state, len(other.list_workers()))))
    queue.reclaim_videos("worker-0:7", "signal SIGKILL", counts_crash=True, has_worker_ended=True)
    queue.db.set_trace_callback(None)
    seen.append((other.list_videos(1)[0].state, len(other.list_workers())))
    assert set(seen) == {("running", 1), ("interrupted", 0)}
    assert [event.kind for event in queue.list_events(0)][-2:] == ["interrupted", "worker_ended"]


def test_running_videos_are_not_read_while_no_worker_has_failed(
    tmp_path: Path, two_gpus: list[FailingSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    def running(_: Queue) -> None:
        raise AssertionError("read without need")

    monkeypatch.setattr(Queue, "list_running_videos", running)
    requests = StopRequestCounter()
    requests.count_stop_request()
    Supervisor(Queue(tmp_path), two_gpus, tmp_path / "logs", LOG, False, requests).run()


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Put back what signals do."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOP_SIGNALS)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
def test_notices_of_a_scheduler_are_one_stop_request_and_stay_ignored_if_they_were() -> None:
    requests = StopRequestCounter()
    for number in (signal.SIGUSR1, signal.SIGXCPU, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # as submitit's signal is
    requests.install_signal_handlers()
    for number in (signal.SIGUSR2, signal.SIGHUP):
        signal.raise_signal(number)
    assert requests.count == 0
    for number in (signal.SIGUSR1, signal.SIGXCPU, signal.SIGXCPU):
        signal.raise_signal(number)
    assert requests.count == 1
    signal.raise_signal(signal.SIGQUIT)
    assert requests.count == 2


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("moment", ["noticed", "in between"])
def test_stop_request_is_kept_while_a_deleted_database_is_reopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    place, opened = StateDirectory(tmp_path), []
    monkeypatch.setattr(process, "query_gpus", lambda: GpuReport((), None, "no driver"))

    def open_and_lose(place: StateDirectory, is_engine: bool) -> tuple[Queue, list[str]]:
        opened.append(place)
        assert len(opened) < 4, "the engine never ends"
        if moment == "in between" and len(opened) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return Queue(place.directory), []

    def replaced(_: Queue) -> bool:
        if moment == "noticed":
            os.kill(os.getpid(), signal.SIGTERM)
        return len(opened) == 1

    monkeypatch.setattr(process, "open_queue", open_and_lose)
    monkeypatch.setattr(Queue, "is_replaced", replaced)
    assert run_engine(place, tmp_path / "logs", None, ends_when_idle=False)
    assert len(opened) == {"noticed": 1, "in between": 2}[moment]


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("then", ["nobody takes its place", "another engine starts", "its directory is deleted"])
def test_engine_reacquires_a_deleted_lock_file_or_exits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    place, opened = StateDirectory(tmp_path / "state"), [0]
    others: list[int | None] = []
    place.directory.mkdir()
    monkeypatch.setattr(process, "query_gpus", lambda: GpuReport((), None, "no driver"))
    monkeypatch.setattr(supervisor, "FILE_CHECK_INTERVAL_SECONDS", 0.0)

    def opened_again(place: StateDirectory, is_engine: bool) -> tuple[Queue, list[str]]:
        opened[0] += 1
        return Queue(place.directory), []

    def looked(_: Queue) -> bool:
        if opened[0] == 1:
            (place.directory / ENGINE_LOCK_FILE).unlink()
            if then == "another engine starts":
                others.append(acquire_engine_lock(place.directory))
            if then == "its directory is deleted":
                shutil.rmtree(place.directory)
        else:
            assert find_engine_process_id(place.directory) == os.getpid()
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    monkeypatch.setattr(process, "open_queue", opened_again)
    monkeypatch.setattr(Queue, "is_replaced", looked)
    assert run_engine(place, tmp_path / "logs", None, ends_when_idle=False)
    assert opened[0] == (2 if then == "nobody takes its place" else 1)
    for descriptor in others:
        assert descriptor is not None
        os.close(descriptor)


@pytest.mark.slow
@pytest.mark.usefixtures("_handlers")
def test_locked_database_is_not_reported_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(_: Queue) -> int:
        raise make_lock_error()

    monkeypatch.setattr(Queue, "recover_interrupted_videos", locked)
    monkeypatch.setattr(supervisor, "MAX_DATABASE_WAIT_SECONDS", -1.0)
    with pytest.raises(UserError, match=r"cannot use the queue .*: database is locked\. End the process that is lock"):
        run_engine(StateDirectory(tmp_path), tmp_path / "logs", 1, ends_when_idle=True)
    log = (tmp_path / "logs" / "engine.log").read_text()
    assert "database is locked" in log
    assert "damaged" not in log
    assert "Traceback" not in log


GPUS = GpuReport((Gpu(0, "GPU-a", "H100", 80, 0),), "580", None)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("workers", [None, 2])
def test_cpu_videos_run_despite_invalid_visible_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None
) -> None:
    published: list[Sequence[str]] = []
    monkeypatch.setattr(process, "query_gpus", lambda: GPUS)
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GPUS)
    monkeypatch.setattr(process, "publish_engine_info", lambda _, __, devices, ___: published.append(devices))
    monkeypatch.setattr(Supervisor, "run", lambda _: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    enqueue.check_device_exists(StateDirectory(tmp_path), "cpu")
    with pytest.raises(NoSuchGpuError):
        enqueue.check_device_exists(StateDirectory(tmp_path), "auto")
    queue = Queue(tmp_path)
    add(queue, "cpu")
    run_engine(StateDirectory(tmp_path), tmp_path / "logs", workers, ends_when_idle=True)
    assert published == [["cpu"] if workers is None else ["auto", "cpu"]]
    add(queue, "auto")
    if workers is None:
        with pytest.raises(NoSuchGpuError):
            run_engine(StateDirectory(tmp_path), tmp_path / "logs", workers, ends_when_idle=True)


@pytest.mark.parametrize("is_locked_once", [False, True])
def test_video_cancelled_without_an_engine_is_closed_in_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_locked_once: bool
) -> None:
    folder = BatchFolder(tmp_path / "b")
    write_clip_batch(folder.root, "a [red|blue] circle", seeds=1, unfinished=(0, 1))
    store = ManifestStore(folder)
    for index in (0, 1):
        store.edit_video_entry(index, lambda entry: setattr(entry, "state", "queued"))
    checkpoint = folder.make_checkpoint_path(0, 1)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.touch()
    queue = Queue(tmp_path)
    queue.add_batch(folder.root, "cpu", [NewVideo(0, "red", "{}", 20), NewVideo(1, "blue", "{}", 20)])
    for _ in range(2):
        assert queue.claim_next_video("worker-0:7", ("cpu",)) is not None
    queue.cancel_videos(1, 0)  # its engine was killed
    resume_queue, errors = queue.resume_queue, [make_lock_error()] if is_locked_once else []

    def resume_or_fail(*kinds: str) -> None:
        if errors:
            raise errors.pop()
        resume_queue(*kinds)

    monkeypatch.setattr(queue, "resume_queue", resume_or_fail)
    monkeypatch.setattr("wantui.engine.supervisor.time.sleep", lambda _: None)
    Supervisor(queue, [], tmp_path / "logs", LOG, ends_when_idle=True).hold_queue_if_interrupted()
    assert [video.state for video in queue.list_videos(1)] == ["cancelled", "interrupted"]
    assert [video.state for video in read_manifest(folder).videos] == ["cancelled", "queued"]
    assert not checkpoint.exists()


def wait_until_folded(supervisor: Supervisor) -> None:
    for thread, _ in supervisor.folding_threads:
        thread.join(60)
        assert not thread.is_alive()


def test_journal_of_an_ended_batch_that_could_not_be_folded_is_folded_by_the_next_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = BatchFolder(tmp_path / "b")
    write_clip_batch(folder.root, "a circle", seeds=1)
    queue = Queue(tmp_path)
    supervisor = Supervisor(queue, [], tmp_path / "logs", LOG, ends_when_idle=True)
    sent_ends: list[BatchEnd] = []
    monkeypatch.setattr(supervisor.notifier, "send_notice", sent_ends.append)
    queue.add_batch(folder.root, "cpu", [NewVideo(0, "red", "{}", 20)])
    claim = queue.claim_next_video("worker-0:7", ("cpu",))
    assert claim is not None
    ManifestStore(folder).edit_video_entry(0, lambda entry: setattr(entry, "bytes", 99))
    queue.record_done(claim)
    with monkeypatch.context() as patch:
        patch.setattr("wantui.storage.manifest_file.write_manifest", refuse)
        supervisor.run()
    assert f"cannot fold the journal of {folder.root} into its manifest" in caplog.text
    assert folder.journal_path.exists()
    assert [end.folder for end in sent_ends] == [str(folder.root)]
    next_supervisor = Supervisor(queue, [], tmp_path / "logs", LOG, ends_when_idle=True)
    next_supervisor.fold_remaining_journals()
    next_supervisor.run()
    assert not folder.journal_path.exists()
    assert len(sent_ends) == 1


@pytest.mark.parametrize("has_waiting_video", [False, True])
def test_engine_folds_the_journal_of_a_batch_whose_deleted_clips_were_generated_again(
    tmp_path: Path, has_waiting_video: bool
) -> None:
    folder = BatchFolder(tmp_path / "b")
    write_clip_batch(folder.root, "a [red|blue] circle", seeds=1)
    queue = Queue(tmp_path)
    supervisor = Supervisor(queue, [], tmp_path / "logs", LOG, ends_when_idle=True)
    queue.add_batch(folder.root, "cpu", [NewVideo(0, "red", "{}", 20), NewVideo(1, "blue", "{}", 20)])
    for index in range(1 if has_waiting_video else 2):
        claim = queue.claim_next_video("worker-0:7", ("cpu",))
        assert claim is not None
        ManifestStore(folder).edit_video_entry(index, lambda entry: setattr(entry, "bytes", 99))
        queue.record_done(claim)
    assert folder.journal_path.exists()
    with lock_manifest(folder.root):
        supervisor._supervise_once()  # does not wait for the lock
        assert folder.journal_path.exists()
    wait_until_folded(supervisor)
    assert folder.journal_path.exists() == has_waiting_video
    entries = json.loads(folder.manifest_path.read_text())["videos"]
    assert [entry["bytes"] == 99 for entry in entries] == [not has_waiting_video] * 2


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_engine_that_the_system_does_not_start_is_an_error_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(NoEngineError) as refused:
        ensure_engine(StateDirectory(tmp_path))
    assert str(refused.value) == (
        f"the engine cannot be started: {os.strerror(number)}. Queued batches stay in the queue; fix this, and start "
        "it: wantui engine start"
    )


@pytest.mark.processes
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "signal SIGKILL: the system perhaps ran out of memory"),
        ("os._exit(3)", "exit code 3. Last line of {output}:\n  (it printed nothing)"),
        ("print('no room'); sys.exit(3)", "exit code 3. Last line of {output}:\n  no room"),
    ],
)
def test_engine_that_ends_at_once_is_explained_without_the_output_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    output_path = tmp_path / "engine.out"
    output_path.write_text("RuntimeError: of yesterday\n")
    start_process = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda _, **options: start_process([sys.executable, "-S", "-c", f"import os, sys; {code}"], **options),
    )
    with pytest.raises(NoEngineError) as refused:
        ensure_engine(StateDirectory(tmp_path))
    assert str(refused.value).startswith(f"the engine did not start: {reason.format(output=output_path)}")
    assert "yesterday" not in str(refused.value)


def test_every_temporary_hold_has_a_check_of_its_end() -> None:
    assert sorted(CHECK_BY_HOLD_KIND) == sorted(TEMPORARY_HOLD_KINDS)
