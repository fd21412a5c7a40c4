"""Processes that tests fork: they differ from new ones only in the time that they take to start."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from forked_process import ForkedPopen
from process_state import has_ended

pytestmark = pytest.mark.processes

DESCRIBE = """
import atexit, json, os, signal, sys, threading
def describe():
    print(json.dumps({
        "arguments": [sys.argv, sys.orig_argv],
        "shown": open("/proc/self/cmdline").read().rstrip(chr(0)),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": os.umask(0),
        "parent": os.getppid(),
        "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "is_alone": threading.active_count() == 1,
        "ignored": sorted(n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN),
        "handled": sorted(n for n in signal.valid_signals() if callable(signal.getsignal(n))),
        "streams": [
            (s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.fileno())
            for s in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "input": sys.stdin.read(),
        "main": threading.current_thread() is threading.main_thread(),
        "has_torch": "torch" in sys.modules,
    }))
atexit.register(describe)
sys.stderr.write("an error")
sys.exit(7)
"""
"""Program that prints its own state at its end."""


def describe(kind: type[subprocess.Popen[Any]], **options: Any) -> tuple[int, str, dict[str, Any]]:
    process = kind(
        [sys.executable, "-c", DESCRIBE, "a word", "*"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    out, err = process.communicate("typed")
    return process.returncode, err, json.loads(out)


@pytest.mark.parametrize("options", [{}, {"start_new_session": True}, {"process_group": 0}, {"cwd": "/"}])
def test_forked_process_has_the_state_of_a_new_one(options: dict[str, Any]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), os.umask(0o027)
    try:
        environment = {**os.environ, "ADDED": "é"}
        forked = describe(ForkedPopen, env=environment, **options)
        new = describe(subprocess.Popen, env=environment, **options)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        os.umask(before[1])
    assert new[:2] == (7, "an error")
    assert new[2]["parent"] == os.getpid()
    assert signal.SIGHUP in new[2]["ignored"]
    assert (forked[2].pop("has_torch"), new[2].pop("has_torch")) == (True, False), "one was forked"
    assert forked == new


@pytest.mark.parametrize("kind", [ForkedPopen, subprocess.Popen])
@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        ("raise SystemExit('refused')", 1, "refused\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
    ],
)
def test_forked_process_ends_like_a_new_one(
    kind: type[subprocess.Popen[Any]], program: str, code: int, message: str
) -> None:
    process = kind([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert process.communicate()[1].endswith(message)
    assert process.returncode == code


def test_forked_process_dies_with_its_parent() -> None:
    program = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    child = """
import os, sys, time
from wantui.worker.process import exit_with_parent
exit_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(600)
"""
    parent = ForkedPopen([sys.executable, "-c", program, child], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    process_id = int(parent.stdout.readline())
    assert parent.wait() == -signal.SIGKILL
    wait_until(lambda: has_ended(process_id))


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for something; the time limit of all tests ends it."""
    while not is_true():
        time.sleep(0.01)
