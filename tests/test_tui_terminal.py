"""The application in real terminals: losing one, being killed, tmux from first key to finished videos."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Wantui, batch
from forked_process import take_terminal
from harness_engine import TIMEOUT_SECONDS, Machine, manifest_of
from textual.events import Key

from wantui.cli import tui
from wantui.cli.tui import run_application
from wantui.errors import UserError
from wantui.tui.drafts import Drafts, load_drafts, save_drafts
from wantui.tui.terminal.keyboard import InputParser

pytestmark = [pytest.mark.processes, pytest.mark.terminal]

ALTERNATE_SCREEN = b"\x1b[?1049h"
"""Sequence that the application writes when it takes the terminal."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    result = Machine(tmp_path)
    save_drafts(result.state_dir.directory, Drafts(welcomed=True))
    yield result
    result.shut_down()


class Terminal:
    """The application on a pseudo-terminal, which tells it by a signal when it goes away, or not."""

    def __init__(self, machine: Machine, *arguments: str, signals: bool = True, **env: str) -> None:
        self.master, slave = pty.openpty()
        self.process = machine.process_type(
            [sys.executable, "-m", "wantui", *arguments],
            cwd=machine.root,
            env={**machine.env, "TERM": "xterm-256color", **env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=take_terminal if signals else None,
        )
        os.close(slave)
        self.shown, self.is_lost = b"", False
        self.reader = threading.Thread(target=self._show, daemon=True)
        self.reader.start()

    def _show(self) -> None:
        """As a terminal does: what nobody takes would hold the application up."""
        waiting = select.poll()  # `select` takes no descriptor above 1023
        waiting.register(self.master, select.POLLIN)
        while not self.is_lost:
            try:
                if waiting.poll(50):
                    self.shown += os.read(self.master, 65536)
            except OSError:
                return

    def read(self) -> bytes:
        """All that it has written so far."""
        return self.shown

    def until(self, what: Callable[[], Any]) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not what():
            assert time.monotonic() < deadline, self.read()[-2000:]
            time.sleep(0.05)

    def until_ended(self) -> None:
        """Wait until the application has ended and its last output has been read."""
        self.until(lambda: self.process.poll() is not None)
        self.reader.join(2.0)  # a program that it started may still hold the terminal

    def until_it_takes_keys(self) -> None:
        """Wait for the mark at the chosen config, which is drawn after all else; then leave the template."""
        self.until(lambda: "●".encode() in self.read())
        self.press(b"\x1b", "attention_example")  # the list of configs grows when it gets the focus

    def press(self, keys: bytes, shown: str) -> None:
        """Write keys, and wait until something is drawn after them."""
        before = len(self.read())
        os.write(self.master, keys)
        self.until_shown(shown, before)

    def press_until_shown(self, key: bytes, text: str) -> None:
        """Press a key once a second, until a text is drawn; only changed cells are drawn, so words of a screen may be
        missing."""
        start, deadline = len(self.read()), time.monotonic() + TIMEOUT_SECONDS
        while text.encode() not in self.read()[start:]:
            assert time.monotonic() < deadline, self.read()[-2000:]
            os.write(self.master, key)
            time.sleep(1.0)

    def until_shown(self, text: str, start: int) -> None:
        """Wait until a text is drawn after the first `start` bytes."""
        self.until(lambda: text.encode() in self.read()[start:])

    def continue_process(self) -> None:
        """Send SIGCONT, and wait until the application has started again; until then, keys are discarded."""
        start = len(self.read())
        self.process.send_signal(signal.SIGCONT)
        self.until(lambda: b"Template" in self.read()[start:].partition(ALTERNATE_SCREEN)[2])

    def close(self) -> None:
        """End the application by force."""
        self.process.kill()
        self.process.wait()

    def lose(self) -> None:
        """The terminal goes away, as when an SSH connection drops."""
        self.is_lost = True
        self.reader.join()
        os.close(self.master)


@pytest.mark.parametrize("signals", [True, False])
def test_losing_the_terminal_ends_the_application_and_preserves_the_draft(machine: Machine, signals: bool) -> None:
    terminal = Terminal(machine, signals=signals)
    terminal.until_it_takes_keys()
    terminal.press(b"t", "esc leave")
    os.write(terminal.master, b"a red (star)")
    terminal.until(lambda: load_drafts(machine.state_dir.directory).template == "a red (star)")
    terminal.lose()
    assert terminal.process.wait(TIMEOUT_SECONDS) is not None


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU],
)
def test_termination_signal_ends_the_application_and_restores_the_screen(machine: Machine, number: int) -> None:
    terminal = Terminal(machine)
    before = termios.tcgetattr(terminal.master)
    terminal.until_it_takes_keys()
    for _ in range(5):
        terminal.process.send_signal(number)
    terminal.until_ended()
    assert b"\x1b[?1049l" in terminal.read(), "the alternate screen is left"
    assert termios.tcgetattr(terminal.master) == before, "it echoes, and reads lines"


@pytest.mark.parametrize("numbers", [(signal.SIGSTOP,), (signal.SIGTSTP,), (signal.SIGSTOP, signal.SIGTSTP) * 3, ()])
def test_stopped_application_is_drawn_again_and_restores_the_terminal(
    machine: Machine, numbers: tuple[int, ...]
) -> None:
    terminal = Terminal(machine)
    before = termios.tcgetattr(terminal.master)
    terminal.until_it_takes_keys()
    for number in numbers:
        terminal.process.send_signal(number)
        terminal.until(lambda: psutil.Process(terminal.process.pid).status() == psutil.STATUS_STOPPED)
        if number == signal.SIGTSTP:
            assert termios.tcgetattr(terminal.master) == before, "the shell can use it"
        terminal.continue_process()
    terminal.continue_process()
    for _ in range(5):  # a second thread that reads keys would lose some
        terminal.press(b"2", "the queue is empty")
        terminal.press(b"1", "Template")
    os.write(terminal.master, b"q")
    terminal.until_ended()
    assert terminal.process.returncode == 0
    assert termios.tcgetattr(terminal.master) == before
    assert not shows_screen_of_its_own(terminal.read())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("program", ["editor", "player"])
def test_termination_signal_during_an_external_program_restores_the_terminal(
    wantui: Wantui, small: list[str], tmp_path: Path, number: int, program: str
) -> None:  # B1
    batch(wantui("run", "-t", "a red circle", "--videos-per-variation", 1, *small))
    machine = Machine(Path.cwd())
    save_drafts(machine.state_dir.directory, Drafts(welcomed=True))
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nstty -echo\necho editing\nexec sleep 60\n")
    editor.chmod(0o755)
    terminal = Terminal(machine, TERM="xterm-kitty", EDITOR=str(editor), VISUAL="")
    before = termios.tcgetattr(terminal.master)
    try:
        terminal.until_it_takes_keys()
        if program == "editor":
            os.write(terminal.master, b"\x05")
            terminal.until(lambda: b"editing" in terminal.read())
        else:
            os.write(terminal.master, b"4")
            terminal.press_until_shown(b"P", "q to close")
        terminal.process.send_signal(number)
        terminal.until_ended()
        assert terminal.process.returncode == 0
        assert not shows_screen_of_its_own(terminal.read())
        assert termios.tcgetattr(terminal.master) == before, "it echoes, and reads lines"
    finally:
        terminal.close()
        machine.shut_down()


def test_idle_application_writes_nothing(machine: Machine) -> None:
    terminal = Terminal(machine, "--low-bandwidth")
    terminal.until(lambda: b"Compose" in terminal.read())
    os.write(terminal.master, b"\x1b[19~")  # F8: what the machine's memory does is a change
    written, quiet_since = -1, 0.0

    def is_quiet() -> bool:
        """Return whether nothing was written for 3 s, longer than any of its timers takes."""
        nonlocal written, quiet_since
        if (now_written := len(terminal.read())) != written:
            written, quiet_since = now_written, time.monotonic()
        return time.monotonic() - quiet_since > 3

    terminal.until(is_quiet)
    terminal.close()


def test_clip_is_played_in_pixels_if_the_terminal_supports_graphics(wantui: Wantui, small: list[str]) -> None:
    batch(wantui("run", "-t", "a red circle", "--videos-per-variation", 1, *small))
    machine = Machine(Path.cwd())
    save_drafts(machine.state_dir.directory, Drafts(welcomed=True))
    terminal = Terminal(machine, TERM="xterm-kitty")
    try:
        terminal.until_it_takes_keys()
        os.write(terminal.master, b"4")
        terminal.press_until_shown(b"P", "q to close")
        assert b"\x1b_Ga=T,f=100" in terminal.read()
        drawn = len(terminal.read())
        os.write(terminal.master, b"q")
        terminal.until(lambda: ALTERNATE_SCREEN in terminal.read()[drawn:])
    finally:
        terminal.process.kill()
        terminal.process.wait()
        machine.shut_down()


def test_invalid_utf8_and_unknown_sequences_do_not_break_input(machine: Machine) -> None:
    terminal = Terminal(machine)
    terminal.until_it_takes_keys()
    terminal.press(b"t", "esc leave")
    os.write(terminal.master, b"\xff\xfe\x80abc\xc3")
    terminal.until(lambda: "abc" in load_drafts(machine.state_dir.directory).template)
    os.write(terminal.master, b"\x1b[200~caf\xe9 noir\x1b[201~")
    terminal.until(lambda: "caf\ufffd noir" in load_drafts(machine.state_dir.directory).template)
    for keys in (b"\x1b[<999;999;999M", b"\x1b[1;1R", b"\0"):
        os.write(terminal.master, keys)
        answers_keys(terminal)
        terminal.press(b"1", "1 Compose")
    assert terminal.process.poll() is None
    terminal.close()


KITTY_KEYS = {
    "[97u": ["a"],
    "[97;5u": ["ctrl+a"],
    "[97:65;2:1;65u": ["A"],
    "[97;1:3u": [],
    "[1;5:2A": ["ctrl+up"],
    "[3;1:1~": ["delete"],
    "[1114112u": [],
    "[55296u": [],
    "[97;1;55296u": [],
    "[9999999A": [],
}


@pytest.mark.parametrize(("sequence", "keys"), KITTY_KEYS.items(), ids=KITTY_KEYS)
def test_keys_of_the_kitty_protocol_do_not_crash(sequence: str, keys: list[str]) -> None:
    events = list(InputParser(False).feed(f"\x1b{sequence}"))
    assert [event.key for event in events if isinstance(event, Key)] == keys


def test_pixel_reports_of_the_mouse_are_turned_off(machine: Machine) -> None:
    terminal = Terminal(machine)
    terminal.until(lambda: b"\x1b[?2048$p" in terminal.read())
    os.write(terminal.master, b"\x1b[?2048;2$y")
    terminal.until(lambda: b"\x1b[?1016h" in terminal.read())
    terminal.until_it_takes_keys()
    os.write(terminal.master, b"q")
    terminal.until_ended()
    assert terminal.read().rfind(b"\x1b[?1016l") > terminal.read().rfind(b"\x1b[?1016h")


@pytest.mark.parametrize("term", ["dumb", "linux", "", "xterm-256color"])
def test_application_runs_and_quits_on_every_kind_of_terminal(machine: Machine, term: str) -> None:
    terminal = Terminal(machine, TERM=term, NO_COLOR="1" if term == "dumb" else "")
    terminal.until_it_takes_keys()
    os.write(terminal.master, b"q")
    terminal.until_ended()
    assert terminal.process.returncode == 0
    assert b"Traceback" not in terminal.read()
    assert not shows_screen_of_its_own(terminal.read())


@pytest.mark.parametrize("keys", [b"q?", b"q4", b"q5", b"4q", b"qq?"])
def test_keys_around_the_quit_key_do_not_crash(machine: Machine, keys: bytes) -> None:
    terminal = Terminal(machine)
    terminal.until_it_takes_keys()
    os.write(terminal.master, keys)
    terminal.until_ended()
    assert terminal.process.returncode == 0, terminal.read()[-2000:]
    assert b"Traceback" not in terminal.read()


def test_terminal_size_overrides_exported_columns_and_lines(machine: Machine) -> None:
    terminal = Terminal(machine, COLUMNS="20", LINES="5")
    terminal.until_it_takes_keys()
    assert b"wantui needs 60 columns" not in terminal.read()
    terminal.close()


def test_unknown_colour_system_is_an_error_message(machine: Machine) -> None:
    terminal = Terminal(machine, TEXTUAL_COLOR_SYSTEM="bogus")
    terminal.until_ended()
    assert terminal.process.returncode == 2
    terminal.until(lambda: b"TEXTUAL_COLOR_SYSTEM='bogus'" in terminal.read())
    assert b"Traceback" not in terminal.read()


@pytest.mark.parametrize(
    "driver", ["bogus", "", "textual.driver:", "textual.nothing:Driver", "wantui.errors:UserError"]
)
def test_invalid_driver_is_an_error_message(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    monkeypatch.setenv("TEXTUAL_DRIVER", driver)
    with pytest.raises(UserError, match=r"cannot draw with TEXTUAL_DRIVER=.*Unset TEXTUAL_DRIVER"):
        tui.run_application(low_bandwidth=False, captures_mouse=True)


# B1


def shows_screen_of_its_own(shown: bytes) -> bool:
    """Whether a terminal that got these bytes is on the alternate screen."""
    return shown.rfind(ALTERNATE_SCREEN) > shown.rfind(b"\x1b[?1049l")


def answers_keys(terminal: "Terminal") -> None:
    """Check that the application is drawn and reacts to a key."""
    terminal.until(lambda: shows_screen_of_its_own(terminal.read()))
    before = len(terminal.read())
    os.write(terminal.master, b"\x1bOQ")  # F2: the queue
    terminal.until(lambda: b"the queue is empty" in terminal.read()[before:])
    assert terminal.process.poll() is None


EDITORS = {
    "exits with 1": "false",
    "is missing": "no-such-editor-here",
    "dies": "sh -c 'kill -9 $$' --",
    "is interrupted": "sh -c 'kill -INT 0; sleep 0.2; exit 1' --",
    "is quit": "sh -c 'kill -QUIT 0; sleep 0.2; exit 1' --",
}


@pytest.mark.parametrize("editor", EDITORS.values(), ids=EDITORS)
def test_terminal_is_restored_after_a_failing_editor(machine: Machine, editor: str) -> None:  # B1
    terminal = Terminal(machine, EDITOR=editor, VISUAL="")
    terminal.until_it_takes_keys()
    os.write(terminal.master, b"\x05")  # ctrl+e
    terminal.until(lambda: b"not edit the template" in terminal.read())
    answers_keys(terminal)
    terminal.close()


def test_template_is_read_back_from_the_external_editor(machine: Machine, tmp_path: Path) -> None:  # B1
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsleep 0.2\necho 'a blue (square)' > \"$1\"\n")
    editor.chmod(0o755)
    terminal = Terminal(machine, EDITOR=str(editor), VISUAL="")
    terminal.until_it_takes_keys()
    os.write(terminal.master, b"\x05")
    terminal.until(lambda: load_drafts(machine.state_dir.directory).template == "a blue (square)")
    answers_keys(terminal)
    terminal.close()


@pytest.mark.parametrize(("term", "tmux"), [("xterm-256color", ""), ("screen", "/tmp/tmux,1,0")])
def test_pixel_player_is_refused_without_terminal_graphics(
    wantui: Wantui, small: list[str], term: str, tmux: str
) -> None:  # B1
    batch(wantui("run", "-t", "a red circle", "--videos-per-variation", 1, *small))
    machine = Machine(Path.cwd())
    save_drafts(machine.state_dir.directory, Drafts(welcomed=True))
    terminal = Terminal(machine, TERM=term, TMUX=tmux)
    try:
        terminal.until_it_takes_keys()
        os.write(terminal.master, b"4")
        terminal.press_until_shown(b"P", "cannot play in pixels")
        assert b"\x1b[?1049l" not in terminal.read()
        os.write(terminal.master, b"1")
        before = len(terminal.read())
        terminal.until(lambda: b"Template" in terminal.read()[before:])
    finally:
        terminal.close()
        machine.shut_down()


def test_application_whose_stderr_is_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with pytest.raises(UserError, match=r"draws on stderr, which is not a terminal\. Start it without 2>"):
        run_application(low_bandwidth=False, captures_mouse=True)


def test_application_without_a_terminal_is_an_error_message(machine: Machine) -> None:
    code, out, err = machine.call()
    assert code == 2
    assert "this is not a terminal" in err
    assert not out


def test_application_never_loads_torch(machine: Machine) -> None:
    machine.is_forked = False
    terminal = Terminal(machine)
    terminal.until_it_takes_keys()
    for number, name in enumerate(("Queue", "Monitor", "Library", "Analysis"), start=2):
        terminal.press(b"%d" % number, f"{number} {name}")
    maps = Path(f"/proc/{terminal.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    terminal.process.kill()
    terminal.process.wait()


class Tmux:
    """A tmux server of its own."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.socket = machine, str(machine.root / "tmux")

    def __call__(self, *arguments: str) -> str:
        command = ["tmux", "-S", self.socket, *arguments]
        environment = {**self.machine.env, "SHELL": "/bin/sh"}  # the user may have no login shell
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def start(self) -> None:
        self(*("new-session", "-d", "-s", "w", "-x", "80", "-y", "24", "-c", str(self.machine.root)))
        self("send-keys", "-t", "w", f"{sys.executable} -m wantui", "Enter")

    def keys(self, *keys: str) -> None:
        self("send-keys", "-t", "w", *keys)

    def shows(self, text: str) -> bool:
        return text in self("capture-pane", "-p", "-t", "w")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_batch_queued_in_tmux_completes_after_the_terminal_is_killed(machine: Machine) -> None:
    tmux = Tmux(machine)
    sizes = {"video_settings.width": "32", "video_settings.height": "32", "video_settings.frames": "5"}
    save_drafts(machine.state_dir.directory, Drafts(welcomed=True, changes={"model_settings.steps": "4", **sizes}))
    try:
        tmux.start()
        machine.until(lambda: tmux.shows("Template"))
        machine.until(lambda: tmux.shows("nano"))
        tmux.keys("t")
        tmux("send-keys", "-t", "w", "-l", "a large [red|blue] (circle)")
        machine.until(lambda: tmux.shows("a large blue circle"))
        tmux.keys("F5")
        machine.until(lambda: machine.queue.list_batches())
        machine.until(lambda: machine.queue.list_running_videos())
        tmux("kill-server")
        machine.until(machine.ended)
        (batch,) = machine.queue.list_batches()
        assert {video.state for video in manifest_of(batch.folder).videos} == {"done"}
        tmux.start()
        machine.until(lambda: tmux.shows("Template"))
        machine.until(lambda: tmux.shows("a large [red|blue] (circle)"))
        tmux.keys("F2")
        machine.until(lambda: tmux.shows("4/4"))
        tmux.keys("q")
        machine.until(lambda: not tmux.shows("4/4"))
    finally:
        subprocess.run(["tmux", "-S", tmux.socket, "kill-server"], capture_output=True, check=False)
