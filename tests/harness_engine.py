"""A machine for tests with real processes: a state directory, clients, an engine, workers, and ways to kill them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil
import zarr
from forked_process import ForkedPopen

from wantui.engine.control import find_engine
from wantui.queue.queue import Queue
from wantui.queue.state_dir import StateDirectory, find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, read_manifest

WANTUI = (sys.executable, "-m", "wantui")
TIMEOUT_SECONDS = 120.0
"""Seconds without anything new in the queue, after which a test gives up: a loaded machine is slow, and not broken."""


FREQUENT_CHECKPOINTS = """
import sys
if "wantui.worker.process" in " ".join(sys.orig_argv):
    import wantui.generation.checkpoint
    wantui.generation.checkpoint.MAX_CHECKPOINT_TIME_FRACTION = float("inf")
"""
"""Workers write a checkpoint after every step, however long that takes."""


class Machine:
    """Everything that is started here is ended by `shut_down`.

    Args:
        root: working folder of the clients.
        faults: Python that every process runs at its start, to break something in it.
        is_forked: whether processes are forked from one that has imported wantui; new ones take seconds more.
    """

    def __init__(self, root: Path, faults: str = "", is_forked: bool = True) -> None:
        self.root, self.is_forked = root, is_forked
        self.env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        if faults:
            (root / "faults").mkdir()
            (root / "faults" / "sitecustomize.py").write_text(faults)
            self.env["PYTHONPATH"] = os.pathsep.join([str(root / "faults"), os.environ.get("PYTHONPATH", "")])
        self.state_dir: StateDirectory = find_state_directory()
        self.queue = Queue(self.state_dir.directory)
        self.clients: list[subprocess.Popen[str]] = []

    @property
    def process_type(self) -> type[subprocess.Popen[Any]]:
        return ForkedPopen if self.is_forked else subprocess.Popen

    def client(self, *arguments: object) -> subprocess.Popen[str]:
        """A client that goes on by itself."""
        process = self.process_type(
            [*WANTUI, *map(str, arguments)],
            cwd=self.root,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.clients.append(process)
        return process

    def call(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a client."""
        process = self.client(*arguments)
        out, err = self.end_of(process)
        assert "Traceback" not in err, err
        return process.returncode, out, err

    def end_of(self, client: subprocess.Popen[str]) -> tuple[str, str]:
        """Wait until a client ends, and return what it said."""
        for _ in self._patiently():
            with suppress(subprocess.TimeoutExpired):
                return client.communicate(timeout=0.5)
        raise AssertionError(f"{client.args!r} did not end: {self.describe()}")

    def lines_of(self, client: subprocess.Popen[str], stream: Literal["stdout", "stderr"] = "stdout") -> list[str]:
        """Return a list to which the lines are added that a client prints."""
        lines: list[str] = []
        threading.Thread(target=lines.extend, args=(getattr(client, stream),), daemon=True).start()
        return lines

    def _patiently(self) -> Iterator[None]:
        """Yield until nothing has happened in the queue for a long time."""
        seq, deadline = -1, 0.0
        while (now := time.monotonic()) < deadline or seq < 0:
            if (last := self.queue.read_last_event_seq()) != seq:
                seq, deadline = last, now + TIMEOUT_SECONDS
            yield

    def engine(self) -> int | None:
        """The engine's process, if one runs."""
        result = find_engine(self.state_dir.directory)
        return result.process_id if result is not None else None

    def workers(self) -> list[int]:
        """The processes of workers, whoever started them."""
        words = {"wantui.worker.process", str(self.state_dir.directory)}
        processes = psutil.process_iter(["cmdline"])  # a process that has ended shows no arguments
        return [process.pid for process in processes if words <= {*(process.info["cmdline"] or ())}]

    def until(self, what: Callable[[], Any]) -> Any:
        """Wait for something to become true, and return it."""
        for _ in self._patiently():
            if result := what():
                return result
            time.sleep(0.02)
        raise AssertionError(f"nothing happened for {TIMEOUT_SECONDS:.0f} s: {self.describe()}")

    def describe(self) -> str:
        """What a person would want to see of a test that fails."""
        videos = [
            (video.title, video.state, video.error)
            for batch in self.queue.list_batches()
            for video in self.queue.list_videos(batch.id)
        ]
        logs = "\n".join(path.read_text()[-3000:] for path in sorted((self.state_dir.directory / "logs").glob("*")))
        return f"{videos}\nheld: {self.queue.read_hold()}, {self.queue.list_held_batches()}\n{logs}"

    def ended(self) -> bool:
        """Whether nothing is left to make."""
        return all(not batch.unfinished_count for batch in self.queue.list_batches())

    def shut_down(self) -> None:
        for client in self.clients:
            client.kill()
            client.communicate()
        for process in (self.engine(), *self.workers()):
            if process is not None:
                kill(process)
        self.until(lambda: self.engine() is None and not self.workers())
        self.queue.close()


def kill(process: int) -> None:
    """SIGKILL, to a process that may be gone already."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def manifest_of(folder: Path) -> Manifest:
    return read_manifest(BatchFolder(folder))


def assert_equal_to_the_bit(folder: Path, undisturbed: Path) -> None:
    """Check that all videos are done, and equal the first videos of the undisturbed batch; nothing else is left.

    Their recipes, latents, clips and captures are compared.
    """
    ours, theirs = manifest_of(folder).videos, manifest_of(undisturbed).videos
    assert ours
    assert {video.state for video in ours} == {"done"}
    theirs = theirs[: len(ours)]
    assert [video.recipe for video in ours] == [video.recipe for video in theirs]
    assert [video.latents_sha256 for video in ours] == [video.latents_sha256 for video in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert (folder / mine.files["clip"]).read_bytes() == (undisturbed / other.files["clip"]).read_bytes()
        if "latents" in mine.files:
            one, two = (
                zarr.open_group(root / video.files["latents"], mode="r")
                for root, video in ((folder, mine), (undisturbed, other))
            )
            assert sorted(one) == sorted(two)
            assert all((one[name][:] == two[name][:]).all() for name in one)
    assert not [path for path in folder.rglob("*") if path.suffix in (".partial", ".checkpoint")]
