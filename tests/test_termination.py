"""Signals that end a command: its unfinished files are removed, and its exit status shows the signal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from signalled_command import run_until

from wantui.cli.signals import TerminatedError, raise_on_termination
from wantui.stop_signals import STOP_SIGNALS

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("os.mkdir", "outputs/new"),
        ("open", "outputs/new/.lock"),
        ("open", "prompt_template.txt.partial"),
        ("os.rename", "batch.json.partial"),
    ],
)
def test_run_ended_by_a_signal_while_it_creates_a_batch_leaves_no_folder(number: int, event: str, name: str) -> None:
    result = run_until(number, event, name)
    assert result.returncode == -number
    assert f"wantui: ended by {signal.Signals(number).name}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not os.path.lexists("outputs")


@pytest.mark.parametrize("number", [number for number in STOP_SIGNALS if number not in (signal.SIGTERM, signal.SIGHUP)])
def test_run_ended_by_any_stop_signal_leaves_no_folder(number: int) -> None:
    result = run_until(number, "open", "prompt_template.txt.partial")
    assert result.returncode == -number
    assert f"wantui: ended by {signal.Signals(number).name}" in result.stderr
    assert not os.path.lexists("outputs")


def test_second_sigquit_ends_a_command_at_once() -> None:
    def quit_twice() -> None:
        with raise_on_termination():
            try:
                signal.raise_signal(signal.SIGQUIT)
            finally:
                second_handlers.append(signal.getsignal(signal.SIGQUIT))
                signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # the end of the block sends it to this process

    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    second_handlers: list[object] = []
    try:
        with pytest.raises(TerminatedError, match="SIGQUIT"):
            quit_twice()
    finally:
        signal.signal(signal.SIGQUIT, before)
    assert second_handlers == [signal.SIG_DFL]


DROP_SIGNAL = """
import os, signal, sys, time, weakref
from wantui.cli import signals
from wantui.cli.signals import raise_on_termination

signals.REDELIVERY_SECONDS = 0.0
sys.setswitchinterval(100)  # no other thread runs before this one waits
number = int(sys.argv[1])
signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

if sys.argv[3:] == ["again"]:
    start = signals.threading.Thread.start

    def start_and_interrupt(thread):
        signals.threading.Thread.start = start
        start(thread)
        os.kill(os.getpid(), number)

    signals.threading.Thread.start = start_and_interrupt

class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), number)

with raise_on_termination():
    try:
        if sys.argv[2] == "destructor":
            Interrupted()
        else:
            weakref.finalize(owner := type("Owner", (), {})(), os.kill, os.getpid(), number)
            del owner
        for _ in range(600):  # a signal just before a system call does not interrupt it
            time.sleep(0.1)
    finally:
        print("cleaned up", flush=True)
"""
"""Program that gets a signal in a destructor or in the callback of a weak reference, and perhaps another meanwhile."""


@pytest.mark.parametrize("arguments", [("destructor",), ("callback",), ("destructor", "again")])
@pytest.mark.parametrize("number", [signal.SIGINT, *STOP_SIGNALS])
def test_signal_whose_exception_python_drops_is_sent_again(number: int, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", DROP_SIGNAL, str(number), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert result.returncode == -number
    assert result.stdout == "cleaned up\n"
    assert "ignored" not in result.stderr


def test_run_ended_by_sigterm_before_the_batch_is_queued_names_its_folder() -> None:
    result = run_until(signal.SIGTERM, "import", "wantui.batches.batch_cost")
    assert result.returncode == -signal.SIGTERM
    assert (Path("outputs") / "new" / "batch.json").exists()
    assert "interrupted: outputs/new is not in the queue. Queue it: wantui run --resume outputs/new" in result.stderr


CTRL_C_AT_EXIT = """
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(os.kill, os.getpid(), signal.SIGINT)
from wantui.__main__ import main
sys.argv = ["wantui", "--version"]
main()
"""


def test_ctrl_c_while_python_exits_prints_no_traceback() -> None:
    result = subprocess.run([sys.executable, "-c", CTRL_C_AT_EXIT], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


def test_sighup_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_on_termination():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("import", "wantui.cli"),  # while the command line is imported
        ("os.putenv", "PYTORCH_CUDA_ALLOC_CONF"),  # before the command
        ("import", "wantui.batches.enqueue"),
    ],
)
def test_ctrl_c_before_a_command_acts_prints_no_traceback(event: str, name: str) -> None:
    result = run_until(signal.SIGINT, event, name)
    assert (result.returncode, result.stdout, result.stderr.strip()) == (130, "", "wantui: interrupted")
    assert not os.path.lexists("outputs")
