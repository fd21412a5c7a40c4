"""The engine and its workers as real processes: detached, watched, stopped, killed, and started twice at once."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import MakeOnce, generate_batch
from harness_engine import FREQUENT_CHECKPOINTS, Machine, assert_equal_to_the_bit, kill, manifest_of
from process_state import has_ended
from unwritable_folders import freeze_folder, thaw_folder

from wantui.engine.control import find_engine_process_id
from wantui.models.catalogue import WanModel
from wantui.queue.events import VideoResumed
from wantui.queue.queue import Queue

pytestmark = pytest.mark.processes

Start = Callable[..., Machine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    machines = []

    def begin(faults: str = "", is_forked: bool = True) -> Machine:
        machines.append(Machine(tmp_path / "work", faults, is_forked))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.shut_down()


@pytest.fixture(scope="session")
def tiny_batch(tiny_models: dict[str, WanModel]) -> list[str]:
    """Options for videos that take a second or two each, in the folder "batch"."""
    settings = {
        "model_settings.model_id": tiny_models["wan2.1"].location,
        "model_settings.steps": 60,
        "video_settings.width": 32,
        "video_settings.height": 32,
        "video_settings.frames": 9,
        "model_settings.device": "cpu",
        "use_timestamp": False,
        "output_dir": ".",
    }
    return ["-t", "a star", "--store-latents", *(w for k, v in settings.items() for w in ("--set", f"{k}={v}"))]


@pytest.fixture(scope="session")
def undisturbed(make_once: MakeOnce, tiny_batch: list[str]) -> Path:
    """Six videos of the tiny batch, generated without any disturbance."""
    videos = ["--videos-per-variation", 6, *tiny_batch]
    return make_once("undisturbed-tiny", lambda folder: generate_batch(folder, *videos)) / "batch"


def batch(tiny_batch: list[str], videos: int, name: str = "batch") -> list[str]:
    return ["run", "--videos-per-variation", str(videos), "--batch-name", name, *tiny_batch]


def begin(machine: Machine, command: list[str], step: int = 5) -> None:
    """Put a batch on the queue, and wait until a video of it is past a step."""
    machine.call(*command, "--detach")
    machine.until(lambda: any(video.step > step for video in machine.queue.list_running_videos()))


GATE = """
import sys, time
from pathlib import Path
if "wantui.worker.process" in " ".join(sys.orig_argv):
    import wantui.generation.denoise as d
    import wantui.generation.make_video as m
    import wantui.worker.worker as w
    gate, advance, begin, workers = Path(sys.path[0]), d._run_step, w.Worker.__init__, []
    denoise, recipes = m.denoise_latents, []
    def denoise_recipe(pipeline, recipe, *arguments):
        recipes[:] = [recipe]
        return denoise(pipeline, recipe, *arguments)
    def is_closed(seed):
        return gate.exists() and str(seed) in gate.read_text().split() and not workers[0].is_stopping
    def wait_at_gate(pipeline, inputs, latents, timestep, index):
        while index > 6 and is_closed(recipes[0].seed):
            time.sleep(0.01)
        return advance(pipeline, inputs, latents, timestep, index)
    def remember(self, *arguments):
        workers.append(self)
        begin(self, *arguments)
    d._run_step, w.Worker.__init__, m.denoise_latents = wait_at_gate, remember, denoise_recipe
"""
"""Videos whose seeds are in the file of the gate stop after seven steps, until it is deleted or the worker must end."""


def gate_at(path: Path) -> str:
    return GATE.replace("sys.path[0]", repr(str(path)))


def test_batch_outlives_its_client_and_can_be_watched_later(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    client = machine.client(*batch(tiny_batch, 4))
    machine.until(lambda: machine.queue.list_running_videos())
    os.killpg(client.pid, signal.SIGHUP)  # the terminal goes away
    client.communicate()
    code, out, err = machine.call("watch", "1", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["done"] == 4
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done"] * 4


def test_ctrl_c_detaches_and_says_how_to_watch_again(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    client = machine.client(*batch(tiny_batch, 6))
    machine.until(lambda: machine.queue.list_running_videos())
    client.send_signal(signal.SIGINT)
    out, err = machine.end_of(client)
    assert (client.returncode, out) == (130, ""), err
    assert "wantui watch 1" in err
    assert "Traceback" not in err
    machine.until(machine.ended)
    assert machine.queue.list_batches()[0].counts == {"done": 6}


def test_video_of_a_killed_worker_resumes_from_its_checkpoint(
    start: Start, tiny_batch: list[str], undisturbed: Path
) -> None:
    machine = start(FREQUENT_CHECKPOINTS)
    begin(machine, batch(tiny_batch, 2), step=20)
    (worker,) = machine.workers()
    kill(worker)
    machine.until(lambda: any(event.kind == "interrupted" for event in machine.queue.list_events(0)))
    machine.until(machine.ended)
    resumed = [
        event.payload.steps_done for event in machine.queue.list_events(0) if isinstance(event.payload, VideoResumed)
    ]
    assert len(resumed) == 1
    assert resumed[0] > 1
    assert_equal_to_the_bit(machine.root / "batch", undisturbed)


def test_killing_the_engine_ends_workers_and_holds_the_queue(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    begin(machine, batch(tiny_batch, 2))
    kill(machine.engine() or 0)
    machine.until(lambda: not machine.workers())
    code, _, err = machine.call("watch")
    assert code == 3
    assert "no engine is running, and 2 videos of" in err
    _, _, err = machine.call("engine", "start")
    machine.until(machine.queue.read_hold)
    _, _, err = machine.call("queue", "ls")
    assert "held: 1 video was interrupted when the engine ended. Resume with: wantui queue resume" in err
    time.sleep(1)
    assert not machine.queue.list_running_videos()
    machine.call("queue", "resume")
    machine.until(machine.ended)
    assert machine.queue.list_batches()[0].counts == {"done": 2}


def test_engine_stop_ends_at_the_next_step_and_loses_nothing(
    start: Start, tiny_batch: list[str], tmp_path: Path, undisturbed: Path
) -> None:
    gate = tmp_path / "gate"
    gate.write_text("42")
    machine = start(gate_at(gate))
    begin(machine, batch(tiny_batch, 1))
    code, _, err = machine.call("engine", "stop")
    assert code == 0, err
    gate.unlink()
    assert machine.engine() is None
    assert not machine.workers()
    (video,) = machine.queue.list_videos(1)
    assert (video.state, machine.queue.read_hold()) == ("queued", None)
    assert machine.call("engine", "status")[0] == 3
    machine.call("engine", "run", "--drain")
    assert machine.queue.list_batches()[0].counts == {"done": 1}
    assert_equal_to_the_bit(machine.root / "batch", undisturbed)


def test_only_one_of_many_simultaneous_engines_survives(start: Start) -> None:
    machine = start()
    clients = [machine.client("engine", "start") for _ in range(4)]
    output = [machine.end_of(client)[1] for client in clients]
    assert [client.returncode for client in clients] == [0] * 4, output
    processes = {line.split("process ")[1].split(",")[0] for line in output}
    assert processes == {str(machine.engine())}
    code, _, err = machine.call("engine", "run")
    assert (code, "an engine is already running" in err) == (3, True)


def test_cancel_pause_and_retry_reach_a_running_video(start: Start, tiny_batch: list[str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    machine = start(gate_at(gate))
    gate.write_text("42 43")
    begin(machine, batch(tiny_batch, 2))
    machine.call("queue", "pause")
    gate.unlink()
    machine.until(lambda: not machine.queue.list_running_videos())
    machine.call("queue", "cancel", "1", "1")
    machine.call("queue", "resume")
    machine.until(machine.ended)
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["cancelled", "done"]
    assert not list((machine.root / "batch").rglob("*.checkpoint"))
    gate.write_text("42")
    machine.call("queue", "retry", "1")
    machine.until(lambda: any(video.step > 5 for video in machine.queue.list_running_videos()))
    machine.call("queue", "cancel", "1")
    gate.unlink()
    machine.until(machine.ended)
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["cancelled", "done"]
    assert not list((machine.root / "batch").rglob("*.partial"))


POISON = """
import os, signal, sys
if "wantui.worker.process" in " ".join(sys.orig_argv):
    import wantui.generation.make_video as m
    real = m.denoise_latents
    def fatal(pipeline, recipe, *arguments):
        for step in real(pipeline, recipe, *arguments):
            if recipe.seed == 43 and step.evaluation_index == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield step
    m.denoise_latents = fatal
"""


def test_video_that_kills_two_workers_fails_and_others_are_generated(start: Start, tiny_batch: list[str]) -> None:
    machine = start(POISON)
    code, _, err = machine.call(*batch(tiny_batch, 3))
    assert code == 1
    assert "2 of 3 videos done, 1 failed" in err
    assert "2 workers died while rendering it" in err
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done", "failed", "done"]
    assert not [p for p in (machine.root / "batch").rglob("*") if p.suffix in (".partial", ".checkpoint")]


SLOW_END = """
import sys, time
if "wantui.worker.process" in " ".join(sys.orig_argv):
    import wantui.storage.mp4 as mp4
    real = mp4.ClipWriter.finish_clip
    def slow(self):
        time.sleep(2)
        real(self)
    mp4.ClipWriter.finish_clip = slow
"""


def test_finalizing_video_is_recorded_when_the_engine_stops(
    start: Start, tiny_batch: list[str], tmp_path: Path, undisturbed: Path
) -> None:
    gate = tmp_path / "gate"
    gate.write_text("43")
    machine = start(SLOW_END + gate_at(gate))
    machine.call(*batch(tiny_batch, 2), "--detach")
    machine.until(lambda: len(machine.queue.list_running_videos()) == 2)  # one is ended, and one is made
    machine.call("engine", "stop")
    assert [video.state for video in machine.queue.list_videos(1)] == ["done", "queued"]
    gate.unlink()
    machine.call("engine", "run", "--drain")
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done", "done"]
    assert_equal_to_the_bit(machine.root / "batch", undisturbed)


def test_worker_killed_while_finalizing_and_generating_loses_neither_video(start: Start, tiny_batch: list[str]) -> None:
    machine = start(SLOW_END)
    machine.call(*batch(tiny_batch, 2), "--detach")
    machine.until(lambda: len(machine.queue.list_running_videos()) == 2)
    kill(machine.workers()[0])
    machine.until(machine.ended)
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done", "done"]
    assert not [p for p in (machine.root / "batch").rglob("*") if p.suffix in (".partial", ".checkpoint")]


BROKEN = """
import os, sys
if "wantui.worker.process" in " ".join(sys.orig_argv):
    print("loads libraries", flush=True)
    raise SystemExit("libcudart.so.13: no \\x1b[31m such file")
"""


def test_failing_worker_start_holds_the_queue_with_its_error(start: Start, tiny_batch: list[str]) -> None:
    # B6
    machine = start(BROKEN, is_forked=False)
    code, _, err = machine.call(*batch(tiny_batch, 1))
    assert code == 3
    crashes = [event for event in machine.queue.list_events(0) if event.kind == "worker_died"]
    assert len(crashes) == 3
    message = "no worker can start (3 tries): exit code 1: SystemExit: libcudart.so.13: no \\x1b[31m such file; see "
    assert message in err
    assert "\x1b[31m" not in err
    held = machine.queue.read_hold()
    assert held is not None
    assert held.reason.startswith(message)
    assert machine.call("watch", "1")[0] == 3  # at once, as nothing has changed
    assert machine.call("queue", "resume")[0] == 0
    machine.until(machine.queue.read_hold)  # it is tried again
    machine.call("engine", "stop")
    code, _, err = machine.call("engine", "run", "--drain")
    assert (code, "1 unfinished video: the queue is held: no worker can start" in err) == (1, True)


LATE = """
import sys, types
if "wantui.worker.process" in " ".join(sys.orig_argv):
    class Worker:
        is_stopping = False
        def __init__(self, *_):
            pass
        def run(self):
            raise RuntimeError("the driver is too old")
    sys.modules["wantui.worker.worker"] = types.SimpleNamespace(Worker=Worker)  # which would load torch, three times
"""


def test_workers_that_die_before_claiming_hold_the_queue(start: Start, tiny_batch: list[str]) -> None:  # B6
    machine = start(LATE)
    machine.call(*batch(tiny_batch, 1), "--detach")
    code, _, err = machine.call("watch")
    assert code == 3
    assert "no worker can start (3 tries): exit code 1: RuntimeError: the driver is too old" in err


DYING = """
import sys, types
if "wantui.worker.process" in " ".join(sys.orig_argv):
    class Worker:
        is_stopping = False
        def __init__(self, queue, name, devices, *_):
            self.claim = lambda: queue.claim_next_video(name, tuple(devices))
        def run(self):
            assert self.claim() is not None
            raise RuntimeError("CUDA error: an illegal memory access was encountered\\nCompile with TORCH_USE_...")
    sys.modules["wantui.worker.worker"] = types.SimpleNamespace(Worker=Worker)
"""


def test_video_whose_workers_die_names_their_error(start: Start, tiny_batch: list[str]) -> None:
    machine = start(DYING)
    code, _, err = machine.call(*batch(tiny_batch, 1))
    assert code == 1
    reason = "exit code 1: RuntimeError: CUDA error: an illegal memory access was encountered"
    died = re.search(r"interrupted: worker-0:\d+ died during single seed 42, which is tried again: (.*)\n", err)
    assert died is not None
    assert died[1] == reason
    assert f"2 workers died while rendering it. The last error: {reason}\n" in err


ENDS = """
import os, sys
if "wantui.worker.process" in " ".join(sys.orig_argv):
    os._exit(0)
"""


def test_workers_that_end_without_an_error_before_they_are_ready_hold_the_queue(
    start: Start, tiny_batch: list[str]
) -> None:  # B6
    machine = start(ENDS)
    code, _, err = machine.call(*batch(tiny_batch, 1))
    assert code == 3
    assert "no worker can start (3 tries): exit code 0 before it could claim a video: (it printed nothing); see " in err


@pytest.mark.parametrize(
    ("package", "reason"), [("av", "import of av halted"), ("zarr", "No module named 'zarr.codecs'")]
)
def test_missing_package_is_reported_before_a_video_is_claimed(
    start: Start, tiny_batch: list[str], package: str, reason: str
) -> None:  # B6
    machine = start(LATE + f"    sys.modules[{package!r}] = None\n", is_forked=False)
    code, _, err = machine.call(*batch(tiny_batch, 1))
    assert code == 3
    assert f"no worker can start (3 tries): exit code 1: ModuleNotFoundError: {reason}" in err
    assert machine.queue.list_videos(1)[0].state == "queued"


NEEDS_FLAG = """
import pathlib, sys
if "wantui.worker.process" in " ".join(sys.orig_argv) and not pathlib.Path(sys.path[0], "works").exists():
    raise SystemExit("torch is not installed")
"""


def test_new_engine_retries_batch_whose_worker_could_not_start(start: Start, tiny_batch: list[str]) -> None:
    # B6
    machine = start(is_forked=False)
    (machine.root / "faults").mkdir()
    flag = machine.root / "faults" / "works"
    (machine.root / "faults" / "sitecustomize.py").write_text(NEEDS_FLAG.replace("sys.path[0]", repr(str(flag.parent))))
    machine.env["PYTHONPATH"] = f"{flag.parent}:{os.environ.get('PYTHONPATH', '')}"
    assert machine.call(*batch(tiny_batch, 1))[0] == 3
    flag.touch()
    machine.call("engine", "stop")
    machine.call("engine", "start")
    machine.until(machine.ended)
    assert machine.queue.list_batches()[0].counts == {"done": 1}


def environment_of(process: int) -> dict[str, str]:
    text = Path(f"/proc/{process}/environ").read_bytes().decode()
    return dict(line.split("=", 1) for line in text.split("\0") if line)


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "10000"}])
def test_worker_threads_do_not_spin_by_default(
    start: Start, tiny_batch: list[str], own: dict[str, str]
) -> None:  # R17, T2
    machine = start(is_forked=False)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        machine.env.pop(name, None)
    machine.env |= own
    machine.call(*batch(tiny_batch, 1), "--detach")
    (worker,) = machine.until(machine.workers)
    result = environment_of(worker)
    expected = own or {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    assert {name: result[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in result} == expected
    assert result["CUDA_VISIBLE_DEVICES"] == ""


def test_commands_that_load_torch_disable_spinning_threads() -> None:  # R17
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "wantui", "doctor", "--full"],
        env=env | {"OMP_DISPLAY_ENV": "VERBOSE"},  # OpenMP then prints what it has read when torch loads it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    expected = {"GOMP_SPINCOUNT = '0'", "OMP_WAIT_POLICY = 'PASSIVE'"}
    for line in process.stderr:
        if not (expected := {text for text in expected if text not in line}):
            break
    process.kill()  # it would go on to generate a video
    process.communicate()
    assert not expected


def test_engine_of_another_environment_is_reported_with_the_differences(
    start: Start, tiny_batch: list[str]
) -> None:  # C1
    machine = start()
    machine.env |= {"HF_TOKEN": "hf_first", "HF_HOME": "/first"}
    _, _, err = machine.call("engine", "start")
    assert "environment" not in err
    assert "hf_first" not in (machine.state_dir.directory / "engine.lock").read_text()
    machine.env |= {"HF_TOKEN": "hf_second", "HF_HOME": "/second", "NVIDIA_TF32_OVERRIDE": "0"}
    machine.env |= {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    _, _, err = machine.call(*batch(tiny_batch, 1), "--detach")
    assert "has a different environment: HF_HOME is /first in the engine and /second here." in err
    assert "HF_TOKEN is set (" in err
    assert "NVIDIA_TF32_OVERRIDE is not set in the engine and 0 here." in err
    assert "CUDA_DEVICE_ORDER is PCI_BUS_ID in the engine and FASTEST_FIRST here." in err
    assert "hf_second" not in err
    assert "wantui engine stop, then start the engine from here" in err
    machine.call("engine", "stop")
    _, _, err = machine.call("engine", "start")
    assert "environment" not in err


def test_run_works_in_a_read_only_working_folder(start: Start, tiny_batch: list[str]) -> None:  # C2
    machine = start()
    outputs = machine.root / "outputs"
    outputs.mkdir()
    locked = machine.root / "locked"
    locked.mkdir()
    freeze_folder(locked)
    try:
        machine.root = locked
        code, _, err = machine.call(*batch(tiny_batch, 1), "--set", f"output_dir={outputs}")
        assert code == 0, err
        assert (machine.state_dir.directory / "logs" / "engine.log").exists()
        code, out, _ = machine.call("logs")
        assert (code, "engine: " in out) == (0, True)
        machine.call("engine", "stop")
        code, _, err = machine.call(*batch(tiny_batch, 1, "second"), "--set", f"output_dir={outputs}", "--logs", "logs")
        assert (code, "cannot write the log folder" in err) == (2, True)
        assert len(machine.queue.list_batches()) == 1  # nothing was queued
        assert not (outputs / "second").exists()
    finally:
        thaw_folder(locked)


@pytest.mark.parametrize("what", ["database", "folder"])
def test_deleted_queue_under_an_idle_engine_is_recovered(start: Start, tiny_batch: list[str], what: str) -> None:  # R8
    machine = start()
    machine.call("engine", "start")
    old = machine.engine()
    assert old is not None
    if what == "database":
        for path in machine.state_dir.directory.glob("queue.db*"):
            path.unlink()
    else:
        shutil.rmtree(machine.state_dir.directory)
    code, _, err = machine.call(*batch(tiny_batch, 1))
    assert code == 0, err
    assert "1 of 1 video done" in err
    machine.queue.close()
    machine.queue = Queue(machine.state_dir.directory)
    assert [video.state for video in machine.queue.list_videos(1)] == ["done"]
    claims = [str(event.as_json()["worker"]) for event in machine.queue.list_events(0) if event.kind == "started"]
    assert [worker.partition(":")[0] for worker in claims] == ["worker-0"]
    if what == "database":
        assert machine.engine() == old  # it went on with the new one
    else:  # the lock was deleted too: the old engine takes it again, or ends where another one was started first
        machine.until(lambda: machine.engine() == old or has_ended(old))
        assert machine.engine() is not None


def test_engine_waiting_for_a_locked_queue_obeys_engine_stop(start: Start) -> None:  # R8
    machine = start()
    machine.queue.db.execute("BEGIN IMMEDIATE")
    try:
        engine = machine.client("engine", "run")
        machine.until(lambda: find_engine_process_id(machine.state_dir.directory))
        machine.call("engine", "stop")
    finally:
        machine.queue.db.execute("ROLLBACK")
    assert engine.wait(timeout=120) != 0


def test_run_and_status_show_a_starting_worker(start: Start, tiny_batch: list[str], tmp_path: Path) -> None:  # C11
    machine = start(SLOW_IMPORT.replace("sys.path[0]", repr(str(tmp_path))))
    client = machine.client(*batch(tiny_batch, 1))
    lines = machine.lines_of(client, "stderr")
    machine.until(lambda: any(worker.state == "starting" for worker in machine.queue.list_workers()))
    code, out, _ = machine.call("engine", "status")
    assert code == 0
    assert re.search(r"starting: worker-0: loading torch, \d+:\d\d", out)
    machine.until(lambda: any(re.search(r"worker-0: loading torch, \d+:\d\d", line) for line in lines))
    (tmp_path / "ready").touch()
    machine.until(lambda: client.poll() is not None)
    kinds = [event.kind for event in machine.queue.list_events(0)]
    assert kinds.index("worker_starting") < kinds.index("worker_ready") < kinds.index("started")


SLOW_IMPORT = """
import sys, time
if "wantui.worker.process" in " ".join(sys.orig_argv):
    import pathlib
    while not pathlib.Path(sys.path[0], "ready").exists():
        time.sleep(0.05)
"""


HELD_BACK = """
import pathlib, sys, time
if "wantui.worker.process" in " ".join(sys.orig_argv):
    import wantui.generation.denoise as d
    real = d._run_step
    def wait(*arguments):
        while not pathlib.Path(sys.path[0], "go").exists():
            time.sleep(0.05)
        return real(*arguments)
    d._run_step = wait
"""


def test_run_behind_another_batch_names_that_batch(start: Start, tiny_batch: list[str], tmp_path: Path) -> None:  # C11
    machine = start(HELD_BACK.replace("sys.path[0]", repr(str(tmp_path))))
    machine.call(*batch(tiny_batch, 1, "first"), "--detach")
    machine.until(machine.queue.list_running_videos)
    client = machine.client(*batch(tiny_batch, 1, "second"))
    output = machine.lines_of(client, "stderr")
    machine.until(lambda: any("waiting for 1 video of batch 1 (first)" in line for line in output))
    (tmp_path / "go").touch()
    machine.until(lambda: client.poll() is not None)
    assert (client.returncode, machine.ended()) == (0, True)


def test_video_of_a_killed_engine_is_not_shown_as_running(start: Start, tiny_batch: list[str]) -> None:  # C8
    machine = start()
    begin(machine, batch(tiny_batch, 1))
    kill(machine.engine() or 0)
    machine.until(lambda: not machine.workers())
    code, out, _ = machine.call("engine", "status")
    assert code == 3
    assert "running" not in out.replace("no engine is running", "")
    assert "interrupted: batch 1, single seed 42, step " in out
    _, out, _ = machine.call("engine", "status", "--json")
    assert (json.loads(out)["running"], json.loads(out)["interrupted"][0]["number"]) == ([], 1)
    assert "interrupted" in machine.call("queue", "ls")[1]
    assert "interrupted" in machine.call("queue", "show", "1")[1]
    _, out, _ = machine.call("queue", "show", "1", "--json")
    assert json.loads(out)["videos"][0]["state"] == "interrupted"


TOO_LARGE = """
import sys
if "wantui.worker.process" in " ".join(sys.orig_argv):
    import torch
    import wantui.generation.make_video as m
    real = m.decode_frames
    def too_large(pipeline, latents):
        if not pipeline.vae.use_tiling:
            raise torch.OutOfMemoryError("tried to allocate 40 GiB, 3 GiB are free")
        return real(pipeline, latents)
    m.decode_frames = too_large
"""


def test_out_of_memory_is_reported_and_decoding_retried_in_tiles(start: Start, tiny_batch: list[str]) -> None:
    machine = start(TOO_LARGE)
    code, _, err = machine.call(*batch(tiny_batch, 2))
    assert code == 0, err
    assert err.count("retrying with memory plan tiled or a smaller one") == 1  # the second video knows from the first
    videos = manifest_of(machine.root / "batch").videos
    assert [video.memory_plan for video in videos] == ["tiled"] * 2
    resumed = [
        event.payload.steps_done for event in machine.queue.list_events(0) if isinstance(event.payload, VideoResumed)
    ]
    assert resumed == [60, 60]  # without the text encoder first, which was not what took the room


JUMPING_CLOCK = """
import random, time
real = time.time
time.time = lambda: real() + random.choice([-86400.0, -60.0, 0.0, 60.0, 86400.0])
"""


def test_jumping_clock_does_not_affect_generation(start: Start, tiny_batch: list[str], undisturbed: Path) -> None:
    machine = start(JUMPING_CLOCK)
    begin(machine, batch(tiny_batch, 2), step=20)
    kill(machine.workers()[0])
    code, _, err = machine.call("watch")
    assert code == 0, err
    assert_equal_to_the_bit(machine.root / "batch", undisturbed)


def test_two_workers_share_a_batch(start: Start, tiny_batch: list[str], undisturbed: Path) -> None:
    machine = start()
    machine.call("engine", "start", "--workers", "2")
    machine.call(*batch(tiny_batch, 6))
    names = {
        event.as_json()["worker"].partition(":")[0] for event in machine.queue.list_events(0) if event.kind == "started"
    }
    assert names == {"worker-0", "worker-1"}
    assert_equal_to_the_bit(machine.root / "batch", undisturbed)


def small_disk(root: Path, options: str) -> Path | None:
    """A file system with mount options such as its size, where this machine lets us have one."""
    folder = root / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        return None
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    return folder if mounted.returncode == 0 else None


def fill_with_bytes(ballast: Path) -> None:
    with suppress(OSError), (ballast / "file").open("wb") as file:
        while True:
            file.write(bytes(1 << 16))


def fill_with_files(ballast: Path) -> None:
    with suppress(OSError):
        for number in itertools.count():
            (ballast / str(number)).touch()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small disk")
@pytest.mark.parametrize(
    ("options", "fill", "reason"),
    [
        ("size=48m", fill_with_bytes, "not enough disk space in"),
        ("size=200m,nr_inodes=3000", fill_with_files, "more files can be created on the disk of"),
    ],
)
def test_full_disk_holds_its_batch_until_space_is_free(
    start: Start,
    tiny_batch: list[str],
    tmp_path: Path,
    undisturbed: Path,
    options: str,
    fill: Callable[[Path], None],
    reason: str,
) -> None:
    machine = start()
    disk = small_disk(machine.root, options)
    if disk is None:
        pytest.skip("no file system can be mounted here")
    try:
        begin(machine, [*batch(tiny_batch, 2), "--set", f"output_dir={disk}"])
        ballast = disk / "ballast"
        ballast.mkdir()
        fill(ballast)
        (held_batch,) = machine.until(machine.queue.list_held_batches)
        assert reason in held_batch.hold.reason
        assert not list(disk.rglob("*.mp4"))
        shutil.rmtree(ballast)
        machine.until(machine.ended)
        assert machine.queue.list_held_batches() == []
        assert_equal_to_the_bit(disk / "batch", undisturbed)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_logs_are_shown_and_followed(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    machine.call("engine", "start")
    follower = machine.client("logs", "-f")
    followed = machine.lines_of(follower)
    machine.until(lambda: any("engine of wantui" in line for line in followed))
    machine.call(*batch(tiny_batch, 1))
    # Of a worker whose log was not there at first.
    machine.until(lambda: any("single seed 42 of batch, attempt 1" in line for line in followed))
    follower.send_signal(signal.SIGINT)
    machine.until(lambda: follower.poll() is not None)
    assert follower.returncode == 130
    code, out, _ = machine.call("logs")
    assert code == 0
    assert "engine: " in out
    assert "worker-0: " in out
    code, out, _ = machine.call("logs", "1")
    assert "single seed 42 done in" in out
    machine.call("engine", "stop")
    code, _, err = machine.call("logs", "--logs", "nowhere")
    assert (code, "no logs in nowhere" in err) == (2, True)
