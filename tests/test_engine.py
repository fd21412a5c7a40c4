"""The engine and its workers as real processes: detached, watched, told to stop, killed, and started twice at once."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Machine, assert_equal_to_the_bit, kill, manifest_of

from wantui.models.catalogue import WanModel

Start = Callable[..., Machine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    machines = []

    def begin(faults: str = "") -> Machine:
        machines.append(Machine(tmp_path / "work", faults))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.shut_down()


@pytest.fixture
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


def batch(tiny_batch: list[str], videos: int, name: str = "batch") -> list[str]:
    return ["run", "--videos-per-variation", str(videos), "--batch-name", name, *tiny_batch]


def begin(machine: Machine, command: list[str], step: int = 5) -> None:
    """Put a batch on the queue, and wait until a video of it is past a step."""
    machine.call(*command, "--detach")
    machine.until(lambda: any(video.step > step for video in machine.queue.running()))


def test_a_batch_outlives_its_client_and_can_be_watched_from_elsewhere(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    client = machine.client(*batch(tiny_batch, 4))
    machine.until(lambda: machine.queue.running())
    os.killpg(client.pid, signal.SIGHUP)  # the terminal goes away
    client.communicate()
    code, out, err = machine.call("watch", "1", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["done"] == 4
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done"] * 4


def test_ctrl_c_detaches_and_says_how_to_come_back(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    client = machine.client(*batch(tiny_batch, 2))
    machine.until(lambda: machine.queue.running())
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=30)
    assert (client.returncode, out) == (130, "")
    assert "wantui watch 1" in err
    assert "Traceback" not in err
    machine.until(machine.ended)
    assert machine.queue.batches()[0].counts == {"done": 2}


def test_a_dead_worker_is_noticed_within_a_second_and_its_video_goes_on_from_its_step(
    start: Start, tiny_batch: list[str]
) -> None:
    machine = start()
    begin(machine, batch(tiny_batch, 2), step=20)
    (worker,) = machine.workers()
    kill(worker)
    killed = time.monotonic()
    machine.until(lambda: any(event.kind == "interrupted" for event in machine.queue.events(0)))
    assert time.monotonic() - killed < 1.0
    machine.until(machine.ended)
    resumed = [event.data["steps_done"] for event in machine.queue.events(0) if event.kind == "resumed video"]
    assert len(resumed) == 1
    assert resumed[0] > 1
    machine.call(*batch(tiny_batch, 2, "undisturbed"))
    assert_equal_to_the_bit(machine.root / "batch", machine.root / "undisturbed")


def test_workers_die_with_the_engine_and_the_queue_is_held_until_it_is_resumed(
    start: Start, tiny_batch: list[str]
) -> None:
    machine = start()
    begin(machine, batch(tiny_batch, 2))
    kill(machine.engine() or 0)
    machine.until(lambda: not machine.workers())
    code, _, err = machine.call("watch")
    assert code == 3
    assert "no engine runs any more, and 2 videos of" in err
    _, _, err = machine.call("engine", "start")
    machine.until(machine.queue.held)
    _, _, err = machine.call("queue", "ls")
    assert "held: 1 video was interrupted when the engine ended; go on with: wantui queue resume" in err
    time.sleep(1)
    assert not machine.queue.running()
    machine.call("queue", "resume")
    machine.until(machine.ended)
    assert machine.queue.batches()[0].counts == {"done": 2}


def test_stopping_drains_at_the_next_step_and_loses_nothing(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    begin(machine, batch(tiny_batch, 1))
    code, _, err = machine.call("engine", "stop")
    assert code == 0, err
    assert machine.engine() is None
    assert not machine.workers()
    (video,) = machine.queue.videos(1)
    assert (video.state, machine.queue.held()) == ("queued", None)
    assert machine.call("engine", "status")[0] == 3
    machine.call("engine", "run", "--drain")
    assert machine.queue.batches()[0].counts == {"done": 1}
    machine.call(*batch(tiny_batch, 1, "undisturbed"))
    assert_equal_to_the_bit(machine.root / "batch", machine.root / "undisturbed")


def test_of_engines_started_at_once_one_lives(start: Start) -> None:
    machine = start()
    clients = [machine.client("engine", "start") for _ in range(4)]
    said = [client.communicate(timeout=60)[1] for client in clients]
    assert [client.returncode for client in clients] == [0] * 4, said
    processes = {line.split("process ")[1].split(",")[0] for line in said}
    assert processes == {str(machine.engine())}
    code, _, err = machine.call("engine", "run")
    assert (code, "an engine runs already" in err) == (3, True)


def test_cancel_pause_and_retry_reach_a_running_video(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    begin(machine, batch(tiny_batch, 2))
    machine.call("queue", "pause")
    machine.until(lambda: not machine.queue.running())
    machine.call("queue", "cancel", "1", "1")
    machine.call("queue", "resume")
    machine.until(machine.ended)
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["cancelled", "done"]
    assert not list((machine.root / "batch").rglob("*.checkpoint"))
    machine.call("queue", "retry", "1")
    machine.until(lambda: any(video.step > 5 for video in machine.queue.running()))
    machine.call("queue", "cancel", "1")
    machine.until(machine.ended)
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["cancelled", "done"]
    assert not list((machine.root / "batch").rglob("*.partial"))


POISON = """
import os, signal, sys
if "wantui.engine.worker" in " ".join(sys.orig_argv):
    import wantui.generation.denoise as d
    real = d._advance
    def fatal(pipeline, recipe, start, latents, timestep, index):
        if recipe.seed == 43 and index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(pipeline, recipe, start, latents, timestep, index)
    d._advance = fatal
"""


def test_a_video_that_kills_its_worker_twice_fails_and_the_others_are_made(start: Start, tiny_batch: list[str]) -> None:
    machine = start(POISON)
    code, _, err = machine.call(*batch(tiny_batch, 3))
    assert code == 1
    assert "2 of 3 videos done, 1 failed" in err
    assert "2 workers died while they made it" in err
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done", "failed", "done"]
    assert not [p for p in (machine.root / "batch").rglob("*") if p.suffix in (".partial", ".checkpoint")]


SLOW_END = """
import sys, time
if "wantui.engine.worker" in " ".join(sys.orig_argv):
    import wantui.storage.mp4 as mp4
    real = mp4.ClipWriter.finish
    def slow(self):
        time.sleep(2)
        real(self)
    mp4.ClipWriter.finish = slow
"""


def test_a_video_whose_files_are_being_ended_is_recorded_when_the_engine_stops(
    start: Start, tiny_batch: list[str]
) -> None:
    machine = start(SLOW_END)
    machine.call(*batch(tiny_batch, 2), "--detach")
    machine.until(lambda: len(machine.queue.running()) == 2)  # one is ended, and one is made
    machine.call("engine", "stop")
    assert [video.state for video in machine.queue.videos(1)] == ["done", "queued"]
    machine.call("engine", "run", "--drain")
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done", "done"]
    machine.call(*batch(tiny_batch, 2, "undisturbed"))
    assert_equal_to_the_bit(machine.root / "batch", machine.root / "undisturbed")


def test_a_worker_killed_while_it_ends_a_video_and_makes_another_loses_neither(
    start: Start, tiny_batch: list[str]
) -> None:
    machine = start(SLOW_END)
    machine.call(*batch(tiny_batch, 2), "--detach")
    machine.until(lambda: len(machine.queue.running()) == 2)
    kill(machine.workers()[0])
    machine.until(machine.ended)
    assert [video.state for video in manifest_of(machine.root / "batch").videos] == ["done", "done"]
    assert not [p for p in (machine.root / "batch").rglob("*") if p.suffix in (".partial", ".checkpoint")]


BROKEN = """
import os, sys
if "wantui.engine.worker" in " ".join(sys.orig_argv):
    os._exit(7)
"""


def test_a_worker_that_cannot_begin_is_told_and_tried_again_ever_more_seldom(
    start: Start, tiny_batch: list[str]
) -> None:
    machine = start(BROKEN)
    client = machine.client(*batch(tiny_batch, 1))

    def deaths() -> list[str]:
        return [event.data["error"] for event in machine.queue.events(0) if event.kind == "worker died"]

    machine.until(lambda: len(deaths()) >= 2)
    time.sleep(1)  # the third comes two seconds after the second
    assert len(deaths()) == 2
    assert deaths()[0].startswith("exit code 7; see ")
    machine.call("queue", "cancel", "1")
    _, err = client.communicate(timeout=30)
    assert "a worker died: exit code 7" in err
    assert "0 of 1 videos done, 1 cancelled" in err


TOO_LARGE = """
import sys
if "wantui.engine.worker" in " ".join(sys.orig_argv):
    import torch
    import wantui.generation.make_video as m
    real = m.decode_frames
    def too_large(pipeline, latents):
        if not pipeline.vae.use_tiling:
            raise torch.OutOfMemoryError("tried to allocate 40 GiB, 3 GiB are free")
        return real(pipeline, latents)
    m.decode_frames = too_large
"""


def test_running_out_of_memory_is_told_and_the_same_latents_are_decoded_in_tiles(
    start: Start, tiny_batch: list[str]
) -> None:
    machine = start(TOO_LARGE)
    code, _, err = machine.call(*batch(tiny_batch, 2))
    assert code == 0, err
    assert err.count("trying tiled") == 1  # the second video knows from the first
    videos = manifest_of(machine.root / "batch").videos
    assert [video.memory_plan for video in videos] == ["tiled"] * 2
    resumed = [event.data["steps_done"] for event in machine.queue.events(0) if event.kind == "resumed video"]
    assert resumed == [60, 60]  # without the text encoder first, which was not what took the room


JUMPING_CLOCK = """
import random, time
real = time.time
time.time = lambda: real() + random.choice([-86400.0, -60.0, 0.0, 60.0, 86400.0])
"""


def test_a_clock_that_jumps_changes_nothing(start: Start, tiny_batch: list[str]) -> None:
    machine = start(JUMPING_CLOCK)
    begin(machine, batch(tiny_batch, 2), step=20)
    kill(machine.workers()[0])
    code, _, err = machine.call("watch")
    assert code == 0, err
    machine.call(*batch(tiny_batch, 2, "undisturbed"))
    assert_equal_to_the_bit(machine.root / "batch", machine.root / "undisturbed")


def test_two_workers_share_a_batch(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    machine.call("engine", "start", "--workers", "2")
    machine.call(*batch(tiny_batch, 6))
    names = {event.data["worker"].partition(":")[0] for event in machine.queue.events(0) if event.kind == "started"}
    assert names == {"worker-0", "worker-1"}
    machine.call("engine", "stop")
    machine.call(*batch(tiny_batch, 6, "undisturbed"))
    assert_equal_to_the_bit(machine.root / "batch", machine.root / "undisturbed")


def small_disk(root: Path, megabytes: int) -> Path | None:
    """A file system of so many megabytes, where this machine lets us have one."""
    folder = root / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True, check=False
    )
    return folder if mounted.returncode == 0 else None


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_holds_the_queue_and_it_goes_on_by_itself_when_there_is_room(
    start: Start, tiny_batch: list[str], tmp_path: Path
) -> None:
    machine = start()
    disk = small_disk(machine.root, 48)
    if disk is None:
        pytest.skip("no file system can be mounted here")
    try:
        begin(machine, [*batch(tiny_batch, 2), "--set", f"output_dir={disk}"])
        ballast = disk / "ballast"
        try:
            with ballast.open("wb") as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError:
            pass
        held = machine.until(machine.queue.held)
        assert "no room is left in" in held.reason
        assert not list(disk.rglob("*.mp4"))
        ballast.unlink()
        machine.until(machine.ended)
        assert machine.queue.held() is None
        machine.call(*batch(tiny_batch, 2, "undisturbed"))
        assert_equal_to_the_bit(disk / "batch", machine.root / "undisturbed")
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_logs_are_shown_and_followed(start: Start, tiny_batch: list[str]) -> None:
    machine = start()
    machine.call("engine", "start")
    follower = machine.client("logs", "-f")
    machine.call(*batch(tiny_batch, 1))
    time.sleep(1)
    follower.send_signal(signal.SIGINT)
    followed, _ = follower.communicate(timeout=30)
    assert "single seed 42 of batch, attempt 1" in followed  # of a worker whose log was not there at first
    code, out, _ = machine.call("logs")
    assert code == 0
    assert "engine: " in out
    assert "worker-0: " in out
    code, out, _ = machine.call("logs", "1")
    assert "single seed 42 done in" in out
    machine.call("engine", "stop")
    code, _, err = machine.call("logs", "--logs", "nowhere")
    assert (code, "no logs in nowhere" in err) == (2, True)
