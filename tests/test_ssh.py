"""The SSH drill: a batch started over a real SSH connection that is cut ten times; skipped where there is no sshd."""

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_engine import WANTUI, Machine, assert_equal_to_the_bit, kill

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
CUTS = 10

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(SSHD is None, reason="no OpenSSH server is installed"),
]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[list[str]]:
    """The words of an ssh command to a server of our own on the loopback address, with a terminal."""
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", folder / "config"], stderr=subprocess.DEVNULL)
    options = ["StrictHostKeyChecking=no", f"UserKnownHostsFile={folder}/known", "LogLevel=ERROR", "BatchMode=yes"]
    words = ["ssh", "-tt", "-p", str(port), "-i", str(folder / "user"), *(w for o in options for w in ("-o", o))]
    words.append(f"{getpass.getuser()}@127.0.0.1")
    deadline = time.monotonic() + 120
    while subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "the SSH server does not answer"
        time.sleep(0.2)
    yield words
    server.terminate()
    server.wait()


def session_processes(ssh: subprocess.Popen[bytes]) -> list[int]:
    """The server's processes for a connection: those that ended with it would be its network."""
    mine = f"127.0.0.1 {local_port(ssh.pid)} "
    result = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"SSH_CLIENT={mine}".encode() in environment:
                result.append(int(process.name))
    return result


def local_port(process: int) -> int:
    sockets = {str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if f"socket:[{words[9]}]" in sockets:
            return int(words[1].partition(":")[2], 16)
    return 0


def test_batch_over_ssh_survives_ten_dropped_connections(connect: list[str], tmp_path: Path) -> None:
    machine = Machine(tmp_path / "work")
    here = f"cd {machine.root} && export XDG_STATE_HOME={os.environ['XDG_STATE_HOME']} OMP_NUM_THREADS=1 && "
    options = ["-t", "a red [circle|star] moving up", "--videos-per-variation", "6", "--store-latents"]
    options += ["--output-dir", ".", "--set", "use_timestamp=false"]
    begin = shlex.join([*WANTUI, "run", *options, "--batch-name", "batch"])
    try:
        for cut in range(CUTS):
            command = begin if cut == 0 else shlex.join([*WANTUI, "watch", "batch"])
            ssh = subprocess.Popen([*connect, here + command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            machine.until(
                lambda: machine.queue.list_running_videos() or (machine.ended() and machine.queue.list_batches())
            )
            seq = machine.queue.read_last_event_seq()
            machine.until(lambda seq=seq: machine.queue.read_last_event_seq() > seq + 2 or machine.ended())  # type: ignore[misc]
            assert not machine.ended(), f"all was made after {cut} cuts"
            if cut % 2:
                ssh.send_signal(signal.SIGKILL)  # this end is gone: the server sends SIGHUP
            else:
                for process in session_processes(ssh):  # the server's end is gone, all of it
                    if process not in (machine.engine(), *machine.workers()):
                        kill(process)
            ssh.communicate(timeout=120)
        last = subprocess.run(
            [*connect, here + shlex.join([*WANTUI, "watch", "batch"])], capture_output=True, check=False
        )
        assert last.returncode == 0, last.stdout
        assert b"12 of 12 videos done" in last.stdout
        machine.call("run", *options, "--batch-name", "undisturbed")
        assert_equal_to_the_bit(machine.root / "batch", machine.root / "undisturbed")
    finally:
        machine.shut_down()
